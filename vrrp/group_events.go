package vrrp

import (
	"errors"
	"math"
	"net/netip"
	"time"
)

// patience is how long a BACKUP whose session table is not complete leaves the
// role with a less fit MASTER: long enough for a table to be transferred, short
// enough for new connections.
const patience = 2 * time.Second

// commonCause is how long two members may take to notice that a switch of both has
// failed, or works again: each looks at its links every 10 ms.
const commonCause = 20 * time.Millisecond

// Start is the Startup event, RFC 9568 §6.4.1.
func (g *Group) Start(now time.Time) Output {
	var out Output
	if g.state != Initialize {
		return out
	}
	// Whatever lease a predecessor left behind is not ours.
	out.Revoke = true
	g.activeInterval = g.cfg.Interval
	g.heartbeat(now, &out)
	if g.cfg.Priority == PriorityOwner {
		g.becomeMaster(now, ReasonOwner, &out)
		return out
	}
	g.becomeBackup(now, ReasonStartup, &out)
	return out
}

// Stop is the Shutdown event, RFC 9568 §6.4.2 and §6.4.3: a MASTER says goodbye
// with priority 0, which also closes its lease.
func (g *Group) Stop(now time.Time, why Reason) Output {
	var out Output
	if g.state == Initialize {
		return out
	}
	if g.state == Master && !g.stepDownIfStalled(now, &out) {
		// The priority-0 advert closes the lease as it leaves; the revocation makes
		// sure of it where no link is up to carry one.
		out.Revoke, out.Advertise, out.Priority = true, true, 0
	}
	g.endLinger(&out)
	g.transit(Initialize, why, &out)
	g.downAt, g.advertAt, g.heartbeatAt = time.Time{}, time.Time{}, time.Time{}
	g.handoverUntil, g.assumeUntil, g.offerAt = time.Time{}, time.Time{}, time.Time{}
	g.forgetBeats()
	g.unproven, g.provenAt = false, time.Time{}
	out.Heartbeat = g.cfg.HasPeer
	return out
}

