package conntracksync

import (
	"net/netip"
	"time"
)

type barrierState uint8

const (
	barrierNone barrierState = iota
	barrierQueued
	barrierSent
	barrierPassed
)

// unsureTime is how long after a loss of events the kernel may still report the
// ends of flows whose tuples are in use again.
const unsureTime = 10 * time.Second

// warmFlows is how many flows are looked for in the index at once.
const warmFlows = 64

// Sender turns the MASTER's events and passes over its kernel's table into frames.
// It is used by both nodes and silent on the BACKUP.
//
// After every input the shell calls Next until it returns false, and WantDump;
// it does so again at Deadline. It is not safe for concurrent use.
type Sender struct {
	cfg     SenderConfig
	exclude exclusion
	ix      *Index
	// connected implies that there is a common version.
	connected, master bool
	version           uint8
	features          uint64
	term              uint64
	// seq is the last sequence number handed out on this connection.
	seq, ackedSeq uint64
	// restarts counts how often what was queued was dropped.
	restarts uint64
	queue    queue
	held     hold
	pass     senderPass
	// losses counts what undoes the peer's completeness, provenSeq is the first mark
	// since the last one that proves it, if the peer says so.
	losses, provenSeq uint64
	peerComplete      bool
	digestAt          time.Time
	// digestsWanted: the peer asked for the digests of all buckets.
	digestsWanted, digestsQueued bool
	unsureUntil                  time.Time
	barrier                      barrierState
	barrierSeq                   uint64
	lag                          lag
	// out is what Next returned last, sent its memory; record is the one that is
	// being encoded.
	out    Frame
	sent   *chunk
	record Record
	hashes [warmFlows]uint64
	stats  SenderStats
}

// NewSender returns a sender that is neither connected nor MASTER. The index is
// that of the node's Receiver as well.
func NewSender(cfg SenderConfig, ix *Index) *Sender {
	cfg = cfg.withDefaults()
	return &Sender{
		cfg: cfg, exclude: newExclusion(cfg.Exclude, cfg.ExcludeNetworks), ix: ix, held: newHold(),
		pass: senderPass{pass: pass{interval: cfg.PassInterval, spacing: cfg.PassSpacing}},
	}
}

// SetExclude replaces the nodes' own addresses and the networks that are not
// replicated. Until a pass has looked, nothing is known of the flows that this
// concerns.
func (s *Sender) SetExclude(addresses []netip.Addr, networks []netip.Prefix) {
	e := newExclusion(addresses, networks)
	if e.equal(&s.exclude) {
		return
	}
	s.exclude = e
	if s.master {
		s.ix.trusted = false
		s.lose()
		s.pass.overrun = true // one that runs has not looked at all
		s.pass.want(atOnce())
	}
}

// Stats returns the counters.
func (s *Sender) Stats() SenderStats { return s.stats }

// Lag returns, over the last minute, percentiles of the time from an event to
// its acknowledgement, each flow record weighing the same. The percentiles are
// rounded up by at most a quarter. The oldest event that is still unacknowledged
// counts with its age.
func (s *Sender) Lag(now time.Time) (p50, p99, greatest time.Duration) {
	return s.lag.summary(now)
}

// Backlog returns the number of records that wait to be sent.
func (s *Sender) Backlog() int { return s.queue.records + s.held.len() }

// Complete tells that the peer's table equals this node's: the peer said so at a
// place of the stream behind all losses.
func (s *Sender) Complete() bool {
	return s.active() && s.ix.trusted && s.peerComplete && s.provenSeq != 0 && s.ackedSeq >= s.provenSeq
}

func (s *Sender) active() bool { return s.connected && s.master }

func (s *Sender) digests() bool { return s.features&FeatureDigests != 0 }

// Connected begins a connection on which both sides said hello. Without a
// common version nothing will be sent; see [Negotiate].
func (s *Sender) Connected(now time.Time, local, remote Hello) {
	s.Disconnected()
	s.version, s.connected = Negotiate(local, remote)
	s.features = local.Features & remote.Features
	s.pass.repairAt = now
	s.start(now)
	if s.master && s.connected {
		// For what is in no digest. A peer that misses much asks for a pass in which all of
		// that goes along; two in a row would make it wait for twice as long.
		s.pass.want(now.Add(askTime))
		s.pass.unheard = true
	}
}

// Disconnected ends the connection. What was not sent is forgotten, the index is
// kept true.
func (s *Sender) Disconnected() {
	s.forget()
	s.connected = false
	s.seq, s.ackedSeq = 0, 0
	s.digestsWanted = false
	s.pass.wanted, s.pass.asked = BucketSet{}, false
	s.lag.forget()
}

