package conntracksync

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func randomKey(rng *rand.Rand) Key {
	key := Key{Protocol: protocolTCP, Original: tuple("192.168.7.9", uint16(rng.IntN(30)), "198.51.100.7", 443)}
	switch rng.IntN(9) {
	case 0:
		key.Original.Source = addr("10.0.0.2") // node0 itself
	case 1:
		key.Original.Destination = addr("10.0.0.3") // node1 itself
	case 2:
		key.Original = tuple("2001:db8::1", uint16(rng.IntN(9)), "2001:db8::2", 80)
	case 3, 4:
		key.Protocol = 17
	case 5:
		key.Original.Source = addr("172.16.3.4") // not replicated
	}
	return key
}

// traffic makes one change in the kernel of a MASTER.
func (p *pair) traffic(i int) {
	k := p.node[i].kernel
	key := randomKey(p.rng)
	f, exists := k.table[key]
	switch {
	case !exists:
		f = Flow{Key: key, Reply: key.Original.inverse(key.Protocol), Status: StatusConfirmed, Timeout: 120, Mark: p.rng.Uint32N(4)}
		if p.rng.IntN(4) > 0 {
			p.ports++ // this life of a flow is translated to another port
			f.Reply.DestinationPort, f.Status = 1000+p.ports, f.Status|StatusSourceNAT
		}
		if key.Protocol == protocolTCP {
			f.HasTCP, f.TCP = true, TCPInfo{State: TCPSynSent}
		}
		k.event(EventNew, f)
	case p.rng.IntN(4) == 0:
		k.expire(key)
	case p.rng.IntN(4) == 0: // an update that leaves the protocol out
		f.Mark = p.rng.Uint32N(4)
		k.event(EventUpdate, f)
		e := &k.events[len(k.events)-1].Flow
		e.HasTCP, e.TCP = false, TCPInfo{}
	default:
		f.Status |= StatusSeenReply
		if p.rng.IntN(2) == 0 {
			f.Status |= StatusAssured
		}
		if f.HasTCP {
			f.TCP.State = max(f.TCP.State, TCPSynReceived) + TCPState(p.rng.IntN(2))
			f.TCP.State = min(f.TCP.State, TCPTimeWait)
		}
		k.event(EventUpdate, f)
	}
}

// overrun loses the events that wait; the kernel says so, or, if silent, a fault
// that only the digests and passes can find.
func (p *pair) overrun(i int, silent bool) {
	n := p.node[i]
	n.kernel.events = nil
	if !silent {
		n.sender.Overrun(p.now)
		n.receiver.Overrun(p.now)
	}
}

// settle runs until nothing moves, for the given time.
func (p *pair) settle(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(100 * time.Millisecond) {
		for moves := 0; p.pump(0) || p.pump(1); moves++ {
			if moves > 100_000 {
				p.t.Fatal("never quiet")
			}
		}
	}
}

func (p *pair) master() int {
	if p.node[0].master {
		return 0
	}
	return 1
}

// takeover makes the BACKUP the MASTER; the old one learns of it at some point
// of the traffic that follows.
func (p *pair) takeover() {
	old := p.master()
	p.checkAcked(old)
	p.term++
	p.setRole(1-old, true)
	for range p.rng.IntN(20) {
		p.traffic(1 - old)
		if p.rng.IntN(3) == 0 {
			p.traffic(old) // both forward
		}
		p.pump(p.rng.IntN(2))
	}
	// The old MASTER's kernel tells of the death of all its masqueraded flows.
	for _, key := range p.node[old].kernel.keys() {
		if p.rng.IntN(4) == 0 {
			p.node[old].kernel.expire(key)
		}
	}
	for range p.rng.IntN(20) {
		p.pump(p.rng.IntN(2))
	}
	p.setRole(old, false)
}

// checkAcked: what the BACKUP has acknowledged and the MASTER still has is in
// the BACKUP's kernel, and what it has acknowledged as ended is not.
func (p *pair) checkAcked(master int) {
	m, b := p.node[master], p.node[1-master]
	if !m.sender.Complete() || !b.receiver.Complete() {
		return // then the table is not what a takeover may rely on
	}
	for id := range m.buried {
		if got, ok := b.kernel.table[id.key]; ok && got.Reply == id.reply && b.receiver.pass.leftovers == 0 {
			p.t.Fatalf("seed %d: raised from the dead: %+v", p.seed, id)
		}
	}
	for key, reply := range m.acked {
		f, alive := m.kernel.table[key]
		alive = alive && f.Reply == reply && !m.ending(key)
		if got := b.kernel.table[key]; alive && got.Reply != reply && p.replicated(master, f) {
			p.t.Fatalf("seed %d: acknowledged flow is lost: %+v", p.seed, key)
		}
	}
}

