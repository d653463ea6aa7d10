package sim

import (
	"time"

	"tandem/vrrp"
)

// rule is something that must always hold.
type rule int

const (
	// ruleWorld: the simulation itself is wrong.
	ruleWorld rule = iota
	ruleOneSpeaker
	ruleServed
	ruleLease
	ruleCause
	ruleQuiet
	ruleOpinion
	ruleStall
	ruleSpeech
	ruleYield
	ruleAnswer
	ruleAnnounce
	ruleGoodbye
	ruleReady
	ruleBothBad
	ruleIsolated
	ruleReplay
	ruleDeadline
	ruleEnd
	ruleDwell
	rules
)

// String returns the rule as a sentence.
func (r rule) String() string {
	return [rules]string{
		"the simulation must be right",
		"at most one machine speaks, but for a bounded time after they meet",
		"somebody speaks, but for a bounded time",
		"a lease is opened by the MASTER's own frames and ends in time",
		"every change of role has the cause that it names",
		"without a disturbance no role changes",
		"nobody takes over from a MASTER that would answer a question",
		"nobody takes over from a MASTER with power before its stall may have ended",
		"only a MASTER sends adverts, renews and announces",
		"a MASTER yields to a better advert",
		"a losing advert is answered at once",
		"after two MASTERs the one that stays announces on all carriers",
		"a goodbye is followed by a takeover within Skew_Time",
		"nobody preempts before its session table is complete",
		"two that are equally bad leave the role where it is",
		"a member without any link is no MASTER",
		"no heartbeat is trusted twice",
		"a deadline lies in the future",
		"in the end there is one MASTER, the right one",
		"flapping links move the role no more often than they may",
	}[r]
}

// watch follows the fences of all machines, and what can be known of whom.
type watch struct {
	// stale tells that a link, a process or a configuration has changed.
	stale bool
	// clearSince is since when every packet between two machines takes one carrier at
	// least, both ways, and both processes run; never while that is not so.
	clearSince [maxMachines][maxMachines]time.Duration
	// askable is, for every fenced carrier, since when a question and its answer get
	// through between the members; notYet while they do not.
	askable [carriers]time.Duration
	// overlapSince is since when the fences of two machines are open; never if not.
	overlapSince [maxMachines][maxMachines]time.Duration
	overlapMax   time.Duration
	// closedSince is since when no fence is open; never if one is.
	closedSince, closedMax time.Duration
}

func newWatch() watch {
	v := watch{stale: true, closedSince: never}
	for i := range maxMachines {
		for j := range maxMachines {
			v.clearSince[i][j], v.overlapSince[i][j] = never, never
		}
	}
	for c := range carriers {
		v.askable[c] = notYet
	}
	return v
}

func (v *watch) askableSince() time.Duration {
	since := notYet
	for c := range ha {
		since = min(since, v.askable[c])
	}
	return since
}

// look checks what must hold at every moment.
func (w *world) look() {
	if w.watch.stale {
		w.watch.stale = false
		w.lookAtLinks()
	}
	open := 0
	for _, m := range w.machines {
		if m.open() {
			open++
			m.checkLease()
		}
		if serves := m.running() && m.group.State() == vrrp.Master; !serves {
			m.servedSince = notYet
		} else if m.servedSince == notYet {
			m.servedSince = w.now
		}
	}
	for i, a := range w.machines {
		for _, b := range w.machines[i+1:] {
			w.lookAtPair(a, b)
		}
	}
	w.lookForSpeaker(open)
}

// lookAtLinks follows who can know of whom.
func (w *world) lookAtLinks() {
	v := &w.watch
	for i, a := range w.machines {
		for _, b := range w.machines[i+1:] {
			switch clear := a.running() && b.running() && w.hears(a, b) && w.hears(b, a); {
			case !clear:
				v.clearSince[a.id][b.id] = never
			case v.clearSince[a.id][b.id] == never:
				v.clearSince[a.id][b.id] = w.now
			}
		}
		switch powered := a.powered() && a.group != nil; {
		case !powered:
			a.poweredSince = notYet
		case a.poweredSince == notYet:
			a.poweredSince = w.now
		}
		switch well := a.well(); {
		case !well:
			a.wellSince = notYet
		case a.wellSince == notYet:
			a.wellSince = w.now
		}
	}
	a, b := w.members[0], w.members[1]
	for c := range ha {
		switch ok := w.passes(a, b, c) && w.passes(b, a, c); {
		case !ok:
			v.askable[c] = notYet
		case v.askable[c] == notYet:
			v.askable[c] = w.now
		}
	}
}

// well tells that a member could serve everybody, and knows it.
func (m *machine) well() bool {
	if m.slot < 0 || m != m.w.members[m.slot] || !m.running() || m.node.fitness.Failed > 0 || m.past.isolated {
		return false
	}
	for _, c := range m.carriers {
		if c.fenced() && !m.w.up(m, c) {
			return false
		}
	}
	return true
}

