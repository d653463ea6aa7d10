package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// loadOf finds a measurement of a product, nil if there is none.
func loadOf(count []entry, system string, rate int) *loadUse {
	for _, e := range count {
		if u := e.Load; u != nil && u.System == system && u.Rate == rate {
			return u
		}
	}
	return nil
}

// ratesOf lists the rates in order, with those of steps if they are wanted.
func ratesOf(count []entry, steps bool) []int {
	var list []int
	for _, e := range count {
		if u := e.Load; u != nil && (steps || !u.Step) && !slices.Contains(list, u.Rate) {
			list = append(list, u.Rate)
		}
	}
	slices.Sort(list)
	return list
}

func renderReplication(b *strings.Builder, count []entry) {
	renderLoads(b, count)
	renderSteps(b, count)
	renderSessions(b, count)
}

// renderLoads has a row per rate and product; the ratios are of Tandem to the product.
func renderLoads(b *strings.Builder, count []entry) {
	head := "### Replication of short UDP flows: processor time and bytes of one flow\n\n" +
		"| flows/s | product | reached | MASTER µs | ratio | BACKUP µs | ratio | bytes | lag p50 ms | p99 | max | flows compared | missing | extra | wrong | after s |\n" +
		"| --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n"
	for _, rate := range ratesOf(count, false) {
		own := loadOf(count, systemTandem, rate)
		for _, system := range replicators() {
			u := loadOf(count, system, rate)
			if u == nil {
				continue
			}
			fmt.Fprintf(b, "%s| %d | %s | %s |\n", head, rate, system, u.columns(own))
			head = ""
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

// columns are the cells of a row, own is Tandem's measurement at the same rate.
func (u *loadUse) columns(own *loadUse) string {
	if u.Error != "" {
		return "failed" + strings.Repeat(" | –", 13)
	}
	cells := []string{fmt.Sprintf("%.0f", u.reached())}
	for _, role := range []string{roleMaster, roleBackup} {
		share := "–"
		if own != nil && own != u && own.Error == "" {
			share = ratio(own.perFlow(role), u.perFlow(role))
		}
		cells = append(cells, fmt.Sprintf("%.1f", microseconds(u.perFlow(role))), share)
	}
	cells = append(cells, fmt.Sprintf("%.0f", u.wirePerFlow()))
	if u.Lag == (lagUse{}) {
		cells = append(cells, "not measured", "–", "–")
	} else {
		cells = append(cells, milliseconds(u.Lag.P50), milliseconds(u.Lag.P99), milliseconds(u.Lag.Max))
	}
	return strings.Join(append(cells, fmt.Sprint(u.Kept), fmt.Sprint(u.Difference.Missing), fmt.Sprint(u.Difference.Extra),
		fmt.Sprint(u.Difference.Wrong), fmt.Sprintf("%.1f", u.EqualAfter.Seconds())), " | ")
}

// steady tells whether a product kept up with a rate: most flows were answered, and
// the tables were equal in the end.
func (u *loadUse) steady() bool {
	const most = 0.95
	return u.Error == "" && u.Difference.none() && u.reached() >= most*float64(u.Rate)
}

// renderSteps has the highest rate of every product, and what became of the next.
func renderSteps(b *strings.Builder, count []entry) {
	head := "### Highest rate without divergence\n\n" +
		"| product | flows/s | the next step |\n| --- | --: | --- |\n"
	for _, system := range replicators() {
		highest, next := 0, "none was tried"
		seen := false
		for _, rate := range ratesOf(count, true) {
			u := loadOf(count, system, rate)
			if u == nil {
				continue
			}
			seen = true
			if !u.steady() {
				next = u.complaint()
				break
			}
			highest = rate
		}
		if seen {
			fmt.Fprintf(b, "%s| %s | %d | %s |\n", head, system, highest, next)
			head = ""
		}
	}
	if head == "" {
		b.WriteString("\n")
	}
}

// complaint says why a step was not steady.
func (u *loadUse) complaint() string {
	switch d := u.Difference; {
	case u.Error != "":
		return fmt.Sprintf("%d: failed", u.Rate)
	case !d.none():
		return fmt.Sprintf("%d: of %d flows %d are missing, %d extra, %d wrong", u.Rate, u.Kept, d.Missing, d.Extra, d.Wrong)
	}
	return fmt.Sprintf("%d: only %.0f were reached, the tables are equal", u.Rate, u.reached())
}

func renderSessions(b *strings.Builder, count []entry) {
	head := "### Resynchronisation of a new BACKUP, memory, and takeover\n\n" +
		"| sessions | product | replicated | missing | extra | wrong | resync s | since linked | CPU s MASTER | BACKUP | MASTER MB | peak | BACKUP MB | peak | first session after s | last | lost | commit s |\n" +
		"| --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n"
	var list []*sessionsUse
	for _, e := range count {
		if e.Sessions != nil {
			list = append(list, e.Sessions)
		}
	}
	slices.SortStableFunc(list, func(a, b *sessionsUse) int { return a.Wanted - b.Wanted })
	for _, u := range list {
		fmt.Fprintf(b, "%s| %d | %s | %s |\n", head, u.Wanted, u.System, u.columns())
		head = ""
	}
	if head == "" {
		b.WriteString("\n")
	}
}

func (u *sessionsUse) columns() string {
	seconds := func(d time.Duration) string {
		if d == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f", d.Seconds())
	}
	megabytes := func(bytes uint64) string {
		if bytes == 0 {
			return "–"
		}
		return fmt.Sprint(bytes >> 20)
	}
	lost := fmt.Sprintf("%d of %d", u.Lost, u.Sampled)
	if u.Sampled == 0 {
		lost = "–"
	}
	return strings.Join([]string{
		fmt.Sprint(u.Replicated), fmt.Sprint(u.Difference.Missing), fmt.Sprint(u.Difference.Extra), fmt.Sprint(u.Difference.Wrong),
		seconds(u.Resync), seconds(u.ResyncLinked), seconds(u.MasterCPU), seconds(u.BackupCPU),
		megabytes(u.MasterMemory), megabytes(u.MasterPeak), megabytes(u.BackupMemory), megabytes(u.BackupPeak),
		seconds(u.First), seconds(u.Last), lost, seconds(u.Commit),
	}, " | ")
}
