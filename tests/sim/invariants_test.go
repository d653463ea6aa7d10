package sim

import (
	"net/netip"
	"time"

	"tandem/vrrp"
)

// never is a time before everything.
const never = -time.Hour

// past is what a process did and met, as far as it explains what it does next.
type past struct {
	// returnedAt is when the first link came up after all had been down.
	backupAt, returnedAt time.Duration
	// ownInterval was configured when the process became BACKUP.
	ownInterval time.Duration
	// sentAt and sentInterval are of the last advert that the machine sent.
	sentAt       time.Duration
	sentInterval time.Duration
	// heardAt is when an advert of a living MASTER last reached the socket; heard
	// is what the MASTER last said its priority was, and heardInterval its interval. The sockets are read
	// one after the other, so that one may be older.
	heardAt       time.Duration
	heard         uint8
	heardInterval time.Duration
	saidGoodbye   bool
	// beatAt is when a heartbeat of a MASTER was last handled, beat what it promised.
	// askedAt is of the last question.
	beatAt, beat, askedAt time.Duration
	// renewedAt is when the fence was last opened; suspectUntil is until when a
	// MASTER that slept through its lease may yield to any claim.
	renewedAt, suspectUntil time.Duration
	// wokeAt is when the last pause ended; graceUntil is until when a BACKUP that
	// missed its timer by it takes its own stall for the reason of the silence.
	wokeAt, graceUntil time.Duration
	// offeredAt and acceptedAt are of the last handover.
	offeredAt, acceptedAt time.Duration
}

func newPast(now, interval time.Duration) past {
	return past{
		backupAt: now, returnedAt: never, ownInterval: interval, sentAt: never, sentInterval: interval, heardInterval: interval,
		heardAt: never, wokeAt: now, graceUntil: never, offeredAt: never, acceptedAt: never,
		beatAt: never, askedAt: never, renewedAt: now, suspectUntil: never,
	}
}

// cause is what the machine was handling when it asked for something.
type cause struct {
	advert  *vrrp.Advertisement
	carrier carrier
	source  netip.Addr
	beat    *vrrp.Heartbeat
	stop    bool
}

// downMax is longer than any down interval of the run.
func (w *world) downMax() time.Duration { return 4 * w.intervalMax }

// beats tells whether an advert wins against a MASTER of the given priority,
// RFC 9568 §6.4.3.
func (n *node) losesTo(c carrier, source netip.Addr, priority uint8) bool {
	mine := n.process.Priority()
	return priority > mine || priority == mine && source.Compare(n.cfg.Carriers[c].Source) > 0
}

// heard checks what the handling of an advert has led to (RFC 9568 §6.4.2 and
// §6.4.3) and remembers it.
func (n *node) heard(before vrrp.State, c carrier, p advert, a vrrp.Advertisement) {
	if a.Priority != vrrp.PriorityQuestion {
		n.past.saidGoodbye = a.Priority == 0
	}
	if a.Priority > vrrp.PriorityQuestion {
		n.past.heard, n.past.heardInterval = a.Priority, a.Interval
	}
	after := n.process.State()
	if before == vrrp.Backup && after != vrrp.Backup {
		n.w.fail("node %d: an advert makes %v of a BACKUP", n.id, after)
	}
	if before != vrrp.Master || after != vrrp.Master {
		return
	}
	// After an accepted handover the old MASTER's adverts do not count for a while.
	accepted := n.w.now-n.past.acceptedAt <= 2*n.w.downMax()
	if a.Priority > 0 && n.losesTo(c, p.header.Source, a.Priority) && !accepted {
		n.w.fail("node %d stays MASTER with priority %d against an advert with %d from %v",
			n.id, n.process.Priority(), a.Priority, p.header.Source)
	}
	if n.w.now-n.past.sentAt > n.cfg.Interval/20 {
		n.w.fail("node %d, MASTER, leaves an advert with priority %d unanswered", n.id, a.Priority)
	}
}