// checkLease demands that the fence was opened within the lease's time, which
// is shorter than what anybody waits before taking over.
func (m *machine) checkLease() {
	w := m.w
	if w.now-m.leftAt > w.drifted(m.leftLease) {
		w.fail(ruleLease, "%s is open %v after its lease was renewed, for %v", m.name(), w.now-m.leftAt, m.leftLease)
	}
}

// lookAtPair bounds for how long two machines may both be open.
func (w *world) lookAtPair(a, b *machine) {
	v := &w.watch
	since := &v.overlapSince[a.id][b.id]
	if !a.open() || !b.open() || !w.share(a, b) {
		*since = never
		return
	}
	if *since == never {
		*since = w.now
		w.note("overlap", a.id, uint64(b.id))
	}
	v.overlapMax = max(v.overlapMax, w.now-*since)
	clear := v.clearSince[a.id][b.id]
	if clear == never {
		return
	}
	if since := w.now - max(*since, clear); since > w.overlapBound(a, b) {
		w.fail(ruleOneSpeaker, "%s and %s are open for %v since they can hear each other, bound %v",
			a.name(), b.name(), since, w.overlapBound(a, b))
	}
}

// share tells that two machines stand on a network together, or are the members.
func (w *world) share(a, b *machine) bool {
	if a.slot >= 0 && b.slot >= 0 {
		return true
	}
	for c := range ha {
		if a.has(c) && b.has(c) && w.up(a, c) && w.up(b, c) {
			return true
		}
	}
	return false
}

// lookForSpeaker bounds for how long nobody is open.
func (w *world) lookForSpeaker(open int) {
	v := &w.watch
	if open > 0 {
		v.closedSince = never
		return
	}
	if v.closedSince == never {
		v.closedSince = w.now
	}
	v.closedMax = max(v.closedMax, w.now-v.closedSince)
	well := min(w.members[0].wellSince, w.members[1].wellSince)
	if well == notYet {
		return
	}
	if since := w.now - max(v.closedSince, well); since > w.servedBound() {
		w.fail(ruleServed, "nobody speaks for %v, although a machine is well, bound %v", since, w.servedBound())
	}
}

// checkQuiet demands that a transition follows a disturbance.
func (w *world) checkQuiet(m *machine, t vrrp.Transition) {
	if since := w.now - w.disturbedAt; w.broken == 0 && since > w.settleTime() {
		w.fail(ruleQuiet, "%s becomes %v (%v), %v after the last disturbance (%s), bound %v",
			m.name(), t.To, t.Reason, since, w.disturbance, w.settleTime())
	}
}

// yielded demands of whoever stays MASTER that it announces again, when another
// machine that was open beside it has closed its fence.
func (w *world) yielded(loser *machine) {
	if loser.slot < 0 {
		return
	}
	survivor := loser.peer()
	since := w.watch.overlapSince[min(loser.id, survivor.id)][max(loser.id, survivor.id)]
	if since == never || !survivor.is(vrrp.Master) || !w.passes(loser, survivor, ha) || !survivor.running() {
		return
	}
	closed, incarnation, woke, loserWoke := w.now, survivor.incarnation, survivor.past.wokeAt, loser.past.wokeAt
	if !survivor.knows(loser) {
		closed = since // only the other's adverts tell
		if survivor.past.contestedAt < since {
			return
		}
	}
	w.after(w.lag()+announceAgain+w.lingering(), func() {
		same := survivor.incarnation == incarnation && survivor.past.wokeAt == woke && survivor.running() && survivor.is(vrrp.Master)
		// Who stops in the moment in which its fence is still open says later that it has closed.
		lingers := !loser.running() || loser.past.wokeAt != loserWoke
		if !same || lingers || !loser.is(vrrp.Backup) || !w.passes(loser, survivor, ha) || w.links[ha].changedAt >= closed || survivor.past.introducedAt >= closed {
			return
		}
		for _, c := range survivor.carriers {
			if c.fenced() && w.up(survivor, c) && w.links[c].changedAt < closed && survivor.past.announcedAt[c] < closed {
				w.fail(ruleAnnounce, "%s does not announce on %v although %s was open beside it until %v ago",
					survivor.name(), c, loser.name(), w.now-closed)
			}
		}
	})
}

// knows tells that this MASTER will understand the other's heartbeat as the end of
// another mastership: it has proven itself, and was heard as MASTER, or with a newer
// term, or not for long. Two that became MASTER at the same time have the same term.
func (m *machine) knows(loser *machine) bool {
	peer := m.group.Peer()
	away := !peer.HeartbeatAt.IsZero() && m.now().Sub(peer.HeartbeatAt) >= m.group.DownInterval()
	return m.past.believes == loser.process() && (peer.State == vrrp.Master || loser.group.Term() > m.group.Term() || away)
}

// noteDwell measures for how long a member was MASTER before the other one.
func (w *world) noteDwell(m *machine) {
	if m.slot < 0 || m.slot == w.masterSlot {
		return
	}
	if w.masterSlot >= 0 {
		w.dwells = append(w.dwells, dwell{w.masterSlot, w.now - w.masterAt})
	}
	w.masterSlot, w.masterAt = m.slot, w.now
}
