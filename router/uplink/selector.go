package uplink

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Selector holds the evidence about all uplinks and chooses one for each path. It
// belongs to one goroutine. After any call that takes the time, [Selector.Selection],
// [Selector.Duties], [Selector.Switches] and [Selector.Failures] may give something new.
type Selector struct {
	uplinks  []*uplink
	monitors []*monitor
	paths    []*path
	// master tells that this node is MASTER, peerFit that a peer could take over.
	master, peerFit bool
	masterSince     time.Time
	// attempts numbers the probes; waiting finds the monitors of those under way.
	attempts uint64
	waiting  map[uint64]*monitor
	// now is the time of the last call.
	now time.Time
	// rest is until when no further probe starts; see burst.
	rest time.Time
	// dirty tells that the evidence has changed since it was weighed, wake when the time
	// alone may change something.
	dirty     bool
	wake      time.Time
	selection Selection
	switches  []Switch
	failures  []string
}

// uplink is what is known of an uplink.
type uplink struct {
	uplinkConfig
	// cost may differ from that of the document.
	cost            uint8
	linkKnown, link bool
	linkReason      string
	// families holds nil for one that it has not.
	families [2]*family
}

const (
	// burst is how many probes start at a time, restAfterBurst the pause after that.
	burst          = 64
	restAfterBurst = 10 * time.Millisecond
	// spread is the time between the first probes of an uplink.
	spread = 2 * time.Millisecond
)

// New returns a selector that knows of no link and no address yet.
func New(now time.Time, c Config) *Selector {
	s := &Selector{waiting: make(map[uint64]*monitor)}
	s.Reconfigure(now, c)
	return s
}

// Adopt takes what the kernel routes when the node starts: a choice that stands is kept
// until there is evidence against it. It must come right after [New].
func (s *Selector) Adopt(now time.Time, chosen Selection) {
	for _, p := range s.paths {
		c := p.find(chosen[p.path])
		if c == nil || !c.allowed {
			continue
		}
		s.switches = slices.DeleteFunc(s.switches, func(w Switch) bool { return w.Path == p.path })
		p.chosen, p.since, p.why, p.confirmed = c, now, "it was in use when the node started", true
	}
	s.weigh(now)
}

// SetLink tells whether the port of an uplink is up and has a carrier, and if not, why.
func (s *Selector) SetLink(now time.Time, name string, up bool, reason string) {
	u := s.find(name)
	if u == nil || u.linkKnown && u.link == up && u.linkReason == reason {
		return
	}
	u.linkKnown, u.link, u.linkReason = true, up, reason
	s.enable(now, u)
	s.weigh(now)
}

// SetAddress tells whether the port has this node's own address of a family.
func (s *Selector) SetAddress(now time.Time, name string, ipv6, present bool) {
	u := s.find(name)
	if u == nil || u.families[index(ipv6)] == nil {
		return
	}
	f := u.families[index(ipv6)]
	if f.known && f.address == present {
		return
	}
	f.known, f.address = true, present
	s.enable(now, u)
	s.weigh(now)
}

// enable begins to ask, or ends, as link and address allow. The first probes of many targets do not start
// all at once.
func (s *Selector) enable(now time.Time, u *uplink) {
	for _, f := range u.families {
		if f == nil {
			continue
		}
		if f.gateway != nil {
			s.enableOne(f.gateway, f.up(), now)
		}
		for i, m := range f.targets {
			s.enableOne(m, f.up(), now.Add(time.Duration(i+1)*spread))
		}
	}
}

func (s *Selector) enableOne(m *monitor, on bool, first time.Time) {
	if m.enabled != on {
		s.abandon(m)
	}
	m.enable(on, first)
}

// abandon lets nobody wait for the attempts of a monitor any more.
func (s *Selector) abandon(m *monitor) {
	for _, a := range m.attempts {
		delete(s.waiting, a.number)
	}
}

// SetCost changes the cost of an uplink, until a document changes it again.
func (s *Selector) SetCost(now time.Time, name string, cost uint8) {
	if u := s.find(name); u != nil && u.cost != cost {
		u.cost = cost
		s.weigh(now)
	}
}

// SetRole tells whether this node is MASTER.
func (s *Selector) SetRole(now time.Time, master bool) {
	if s.master == master {
		return
	}
	s.master = master
	if master {
		s.masterSince = now
	}
	for _, p := range s.paths {
		if master {
			p.inherit(now)
		} else {
			p.bequeath()
		}
	}
	s.weigh(now)
}

// SetPeer tells whether a peer stands ready that could take over at once, and that is better
// off, or as well as this node while that has no trouble.
func (s *Selector) SetPeer(now time.Time, fit bool) {
	if s.peerFit != fit {
		s.peerFit = fit
		s.weigh(now)
	}
}

func (s *Selector) find(name string) *uplink {
	for _, u := range s.uplinks {
		if u.name == name {
			return u
		}
	}
	return nil
}

// Due returns the probes to start now. Each is answered by one [Selector.Finish].
func (s *Selector) Due(now time.Time) []Probe {
	s.now = now
	if now.Before(s.rest) {
		return nil
	}
	type candidate struct {
		m  *monitor
		at time.Time
	}
	var due []candidate
	for _, m := range s.monitors {
		if at := s.dueAt(now, m); !at.IsZero() && !now.Before(at) {
			due = append(due, candidate{m, at})
		}
	}
	slices.SortStableFunc(due, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.m.kind, b.m.kind), a.at.Compare(b.at))
	})
	if len(due) > burst {
		due, s.rest = due[:burst], now.Add(restAfterBurst)
	}
	var probes []Probe
	for _, d := range due {
		// A further attempt tells that an answer is missing.
		s.dirty = s.dirty || now.Before(d.m.next)
		s.attempts++
		s.waiting[s.attempts] = d.m
		probes = append(probes, d.m.start(now, s.attempts))
	}
	s.reweigh(now)
	return probes
}

