package conntracksync

import (
	"net/netip"
	"time"
)

// SenderConfig tunes a [Sender]. Zero fields get the defaults.
type SenderConfig struct {
	// Exclude are the node's own addresses. Flows from or to them stay here.
	Exclude []netip.Addr
	// Refresh is the time from one full dump to the next: 20 s.
	Refresh time.Duration
	// DumpSpacing is the least time between the starts of two dumps: 1 s.
	DumpSpacing time.Duration
	// DumpGrace is how long after a connection or a promotion the sender waits
	// for the peer's request before it starts a dump unasked: 200 ms.
	DumpGrace time.Duration
	// Hold is how long a flow that is not assured waits for more events: 5 ms.
	Hold time.Duration
	// HoldLimit is how many flows may wait; when there are more, all are sent
	// early: 8192.
	HoldLimit int
	// QueueLimit bounds the records that wait to be sent: 65536. When there are
	// more, all are dropped and a full dump makes up for them.
	QueueLimit int
	// TouchedLimit bounds the flows whose events are remembered during a dump:
	// 1048576. When there are more, the dump is given up and made again.
	TouchedLimit int
	// FrameRecords is the greatest number of records in a frame: 128.
	FrameRecords int
}

func (c SenderConfig) withDefaults() SenderConfig {
	c.Refresh = orDuration(c.Refresh, 20*time.Second)
	c.DumpSpacing = orDuration(c.DumpSpacing, time.Second)
	c.DumpGrace = orDuration(c.DumpGrace, 200*time.Millisecond)
	c.Hold = orDuration(c.Hold, 5*time.Millisecond)
	c.HoldLimit = orInt(c.HoldLimit, 8192)
	c.QueueLimit = orInt(c.QueueLimit, 65536)
	c.TouchedLimit = orInt(c.TouchedLimit, 1<<20)
	c.FrameRecords = min(orInt(c.FrameRecords, 128), MaxRecords)
	return c
}

func orDuration(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}

func orInt(n, fallback int) int {
	if n > 0 {
		return n
	}
	return fallback
}

// SenderStats counts since the sender was made.
type SenderStats struct {
	// Events are those taken in as MASTER with a peer; Skipped of them and of the
	// flows of dumps were not replicated. Coalesced were merged into a flow that
	// was held.
	Events, Coalesced uint64
	Skipped           Skips
	// Frames and Records were handed out by Next.
	Frames, Records uint64
	// Dumps were begun, DumpFlows came in, DumpStale of these were not sent
	// because an event had told more, DumpsFailed were given up.
	Dumps, DumpFlows, DumpStale, DumpsFailed uint64
	// Overruns are losses in the kernel's event queue, Overflows losses here.
	Overruns, Overflows uint64
	// BadAcks acknowledged what was never sent.
	BadAcks uint64
}

type barrierState uint8

const (
	barrierNone barrierState = iota
	barrierQueued
	barrierSent
	barrierPassed
)

// Sender turns the MASTER's events and dumps into frames. It is used by both
// nodes and silent on the BACKUP.
//
// After every input the shell calls Next until it returns false, and WantDump;
// it does so again at Deadline. It is not safe for concurrent use.
type Sender struct {
	cfg     SenderConfig
	exclude exclusion
	// connected implies that there is a common version.
	connected, master bool
	version           uint8
	term              uint64
	// seq is the last sequence number handed out on this connection.
	seq, ackedSeq uint64
	// events holds what must keep its order, dumps the flows of a dump. The
	// latter may be overtaken; touched says what must then not be sent.
	events, dumps queue
	held          hold
	dump          dump
	barrier       barrierState
	barrierSeq    uint64
	lag           lag
	// out is the memory of the frame that Next returned last.
	out   []Record
	stats SenderStats
}

// NewSender returns a sender that is neither connected nor MASTER.
func NewSender(cfg SenderConfig) *Sender {
	cfg = cfg.withDefaults()
	return &Sender{cfg: cfg, exclude: newExclusion(cfg.Exclude), held: newHold()}
}

