package conntracksync

import "time"

const (
	// childLimit bounds the flows with a master that wait for the end of a pass.
	childLimit = 1 << 16
	// askTime is how long a peer that has connected may take to ask for what it misses,
	// before a pass looks for what is in no digest. It must know its own table first.
	askTime = 3 * time.Second
)

// senderPass is what the MASTER does with its kernel's table.
type senderPass struct {
	pass
	// wanted are the buckets that the peer asked for, or whose repair was cut short.
	wanted BucketSet
	// repairing: the flows in set are sent, whatever the index says; count of them so
	// far. The flows in again are to be sent once more.
	repairing bool
	set       BucketSet
	count     uint64
	again     BucketSet
	// filling: the index does not know the table yet, and takes it in unsent.
	filling bool
	// children have a master, which must go first.
	children []Flow
	// trimAt is when time-outs are to be trimmed, trimmed is how many were. While
	// paused the shell waits for the pace.
	trimAt           time.Time
	trimming, paused bool
	trimmed          int
	// repairAt is when a peer that does not know digests is sent all.
	repairAt time.Time
	ops      []Op
	// unheard: the peer has connected, and no pass has begun since.
	unheard bool
	// asked: the peer waits for a repair. hasty: the last pass was none, so that this one
	// need not keep its distance; a peer that asks without end has to.
	asked, hasty bool
}

// interruptRepair leaves what it was about to a later one.
func (p *senderPass) interruptRepair() {
	if p.repairing {
		p.repairing = false
		p.wanted.unite(&p.set)
		p.soon = earliest(p.soon, p.began)
	}
}

// dumpDue is when WantDump becomes true; zero means never. A pass without a peer
// would be for nothing but the index, unless time-outs are to be trimmed.
func (s *Sender) dumpDue() time.Time {
	if !s.master || s.pass.state != passIdle {
		return time.Time{}
	}
	var at time.Time
	if s.connected || !s.ix.filled {
		at = s.pass.due(true)
	}
	if s.connected && s.pass.asked && s.pass.hasty {
		at = earliest(at, s.pass.began.Add(s.pass.spacing))
	}
	if s.connected && !s.digests() {
		at = earliest(at, s.pass.repairAt)
	}
	return earliest(at, s.pass.trimAt)
}

// WantDump tells that the shell must start to read the kernel's whole table now,
// and feed it to DumpFlows, then the expectations to DumpExpectation, then call
// DumpDone or DumpFailed. It returns true once for each dump, which begins with
// this call and must be ended even if the role or the connection was lost
// meanwhile.
func (s *Sender) WantDump(now time.Time) bool {
	due := s.dumpDue()
	if due.IsZero() || now.Before(due) {
		return false
	}
	p := &s.pass
	s.stats.Passes++
	s.releaseAll(now) // or what is older than the pass would count as newer than its rows
	p.begin(now)
	s.ix.beginPass()
	p.filling, p.unheard, p.asked = !s.ix.filled, false, false
	p.trimming, p.trimmed = !p.trimAt.IsZero() && !now.Before(p.trimAt), 0
	p.children, p.again, p.count = p.children[:0], BucketSet{}, 0
	if s.connected && !s.digests() && !now.Before(p.repairAt) {
		p.wanted = *allBuckets()
		p.repairAt = now.Add(s.cfg.RepairInterval)
	}
	p.set, p.wanted = p.wanted, BucketSet{}
	if p.repairing = s.connected && p.set != (BucketSet{}); p.repairing {
		s.stats.Repairs++
		s.stats.RepairedBuckets += uint64(p.set.Len())
		s.queueRepair(FrameRepairBegin)
	}
	p.hasty = !p.repairing
	return true
}

func (s *Sender) queueRepair(t FrameType) {
	set := s.pass.set
	c := s.queue.push(t)
	c.set, c.count, c.losses = &set, s.pass.count, s.losses
}

// WantRows tells that DumpFlows should be fed more now. While it is false the shell
// lets Next run dry, or waits for Deadline; if it goes on for long the queue
// overflows.
func (s *Sender) WantRows(now time.Time) bool {
	if s.queue.rows >= s.cfg.RowCredit {
		return false
	}
	s.pass.paused = s.pass.state == passRunning && s.pass.trimming && now.Before(s.trimAllowed())
	return !s.pass.paused
}

