package replication

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/dchest/siphash"

	"tandem/conntracksync"
)

// oracle knows what each node was told by its kernel, what it told the other node, and
// what of that the other node has acknowledged.
type oracle struct {
	key [16]byte
	// names has the flows by the hashes that stand for them on the wire.
	names map[uint64]identity
	sides [2]side
}

// side is what a node has told as MASTER.
type side struct {
	// told has what was acknowledged of each flow, waiting what was not yet.
	told    map[identity]fact
	waiting []sentFact
	// news are the flows of the last acknowledgement.
	news []identity
	// fed has the flows whose events were taken in on this stream, without a loss
	// since; ends has the entries whose end was taken in.
	fed  map[identity]fact
	ends map[identity]uint64
	// dead are the flows that were told to live though their end was taken in: the end
	// must follow.
	dead []identity
	// children are the masters of flows that the repair under way has told of.
	children map[conntracksync.Key]bool
	// had are the flows that the kernel had when the mastership ended.
	had map[identity]remains
	// overflows and barrier tell what the barrier is about.
	overflows uint64
	barrier   map[identity]fact
	asked     bool
	// lossAt is when events were last lost.
	lossAt time.Duration
}

// fact is what is known of a flow.
type fact struct {
	ended, gone bool
	status      conntracksync.Status
	hasTCP      bool
	tcp         int
	mark        uint32
	at          time.Duration
}

// remains is a flow at the end of a mastership.
type remains struct {
	remaining time.Duration
	mark      uint32
}

type sentFact struct {
	seq uint64
	id  identity
	fact
}

func newOracle(w *world) oracle {
	o := oracle{names: map[uint64]identity{}}
	binary.LittleEndian.PutUint64(o.key[:], w.rng.Uint64())
	binary.LittleEndian.PutUint64(o.key[8:], w.rng.Uint64())
	for i := range o.sides {
		o.sides[i].clear()
		o.sides[i].ends = map[identity]uint64{}
	}
	return o
}

// clear forgets what the other node knows.
func (s *side) clear() {
	s.told, s.waiting, s.had, s.dead = map[identity]fact{}, nil, nil, nil
	s.forgetEvents()
}

// last is what was last told of a flow.
func (s *side) last(id identity) fact {
	for _, f := range slices.Backward(s.waiting) {
		if f.id == id {
			return f.fact
		}
	}
	return s.told[id]
}

func (s *side) forgetEvents() { s.fed, s.barrier, s.asked = map[identity]fact{}, nil, false }

// hash is what stands for a flow on the wire: SipHash over zone, protocol, family and
// both tuples.
func (o *oracle) hash(id identity) uint64 {
	b := []byte{byte(id.Zone >> 8), byte(id.Zone), id.Protocol, 6}
	address := func(a netip.Addr) {
		if a.Is4() {
			b[3] = 4
		}
		b = append(b, a.AsSlice()...)
	}
	for _, t := range []conntracksync.Tuple{id.Original, id.reply} {
		address(t.Source)
		address(t.Destination)
		b = binary.BigEndian.AppendUint16(b, t.SourcePort)
		b = binary.BigEndian.AppendUint16(b, t.DestinationPort)
	}
	k0, k1 := binary.LittleEndian.Uint64(o.key[:]), binary.LittleEndian.Uint64(o.key[8:])
	return max(siphash.Hash(k0, k1, b), 1)
}

// coarse tells handshake, established, closing and closed apart.
func coarse(s conntracksync.TCPState) int {
	switch s {
	case conntracksync.TCPEstablished:
		return 1
	case conntracksync.TCPFinWait, conntracksync.TCPCloseWait, conntracksync.TCPLastAck:
		return 2
	case conntracksync.TCPTimeWait, conntracksync.TCPClose:
		return 3
	case conntracksync.TCPNone, conntracksync.TCPSynSent, conntracksync.TCPSynReceived, conntracksync.TCPSynSent2:
	}
	return 0
}

// class is what the nodes compare of a flow.
func class(f *conntracksync.Flow) fact {
	c := fact{status: f.Status & (conntracksync.StatusSeenReply | conntracksync.StatusAssured), hasTCP: f.HasTCP, mark: f.Mark}
	if f.HasTCP {
		c.tcp = coarse(f.TCP.State)
	}
	return c
}

