package uplink

import (
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

// scheduleFaults lets things happen until a time.
func (w *world) scheduleFaults(until time.Duration) {
	w.after(w.span(0, 6*time.Second), func() {
		if w.now < until {
			w.fault()
			w.scheduleFaults(until)
		}
	})
}

func (w *world) fault() {
	faults := []func(string, []*node){w.cut, w.cut, w.unaddressed, w.gatewayDies, w.beyondDies, w.beyondDies, w.everythingDies, w.flap, w.lossy, w.blip}
	others := []func(){w.targetDies, w.cost, w.reconfigure, w.tempt}
	if !w.common {
		others = append(others, w.role, w.stall, w.stuckProber)
	}
	if w.chance(0.25) {
		others[w.random.IntN(len(others))]()
		return
	}
	nodes := w.nodes
	if !w.common && w.chance(0.5) {
		nodes = nodes[:1]
		if w.chance(0.3) {
			nodes = w.nodes[len(w.nodes)-1:]
		}
	}
	name := w.doc.Uplinks[w.random.IntN(len(w.doc.Uplinks))].Name
	if w.chance(0.6) { // what is in use is the most interesting
		if used := w.nodes[0].s.Selection()[pathOf("n0")]; used != "" {
			name = used
		}
	}
	faults[w.random.IntN(len(faults))](name, nodes)
}

// change does something to the ports of nodes, and undoes it later.
func (w *world) change(what, name string, nodes []*node, d time.Duration, do, undo func(*port)) {
	w.totals.faults[what]++
	for _, n := range nodes {
		w.note("%s: %s of %s for %v", what, name, n.name, d)
		do(n.ports[name])
		n.told(name)
	}
	w.after(d, func() {
		for _, n := range nodes {
			w.note("%s: %s of %s is over", what, name, n.name)
			undo(n.ports[name])
			n.told(name)
		}
	})
}

// told lets the node hear of its link and address, which it does at once.
func (n *node) told(name string) {
	n.learn()
	p := n.ports[name]
	if n.now >= n.stalledUntil {
		n.s.SetLink(n.time(), name, p.link, "no carrier")
		n.s.SetAddress(n.time(), name, false, p.address)
		n.work()
	}
}

func (w *world) outage() time.Duration {
	if w.chance(0.5) {
		return w.span(5*time.Second, 30*time.Second)
	}
	return w.span(200*ms, 6*time.Second)
}

func (w *world) cut(name string, nodes []*node) {
	w.change("carrier", name, nodes, w.outage(), func(p *port) { p.link = false }, func(p *port) { p.link = true })
}

func (w *world) unaddressed(name string, nodes []*node) {
	w.change("address", name, nodes, w.outage(), func(p *port) { p.address = false }, func(p *port) { p.address = true })
}

func (w *world) gatewayDies(name string, nodes []*node) {
	w.change("gateway", name, nodes, w.outage(), func(p *port) { p.gateway.dead = true }, func(p *port) { p.gateway.dead = false })
}

func (w *world) beyondDies(name string, nodes []*node) {
	w.change("beyond", name, nodes, w.outage(), func(p *port) { p.beyond.dead = true }, func(p *port) { p.beyond.dead = false })
}

func (w *world) everythingDies(name string, nodes []*node) {
	w.change("gateway and beyond", name, nodes, w.outage(), func(p *port) { p.beyond.dead, p.gateway.dead = true, true },
		func(p *port) { p.beyond.dead, p.gateway.dead = false, false })
}

// blip is too short to be noticed, or nearly.
func (w *world) blip(name string, nodes []*node) {
	w.change("blip", name, nodes, w.span(20*ms, 400*ms), func(p *port) { p.beyond.dead, p.gateway.dead = true, true },
		func(p *port) { p.beyond.dead, p.gateway.dead = false, false })
}

func (w *world) lossy(name string, nodes []*node) {
	share := 0.15 + 0.35*w.random.Float64()
	w.change("loss", name, nodes, w.span(20*time.Second, 60*time.Second), func(p *port) { p.loss = share }, func(p *port) { p.loss = 0 })
}

// flap pulls and plugs a cable again and again.
func (w *world) flap(name string, nodes []*node) {
	period := w.span(50*ms, 700*ms)
	for i := range w.between(5, 40) {
		w.after(time.Duration(2*i)*period, func() {
			w.change("flap", name, nodes, period, func(p *port) { p.link = false }, func(p *port) { p.link = true })
		})
	}
}

// targetDies lets one target die for everybody, by whatever uplink.
func (w *world) targetDies() {
	host := ""
	for _, n := range w.doc.Networks {
		for _, t := range n.Probe.Targets {
			if host == "" || w.chance(0.5) {
				host = t.Host
			}
		}
	}
	if host == "" {
		return
	}
	w.totals.faults["target"]++
	set := func(dead bool) func() {
		return func() {
			w.note("target %s dead: %v", host, dead)
			w.targets[host].dead = dead
			for _, n := range w.nodes {
				n.learn()
			}
		}
	}
	set(true)()
	w.after(w.outage(), set(false))
}

func (w *world) cost() {
	w.setCost(&w.doc.Uplinks[w.random.IntN(len(w.doc.Uplinks))], uint8(w.between(0, 3)*10))
}

// tempt makes a metered uplink free soon after it has died.
func (w *world) tempt() {
	for i := range w.doc.Uplinks {
		if u := &w.doc.Uplinks[i]; u.Metered {
			w.beyondDies(u.Name, w.nodes)
			w.after(w.span(time.Second, 5*time.Second), func() { w.setCost(u, 0) })
			return
		}
	}
}

func (w *world) setCost(u *config.Uplink, cost uint8) {
	w.totals.faults["cost"]++
	w.forbid(func() { u.Cost = cost })
	w.note("%s costs %d", u.Name, u.Cost)
	for _, n := range w.nodes {
		n.s.SetCost(n.time(), u.Name, u.Cost)
	}
	for _, n := range w.nodes {
		n.work()
	}
}

// forbid changes what networks may use, and notes since when flows on what they may not use any more
// have to go.
func (w *world) forbid(change func()) {
	before := map[way]bool{}
	for _, n := range w.doc.Networks {
		for _, u := range w.doc.Uplinks {
			before[way{n.Name, u.Name}] = w.allowed(n.Name, u.Name)
		}
	}
	change()
	for v, was := range before {
		if was && !w.allowed(v.network, v.uplink) {
			for _, n := range w.nodes {
				l := leaving{w.now, w.network(v.network).DrainTime}
				n.left[binding{v, false}], n.left[binding{v, true}] = l, l
			}
		}
	}
}

// reconfigure applies a document: the same, one with other costs allowed, or another policy.
func (w *world) reconfigure() {
	w.totals.faults["document"]++
	network := &w.doc.Networks[w.random.IntN(len(w.doc.Networks))]
	w.forbid(func() {
		switch w.between(0, 2) {
		case 0:
			network.MaxCost = uint8(w.between(1, 4) * 10)
		case 1:
			network.DrainTime = w.span(0, 20*time.Second)
		}
	})
	w.note("document: %s takes up to %d", network.Name, network.MaxCost)
	for _, n := range w.nodes {
		n.s.Reconfigure(n.time(), uplink.NewConfig(w.doc))
	}
	for _, n := range w.nodes {
		n.work()
	}
}

// role moves the role for a reason that has nothing to do with uplinks.
func (w *world) role() {
	if len(w.nodes) == 2 && !w.moving {
		w.totals.faults["role"]++
		w.handOver("for another reason")
	}
}

// stall lets the process of a node do nothing for a while.
func (w *world) stall() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	d := w.span(100*ms, 5*time.Second)
	w.totals.faults["stall"]++
	w.note("stall of %s for %v", n.name, d)
	n.stalledUntil = max(n.stalledUntil, w.now+d)
	n.settledAt = n.stalledUntil + 2*time.Second
	n.learn()
	w.after(n.stalledUntil-w.now, func() {
		if w.now >= n.stalledUntil {
			for _, u := range w.doc.Uplinks {
				n.told(u.Name)
			}
		}
	})
	w.after(n.settledAt-w.now, n.learn)
}

// stuckProber keeps a node from asking.
func (w *world) stuckProber() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	for _, u := range w.doc.Uplinks {
		w.change("prober", u.Name, []*node{n}, w.outage(), func(p *port) { p.local = true }, func(p *port) { p.local = false })
	}
}