// SetRole tells whether the node is MASTER, and of which term. A loss of the
// role silences the sender at once: a DESTROY that a dying MASTER's kernel
// reports must not kill the session on the node that has taken it over. For the
// same reason the shell reads and feeds all events that wait in the kernel before
// it tells of a promotion: they belong to the time before. The shell tells the
// Receiver first of a promotion, and the Sender first of a demotion.
func (s *Sender) SetRole(now time.Time, master bool, term uint64) {
	if s.master == master && s.term == term {
		return
	}
	promoted := master && !s.master
	s.forget()
	s.lag.forget()
	s.master, s.term = master, term
	switch {
	case !master:
		if s.pass.state == passRunning {
			s.ix.endPass()
		}
		s.pass.abandon()
		s.pass.wanted, s.pass.asked, s.pass.trimAt = BucketSet{}, false, time.Time{}
	case promoted:
		s.pass.trimAt = now.Add(s.cfg.TrimDelay)
		s.pass.repairAt = now
		// What began between the promotion and the shell's first look was not reported.
		s.pass.want(now)
	}
	s.start(now)
}

// forget drops all that waits to be sent. The index takes in what was held, so that
// it stays true; the digests then differ.
func (s *Sender) forget() {
	for h := s.held.oldest(); h != nil; h = s.held.oldest() {
		s.note(h.hash, &h.record.Flow, 0)
		s.held.remove(h.hash)
	}
	s.queue.clear()
	s.restarts++
	s.barrier, s.digestsQueued = barrierNone, false
	s.pass.interruptRepair()
	s.lose()
}

// lose tells that the peer's table may differ from now on.
func (s *Sender) lose() {
	s.losses++
	s.provenSeq, s.peerComplete = 0, false
}

// start is what the MASTER does at the beginning of a connection or a term.
func (s *Sender) start(now time.Time) {
	if !s.master {
		return
	}
	switch {
	case !s.ix.filled, !s.ix.trusted && s.pass.trimAt.IsZero():
		s.pass.want(now)
	case s.pass.regular.IsZero():
		s.pass.regular = now.Add(s.cfg.PassInterval)
	}
	s.queueDigest(now)
	if s.digestsWanted {
		s.queueDigests()
	}
}

// Events takes in reports of the kernel, in order. Nothing of them is kept but Extra
// and Expect.
func (s *Sender) Events(now time.Time, events []Event) {
	if !s.master {
		return
	}
	for len(events) > 0 {
		some := events[:min(len(events), warmFlows)]
		events = events[len(some):]
		hashes := s.hashes[:len(some)]
		for i := range some {
			hashes[i] = s.hashOf(&some[i])
		}
		s.ix.warm(hashes)
		for i := range some {
			s.event(now, hashes[i], &some[i])
		}
	}
}

// Event is Events of one.
func (s *Sender) Event(now time.Time, e *Event) {
	if s.master {
		s.event(now, s.hashOf(e), e)
	}
}

// hashOf is zero, which no flow has, for events about no flow that can be told of.
func (s *Sender) hashOf(e *Event) uint64 {
	if e.Kind == EventExpect || e.Kind == EventExpectGone || !e.Flow.encodable() {
		return 0
	}
	return s.ix.hash(&e.Flow)
}

func (s *Sender) event(now time.Time, hash uint64, e *Event) {
	s.stats.Events++
	f := &e.Flow
	switch {
	case e.Kind == EventExpect || e.Kind == EventExpectGone:
		s.releaseAll(now) // its master may be held
		s.expectation(e.Kind, e.Expect)
		return
	case hash == 0:
		s.stats.Skipped[SkipInvalid]++
		return
	}
	if e.Kind == EventDestroy {
		s.destroy(now, hash, f)
		return
	}
	h := s.held.get(hash)
	if skip := s.skip(hash, f, h != nil); skip != SkipNone {
		s.stats.Skipped[skip]++
		return
	}
	switch {
	case !s.connected:
		s.note(hash, f, 0)
	case h != nil:
		s.stats.Coalesced++
		merge(&h.record, e)
		if f.Status&StatusAssured != 0 {
			record, at := &h.record, h.at
			s.held.remove(hash)
			s.send(now, hash, record, at)
		}
	case f.Status&StatusAssured != 0:
		if f.Extra != nil && f.Extra.HasMaster {
			s.releaseAll(now)
		}
		s.record = Record{Kind: recordKind(e.Kind), Flow: *f}
		s.send(now, hash, &s.record, now)
	default:
		if s.held.len() >= s.cfg.HoldLimit || s.held.span() >= 4*s.cfg.HoldLimit {
			s.releaseAll(now)
		}
		record := s.held.add(hash, now)
		record.Kind, record.Flow = recordKind(e.Kind), *f
	}
}