// trimAllowed is when the pace of trimming allows the next flow.
func (s *Sender) trimAllowed() time.Time {
	return s.pass.began.Add(time.Duration(s.pass.trimmed) * time.Second / time.Duration(s.cfg.TrimRate))
}

// DumpFlows takes in flows of the table, some hundred at a time. The operations
// that it returns (OpTimeout) are for this node's own kernel; they stay valid until
// the next call.
func (s *Sender) DumpFlows(now time.Time, flows []Flow) []Op {
	p := &s.pass
	p.ops = p.ops[:0]
	if p.state != passRunning || s.ix.broken {
		return nil
	}
	s.stats.PassFlows += uint64(len(flows))
	for i := range flows {
		s.row(now, &flows[i])
	}
	return p.ops
}

// row compares one flow of the table with the index. Events and rows come on
// different sockets, so that a row may be older than an event that came before it.
func (s *Sender) row(now time.Time, f *Flow) {
	if !f.encodable() {
		s.stats.Skipped[SkipInvalid]++
		return
	}
	hash := s.ix.hash(f)
	meta := s.ix.find(hash)
	skip := s.exclude.skip(f)
	if skip == SkipNone && s.unspoken(f) {
		skip = SkipFeature
	}
	if skip != SkipNone {
		s.stats.Skipped[skip]++
		if live(meta) && *meta&metaTouched == 0 {
			s.skippedRow(now, hash, f, meta, skip)
		}
		return
	}
	known := live(meta)
	held := s.held.get(hash) != nil
	if known {
		*meta = *meta&^metaMissed | metaSeen
	}
	switch {
	case meta != nil && !known, held:
		s.stats.PassStale++
		return
	case known && *meta&metaTouched != 0:
		s.stats.PassStale++
		s.touchedRow(now, hash, f, *meta)
		return
	}
	s.trim(f)
	repaired := s.pass.repairing && s.pass.set.has(bucketOf(hash))
	switch {
	case repaired:
		s.stats.RepairedFlows++
	case known && f.adjusted() && s.connected:
		// No digest tells whether the peer has what a helper added since it last listened.
	case known && classOf(f, *meta, true) == *meta&classMask:
		return
	case s.pass.filling || !s.connected:
		s.ix.put(hash, classOf(f, 0, false), metaFresh|metaSeen)
		return
	default:
		s.stats.Found++
	}
	s.refresh(now, hash, f)
}

// skippedRow handles a flow that is replicated, by a row that would not be.
func (s *Sender) skippedRow(now time.Time, hash uint64, f *Flow, meta *uint16, skip Skip) {
	switch skip {
	case SkipHandshake:
		// A successor has its tuples. An event could not tell: it may be older than
		// what a row told before.
		s.destroy(now, hash, f)
	case SkipClash, SkipDying:
		// Its end is about to be reported.
		*meta |= metaSeen
		if s.pass.repairing && s.pass.set.has(bucketOf(hash)) {
			s.record = Record{Kind: RecordKeep, Hash: hash}
			s.append(&s.record)
		}
	case SkipNone, SkipAddress, SkipNetwork, SkipFeature, SkipInvalid, skipCount:
	}
}

// touchedRow handles a flow of which an event has told since the pass began. The
// event was about all of it but for what events leave out.
func (s *Sender) touchedRow(now time.Time, hash uint64, f *Flow, meta uint16) {
	bucket := bucketOf(hash)
	if !s.pass.repairing || !s.pass.set.has(bucket) || f.Extra == nil {
		return
	}
	if classOf(f, meta, true) != meta&classMask {
		s.pass.again.add(bucket)
		return
	}
	s.refresh(now, hash, f)
}

// refresh sends a flow of the table, one with a master at the end of the pass.
func (s *Sender) refresh(now time.Time, hash uint64, f *Flow) {
	if f.Extra != nil && f.Extra.HasMaster && s.features&FeatureExtras != 0 && len(s.pass.children) < childLimit {
		s.pass.children = append(s.pass.children, *f)
		return
	}
	s.sendRow(now, hash, f)
}

