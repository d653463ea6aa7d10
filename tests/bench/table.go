package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	beginMarker = "<!-- measured by make bench: begin -->"
	endMarker   = "<!-- measured by make bench: end -->"
)

// writeTable puts the tables made from the results into the document and prints them.
func writeTable(results, document string, out io.Writer) error {
	all, err := readEntries(results)
	if err != nil {
		return err
	}
	tables := render(all)
	_, _ = fmt.Fprintf(out, "\n%s\n", tables) // the document is what counts
	text, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("read the document of the benchmark: %w", err)
	}
	text, err = insert(text, tables)
	if err != nil {
		return fmt.Errorf("put the table into %s: %w", document, err)
	}
	if err := os.WriteFile(document, text, 0o644); err != nil {
		return fmt.Errorf("write the document of the benchmark: %w", err)
	}
	return nil
}

// insert replaces what stands between the markers.
func insert(document []byte, tables string) ([]byte, error) {
	before, rest, ok := bytes.Cut(document, []byte(beginMarker))
	_, after, closed := bytes.Cut(rest, []byte(endMarker))
	if !ok || !closed {
		return nil, errors.New("the lines " + beginMarker + " and " + endMarker + " are missing")
	}
	return slices.Concat(before, []byte(beginMarker+"\n\n"+tables+"\n"+endMarker), after), nil
}

// row identifies what is compared; of every row the newest session counts.
type row struct {
	part   string
	advert setting
	name   string
}

func rowOf(e entry) row {
	switch {
	case e.Trial != nil:
		return row{partFaults, e.Trial.Advert, e.Trial.Fault}
	case e.CPU != nil:
		return row{partCPU, e.CPU.Advert, ""}
	case e.Stress != nil:
		return row{partStress, e.Stress.Advert, ""}
	case e.Load != nil && e.Load.Step:
		return row{partReplication, "", "steps"} // which steps there are depends on the session
	case e.Load != nil:
		return row{partReplication, "", fmt.Sprint(e.Load.Rate)}
	case e.Sessions != nil:
		return row{partReplication, "", fmt.Sprint("sessions ", e.Sessions.Wanted)}
	}
	return row{}
}

// newest leaves the entries that count.
func newest(all []entry) []entry {
	last := make(map[row]string)
	for _, e := range all {
		if r := rowOf(e); r != (row{}) {
			last[r] = e.Session
		}
	}
	var count []entry
	used := make(map[string]bool)
	for _, e := range all {
		if r := rowOf(e); r != (row{}) && last[r] == e.Session {
			count = append(count, e)
			used[e.Session] = true
		}
	}
	for _, e := range all {
		if e.Machine != nil && used[e.Session] {
			count = append(count, e)
		}
	}
	return count
}

func render(all []entry) string {
	count := newest(all)
	if len(count) == 0 {
		return "Nothing has been measured yet.\n"
	}
	var b strings.Builder
	renderMachines(&b, count)
	adverts := advertsOf(count)
	renderSilence(&b, "UDP", count, adverts, func(t trial) time.Duration { return t.UDP.Max })
	renderSilence(&b, "TCP", count, adverts, func(t trial) time.Duration { return t.TCP.Max })
	renderLosses(&b, count, adverts)
	renderCPU(&b, count, adverts)
	renderStress(&b, count)
	renderReplication(&b, count)
	return b.String()
}

func renderMachines(b *strings.Builder, count []entry) {
	for _, e := range count {
		if m := e.Machine; m != nil {
			fmt.Fprintf(b, "Measured on %s, on %d cores, Linux %s: %s.\n", day(e.Session), m.Cores, m.Kernel, strings.Join(m.Software, ", "))
		}
	}
	b.WriteString("\n")
}

func day(session string) string {
	date, _, _ := strings.Cut(session, "T")
	return date
}

// advertsOf lists the intervals in the order of their length, the defaults last.
func advertsOf(count []entry) []setting {
	var list []setting
	for _, e := range count {
		if a := rowOf(e).advert; a != "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b setting) int {
		rank := func(s setting) time.Duration {
			if s == defaultSetting {
				return time.Hour
			}
			return s.interval()
		}
		return int(rank(a) - rank(b))
	})
	return list
}

// sample is the experiments of one product in one row.
type sample struct {
	valid  []trial
	failed int
}

func sampleOf(count []entry, system string, advert setting, fault string) sample {
	var s sample
	for _, e := range count {
		t := e.Trial
		switch {
		case t == nil || t.System != system || t.Advert != advert || t.Fault != fault:
		case t.Error != "":
			s.failed++
		default:
			s.valid = append(s.valid, *t)
		}
	}
	return s
}

func (s sample) empty() bool { return len(s.valid)+s.failed == 0 }

// runs is the number of experiments, with the failed ones.
func (s sample) runs() string {
	if s.failed > 0 {
		return fmt.Sprintf("%d (%d failed)", len(s.valid)+s.failed, s.failed)
	}
	return fmt.Sprint(len(s.valid))
}

func (s sample) sorted(value func(trial) time.Duration) []time.Duration {
	var list []time.Duration
	for _, t := range s.valid {
		list = append(list, value(t))
	}
	slices.Sort(list)
	return list
}

// quantile is the nearest-rank quantile of a sorted list.
func quantile(sorted []time.Duration, percent int) time.Duration {
	rank := (len(sorted)*percent + 99) / 100
	return sorted[max(rank, 1)-1]
}

