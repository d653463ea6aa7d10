package status

import (
	"fmt"
	"strings"
)

// sync writes what is to know about the sessions of a pair.
func (r *renderer) sync(s Status) {
	y := s.Sync
	held := fmt.Sprint(y.Sessions)
	if y.Limit > 0 {
		held += fmt.Sprintf(" of %d", y.Limit)
		if y.Sessions >= y.Limit {
			held = r.paint(red, held)
		}
	}
	r.fact("Sessions", "%s  %s", held, r.completeness(s))
	r.fact("Stream", "%s", r.stream(s))
	if f := y.FirstPackets; f != nil {
		r.fact("First", "%s", r.firstPackets(*f))
	}
	if p := y.Repair; y.Connected && p != nil {
		text := fmt.Sprintf("%d of %d parts of the tables differ", p.Buckets, p.Of)
		if p.Flows > 0 {
			text += fmt.Sprintf("  %d of %d flows sent again (%d%%)", p.Sent, p.Flows, 100*min(p.Sent, p.Flows)/p.Flows)
		}
		if !y.CompleteSince.IsZero() && !y.Complete {
			text += "  for " + span(s.Time.Sub(y.CompleteSince))
		}
		r.fact("Repair", "%s", r.paint(yellow, text))
	}
	if text := y.losses(); text != "" {
		r.fact("Losses", "%s", r.paint(yellow, text))
	}
	if text := counts(y.Skipped); text != "" {
		r.fact("Skipped", "%s", r.paint(dim, text))
	}
}

func (r *renderer) completeness(s Status) string {
	switch {
	case !s.Sync.Connected:
		return r.paint(red, "not replicated")
	case !s.Sync.Complete:
		return r.paint(yellow, "INCOMPLETE")
	case s.Role != "MASTER" || s.Sync.LagMax == 0:
		return r.paint(green, "complete")
	}
	return fmt.Sprintf("%s  lag p50 %s  p99 %s  max %s", r.paint(green, "complete"),
		span(s.Sync.LagP50), span(s.Sync.LagP99), span(s.Sync.LagMax))
}

func (r *renderer) stream(s Status) string {
	y := s.Sync
	state := r.paint(green, "up")
	if !y.Connected {
		state = r.paint(red, "down")
	}
	if !y.Since.IsZero() {
		state += " for " + span(s.Time.Sub(y.Since))
	}
	if !y.Connected {
		if y.Error != "" {
			state += "  " + y.Error
		}
		return state
	}
	if y.Link != "" {
		state += " by " + y.Link
	}
	return fmt.Sprintf("%s  %.0f events/s  %.0f records/s  backlog %d  %s sent  %s received",
		state, y.EventRate, y.RecordRate, y.Backlog, bytesText(y.BytesSent), bytesText(y.BytesReceived))
}

// firstPackets writes what became of the first packets of flows.
func (r *renderer) firstPackets(f FirstPackets) string {
	state := "packets pass"
	switch {
	case f.Error != "":
		state = r.paint(yellow, "packets are not held")
	case f.Holding:
		state = r.paint(green, "packets are held")
	}
	state += fmt.Sprintf("  %d acknowledged", f.Acknowledged)
	if f.Acknowledged > 0 {
		state += fmt.Sprintf(" after %s, %s at most", span(f.MeanWait), span(f.LongestWait))
	}
	for _, left := range []struct {
		n    uint64
		word string
	}{{f.Expired, "in vain"}, {f.Displaced, "displaced"}, {f.Abandoned, "abandoned"}, {f.Unprotected, "unprotected"}} {
		if left.n > 0 {
			state += "  " + r.paint(yellow, fmt.Sprintf("%d %s", left.n, left.word))
		}
	}
	return state
}

// losses names what should not have happened; each was repaired, or is being.
func (s Sync) losses() string {
	var parts []string
	add := func(n uint64, one, many string) {
		switch n {
		case 0:
		case 1:
			parts = append(parts, "1 "+one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	add(s.Overruns, "overrun of the kernel's events", "overruns of the kernel's events")
	add(s.Overflows, "overflow of the queue", "overflows of the queue")
	add(s.Refused, "flow refused by the kernel", "flows refused by the kernel")
	if text := counts(s.RefusedBy); s.Refused > 0 && text != "" {
		parts[len(parts)-1] += " (" + strings.Replace(text, TableFull, "table full", 1) + ")"
	}
	add(s.VerificationFailed, "flow not as written", "flows not as written")
	if text := counts(s.Stripped); text != "" {
		parts = append(parts, "written without "+text)
	}
	if len(parts) > 0 {
		add(s.Resyncs, "repair", "repairs")
	}
	return strings.Join(parts, "  ")
}