// SetExclude replaces the node's own addresses.
func (s *Sender) SetExclude(addresses []netip.Addr) { s.exclude = newExclusion(addresses) }

// Stats returns the counters.
func (s *Sender) Stats() SenderStats { return s.stats }

// Lag returns, over the last minute, percentiles of the time from an event to
// its acknowledgement. The percentiles are rounded up by at most a quarter. The
// oldest event that is still unacknowledged counts with its age.
func (s *Sender) Lag(now time.Time) (p50, p99, greatest time.Duration) {
	return s.lag.summary(now)
}

// Backlog returns the number of records and marks that wait to be sent.
func (s *Sender) Backlog() int { return s.events.n + s.dumps.n + s.held.len() }

// Complete tells that the peer has acknowledged a whole dump on this connection
// and that nothing was lost since.
func (s *Sender) Complete() bool { return s.active() && s.dump.complete }

func (s *Sender) active() bool { return s.connected && s.master }

// Connected begins a connection on which both sides said hello. Without a
// common version nothing will be sent; see [Negotiate].
func (s *Sender) Connected(now time.Time, local, remote Hello) {
	s.Disconnected()
	s.version, s.connected = Negotiate(local, remote)
	s.restart(now)
}

// Disconnected ends the connection. What was not sent is forgotten.
func (s *Sender) Disconnected() {
	s.connected = false
	s.dump.requested, s.dump.wantAt = false, time.Time{}
	s.seq, s.ackedSeq = 0, 0
	s.lag.forget()
	s.forget()
}

// SetRole tells whether the node is MASTER, and of which term. A loss of the
// role silences the sender at once: a DESTROY that a dying MASTER's kernel
// reports must not kill the session on the node that has taken it over. For the
// same reason the shell reads and feeds all events that wait in the kernel before
// it tells of a promotion: they belong to the time before.
func (s *Sender) SetRole(now time.Time, master bool, term uint64) {
	if s.master == master && s.term == term {
		return
	}
	s.master, s.term = master, term
	s.forget()
	s.lag.forget()
	s.restart(now)
}

// forget drops all that waits. The peer's table may differ from then on.
func (s *Sender) forget() {
	s.events.clear()
	s.dumps.clear()
	s.held.clear()
	s.barrier = barrierNone
	s.dump.abandon()
	s.dump.lose()
}

// restart lets the peer's request, or the end of the grace, start a dump.
func (s *Sender) restart(now time.Time) {
	s.dump.began = time.Time{}
	if !s.dump.requested {
		s.dump.wantAt = now.Add(s.cfg.DumpGrace)
	}
}

// Event takes in one report of the kernel.
func (s *Sender) Event(now time.Time, e Event) {
	if !s.active() {
		return
	}
	s.stats.Events++
	key := packKey(e.Flow.Key)
	if e.Kind == EventDestroy {
		s.destroy(now, key, e.Flow)
		return
	}
	if skip := s.exclude.skip(e.Flow); skip != SkipNone {
		s.stats.Skipped[skip]++
		return
	}
	f := independent(e.Flow)
	s.touch(now, key, touchOf(f))
	record := Record{Kind: RecordUpdate, Flow: f}
	if e.Kind == EventNew {
		record.Kind = RecordNew
	}
	if h := s.held.get(key); h != nil {
		s.stats.Coalesced++
		record, now = merge(h.record, record), h.at
		if f.Status&StatusAssured == 0 {
			h.record = record
			return
		}
		s.held.remove(key)
	}
	if f.Status&StatusAssured != 0 {
		s.push(now, record)
		return
	}
	if s.held.len() >= s.cfg.HoldLimit || s.held.span() >= 4*s.cfg.HoldLimit {
		s.releaseAll(now)
	}
	s.held.add(key, record, now)
}

