package uplink

import (
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

// memory is how long an uplink that was lossy may count as degraded: 50 probes, and the time until one
// that was sparsely asked has as many.
func (w *world) memory(network *config.Network) time.Duration {
	return 5 * 50 * max(network.Probe.Interval, 250*ms)
}

// check looks at what must hold, and goes on looking.
func (w *world) check() {
	w.arbitrate()
	w.end()
	w.begin()
	for _, n := range w.nodes {
		if n.now < n.settledAt {
			continue
		}
		for i := range w.doc.Networks {
			n.checkChoice(&w.doc.Networks[i])
			if n == w.master {
				n.checkFlows(&w.doc.Networks[i])
			}
		}
		n.checkFailures()
	}
	if w.violation == "" {
		w.after(look, w.check)
	}
}

// noForbidden: no path takes an uplink that is too dear, not for a moment.
func (n *node) noForbidden() {
	for p, chosen := range n.s.Selection() {
		if !n.allowed(p.Network, chosen) {
			n.fail("forbidden", "%s takes %s for %s, which costs %d", n.name, chosen, p.Network, n.uplink(chosen).Cost)
		}
	}
}

// refuge is an uplink that has worked for long enough to be taken; empty if there is none.
func (n *node) refuge(network *config.Network, but string) string {
	for _, u := range n.doc.Uplinks {
		t := n.truths[way{network.Name, u.Name}]
		if u.Name != but && n.allowed(network.Name, u.Name) && t.steadily(n.now, good, knowsLife(network)) && !t.lately(n.now, vague, n.memory(network)) {
			return u.Name
		}
	}
	return ""
}

// checkChoice: what is dead is not used for longer than it takes to know it, if there is anything better.
func (n *node) checkChoice(network *config.Network) {
	chosen := n.s.Selection()[pathOf(network.Name)]
	if chosen == "" {
		if slices.ContainsFunc(n.doc.Uplinks, func(u config.Uplink) bool { return n.allowed(network.Name, u.Name) }) {
			n.fail("none", "%s has no uplink for %s, though some are allowed", n.name, network.Name)
		}
		return
	}
	t := n.truths[way{network.Name, chosen}]
	n.checkLoss(network, chosen, t)
	better := n.refuge(network, chosen)
	if better == "" {
		return
	}
	if t.quality != bad {
		return
	}
	n.totals.judged++
	// Where nothing is asked beyond the gateway, what lies there is not known.
	late := func(what string, since, bound time.Duration) {
		if since >= 0 && n.now-since > bound {
			n.fail("dead and in use", "%s takes %s for %s for %v after %s, though %s works:\n%s",
				n.name, chosen, network.Name, n.now-since, what, better, n.explain(network.Name))
		}
	}
	late("a failure", t.since, knowsDeath(network)+switches())
	late("the loss of link or address", t.cut, switches())
	if !t.lately(n.now, vague, n.memory(network)) && n.wasGood(t) {
		late("the silence of the gateway", t.silent, knowsSilence()+switches())
	}
}

// checkLoss: with 30 % of loss, 120 probes tell for sure that it is too much, and one that never failed is
// better: others may be held, longer and longer.
func (n *node) checkLoss(network *config.Network, chosen string, t *truth) {
	p := n.ports[chosen]
	if p.loss < 0.3 || p.local || len(network.Probe.Targets) > 0 || !t.steadily(n.now, vague, 120*250*ms) || n.now < n.settledAt+30*time.Second {
		return
	}
	for _, u := range n.doc.Uplinks {
		t := n.truths[way{network.Name, u.Name}]
		if u.Name != chosen && n.allowed(network.Name, u.Name) && t.quality == good && t.last[bad] < 0 && t.last[vague] < 0 {
			n.fail("lossy and in use", "%s takes %s for %s, which loses %.0f %%, though %s works:\n%s", n.name, chosen, network.Name, 100*p.loss, u.Name, n.explain(network.Name))
		}
	}
}

// wasGood tells that the silence of a gateway began when all was well: a gateway that was silent before tells
// nothing.
func (n *node) wasGood(t *truth) bool {
	return t.silent >= 0 && t.since == t.silent && t.mute == t.silent && t.mute-t.heard > 1500*ms
}

// switched: there is a reason for each switch, and a better place.
func (n *node) switched(s uplink.Switch) {
	n.note("%s: %s moves from %q to %q, planned %v: %s", n.name, s.Path.Network, s.From, s.To, s.Planned, s.Reason)
	network := n.network(s.Path.Network)
	v := way{network.Name, s.From}
	if s.From == "" {
		return
	}
	n.totals.switches++
	from := n.truths[v]
	if s.Planned || !n.allowed(network.Name, s.From) {
		n.left[binding{v, false}] = leaving{s.At.Sub(at(0)), network.DrainTime}
	} else {
		delete(n.left, binding{v, false})
	}
	if !n.allowed(network.Name, s.From) || s.To == "" {
		return
	}
	to := n.truths[way{network.Name, s.To}]
	known := knowsDeath(network) + switches() + time.Second
	if n.now >= n.settledAt && (to.steadily(n.now, bad, known+n.unnoticed(s.To)) || to.cut >= 0) {
		n.fail("to a dead one", "%s moves %s to %s, which is dead:\n%s", n.name, network.Name, s.To, n.explain(network.Name))
	}
	if s.Planned {
		n.checkPlanned(network, s, from, to)
		return
	}
	n.totals.unplanned++
	known += knowsLife(network)
	if !from.lately(n.now, bad, known) && !from.lately(n.now, vague, known) {
		n.fail("without a reason", "%s leaves %s for %s: %s:\n%s", n.name, s.From, network.Name, s.Reason, n.explain(network.Name))
	}
	if took := s.At.Sub(s.FailedAt); took < 0 {
		n.fail("times", "%s moves %v before the failure", n.name, -took)
	}
}

// checkPlanned: the new uplink is cheaper, or the old one is lossy; and the new one has not failed for a while.
func (n *node) checkPlanned(network *config.Network, s uplink.Switch, from, to *truth) {
	n.totals.planned++
	cheaper := n.uplink(s.To).Cost < n.uplink(s.From).Cost
	switch {
	case cheaper && network.Failback != config.FailbackKeep:
	case from.lately(n.now, vague, n.memory(network)), from.lately(n.now, bad, n.memory(network)):
	default:
		n.fail("without a reason", "%s leaves %s for %s by plan: %s:\n%s", n.name, s.From, network.Name, s.Reason, n.explain(network.Name))
	}
	// What is asked seldom must prove that it works.
	proof := 500*ms + 200*ms
	if p := network.Probe; len(p.Targets) > 0 {
		proof = 2*p.Interval + p.Timeout
	}
	if n.now >= n.settledAt && to.steadily(n.now, bad, proof+100*ms) {
		n.fail("to a dead one", "%s moves %s by plan to %s, which is dead:\n%s", n.name, network.Name, s.To, n.explain(network.Name))
	}
	if to.proved && to.flap >= 0 && n.now-to.flap < 9*time.Second {
		n.fail("too eager", "%s returns to %s for %s %v after its link came back", n.name, s.To, network.Name, n.now-to.flap)
	}
}

// checkDuty: flows are ended only where they are lost or where their time is over, and if
// there is a better place.
func (n *node) checkDuty(v way, d uplink.Duty) {
	network := n.network(v.network)
	if !n.bound(v.network) {
		n.fail("duty", "%s ends flows of %s, which are bound to no uplink", n.name, v.network)
	}
	chosen := n.s.Selection()[d.Path]
	if chosen == v.uplink {
		n.fail("duty", "%s ends flows of %s on %s, which is in use", n.name, v.network, v.uplink)
		return
	}
	l, was := n.left[binding{v, false}]
	over := was && n.now-l.at >= l.drain-ms
	if !n.allowed(v.network, v.uplink) {
		if t := n.truths[v]; !over && !t.lately(n.now, bad, knowsLife(network)) && !t.lately(n.now, vague, knowsLife(network)) {
			n.fail("duty", "%s ends flows of %s on %s, which is too dear, before their time", n.name, v.network, v.uplink)
		}
		return
	}
	// A metered one that was not in use may have died unnoticed.
	if chosen == "" || n.truths[way{v.network, chosen}].steadily(n.now, bad, knowsDeath(network)+n.unnoticed(chosen)+switches()) {
		n.fail("duty", "%s ends flows of %s on %s, and %q is not better", n.name, v.network, v.uplink, chosen)
		return
	}
	t := n.truths[v]
	known := knowsLife(network) + knowsDeath(network)
	if t.steadily(n.now, good, known) && !d.Outbound {
		n.fail("duty", "%s ends all flows of %s on %s, which works:\n%s", n.name, v.network, v.uplink, n.explain(v.network))
	}
	if was && !over && n.masterSince < l.at && t.steadily(n.now, good, n.now-l.at+known) {
		n.fail("duty", "%s ends flows of %s on %s %v after it was left by plan, and they have %v", n.name, v.network, v.uplink, n.now-l.at, l.drain)
	}
	// After a failure what is left is looked for, for a minute.
	if t.steadily(n.now, good, known+time.Minute) && !over && !t.lately(n.now, vague, known+time.Minute) {
		n.fail("duty", "%s ends flows of %s on %s before their time: %+v", n.name, v.network, v.uplink, d)
	}
}

// checkFlows: on the MASTER no flow stays where it is lost, or longer than it may.
func (n *node) checkFlows(network *config.Network) {
	chosen := n.s.Selection()[pathOf(network.Name)]
	if chosen == "" || n.now-n.masterSince < 2*look {
		return
	}
	// A better place is one in use that works, and has for some time.
	if !n.truths[way{network.Name, chosen}].steadily(n.now, good, knowsLife(network)) {
		return
	}
	known := knowsDeath(network) + switches() + 2*look
	for _, u := range n.doc.Uplinks {
		v := way{network.Name, u.Name}
		if u.Name == chosen {
			continue
		}
		for _, inbound := range []bool{false, true} {
			b := binding{v, inbound}
			if n.flows[b] == nil {
				continue
			}
			bound := known + n.unnoticed(u.Name)
			if n.allowed(network.Name, u.Name) && n.truths[v].steadily(n.now, bad, bound) && n.now-n.masterSince > bound {
				n.fail("lost flows", "flows of %s stay on %s, which is dead for %v, inbound %v:\n%s", network.Name, u.Name, n.now-n.truths[v].since, inbound, n.explain(network.Name))
			}
			l, was := n.left[b]
			if was && n.masterSince < l.at && n.flows[b].began < l.at && n.now-l.at > l.drain+known {
				n.fail("drain", "flows of %s stay on %s for %v", network.Name, u.Name, n.now-l.at)
			}
		}
	}
}

// checkFailures: what is wanted and dead speaks against a node, nothing else does.
func (n *node) checkFailures() {
	failures := n.s.Failures()
	maps.DeleteFunc(n.accused, func(name string, _ time.Duration) bool { return !slices.Contains(failures, name) })
	for _, name := range failures {
		if network, is := strings.CutPrefix(name, "network "); is {
			name = ""
			for _, u := range n.doc.Uplinks {
				if n.allowed(network, u.Name) && n.allGood(network, u.Name) {
					name = u.Name
				}
			}
			if name != "" && n.accuses("network "+network) {
				n.fail("failures", "%s has no uplink for %s, though %s works", n.name, network, name)
			}
			continue
		}
		sound := true
		for _, network := range n.doc.Networks {
			sound = sound && (!n.allowed(network.Name, name) || n.allGood(network.Name, name))
		}
		if !sound {
			delete(n.accused, name)
			continue
		}
		if n.accuses(name) {
			n.fail("failures", "%s counts %s as dead, though it works", n.name, name)
		}
	}
	for i := range n.doc.Networks {
		network := &n.doc.Networks[i]
		wanted := n.wanted(network.Name)
		if wanted == "" || !n.truths[way{network.Name, wanted}].steadily(n.now, bad, knowsDeath(network)+n.unnoticed(wanted)+switches()) {
			continue
		}
		if !slices.Contains(failures, wanted) {
			n.fail("failures", "%s is dead for %s and does not count: %q\n%s", wanted, n.name, failures, n.explain(network.Name))
		}
	}
}

// accuses notes that a failure counts without a cause, and tells whether that is wrong: a BACKUP may have its
// doubts for a moment.
func (n *node) accuses(name string) bool {
	since, is := n.accused[name]
	if !is {
		since = n.now
		n.accused[name] = since
	}
	return n == n.master || n.now-since > time.Second
}

// allGood tells that a way works for so long that nothing is held against it.
func (n *node) allGood(network, name string) bool {
	t, nw := n.truths[way{network, name}], n.network(network)
	return t.steadily(n.now, good, knowsLife(nw)+2*time.Minute) && !t.lately(n.now, vague, n.memory(nw)+time.Minute)
}

func (w *world) wanted(network string) string {
	wanted := ""
	for _, u := range w.doc.Uplinks {
		if w.allowed(network, u.Name) && (wanted == "" || u.Cost < w.uplink(wanted).Cost) {
			wanted = u.Name
		}
	}
	return wanted
}

// explain shows what the selector says and what is true.
func (n *node) explain(network string) string {
	var text strings.Builder
	for _, p := range n.s.Status(n.time()).Paths {
		if p.Network == network {
			text.WriteString(show(p))
		}
	}
	for _, v := range slices.SortedFunc(maps.Keys(n.truths), func(a, b way) int { return strings.Compare(a.network+a.uplink, b.network+b.uplink) }) {
		if v.network == network {
			text.WriteString("  true of " + v.uplink + ": " + n.truths[v].String() + "\n")
		}
	}
	return text.String()
}
