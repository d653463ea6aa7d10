package conntracksync

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// modelKernel is a node's connection-tracking table. Events and the rows of a
// dump travel on queues of their own, as on two netlink sockets.
type modelKernel struct {
	table  map[Key]Flow
	stale  map[Key]bool // has TCP windows of an earlier mastership
	events []Event
	rows   []Flow
	todo   []Key // what a running dump has not read yet
	dumped bool  // the dump's last row is in rows
}

func newModelKernel() *modelKernel {
	return &modelKernel{table: make(map[Key]Flow), stale: make(map[Key]bool)}
}

func compareKeys(a, b Key) int { return comparePacked(packKey(a), packKey(b)) }

func (k *modelKernel) keys() []Key { return slices.SortedFunc(maps.Keys(k.table), compareKeys) }

func (k *modelKernel) apply(t *testing.T, ops []Op) {
	for _, op := range ops {
		old, exists := k.table[op.Flow.Key]
		switch op.Kind {
		case OpDelete:
			delete(k.table, op.Flow.Key)
			delete(k.stale, op.Flow.Key)
			continue
		case OpReplace:
			delete(k.stale, op.Flow.Key)
			exists = false
		case OpCreate, OpUpdate:
		}
		f := op.Flow
		if exists {
			f.Reply = old.Reply
			f.Status |= old.Status
			if !f.HasTCP {
				f.HasTCP, f.TCP = old.HasTCP, old.TCP
			}
		}
		if f.Protocol == protocolTCP && !f.HasTCP {
			t.Fatalf("a TCP flow without state was created: %+v", op)
		}
		k.table[f.Key] = f
	}
}

// pairNode is one node: its kernel and what the shell would hold.
type pairNode struct {
	name     string
	own      netip.Addr
	kernel   *modelKernel
	sender   *Sender
	receiver *Receiver
	master   bool
	inbox    [][]byte // encoded frames on their way to this node
	dumping  bool
	// acked are the flows that the peer confirmed, with the reply direction, and
	// unconfirmed the frames it did not yet confirm.
	acked       map[Key]Tuple
	unconfirmed []Frame
}

// pair is two nodes and the connection between them.
type pair struct {
	t         *testing.T
	rng       *rand.Rand
	now       time.Time
	node      [2]*pairNode
	connected bool
	term      uint64
	ports     uint16
}

func newPair(t *testing.T, seed uint64) *pair {
	p := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_000_000, 0), term: 1}
	for i := range p.node {
		own := netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)})
		p.node[i] = &pairNode{
			name: fmt.Sprint("node", i), own: own, kernel: newModelKernel(), acked: make(map[Key]Tuple),
			sender: NewSender(SenderConfig{
				Exclude: []netip.Addr{own}, FrameRecords: 4,
				HoldLimit: 6, QueueLimit: 64, TouchedLimit: 64,
			}),
			receiver: NewReceiver(ReceiverConfig{Exclude: []netip.Addr{own}}),
		}
	}
	p.setRole(0, true)
	p.setRole(1, false)
	p.connect()
	return p
}

func (p *pair) hello(i int) Hello {
	return Hello{ProtocolMin: 1, ProtocolMax: 1, Node: p.node[i].name, Term: p.term}
}

func (p *pair) connect() {
	p.connected = true
	for i, n := range p.node {
		n.sender.Connected(p.now, p.hello(i), p.hello(1-i))
		p.output(i, n.receiver.Connected(p.now, p.hello(i), p.hello(1-i)))
	}
}

// disconnect loses every frame that is under way.
func (p *pair) disconnect() {
	p.connected = false
	for _, n := range p.node {
		n.inbox, n.unconfirmed = nil, nil
		n.sender.Disconnected()
		n.receiver.Disconnected()
	}
}

func (p *pair) setRole(i int, master bool) {
	n := p.node[i]
	n.master = master
	for n.takeEvent(p.now) { // drained first, as SetRole asks
		continue
	}
	if !master {
		// What its kernel forwarded leaves stale windows.
		for key := range n.kernel.table {
			n.kernel.stale[key] = true
		}
		clear(n.acked)
	}
	n.unconfirmed = nil
	n.sender.SetRole(p.now, master, p.term)
	p.output(i, n.receiver.SetRole(p.now, master, p.term))
	if n.receiver.WantLocal() {
		for _, key := range n.kernel.keys() {
			n.receiver.Local(n.kernel.table[key])
		}
	}
}

