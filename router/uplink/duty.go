package uplink

import (
	"cmp"
	"slices"
	"time"
)

// afterDrain is how long the flows on an uplink that was left by plan, and that the network may
// use, are looked for once their time is over. Later there is none but what came in by it since.
const afterDrain = time.Minute

// Duty is to end flows: those of a path's networks that are bound to an uplink, as long as
// it is listed.
type Duty struct {
	Path   Path
	Uplink string
	// VRID is that of the uplink, which the document may not have any more.
	VRID uint8
	// Reason says why, in a phrase for events and status.
	Reason string
	// Begun is when the duty began. A look at the kernel's table is dear, and what is
	// older than some seconds finds little: look again at growing intervals.
	Begun time.Time
	// Outbound tells that the uplink works and that only flows which began inside are to be ended:
	// those from outside stay with the uplink that they came in by.
	Outbound bool
}

// Duties returns what is to be ended now, in the order of the document; nothing on a BACKUP. A path has the duty
// for each uplink that is dead while the one in use works, whoever switched away from it, so that a node which
// has just become MASTER has it too; and for each that was left by plan, when the time of its flows is over.
func (s *Selector) Duties(now time.Time) []Duty {
	if !s.master {
		return nil
	}
	var duties []Duty
	for _, p := range s.paths {
		if p.free {
			continue
		}
		for _, c := range p.candidates {
			if p.mustEnd(c) && (c.allowed || p.hasLeft(c)) {
				duties = append(duties, Duty{Path: p.path, Uplink: c.uplink.name, VRID: c.uplink.vrid, Reason: c.reason, Begun: later(later(c.failedAt, p.since), s.masterSince)})
			}
		}
		for _, l := range p.left {
			if d, is := p.drained(now, l); is {
				duties = append(duties, d)
			}
		}
	}
	return duties
}

// mustEnd tells that a candidate is dead and that its flows would be better off elsewhere.
func (p *path) mustEnd(c *candidate) bool {
	return c != p.chosen && c.state == Dead && p.chosen != nil && p.chosen.state.Works()
}

// hasLeft tells that there may be flows on an uplink that the path may not take any more.
func (p *path) hasLeft(c *candidate) bool {
	return slices.ContainsFunc(p.left, func(l left) bool { return l.uplink == c.uplink.name })
}

// drained tells whether the flows on an uplink that was left must end now.
func (p *path) drained(now time.Time, l left) (Duty, bool) {
	c := p.find(l.uplink)
	d := Duty{Path: p.path, Uplink: l.uplink, VRID: l.vrid, Reason: l.reason, Begun: l.until}
	if now.Before(l.until) || c != nil && p.mustEnd(c) {
		return d, false
	}
	if c == nil || !c.allowed {
		return d, true
	}
	d.Outbound = true
	return d, p.chosen != nil && p.chosen.state.Works() && now.Before(l.until.Add(afterDrain))
}

// expire forgets what was left and need not be looked for any more, and wakes when something is due.
func (s *Selector) expire(now time.Time, p *path) {
	p.left = slices.DeleteFunc(p.left, func(l left) bool {
		c := p.find(l.uplink)
		return c != nil && c.allowed && !now.Before(l.until.Add(afterDrain))
	})
	for _, l := range p.left {
		s.wakeAt(now, l.until)
		s.wakeAt(now, l.until.Add(afterDrain))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Switch tells that a path has changed its uplink.
type Switch struct {
	Path Path
	// From is empty for the first choice, To if there is no uplink any more.
	From, To string
	// Planned tells that the flows of From could stay there for a while.
	Planned bool
	Reason  string
	// FailedAt is when the failure was noticed, zero if there was none; At when the path
	// changed.
	FailedAt, At time.Time
}

// Switches returns what has changed since the last call, oldest first.
func (s *Selector) Switches() []Switch {
	done := s.switches
	s.switches = nil
	return done
}

// Failures returns what speaks against this node as MASTER, sorted: the names of the uplinks that
// networks want or use and that are dead here, and "network NAME" if a network has none at all.
// For a BACKUP that includes what has recovered lately and what does not answer at the
// moment; a MASTER has no reason to move for that.
func (s *Selector) Failures() []string { return slices.Clone(s.failures) }

func (s *Selector) sumUp(now time.Time) []string {
	var names []string
	cut := ""
	for _, p := range s.paths {
		wanted := p.wanted()
		if wanted == nil {
			continue
		}
		none := true
		// Where several cost the same, a path may take another one than it wants.
		for _, c := range p.candidates {
			failed := s.failed(now, c)
			if failed && (c == wanted || c == p.chosen || !s.master && c.allowed && now.Before(c.missedUntil)) {
				names = append(names, c.uplink.name)
			}
			none = none && (failed || !c.allowed)
		}
		if none && (cut == "" || p.path.Network < cut) {
			cut = p.path.Network
		}
	}
	if cut != "" {
		names = append(names, "network "+cut)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// failed tells that a candidate counts as dead in the comparison of the two nodes.
func (s *Selector) failed(now time.Time, c *candidate) bool {
	if c.state == Dead {
		return true
	}
	if s.master || !c.state.Works() {
		return false
	}
	if ends := c.aliveSince.Add(c.probation()); c.returned && now.Before(ends) {
		s.wakeAt(now, ends)
		return true
	}
	return c.doubted(now)
}

// wanted is what a path takes when everything works: the cheapest, the first of these in the document.
func (p *path) wanted() *candidate {
	var wanted *candidate
	for _, c := range p.candidates {
		if c.allowed && (wanted == nil || cmp.Less(c.uplink.cost, wanted.uplink.cost)) {
			wanted = c
		}
	}
	return wanted
}
