package uplink

import (
	"fmt"
	"slices"
	"time"
)

// dwell is how long a MASTER waits at most before an unplanned switch while its peer could take over: a
// change of the role keeps all sessions, a switch does not. Where the peer has the same trouble it says so
// within two heartbeats, and that ends the wait; see [Selector.SetPeer].
const dwell = 500 * time.Millisecond

// freshness is how long an uplink that works may take to prove it, before one that has died by what was asked
// through it is left for it.
const (
	freshness = 500 * time.Millisecond
	glance    = 20 * time.Millisecond
)

// path is a path with its choice. All flows of a network that take the path take the same uplink.
type path struct {
	pathConfig
	candidates []*candidate
	chosen     *candidate
	// intended is an uplink to which the path will move when that has proved that it works.
	intended  *candidate
	since     time.Time
	why, note string
	// confirmed tells that the chosen uplink has worked since it was chosen: until then
	// there is nothing to drain and nothing to wait for.
	confirmed bool
	// doubtedAt is when the chosen uplink fell silent; zero while it answers.
	doubtedAt time.Time
	switches  uint64
	left      []left
}

// left is an uplink that a path has left and whose flows may stay for a while, or must end.
type left struct {
	uplink string
	vrid   uint8
	until  time.Time
	reason string
	// policy tells that the document or a cost was the reason, which the peer knows as well; else it was
	// what this node has seen.
	policy bool
	// failed tells that it was left because it had failed.
	failed bool
}

func (p *path) find(name string) *candidate {
	for _, c := range p.candidates {
		if c.uplink.name == name {
			return c
		}
	}
	return nil
}

// addPath takes a path of the document, with what was known of it.
func (s *Selector) addPath(now time.Time, c *pathConfig, old *path, known map[key]*monitor) {
	p := &path{pathConfig: *c}
	if old == nil {
		old = &path{}
	}
	p.since, p.why, p.switches, p.left, p.confirmed, p.doubtedAt = old.since, old.why, old.switches, old.left, old.confirmed, old.doubtedAt
	for _, name := range c.uplinks {
		p.candidates = append(p.candidates, s.newCandidate(p, s.find(name), old.find(name), known))
	}
	if old.chosen != nil {
		// One that the path may not take any more stays chosen until there is a choice.
		if p.chosen = p.find(old.chosen.uplink.name); p.chosen == nil {
			p.chosen = old.chosen
			p.chosen.allowed = false
		}
	}
	for _, gone := range old.candidates {
		if gone != old.chosen && gone.allowed && p.find(gone.uplink.name) == nil {
			p.leave(gone, left{until: p.lingering(s, now, gone), reason: "the network may not use it any more", policy: true})
		}
	}
	// A number that another uplink has now says nothing of the one that is gone.
	p.left = slices.DeleteFunc(p.left, func(l left) bool {
		return slices.ContainsFunc(s.uplinks, func(u *uplink) bool { return u.vrid == l.vrid && u.name != l.uplink })
	})
	s.paths = append(s.paths, p)
}

func (s *Selector) newCandidate(p *path, u *uplink, old *candidate, known map[key]*monitor) *candidate {
	c := &candidate{}
	if old != nil {
		*c = *old
	}
	ipv6 := p.path.IPv6()
	c.family, c.targets = u.families[index(ipv6)], nil
	for _, t := range p.targets(&u.uplinkConfig) {
		c.targets = append(c.targets, s.monitor(targetKey(u.name, ipv6, t, &p.probe), c.family, known))
	}
	c.need = min(p.probe.Need, len(c.targets))
	if old == nil {
		c.allowed = u.cost <= p.maxCost
	}
	return c
}

// lingering is until when the flows on an uplink that is left by plan may stay: not at all if the
// document has it no more.
func (p *path) lingering(s *Selector, now time.Time, c *candidate) time.Time {
	if s.find(c.uplink.name) == nil {
		return now
	}
	return now.Add(p.drain)
}

// allow notes whether an uplink is too dear. The flows on one that has become so may stay for a
// while.
func (s *Selector) allow(now time.Time, p *path, c *candidate) {
	allowed := c.uplink.cost <= p.maxCost
	if c.allowed && !allowed && c != p.chosen {
		p.leave(c, left{until: p.lingering(s, now, c), reason: p.tooDear(c), policy: true})
	}
	c.allowed = allowed
}

func (p *path) tooDear(c *candidate) string {
	return fmt.Sprintf("its cost is %d, the network takes up to %d", c.uplink.cost, p.maxCost)
}

// leave notes that flows may be left on an uplink.
func (p *path) leave(c *candidate, l left) {
	if p.free {
		return
	}
	p.forgive(c)
	l.uplink, l.vrid = c.uplink.name, c.uplink.vrid
	p.left = append(p.left, l)
}

// forgive forgets that flows on an uplink must end: it is chosen again.
func (p *path) forgive(c *candidate) {
	p.left = slices.DeleteFunc(p.left, func(l left) bool { return l.uplink == c.uplink.name })
}

// bequeath forgets what was left because it had failed: the flows that are there from now on are another
// node's.
func (p *path) bequeath() {
	p.left = slices.DeleteFunc(p.left, func(l left) bool { return l.failed })
}

// inherit gives the flows that a new MASTER takes over the time that they have on an uplink which only this
// node has left: until now they were another node's, which had its own reasons.
func (p *path) inherit(now time.Time) {
	for i := range p.left {
		if l := &p.left[i]; !l.policy {
			l.until = later(l.until, now.Add(p.drain))
		}
	}
}