func milliseconds(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1f", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f", d.Seconds()*1000)
}

// ratio of two durations, a dash where there is none.
func ratio(a, b time.Duration) string {
	if a <= 0 || b <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

func renderSilence(b *strings.Builder, kind string, count []entry, adverts []setting, value func(trial) time.Duration) {
	head := fmt.Sprintf("### Longest silence of a %s flow, in milliseconds\n\n"+
		"| adverts | fault | Tandem p50 | p95 | max | runs | keepalived p50 | p95 | max | runs | ratio of p50 |\n"+
		"| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n", kind)
	for _, advert := range adverts {
		for _, fault := range faultNames() {
			line := fmt.Sprintf("| %s | %s ", advert, fault)
			var medians []time.Duration
			seen := false
			for _, system := range systems() {
				s := sampleOf(count, system, advert, fault)
				seen = seen || !s.empty()
				if list := s.sorted(value); len(list) > 0 {
					medians = append(medians, quantile(list, 50))
					line += fmt.Sprintf("| %s | %s | %s | %s ", milliseconds(quantile(list, 50)),
						milliseconds(quantile(list, 95)), milliseconds(list[len(list)-1]), s.runs())
				} else {
					medians = append(medians, 0)
					line += fmt.Sprintf("| – | – | – | %s ", s.runs())
				}
			}
			if seen {
				b.WriteString(head + line + "| " + ratio(medians[0], medians[1]) + " |\n")
				head = ""
			}
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

// losses sums up what a sample lost, and counts the runs after which more than one
// router answered for the gateway.
func (s sample) losses() (sessions, lost, double int, missing []time.Duration) {
	for _, t := range s.valid {
		sessions += t.Sessions
		lost += t.Lost
		missing = append(missing, time.Duration(t.Missing))
		if t.Speakers > 1 {
			double++
		}
	}
	slices.Sort(missing)
	return sessions, lost, double, missing
}

func renderLosses(b *strings.Builder, count []entry, adverts []setting) {
	head := fmt.Sprintf("### Sessions lost, datagrams lost of %d in a second, and runs after which both routers answered for the gateway\n\n"+
		"| adverts | fault | Tandem: sessions | datagrams p50 | max | both answer | keepalived: sessions | datagrams p50 | max | both answer |\n"+
		"| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n", udpFlows*int(time.Second/udpInterval))
	for _, advert := range adverts {
		for _, fault := range faultNames() {
			line := fmt.Sprintf("| %s | %s ", advert, fault)
			seen := false
			for _, system := range systems() {
				s := sampleOf(count, system, advert, fault)
				sessions, lost, double, missing := s.losses()
				if len(missing) == 0 {
					line += "| – | – | – | – "
					continue
				}
				seen = true
				line += fmt.Sprintf("| %d of %d | %d | %d | %d of %d ", lost, sessions,
					quantile(missing, 50), missing[len(missing)-1], double, len(s.valid))
			}
			if seen {
				b.WriteString(head + line + "|\n")
				head = ""
			}
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

// perSecond is the processor time of all daemons in one second, zero if not measured.
func (u *cpuUse) perSecond() time.Duration {
	if u == nil || u.Over <= 0 {
		return 0
	}
	var sum time.Duration
	for _, used := range u.Used {
		sum += used
	}
	return time.Duration(float64(sum) / u.Over.Seconds())
}

// text is the processor time and what it consists of.
func (u *cpuUse) text() string {
	if u == nil {
		return "–"
	}
	var parts []string
	for name, used := range u.Used {
		parts = append(parts, fmt.Sprintf("%s %s", name, milliseconds(time.Duration(float64(used)/u.Over.Seconds()))))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%s (%s)", milliseconds(u.perSecond()), strings.Join(parts, ", "))
}

func renderCPU(b *strings.Builder, count []entry, adverts []setting) {
	head := "### Processor time of the daemons of an idle node, in milliseconds per second\n\n" +
		"| adverts | role | Tandem | keepalived and conntrackd | ratio |\n" +
		"| --- | --- | --- | --- | --: |\n"
	for _, advert := range adverts {
		for _, role := range []string{roleMaster, roleBackup} {
			found := make(map[string]*cpuUse)
			for _, e := range count {
				if u := e.CPU; u != nil && u.Advert == advert && u.Role == role {
					found[u.System] = u
				}
			}
			if len(found) == 0 {
				continue
			}
			own, others := found[systemTandem], found[systemKeepalived]
			fmt.Fprintf(b, "%s| %s | %s | %s | %s | %s |\n", head, advert, role, own.text(), others.text(),
				ratio(own.perSecond(), others.perSecond()))
			head = ""
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

func renderStress(b *strings.Builder, count []entry) {
	head := "### False failovers while busy loops take the processors\n\n" +
		"| adverts | busy loops | for | product | false failovers | scheduled in real time |\n" +
		"| --- | --: | --: | --- | --: | --- |\n"
	for _, e := range count {
		s := e.Stress
		if s == nil {
			continue
		}
		failovers := fmt.Sprint(s.Failovers)
		if s.Error != "" {
			failovers = "failed"
		}
		fmt.Fprintf(b, "%s| %s | %d | %v | %s | %s | %s |\n", head, s.Advert, s.Loops, s.Over, s.System, failovers, strings.Join(s.RealTime, ", "))
		head = ""
	}
	if head == "" {
		b.WriteString("\n")
	}
}
