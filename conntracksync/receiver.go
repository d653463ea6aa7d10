package conntracksync

import (
	"net/netip"
	"slices"
	"time"
)

// Time-outs of flows on the BACKUP, in seconds. No packet refreshes them there;
// the MASTER's dumps do.
const (
	// timeoutFloor outlives two lost refreshes.
	timeoutFloor = 60
	// closingFloor is for TCP flows in TIME_WAIT and CLOSE.
	closingFloor = 10
	// establishedTimeout is the kernel's nf_conntrack_tcp_timeout_established. It
	// stands in for flows in a flow table, whose dumps tell no time-out.
	establishedTimeout = 432000
)

// tcpBeLiberal is IP_CT_TCP_FLAG_BE_LIBERAL.
const tcpBeLiberal = 0x08

// ReceiverConfig tunes a [Receiver]. Zero fields get the defaults.
type ReceiverConfig struct {
	// Exclude are the node's own addresses: flows from or to them are neither
	// taken from the peer nor swept.
	Exclude []netip.Addr
	// MaxFlows bounds the flows that are remembered: 4194304. Flows beyond it are
	// not applied, and the table never counts as complete.
	MaxFlows int
}

// ReceiverStats counts since the receiver was made.
type ReceiverStats struct {
	// Frames were taken in; Records of them became operations.
	Frames, Records uint64
	// Swept flows were deleted because a dump did not contain them.
	Swept uint64
	// IgnoredMaster counts records and dumps that came while this node was
	// MASTER (or had no role yet), IgnoredTerm frames of an old term,
	// IgnoredAddress records about the node's own addresses, IgnoredUnknown
	// updates that told too little of a flow not seen before.
	IgnoredMaster, IgnoredTerm, IgnoredAddress, IgnoredUnknown uint64
	// Refused records found no room.
	Refused uint64
	// Gaps in the sequence, Repeated frames, and ShortDumps, whose flows did not
	// all come, should never happen.
	Gaps, Repeated, ShortDumps uint64
	// Dumps were received to their end.
	Dumps uint64
}

// Output is what the shell must do, in this order. Both slices stay valid until
// the next call of the receiver. Operations not yet carried out when the node
// becomes MASTER must be dropped.
type Output struct {
	// Ops go to the kernel in order.
	Ops []Op
	// Replies go to the peer.
	Replies []Frame
}

// Receiver turns the MASTER's frames into operations on the kernel's table of
// the BACKUP. It is used by both nodes and applies nothing on the MASTER. It is
// not safe for concurrent use.
//
// After the operations of one or more calls were carried out the shell calls
// Applied.
type Receiver struct {
	exclude   exclusion
	maxFlows  int
	connected bool
	version   uint8
	role      Role
	// term is the highest seen anywhere.
	term uint64
	// seq is the last sequence number received, toAck the last whose frame was not
	// ignored, acked the last acknowledged.
	seq, toAck, acked uint64
	// flows are those in the kernel's table that the peer answers for. Each dump
	// begins a generation.
	flows      map[packedKey]replica
	generation uint32
	// Flows not confirmed since the generation freshFrom may have stale TCP windows
	// in the kernel and are replaced; while replacing, so are unknown ones.
	replacing bool
	freshFrom uint32
	dumping   bool
	dumped    uint64
	wantLocal bool
	// ended: a dump's end was received, complete: and applied.
	ended, complete bool
	refusing        bool
	ops             []Op
	replies         []Frame
	stats           ReceiverStats
}

// replica is what the receiver remembers of a flow in the kernel's table.
type replica struct {
	// generation is when the peer last confirmed it; zero means never.
	generation uint32
	// reply is the fingerprint of the reply direction, status its bits that the
	// kernel never takes back.
	reply  uint32
	status uint8
}

const lastingStatus = StatusSeenReply | StatusAssured

func replicaOf(f Flow, generation uint32) replica {
	return replica{generation: generation, reply: f.Reply.fingerprint(), status: uint8(f.Status & lastingStatus)}
}

// succeeds tells that r cannot be the flow that old was, but is another one with
// the same key, the end of whose predecessor was not heard of. The kernel cannot
// change a translation, so that an update would not do.
func (r replica) succeeds(old replica) bool {
	return r.reply != old.reply || old.status&^r.status != 0
}

// NewReceiver returns a receiver without a role and without a connection.
func NewReceiver(cfg ReceiverConfig) *Receiver {
	return &Receiver{
		exclude:  newExclusion(cfg.Exclude),
		maxFlows: orInt(cfg.MaxFlows, 4<<20),
		flows:    make(map[packedKey]replica),
	}
}

