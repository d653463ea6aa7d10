package replication

import (
	"fmt"
	"time"

	"tandem/conntracksync"
)

// rule is an invariant.
type rule string

const (
	ruleSurvives  rule = "what was acknowledged survives"
	ruleDead      rule = "nothing is resurrected"
	ruleEnds      rule = "the end of a living flow is not told"
	ruleEqual     rule = "the tables become equal"
	ruleComplete  rule = "complete means complete"
	ruleCompletes rule = "the table becomes complete, and stays so"
	ruleBackup    rule = "a flow does not expire on the BACKUP"
	ruleTimeouts  rule = "after a takeover flows have their normal time-outs"
	ruleEarly     rule = "no flow expires early on the MASTER"
	ruleBarrier   rule = "a barrier that passed has all before it in the peer's kernel"
	ruleWindows   rule = "a complete table has no windows of an earlier mastership"
	ruleBounds    rule = "queues keep their bounds"
	ruleIdle      rule = "nothing is sent but digests when nothing changes"
	ruleLoop      rule = "no repair without a cause"
	ruleSilence   rule = "only the MASTER tells"
	ruleTerm      rule = "a node that lost the term is not believed"
	ruleBackups   rule = "the MASTER's kernel is its own"
	ruleMasters   rule = "masters go before their children"
	ruleOwn       rule = "what is not replicated is left alone"
	ruleWire      rule = "frames parse"
	ruleStream    rule = "the stream has no gaps"
	ruleSpin      rule = "no deadline passes in vain"
	ruleDumps     rule = "a reading of the table comes to its end"
	ruleWorld     rule = "the world is in order"
)

// watch is what the invariants remember.
type watch struct {
	lookedAt    [2]time.Duration
	dumpLongest time.Duration
	spins       int
	spinAt      time.Duration
	// passes has when the last two readings of a node's table began.
	passes [2][2]time.Duration
	// calm counts those that began when nothing went wrong any more.
	calm [2]int
	// trimmed is when the time-outs of a new MASTER were put right, trimmedBy the
	// reading that led to that.
	trimmed   [2]time.Duration
	trimmedBy [2]uint64
	// trimmedFrom is when that reading began.
	trimmedFrom [2]time.Duration
	// completeAt is when the MASTER's table became complete after things were calm;
	// baseline are the counters of that moment.
	completeAt time.Duration
	baseline   [2]counters
	// frames counts what was sent, by type.
	frames [256]int
	// takeovers, kept and complete count what was put to the test.
	takeovers, kept, complete, barriers, refusals int
}

type counters struct {
	sender   conntracksync.SenderStats
	receiver conntracksync.ReceiverStats
}

func (n *node) counters() counters { return counters{n.sender.Stats(), n.receiver.Stats()} }

// calmPasses is after how many readings nothing is left of a fault: two take out what the
// table has too much, and the third finds what came meanwhile in the place of such a flow.
const calmPasses = 3

// spin notes a wake-up for nothing; too many at one time are a loop.
func (x *watch) spin(n *node) bool {
	if n.w.now-x.spinAt > time.Millisecond {
		x.spinAt, x.spins = n.w.now, 0
	}
	x.spins++
	return x.spins > 500
}

// passed notes that a reading of the table came to its end.
func (x *watch) passed(n *node, d *dump) {
	if n.w.phase != phaseFaults && d.began >= n.w.calmAt {
		x.calm[n.id]++
	}
	x.passes[n.id] = [2]time.Duration{x.passes[n.id][1], d.began}
	if d.sender && n.master && d.began >= n.promotedAt+n.w.tuning.sender.TrimDelay && x.trimmed[n.id] < n.promotedAt {
		x.trimmed[n.id], x.trimmedFrom[n.id], x.trimmedBy[n.id] = n.w.now, d.began, d.number
	}
}

func (x *watch) sent(w *world, n *node, f *conntracksync.Frame) {
	x.frames[f.Type]++
	if w.phase == phaseQuiet && x.completeAt > 0 && w.settled() && f.Type != conntracksync.FrameDigest && w.digests() {
		w.fail(ruleIdle, "%s sends a %v frame with %d records", nodeName(n.id), f.Type, len(f.Records))
	}
}

// digests tells whether both nodes have the feature.
func (w *world) digests() bool {
	return w.nodes[0].features&w.nodes[1].features&conntracksync.FeatureDigests != 0
}

