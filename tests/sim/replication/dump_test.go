package replication

import (
	"time"

	"tandem/conntracksync"
)

// dump is a reading of the kernel's table that is under way: it reads a part now and
// hands it over later, while events go on.
type dump struct {
	number uint64
	// sender: it belongs to the Sender.
	sender bool
	part   int
	rows   []conntracksync.Flow
	// fails tells at which part it is interrupted, if it is.
	fails int
	// waits: the sender wants no more rows for now. step numbers what is planned.
	waits bool
	step  uint64
	began time.Duration
}

// startDump starts to read the table if somebody wants it. One dump runs at a time.
func (n *node) startDump() {
	w := n.w
	if n.dump != nil {
		return
	}
	now := w.clock()
	d := &dump{fails: -1, began: w.now}
	switch {
	case n.receiver.WantDump(now):
	case n.sender.WantDump(now):
		d.sender = true
	default:
		return
	}
	n.kernel.dumps++
	d.number = n.kernel.dumps
	if w.phase == phaseFaults && w.chance(w.tuning.interrupts) {
		d.fails = w.rng.IntN(parts)
	}
	w.note("dump begins", n.id, either(d.sender, 1, 0))
	n.dump = d
	n.dumpStep(w.between(0, w.tuning.dumpStep), n.dumpRead)
}

// dumpStep plans how the dump goes on, if the process lives.
func (n *node) dumpStep(wait time.Duration, do func()) {
	d, process := n.dump, n.process
	d.step++
	step := d.step
	current := func() bool { return n.process == process && n.dump == d && d.step == step }
	n.w.after(wait, func() {
		if current() {
			n.do(func() {
				if current() {
					do()
				}
			})
		}
	})
}

// dumpRead reads a part of the table.
func (n *node) dumpRead() {
	d := n.dump
	switch d.part {
	case d.fails:
		n.endDump(true)
	case parts:
		n.endDump(false)
	default:
		d.rows = n.kernel.snapshot(d.part, d.rows[:0])
		d.part++
		n.dumpStep(n.w.between(0, n.w.tuning.dumpStep), n.dumpFeed)
	}
}

// dumpFeed hands over what was read, as far as it is wanted.
func (n *node) dumpFeed() {
	d, now := n.dump, n.w.clock()
	for len(d.rows) > 0 {
		rows := d.rows[:min(len(d.rows), dumpBatch)]
		if !d.sender {
			n.obey(n.receiver.DumpFlows(now, rows))
		} else {
			if !n.sender.WantRows(now) {
				d.waits = true
				n.dumpStep(10*time.Millisecond, n.dumpFeed)
				n.pump()
				return
			}
			n.kernel.apply(n.sender.DumpFlows(now, rows))
		}
		d.rows = d.rows[len(rows):]
	}
	d.waits = false
	n.dumpStep(n.w.between(0, n.w.tuning.dumpStep), n.dumpRead)
	n.pump()
}

// dumpGoesOn is what a dump that waits does when frames have been sent.
func (n *node) dumpGoesOn() {
	if n.dump != nil && n.dump.waits {
		n.dump.waits = false
		n.dumpStep(0, n.dumpFeed)
	}
}

func (n *node) endDump(failed bool) {
	w, d := n.w, n.dump
	now := w.clock()
	n.dump = nil
	w.watch.dumpLongest = max(w.watch.dumpLongest, w.now-d.began)
	w.note("dump ends", n.id, either(failed, 1, 0))
	switch {
	case d.sender && failed:
		n.sender.DumpFailed(now)
	case failed:
		n.receiver.DumpFailed(now)
	case d.sender:
		for i := range n.kernel.expects {
			if n.kernel.expects[i].expires > w.now {
				n.sender.DumpExpectation(now, &n.kernel.expects[i].e)
			}
		}
		w.watch.passed(n, d)
		n.sender.DumpDone(now)
	default:
		w.watch.passed(n, d)
		n.obey(n.receiver.DumpDone(now))
	}
	n.pump()
}