// SetExclude replaces the node's own addresses.
func (r *Receiver) SetExclude(addresses []netip.Addr) { r.exclude = newExclusion(addresses) }

// Stats returns the counters.
func (r *Receiver) Stats() ReceiverStats { return r.stats }

// Flows returns the number of flows that are remembered.
func (r *Receiver) Flows() int { return len(r.flows) }

// Complete tells that this node, as BACKUP, has applied a whole dump on this
// connection, and that nothing is known to be missing since.
func (r *Receiver) Complete() bool { return r.complete && r.role == RoleBackup }

// Connected begins a connection on which both sides said hello. A BACKUP asks
// for a dump.
func (r *Receiver) Connected(_ time.Time, local, remote Hello) Output {
	r.begin()
	r.Disconnected()
	r.version, r.connected = Negotiate(local, remote)
	r.term = max(r.term, remote.Term)
	r.resync()
	return r.output()
}

// Disconnected ends the connection. The kernel's table stays as it is.
func (r *Receiver) Disconnected() {
	r.connected = false
	r.seq, r.toAck, r.acked = 0, 0, 0
	r.dumping, r.ended, r.complete = false, false, false
}

// SetRole tells whether the node is MASTER and which term it knows. On becoming
// BACKUP it asks for a dump; see WantLocal too.
func (r *Receiver) SetRole(_ time.Time, master bool, term uint64) Output {
	r.begin()
	r.term = max(r.term, term)
	role := RoleBackup
	if master {
		role = RoleMaster
	}
	if role == r.role {
		return r.output()
	}
	r.role = role
	r.dumping, r.ended, r.complete = false, false, false
	if master {
		r.flows = make(map[packedKey]replica)
		r.wantLocal = false
		return r.output()
	}
	r.wantLocal = true
	r.resync()
	return r.output()
}

// resync distrusts all that the kernel's table holds until the next dump's end.
func (r *Receiver) resync() {
	if r.role != RoleBackup || !r.connected {
		return
	}
	r.generation++
	r.replacing, r.freshFrom = true, r.generation
	r.request()
}

func (r *Receiver) request() {
	r.dumping, r.ended, r.complete = false, false, false
	r.reply(Frame{Type: FrameDumpRequest})
}

// WantLocal tells, once after each change to BACKUP, that the shell must feed the
// kernel's table of this node to Local, so that what is left of an earlier
// mastership, or of an earlier run, gets swept unless the peer has it too.
func (r *Receiver) WantLocal() bool {
	want := r.wantLocal
	r.wantLocal = false
	return want
}

// Local takes in one flow of this node's kernel table.
func (r *Receiver) Local(f Flow) {
	if r.role != RoleBackup || !f.encodable() || r.exclude.flow(f) {
		return
	}
	key := packKey(f.Key)
	if _, known := r.flows[key]; !known && len(r.flows) < r.maxFlows {
		r.flows[key] = replica{}
	}
}

// Receive takes in a sequenced frame; others are none of its business and
// ignored.
func (r *Receiver) Receive(_ time.Time, f *Frame) Output {
	r.begin()
	switch f.Type {
	case FrameFlows, FrameDumpBegin, FrameDumpEnd, FrameBarrier:
		r.sequenced(f)
	case FrameHello, FrameDumpRequest, FrameAck, FrameStatus, FramePing:
	}
	return r.output()
}

func (r *Receiver) sequenced(f *Frame) {
	if !r.connected {
		return
	}
	r.stats.Frames++
	if f.Seq <= r.seq {
		r.stats.Repeated++
		return
	}
	gap := f.Seq != r.seq+1
	r.seq = f.Seq
	switch {
	case r.role != RoleBackup:
		r.stats.IgnoredMaster++
		return
	case f.Term < r.term:
		r.stats.IgnoredTerm++
		return
	}
	r.term = f.Term
	r.toAck = f.Seq
	if gap {
		r.stats.Gaps++
		r.request()
	}
	switch f.Type {
	case FrameFlows:
		for i := range f.Records {
			r.record(&f.Records[i])
		}
	case FrameDumpBegin:
		r.dumpBegin(f)
	case FrameDumpEnd:
		r.dumpEnd(f)
	case FrameHello, FrameDumpRequest, FrameAck, FrameBarrier, FrameStatus, FramePing:
	}
}

func (r *Receiver) dumpBegin(f *Frame) {
	r.generation++
	r.dumping, r.dumped, r.refusing = true, 0, false
	if f.Lost {
		r.ended, r.complete = false, false
	}
}