func recordKind(k EventKind) RecordKind {
	if k == EventNew {
		return RecordNew
	}
	return RecordUpdate
}

// skip judges a living flow. One that is replicated already has proved its
// addresses.
func (s *Sender) skip(hash uint64, f *Flow, held bool) Skip {
	if !held && !live(s.ix.find(hash)) {
		if skip := s.exclude.flow(f); skip != SkipNone {
			return skip
		}
	}
	if s.unspoken(f) {
		return SkipFeature
	}
	return passing(f)
}

// unspoken tells that the records of this connection do not carry what the flow needs.
func (s *Sender) unspoken(f *Flow) bool {
	return f.Protocol == protocolSCTP && s.connected && s.features&FeatureExtras == 0
}

// destroy ends a flow. What was held only has never been told of.
func (s *Sender) destroy(now time.Time, hash uint64, f *Flow) {
	held := s.held.get(hash) != nil
	s.held.remove(hash)
	if !s.ix.remove(hash, true) {
		if held {
			s.stats.Unsent++
		}
		return
	}
	if s.connected {
		s.record = Record{Kind: RecordDestroy, Unsure: now.Before(s.unsureUntil), Flow: *f}
		s.push(now, &s.record, now)
	}
}

func (s *Sender) expectation(kind EventKind, e *Expectation) {
	if !s.connected || s.features&FeatureExpectations == 0 || e == nil || !e.encodable() {
		return
	}
	if skip := s.exclude.expectation(e); skip != SkipNone {
		s.stats.Skipped[skip]++
		return
	}
	if s.queue.records >= s.cfg.QueueLimit {
		return // passes tell of all that are there
	}
	s.record = Record{Kind: RecordExpect, Expect: e}
	if kind == EventExpectGone {
		s.record.Kind = RecordExpectGone
	}
	s.append(&s.record)
}

// note brings the index up to date.
func (s *Sender) note(hash uint64, f *Flow, flags uint16) {
	var old uint16
	meta := s.ix.find(hash)
	if live(meta) {
		old = *meta
	}
	s.ix.put(hash, classOf(f, old, live(meta)), metaFresh|metaTouched|flags)
}

// send tells the peer of a flow.
func (s *Sender) send(now time.Time, hash uint64, r *Record, at time.Time) {
	s.note(hash, &r.Flow, 0)
	s.push(now, r, at)
}

// push queues a record of an event.
func (s *Sender) push(now time.Time, r *Record, at time.Time) {
	if s.full(now) {
		return
	}
	c := s.append(r)
	if last := len(c.runs) - 1; last >= 0 && c.runs[last].at.Equal(at) {
		c.runs[last].n++
		return
	}
	c.runs = append(c.runs, run{at: at, n: 1})
}

// append encodes a record at the end of the queue.
func (s *Sender) append(r *Record) *chunk {
	c := s.queue.open(s.cfg.FrameRecords)
	c.buf = appendRecord(c.buf, r, s.features)
	c.records++
	s.queue.records++
	return c
}

// full tells that the queue was full. All that waited is dropped then; a digest
// lets the peer find out what it misses.
func (s *Sender) full(now time.Time) bool {
	if s.queue.records < s.cfg.QueueLimit {
		return false
	}
	s.stats.Overflows++
	s.forget()
	s.queueDigest(now)
	return true
}

func (s *Sender) releaseAll(now time.Time) {
	for h := s.held.oldest(); h != nil; h = s.held.oldest() {
		s.release(now, h)
	}
}

func (s *Sender) releaseDue(now time.Time) {
	for warm := 0; ; warm-- {
		h := s.held.oldest()
		if h == nil || now.Before(h.at.Add(s.cfg.Hold)) {
			return
		}
		if warm == 0 {
			hashes := s.held.next(s.hashes[:0])
			s.ix.warm(hashes)
			warm = len(hashes)
		}
		s.release(now, h)
	}
}

func (s *Sender) release(now time.Time, h *held) {
	record, at := &h.record, h.at
	hash := h.hash
	s.held.remove(hash)
	s.send(now, hash, record, at)
}
