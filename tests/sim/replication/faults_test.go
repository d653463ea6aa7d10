package replication

import (
	"time"

	"tandem/conntracksync"
)

// fault is something that goes wrong, or that somebody wishes for, now and then for a
// while.
type fault struct {
	name string
	do   func(w *world, length time.Duration)
}

func faults() []fault {
	return []fault{
		{"break the stream", func(w *world, _ time.Duration) { w.breakNow() }},
		{"break the stream often", func(w *world, length time.Duration) {
			w.lasting(length, func() {
				for at := time.Duration(0); at < length; at += w.between(300*time.Millisecond, time.Second) {
					w.after(at, w.breakNow)
				}
			}, func() {})
		}},
		{"link down", (*world).linkDown},
		{"link stalls", (*world).linkStalls},
		{"link is slow", (*world).linkSlow},
		{"burst", func(w *world, _ time.Duration) { w.burst(100 + w.rng.IntN(200)) }},
		{"flows that end at once", func(w *world, _ time.Duration) {
			w.burst(50)
			w.after(51*time.Millisecond, func() { w.evict(0) })
		}},
		{"process waits", (*world).freeze},
		{"process waits in a burst", func(w *world, length time.Duration) {
			w.freeze(length)
			w.burst(100 + w.rng.IntN(100))
		}},
		{"restart the BACKUP", func(w *world, length time.Duration) { w.restart(false, false, length) }},
		{"restart the MASTER", func(w *world, length time.Duration) { w.restart(true, false, length) }},
		{"reboot the BACKUP", func(w *world, length time.Duration) { w.restart(false, true, length) }},
		{"reboot the MASTER", func(w *world, length time.Duration) { w.restart(true, true, length) }},
		{"handover", (*world).handover},
		{"handover there and back", func(w *world, length time.Duration) {
			w.handover(length)
			w.after(w.between(time.Second, 6*time.Second), func() { w.handover(length) })
		}},
		{"takeover without a cause", (*world).usurp},
		{"both MASTER", (*world).partition},
		{"the BACKUP's table is full", (*world).tableFull},
		{"the BACKUP's kernel refuses", (*world).refuse},
		{"flows are evicted", (*world).evict},
		{"flows of nobody on the BACKUP", (*world).stray},
		{"documents differ", (*world).documentsDiffer},
	}
}

// scheduleFaults lets some things go wrong until end.
func (w *world) scheduleFaults(begin, end time.Duration) {
	all := faults()
	for range 1 + w.rng.IntN(7) {
		f := all[w.rng.IntN(len(all))]
		at := w.between(begin, end)
		length := w.between(100*time.Millisecond, 4*time.Second)
		w.after(at-w.now, func() {
			w.disturb("fault: "+f.name, -1, uint64(length))
			f.do(w, length)
		})
	}
}

// lasting begins a fault and ends it later.
func (w *world) lasting(length time.Duration, begin, end func()) {
	w.broken++
	begin()
	w.after(length, func() {
		w.broken--
		w.disturb("fault ends", -1)
		end()
	})
}

// breakNow breaks the stream that there is.
func (w *world) breakNow() {
	for _, n := range w.nodes {
		if n.stream != nil {
			w.disturb("stream breaks", n.id, n.stream.number)
			w.breakStream(n.stream)
			return
		}
	}
}

func (w *world) linkDown(length time.Duration) {
	w.lasting(length, func() {
		w.link.down++
		w.breakNow()
	}, func() {
		w.link.down--
		w.connect()
	})
}

// linkStalls delivers nothing for a while. Silence that lasts breaks the stream.
func (w *world) linkStalls(length time.Duration) {
	w.lasting(length, func() { w.link.stalled++ }, func() { w.link.stalled-- })
	if length > silenceLimit {
		w.after(silenceLimit, w.breakNow)
	}
}

func (w *world) linkSlow(length time.Duration) {
	speed := w.link.speed
	w.lasting(length, func() { w.link.speed = w.tuning.slowest }, func() { w.link.speed = speed })
}

func (w *world) burst(n int) {
	for range n {
		w.after(w.between(0, 50*time.Millisecond), func() {
			if !w.clients.stopped {
				w.openSession(w.drawKey())
			}
		})
	}
}

// freeze keeps a process from the processor.
func (w *world) freeze(length time.Duration) {
	n := w.nodes[w.rng.IntN(2)]
	length = min(length, w.tuning.frozenMax)
	w.lasting(length, func() { n.frozenUntil = max(n.frozenUntil, w.now+length) }, func() {})
}

// restart ends a process, or the whole node, and starts it again.
func (w *world) restart(master, reboot bool, length time.Duration) {
	m, b, ok := w.pair()
	if !ok {
		return
	}
	n := b
	if master {
		n = m
	}
	if !n.up {
		return
	}
	w.lasting(length, func() {
		n.stop()
		if reboot {
			n.kernel.wipe()
			w.oracle.sides[n.other().id].clear()
			w.oracle.sides[n.id].ends = map[identity]uint64{}
			w.localFlow(n)
		}
	}, func() {
		n.start()
	})
}

// localFlow is a flow of the node itself.
func (w *world) localFlow(n *node) {
	f := conntracksync.Flow{Key: w.drawKey(), Status: conntracksync.StatusSeenReply | conntracksync.StatusAssured}
	f.Protocol, f.Original.Source = protocolUDP, nodeAddress(n.id)
	f.Original.Destination = nodeAddress(1 - n.id)
	f.Original.DestinationPort = 500
	f.Reply = conntracksync.Tuple{
		Source: f.Original.Destination, Destination: f.Original.Source,
		SourcePort: f.Original.DestinationPort, DestinationPort: f.Original.SourcePort,
	}
	if n.kernel.find(f.Key) == nil && n.kernel.findReply(replyKey(&f)) == nil {
		e := n.kernel.insert(f, time.Hour)
		n.kernel.tell(conntracksync.EventNew, e, true)
	}
}