// judgeLiving: a flow whose end the process knows, and that has not begun again, is not
// told to live, unless its end follows.
func (w *world) judgeLiving(n *node, r *conntracksync.Record, id identity) {
	s := &w.oracle.sides[n.id]
	if born, ended := s.ends[id]; ended && n.kernel.births[id] == born {
		s.dead = append(s.dead, id)
	}
	if !w.replicable(n, &r.Flow) && r.Kind == conntracksync.RecordRefresh {
		w.fail(ruleOwn, "%s tells of %s", nodeName(n.id), show(&r.Flow))
	}
}

// judgeAcknowledged: what is acknowledged is in the kernel at that moment, unless the
// kernel refused it or let it end.
func (w *world) judgeAcknowledged(n *node, s *side, news []identity) {
	for _, id := range news {
		f := s.told[id]
		if _, excused := n.kernel.gone[id]; f.ended || excused {
			continue
		}
		if n.kernel.unnoticed(id) {
			continue
		}
		if missing := w.missing(n, id, f); missing != "" {
			w.fail(ruleSurvives, "%s acknowledges %v, which %s", nodeName(n.id), id, missing)
		}
	}
}

// judgeOrder: in a repair a flow with a master comes after its master.
func (w *world) judgeOrder(n *node, r *conntracksync.Record) {
	s := &w.oracle.sides[n.id]
	if r.Kind != conntracksync.RecordRefresh || s.children == nil {
		return
	}
	if s.children[r.Flow.Key] {
		w.fail(ruleMasters, "%s tells of %s after a child of it", nodeName(n.id), show(&r.Flow))
	}
	if x := r.Flow.Extra; x != nil && x.HasMaster {
		s.children[x.Master] = true
	}
}

// checkWindows: a BACKUP that counts its table as complete has no windows that it learned
// as MASTER.
func (w *world) checkWindows(n *node) {
	if n.master || !n.receiver.Complete() {
		return
	}
	n.kernel.each(func(e *entry) {
		if e.learned && e.flow.Protocol == protocolTCP && w.both(&e.flow) && n.other().kernel.has(identify(&e.flow)) != nil &&
			w.now-max(e.windowAt, w.documentAt) > w.boundSweep(n) {
			w.fail(ruleWindows, "%s has %s with windows of %v", nodeName(n.id), show(&e.flow), e.windowAt)
		}
	})
}

// judgeDrained: all that waited was sent.
func (w *world) judgeDrained(n *node) {
	s := &w.oracle.sides[n.id]
	for _, id := range s.dead {
		if n.kernel.births[id] == s.ends[id] {
			w.fail(ruleDead, "%s tells of %v, the end of which it was told", nodeName(n.id), id)
		}
	}
	s.dead = nil
}

// judgeEnd: an end is told only after the kernel told of it, or after two passes
// without the flow. One that is not assured may be taken back and told again: a row of
// a dump can be newer than an event that comes after it.
func (w *world) judgeEnd(n *node, id identity, gone bool) {
	e := n.kernel.has(id)
	_, told := w.oracle.sides[n.id].ends[id]
	if !gone && !told && w.oracle.sides[n.id].last(id).status&conntracksync.StatusAssured != 0 && (e == nil || w.now-e.created > time.Second) {
		w.fail(ruleEnds, "%s tells the end of %v", nodeName(n.id), id)
	}
	if gone && e != nil && e.created < w.watch.passes[n.id][0] && w.replicable(n, &e.flow) && w.now-w.documentAt > w.passGap() {
		w.fail(ruleEnds, "%s says that %s is gone, and it lives", nodeName(n.id), show(&e.flow))
	}
}

// judgeTakeover: what the old MASTER's kernel had to the end, and was acknowledged, is
// in the new one's kernel.
func (w *world) judgeTakeover(n *node) {
	s := &w.oracle.sides[n.other().id]
	if len(s.had) == 0 && n.other().master {
		w.mastershipEnds(n.other())
	}
	w.watch.takeovers++
	// The order of a map does not matter: every violation is one.
	for id, f := range s.told {
		e := n.kernel.has(id)
		if f.ended {
			if e != nil && w.now-f.at > w.boundSweep(n) && e.created < f.at && w.both(&e.flow) {
				w.fail(ruleDead, "%s becomes MASTER with %s, the end of which it acknowledged", nodeName(n.id), show(&e.flow))
			}
			continue
		}
		last, had := s.had[id]
		if !had || !w.both(&conntracksync.Flow{Key: id.Key, Reply: id.reply, Status: f.status}) {
			continue
		}
		if _, excused := n.kernel.gone[id]; e == nil && (excused || n.kernel.unnoticed(id)) {
			continue
		}
		if e == nil {
			w.fail(ruleSurvives, "%s becomes MASTER without %v, acknowledged at %v", nodeName(n.id), id, f.at)
			return
		}
		w.watch.kept++
		if e.flow.Mark == last.mark {
			f.mark = last.mark // the acknowledgement of it got lost
		}
		if what := f.lacks(e); what != "" {
			w.fail(ruleSurvives, "%s becomes MASTER and %s lacks %s (%+v)", nodeName(n.id), show(&e.flow), what, f)
		}
		w.judgeRemaining(n, e, last.remaining)
	}
}

