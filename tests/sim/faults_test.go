package sim

import (
	"time"

	"tandem/vrrp"
)

// fault begins something that is over after a time, by itself or by what it
// returns.
type fault func(w *world, length time.Duration) (end func())

// faults returns everything that can go wrong, or be wished for.
func faults() []fault {
	return []fault{
		lossy, oneWay, partition, linkDown, isolation, pause, freeze, crash,
		plannedHandover, newInterval, restart, resync, replay,
	}
}

// scheduleFaults draws a subset of the kinds of fault and spreads some of each
// over the time until end.
func (w *world) scheduleFaults(begin, end time.Duration) {
	all := faults()
	var chosen []fault
	for _, f := range all {
		if w.chance(0.5) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 || w.chance(0.03) {
		return // a quiet run
	}
	if w.chance(0.5) {
		w.duplicates = 0.05
	}
	w.reorders = w.chance(0.5)
	for range 3 + w.rng.IntN(12) {
		f := chosen[w.rng.IntN(len(chosen))]
		start := w.between(begin, end)
		length := w.between(w.intervalMax/4, 12*w.intervalMax)
		if w.chance(0.3) {
			length = w.between(w.intervalMax/4, 3*w.intervalMax)
		}
		length = min(length, end-start)
		w.after(start-w.now, func() {
			w.after(length, f(w, length))
		})
	}
}

func (w *world) anyNode() *node      { return w.nodes[w.rng.IntN(2)] }
func (w *world) anyCarrier() carrier { return carrier(w.rng.IntN(int(carriers))) }

// lossy loses a share of the packets, on one carrier or on all.
func lossy(w *world, _ time.Duration) func() {
	w.note("lossy", -1)
	p := 0.1 + 0.8*w.rng.Float64()
	only, everywhere := w.anyCarrier(), w.chance(0.5)
	change := func(do func([]float64) []float64) {
		for c := range carriers {
			if everywhere || c == only {
				for from := range w.nodes {
					w.links[c].loss[from] = do(w.links[c].loss[from])
				}
			}
		}
	}
	change(func(l []float64) []float64 { return append(l, p) })
	return func() {
		change(func(l []float64) []float64 {
			for i := range l {
				if l[i] == p {
					return append(l[:i:i], l[i+1:]...)
				}
			}
			return l
		})
	}
}

// oneWay cuts one direction, of one carrier or of all.
func oneWay(w *world, _ time.Duration) func() {
	from, only, everywhere := w.rng.IntN(2), w.anyCarrier(), w.chance(0.6)
	w.note("one-way cut", from)
	return w.cut(func(c carrier, sender int) bool { return sender == from && (everywhere || c == only) })
}

// partition cuts both directions of every carrier.
func partition(w *world, _ time.Duration) func() {
	w.note("partition", -1)
	return w.cut(func(carrier, int) bool { return true })
}

func (w *world) cut(which func(c carrier, from int) bool) func() {
	change := func(by int) {
		for c := range carriers {
			for from := range w.nodes {
				if which(c, from) {
					w.links[c].cut[from] += by
				}
			}
		}
	}
	change(1)
	return func() { change(-1) }
}

// linkDown takes one end of a carrier down.
func linkDown(w *world, _ time.Duration) func() {
	n, c := w.anyNode(), w.anyCarrier()
	w.note("link down", n.id, uint64(c))
	w.setDown(n.id, c, 1)
	return func() { w.setDown(n.id, c, -1) }
}

// isolation takes every link of a node down.
func isolation(w *world, _ time.Duration) func() {
	n := w.anyNode()
	w.note("isolation", n.id)
	for c := range carriers {
		w.setDown(n.id, c, 1)
	}
	return func() {
		for c := range carriers {
			w.setDown(n.id, c, -1)
		}
	}
}

// setDown changes the state of a link's end. The processes hear of it a little
// later.
func (w *world) setDown(id int, c carrier, by int) {
	w.links[c].down[id] += by
	for _, n := range w.nodes {
		if n.id != id && c != ha {
			continue
		}
		w.after(w.between(5*time.Millisecond, 50*time.Millisecond), func() {
			n.command(func() {
				n.seesUp[c] = w.up(n.id, c)
				n.tellFitness()
			})
		})
	}
}

// pause stops a process and lets it go on, with all that came meanwhile in its
// sockets.
func pause(w *world, length time.Duration) func() {
	n := w.anyNode()
	w.note("pause", n.id, uint64(length))
	n.paused++
	return func() { n.resume(length) }
}

// freeze stops a whole machine: what comes meanwhile is lost.
func freeze(w *world, length time.Duration) func() {
	n := w.anyNode()
	w.note("freeze", n.id, uint64(length))
	n.paused++
	n.frozen++
	return func() {
		n.frozen--
		n.resume(length)
	}
}

func (n *node) resume(length time.Duration) {
	n.paused--
	n.w.note("resume", n.id)
	if n.paused > 0 {
		return
	}
	n.slept += length
	n.wakeAt = 0
	// There is one grace per silence, for who has missed its timer by an interval.
	backup := n.process != nil && n.process.State() == vrrp.Backup
	if backup && length > 5*n.patienceInterval() && n.past.heardAt > n.past.wokeAt {
		n.past.graceUntil = n.w.now + n.patienceInterval()
	}
	n.past.wokeAt = n.w.now
	n.round()
	if n.process != nil && n.past.graceUntil > n.w.now {
		n.past.graceUntil = n.w.now + n.patienceInterval() // what waited may have told of another interval
	}
}

// crash kills a process and starts another.
func crash(w *world, _ time.Duration) func() {
	n := w.anyNode()
	n.stopped++
	if n.process != nil {
		n.die()
	}
	return n.restarted
}

// restart stops a process in order and starts another.
func restart(w *world, _ time.Duration) func() {
	n := w.anyNode()
	n.stopped++
	switch {
	case n.running():
		n.stop()
	case n.process != nil:
		n.die()
	}
	return n.restarted
}

// restarted starts the process again, unless another fault keeps it from running.
// Its session table has to come from the peer first.
func (n *node) restarted() {
	n.stopped--
	if n.stopped > 0 {
		return
	}
	n.notReady++
	n.w.after(n.w.between(200*time.Millisecond, syncMax), n.synced)
	n.start()
}

// syncMax is how long a session table takes to be transferred at most.
const syncMax = 3 * time.Second

func (n *node) synced() {
	n.notReady--
	n.command(n.tellFitness)
}

// resync makes a node lose its session table.
func resync(w *world, _ time.Duration) func() {
	n := w.anyNode()
	w.note("resync", n.id)
	n.notReady++
	n.command(n.tellFitness)
	return n.synced
}

// plannedHandover asks every MASTER to hand over.
func plannedHandover(w *world, _ time.Duration) func() {
	for _, n := range w.nodes {
		n.command(n.handOver)
	}
	return func() {}
}

func (n *node) handOver() {
	if n.process.State() != vrrp.Master {
		return
	}
	out, err := n.process.Handover(n.w.time())
	n.w.planned = n.w.planned || err == nil
	n.w.note("handover", n.id)
	n.apply(out, cause{})
}

// newInterval gives both nodes another configuration, one after the other.
func newInterval(w *world, length time.Duration) func() {
	interval := []time.Duration{50, 100, 200, 1000}[w.rng.IntN(4)] * time.Millisecond
	interval = min(max(interval, w.intervalMax/4), w.intervalMax)
	preempt := w.chance(0.7)
	first := w.rng.IntN(2)
	change := func(n *node) {
		w.pace(&n.document, interval)
		n.document.Preempt = preempt
		w.note("configured", n.id, uint64(interval))
		n.command(n.reconfigure)
	}
	change(w.nodes[first])
	w.after(w.between(0, length), func() { change(w.nodes[1-first]) })
	return func() {}
}

func (n *node) reconfigure() {
	n.cfg = n.document
	out, err := n.process.Reconfigure(n.w.time(), n.cfg)
	if err != nil {
		n.w.fail("node %d: %v", n.id, err)
	}
	n.apply(out, cause{})
}

// replay is an attacker on the HA link that sends what it has recorded.
func replay(w *world, _ time.Duration) func() {
	w.note("replay", -1)
	if len(w.recorded) > 0 {
		for range 10 {
			w.anyNode().arriveHeartbeat(heartbeat{sealed: w.recorded[w.rng.IntN(len(w.recorded))]})
		}
	}
	return func() {}
}
