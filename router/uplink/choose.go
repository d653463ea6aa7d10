package uplink

import (
	"cmp"
	"fmt"
	"time"
)

// standing orders candidates when the one in use is to be left: the lowest is the best.
type standing uint8

const (
	sound standing = iota
	recovered
	lossy
	untested
	unsettled
	hopeless
	forbidden
)

func (c *candidate) standing(now time.Time) standing {
	switch {
	case !c.allowed:
		return forbidden
	case c.state == Working && !c.held(now):
		return sound
	case c.state == Working && c.settled(now):
		return recovered
	case c.state == Degraded && c.settled(now):
		return lossy
	case c.state == Unknown:
		return untested
	case c.state.Works():
		return unsettled
	}
	return hopeless
}

// best returns the candidate with the best standing, of these the cheapest, of these the one in use, of
// these the first in the document; nil if none is allowed.
func (p *path) best(now time.Time) *candidate {
	var best *candidate
	for _, c := range p.candidates {
		if c.standing(now) == forbidden {
			continue
		}
		if best == nil || p.compare(now, c, best) < 0 {
			best = c
		}
	}
	return best
}

func (p *path) compare(now time.Time, a, b *candidate) int {
	chosen := func(c *candidate) int {
		if c == p.chosen {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.standing(now), b.standing(now)), cmp.Compare(a.uplink.cost, b.uplink.cost), cmp.Compare(chosen(a), chosen(b)))
}

// choose decides whether a path stays where it is.
func (s *Selector) choose(now time.Time, p *path) {
	p.note, p.intended = "", nil
	current := p.chosen
	best := p.best(now)
	switch {
	case current == nil:
		if best != nil {
			s.take(now, p, best, false, p.first(best))
		}
		return
	case !current.allowed || p.find(current.uplink.name) == nil:
		s.leaveForbidden(now, p, best)
		return
	case current.state.Works():
		p.confirmed = true
	}
	p.doubt(now)
	switch current.state {
	case Dead:
		s.leaveDead(now, p)
	case Degraded:
		if best.standing(now) == sound {
			s.move(now, p, best, fmt.Sprintf("%s is degraded (%s), %s works", current.uplink.name, current.reason, best.uplink.name))
			return
		}
		p.note = "it is degraded (" + current.reason + "), and no other uplink works better"
		p.await(now)
	case Working, Unknown:
		s.failBack(now, p, best)
	}
}

func (p *path) first(c *candidate) string {
	if c.state == Unknown {
		return "it is the cheapest, and nothing is known yet"
	}
	return "first choice: " + c.reason
}

// failBack leaves an uplink that works for a cheaper one that works as well.
func (s *Selector) failBack(now time.Time, p *path, best *candidate) {
	current := p.chosen
	cheaper := best != nil && best.standing(now) == sound && best.uplink.cost < current.uplink.cost
	switch {
	case cheaper && p.keep:
		p.note = fmt.Sprintf("%s is cheaper and works, but the network keeps its uplink until it fails", best.uplink.name)
	case cheaper:
		s.move(now, p, best, fmt.Sprintf("%s works and costs %d, %s costs %d", best.uplink.name, best.uplink.cost, current.uplink.name, current.uplink.cost))
	default:
		p.await(now)
	}
}

// move switches to a better uplink by plan, as soon as that has proved that it works: a metered one may not have been
// asked for a while.
func (s *Selector) move(now time.Time, p *path, to *candidate, reason string) {
	if to.proven(now) {
		s.take(now, p, to, true, reason)
		return
	}
	p.intended = to
	p.note = to.uplink.name + " would be better, and is being asked"
	s.wakeAt(now, now.Add(glance))
}

// await notes that a cheaper uplink has recovered and may not be taken again yet.
func (p *path) await(now time.Time) {
	for _, c := range p.candidates {
		if p.note == "" && c.allowed && c.held(now) && c.state.Works() && c.uplink.cost < p.chosen.uplink.cost {
			p.note = fmt.Sprintf("%s works again, and is not trusted yet", c.uplink.name)
		}
	}
}