func (p *pair) output(i int, out Output) {
	p.node[i].kernel.apply(p.t, out.Ops)
	for _, f := range out.Replies {
		p.send(i, &f)
	}
}

func (p *pair) send(i int, f *Frame) {
	if p.connected {
		peer := p.node[1-i]
		peer.inbox = append(peer.inbox, AppendFrame(nil, f))
	}
}

// deliver hands one frame to node i.
func (p *pair) deliver(i int) bool {
	n := p.node[i]
	if len(n.inbox) == 0 {
		return false
	}
	var f Frame
	if err := ParseFrame(n.inbox[0], &f); err != nil {
		p.t.Fatal(err)
	}
	n.inbox = n.inbox[1:]
	switch f.Type {
	case FrameAck:
		n.confirm(f.Acked, n.sender.Complete() && p.node[1-i].receiver.Complete())
		n.sender.Acked(p.now, f.Acked)
	case FrameDumpRequest:
		n.sender.DumpRequested(p.now)
	case FrameHello, FrameFlows, FrameDumpBegin, FrameDumpEnd, FrameBarrier, FrameStatus, FramePing:
		p.output(i, n.receiver.Receive(p.now, &f))
	}
	return true
}

// confirm books what the peer acknowledged.
func (n *pairNode) confirm(seq uint64, complete bool) {
	for len(n.unconfirmed) > 0 && n.unconfirmed[0].Seq <= seq {
		for _, r := range n.unconfirmed[0].Records {
			if r.Kind == RecordDestroy {
				delete(n.acked, r.Flow.Key)
			} else if complete {
				n.acked[r.Flow.Key] = r.Flow.Reply
			}
		}
		n.unconfirmed = n.unconfirmed[1:]
	}
}

// pump moves one thing: an event, a row, a frame.
func (p *pair) pump(i int) bool {
	n := p.node[i]
	if n.sender.WantDump(p.now) {
		n.dumping, n.kernel.dumped = true, false
		n.kernel.todo = n.kernel.keys()
		p.rng.Shuffle(len(n.kernel.todo), func(a, b int) {
			n.kernel.todo[a], n.kernel.todo[b] = n.kernel.todo[b], n.kernel.todo[a]
		})
	}
	moves := []func() bool{
		func() bool { return n.takeEvent(p.now) },
		n.readRow,
		func() bool { return n.takeRow(p.now) },
		func() bool { return p.emit(i) },
		func() bool { return p.deliver(i) },
		func() bool {
			out := n.receiver.Applied(p.now)
			p.output(i, out)
			return len(out.Replies) > 0
		},
	}
	p.rng.Shuffle(len(moves), func(a, b int) { moves[a], moves[b] = moves[b], moves[a] })
	for _, move := range moves {
		if move() {
			return true
		}
	}
	return false
}

func (n *pairNode) takeEvent(now time.Time) bool {
	if len(n.kernel.events) == 0 {
		return false
	}
	n.sender.Event(now, n.kernel.events[0])
	n.kernel.events = n.kernel.events[1:]
	return true
}

// readRow moves a row from the kernel into the dump's socket.
func (n *pairNode) readRow() bool {
	k := n.kernel
	if !n.dumping || k.dumped {
		return false
	}
	if len(k.todo) == 0 {
		k.dumped = true
		return true
	}
	if f, ok := k.table[k.todo[0]]; ok {
		k.rows = append(k.rows, f)
	}
	k.todo = k.todo[1:]
	return true
}

func (n *pairNode) takeRow(now time.Time) bool {
	k := n.kernel
	if len(k.rows) > 0 {
		if n.sender.Backlog() > 32 {
			return false
		}
		n.sender.DumpFlow(now, k.rows[0])
		k.rows = k.rows[1:]
		return true
	}
	if n.dumping && k.dumped {
		n.sender.DumpDone(now)
		n.dumping = false
		return true
	}
	return false
}

