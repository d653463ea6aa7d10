package interop

import (
	"fmt"
	"slices"
	"time"
)

// speech is one advert of one family.
type speech struct {
	from     string
	at       time.Time
	priority uint8
}

func speeches(f family, seen []sighting) []speech {
	var all []speech
	for _, g := range seen {
		// What comes from a node's own MAC address is a question and claims nothing.
		if g.advert != nil && g.advert.source.Is6() == (f == ipv6) && (g.advert.priority != 1 || g.source == f.virtualMAC()) {
			all = append(all, speech{g.from, g.at, g.advert.priority})
		}
	}
	return all
}

// judgeSpeakers demands that the speaker changed as the scenario says and not
// otherwise, that nobody else spoke, and that each change took the time it must take.
func (v *verdict) judgeSpeakers(f family) {
	words := speeches(f, v.seen)
	for _, p := range v.partitions {
		v.judgeTie(f, p, words)
	}
	var speaker, before string // before spoke before the newest change
	var since time.Time
	leftBehind, expected := 0, v.expected
	for _, w := range words {
		switch {
		case v.inPartition(w.at):
			continue // see judgeTie
		case w.priority == 0:
			if w.from == speaker {
				speaker, before = "", w.from
			}
			continue
		case w.from == speaker:
			continue
		case speaker != "" && w.from == before && !due(expected, w) &&
			w.at.Sub(since) <= v.intervalOf(w.from)/2+v.room(w.from, since, w.at):
			leftBehind++ // it has not yet heard its successor
			continue
		}
		if len(expected) > 0 && expected[0].why == tieBreak && w.from == expected[0].to {
			before, speaker, since, expected = speaker, w.from, w.at, expected[1:]
			continue
		}
		if !due(expected, w) {
			v.fail(v.culprit(w, speaker, words), "%v: %s advertises priority %d at %s, though %s", f, w.from, w.priority, stamp(w.at), v.describe(speaker, before, expected))
			return
		}
		v.judgeChange(f, expected[0], w.at, words)
		expected = expected[1:]
		if speaker != "" {
			before = speaker
		}
		speaker, since = w.from, w.at
	}
	for _, c := range expected {
		if c.why == tieBreak && speaker == c.to {
			continue
		}
		v.fail(c.to, "%v: %s has not taken over from %s (%v)", f, c.to, c.from, c.why)
	}
	v.note("%v: %d adverts of a MASTER that had not yet heard the next", f, leftBehind)
}

// culprit is whose fault it is that a router speaks while another is MASTER: the MASTER's
// if that had been silent for the down interval.
func (v *verdict) culprit(w speech, speaker string, words []speech) string {
	var last time.Time
	for _, other := range words {
		if other.from == speaker && other.at.Before(w.at) {
			last = other.at
		}
	}
	if speaker != "" && w.at.Sub(last) >= v.down(w.from, speaker)-v.imprecision(w.from) {
		return speaker
	}
	return w.from
}

// due tells whether an advert is the next change that is expected.
func due(expected []change, w speech) bool {
	return len(expected) > 0 && expected[0].to == w.from && !w.at.Before(expected[0].since)
}

func stamp(at time.Time) string { return at.Format("15:04:05.000") }

func (v *verdict) describe(speaker, before string, expected []change) string {
	now := speaker + " is MASTER"
	if speaker == "" {
		now = "nobody is MASTER"
		if before != "" {
			now += " since the goodbye of " + before
		}
	}
	if len(expected) > 0 {
		return fmt.Sprintf("%s, and next is %s from %s (%v, caused at %s)", now, expected[0].to, expected[0].from, expected[0].why, stamp(expected[0].since))
	}
	return now + ", and that should stay"
}