// destroy is sent even if the flow's creation is still held: a dump may have
// told the peer of it.
func (s *Sender) destroy(now time.Time, key packedKey, f Flow) {
	if skip := s.exclude.skipDestroy(f); skip != SkipNone {
		s.stats.Skipped[skip]++
		return
	}
	s.held.remove(key)
	s.touch(now, key, touch{kind: touchedGone})
	s.push(now, Record{Kind: RecordDestroy, Flow: Flow{Key: f.Key}})
}

// merge lays a newer report over an older one. Updates carry the protocol's
// part only if it changed.
func merge(older, newer Record) Record {
	if !newer.Flow.HasTCP {
		newer.Flow.HasTCP, newer.Flow.TCP = older.Flow.HasTCP, older.Flow.TCP
	}
	newer.Kind = older.Kind
	return newer
}

// independent makes an expected flow (FTP data, say) one in its own right. Its
// master flow and helper are not replicated, and the kernel wants both for
// EXPECTED; the session lives without.
func independent(f Flow) Flow {
	f.Status &^= StatusExpected
	return f
}

func (s *Sender) push(at time.Time, r Record) {
	s.enqueue(at, item{frame: FrameFlows, record: r, at: at})
}

func (s *Sender) enqueue(now time.Time, it item) {
	if s.events.n+s.dumps.n >= s.cfg.QueueLimit {
		s.stats.Overflows++
		s.lose(now)
		return
	}
	s.events.push(it)
}

// lose drops all that waits and wants a dump that makes up for it.
func (s *Sender) lose(now time.Time) {
	s.forget()
	s.want(now)
}

func (s *Sender) releaseAll(now time.Time) {
	for h := s.held.oldest(); h != nil; h = s.held.oldest() {
		s.release(now, h)
	}
}

func (s *Sender) releaseDue(now time.Time) {
	for h := s.held.oldest(); h != nil && !now.Before(h.at.Add(s.cfg.Hold)); h = s.held.oldest() {
		s.release(now, h)
	}
}

func (s *Sender) release(now time.Time, h *held) {
	it := item{frame: FrameFlows, record: h.record, at: h.at}
	s.held.remove(h.key)
	s.enqueue(now, it)
}

// Overrun tells that the kernel dropped events. A dump repairs it. The shell
// first reads and feeds what the kernel has still queued: until that queue is
// empty the kernel goes on to drop, and a flow reported from before the loss must
// not count as confirmed by the dump after it. Held flows go ahead for the same
// reason.
func (s *Sender) Overrun(now time.Time) {
	s.stats.Overruns++
	s.releaseAll(now)
	s.barrier = barrierNone
	s.dump.lose()
	s.want(now)
}

// Acked takes in the peer's acknowledgement.
func (s *Sender) Acked(now time.Time, seq uint64) {
	if seq > s.seq {
		s.stats.BadAcks++
		return
	}
	s.ackedSeq = max(s.ackedSeq, seq)
	s.lag.acked(now, seq)
	s.dump.acked(s.ackedSeq)
	if s.barrier == barrierSent && s.ackedSeq >= s.barrierSeq {
		s.barrier = barrierPassed
	}
}

// Barrier asks the peer to confirm all events up to now; see BarrierPassed.
func (s *Sender) Barrier(now time.Time) {
	if !s.active() {
		return
	}
	s.barrier = barrierQueued
	s.releaseAll(now)
	if s.barrier == barrierQueued {
		s.enqueue(now, item{frame: FrameBarrier})
	}
}

// BarrierPassed tells that the peer has applied all events before the last
// Barrier. A loss of the connection, of the role or of events undoes it.
func (s *Sender) BarrierPassed() bool { return s.barrier == barrierPassed }

// Deadline is when Next or WantDump may have something without new input; zero
// means never.
func (s *Sender) Deadline() time.Time {
	if !s.active() {
		return time.Time{}
	}
	var at time.Time
	if h := s.held.oldest(); h != nil {
		at = h.at.Add(s.cfg.Hold)
	}
	if s.dump.phase == dumpIdle {
		at = earliest(at, s.dump.wantAt)
	}
	return at
}

// earliest treats zero as never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