func (p *pair) emit(i int) bool {
	n := p.node[i]
	f, ok := n.sender.Next(p.now)
	if ok {
		f.Records = slices.Clone(f.Records)
		n.unconfirmed = append(n.unconfirmed, f)
		p.send(i, &f)
	}
	return ok
}

func randomKey(rng *rand.Rand) Key {
	key := Key{Protocol: protocolTCP, Original: tuple("192.168.7.9", uint16(rng.IntN(30)), "198.51.100.7", 443)}
	switch rng.IntN(8) {
	case 0:
		key.Original.Source = addr("10.0.0.2") // node0 itself
	case 1:
		key.Original.Destination = addr("10.0.0.3") // node1 itself
	case 2:
		key.Original = tuple("2001:db8::1", uint16(rng.IntN(9)), "2001:db8::2", 80)
	case 3, 4:
		key.Protocol = 17
	}
	return key
}

// traffic makes one change in the MASTER's kernel.
func (p *pair) traffic(i int) {
	k := p.node[i].kernel
	key := randomKey(p.rng)
	f, exists := k.table[key]
	switch {
	case !exists:
		f = Flow{Key: key, Reply: key.Original.inverse(), Status: StatusConfirmed, Timeout: 120, Mark: p.rng.Uint32N(4)}
		p.ports++ // each life of a flow is translated to another port
		f.Reply.DestinationPort, f.Status = p.ports, f.Status|StatusSourceNAT
		if key.Protocol == protocolTCP {
			f.HasTCP, f.TCP = true, TCPInfo{State: TCPSynSent}
		}
		k.event(EventNew, f)
	case p.rng.IntN(4) == 0:
		delete(k.table, key)
		delete(k.stale, key)
		f.Status |= StatusDying
		k.events = append(k.events, Event{Kind: EventDestroy, Flow: f})
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

func (k *modelKernel) event(kind EventKind, f Flow) {
	k.table[f.Key] = f
	k.events = append(k.events, Event{Kind: kind, Flow: f})
}

func (p *pair) overrun(i int) {
	n := p.node[i]
	n.kernel.events = nil
	n.sender.Overrun(p.now)
}

// settle runs until nothing moves, for the given time.
func (p *pair) settle(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(50 * time.Millisecond) {
		for p.pump(0) || p.pump(1) {
			continue
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
		p.pump(p.rng.IntN(2))
	}
	// The old MASTER's kernel tells of the death of all its masqueraded flows.
	for _, key := range p.node[old].kernel.keys() {
		if p.rng.IntN(4) == 0 {
			f := p.node[old].kernel.table[key]
			delete(p.node[old].kernel.table, key)
			delete(p.node[old].kernel.stale, key)
			p.node[old].kernel.events = append(p.node[old].kernel.events, Event{Kind: EventDestroy, Flow: f})
		}
	}
	for range p.rng.IntN(20) {
		p.pump(p.rng.IntN(2))
	}
	p.setRole(old, false)
}

// checkAcked: what the BACKUP has acknowledged and the MASTER still has is in
// the BACKUP's kernel.
func (p *pair) checkAcked(master int) {
	m, b := p.node[master], p.node[1-master]
	for key, reply := range m.acked {
		f, alive := m.kernel.table[key]
		alive = alive && f.Reply == reply
		if got := b.kernel.table[key]; alive && got.Reply != reply && p.replicated(master, f) {
			p.t.Fatalf("acknowledged flow is lost: %+v", key)
		}
	}
}

func (p *pair) replicated(master int, f Flow) bool {
	return p.node[master].sender.exclude.skip(f) == SkipNone && !p.node[1-master].receiver.exclude.flow(f)
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
		if !ok || got != f {
			p.t.Errorf("%s: MASTER has\n%+v, BACKUP\n%+v (%v)", when, f, got, ok)
		}
		if b.kernel.stale[key] {
			p.t.Errorf("%s: stale windows on %+v", when, key)
		}
	}
	for key, f := range b.kernel.table {
		if _, ok := m.kernel.table[key]; !ok && !b.receiver.exclude.flow(f) {
			p.t.Errorf("%s: BACKUP has what the MASTER has not: %+v", when, f)
		}
	}
	if !m.sender.Complete() || !b.receiver.Complete() {
		p.t.Errorf("%s: not complete: MASTER says %v, BACKUP %v", when, m.sender.Complete(), b.receiver.Complete())
	}
}

func (p *pair) chaos(steps int) {
	for range steps {
		switch r := p.rng.IntN(1000); {
		case r < 4:
			if p.connected {
				p.disconnect()
			} else {
				p.connect()
			}
		case r < 6:
			p.overrun(p.master())
		case r < 9:
			p.takeover()
		case r < 14:
			p.now = p.now.Add(time.Duration(p.rng.IntN(21)) * time.Second)
		case r < 100:
			p.now = p.now.Add(time.Duration(p.rng.IntN(4)) * time.Millisecond)
		case r < 350:
			p.traffic(p.master())
		default:
			p.pump(p.rng.IntN(2))
		}
	}
}

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
			p.settle(3 * time.Second)
			p.checkEqual(fmt.Sprintf("seed %d round %d", seed, round))
			if t.Failed() {
				t.Fatalf("seed %d round %d", seed, round)
			}
		}
	}
}

