package conntracksync

import (
	"cmp"
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
	rng     *rand.Rand
	table   map[Key]Flow
	stale   map[Key]bool // has TCP windows of an earlier mastership
	events  []Event
	rows    []Flow
	todo    []Key // what a running dump has not read yet
	dumped  bool  // the dump's last row is in rows
	refuse  int   // of a hundred operations
	skipped map[Key]bool
}

func newModelKernel(rng *rand.Rand) *modelKernel {
	return &modelKernel{rng: rng, table: make(map[Key]Flow), stale: make(map[Key]bool), skipped: make(map[Key]bool)}
}

func compareKeys(a, b Key) int {
	return cmp.Or(
		a.Original.Source.Compare(b.Original.Source), a.Original.Destination.Compare(b.Original.Destination),
		cmp.Compare(a.Original.SourcePort, b.Original.SourcePort),
		cmp.Compare(a.Original.DestinationPort, b.Original.DestinationPort),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Zone, b.Zone),
	)
}

func (k *modelKernel) keys() []Key { return slices.SortedFunc(maps.Keys(k.table), compareKeys) }

func (k *modelKernel) remove(key Key) {
	delete(k.table, key)
	delete(k.stale, key)
}

// apply does what the batch writer and the kernel do, and returns the indexes of
// what was refused.
func (k *modelKernel) apply(t *testing.T, ops []Op) (failed []int) {
	for i := range ops {
		op := &ops[i]
		if k.refuse > 0 && k.rng.IntN(100) < k.refuse {
			failed = append(failed, i)
			if op.Kind == OpReplace {
				k.remove(op.Flow.Key) // it deletes before it creates
			}
			continue
		}
		if !k.one(t, op) {
			failed = append(failed, i)
		}
	}
	return failed
}

func (k *modelKernel) one(t *testing.T, op *Op) (taken bool) {
	f := op.Flow
	old, exists := k.table[f.Key]
	same := exists && old.Reply == f.Reply
	switch op.Kind {
	case OpDelete:
		k.remove(f.Key)
	case OpSweep:
		if same {
			k.remove(f.Key)
		}
	case OpTimeout:
		if same {
			old.Timeout = f.Timeout
			k.table[f.Key] = old
		}
	case OpExpect, OpExpectDelete:
	case OpReplace, OpCreate, OpUpdate:
		if same && op.Kind != OpReplace {
			f.Status |= old.Status
			if !f.HasTCP {
				f.HasTCP, f.TCP = old.HasTCP, old.TCP
			}
			if f.Extra == nil {
				f.Extra = old.Extra
			}
		} else {
			delete(k.stale, f.Key)
		}
		if op.Kind == OpUpdate && f.Protocol == protocolTCP && !f.HasTCP {
			if f.Status&StatusAssured == 0 {
				return false
			}
			f.HasTCP, f.TCP = true, TCPInfo{State: TCPEstablished, FlagsOriginal: tcpBeLiberal, FlagsReply: tcpBeLiberal}
		}
		if f.Protocol == protocolTCP && !f.HasTCP {
			t.Fatalf("a TCP flow without state was created: %+v", op)
		}
		if f.Timeout < 600 {
			t.Fatalf("a flow with a time-out of %d s was created", f.Timeout)
		}
		k.table[f.Key] = f
	}
	return true
}

func (k *modelKernel) event(kind EventKind, f Flow) {
	k.table[f.Key] = f
	k.events = append(k.events, Event{Kind: kind, Flow: f})
}

// expire ends a flow as the kernel does on its own.
func (k *modelKernel) expire(key Key) {
	f := k.table[key]
	k.remove(key)
	f.Status |= StatusDying
	k.events = append(k.events, Event{Kind: EventDestroy, Flow: f})
}

// pairNode is one node: its kernel and what the shell would hold.
type pairNode struct {
	name     string
	kernel   *modelKernel
	sender   *Sender
	receiver *Receiver
	index    *Index
	master   bool
	inbox    [][]byte // encoded frames on their way to this node
	// dumping: a dump runs, for the receiver if local.
	dumping, local bool
	// acked are the flows that the peer confirmed, with the reply direction, and
	// unconfirmed the frames it did not yet confirm.
	acked       map[Key]Tuple
	unconfirmed []Frame
	// told is the last record about each flow, buried are those whose end the peer
	// confirmed.
	told   map[identified]uint64
	buried map[identified]bool
}

