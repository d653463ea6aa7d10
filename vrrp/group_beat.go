package vrrp

import (
	"net/netip"
	"time"
)

// PriorityQuestion is the priority of a BACKUP's question whether the MASTER
// lives. No member ever has it (impaired ones have 10 at least), so it loses
// against every MASTER, and a living one must answer at once (RFC 9568 §6.4.3).
const PriorityQuestion uint8 = 1

// The bounds of a beat.
const (
	minBeat = 5 * time.Millisecond
	maxBeat = 100 * time.Millisecond
	// beatsPerInterval is how many beats an advertisement interval has.
	beatsPerInterval = 5
)

// maxStall is how long the elector of a machine that has power may stall without
// losing the role. A kernel that does not preempt itself keeps even a real-time thread
// off its processor: gaps of 20 to 40 ms were seen on a machine with 2 cores under load.
const maxStall = 40 * time.Millisecond

// BeatFor returns the time between two heartbeats of a MASTER in a pair: a fifth
// of the advertisement interval, and half of the shortest one. It is in whole
// milliseconds for the intervals that there are (RFC 9568 §5.2.7).
func BeatFor(interval time.Duration) time.Duration {
	return min(max(interval/beatsPerInterval, minBeat), maxBeat)
}

// LeaseFor returns the lease time of a MASTER that renews it with its adverts
// alone: two and a half of them, which is half an advert less than the shortest down
// interval of a peer (RFC 9568 §6.1: three intervals and a skew that may be zero). So
// the kernel has fenced a silent MASTER before anybody takes over, one lost wake-up
// is forgiven, and the kernel's habit of rounding timeouts down to its tick costs
// nothing.
func LeaseFor(interval time.Duration) time.Duration { return interval * 5 / 2 }

// BeatLease returns the lease time of a MASTER that renews it with every beat. It
// ends when a peer asks, and before the peer has waited for the answer. The kernel takes
// whole milliseconds.
func BeatLease(beat time.Duration) time.Duration { return silentBeats(beat).Truncate(time.Millisecond) }

// silentBeats is after how long without a heartbeat a BACKUP asks.
func silentBeats(beat time.Duration) time.Duration { return beat * 7 / 2 }

// renew renews the lease of a MASTER between two adverts.
func (g *Group) renew(now time.Time, out *Output) {
	out.Renew = true
	g.renewedAt = now
	g.leaseUntil = now.Add(g.cfg.Lease)
}

// noticeStall remembers that this MASTER slept through its lease. That alone is no
// reason to step down, but for a while the peer's claim to be MASTER wins over any
// priority: it has taken over by right.
func (g *Group) noticeStall(now time.Time) {
	if g.state == Master && g.cfg.Beat > 0 && now.Sub(g.renewedAt) >= g.cfg.Lease {
		g.suspectUntil = now.Add(g.cfg.Interval)
	}
}

func (g *Group) suspect(now time.Time) bool { return now.Before(g.suspectUntil) }

// fromPeer tells whether an advert came from the other member.
func (g *Group) fromPeer(carrier int, source netip.Addr) bool {
	return carrier >= 0 && carrier < len(g.cfg.Carriers) && g.cfg.Carriers[carrier].Peer == source && source.IsValid()
}

// heardBeat notes a MASTER's heartbeat as a BACKUP: when the next ones stay away,
// a question is due.
func (g *Group) heardBeat(now time.Time, h Heartbeat) {
	g.forgetBeats()
	if g.state == Backup && h.State == Master && h.Beat > 0 {
		g.beat = h.Beat
		g.expectBeat(now)
	}
}

// expectBeat arms the timers of a MASTER's next beats. A heartbeat of this node finds
// out before the question whether anybody listens there.
func (g *Group) expectBeat(now time.Time) {
	g.aliveAt, g.refused = now, false
	g.askAt, g.probeAt = now.Add(silentBeats(g.beat)), now.Add(g.beat*5/2)
}

// heardMaster notes an advert as a BACKUP: its sender lives. One that comes as
// the answer to a question tells that only the HA link is silent; from then on
// the adverts alone count, until heartbeats come again.
func (g *Group) heardMaster(now time.Time) {
	switch {
	case !g.askUntil.IsZero():
		g.forgetBeats()
	case !g.askAt.IsZero():
		g.expectBeat(now)
	}
}

// ReceiveEcho tells that the peer's kernel has answered on an HA link what was sent
// with a question. The peer has power, so its elector's silence may be a stall.
func (g *Group) ReceiveEcho(time.Time) Output {
	g.kernelAlive = !g.askUntil.IsZero()
	return Output{}
}

// ReceiveRefusal tells that the peer's kernel has refused a heartbeat, because nobody
// listens: its elector is dead and not only slow, and renews no lease any more. Who is
// MASTER all the same, for only its socket is gone, answers the question.
func (g *Group) ReceiveRefusal(now time.Time) Output {
	if g.state != Backup || g.askAt.IsZero() && g.askUntil.IsZero() {
		return Output{}
	}
	g.refused = true
	if !g.askAt.IsZero() {
		g.askAt = now
	}
	return Output{}
}

// tickQuestion is the second opinion: when the heartbeats of a MASTER stay away,
// the BACKUP asks on the other carriers, twice, because a single question may be lost,
// and only if nobody answers there either is the MASTER dead. It reports whether it is.
// While the MASTER's kernel answers, it is asked again until maxStall has passed.
func (g *Group) tickQuestion(now time.Time, out *Output) bool {
	if due(g.probeAt, now) {
		g.probeAt = time.Time{}
		g.heartbeat(now, out)
	}
	if due(g.askUntil, now) {
		// Who slept may have missed the answer and asks again.
		again := now.Sub(g.askUntil) > g.beat || g.mayStall(now)
		g.endQuestion()
		if !again {
			return g.canAsk()
		}
		g.askAt = now
	}
	switch {
	case due(g.askAt, now):
		g.askAt = time.Time{}
		if g.canAsk() {
			out.Ask = true
			g.askAgainAt, g.askUntil = now.Add(g.beat/2), now.Add(g.beat)
			// A refusal may have made it early. The lease must have ended, by any clock.
			if ended := g.aliveAt.Add(silentBeats(g.beat) + g.beat/2); g.askUntil.Before(ended) {
				g.askUntil = ended
			}
		}
	case due(g.askAgainAt, now):
		g.askAgainAt = time.Time{}
		out.Ask = g.canAsk()
	}
	return false
}

// mayStall tells that the MASTER's elector may be about to go on: its kernel has just
// answered, has not refused the heartbeats, and the silence is no longer than a stall.
func (g *Group) mayStall(now time.Time) bool {
	return g.kernelAlive && !g.refused && now.Sub(g.aliveAt) < maxStall+g.beat
}

// endQuestion forgets a question that was asked.
func (g *Group) endQuestion() {
	g.askAgainAt, g.askUntil, g.kernelAlive = time.Time{}, time.Time{}, false
}

// forgetBeats expects no beats any more.
func (g *Group) forgetBeats() {
	g.endQuestion()
	g.askAt, g.probeAt, g.refused = time.Time{}, time.Time{}, false
}

// canAsk tells whether the link of any carrier beside the HA links is up. Without one,
// silence on these proves nothing.
func (g *Group) canAsk() bool {
	for i, c := range g.cfg.Carriers {
		if !c.Private && g.up[i] {
			return true
		}
	}
	return false
}