// TestEventsAloneKeepTablesEqual: without losses no sweep is needed, so nothing
// that ended comes back even for the time until the next dump.
func TestEventsAloneKeepTablesEqual(t *testing.T) {
	for seed := range uint64(60) {
		p := newPair(t, 1000+seed)
		p.settle(time.Second)
		for range 30 {
			for range p.rng.IntN(60) {
				if p.rng.IntN(3) == 0 {
					p.traffic(p.master())
				}
				p.pump(p.rng.IntN(2))
			}
			if p.rng.IntN(6) == 0 {
				p.node[p.master()].sender.DumpRequested(p.now)
			}
			before := p.node[0].sender.Stats().Dumps
			for range 2 { // take all events in, then let the hold end
				for p.pump(0) || p.pump(1) {
					continue
				}
				p.now = p.now.Add(5 * time.Millisecond)
			}
			for p.pump(0) || p.pump(1) {
				continue
			}
			if p.node[0].sender.Stats().Overflows > 0 || p.node[0].sender.Stats().Dumps != before {
				continue
			}
			if p.node[0].sender.dump.phase == dumpIdle && p.node[0].sender.Complete() {
				p.checkEqual(fmt.Sprintf("seed %d", seed))
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// TestBarrierMeansEqual: a passed barrier and a complete table allow a handover
// without any loss.
func TestBarrierMeansEqual(t *testing.T) {
	for seed := range uint64(60) {
		p := newPair(t, 5000+seed)
		p.chaos(300)
		if !p.connected {
			p.connect()
		}
		p.settle(3 * time.Second)
		for range 40 {
			p.traffic(p.master())
			p.pump(p.rng.IntN(2))
		}
		m := p.node[p.master()]
		for m.takeEvent(p.now) {
			continue
		}
		m.sender.Barrier(p.now)
		if m.sender.BarrierPassed() {
			t.Fatal("passed before it was sent")
		}
		for p.now = p.now.Add(2 * time.Second); !m.sender.BarrierPassed() || !m.sender.Complete(); {
			if !p.pump(0) && !p.pump(1) {
				t.Fatalf("seed %d: the barrier never passes", seed)
			}
		}
		p.checkEqual(fmt.Sprintf("seed %d", seed))
	}
}

// TestConnectionLostAtEveryFrame cuts the stream after each of its frames.
func TestConnectionLostAtEveryFrame(t *testing.T) {
	for cut := range 60 {
		p := newPair(t, 42)
		for range 50 {
			p.traffic(0)
		}
		delivered := 0
		for delivered < cut && p.connected {
			moved := false
			for i := range p.node {
				if p.deliver(i) {
					delivered, moved = delivered+1, true
				}
			}
			if !p.pump(0) && !p.pump(1) && !moved {
				p.now = p.now.Add(50 * time.Millisecond)
			}
			if p.now.Sub(time.Unix(1_000_000, 0)) > time.Minute {
				break
			}
		}
		p.disconnect()
		for range 20 {
			p.traffic(0)
			p.pump(0)
		}
		p.connect()
		p.settle(3 * time.Second)
		p.checkEqual(fmt.Sprintf("cut at %d", cut))
	}
}