func (s *Selector) dueAt(now time.Time, m *monitor) time.Time {
	return m.due(m.enabled && m.family.hurried(now, m))
}

// Finish takes the outcome of a probe. Outcomes of probes that nobody waits for any more are ignored.
func (s *Selector) Finish(now time.Time, o Outcome) {
	s.now = now
	m := s.waiting[o.Probe.Attempt]
	if m == nil {
		return
	}
	delete(s.waiting, o.Probe.Attempt)
	s.dirty = m.finish(now, o) || s.dirty
	s.reweigh(now)
}

// Tick does what is due.
func (s *Selector) Tick(now time.Time) {
	s.now = now
	for _, m := range s.monitors {
		if len(m.attempts) > 0 {
			s.dirty = m.forget(now) || s.dirty
		}
	}
	s.reweigh(now)
}

// Deadline returns when [Selector.Due] or [Selector.Tick] has something to do; zero for never.
func (s *Selector) Deadline() time.Time {
	at := s.wake
	for _, m := range s.monitors {
		due := s.dueAt(s.now, m)
		if !due.IsZero() && due.Before(s.rest) {
			due = s.rest
		}
		at = earlier(at, due)
		if len(m.attempts) > 0 && !m.attempts[0].failed {
			at = earlier(at, m.attempts[0].start.Add(m.timeout+forgotten))
		}
	}
	return at
}

// reweigh weighs the evidence if it has changed or if the time has come.
func (s *Selector) reweigh(now time.Time) {
	if s.dirty || !s.wake.IsZero() && !now.Before(s.wake) {
		s.weigh(now)
	}
}

// weigh judges all candidates, chooses for all paths and sums up the failures.
func (s *Selector) weigh(now time.Time) {
	s.now = now
	s.dirty, s.wake = false, time.Time{}
	for _, p := range s.paths {
		for _, c := range p.candidates {
			s.wakeAt(now, c.update(now))
			s.wakeAt(now, c.heldUntil)
			s.wakeAt(now, c.aliveSince.Add(settling))
			s.allow(now, p, c)
		}
		s.choose(now, p)
		s.expire(now, p)
	}
	s.spare(now)
	s.publish()
	s.failures = s.sumUp(now)
}

// wakeAt notes a time at which something may change.
func (s *Selector) wakeAt(now, at time.Time) {
	if at.After(now) {
		s.wake = earlier(s.wake, at)
	}
}

// spare asks the targets of metered uplinks less often as long as no path uses them.
func (s *Selector) spare(now time.Time) {
	used := make(map[*monitor]bool)
	for _, p := range s.paths {
		for _, c := range []*candidate{p.chosen, p.intended} {
			if c == nil {
				continue
			}
			for _, m := range c.targets {
				used[m] = true
			}
		}
	}
	for _, m := range s.monitors {
		m.spare(now, m.kind == EndToEnd && m.family.uplink.metered && !used[m])
	}
}

// Selection names the uplink of every path that has one. It must not be changed; a later one is another
// map if anything is different.
func (s *Selector) Selection() Selection { return s.selection }

// publish makes a new selection if a choice has changed.
func (s *Selector) publish() {
	selection := make(Selection, len(s.paths))
	for _, p := range s.paths {
		if p.chosen != nil {
			selection[p.path] = p.chosen.uplink.name
		}
	}
	if !maps.Equal(selection, s.selection) {
		s.selection = selection
	}
}

// Reconfigure takes a changed document. Evidence about what stays is kept.
func (s *Selector) Reconfigure(now time.Time, c Config) {
	old := *s
	s.uplinks, s.monitors, s.paths = nil, nil, nil
	known := make(map[key]*monitor, len(old.monitors))
	for _, m := range old.monitors {
		known[m.key] = m
	}
	for i := range c.uplinks {
		s.addUplink(&c.uplinks[i], old.find(c.uplinks[i].name), known)
	}
	before := make(map[Path]*path, len(old.paths))
	for _, p := range old.paths {
		before[p.path] = p
	}
	for i := range c.paths {
		s.addPath(now, &c.paths[i], before[c.paths[i].path], known)
	}
	for _, m := range old.monitors {
		if !slices.Contains(s.monitors, m) {
			s.abandon(m)
		}
	}
	for _, u := range s.uplinks {
		s.enable(now, u)
	}
	s.weigh(now)
}

func (s *Selector) addUplink(c *uplinkConfig, old *uplink, known map[key]*monitor) {
	u := &uplink{uplinkConfig: *c, cost: c.cost}
	if old != nil {
		u.linkKnown, u.link, u.linkReason = old.linkKnown, old.link, old.linkReason
		if old.uplinkConfig.cost == c.cost {
			u.cost = old.cost
		}
	}
	for i := range u.families {
		if !c.families[i] {
			continue
		}
		f := &family{uplink: u, ipv6: i == index(true)}
		if old != nil && old.families[i] != nil {
			f.known, f.address = old.families[i].known, old.families[i].address
		}
		if c.gateways[i] {
			f.gateway = s.monitor(gatewayKey(c.name, f.ipv6), f, known)
		}
		u.families[i] = f
	}
	s.uplinks = append(s.uplinks, u)
}

// monitor returns the one monitor of a key.
func (s *Selector) monitor(k key, f *family, known map[key]*monitor) *monitor {
	m := known[k]
	if m == nil {
		m = &monitor{key: k}
		known[k] = m
	}
	m.family = f
	if !slices.Contains(s.monitors, m) {
		s.monitors = append(s.monitors, m)
		if k.kind == EndToEnd {
			f.targets = append(f.targets, m)
		}
	}
	return m
}
