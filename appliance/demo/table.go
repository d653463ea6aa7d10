package demo

import (
	"fmt"
	"strings"
	"time"

	"tandem/appliance/lab/traffic"
)

// noticeableStall is from when on the client's own delay is worth a word.
const noticeableStall = 50 * time.Millisecond

// outcome is what is printed at the end: the table and sentences on it.
func outcome(r Result, where string) string {
	var b strings.Builder
	if len(r.Rows) > 0 {
		b.WriteString("\n")
		writeTable(&b, r.Rows)
		b.WriteString("\n")
		writeExplanation(&b, r)
	}
	b.WriteString("\n")
	switch {
	case r.Interrupted:
		fmt.Fprintf(&b, "Stopped on request %s, after %s.\n", where, age(r.Took))
	case r.Error != "":
		fmt.Fprintf(&b, "The demo failed %s.\n", where)
	}
	if total := r.Sessions + r.Flows + r.Downloads; total > 0 {
		b.WriteString(verdict(r))
	}
	return b.String()
}

// verdict is the final sentence.
func verdict(r Result) string {
	text := fmt.Sprintf("%d of %s, %d of %s and %s were lost over %s.\n",
		r.SessionsLost, count(r.Sessions, "TCP session"), r.FlowsLost, count(r.Flows, "UDP flow"),
		count(r.DownloadsLost, "download"), count(len(r.Rows), "fault"))
	if r.OK() || r.Interrupted {
		return text
	}
	bad := 0
	for _, row := range r.Rows {
		if !row.Passed {
			bad++
		}
	}
	if bad > 0 {
		text += fmt.Sprintf("%s did NOT end as expected.\n", count(bad, "fault"))
	}
	return text
}

// writeTable writes one line per fault, fit for 80 columns.
func writeTable(b *strings.Builder, rows []Row) {
	line := func(cells ...string) {
		text := fmt.Sprintf("%-9s %5s  %13s  %13s  %8s  %-15s %s",
			cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6])
		fmt.Fprintln(b, strings.TrimRight(text, " "))
	}
	line("", "", "UDP silence", "TCP silence", "download", "MASTER", "")
	line("fault", "lost", "p50 / max", "p50 / max", "pause", "before → after", "verdict")
	fmt.Fprintln(b, strings.Repeat("─", 79))
	for _, r := range rows {
		word := "ok"
		if !r.Passed {
			word = "NOT OK"
		}
		bulk := "–"
		if r.Bulk.SilenceMax > 0 {
			bulk = span(r.Bulk.SilenceMax)
		}
		line(r.Fault, fmt.Sprint(r.lost()), spans(r.UDP.SilenceP50, r.UDP.SilenceMax),
			spans(r.TCP.SilenceP50, r.TCP.SilenceMax), bulk,
			r.MasterBefore+" → "+orNobody(r.MasterAfter), word)
	}
	for _, r := range rows {
		if r.Note != "" {
			fmt.Fprintf(b, "  %s: %s\n", r.Fault, r.Note)
		}
	}
}

// writeExplanation says what the numbers mean.
func writeExplanation(b *strings.Builder, r Result) {
	fmt.Fprintf(b, "Silence is the longest time in which a flow received nothing, from before the\n"+
		"fault until all flows echoed again; p50 and max over all flows. It contains the\n"+
		"interval at which a flow sends (UDP %s, TCP %s) and TCP's retransmissions.\n"+
		"A UDP flow whose NAT mapping changed counts as lost, even if it echoes.\n",
		span(traffic.DefaultUDPInterval), span(traffic.DefaultTCPInterval))
	var heal, stall time.Duration
	for _, row := range r.Rows {
		heal, stall = max(heal, row.HealSilence), max(stall, row.Stall)
	}
	fmt.Fprintf(b, "While faults were healed, no UDP flow was silent for longer than %s.\n", span(heal))
	if stall >= noticeableStall {
		fmt.Fprintf(b, "The client itself was late by up to %s: silence of that order is the machine's.\n", span(stall))
	}
	for _, l := range r.Losses {
		fmt.Fprintf(b, "Lost: flow %d, %s after %s: %s\n", l.Flow, l.Reason, age(l.After), l.Detail)
	}
}

// orNobody is a node's name, or that there is none.
func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}