// checkTransition demands a cause for every change of state: nothing flaps
// without a reason.
func (n *node) checkTransition(t vrrp.Transition, why cause) {
	n.transitions++
	p, now := &n.past, n.w.now
	reject := func(format string, args ...any) {
		n.w.fail("node %d becomes %v because %q, but "+format, append([]any{n.id, t.To, t.Reason}, args...)...)
	}
	switch t.Reason {
	case vrrp.ReasonStartup:
	case vrrp.ReasonPeerSilent:
		n.checkSilence(reject)
	case vrrp.ReasonPeerStopped:
		if !p.saidGoodbye {
			reject("nobody said so")
		}
	case vrrp.ReasonPeerImpaired:
		if p.heard >= vrrp.HealthyPriority || p.heard >= n.process.Priority() {
			reject("its priority was %d", p.heard)
		}
	case vrrp.ReasonPreempted:
		if p.heard >= n.process.Priority() || !n.cfg.Preempt || n.notReady > 0 && p.heard >= vrrp.HealthyPriority {
			reject("its priority was %d against %d, Preempt %v, not ready %d", p.heard, n.process.Priority(), n.cfg.Preempt, n.notReady)
		}
	case vrrp.ReasonBetterPeer:
		if why.advert == nil || !n.losesTo(why.carrier, why.source, why.advert.Priority) {
			reject("there is none")
		}
	case vrrp.ReasonHandover:
		n.checkHandover(t.To, why, reject)
	case vrrp.ReasonOwnStall:
		if now-p.sentAt < 5*p.sentInterval/2 && now > p.suspectUntil {
			reject("it advertised %v ago", now-p.sentAt)
		}
	case vrrp.ReasonIsolated:
		if n.usable {
			reject("a link is up")
		}
	case vrrp.ReasonShutdown:
		if !why.stop {
			reject("nobody asked")
		}
	case vrrp.ReasonOwner, vrrp.ReasonNodeLost:
		reject("that does not happen here")
	}
	if t.To == vrrp.Backup {
		p.backupAt, p.ownInterval = now, n.cfg.Interval
	}
}

// checkSilence demands that a BACKUP has waited for the MASTER: for a down interval,
// or for heartbeats and then for the answer to a question.
func (n *node) checkSilence(reject func(string, ...any)) {
	p, now := &n.past, n.w.now
	if !n.usable {
		reject("every link of it is down")
	}
	if now-max(p.heardAt, p.backupAt, p.returnedAt) >= 3*n.patienceInterval() {
		if now < p.graceUntil && now-p.askedAt > 2*p.beat {
			reject("it had slept itself, until %v ago", now-p.wokeAt)
		}
		return
	}
	if !n.w.beats || now-p.askedAt < p.beat || now-p.beatAt < p.beat*9/2 || max(p.heardAt, p.beatAt) > p.askedAt {
		reject("an advert came %v, a heartbeat %v and the first link %v ago, and it asked %v ago",
			now-p.heardAt, now-p.beatAt, now-p.returnedAt, now-p.askedAt)
	}
	if peer := n.w.nodes[1-n.id]; peer.servedSince < p.askedAt && n.w.watch.askableSince() < p.askedAt {
		reject("node %d would have answered the question of %v ago", peer.id, now-p.askedAt)
	}
}

// patienceInterval is what the down interval of a BACKUP is made of at least.
func (n *node) patienceInterval() time.Duration {
	switch p := &n.past; {
	case p.heardAt >= p.backupAt:
		return p.heardInterval
	case p.heardAt == never:
		return p.ownInterval
	default: // heard while it was MASTER, or stalled
		return min(p.ownInterval, p.heardInterval)
	}
}

func (n *node) checkHandover(to vrrp.State, why cause, reject func(string, ...any)) {
	if to == vrrp.Master {
		n.past.acceptedAt = n.w.now
		if why.beat == nil || !why.beat.TakeOver {
			reject("nobody offered it")
		}
		if !n.usable {
			reject("every link of it is down")
		}
		return
	}
	taken := why.beat != nil && why.beat.State == vrrp.Master || why.advert != nil && why.advert.Priority > 0
	if !taken || n.w.now-n.past.offeredAt > 2*n.w.downMax() {
		reject("nobody took it")
	}
}

// checkFence: who is not MASTER holds no lease.
func (n *node) checkFence() {
	if n.process.State() != vrrp.Master && n.fenceUntil > n.w.now {
		n.w.fail("node %d is %v and its fence stays open for %v", n.id, n.process.State(), n.fenceUntil-n.w.now)
	}
}

// checkOpening demands that a closed fence opens only where the other is closed,
// or where this node cannot know better: the advert that keeps the other open has
// not come through. Preemption and handover overlap on purpose.
func (n *node) checkOpening(t *vrrp.Transition) {
	peer := n.w.nodes[1-n.id]
	if peer.fenceUntil <= n.w.now {
		return
	}
	if t == nil {
		if n.w.now-n.past.sentAt >= 3*n.past.sentInterval {
			n.w.fail("node %d speaks again after %v, while node %d is open", n.id, n.w.now-n.past.sentAt, peer.id)
		}
		return
	}
	swap := t.Reason == vrrp.ReasonPreempted || t.Reason == vrrp.ReasonPeerImpaired || t.Reason == vrrp.ReasonHandover
	if !swap && peer.keptKnown {
		n.w.fail("node %d becomes MASTER (%v) while node %d is open by an advert that has come through", n.id, t.Reason, peer.id)
	}
}