// identified is one flow, whatever else has its key.
type identified struct {
	key   Key
	reply Tuple
}

// pair is two nodes and the connection between them.
type pair struct {
	t         *testing.T
	seed      uint64
	rng       *rand.Rand
	now       time.Time
	node      [2]*pairNode
	connected bool
	features  [2]uint64
	term      uint64
	ports     uint16
}

func newPair(t *testing.T, seed uint64) *pair {
	p := &pair{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_000_000, 0), term: 1,
		features: [2]uint64{Features, Features},
	}
	for i := range p.node {
		p.node[i] = &pairNode{kernel: newModelKernel(p.rng)}
		p.restart(i)
	}
	p.setRole(0, true)
	p.setRole(1, false)
	p.connect()
	return p
}

func ownAddresses() []netip.Addr { return []netip.Addr{addr("10.0.0.2"), addr("10.0.0.3")} }

func excludedNetworks() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}
}

// restart gives node i a new daemon on the old kernel.
func (p *pair) restart(i int) {
	n := p.node[i]
	n.index = NewIndex(testKey())
	n.acked, n.unconfirmed, n.dumping = make(map[Key]Tuple), nil, false
	n.told, n.buried = make(map[identified]uint64), make(map[identified]bool)
	n.kernel.rows, n.kernel.todo, n.kernel.events = nil, nil, nil
	n.sender = NewSender(SenderConfig{
		Exclude: ownAddresses(), ExcludeNetworks: excludedNetworks(),
		FrameRecords: 4, HoldLimit: 6, QueueLimit: 64, RowCredit: 8,
	}, n.index)
	n.receiver = NewReceiver(ReceiverConfig{Exclude: ownAddresses(), ExcludeNetworks: excludedNetworks()}, n.index)
}

func (p *pair) hello(i int) Hello {
	return Hello{ProtocolMin: 2, ProtocolMax: 2, Features: p.features[i], Node: p.node[i].name, Term: p.term}
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
		clear(n.told)
		clear(n.buried)
		n.sender.Disconnected()
		n.receiver.Disconnected()
	}
}

func (p *pair) setRole(i int, master bool) {
	n := p.node[i]
	for n.takeEvent(p.now) { // drained first, as SetRole asks
		continue
	}
	n.master = master
	n.unconfirmed = nil
	if master {
		p.output(i, n.receiver.SetRole(p.now, true, p.term))
		n.sender.SetRole(p.now, true, p.term)
		return
	}
	// What its kernel forwarded leaves stale windows.
	for key := range n.kernel.table {
		n.kernel.stale[key] = true
	}
	clear(n.acked)
	clear(n.told)
	clear(n.buried)
	n.sender.SetRole(p.now, false, p.term)
	p.output(i, n.receiver.SetRole(p.now, false, p.term))
}

