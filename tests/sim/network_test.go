package sim

import (
	"time"

	"tandem/vrrp"
)

// carrier is one of the links: the networks come first, the HA link is the last.
type carrier int

const (
	maxNetworks         = 4
	ha          carrier = maxNetworks
	carriers    carrier = maxNetworks + 1
	// maxMachines bounds how many machines a world has.
	maxMachines = 4
)

func (c carrier) String() string {
	return [...]string{"net0", "net1", "net2", "net3", "ha"}[c]
}

// fenced tells that adverts leave the carrier by a macvlan, and so open the fence.
func (c carrier) fenced() bool { return c != ha }

// link is how a carrier is, and what is wrong with it. Faults overlap, so they are
// counted.
type link struct {
	// delayMin and delayMax bound how long a packet takes; duplicates is the share
	// of packets that come twice, background the share that is always lost; reorders
	// lets packets overtake.
	delayMin, delayMax     time.Duration
	duplicates, background float64
	reorders               bool
	// cut is by sender and receiver, loss by sender.
	cut  [maxMachines][maxMachines]int
	loss [maxMachines][]float64
	// down counts what holds a machine's end of the link down.
	down [maxMachines]int
	// changedAt is when one of these last changed.
	changedAt time.Duration
	// newest is when the last packet of a sender arrives at a receiver.
	newest [maxMachines][maxMachines]time.Duration
}

// up tells whether a machine sees the link up. The HA link is a cable: when one
// end is down, so is the other.
func (w *world) up(m *machine, c carrier) bool {
	l := &w.links[c]
	if c != ha {
		return l.down[m.id] == 0
	}
	return m.slot >= 0 && l.down[w.members[0].id]+l.down[w.members[1].id] == 0 && w.members[m.slot] == m
}

// passes tells that every packet gets through on the carrier.
func (w *world) passes(from, to *machine, c carrier) bool {
	l := &w.links[c]
	return l.background == 0 && len(l.loss[from.id]) == 0 && l.cut[from.id][to.id] == 0 &&
		from.has(c) && to.has(c) && w.up(from, c) && w.up(to, c)
}

// hears tells that every packet gets through on some carrier.
func (w *world) hears(from, to *machine) bool {
	for c := range carriers {
		if w.passes(from, to, c) {
			return true
		}
	}
	return false
}

// reach calls deliver for every copy of a packet that gets to a machine, when it
// gets there.
func (w *world) reach(from, to *machine, c carrier, deliver func()) {
	l := &w.links[c]
	if !w.up(to, c) || l.cut[from.id][to.id] > 0 || l.background > 0 && w.chance(l.background) {
		return
	}
	for _, p := range l.loss[from.id] {
		if w.chance(p) {
			return
		}
	}
	copies := 1
	if l.duplicates > 0 && w.chance(l.duplicates) {
		copies = 2
	}
	for range copies {
		delay := w.between(l.delayMin, l.delayMax)
		if !l.reorders {
			newest := &l.newest[from.id][to.id]
			delay = max(delay, *newest-w.now)
			*newest = w.now + delay
		}
		w.after(delay, func() {
			if w.up(to, c) && l.cut[from.id][to.id] == 0 {
				deliver()
			}
		})
	}
}

// advert is an advert on its way. number is the sender's count of adverts.
type advert struct {
	from     *machine
	header   vrrp.Header
	message  []byte
	number   uint64
	priority uint8
}

// sendAdvert encodes and sends one advert to everybody on the carrier.
func (w *world) sendAdvert(m *machine, c carrier, priority uint8) {
	if !w.up(m, c) {
		return
	}
	p := &advert{from: m, header: m.header(c), message: m.encode(c, priority), number: m.adverts, priority: priority}
	for _, to := range w.machines {
		if to != m && to.has(c) {
			w.reach(m, to, c, func() { to.arrive(c, p) })
		}
	}
}

// heartbeat is a heartbeat on its way. number is the sender's count; replays of
// the same heartbeat share it, and trusted tells that somebody believed it.
type heartbeat struct {
	from    *machine
	process uint64
	sealed  []byte
	number  uint64
	trusted bool
}

// sendHeartbeat sends one sealed heartbeat. An attacker may listen, but cannot
// hold back what it hears.
func (w *world) sendHeartbeat(m *machine, sealed []byte) {
	to := w.members[1-m.slot]
	if !w.up(m, ha) {
		return
	}
	b := &heartbeat{from: m, process: m.process(), sealed: sealed, number: m.heartbeats}
	w.reach(m, to, ha, func() {
		if to.group == nil && to.powered() && w.up(to, ha) {
			// Nobody listens, says the kernel.
			w.reach(to, m, ha, func() { m.hear(&m.refusals) })
		}
		to.arriveHeartbeat(b)
		if len(w.recorded) < 1000 {
			w.recorded = append(w.recorded, b)
		}
	})
}

// sendEcho asks the peer's kernel whether it lives.
func (w *world) sendEcho(m *machine) {
	to := m.peer()
	if to == nil || !w.up(m, ha) {
		return
	}
	w.reach(m, to, ha, func() {
		if to.powered() {
			w.reach(to, m, ha, func() { m.hear(&m.echoes) })
		}
	})
}
