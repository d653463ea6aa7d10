package conntracksync

import (
	"net/netip"
	"time"
)

// Receiver turns the MASTER's frames into operations on the kernel's table of
// the BACKUP, and looks after that table. It is used by both nodes and does
// nothing on the MASTER. It is not safe for concurrent use.
//
// The shell carries out each Output and calls Applied before the next call of the
// receiver, and after each that had no operations; it calls WantDump after every
// input and again at Deadline.
type Receiver struct {
	cfg       ReceiverConfig
	exclude   exclusion
	ix        *Index
	connected bool
	version   uint8
	features  uint64
	role      Role
	// own is the highest term that this node's election knows, term the highest of it and
	// of this connection.
	own, term uint64
	// seq is the last sequence number received, toAck the last whose frame was not
	// ignored, acked the last acknowledged, told what was said of complete.
	seq, toAck, acked uint64
	told              bool
	// equal: at the last digest the index was the MASTER's, and nothing is known to
	// have gone since. unapplied: the last operations are not known to be carried out.
	equal, unapplied, complete bool
	repair                     repair
	pass                       receiverPass
	ops                        []Op
	replies                    []Frame
	hashes                     [warmFlows]uint64
	stats                      ReceiverStats
}

// NewReceiver returns a receiver without a role and without a connection. The
// index is that of the node's Sender as well.
func NewReceiver(cfg ReceiverConfig, ix *Index) *Receiver {
	cfg = cfg.withDefaults()
	return &Receiver{
		cfg: cfg, exclude: newExclusion(cfg.Exclude, cfg.ExcludeNetworks), ix: ix,
		pass: receiverPass{pass: pass{interval: cfg.PassInterval, spacing: cfg.PassSpacing}},
	}
}

// SetExclude replaces the nodes' own addresses and the networks that are not
// replicated.
func (r *Receiver) SetExclude(addresses []netip.Addr, networks []netip.Prefix) {
	e := newExclusion(addresses, networks)
	if e.equal(&r.exclude) {
		return
	}
	r.exclude = e
	if r.role == RoleBackup {
		r.ix.trusted = false
		r.differ()
		r.pass.overrun = true // one that runs has not looked at all
		r.pass.want(atOnce())
	}
}

// Stats returns the counters.
func (r *Receiver) Stats() ReceiverStats { return r.stats }

// Complete tells that this node, as BACKUP, has in its kernel what the MASTER had
// at its last digest, that all since was applied, and that nothing is stale.
func (r *Receiver) Complete() bool { return r.complete && r.wouldComplete() }

func (r *Receiver) wouldComplete() bool {
	return r.role == RoleBackup && r.connected && r.equal && r.ix.filled && r.ix.trusted && r.ix.stale == 0
}

// Connected begins a connection on which both sides said hello.
func (r *Receiver) Connected(now time.Time, local, remote Hello) Output {
	r.begin()
	r.Disconnected()
	r.version, r.connected = Negotiate(local, remote)
	r.features = local.Features & remote.Features
	// A connection has frames of one peer only, so nothing that others said counts.
	r.term = max(r.own, remote.Term)
	return r.output()
}

// Disconnected ends the connection. The kernel's table stays as it is.
func (r *Receiver) Disconnected() {
	r.connected, r.told = false, false
	r.seq, r.toAck, r.acked = 0, 0, 0
	r.restart()
}

// restart forgets how the table compares to the MASTER's.
func (r *Receiver) restart() {
	r.differ()
	r.repair = repair{}
}

// differ tells that the table is known, or must be taken, not to be the MASTER's.
func (r *Receiver) differ() {
	r.equal, r.complete = false, false
	r.repair.hurt = true
}

// SetRole tells whether the node is MASTER and which term it knows. Operations
// handed out and not yet carried out must be dropped when it becomes MASTER.
func (r *Receiver) SetRole(now time.Time, master bool, term uint64) Output {
	r.begin()
	r.own = max(r.own, term)
	r.term = max(r.term, r.own)
	role := RoleBackup
	if master {
		role = RoleMaster
	}
	if role == r.role {
		return r.output()
	}
	r.role = role
	r.restart()
	if r.pass.state == passRunning {
		r.ix.endPass()
	}
	r.pass.abandon()
	r.pass.doubt = BucketSet{}
	if master {
		r.ix.trusted = r.ix.trusted && !r.unapplied && r.pass.leftovers == 0
		r.unapplied = false
		return r.output()
	}
	r.ix.clearFresh()
	r.pass.leave()
	r.pass.want(now)
	r.ask(now)
	return r.output()
}