// output does what a receiver asks for.
func (p *pair) output(i int, out Output) {
	n := p.node[i]
	for j := range out.Replies {
		p.send(i, &out.Replies[j])
	}
	failed := n.kernel.apply(p.t, out.Ops)
	out = n.receiver.Applied(p.now, failed)
	for j := range out.Replies {
		p.send(i, &out.Replies[j])
	}
	if len(out.Ops) > 0 {
		p.t.Fatal("Applied asks for operations")
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
	if f.Type == FrameAck {
		n.confirm(f.Acked, n.sender.Complete() && p.node[1-i].receiver.Complete())
	}
	n.sender.Receive(p.now, &f)
	p.output(i, n.receiver.Receive(p.now, &f))
	return true
}

// confirm books what the peer acknowledged.
func (n *pairNode) confirm(seq uint64, complete bool) {
	for len(n.unconfirmed) > 0 && n.unconfirmed[0].Seq <= seq {
		for _, r := range n.unconfirmed[0].Records {
			switch r.Kind {
			case RecordDestroy:
				delete(n.acked, r.Flow.Key)
				if id := (identified{r.Flow.Key, r.Flow.Reply}); n.told[id] == n.unconfirmed[0].Seq {
					n.buried[id] = true
				}
			case RecordNew, RecordUpdate, RecordRefresh:
				delete(n.buried, identified{r.Flow.Key, r.Flow.Reply})
				if complete {
					n.acked[r.Flow.Key] = r.Flow.Reply
				}
			case RecordGone, RecordKeep, RecordExpect, RecordExpectGone:
			}
		}
		n.unconfirmed = n.unconfirmed[1:]
	}
}

// pump moves one thing: an event, a row, a frame.
func (p *pair) pump(i int) bool {
	n := p.node[i]
	p.startDump(n)
	moves := []func() bool{
		func() bool { return n.takeEvent(p.now) },
		n.readRow,
		func() bool { return p.takeRow(i) },
		func() bool { return p.emit(i) },
		func() bool { return p.deliver(i) },
	}
	p.rng.Shuffle(len(moves), func(a, b int) { moves[a], moves[b] = moves[b], moves[a] })
	for _, move := range moves {
		if move() {
			return true
		}
	}
	return false
}

func (p *pair) startDump(n *pairNode) {
	if n.dumping {
		return
	}
	n.local = n.receiver.WantDump(p.now)
	if n.dumping = n.local || n.sender.WantDump(p.now); !n.dumping {
		return
	}
	n.kernel.dumped = false
	n.kernel.todo = n.kernel.keys()
	p.rng.Shuffle(len(n.kernel.todo), func(a, b int) {
		n.kernel.todo[a], n.kernel.todo[b] = n.kernel.todo[b], n.kernel.todo[a]
	})
}

func (n *pairNode) takeEvent(now time.Time) bool {
	if len(n.kernel.events) == 0 {
		return false
	}
	n.sender.Event(now, &n.kernel.events[0])
	n.receiver.Event(now, &n.kernel.events[0])
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
		// A dump may leave out a flow while the table changes, but not time and again.
		if k.skipped[f.Key] || k.rng.IntN(100) > 0 {
			delete(k.skipped, f.Key)
			k.rows = append(k.rows, f)
		} else {
			k.skipped[f.Key] = true
		}
	}
	k.todo = k.todo[1:]
	return true
}

func (p *pair) takeRow(i int) bool {
	n := p.node[i]
	k := n.kernel
	switch {
	case !n.dumping || len(k.rows) == 0 && !k.dumped:
		return false
	case len(k.rows) > 0:
		rows := slices.Clone(k.rows[:1+p.rng.IntN(len(k.rows))])
		if n.local {
			p.output(i, n.receiver.DumpFlows(p.now, rows))
		} else if !n.sender.WantRows(p.now) {
			return false
		} else if failed := k.apply(p.t, n.sender.DumpFlows(p.now, rows)); len(failed) > 0 {
			_ = failed // a time-out that is refused stays as it is
		}
		k.rows = k.rows[len(rows):]
		return true
	}
	n.dumping = false
	failed := p.rng.IntN(20) == 0
	switch {
	case n.local && failed:
		n.receiver.DumpFailed(p.now)
	case n.local:
		p.output(i, n.receiver.DumpDone(p.now))
	case failed:
		n.sender.DumpFailed(p.now)
	default:
		n.sender.DumpDone(p.now)
	}
	return true
}

func (p *pair) emit(i int) bool {
	n := p.node[i]
	f, ok := n.sender.Next(p.now)
	if !ok {
		return false
	}
	var sent Frame
	if err := ParseFrame(AppendFrame(nil, f), &sent); err != nil {
		p.t.Fatal(err)
	}
	n.unconfirmed = append(n.unconfirmed, sent)
	for _, r := range sent.Records {
		id := identified{r.Flow.Key, r.Flow.Reply}
		n.told[id] = sent.Seq
		if r.Kind != RecordDestroy {
			delete(n.buried, id)
		}
	}
	p.send(i, f)
	return true
}