// judgeRemaining: a flow that could live on for long on the old MASTER can do so on the
// new one as well.
func (w *world) judgeRemaining(n *node, e *entry, before time.Duration) {
	normal := n.kernel.normal(&e.flow)
	least := min(before, normal)/2 - w.passGap() - time.Second
	if got := n.kernel.remaining(e); got < least && w.now-n.backupAt > w.boundSweep(n) {
		w.fail(ruleTimeouts, "%s becomes MASTER, and %s has %v left of %v", nodeName(n.id), show(&e.flow), got, before)
	}
}

// expired is called when a flow ends by itself.
func (w *world) expired(k *kernel, e *entry) {
	n := w.nodes[k.id]
	w.note("flow ends", k.id, e.born)
	w.say(k.id, "end %s", show(&e.flow))
	if n.master {
		w.endedAt[identify(&e.flow)] = w.now
	}
	if e.expires > w.now {
		return // a packet or a hand ended it
	}
	// A row that is older than the packet may have led to another time-out.
	between := w.watch.trimmed[n.id] >= e.touched && w.watch.trimmedFrom[n.id] <= e.touched
	if n.master && !between && e.touched >= n.promotedAt && w.now-e.touched < k.normal(&e.flow)-time.Second {
		w.fail(ruleEarly, "%s expires on %s %v after its last packet", show(&e.flow), nodeName(k.id), w.now-e.touched)
	}
	m, b, ok := w.pair()
	if !ok || b != n || !n.up || n.stream == nil || !w.both(&e.flow) {
		return
	}
	since := max(n.startedAt, n.backupAt, e.created, w.watchDocument())
	if m.kernel.has(identify(&e.flow)) != nil && w.now-since > w.boundSweep(n) {
		w.fail(ruleBackup, "%s expires on %s", show(&e.flow), nodeName(n.id))
	}
}

// dropped is called when a process removes a flow from its kernel.
func (w *world) dropped(k *kernel, e *entry) {
	n := w.nodes[k.id]
	if n.master {
		w.fail(ruleBackups, "%s removes %s as MASTER", nodeName(k.id), show(&e.flow))
	}
	for _, a := range w.ownAddresses() {
		if e.flow.Original.Source == a {
			w.fail(ruleOwn, "%s removes %s", nodeName(k.id), show(&e.flow))
		}
	}
}

// injected is called when a process puts a flow into its kernel.
func (w *world) injected(k *kernel, f *conntracksync.Flow) {
	if n := w.nodes[k.id]; n.master {
		w.fail(ruleBackups, "%s creates %s as MASTER", nodeName(k.id), show(f))
	} else if !w.replicable(n, f) && f.Status&conntracksync.StatusSeenReply != 0 {
		w.fail(ruleOwn, "%s creates %s", nodeName(k.id), show(f))
	}
}

// refused is called when a kernel does not take a flow.
func (w *world) refused(k *kernel, f *conntracksync.Flow) {
	w.disturb("refused", k.id)
	w.watch.refusals++
	if w.phase != phaseFaults {
		w.fail(ruleLoop, "the kernel of %s refuses %s", nodeName(k.id), show(f))
	}
}

// orphan is called when a flow comes whose master is not there.
func (w *world) orphan(k *kernel, f *conntracksync.Flow) {
	m, b, ok := w.pair()
	if !ok || b.id != k.id {
		return
	}
	id := f.Extra.Master
	e := m.kernel.byOriginal[id]
	if e == nil || m.kernel.lapsed(e) || !w.both(&e.flow) || w.now-e.created < time.Second {
		return
	}
	if s := w.oracle.sides[m.id]; s.told[identify(&e.flow)] != (fact{}) && k.gone[identify(&e.flow)] == 0 {
		w.fail(ruleMasters, "%s comes before its master", show(f))
	}
}

