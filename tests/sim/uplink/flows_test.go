package uplink

import (
	"net/netip"
	"time"
)

//nolint:gochecknoglobals // never changed
var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// binding is where flows are: a path of a network, the uplink of their mark, and whether they began
// outside.
type binding struct {
	way
	inbound bool
}

// flow stands for all flows of a binding; began is when the newest did.
type flow struct{ began time.Duration }

// leaving is when a path left an uplink, or may not use it any more, and how long flows may stay.
type leaving struct{ at, drain time.Duration }

// bound is whether flows of a network carry the mark of an uplink at all.
func (w *world) bound(network string) bool { return !w.network(network).RoutedNATAddress.IsValid() }

// begin lets flows begin: from inside on what the MASTER has chosen, from outside on what works and is allowed.
func (w *world) begin() {
	for _, network := range w.doc.Networks {
		if !w.bound(network.Name) {
			continue
		}
		if chosen := w.master.s.Selection()[pathOf(network.Name)]; chosen != "" && w.chance(0.3) {
			w.flows[binding{way{network.Name, chosen}, false}] = &flow{began: w.now}
		}
		u := w.doc.Uplinks[w.random.IntN(len(w.doc.Uplinks))].Name
		if w.allowed(network.Name, u) && w.master.truths[way{network.Name, u}].quality == good && w.chance(0.1) {
			w.flows[binding{way{network.Name, u}, true}] = &flow{began: w.now}
		}
	}
}

// end carries out the duties of the MASTER. The BACKUP must have none.
func (w *world) end() {
	for _, n := range w.nodes {
		if n.now < n.stalledUntil {
			continue
		}
		for _, d := range n.s.Duties(n.time()) {
			if n != w.master {
				n.fail("duty of a BACKUP", "%s is BACKUP and has the duty %+v", n.name, d)
				return
			}
			v := way{d.Path.Network, d.Uplink}
			w.totals.duties++
			n.checkDuty(v, d)
			if !d.Outbound {
				w.kill(binding{v, true})
			}
			w.kill(binding{v, false})
		}
	}
}

func (w *world) kill(b binding) {
	if w.flows[b] != nil {
		w.totals.ended++
		w.note("flows of %s on %s end, from outside: %v", b.network, b.uplink, b.inbound)
		delete(w.flows, b)
	}
}