// lacks says what an entry lacks of a fact; empty if nothing.
func (f fact) lacks(e *entry) string {
	c := class(&e.flow)
	switch {
	case f.status&^c.status != 0:
		return "a bit of its status"
	case f.hasTCP && c.tcp < f.tcp:
		return "its state"
	case f.mark != c.mark:
		return "its mark"
	}
	return ""
}

// ownAddresses are excluded by both nodes.
func (w *world) ownAddresses() []netip.Addr { return []netip.Addr{nodeAddress(0), nodeAddress(1)} }

func (w *world) excluded(second bool) []netip.Prefix {
	if second {
		return []netip.Prefix{excludedNetwork()}
	}
	return nil
}

// replicable tells whether a node must tell of a flow.
func (w *world) replicable(n *node, f *conntracksync.Flow) bool {
	for _, a := range w.ownAddresses() {
		if f.Original.Source == a || f.Original.Destination == a || f.Reply.Source == a || f.Reply.Destination == a {
			return false
		}
	}
	if n.excludes && (excludedNetwork().Contains(f.Original.Source) || excludedNetwork().Contains(f.Reply.Destination)) {
		return false
	}
	if f.Protocol == protocolSCTP && w.nodes[0].features&w.nodes[1].features&conntracksync.FeatureExtras == 0 {
		return false // its tags are not told
	}
	if f.Status&conntracksync.StatusExpected != 0 || f.Extra != nil && (f.Extra.HasMaster || f.Extra.Helper != "") {
		return true // from the first packet on, which alone says so
	}
	return f.Protocol != protocolTCP || f.TCP.State != conntracksync.TCPSynSent || f.Status&conntracksync.StatusSeenReply != 0
}

// both tells whether both nodes replicate a flow.
func (w *world) both(f *conntracksync.Flow) bool {
	return w.replicable(w.nodes[0], f) && w.replicable(w.nodes[1], f)
}

// fed notes an event that a process takes in.
func (w *world) fed(n *node, r *report) {
	s := &w.oracle.sides[n.id]
	e := &r.event
	w.note("event", n.id, uint64(e.Kind), r.born)
	if e.Kind == conntracksync.EventExpect || e.Kind == conntracksync.EventExpectGone {
		return
	}
	id := identify(&e.Flow)
	if e.Kind == conntracksync.EventDestroy {
		s.ends[id] = r.born
		delete(s.fed, id)
		return
	}
	if !n.master || n.stream == nil || !w.both(&e.Flow) {
		return
	}
	if e.Flow.Protocol == protocolTCP && !e.Flow.HasTCP && e.Flow.Status&conntracksync.StatusSeenReply == 0 {
		return
	}
	w.watchOverflows(n)
	s.fed[id] = class(&e.Flow)
}

// watchOverflows forgets what the queue has dropped.
func (w *world) watchOverflows(n *node) {
	s := &w.oracle.sides[n.id]
	if o := n.sender.Stats().Overflows; o != s.overflows {
		s.overflows = o
		w.disturb("overflow", n.id)
		if n.sender.Complete() {
			w.fail(ruleComplete, "%s counts its table as complete though it has just dropped what waited", nodeName(n.id))
		}
		s.forgetEvents()
	}
}

func (w *world) lossOfEvents(n *node) {
	s := &w.oracle.sides[n.id]
	s.forgetEvents()
	s.lossAt = w.now
}

// streamBegins and streamEnds: what was under way to the peer is lost.
func (w *world) streamBegins(n *node) { w.streamEnds(n) }

func (w *world) streamEnds(n *node) {
	s := &w.oracle.sides[n.id]
	s.waiting, s.dead = nil, nil
	s.forgetEvents()
}