// staleWindows is called when a packet meets windows of an earlier time.
func (w *world) staleWindows(n *node, e *entry) {
	if n.promotedComplete && e.windowAt < n.promotedAt && w.both(&e.flow) {
		w.fail(ruleWindows, "%s met windows of %v on %s", show(&e.flow), e.windowAt, nodeName(n.id))
	}
}

// look checks what must always hold, as far as it costs little; the rest from time to
// time.
func (w *world) look(n *node) {
	t := &w.tuning
	w.watchOverflows(n)
	if limit := t.sender.QueueLimit + t.sender.HoldLimit + dumpBatch; n.sender.Backlog() > limit {
		w.fail(ruleBounds, "%s has %d records waiting, bound %d", nodeName(n.id), n.sender.Backlog(), limit)
	}
	if w.now-w.watch.lookedAt[n.id] < 50*time.Millisecond {
		return
	}
	if d := n.dump; d != nil && w.phase != phaseFaults && w.now-max(d.began, w.disturbedAt) > dumpMax {
		w.fail(ruleDumps, "%s reads its table since %v, part %d, waits %v", nodeName(n.id), d.began, d.part, d.waits)
	}
	w.watch.lookedAt[n.id] = w.now
	c := n.counters()
	if c.receiver.Gaps+c.receiver.Repeated+c.sender.BadAcks > 0 {
		w.fail(ruleStream, "%s counts %d gaps, %d repeated frames, %d bad acknowledgements",
			nodeName(n.id), c.receiver.Gaps, c.receiver.Repeated, c.sender.BadAcks)
	}
	w.checkWindows(n)
	if !n.master {
		return
	}
	w.checkTimeouts(n)
	w.checkComplete(n)
}

// checkTimeouts: some time after a takeover no flow has more than its normal time-out.
func (w *world) checkTimeouts(n *node) {
	done := w.watch.trimmed[n.id] > n.promotedAt
	if !done {
		if w.phase != phaseFaults && w.now-max(n.promotedAt, w.disturbedAt) > w.boundTrim() {
			w.fail(ruleTimeouts, "%s has not put them right", nodeName(n.id))
		}
		return
	}
	n.kernel.each(func(e *entry) {
		if e.touched > n.promotedAt || e.omitted == w.watch.trimmedBy[n.id] || excludedNetwork().Contains(e.flow.Original.Source) {
			return
		}
		if left := n.kernel.remaining(e); left > n.kernel.normal(&e.flow)+time.Second && w.replicable(n, &e.flow) {
			w.fail(ruleTimeouts, "%s has %v left on %s", show(&e.flow), left, nodeName(n.id))
		}
	})
}

// checkComplete: a flow of some age is not missing on the BACKUP while the MASTER
// counts its table as complete.
func (w *world) checkComplete(n *node) {
	complete := n.sender.Complete()
	if w.phase != phaseFaults {
		w.checkStaysComplete(n, complete)
	}
	b := n.other()
	bound := w.boundComplete()
	if !complete || b.master || !b.powered || w.now-b.kernel.wipedAt < bound {
		return
	}
	w.watch.complete++
	age := bound
	if w.broken == 0 && w.now-w.disturbedAt > w.hops() {
		age = w.hops() // the word of the other node is new
	}
	n.kernel.each(func(e *entry) {
		id := identify(&e.flow)
		if w.now-e.changed < age || !w.both(&e.flow) {
			return
		}
		if w.now-w.documentAt < bound {
			return // the other node did not replicate it then
		}
		if b.kernel.unnoticed(id) {
			return
		}
		if at, gone := b.kernel.gone[id]; gone && w.now-at < age+w.tuning.sender.DigestInterval {
			return
		}
		ended, again := w.endedAt[id]
		if again && e.created < ended {
			return // it ended on the old MASTER, and this node had no time to sweep it
		}
		late := !w.tuning.feedsFirst || n.kernel.fullAt > 0 && n.promotedAt-n.kernel.fullAt < time.Second
		if late && e.created < n.promotedAt && w.now-n.promotedAt < w.passGap()+bound {
			return // an end of before the promotion counted for the time after it
		}
		if again && w.now-w.oracle.sides[n.id].lossAt < unsureTime+w.passTime() {
			return // the end of its predecessor was reported late
		}
		if e.omitted > 0 && (!w.digests() || e.omitted+1 >= n.kernel.dumps) {
			return // the readings left it out
		}
		if missing := w.missing(b, id, class(&e.flow)); missing != "" {
			w.fail(ruleComplete, "%s counts its table as complete: %s %s", nodeName(n.id), show(&e.flow), missing)
		}
	})
}

