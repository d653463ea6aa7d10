package sim

import (
	"slices"
	"time"

	"tandem/vrrp"
)

// fault begins something that is over after a time, by itself or by what it
// returns; nil if there is nothing to end.
type fault func(w *world, length time.Duration) (end func())

// faults returns everything that can go wrong, or be wished for.
func faults() []fault {
	return []fault{
		lossy, oneWay, partition, onlyOneCarrier, linkDown, flap, isolation, pause, freeze, standstill,
		kill, restart, powerOff, plannedHandover, reconfigured, resync, replay,
	}
}

// scheduleFaults draws a subset of the kinds of fault and spreads some of each
// over the time until end.
func (w *world) scheduleFaults(begin, end time.Duration) {
	var chosen []fault
	for _, f := range faults() {
		if w.chance(0.4) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 || w.chance(0.03) {
		return // a quiet run
	}
	for range 3 + w.rng.IntN(12) {
		f := chosen[w.rng.IntN(len(chosen))]
		start := w.between(begin, end)
		length := w.between(w.intervalMax/4, 12*w.intervalMax)
		if w.chance(0.3) {
			length = w.between(w.intervalMax/4, 3*w.intervalMax)
		}
		w.inject(f, start, min(length, end-start))
	}
}

// inject lets a fault begin at a time and last for another.
func (w *world) inject(f fault, start, length time.Duration) {
	w.after(start-w.now, func() {
		w.broken++
		end := f(w, length)

		w.after(length, func() {
			w.broken--
			if end != nil {
				end()
			}
			w.disturb("over", -1)
		})
	})
}

// anyMachine returns a machine that is in use.
func (w *world) anyMachine() *machine {
	if w.foreign != nil && w.chance(0.2) {
		return w.foreign
	}
	return w.members[w.rng.IntN(2)]
}

// anyCarrier returns a carrier; the HA link is as likely as all networks together.
func (w *world) anyCarrier() carrier {
	if w.chance(0.4) {
		return ha
	}
	return carrier(w.rng.IntN(w.networks))
}

// lossy loses a share of the packets, on one carrier or on all.
func lossy(w *world, _ time.Duration) func() {
	p := 0.1 + 0.8*w.rng.Float64()
	only, everywhere := w.anyCarrier(), w.chance(0.5)
	w.disturb("lossy", -1, uint64(p*100), uint64(only), bit(everywhere))
	change := func(do func([]float64) []float64) {
		for c := range carriers {
			if everywhere || c == only {
				for from := range w.links[c].loss {
					w.links[c].loss[from] = do(w.links[c].loss[from])
					w.links[c].changedAt = w.now
				}
			}
		}
	}
	change(func(l []float64) []float64 { return append(l, p) })
	return func() {
		change(func(l []float64) []float64 {
			at := slices.Index(l, p)
			return append(l[:at:at], l[at+1:]...)
		})
	}
}

// oneWay cuts what a machine sends, on one carrier or on all.
func oneWay(w *world, _ time.Duration) func() {
	m, only, everywhere := w.anyMachine(), w.anyCarrier(), w.chance(0.6)
	w.disturb("one-way cut", m.id, uint64(only), bit(everywhere))
	return w.cut(func(c carrier, from, _ int) bool { return from == m.id && (everywhere || c == only) })
}

// partition cuts a machine off from all others, on every carrier.
func partition(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	w.disturb("partition", m.id)
	return w.cut(func(_ carrier, from, to int) bool { return from == m.id || to == m.id })
}

// onlyOneCarrier cuts a machine off on every carrier but one.
func onlyOneCarrier(w *world, _ time.Duration) func() {
	m, kept := w.anyMachine(), w.anyCarrier()
	w.disturb("only one carrier", m.id, uint64(kept))
	return w.cut(func(c carrier, from, to int) bool { return c != kept && (from == m.id || to == m.id) })
}

func (w *world) cut(which func(c carrier, from, to int) bool) func() {
	change := func(by int) {
		for c := range carriers {
			for from := range maxMachines {
				for to := range maxMachines {
					if which(c, from, to) {
						w.links[c].cut[from][to] += by
						w.links[c].changedAt = w.now
					}
				}
			}
		}
	}
	change(1)
	return func() { change(-1) }
}

// linkDown takes one end of a carrier down.
func linkDown(w *world, _ time.Duration) func() {
	m, c := w.anyMachine(), w.anyCarrier()
	w.setDown(m, c, 1)
	return func() { w.setDown(m, c, -1) }
}

// flap takes one end of a carrier down and up, again and again.
func flap(w *world, length time.Duration) func() {
	m, c := w.anyMachine(), w.anyCarrier()
	begin := w.now
	var toggle func(by int)
	toggle = func(by int) {
		w.setDown(m, c, by)
		wait := w.between(10*time.Millisecond, max(length/4, 20*time.Millisecond))
		if left := begin + length - w.now; by < 0 && wait >= left {
			return
		} else if left > 0 {
			wait = min(wait, left)
		}
		w.after(wait, func() { toggle(-by) })
	}
	toggle(1)
	return nil
}

// isolation takes every link of a machine down.
func isolation(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	w.disturb("isolation", m.id)
	for c := range carriers {
		w.setDown(m, c, 1)
	}
	return func() {
		for c := range carriers {
			w.setDown(m, c, -1)
		}
	}
}

// setDown changes the state of a link's end. The nodes hear of it a little later.
func (w *world) setDown(m *machine, c carrier, by int) {
	w.links[c].down[m.id] += by
	w.links[c].changedAt = w.now
	w.disturb("link", m.id, uint64(c), bit(w.up(m, c)))

	for _, other := range w.machines {
		if other != m && (c != ha || other.slot < 0) {
			continue
		}
		w.after(w.between(judgeDelayMin, judgeDelayMax), func() {
			other.node.seesUp[c] = w.up(other, c)
			other.judge()
		})
	}
}

// pause stops a process and lets it go on, with all that came meanwhile in its
// sockets.
func pause(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	w.disturb("pause", m.id)
	since := m.local()
	m.paused++
	return func() { m.resume(since) }
}

// freeze stops a whole machine, but not its clock: what comes meanwhile is lost.
func freeze(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	w.disturb("freeze", m.id)
	since := m.local()
	m.paused++
	m.frozen++
	return func() { m.thaw(since) }
}

// standstill stops a machine together with its clock, as a hypervisor does that
// pauses its guest: nothing in the machine can tell that it stood still.
func standstill(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	if m.frozen > 0 {
		return nil
	}
	w.disturb("standstill", m.id)
	since, began := m.local(), w.now
	m.standsFrom = w.now
	m.paused++
	m.frozen++
	return func() {
		if m.fenceUntil > began {
			m.fenceUntil += w.now - began
			m.leftAt += w.now - began
			m.known = [maxMachines]bool{} // nobody can know of it
		}
		m.standsFrom = notYet
		m.stood += w.now - began
		m.thaw(since)
	}
}

func (m *machine) thaw(since time.Duration) {
	m.frozen--
	if m.frozen == 0 && m.node.late {
		m.node.late = false
		m.judge()
	}
	m.resume(since)
}

// resume lets a process go on that has stopped since a time of its own clock.
func (m *machine) resume(since time.Duration) {
	m.paused--
	m.w.disturb("resume", m.id)

	if m.paused > 0 {
		return
	}
	m.wakeAt = 0
	p, now := &m.past, m.local()
	// There is one grace per silence, for who has missed its timer by an interval.
	graced := m.is(vrrp.Backup) && now-since > 5*m.patienceInterval() && p.heardAt > p.wokeAt
	if graced {
		p.graceUntil = now + m.patienceInterval()
	}
	p.wokeAt = now
	m.round()
	if m.group != nil && graced {
		p.graceUntil = now + m.patienceInterval() // what waited may have told of another interval
	}
}

// kill ends a process, which is started again.
func kill(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	m.stopped++
	if m.group != nil {
		m.die()
	}
	return m.restarted
}

// restart stops a process in order and starts another.
func restart(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	m.stopped++
	switch {
	case m.running():
		m.stop()
	case m.group != nil:
		m.die()
	}
	return m.restarted
}

// powerOff takes the power of a machine: its links go down and its kernel forgets
// everything.
func powerOff(w *world, _ time.Duration) func() {
	m := w.anyMachine()
	m.stopped++
	m.off++
	if m.group != nil {
		m.die()
	}
	m.fenceUntil = 0
	m.node = nodePart{fitness: vrrp.Fitness{Failed: 1}, notReady: m.node.notReady}
	for c := range carriers {
		w.setDown(m, c, 1)
	}
	return func() {
		m.off--
		for c := range carriers {
			w.setDown(m, c, -1)
			m.node.seesUp[c] = w.up(m, c)
		}
		m.lostTable()
		m.restarted()
	}
}

// restarted starts the process again, unless another fault keeps it from running.
func (m *machine) restarted() {
	m.stopped--
	if m.stopped > 0 {
		return
	}
	if m.slot >= 0 && m.w.chance(0.5) {
		m.lostTable()
	}
	m.start()
}

// lostTable makes the session table incomplete until it has come from the peer.
func (m *machine) lostTable() {
	m.node.notReady++
	m.judge()
	m.w.after(m.w.between(resyncMin, resyncMax), m.synced)
}

func (m *machine) synced() {
	m.node.notReady--
	m.w.disturb("synced", m.id)
	m.judge()
}

// resync makes a member lose its session table.
func resync(w *world, _ time.Duration) func() {
	w.members[w.rng.IntN(2)].lostTable()
	return nil
}

// plannedHandover asks every MASTER to hand over.
func plannedHandover(w *world, _ time.Duration) func() {
	for _, m := range w.members {
		m.command(m.handOver)
	}
	return nil
}

func (m *machine) handOver() {
	if m.group.State() != vrrp.Master {
		return
	}
	m.w.disturb("handover", m.id)
	m.past.commanded = true
	m.step(vrrp.Input{Handover: true}, cause{})
	m.w.planned = m.w.planned || m.past.commanded
	m.past.commanded = false
}

// reconfigured gives both members another configuration, one after the other.
func reconfigured(w *world, length time.Duration) func() {
	w.change(length)
	return nil
}

// replay is an attacker on the HA link that sends what it has recorded.
func replay(w *world, _ time.Duration) func() {
	w.disturb("replay", -1)
	if len(w.recorded) > 0 {
		for range 10 {
			w.members[w.rng.IntN(2)].arriveHeartbeat(w.recorded[w.rng.IntN(len(w.recorded))])
		}
	}
	return nil
}

// replaced stops a member in order and lets another machine take its place with
// the same identity.
func replaced(w *world, length time.Duration) func() {
	slot := w.rng.IntN(2)
	old := w.members[slot]
	w.disturb("replaced", old.id)
	old.stopped++
	old.retired = true
	switch {
	case old.running():
		old.stop()
	case old.group != nil:
		old.die()
	}
	old.fenceUntil = 0
	old.off++
	for c := range carriers {
		w.setDown(old, c, 1)
	}
	_ = length
	return func() {
		m := w.newMachine(slot, old.title+"-green")
		w.members[slot] = m
		m.boot(w.document)
		// The HA cable is in the new machine now.
		for _, other := range w.members {
			w.after(w.between(judgeDelayMin, judgeDelayMax), func() {
				other.node.seesUp[ha] = w.up(other, ha)
				other.judge()
			})
		}
		m.lostTable()
		m.start()
	}
}
