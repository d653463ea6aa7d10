package vrrp

import "time"

// Heartbeat is what the members of a group tell each other over the HA link,
// beside the adverts: a BACKUP sends no adverts, and an advert cannot say what a
// handover needs.
type Heartbeat struct {
	State    State
	Priority uint8
	// Ready is the sender's [Fitness].Ready.
	Ready bool
	// TakeOver asks the receiver to become MASTER now.
	TakeOver bool
	// Term is the sender's newest term of mastership.
	Term uint64
	// Beat is the time to the next heartbeat of a MASTER, in whole milliseconds
	// below 256; zero if it promises none.
	Beat time.Duration
	// Configuration is the digest of the sender's document.
	Configuration [DigestSize]byte
	// Hears is what [Group.Hears] returned to the sender; nil if it says nothing.
	Hears []bool
}

// Heartbeat returns what the group has to say now.
func (g *Group) Heartbeat(now time.Time) Heartbeat {
	return Heartbeat{
		State: g.state, Priority: g.Priority(), Ready: g.fitness.Ready,
		TakeOver: g.HandingOver(), Term: g.term, Beat: g.cfg.Beat,
		Configuration: g.cfg.Digest, Hears: g.Hears(now),
	}
}

// ReceiveHeartbeat takes an authenticated heartbeat of the peer.
func (g *Group) ReceiveHeartbeat(now time.Time, h Heartbeat) Output {
	var out Output
	yielded := g.peer.State == Master && h.State != Master
	away := !g.peer.HeartbeatAt.IsZero() && !g.peerHeartbeatFresh(now)
	g.peer = PeerState{
		HeardAt: now, State: h.State, Priority: h.Priority, Ready: h.Ready, HeartbeatAt: now,
		Configuration: h.Configuration,
	}
	if h.Configuration == g.cfg.Digest && len(h.Hears) == len(g.cfg.Carriers) {
		g.peer.Hears = h.Hears
	}
	g.met = true
	if g.state == Initialize {
		return out
	}
	stale, newer := h.Term < g.term, h.Term > g.term
	g.term = max(g.term, h.Term)
	if g.stepDownIfStalled(now, &out) {
		return out
	}
	g.heardBeat(now, h)
	switch g.state {
	case Backup:
		if h.TakeOver && h.State == Master && !stale && g.usable() && !g.overslept(now) && !g.outranked(now) {
			g.becomeMaster(now, ReasonHandover, &out)
			g.assumeUntil = now.Add(2 * g.DownInterval())
			return out
		}
		if yielded && h.State == Initialize && !g.overslept(now) && !g.outranked(now) {
			g.heardGoodbye(now)
		}
		g.heardMasterBeat(now, h)
	case Master:
		if g.HandingOver() && h.State == Master {
			g.yield(now, true, &out)
			return out
		}
		if g.unheard(now, h) {
			g.becomeBackup(now, ReasonUnheard, &out)
			g.yielded = true // or it would preempt, and be mute again
			return out
		}
		if g.suspect(now) && h.State == Master && newer {
			g.becomeBackup(now, ReasonOwnStall, &out)
			return out
		}
		if yielded || h.State != Master && (newer || away) {
			// What the peer still forwarded after this node's first adverts has taught
			// the switches its ports again. Now its fence is closed, so this lasts. A newer
			// term tells of a mastership that this node never heard of, and one may have
			// been whenever the peer was away.
			g.advertise(now, &out)
			out.Announce = true
			g.heartbeat(now, &out) // in step with the adverts
		}
		g.endAssumption(now, h)
		g.proveByPeer(now, h, &out)
		g.considerHandover(now, &out)
	case Initialize:
	}
	return out
}

// endAssumption lets the old MASTER's adverts count again: at once when its offer
// has lapsed, and when it has yielded as soon as none of before can be on its way.
func (g *Group) endAssumption(now time.Time, h Heartbeat) {
	switch {
	case h.State != Master:
		if latest := now.Add(g.activeInterval); latest.Before(g.assumeUntil) {
			g.assumeUntil = latest
		}
	case !h.TakeOver:
		g.assumeUntil = time.Time{}
	}
}

// heardMasterBeat lets a MASTER's heartbeat count as a sign of life like an advert.
// It does not take back a goodbye, which may have overtaken it.
func (g *Group) heardMasterBeat(now time.Time, h Heartbeat) {
	if h.State != Master || g.downReason == ReasonPeerStopped {
		return
	}
	g.heardAt, g.heardPeer, g.heardPriority = now, true, h.Priority
	if g.preempts(now, h.Priority) {
		return
	}
	g.downReason = ReasonPeerSilent
	g.armDown(now)
}

// overslept tells that this process missed its own heartbeat by so much, or its lease
// until a moment ago, that what waited for it in the socket may be long out of date. An
// offer that still stands is repeated.
func (g *Group) overslept(now time.Time) bool {
	if !g.stalledAt.IsZero() && now.Sub(g.stalledAt) < g.cfg.Interval/replyFraction {
		return true
	}
	return !g.heartbeatAt.IsZero() && now.Sub(g.heartbeatAt) > g.cfg.Interval
}