// Event takes in one report of the own kernel while this node is BACKUP: a flow
// that ended here may live on the MASTER. Reports of what the shell itself did must
// not come here.
func (r *Receiver) Event(_ time.Time, e *Event) {
	if r.role != RoleBackup || e.Kind > EventDestroy || !e.Flow.encodable() {
		return
	}
	if e.Kind != EventDestroy {
		// Packets come here: by mistake, or because this node is MASTER already and has
		// not heard so. The next passes take it out, or send it.
		if r.exclude.flow(&e.Flow) == SkipNone {
			r.pass.leave()
		}
		return
	}
	if hash := r.ix.hash(&e.Flow); r.ix.remove(hash, true) {
		r.stats.Expired++
		r.pass.doubt.add(bucketOf(hash))
		r.differ()
	}
}

// Overrun tells that the own kernel dropped events.
func (r *Receiver) Overrun(now time.Time) {
	if r.role != RoleBackup {
		return
	}
	r.stats.Overruns++
	r.Recheck(now)
}

// Recheck tells that the own kernel's table may have lost flows, about which nothing
// was reported. A pass finds them.
func (r *Receiver) Recheck(now time.Time) {
	if r.role != RoleBackup {
		return
	}
	r.ix.trusted = false
	r.complete = false
	r.pass.overrun = true
	r.pass.want(now)
}

// Receive takes in a sequenced frame; others are none of its business and
// ignored.
func (r *Receiver) Receive(now time.Time, f *Frame) Output {
	r.begin()
	if f.Seq > 0 && r.connected {
		r.sequenced(now, f)
	}
	return r.output()
}

func (r *Receiver) sequenced(now time.Time, f *Frame) {
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
	case f.Term > r.term && f.Type.fromSender():
		r.term = f.Term
		r.restart()
	}
	r.toAck = f.Seq
	if gap {
		r.stats.Gaps++
		r.restart()
	}
	switch f.Type {
	case FrameFlows:
		r.records(now, f.Records)
	case FrameDigest:
		r.digest(now, f.Digest)
	case FrameDigests:
		r.digests(now, f.Digests)
	case FrameRepairBegin:
		r.repairBegin(now, &f.Set)
	case FrameRepairEnd:
		r.repairEnd(now, f)
	case FrameHello, FrameDigestRequest, FrameRepairRequest, FrameAck, FrameBarrier, FrameStatus, FramePing:
	}
}

// records takes in records in order.
func (r *Receiver) records(now time.Time, records []Record) {
	for len(records) > 0 {
		some := records[:min(len(records), warmFlows)]
		records = records[len(some):]
		hashes := r.hashes[:len(some)]
		for i := range some {
			hashes[i] = r.hashOf(&some[i])
		}
		r.ix.warm(hashes)
		for i := range some {
			r.record(now, hashes[i], &some[i])
		}
	}
}

// hashOf is that of the flow which the record is about.
func (r *Receiver) hashOf(record *Record) uint64 {
	switch record.Kind {
	case RecordNew, RecordUpdate, RecordDestroy, RecordRefresh:
		return r.ix.hash(&record.Flow)
	case RecordGone, RecordKeep, RecordExpect, RecordExpectGone:
	}
	return record.Hash
}

func (r *Receiver) record(now time.Time, hash uint64, record *Record) {
	switch record.Kind {
	case RecordGone:
		if r.ix.remove(hash, false) {
			r.stats.Dropped++
			r.leftover(now)
		}
	case RecordKeep:
		if meta := r.ix.find(hash); live(meta) {
			*meta |= metaConfirmed
		}
	case RecordExpect, RecordExpectGone:
		if r.exclude.expectation(record.Expect) != SkipNone {
			r.stats.IgnoredAddress++
			return
		}
		kind := OpExpect
		if record.Kind == RecordExpectGone {
			kind = OpExpectDelete
		}
		r.ops = append(r.ops, Op{Kind: kind, Expect: record.Expect})
	case RecordDestroy:
		r.destroy(hash, record)
	case RecordNew, RecordUpdate, RecordRefresh:
		if record.Kind == RecordRefresh {
			r.repair.received++
			r.repair.since = now
		}
		if r.exclude.flow(&record.Flow) != SkipNone {
			r.stats.IgnoredAddress++
			return
		}
		r.flow(hash, record)
	}
}

// destroy ends the flow that is meant, not another one that has its key by now.
func (r *Receiver) destroy(hash uint64, record *Record) {
	known := r.ix.remove(hash, true)
	switch {
	case r.exclude.flow(&record.Flow) != SkipNone:
		r.stats.IgnoredAddress++
	case known && !record.Unsure:
		r.emit(OpDelete, &record.Flow)
	case known, !r.ix.filled:
		r.emit(OpSweep, &record.Flow)
	default:
		r.stats.IgnoredUnknown++
	}
}