// dumpEnd sweeps what neither the dump nor an event since its beginning has
// confirmed.
func (r *Receiver) dumpEnd(f *Frame) {
	if !r.dumping {
		return
	}
	if f.Count != r.dumped {
		r.stats.ShortDumps++
		r.request()
		return
	}
	r.stats.Dumps++
	r.dumping, r.replacing = false, false
	var gone []packedKey
	for key, old := range r.flows {
		if old.generation < r.generation {
			gone = append(gone, key)
		}
	}
	slices.SortFunc(gone, comparePacked)
	for _, key := range gone {
		delete(r.flows, key)
		r.ops = append(r.ops, Op{Kind: OpDelete, Flow: Flow{Key: key.key()}})
	}
	r.stats.Swept += uint64(len(gone))
	r.ended = !f.Lost && !r.refusing
	r.complete = r.complete && r.ended
}

func (r *Receiver) record(record *Record) {
	f := record.Flow
	if record.Kind == RecordRefresh {
		r.dumped++
	}
	if r.exclude.flow(f) {
		r.stats.IgnoredAddress++
		return
	}
	key := packKey(f.Key)
	if record.Kind == RecordDestroy {
		delete(r.flows, key)
		r.emit(OpDelete, f)
		return
	}
	old, known := r.flows[key]
	fresh := replicaOf(f, r.generation)
	kind := r.opKind(record.Kind, old, fresh, known)
	if !known && len(r.flows) >= r.maxFlows {
		r.stats.Refused++
		r.refusing, r.ended, r.complete = true, false, false
		return
	}
	if f, ok := injected(f, kind); ok {
		r.flows[key] = fresh
		r.emit(kind, f)
		return
	}
	r.stats.IgnoredUnknown++
}

func (r *Receiver) opKind(record RecordKind, old, fresh replica, known bool) OpKind {
	switch {
	case !known && r.replacing:
		return OpReplace
	case !known:
		return OpCreate
	case old.generation < r.freshFrom, fresh.succeeds(old), record == RecordNew:
		return OpReplace
	}
	return OpUpdate
}

func (r *Receiver) emit(kind OpKind, f Flow) {
	r.stats.Records++
	r.ops = append(r.ops, Op{Kind: kind, Flow: f})
}

// injected is the flow in the form in which the BACKUP's kernel takes it. It is
// false for a new TCP flow whose state is neither known nor to be guessed: the
// kernel would judge its next packet as if it had no state.
func injected(f Flow, kind OpKind) (Flow, bool) {
	f.Status &^= StatusExpected | StatusDying | StatusFixedTimeout
	if f.Protocol == protocolTCP && !f.HasTCP && kind != OpUpdate {
		if f.Status&StatusAssured == 0 {
			return Flow{}, false
		}
		f.HasTCP = true
		f.TCP = TCPInfo{State: TCPEstablished, FlagsOriginal: tcpBeLiberal, FlagsReply: tcpBeLiberal}
	}
	f.Timeout = injectedTimeout(f)
	return f, true
}

func injectedTimeout(f Flow) uint32 {
	if !f.HasTCP {
		if f.Protocol == protocolTCP && f.Timeout == 0 && f.Status&StatusAssured != 0 {
			return establishedTimeout
		}
		return max(f.Timeout, timeoutFloor)
	}
	switch f.TCP.State {
	case TCPEstablished:
		if f.Timeout == 0 {
			return establishedTimeout
		}
		return f.Timeout
	case TCPTimeWait, TCPClose:
		return max(f.Timeout, closingFloor)
	case TCPNone, TCPSynSent, TCPSynReceived, TCPFinWait, TCPCloseWait, TCPLastAck, TCPSynSent2:
	}
	return max(f.Timeout, timeoutFloor)
}

// Applied tells that all operations handed out so far are in the kernel's table.
func (r *Receiver) Applied(time.Time) Output {
	r.begin()
	if !r.connected || r.role != RoleBackup {
		return r.output()
	}
	if r.ended {
		r.complete = true
	}
	if r.toAck > r.acked {
		r.acked = r.toAck
		r.reply(Frame{Type: FrameAck, Acked: r.acked})
	}
	return r.output()
}

func (r *Receiver) begin() { r.ops, r.replies = r.ops[:0], r.replies[:0] }

func (r *Receiver) output() Output { return Output{Ops: r.ops, Replies: r.replies} }

func (r *Receiver) reply(f Frame) {
	f.Version, f.Term = r.version, r.term
	r.replies = append(r.replies, f)
}