func (s *Sender) sendRow(now time.Time, hash uint64, f *Flow) {
	if s.full(now) {
		return
	}
	var old uint16
	meta := s.ix.find(hash)
	if live(meta) {
		old = *meta
	}
	s.ix.put(hash, classOf(f, old, live(meta)), metaFresh|metaSeen)
	s.record = Record{Kind: RecordRefresh, Flow: *f}
	c := s.append(&s.record)
	c.rows++
	s.queue.rows++
	s.pass.count++
}

// trim gives a flow that lived on the BACKUP with a long time-out the one that it
// would have here.
func (s *Sender) trim(f *Flow) {
	if !s.pass.trimming || f.Status&StatusFixedTimeout != 0 {
		return
	}
	if normal := s.cfg.Timeouts.normal(f); f.Timeout > normal {
		s.pass.trimmed++
		s.stats.Trimmed++
		s.pass.ops = append(s.pass.ops, Op{Kind: OpTimeout, Flow: *f})
		s.pass.ops[len(s.pass.ops)-1].Flow.Timeout = normal
	}
}

// DumpExpectation takes in one expectation.
func (s *Sender) DumpExpectation(_ time.Time, e *Expectation) {
	if s.pass.state == passRunning {
		s.expectation(EventExpect, e)
	}
}

// DumpDone tells that the whole table was fed.
func (s *Sender) DumpDone(now time.Time) {
	if s.ix.broken {
		s.DumpFailed(now)
		return
	}
	p := &s.pass
	if p.state == passRunning {
		s.sendChildren(now)
		s.releaseAll(now)
	}
	if !p.ended() {
		return
	}
	again := s.sweep()
	if p.repairing {
		s.queueRepair(FrameRepairEnd)
		p.repairing = false
		p.wanted.unite(&p.again)
	}
	s.ix.endPass()
	s.ix.filled = true
	s.ix.trusted = !p.overrun
	p.finish(now)
	if p.trimming {
		p.trimming, p.trimAt = false, time.Time{}
	}
	switch {
	case p.overrun || p.wanted != (BucketSet{}):
		p.want(now)
	case again > 0:
		p.want(now.Add(passAgain))
	case now.Before(s.unsureUntil):
		p.want(s.unsureUntil)
	}
	s.queueDigest(now)
	if s.digestsWanted {
		s.queueDigests()
	}
}

// sendChildren sends the flows that have a master, those first whose master is not
// among them.
func (s *Sender) sendChildren(now time.Time) {
	children := s.pass.children
	for len(children) > 0 {
		waiting := make(map[Key]struct{}, len(children))
		for i := range children {
			waiting[children[i].Key] = struct{}{}
		}
		rest := children[:0:0]
		for i := range children {
			f := &children[i]
			if _, wait := waiting[f.Extra.Master]; wait && f.Extra.Master != f.Key {
				rest = append(rest, *f)
				continue
			}
			s.sendChild(now, f)
		}
		if len(rest) == len(children) {
			for i := range rest {
				s.sendChild(now, &rest[i])
			}
			break
		}
		children = rest
	}
	s.pass.children = s.pass.children[:0]
}

// sendChild leaves out what has ended or changed since its row came.
func (s *Sender) sendChild(now time.Time, f *Flow) {
	hash := s.ix.hash(f)
	meta := s.ix.find(hash)
	switch {
	case meta != nil && !live(meta):
		s.stats.PassStale++
	case live(meta) && *meta&metaTouched != 0 && classOf(f, *meta, true) != *meta&classMask:
		s.pass.again.add(bucketOf(hash))
	default:
		s.sendRow(now, hash, f)
	}
}

// sweep judges the flows that the pass did not show. After two passes they are
// gone; before, a repair must not drop them either.
func (s *Sender) sweep() (again int) {
	return s.ix.missing(func(hash uint64, times int) bool {
		gone := times > 1
		s.record = Record{Kind: RecordKeep, Hash: hash}
		if gone {
			s.stats.Gone++
			s.record.Kind = RecordGone
		}
		if s.connected && (gone || s.pass.repairing && s.pass.set.has(bucketOf(hash))) {
			s.append(&s.record)
		}
		return gone
	})
}

// DumpFailed tells that the table could not be read to its end. Another dump
// will be wanted.
func (s *Sender) DumpFailed(now time.Time) {
	p := &s.pass
	if !p.ended() {
		return
	}
	s.stats.PassesFailed++
	p.interruptRepair()
	s.ix.endPass()
	p.finish(now)
	p.trimming = false
	p.want(now)
}