// watch follows both fences.
type watch struct {
	// clearSince is since when every packet takes one carrier at least and both
	// processes run; never while that is not so.
	clearSince time.Duration
	// askable is, for every fenced carrier, since when a question and its answer get
	// through; notYet while they do not.
	askable [carriers]time.Duration
	// overlapSince is since when both fences are open; never if not.
	overlapSince, overlapMax time.Duration
	// servedFrom is from when one fence must always be open; closedSince is since
	// when none is.
	servedFrom, closedSince, closedMax time.Duration
}

const notYet = time.Duration(1<<63 - 1)

func newWatch() watch {
	v := watch{clearSince: never, overlapSince: never, servedFrom: notYet, closedSince: never}
	for c := range carriers {
		v.askable[c] = notYet
	}
	return v
}

func (v *watch) askableSince() time.Duration { return min(v.askable[lan], v.askable[wan]) }

func (w *world) watchQuestions() {
	for c := range ha {
		switch ok := w.clear(0, c) && w.clear(1, c); {
		case !ok:
			w.watch.askable[c] = notYet
		case w.watch.askable[c] == notYet:
			w.watch.askable[c] = w.now
		}
	}
	for _, n := range w.nodes {
		switch serves := n.running() && n.process.State() == vrrp.Master; {
		case !serves:
			n.servedSince = notYet
		case n.servedSince == notYet:
			n.servedSince = w.now
		}
	}
}

// disturbed tells that the nodes may rightly know nothing of each other.
func (w *world) disturbed() bool {
	for id, n := range w.nodes {
		if !n.running() || !w.clear(id, lan) && !w.clear(id, wan) && !w.clear(id, ha) {
			return true
		}
	}
	return false
}

// watchFences checks the leases, and how long both or none have been open.
func (w *world) watchFences() {
	v, open := &w.watch, 0
	for _, n := range w.nodes {
		if n.fenceUntil > w.now {
			open++
			if w.now-n.leftAt > n.leftLease {
				w.fail("node %d is open %v after its lease was renewed, for %v", n.id, w.now-n.leftAt, n.leftLease)
			}
		}
	}
	if w.disturbed() {
		v.clearSince = never
	} else if v.clearSince == never {
		v.clearSince = w.now
	}
	if w.beats {
		w.watchQuestions()
	}
	w.watchOverlap(open == 2)
	w.watchGap(open == 0)
}

func (w *world) watchOverlap(both bool) {
	v := &w.watch
	if !both {
		v.overlapSince = never
		return
	}
	if v.overlapSince == never {
		v.overlapSince = w.now
		w.note("overlap", -1)
	}
	v.overlapMax = max(v.overlapMax, w.now-v.overlapSince)
	if v.clearSince == never {
		return
	}
	if since := w.now - max(v.overlapSince, v.clearSince); since > w.overlapBound() {
		w.fail("both nodes are open for %v since they can hear each other, bound %v", since, w.overlapBound())
	}
}

// overlapBound is for how long both may be open once packets get through.
func (w *world) overlapBound() time.Duration {
	const slack = time.Millisecond
	v := &w.watch
	accepted := max(w.nodes[0].past.acceptedAt, w.nodes[1].past.acceptedAt)
	switch {
	case w.now-accepted < 3*w.downMax() && (!w.clear(0, ha) || !w.clear(1, ha)):
		// The old MASTER cannot say that its offer has lapsed.
		return 2*w.downMax() + w.intervalMax + 2*w.delayMax + slack
	case v.clearSince > v.overlapSince-2*w.intervalMax:
		// What was sent before may be lost: the next advert or heartbeat decides.
		return 2*(w.intervalMax+w.delayMax) + slack
	default:
		// The newcomer's advert, and the answer to it.
		return 2*w.delayMax + slack
	}
}

func (w *world) watchGap(none bool) {
	v := &w.watch
	if !none {
		v.closedSince = never
		return
	}
	if v.closedSince == never {
		v.closedSince = w.now
	}
	v.closedMax = max(v.closedMax, w.now-v.closedSince)
	if w.now >= v.servedFrom {
		w.fail("nobody is MASTER, %v after the last fault", w.now-v.servedFrom)
	}
}
