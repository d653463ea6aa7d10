package vrrp

import (
	"net/netip"
	"slices"
	"time"
)

// provenAfter is how long a MASTER that has never met its peer advertises the lowest
// healthy priority. A node that boots behind switch ports that do not forward yet
// believes to be alone; when they open, it must lose against the MASTER that it did not
// hear, whatever the configured priorities say. The slowest of such ports take 30 s
// (IEEE 802.1D, two forward delays) and some for links to aggregate.
const provenAfter = time.Minute

// prove ends the doubt about a MASTER that has not met its peer: in time, or because
// the peer says in a heartbeat that it is no MASTER.
func (g *Group) prove(now time.Time) {
	if due(g.provenAt, now) {
		g.unproven, g.provenAt = false, time.Time{}
	}
}

// proveByPeer ends the doubt at once when the peer is no MASTER.
func (g *Group) proveByPeer(now time.Time, h Heartbeat, out *Output) {
	if !g.unproven || h.State == Master {
		return
	}
	doubted := g.Priority()
	g.unproven, g.provenAt = false, time.Time{}
	if g.Priority() != doubted {
		g.advertise(now, out)
		out.Announce = true // the peer may have been MASTER, too, before they met
	}
}

// unheard tells that this MASTER is mute: the peer has taken over, says so in
// heartbeats that come in, and says that by no carrier it hears this node. Whatever
// the priorities, the one who is heard must go on. A down interval leaves the time for
// adverts to get through where two MASTERs have only just met.
func (g *Group) unheard(now time.Time, h Heartbeat) bool {
	if h.State != Master || g.peer.Hears == nil || slices.Contains(g.peer.Hears, true) {
		g.unheardSince = time.Time{}
		return false
	}
	if g.unheardSince.IsZero() {
		g.unheardSince = now
	}
	return now.Sub(g.unheardSince) >= g.DownInterval()
}

// beatsTell tells that a MASTER's authenticated heartbeats come in as promised. Then
// they say that it leaves, too, and a goodbye in its name on a network, which anybody
// can send, is not believed.
func (g *Group) beatsTell(now time.Time) bool {
	return g.state == Backup && !g.askAt.IsZero() && now.Before(g.askAt) && g.peer.State == Master
}

// heardGoodbye lets the heartbeat of a MASTER that stops in order count like an
// advert of priority 0 (RFC 9568 §6.4.2).
func (g *Group) heardGoodbye(now time.Time) {
	g.downReason = ReasonPeerStopped
	g.downAt = now.Add(g.SkewTime())
}

// stranger is a router outside the group whose adverts this node obeys.
type stranger struct {
	source   netip.Addr
	priority uint8
	interval time.Duration
	heardAt  time.Time
	// confirmed tells that a second advert came within the promised time.
	confirmed bool
	// taught is the interval that was believed.
	taught time.Duration
}

// The longest interval that a stranger's first advert can teach, in own intervals and at
// least.
const (
	unconfirmedIntervals = 10
	unconfirmedInterval  = time.Second
)

// believable bounds the interval that a router outside of a pair teaches by a single
// advert: else one forged packet would silence the pair for two minutes. The second
// advert that comes in time confirms the first.
func (g *Group) believable(now time.Time, peer bool, source netip.Addr, a Advertisement) time.Duration {
	interval := a.Interval
	s := &g.stranger
	switch {
	case !g.cfg.HasPeer:
		return interval
	case peer && s.priority > a.Priority && s.alive(now):
		// The member that has just lost against it may be heard later, by a slower
		// carrier, and must not shorten the wait for it.
		return max(interval, s.taught)
	case peer:
		return interval
	}
	same := s.source == source && s.interval == interval
	s.confirmed = same && (s.confirmed || now.Sub(s.heardAt) <= 2*interval)
	s.source, s.priority, s.interval, s.heardAt = source, a.Priority, interval, now
	s.taught = interval
	if !s.confirmed {
		s.taught = min(interval, max(unconfirmedIntervals*g.cfg.Interval, unconfirmedInterval))
	}
	return s.taught
}

// outranked tells that a router outside of the pair is MASTER and would stay it. To take
// a role over only to lose it to that router helps nobody.
func (g *Group) outranked(now time.Time) bool {
	return g.stranger.priority > g.Priority() && g.stranger.alive(now)
}

// alive tells that it was heard within three of its intervals.
func (s *stranger) alive(now time.Time) bool { return now.Sub(s.heardAt) < 3*s.taught }