// doubt asks the other uplinks at once when the chosen one falls silent. What is asked may
// be dead itself, and then no uplink is better: only what has answered since is a place to go to.
func (p *path) doubt(now time.Time) {
	switch current := p.chosen; {
	case current.down() != "" || current.state.Works() && !current.doubted(now):
		p.doubtedAt = time.Time{}
	case p.doubtedAt.IsZero() && current.state.Works():
		p.doubtedAt = now
		for _, c := range p.candidates {
			if c != current && c.allowed && c.state.Works() {
				c.check(now)
			}
		}
	}
}

// refuge returns the best uplink to go to from one that is dead; not one that has fallen silent as well, and
// not one that has not answered since, but for the latter the wait is short: it may be that it cannot be asked.
func (s *Selector) refuge(now time.Time, p *path) *candidate {
	var best *candidate
	ends := p.chosen.failedAt.Add(freshness)
	for _, c := range p.candidates {
		if c.standing(now) >= untested {
			continue
		}
		if !p.doubtedAt.IsZero() && (c.doubted(now) || now.Before(ends) && !c.fresh(p.doubtedAt)) {
			s.wakeAt(now, now.Add(glance))
			continue
		}
		if best == nil || p.compare(now, c, best) < 0 {
			best = c
		}
	}
	return best
}

// leaveDead leaves an uplink that does not work, if there is one that does. A MASTER whose peer could take over
// waits a moment.
func (s *Selector) leaveDead(now time.Time, p *path) {
	current := p.chosen
	best := s.refuge(now, p)
	if best == nil {
		p.note = "it does not work (" + current.reason + "), and there is no other uplink that does"
		for _, c := range p.candidates {
			if c.standing(now) == unsettled {
				p.note = fmt.Sprintf("it does not work (%s); %s works again, and is not trusted yet", current.reason, c.uplink.name)
			}
		}
		return
	}
	if ends := current.failedAt.Add(dwell); s.master && s.peerFit && p.confirmed && now.Before(ends) {
		p.note = "it does not work (" + current.reason + "); the peer may take over first"
		s.wakeAt(now, ends)
		return
	}
	s.take(now, p, best, false, fmt.Sprintf("%s is dead: %s", current.uplink.name, current.reason))
}

// leaveForbidden leaves an uplink that the path may not take any more, even if there is no other.
func (s *Selector) leaveForbidden(now time.Time, p *path, best *candidate) {
	current := p.chosen
	reason := p.tooDear(current)
	if p.find(current.uplink.name) == nil {
		reason = "the network may not use it any more"
	}
	s.take(now, p, best, true, current.uplink.name+": "+reason)
}

// take switches a path. The flows on an uplink that was left by plan, and that works, may stay for a while; those
// on one that has failed must go, even if it comes back at once. A BACKUP has no flows: what it left tells
// nothing about those that it may take over.
func (s *Selector) take(now time.Time, p *path, to *candidate, planned bool, reason string) {
	from := p.chosen
	event := Switch{Path: p.path, Reason: reason, At: now}
	if from != nil {
		event.From = from.uplink.name
		event.Planned = planned && from.state != Dead
		if from.state == Dead {
			event.FailedAt = from.failedAt
			from.missedUntil = now.Add(missing)
			s.wakeAt(now, from.missedUntil)
		}
		switch {
		case planned:
			p.leave(from, left{until: p.lingering(s, now, from), reason: reason, policy: !from.allowed})
		case s.master && p.confirmed:
			p.leave(from, left{until: now, reason: reason, failed: true})
		}
		p.switches++
	}
	if to != nil {
		event.To = to.uplink.name
		p.forgive(to)
	}
	p.chosen, p.since, p.why, p.confirmed, p.doubtedAt = to, now, reason, to != nil && to.state.Works(), time.Time{}
	s.switches = append(s.switches, event)
}
