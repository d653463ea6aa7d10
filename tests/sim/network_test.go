package sim

import (
	"slices"
	"time"

	"tandem/vrrp"
)

// carrier is one of the links between the nodes.
type carrier int

const (
	lan carrier = iota
	wan
	ha
	carriers
)

func (c carrier) String() string { return [...]string{"lan", "wan", "ha"}[c] }

// fenced tells that adverts leave the carrier by a macvlan, and so open the fence.
func (c carrier) fenced() bool { return c != ha }

// link is what is wrong with a carrier. Faults overlap, so they are counted. The
// first index of cut and loss is the sender.
type link struct {
	cut  [2]int
	loss [2][]float64
	// down counts what holds a node's end of the link down.
	down [2]int
	// newest is when the last packet of a sender arrives.
	newest [2]time.Duration
}

// up tells whether a node sees the link up. The HA link is a cable: when one end
// is down, so is the other.
func (w *world) up(node int, c carrier) bool {
	l := &w.links[c]
	if c == ha {
		return l.down[0]+l.down[1] == 0
	}
	return l.down[node] == 0
}

// clear tells that every packet from a node gets through on the carrier.
func (w *world) clear(from int, c carrier) bool {
	l := &w.links[c]
	return w.up(from, c) && w.up(1-from, c) && l.cut[from] == 0 && len(l.loss[from]) == 0
}

// send carries a packet to the other node, unless it is lost.
func (w *world) send(from int, c carrier, arrive func()) {
	l := &w.links[c]
	if !w.up(from, c) || !w.up(1-from, c) || l.cut[from] > 0 {
		return
	}
	for _, p := range l.loss[from] {
		if w.chance(p) {
			return
		}
	}
	copies := 1
	if w.chance(w.duplicates) {
		copies = 2
	}
	for range copies {
		delay := w.between(w.delayMin, w.delayMax)
		if !w.reorders {
			delay = max(delay, l.newest[from]-w.now)
			l.newest[from] = w.now + delay
		}
		w.after(delay, func() {
			if w.up(1-from, c) && l.cut[from] == 0 {
				arrive()
			}
		})
	}
}

// advert is an advert on its way.
type advert struct {
	header  vrrp.Header
	message []byte
	// number is the sender's count of adverts, priority what message says.
	number   uint64
	priority uint8
}

// sendAdvert encodes and sends one advert.
func (w *world) sendAdvert(n *node, c carrier, priority uint8) {
	cfg := n.cfg.Carriers[c]
	header := vrrp.Header{Source: cfg.Source, Destination: vrrp.MulticastIPv4(), TTL: vrrp.TTL}
	a := vrrp.Advertisement{VRID: cfg.VRID, Priority: priority, Interval: n.cfg.Interval, Addresses: cfg.Addresses}
	message, err := a.Append(nil, header, vrrp.ChecksumPlain)
	if err != nil {
		w.fail("node %d sends what cannot be sent: %v", n.id, err)
		return
	}
	p := advert{header: header, message: message, number: n.adverts, priority: priority}
	peer := w.nodes[1-n.id]
	w.send(n.id, c, func() { peer.arrive(c, p) })
}

// heartbeat is a heartbeat on its way. number is the sender's count; a replayed
// one has none.
type heartbeat struct {
	sealed []byte
	number uint64
}

// sendHeartbeat sends one sealed heartbeat. An attacker may listen, but cannot
// hold back what it hears.
func (w *world) sendHeartbeat(n *node, sealed []byte) {
	peer := w.nodes[1-n.id]
	b := heartbeat{sealed: sealed, number: n.heartbeats}
	w.send(n.id, ha, func() {
		peer.arriveHeartbeat(b)
		if len(w.recorded) < 1000 {
			w.recorded = append(w.recorded, slices.Clone(sealed))
		}
	})
}