// elect is what the election does: two nodes that hear each other know the newest term
// and do not both stay MASTER; a node that hears nobody is MASTER.
func (w *world) elect() {
	w.after(w.between(50*time.Millisecond, 150*time.Millisecond), w.elect)
	if w.partitioned > 0 {
		for _, n := range w.nodes {
			if n.up && !n.master {
				w.promote(n)
			}
		}
		return
	}
	a, b := w.nodes[0], w.nodes[1]
	if a.up && b.up {
		term := max(a.term, b.term)
		for _, n := range w.nodes {
			if n.term < term && n.frozenUntil <= w.now {
				n.setRole(n.master, term)
			}
		}
	}
	switch m := w.masters(); {
	case len(m) == 2:
		loser := m[w.rng.IntN(2)]
		loser.do(func() { loser.setRole(false, loser.term) })
	case len(m) == 0:
		n := w.nodes[w.rng.IntN(2)]
		if !n.up {
			n = n.other()
		}
		w.promote(n)
	}
}

// promote makes a node MASTER of a new term.
func (w *world) promote(n *node) {
	n.do(func() {
		if !n.master {
			n.setRole(true, n.term+1)
		}
	})
}

// handover waits for a barrier, and lets the other node take over then.
func (w *world) handover(time.Duration) {
	m, b, ok := w.pair()
	if !ok || !b.up || m.frozenUntil > w.now {
		return
	}
	w.askBarrier(m)
	m.pump()
	limit := w.now + time.Second
	var wait func()
	wait = func() {
		switch {
		case !m.master || b.master || !b.up || !m.up || w.now > limit || w.phase != phaseFaults:
		case !m.sender.BarrierPassed() || !m.sender.Complete():
			w.after(10*time.Millisecond, wait)
		default:
			w.disturb("handover", m.id)
			term := max(m.term, b.term) + 1
			take := func() { b.do(func() { b.setRole(true, term) }) }
			give := func() { m.do(func() { m.setRole(false, term) }) }
			if w.chance(0.5) {
				take, give = give, take
			}
			take()
			w.after(w.between(0, 20*time.Millisecond), give)
		}
	}
	wait()
}

// usurp makes the BACKUP MASTER at once.
func (w *world) usurp(time.Duration) {
	m, b, ok := w.pair()
	if !ok || !b.up {
		return
	}
	b.do(func() {
		b.setRole(true, max(m.term, b.term)+1)
		w.after(w.between(0, 50*time.Millisecond), func() {
			if b.master {
				m.do(func() { m.setRole(false, b.term) })
			}
		})
	})
}

func (w *world) partition(length time.Duration) {
	cut := w.chance(0.7)
	w.lasting(length, func() {
		w.partitioned++
		if cut {
			w.link.down++
			w.breakNow()
		}
	}, func() {
		w.partitioned--
		if cut {
			w.link.down--
			w.connect()
		}
	})
}

// backupKernel is the kernel that is told what to have; nil if there is none.
func (w *world) backupKernel() *kernel {
	if _, b, ok := w.pair(); ok && b.powered {
		return b.kernel
	}
	return nil
}

func (w *world) tableFull(length time.Duration) {
	k := w.backupKernel()
	if k == nil {
		return
	}
	w.lasting(length, func() { k.limit = k.size() + w.rng.IntN(5) }, func() { k.limit = 1 << 20 })
}

func (w *world) refuse(length time.Duration) {
	k := w.backupKernel()
	if k == nil {
		return
	}
	share := pick(w, 0.1, 0.5, 1)
	w.lasting(length, func() { k.refusing = share }, func() { k.refusing = 0 })
}

// evict removes flows from a kernel by hand, and so that it is reported.
func (w *world) evict(time.Duration) {
	k := w.nodes[w.rng.IntN(2)].kernel
	var some []*entry
	share := pick(w, 0.05, 0.5, 1.0)
	k.each(func(e *entry) {
		if w.chance(share) && e.flow.Original.Source != nodeAddress(k.id) {
			some = append(some, e)
		}
	})
	for _, e := range some {
		k.end(e)
	}
}

// stray puts flows into the BACKUP's kernel that the MASTER does not have.
func (w *world) stray(time.Duration) {
	k := w.backupKernel()
	if k == nil {
		return
	}
	for range 1 + w.rng.IntN(20) {
		f := conntracksync.Flow{Key: w.drawKey(), Status: conntracksync.StatusSeenReply | conntracksync.StatusAssured}
		f.Protocol = protocolUDP
		if f.Original.DestinationPort == 8<<8 || k.find(f.Key) != nil || !w.translate(k, &f) {
			continue
		}
		e := k.insert(f, time.Hour)
		k.tell(conntracksync.EventNew, e, true)
	}
}

// documentsDiffer has one node know a document that excludes a network before the other
// one does.
func (w *world) documentsDiffer(length time.Duration) {
	if w.nodes[0].excludes != w.nodes[1].excludes {
		return
	}
	to := !w.nodes[0].excludes
	first := w.nodes[w.rng.IntN(2)]
	w.lasting(length, func() { w.adopt(first, to) }, func() { w.adopt(first.other(), to) })
}

func (w *world) adopt(n *node, excludes bool) {
	w.documentAt = w.now
	w.documentsChange()
	changed := n.excludes != excludes
	n.adopt(excludes)
	if changed && n.master && n.sender.Complete() {
		w.fail(ruleComplete, "%s counts its table as complete though it has not looked at it with the new document", nodeName(n.id))
	}
}

// watchDocument is when a document last changed.
func (w *world) watchDocument() time.Duration { return w.documentAt }