// sent notes a frame that a Sender hands out, and judges what it says.
func (w *world) sent(n *node, b []byte) {
	f := &n.parsed
	if err := conntracksync.ParseFrame(b, f); err != nil {
		w.fail(ruleWire, "a frame of its own does not parse: %v", err)
		return
	}
	w.note("sends", n.id, uint64(f.Type), f.Seq, uint64(len(f.Records)))
	w.watch.sent(w, n, f)
	if !n.master {
		w.fail(ruleSilence, "%s sends though it is not MASTER", nodeName(n.id))
	}
	s := &w.oracle.sides[n.id]
	if f.Type == conntracksync.FrameRepairBegin {
		s.children = map[conntracksync.Key]bool{}
	}
	if f.Type == conntracksync.FrameRepairEnd {
		s.children = nil
	}
	for i := range f.Records {
		r := &f.Records[i]
		id := identify(&r.Flow)
		w.judgeOrder(n, r)
		switch r.Kind {
		case conntracksync.RecordNew, conntracksync.RecordUpdate, conntracksync.RecordRefresh:
			w.say(n.id, "tells %d %s", r.Kind, show(&r.Flow))
			w.oracle.names[w.oracle.hash(id)] = id
			w.judgeLiving(n, r, id)
			if !w.both(&r.Flow) {
				continue // the other node leaves it out
			}
			c := class(&r.Flow)
			c.at = w.now
			s.waiting = append(s.waiting, sentFact{f.Seq, id, c})
		case conntracksync.RecordDestroy:
			w.say(n.id, "tells the end %s", show(&r.Flow))
			w.judgeEnd(n, id, false)
			s.dead = slices.DeleteFunc(s.dead, func(d identity) bool { return d == id })
			s.waiting = append(s.waiting, sentFact{f.Seq, id, fact{ended: true, at: w.now}})
		case conntracksync.RecordGone:
			if id, known := w.oracle.names[r.Hash]; known {
				w.say(n.id, "tells of the going of %v", id)
				w.judgeEnd(n, id, true)
				s.dead = slices.DeleteFunc(s.dead, func(d identity) bool { return d == id })
				s.waiting = append(s.waiting, sentFact{f.Seq, id, fact{ended: true, gone: true, at: w.now}})
			}
		case conntracksync.RecordKeep, conntracksync.RecordExpect, conntracksync.RecordExpectGone:
		}
	}
}

// acknowledged notes that a node has said how far everything is in its kernel.
func (w *world) acknowledged(n *node, acked uint64) {
	o := n.other()
	s := &w.oracle.sides[o.id]
	if n.stream == nil || o.stream != n.stream || n.master {
		return
	}
	acked = o.codec.own(acked)
	done := 0
	defer func() { w.judgeAcknowledged(n, s, s.news) }()
	s.news = s.news[:0]
	for _, f := range s.waiting {
		if f.seq > acked {
			break
		}
		done++
		if old, ok := s.told[f.id]; ok && !old.ended && !f.hasTCP {
			f.hasTCP, f.tcp = old.hasTCP, old.tcp
		}
		s.told[f.id] = f.fact
		s.news = append(s.news, f.id)
	}
	s.waiting = s.waiting[done:]
}

// documentsChange: what a node does not replicate any more is not kept up to date.
func (w *world) documentsChange() {
	for i := range w.oracle.sides {
		w.oracle.sides[i].told, w.oracle.sides[i].waiting = map[identity]fact{}, nil
		w.oracle.sides[i].forgetEvents()
	}
}

// ignored notes that a node has passed over a frame: what it said is not known, whatever
// is acknowledged later.
func (w *world) ignored(n *node, seq uint64) {
	o := n.other()
	s := &w.oracle.sides[o.id]
	seq = o.codec.own(seq)
	s.waiting = slices.DeleteFunc(s.waiting, func(f sentFact) bool { return f.seq == seq })
}

// mastershipEnds keeps what the MASTER's kernel had at its end.
func (w *world) mastershipEnds(n *node) {
	s := &w.oracle.sides[n.id]
	s.had = map[identity]remains{}
	n.kernel.each(func(e *entry) { s.had[identify(&e.flow)] = remains{n.kernel.remaining(e), e.flow.Mark} })
	s.forgetEvents()
}

// promotion judges a takeover. From now on the tables go their own ways.
func (w *world) promotion(n *node) {
	w.judgeTakeover(n)
	w.oracle.sides[0].clear()
	w.oracle.sides[1].clear()
}
