package sim

import (
	"net/netip"
	"slices"
	"time"

	"tandem/vrrp"
)

// machine is what a node needs of a [vrrp.Group].
type machine interface {
	Start(now time.Time) vrrp.Output
	Stop(now time.Time, why vrrp.Reason) vrrp.Output
	Tick(now time.Time) vrrp.Output
	Receive(now time.Time, carrier int, source netip.Addr, a vrrp.Advertisement) vrrp.Output
	ReceiveHeartbeat(now time.Time, h vrrp.Heartbeat) vrrp.Output
	SetFitness(now time.Time, f vrrp.Fitness) vrrp.Output
	SetLinks(now time.Time, up []bool) vrrp.Output
	Handover(now time.Time) (vrrp.Output, error)
	Reconfigure(now time.Time, cfg vrrp.GroupConfig) (vrrp.Output, error)
	Deadline() time.Time
	Heartbeat(now time.Time) vrrp.Heartbeat
	State() vrrp.State
	Priority() uint8
	DownInterval() time.Duration
}

// mutation is a rule of the election that is broken on purpose.
type mutation int

const (
	noMutation mutation = iota
	// deaf: a MASTER does not yield to a better advert.
	deaf
	// tieless: a MASTER does not yield to an equal priority and a greater address.
	tieless
	// mute: a MASTER does not answer losing adverts.
	mute
	// sleepless: the clock stands still while the process is paused, so that a
	// MASTER never knows of its own stall.
	sleepless
	// longLease: the fence stays open for longer than the peer waits.
	longLease
	// noRevoke: the fence is not closed when the role is given up.
	noRevoke
	// tickFirst: the timers act before the sockets are read.
	tickFirst
	// eager: a node claims to be ready while its session table is not complete.
	eager
	// breakFirst: a planned handover gives the role up before the peer has it.
	breakFirst
	// hasty: a BACKUP waits for two intervals only.
	hasty
	// stubborn: an isolated node keeps the role.
	stubborn
	mutations
)

func (m mutation) String() string {
	return [...]string{
		"none", "deaf", "tieless", "mute", "sleepless", "longLease", "noRevoke", "tickFirst", "eager", "breakFirst",
		"hasty", "stubborn",
	}[m]
}

// wrap returns the group with the rule broken, if it is a rule of the group.
func (m mutation) wrap(n *node, g *vrrp.Group) machine {
	n.slept = 0
	switch m {
	case deaf, tieless, mute:
		return badListener{Group: g, mutation: m, n: n}
	case sleepless:
		return shifted{Group: g, by: func() time.Duration { return -n.slept }}
	case eager:
		return eagerGroup{g}
	case breakFirst:
		return breakFirstGroup{g}
	case hasty:
		return hastyGroup{g}
	case stubborn:
		return stubbornGroup{g}
	case noMutation, longLease, noRevoke, tickFirst, mutations:
	}
	return g
}

type badListener struct {
	*vrrp.Group
	mutation mutation
	n        *node
}

func (b badListener) Receive(now time.Time, c int, source netip.Addr, a vrrp.Advertisement) vrrp.Output {
	master := b.State() == vrrp.Master
	switch {
	case !master || a.Priority == 0:
	case b.mutation == deaf && b.n.losesTo(carrier(c), source, a.Priority):
		return vrrp.Output{}
	case b.mutation == tieless && a.Priority == b.Priority():
		c = -1 // no carrier, no address to compare with
	}
	out := b.Group.Receive(now, c, source, a)
	if b.mutation == mute && master && a.Priority > 0 && out.Transition == nil {
		out.Advertise = false
	}
	return out
}

type eagerGroup struct{ *vrrp.Group }

func (e eagerGroup) SetFitness(now time.Time, f vrrp.Fitness) vrrp.Output {
	f.Ready = true
	return e.Group.SetFitness(now, f)
}

type breakFirstGroup struct{ *vrrp.Group }

func (b breakFirstGroup) Handover(now time.Time) (vrrp.Output, error) {
	out, err := b.Group.Handover(now)
	if err == nil {
		out = b.ReceiveHeartbeat(now, vrrp.Heartbeat{State: vrrp.Master})
	}
	return out, err
}

type hastyGroup struct{ *vrrp.Group }

func (h hastyGroup) Receive(now time.Time, c int, source netip.Addr, a vrrp.Advertisement) vrrp.Output {
	if h.State() == vrrp.Backup {
		a.Interval = 2 * a.Interval / 3
	}
	return h.Group.Receive(now, c, source, a)
}

type stubbornGroup struct{ *vrrp.Group }

func (s stubbornGroup) SetLinks(now time.Time, up []bool) vrrp.Output {
	return s.Group.SetLinks(now, slices.Repeat([]bool{true}, len(up)))
}

// shifted is a group whose clock is off.
type shifted struct {
	*vrrp.Group
	by func() time.Duration
}

func (s shifted) Start(now time.Time) vrrp.Output { return s.Group.Start(now.Add(s.by())) }
func (s shifted) Tick(now time.Time) vrrp.Output  { return s.Group.Tick(now.Add(s.by())) }

func (s shifted) Stop(now time.Time, why vrrp.Reason) vrrp.Output {
	return s.Group.Stop(now.Add(s.by()), why)
}

func (s shifted) Receive(now time.Time, c int, source netip.Addr, a vrrp.Advertisement) vrrp.Output {
	return s.Group.Receive(now.Add(s.by()), c, source, a)
}

func (s shifted) ReceiveHeartbeat(now time.Time, h vrrp.Heartbeat) vrrp.Output {
	return s.Group.ReceiveHeartbeat(now.Add(s.by()), h)
}

func (s shifted) SetFitness(now time.Time, f vrrp.Fitness) vrrp.Output {
	return s.Group.SetFitness(now.Add(s.by()), f)
}

func (s shifted) SetLinks(now time.Time, up []bool) vrrp.Output {
	return s.Group.SetLinks(now.Add(s.by()), up)
}

func (s shifted) Heartbeat(now time.Time) vrrp.Heartbeat {
	return s.Group.Heartbeat(now.Add(s.by()))
}

func (s shifted) Handover(now time.Time) (vrrp.Output, error) {
	return s.Group.Handover(now.Add(s.by()))
}

func (s shifted) Reconfigure(now time.Time, cfg vrrp.GroupConfig) (vrrp.Output, error) {
	return s.Group.Reconfigure(now.Add(s.by()), cfg)
}

func (s shifted) Deadline() time.Time {
	at := s.Group.Deadline()
	if at.IsZero() {
		return at
	}
	return at.Add(-s.by())
}