// flow takes in what the MASTER tells of a living flow.
func (r *Receiver) flow(hash uint64, record *Record) {
	f := &record.Flow
	var old uint16
	meta := r.ix.find(hash)
	known := live(meta)
	if known {
		old = *meta
	}
	class := classOf(f, old, known)
	kind := r.opKind(record, old, class, known)
	flags := uint16(metaTouched | metaFresh)
	if r.repair.open && r.repair.set.has(bucketOf(hash)) {
		flags |= metaConfirmed
	}
	switch {
	case kind == 0:
		r.stats.Unchanged++
		r.ix.freshen(meta)
		// Nothing is written, so the row of a pass is as good as ever.
		*meta |= flags &^ metaTouched
		return
	case !known && r.ix.flows >= r.cfg.MaxFlows:
		r.stats.Refused++
		r.differ()
		return
	case !injectable(f, kind):
		if !known {
			r.stats.IgnoredUnknown++
			return
		}
		// The row of this node's own table will tell the rest.
		kind, flags = OpUpdate, flags&^metaFresh
	}
	r.ix.put(hash, class, flags)
	r.emit(kind, f)
	r.inject(&r.ops[len(r.ops)-1].Flow, kind)
}

// opKind returns 0 if the kernel's table has the flow already as the record says.
func (r *Receiver) opKind(record *Record, old, class uint16, known bool) OpKind {
	f := &record.Flow
	switch {
	case !known && f.Protocol == protocolTCP && r.pass.leftovers > 0:
		return OpReplace
	case !known:
		return OpCreate
	case old&metaFresh == 0 && f.Protocol == protocolTCP, succeeds(class, old), record.Kind == RecordNew:
		return OpReplace
	case record.Kind != RecordRefresh:
		return OpUpdate
	case f.Extra != nil && (f.Extra.HasMaster || f.Extra.Helper != ""):
		return OpReplace // an update cannot give it these
	case f.Extra == nil && class == old&classMask:
		return 0
	}
	return OpUpdate
}

func (r *Receiver) emit(kind OpKind, f *Flow) {
	r.stats.Records++
	r.ops = append(r.ops, Op{Kind: kind, Flow: *f})
}

// injectable is false for a new TCP flow whose state is neither known nor to be
// guessed, and for SCTP without its tags: the kernel would judge the next packet as if
// there were no state.
func injectable(f *Flow, kind OpKind) bool {
	switch {
	case kind == OpUpdate:
		return true
	case f.Protocol == protocolSCTP:
		return f.Extra != nil && f.Extra.HasSCTP
	}
	return f.Protocol != protocolTCP || f.HasTCP || f.Status&StatusAssured != 0
}

// tcpBeLiberal is IP_CT_TCP_FLAG_BE_LIBERAL.
const tcpBeLiberal = 0x08

// inject gives the flow the form in which the BACKUP's kernel takes it. No packet
// renews its time-out there.
func (r *Receiver) inject(f *Flow, kind OpKind) {
	f.Status &^= StatusDying | StatusFixedTimeout
	if f.Protocol == protocolTCP && !f.HasTCP && kind != OpUpdate {
		f.HasTCP = true
		f.TCP = TCPInfo{State: TCPEstablished, FlagsOriginal: tcpBeLiberal, FlagsReply: tcpBeLiberal}
	}
	if f.Timeout == 0 {
		// Flows in a flow table tell none.
		f.Timeout = r.cfg.Timeouts.normal(f)
	}
	f.Timeout = max(f.Timeout, r.floor())
}

func (r *Receiver) floor() uint32 { return uint32(r.cfg.TimeoutFloor / time.Second) }

// Applied tells that the operations of the last Output were carried out, but for
// those whose indexes are in failed: the kernel refused them.
func (r *Receiver) Applied(now time.Time, failed []int) Output {
	refused := false
	for _, i := range failed {
		if i >= 0 && i < len(r.ops) {
			refused = r.refused(now, &r.ops[i]) || refused
		}
	}
	if refused {
		r.repair.slow(now, &r.cfg)
	}
	r.begin()
	r.unapplied = false
	if !r.connected || r.role != RoleBackup {
		return r.output()
	}
	r.complete = r.wouldComplete()
	if r.toAck > r.acked || r.complete != r.told {
		r.acked, r.told = max(r.toAck, r.acked), r.complete
		r.reply(Frame{Type: FrameAck, Acked: r.acked, Complete: r.complete})
	}
	return r.output()
}

// refused takes out of the index what the kernel has not got, and tells whether
// it was in there.
func (r *Receiver) refused(now time.Time, op *Op) bool {
	r.stats.KernelRefused++
	switch op.Kind {
	case OpCreate, OpUpdate, OpReplace:
		r.leftover(now)
		if r.ix.remove(r.ix.hash(&op.Flow), false) {
			r.differ()
			return true
		}
	case OpDelete, OpSweep:
		r.leftover(now)
	case OpTimeout, OpExpect, OpExpectDelete:
	}
	return false
}

func (r *Receiver) begin() { r.ops, r.replies = r.ops[:0], r.replies[:0] }

func (r *Receiver) output() Output {
	r.unapplied = r.unapplied || len(r.ops) > 0
	return Output{Ops: r.ops, Replies: r.replies}
}

func (r *Receiver) reply(f Frame) {
	f.Version, f.Term = r.version, r.term
	r.replies = append(r.replies, f)
}