// ending tells that the end of a flow is on its way to the peer: what the kernel has
// is another one with the same tuples.
func (n *pairNode) ending(key Key) bool {
	for i := range n.kernel.events {
		if e := &n.kernel.events[i]; e.Kind == EventDestroy && e.Flow.Key == key {
			return true
		}
	}
	for i := range n.unconfirmed {
		for _, r := range n.unconfirmed[i].Records {
			if r.Kind == RecordDestroy && r.Flow.Key == key {
				return true
			}
		}
	}
	return n.sender.Backlog() > 0
}

func (p *pair) replicated(master int, f Flow) bool {
	return p.node[master].sender.exclude.skip(&f) == SkipNone
}

// checkEqual: both tables hold the same of what is replicated, with fresh
// windows on the BACKUP.
func (p *pair) checkEqual(when string) {
	m, b := p.node[p.master()], p.node[1-p.master()]
	for key, f := range m.kernel.table {
		if !p.replicated(p.master(), f) {
			continue
		}
		got, ok := b.kernel.table[key]
		got.Timeout, f.Timeout = 0, 0
		if ok && f.HasTCP && coarse(f.TCP.State) == coarse(got.TCP.State) {
			got.TCP.State = f.TCP.State
		}
		// A flow that an update without a state created is liberal.
		got.TCP.FlagsOriginal, got.TCP.FlagsReply = f.TCP.FlagsOriginal, f.TCP.FlagsReply
		if !ok || got != f {
			p.t.Errorf("%s: MASTER has\n%+v, BACKUP\n%+v (%v)", when, f, got, ok)
		}
		if b.kernel.stale[key] && key.Protocol == protocolTCP {
			p.t.Errorf("%s: stale windows on %+v", when, key)
		}
	}
	for key, f := range b.kernel.table {
		got, ok := m.kernel.table[key]
		if (!ok || got.Reply != f.Reply) && b.receiver.exclude.flow(&f) == SkipNone {
			p.t.Errorf("%s: BACKUP has what the MASTER has not: %+v", when, f)
		}
	}
	if !m.sender.Complete() || !b.receiver.Complete() {
		p.t.Errorf("%s: not complete: MASTER says %v, BACKUP %v", when, m.sender.Complete(), b.receiver.Complete())
	}
}

func (p *pair) chaos(steps int) {
	for range steps {
		m, b := p.master(), 1-p.master()
		if p.rng.IntN(50) == 0 {
			p.checkAcked(m)
		}
		switch r := p.rng.IntN(1000); {
		case r < 4:
			p.toggleConnection()
		case r < 6:
			p.overrun(p.rng.IntN(2), false)
		case r < 7:
			p.overrun(p.rng.IntN(2), true)
		case r < 10:
			p.takeover()
		case r < 11:
			p.restartNode(p.rng.IntN(2))
		case r < 13: // a flow expires, or is evicted, on the BACKUP
			if keys := p.node[b].kernel.keys(); len(keys) > 0 {
				key := keys[p.rng.IntN(len(keys))]
				p.node[b].kernel.expire(key)
				delete(p.node[m].acked, key)
			}
		case r < 15: // the BACKUP's kernel refuses things for a while
			p.node[b].kernel.refuse = p.rng.IntN(2) * 30
		case r < 20:
			p.now = p.now.Add(time.Duration(p.rng.IntN(21)) * time.Second)
		case r < 100:
			p.now = p.now.Add(time.Duration(p.rng.IntN(4)) * time.Millisecond)
		case r < 350:
			p.traffic(m)
		default:
			p.pump(p.rng.IntN(2))
		}
	}
	for _, n := range p.node {
		n.kernel.refuse = 0
	}
}

func (p *pair) toggleConnection() {
	if p.connected {
		p.disconnect()
	} else {
		p.connect()
	}
}

// restartNode restarts the daemon; its kernel goes on, unheard.
func (p *pair) restartNode(i int) {
	connected := p.connected
	if connected {
		p.disconnect()
	}
	master := p.node[i].master
	p.restart(i)
	for range p.rng.IntN(5) {
		p.traffic(p.master())
	}
	p.node[i].kernel.events = nil
	p.setRole(i, master)
	if connected {
		p.connect()
	}
}

// quiet is long enough for two passes, a sweep and the longest back-off.
const quiet = 150 * time.Second

func TestPairConverges(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		p := newPair(t, seed)
		for round := range 4 {
			p.chaos(800)
			if !p.connected {
				p.connect()
			}
			p.settle(quiet)
			p.checkEqual(fmt.Sprintf("seed %d round %d", seed, round))
			if t.Failed() {
				t.Fatalf("seed %d round %d", seed, round)
			}
		}
	}
}
