package uplink

// arbitrate tells each node whether its peer could take over, and moves the role to the node against which less
// speaks. The election does it as long as that is so, and takes some milliseconds.
func (w *world) arbitrate() {
	if len(w.nodes) < 2 {
		return
	}
	for i, n := range w.nodes {
		peer := w.nodes[1-i]
		fit := w.now >= peer.stalledUntil && len(peer.s.Failures()) <= len(n.s.Failures())
		if fit != n.peerFit {
			n.peerFit = fit
			n.s.SetPeer(n.time(), fit)
			n.work()
		}
	}
	if w.moving || !w.worse() {
		return
	}
	w.moving = true
	w.after(20*ms, func() {
		w.moving = false
		if w.worse() {
			w.totals.moves++
			if w.common && w.tidy {
				w.fail("role", "the role moves though nothing happened to %s alone: %q, the peer %q", w.master.name, w.master.s.Failures(), w.other().s.Failures())
			}
			w.handOver("more speaks against it")
		}
	})
}

func (w *world) other() *node {
	if w.nodes[0] == w.master {
		return w.nodes[1]
	}
	return w.nodes[0]
}

func (w *world) worse() bool {
	peer := w.other()
	return w.now >= peer.stalledUntil && len(w.master.s.Failures()) > len(peer.s.Failures())
}

func (w *world) handOver(why string) {
	to := w.other()
	w.moving = true
	w.after(w.span(ms, 25*ms), func() {
		w.moving = false
		w.note("role: %s is MASTER: %s", to.name, why)
		w.setMaster(to)
	})
}