// missing says what a node's kernel lacks of a flow; empty if nothing.
func (w *world) missing(n *node, id identity, f fact) string {
	if e := n.kernel.has(id); e == nil {
		return "is missing"
	} else if what := f.lacks(e); what != "" {
		return fmt.Sprintf("(here %s) lacks %s", show(&e.flow), what)
	}
	return ""
}

// checkStaysComplete: when nothing goes wrong the table becomes complete within a bound,
// and no digest differs after that.
func (w *world) checkStaysComplete(n *node, complete bool) {
	x := &w.watch
	if !complete {
		if x.completeAt > 0 && w.disturbedAt > x.completeAt {
			x.completeAt = 0 // the kernel's queue was full, say
		} else if x.completeAt > 0 {
			w.fail(ruleCompletes, "it was at %v and is not any more (trusted %v, %d overflows, peer complete %v)", x.completeAt, n.ix.Trusted(), n.sender.Stats().Overflows, n.other().receiver.Complete())
		} else if w.now-w.disturbedAt > w.boundCompletes() {
			w.fail(ruleCompletes, "it is not, %v after the last trouble", w.now-w.disturbedAt)
		}
		return
	}
	if x.completeAt == 0 {
		if min(x.calm[0], x.calm[1]) < calmPasses {
			return // a pass may find what a fault has left
		}
		x.completeAt = w.now
		w.note("complete", n.id)
		for i, m := range w.nodes {
			x.baseline[i] = m.counters()
		}
		return
	}
	if !w.digests() {
		return
	}
	if w.disturbedAt > x.completeAt {
		x.completeAt = w.now
		for i, m := range w.nodes {
			x.baseline[i] = m.counters()
		}
	}
	now, then := n.other().counters().receiver, x.baseline[n.other().id].receiver
	if now.Mismatches != then.Mismatches || now.Repairs > then.Repairs+1 { // one may have been asked for
		w.fail(ruleLoop, "%d digests differ and %d repairs are made after the table was complete at %v",
			now.Mismatches-then.Mismatches, now.Repairs-then.Repairs, x.completeAt)
	}
}

// askBarrier notes what a barrier is about.
func (w *world) askBarrier(n *node) {
	s := &w.oracle.sides[n.id]
	n.readAll()
	n.sender.Barrier(w.clock())
	w.watchOverflows(n)
	s.barrier, s.asked = map[identity]fact{}, true
	for id, f := range s.fed {
		s.barrier[id] = f
	}
}

// checkBarrier: when the barrier has passed and the table is complete, which is what a
// handover waits for, all events before it are in the peer's kernel.
func (w *world) checkBarrier(n *node) {
	s := &w.oracle.sides[n.id]
	if !s.asked || !n.sender.BarrierPassed() || !n.sender.Complete() {
		return
	}
	s.asked = false
	w.watch.barriers++
	b := n.other()
	for id, f := range s.barrier {
		if _, excused := b.kernel.gone[id]; excused || n.kernel.has(id) == nil || b.master {
			continue
		}
		if told := s.told[id]; told.ended {
			continue // and begun again
		}
		if e := n.kernel.has(id); class(&e.flow).mark != f.mark {
			continue // it has changed since
		}
		if missing := w.missing(b, id, f); missing != "" {
			w.fail(ruleBarrier, "%v %s on %s", id, missing, nodeName(b.id))
		}
	}
}

// heard notes what the peer's Receiver says.
func (w *world) heard(n *node, f *conntracksync.Frame) {
	w.note("hears", n.id, uint64(f.Type), f.Acked, either(f.Complete, 1, 0))
}

// checkEqual compares what both kernels have of the replicated flows.
func (w *world) checkEqual() {
	m, b, ok := w.pair()
	if !ok {
		w.fail(ruleWorld, "%d nodes are MASTER at the end", len(w.masters()))
		return
	}
	m.kernel.each(func(e *entry) {
		if !w.both(&e.flow) {
			return
		}
		o := b.kernel.has(identify(&e.flow))
		if o == nil {
			w.fail(ruleEqual, "%s is missing on %s", show(&e.flow), nodeName(b.id))
		} else if class(&o.flow) != class(&e.flow) {
			w.fail(ruleEqual, "%s is %s on %s", show(&e.flow), show(&o.flow), nodeName(b.id))
		}
	})
	b.kernel.each(func(e *entry) {
		if m.kernel.has(identify(&e.flow)) == nil && w.both(&e.flow) {
			w.fail(ruleEqual, "%s is on %s, and not on the MASTER", show(&e.flow), nodeName(b.id))
		}
	})
}