// judgeChange demands that a change took the time that follows from the timers, and
// that the addresses were announced after it.
func (v *verdict) judgeChange(f family, c change, at time.Time, words []speech) {
	var from, to time.Time // bounds
	switch c.why {
	case startup:
		earliest := v.down(c.to, c.to)
		if v.routers[c.to].priority == 255 {
			earliest = 0 // the owner waits for nobody
		}
		// A less fit router has a longer Skew_Time, and links may come up late.
		latest := earliest + v.intervalOf(c.to) + linkTime
		from, to = c.since.Add(earliest), c.ready.Add(latest)
	case goodbye:
		said := v.lastWord(f, c, at, words, func(w speech) bool { return w.priority == 0 })
		if said.IsZero() {
			return
		}
		from, to = said.Add(v.skew(c.to, c.from)), said.Add(v.skew(c.to, c.from))
	case silence:
		said := v.lastWord(f, c, at, words, func(w speech) bool { return w.priority > 0 })
		if said.IsZero() {
			return
		}
		from, to = said.Add(v.down(c.to, c.from)), said.Add(v.down(c.to, c.from))
	case beats:
		// 3½ beats, which are a fifth of an interval each, and one for the answer.
		from, to = c.since, c.since.Add(v.intervalOf(c.to)*9/10)
	case handover:
		from, to = c.since, c.ready
	case tieBreak: // see judgeTie
	}
	from, to = from.Add(-v.imprecision(c.to)), to.Add(v.room(c.to, from, at))
	if at.Before(from) || at.After(to) {
		v.fail(c.to, "%v: %s took over from %s (%v) at %s, want %s to %s", f, c.to, c.from, c.why, stamp(at), stamp(from), stamp(to))
	}
	v.note("%v: %s took over from %q (%v) %v after the earliest moment, %v before the latest", f, c.to, c.from, c.why, at.Sub(from), to.Sub(at))
	v.judgeAnnouncements(f, c, at)
}

// lastWord is when the old MASTER last said such a thing before the new one took over.
// For Tandem an advert of either family counts: both carry one group.
func (v *verdict) lastWord(f family, c change, at time.Time, words []speech, such func(speech) bool) time.Time {
	if v.routers[c.to].ours && v.ipv6 {
		words = append(speeches(ipv4, v.seen), speeches(ipv6, v.seen)...)
	}
	var last time.Time
	for _, w := range words {
		if w.from == c.from && such(w) && !w.at.After(at) && !w.at.Before(c.since.Add(-2*v.intervalOf(c.from))) && w.at.After(last) {
			last = w.at
		}
	}
	if last.IsZero() {
		v.fail(c.from, "%v: %s has not said the last word that %v needs", f, c.from, c.why)
	}
	return last
}

// judgeTie demands that after a partition the loser fell silent as soon as it had heard
// the winner, and that Tandem answered a losing advert at once (§6.4.3).
func (v *verdict) judgeTie(f family, p span, words []speech) {
	i := slices.IndexFunc(v.expected, func(c change) bool { return c.why == tieBreak })
	winner, loser := v.expected[i].to, v.expected[i].from
	spoke := map[string]int{}
	var last, answered time.Time
	for _, w := range words {
		if w.at.After(p.from) && w.at.Before(p.to) {
			spoke[w.from]++
		}
		if w.at.Before(p.to) {
			continue
		}
		if w.from == loser {
			last = w.at
		} else if answered.IsZero() && !last.IsZero() {
			answered = w.at
		}
	}
	for _, name := range []string{winner, loser} {
		if spoke[name] == 0 {
			v.fail(name, "%v: %s was not MASTER in the partition", f, name)
		}
	}
	if limit := v.intervalOf(winner) + v.room(winner, p.to, last) + v.room(loser, p.to, last); last.Sub(p.to) > limit {
		v.fail(loser, "%v: %s, which had to yield to %s, spoke until %v after the partition, want at most %v", f, loser, winner, last.Sub(p.to), limit)
	}
	if v.routers[winner].ours && !last.IsZero() {
		if took, limit := answered.Sub(last), v.room(winner, last, answered); took < 0 || took > limit {
			v.fail(winner, "%v: %s answered a losing advert after %v, want at most %v", f, winner, took, limit)
		}
	}
	v.note("%v: %s fell silent %v after the partition", f, loser, last.Sub(p.to))
}

// aftermath is how long after a partition the loser need not have heard the winner yet.
func (s segment) aftermath() time.Duration { return 2*s.interval + unscheduledRoom }

// inPartition tells whether a moment lies in a partition or its aftermath.
func (e *evidence) inPartition(at time.Time) bool {
	return slices.ContainsFunc(e.partitions, func(p span) bool {
		return at.After(p.from) && (p.to.IsZero() || at.Before(p.to.Add(e.aftermath())))
	})
}