// Tick lets the time pass. The shell must first have handed over everything that
// waits in the sockets: after a stall, an advert in the queue is worth more than
// a timer that has run out.
func (g *Group) Tick(now time.Time) Output {
	var out Output
	if g.stepDownIfStalled(now, &out) {
		return out
	}
	if due(g.handoverUntil, now) {
		g.handoverUntil, g.planned = time.Time{}, false
		g.heartbeat(now, &out) // the peer must know that the offer is off
	}
	switch g.state {
	case Backup:
		if g.tickQuestion(now, &out) {
			g.becomeMaster(now, ReasonPeerSilent, &out)
			break
		}
		g.tickBackup(now, &out)
	case Master:
		g.prove(now)
		g.considerHandover(now, &out)
		if due(g.advertAt, now) {
			g.advertise(now, &out)
		}
	case Initialize:
	}
	if due(g.heartbeatAt, now) {
		g.heartbeat(now, &out)
	}
	return out
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// tickBackup is the end of Active_Down_Timer, RFC 9568 §6.4.2.
func (g *Group) tickBackup(now time.Time, out *Output) {
	if !due(g.downAt, now) {
		return
	}
	// Who wakes up late has proof of its own stall, not of the peer's death: give
	// a living MASTER the time of one more advert.
	if now.Sub(g.downAt) > g.activeInterval && !g.graced {
		g.graced = true
		g.downAt = now.Add(g.activeInterval + g.SkewTime())
		return
	}
	if !g.askUntil.IsZero() {
		// A question has been asked; its answer is near and worth more.
		g.downAt = g.askUntil
		return
	}
	if !g.usable() && g.cfg.HasPeer {
		g.waitForSilence(now)
		return
	}
	if g.changedItsMind(now) {
		return
	}
	g.becomeMaster(now, g.downReason, out)
}

// waitForSilence begins the wait for a silent MASTER anew, with the interval that it
// was last heard to have.
func (g *Group) waitForSilence(now time.Time) {
	if g.downReason == ReasonPreempted || g.downReason == ReasonPeerImpaired {
		g.downReason, g.activeInterval = ReasonPeerSilent, g.heardInterval
	}
	g.armDown(now)
}

// changedItsMind tells that this node meant to take over from a living MASTER
// and is no longer able or allowed to, and lets it wait for silence instead.
func (g *Group) changedItsMind(now time.Time) bool {
	if g.downReason != ReasonPreempted && g.downReason != ReasonPeerImpaired || g.preempts(now, g.heardPriority) {
		return false
	}
	g.downReason, g.activeInterval = ReasonPeerSilent, g.heardInterval
	g.downAt = g.heardAt.Add(g.DownInterval())
	return !due(g.downAt, now)
}

// stepDownIfStalled makes a MASTER that slept through its own lease a BACKUP: the
// kernel has fenced it and the peer may be MASTER. Between the end of the lease
// and the end of the shortest down interval nobody can have taken over yet, so
// half of that time still counts as awake.
func (g *Group) stepDownIfStalled(now time.Time, out *Output) bool {
	g.noticeStall(now)
	if g.state != Master || now.Before(g.stallAt) {
		return false
	}
	g.stalledAt = now
	g.becomeBackup(now, ReasonOwnStall, out)
	return true
}

// Receive takes an advert that came in by a carrier and passed validation.
func (g *Group) Receive(now time.Time, carrier int, source netip.Addr, a Advertisement) Output {
	var out Output
	if g.state == Initialize {
		return out
	}
	g.stepDownIfStalled(now, &out)
	peer := g.fromPeer(carrier, source)
	if peer {
		g.peer.HeardAt, g.heardOn[carrier], g.met = now, now, true
		if a.Priority == PriorityQuestion {
			g.answer(now, &out)
			return out
		}
	}
	if a.Priority == PriorityLeaving && g.beatsTell(now) {
		return out
	}
	if peer {
		g.peer.Priority = a.Priority
		if a.Priority > 0 {
			g.peer.State = Master
		}
	}
	a.Interval = g.believable(now, peer, source, a)
	if g.state == Backup {
		g.heardMaster(now)
		g.receiveBackup(now, peer, a)
		return out
	}
	if peer && a.Priority > 0 && g.suspect(now) {
		g.activeInterval = a.Interval
		g.becomeBackup(now, ReasonOwnStall, &out)
		return out
	}
	g.receiveMaster(now, carrier, source, a, &out)
	return out
}

// answerFraction bounds the answers to questions to this many per interval.
const answerFraction = 100

// answer tells a BACKUP that asks that this MASTER lives.
func (g *Group) answer(now time.Time, out *Output) {
	if g.state == Master && now.Sub(g.sentAt) >= g.cfg.Interval/answerFraction {
		g.advertise(now, out)
	}
}

// receiveBackup is RFC 9568 §6.4.2, "If an ADVERTISEMENT is received".
func (g *Group) receiveBackup(now time.Time, peer bool, a Advertisement) {
	g.graced = false
	g.heardAt, g.heardPeer, g.heardPriority, g.heardInterval = now, peer, a.Priority, a.Interval
	if a.Priority == 0 {
		g.downReason = ReasonPeerStopped
		g.downAt = now.Add(g.SkewTime())
		return
	}
	if g.preempts(now, a.Priority) {
		return // discarded: the timer runs on
	}
	g.activeInterval = a.Interval
	g.downReason = ReasonPeerSilent
	g.armDown(now)
}

// preempts tells whether a BACKUP means to take over from a MASTER with that
// priority.
func (g *Group) preempts(now time.Time, priority uint8) bool {
	mine := g.Priority()
	lowerBand := g.heardPeer && band(priority) < band(mine)
	if !lowerBand {
		g.impairedSince = time.Time{}
	} else if g.impairedSince.IsZero() {
		g.impairedSince = now
	}
	if priority >= mine || !g.usable() {
		g.preemptSince = time.Time{}
		return false
	}
	if lowerBand {
		g.downReason = ReasonPeerImpaired
		return g.fitness.Ready || now.Sub(g.impairedSince) >= patience
	}
	g.downReason = ReasonPreempted
	// The owner of the addresses preempts in any case (RFC 9568 §6.1).
	willing := g.cfg.Preempt || g.cfg.Priority == PriorityOwner
	if !willing || g.yielded || !g.fitness.Ready {
		g.preemptSince = time.Time{}
		return false
	}
	if g.preemptSince.IsZero() {
		g.preemptSince = now
	}
	return now.Sub(g.preemptSince) >= g.cfg.PreemptDelay
}

// receiveMaster is RFC 9568 §6.4.3, "If an ADVERTISEMENT is received".
func (g *Group) receiveMaster(now time.Time, carrier int, source netip.Addr, a Advertisement, out *Output) {
	switch {
	case a.Priority == 0:
		g.advertise(now, out)
	case g.HandingOver():
		g.activeInterval = a.Interval
		g.yield(now, g.fromPeer(carrier, source), out)
	case g.wins(a.Priority, source, carrier) && (now.After(g.assumeUntil) || !g.fromPeer(carrier, source)):
		g.activeInterval = a.Interval
		g.becomeBackup(now, ReasonBetterPeer, out)
	case now.Sub(g.answeredAt) >= g.cfg.Interval/replyFraction:
		g.answeredAt = now
		// A losing advert is answered at once, on every carrier: bridges learn the
		// way back and the other MASTER gives up. The addresses are announced too,
		// because hosts may have listened to it meanwhile.
		g.advertise(now, out)
		out.Announce = true
	}
}

// replyFraction bounds the answers to losing adverts to this many per interval,
// so that a flood of them is not doubled by us. A regular advert that left just before
// is no answer: the other MASTER may have become it in between.
const replyFraction = 20

// wins tells whether an advert beats this MASTER: RFC 9568 §6.4.3, greater
// priority, or equal priority and the greater primary address.
func (g *Group) wins(priority uint8, source netip.Addr, carrier int) bool {
	mine := g.Priority()
	if priority != mine {
		return priority > mine
	}
	if carrier < 0 || carrier >= len(g.cfg.Carriers) {
		return false
	}
	return source.Compare(g.cfg.Carriers[carrier].Source) > 0
}

// SetFitness tells how fit the node is now.
func (g *Group) SetFitness(now time.Time, f Fitness) Output {
	var out Output
	if g.stepDownIfStalled(now, &out) {
		g.fitness = f
		return out
	}
	before := g.Priority()
	changed := g.fitness != f
	g.fitness = f
	if !f.Ready {
		g.preemptSince = time.Time{} // the delay is of a member that is ready all the time
	}
	if g.state == Initialize || !changed {
		return out
	}
	g.heartbeat(now, &out)
	if g.state == Master {
		g.considerHandover(now, &out)
		if band(before) != band(g.Priority()) {
			g.advertise(now, &out)
		}
	}
	return out
}

// Errors of [Group.Handover].
var (
	ErrNotMaster    = errors.New("this node is not MASTER")
	ErrPeerSilent   = errors.New("the peer is not heard on the HA link")
	ErrPeerNotReady = errors.New("the peer's session table is not complete, so sessions would be lost")
	ErrPeerLessFit  = errors.New("the peer is less fit than this node: a link of it is down or has just come back")
)

// Handover offers the role to the peer, make before break: this node stays MASTER
// until it hears the peer's first advert.
func (g *Group) Handover(now time.Time) (Output, error) {
	var out Output
	if g.stepDownIfStalled(now, &out) || g.state != Master {
		return out, ErrNotMaster
	}
	switch {
	case !g.peerHeartbeatFresh(now) || g.peer.State != Backup:
		return out, ErrPeerSilent
	case band(g.peer.Priority) < band(g.Priority()):
		return out, ErrPeerLessFit
	case !g.peer.Ready:
		return out, ErrPeerNotReady
	}
	g.planned = true
	g.offer(now, &out)
	return out, nil
}

// yield completes an offered handover. After a planned one Preempt rests, or this
// node would take the role back at once.
func (g *Group) yield(now time.Time, toPeer bool, out *Output) {
	planned := g.planned
	g.becomeBackup(now, ReasonHandover, out)
	g.yielded = planned
	if toPeer {
		// Silent, but with an open fence: the next heartbeat closes it.
		out.Revoke, out.Heartbeat = false, false
		g.lingering, g.heartbeatAt = true, now.Add(handoverLinger)
	}
}

// handoverLinger is for how long the old MASTER still forwards what comes to it after
// the peer's first advert. That advert may be on its way by the other carriers, and what
// was being forwarded at that moment takes the switches' ports back: replies to it would
// meet a closed fence. It is shorter than the rest of any lease.
const handoverLinger = 2 * time.Millisecond

// endLinger closes the fence of an old MASTER.
func (g *Group) endLinger(out *Output) {
	out.Revoke = out.Revoke || g.lingering
	g.lingering = false
}

func (g *Group) offer(now time.Time, out *Output) {
	g.handoverUntil = now.Add(2 * g.DownInterval())
	g.heartbeat(now, out)
}

// considerHandover offers the role to a peer that is fitter than this MASTER.
//
// Not at once: the switch that died may be the peer's as well, or the one that is back,
// and a peer that has not noticed yet would take the role for nothing.
func (g *Group) considerHandover(now time.Time, out *Output) {
	if !g.peerHeartbeatFresh(now) || g.peer.State != Backup || band(g.peer.Priority) <= band(g.Priority()) {
		g.impairedSince, g.offerAt = time.Time{}, time.Time{}
		return
	}
	if g.impairedSince.IsZero() {
		g.impairedSince, g.offerAt = now, now.Add(commonCause)
	}
	if now.Before(g.offerAt) {
		return
	}
	g.offerAt = time.Time{}
	if g.HandingOver() || !g.peer.Ready && now.Sub(g.impairedSince) < patience {
		return
	}
	g.offer(now, out)
}

func (g *Group) peerHeartbeatFresh(now time.Time) bool {
	return !g.peer.HeartbeatAt.IsZero() && now.Sub(g.peer.HeartbeatAt) < g.DownInterval()
}

// becomeMaster is the common part of RFC 9568 §6.4.1 and §6.4.2: advert first,
// then the announcements, then Adver_Timer.
func (g *Group) becomeMaster(now time.Time, why Reason, out *Output) {
	if g.term < math.MaxUint64 { // a peer may have said that it is
		g.term++
	}
	g.downAt, g.impairedSince, g.offerAt, g.preemptSince = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	g.forgetBeats()
	// Who preempts has heard a MASTER, and must not lose against it for being modest.
	preempting := why == ReasonPreempted || why == ReasonPeerImpaired
	if g.unproven = g.cfg.HasPeer && !g.met && !preempting; g.unproven {
		g.provenAt = now.Add(provenAfter)
	}
	g.graced, g.yielded, g.lingering = false, false, false
	g.activeInterval, g.hurried = g.cfg.Interval, 0
	g.transit(Master, why, out)
	g.answeredAt = now
	out.Revoke = false
	g.advertise(now, out)
	out.Announce = true
	g.heartbeat(now, out)
}

// becomeBackup arms Active_Down_Timer; a MASTER's lease is closed first.
func (g *Group) becomeBackup(now time.Time, why Reason, out *Output) {
	if g.state == Master {
		*out = Output{Revoke: true}
	}
	g.advertAt, g.handoverUntil, g.assumeUntil, g.impairedSince = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	g.suspectUntil, g.preemptSince, g.unheardSince, g.offerAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	g.unproven, g.provenAt = false, time.Time{}
	g.downReason = ReasonPeerSilent
	g.planned = false
	g.heardInterval = g.activeInterval
	g.transit(Backup, why, out)
	g.armDown(now)
	g.heartbeat(now, out)
}

func (g *Group) transit(to State, why Reason, out *Output) {
	out.Transition = &Transition{From: g.state, To: to, Reason: why, Term: g.term}
	g.state = to
	g.transitions++
}

func (g *Group) armDown(now time.Time) { g.downAt = now.Add(g.DownInterval()) }

func (g *Group) advertise(now time.Time, out *Output) {
	out.Advertise, out.Priority = true, g.Priority()
	g.sentAt, g.renewedAt = now, now
	g.leaseUntil = now.Add(g.cfg.Lease)
	// A peer that learned this interval, and hears no heartbeats, waits for three
	// intervals at least; one that hears them waits until a stall would have ended.
	awake := g.cfg.Interval * 11 / 4
	if g.cfg.Beat > 0 {
		awake = max(awake, maxStall+g.cfg.Interval)
	}
	g.stallAt = now.Add(awake)
	g.advertAt = now.Add(g.cfg.Interval)
	if g.hurried > 0 {
		g.hurried--
		g.advertAt = now.Add(min(g.hurry, g.cfg.Interval))
	}
}

func (g *Group) heartbeat(now time.Time, out *Output) {
	g.endLinger(out)
	if !g.cfg.HasPeer {
		g.heartbeatAt = time.Time{}
		return
	}
	out.Heartbeat = true
	g.heartbeatAt = now.Add(g.cfg.Interval)
	if g.HandingOver() {
		g.heartbeatAt = now.Add(g.cfg.Interval / 4)
	}
	if g.state == Master && g.cfg.Beat > 0 {
		g.heartbeatAt = now.Add(g.cfg.Beat)
		g.renew(now, out)
	}
}
