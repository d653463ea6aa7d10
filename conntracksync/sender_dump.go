package conntracksync

import "time"

type dumpPhase uint8

const (
	dumpIdle dumpPhase = iota
	// dumpRunning: the shell reads the kernel's table.
	dumpRunning
	// dumpDraining: the table was read, its end is not sent yet.
	dumpDraining
	// dumpDiscarding: the dump was given up while the shell reads on.
	dumpDiscarding
)

type touchKind uint8

const (
	// touchedPartly: the event told all but the TCP state.
	touchedPartly touchKind = iota + 1
	touchedWholly
	// touchedGone stays: what a dump says of a flow that ended meanwhile must not
	// raise it from the dead, and a successor is reported by events.
	touchedGone
)

// touch is what an event told of a flow while a dump is under way. The kernel
// reports events and dumps on different sockets, so that a dumped flow may be
// older than an event that came before it.
type touch struct {
	kind touchKind
	// mark and status go over those of the dump when the event told a part.
	mark   uint32
	status Status
}

func touchOf(f Flow) touch {
	if f.Protocol == protocolTCP && !f.HasTCP {
		return touch{kind: touchedPartly, mark: f.Mark, status: f.Status}
	}
	return touch{kind: touchedWholly}
}

// amend brings a dumped flow up to date; false means that it must not be sent.
func (t touch) amend(f *Flow) bool {
	switch t.kind {
	case touchedPartly:
		f.Mark, f.Status = t.mark, f.Status|t.status
	case touchedWholly, touchedGone:
		return false
	}
	return true
}

// dump is the state of the full dump that is under way or wanted.
type dump struct {
	phase dumpPhase
	// wantAt is when the next one is due; zero means not at all.
	wantAt    time.Time
	requested bool
	began     time.Time
	// open: FrameDumpBegin was handed out, so that flows may follow.
	open    bool
	touched map[packedKey]touch
	count   uint64
	// lost: events were lost since the last dump began.
	lost bool
	// losses counts the calls of incomplete, lossesBefore those before the dump
	// under way.
	losses, lossesBefore uint64
	// endSeq is the FrameDumpEnd that makes the peer's table complete.
	endSeq   uint64
	complete bool
}

// abandon gives up what is under way.
func (d *dump) abandon() {
	switch d.phase {
	case dumpRunning:
		d.phase = dumpDiscarding
	case dumpDraining:
		d.phase = dumpIdle
	case dumpIdle, dumpDiscarding:
	}
	d.open, d.touched = false, nil
}

func (d *dump) lose() {
	d.lost = true
	d.incomplete()
}

// incomplete also keeps the end of a dump under way from making the peer's table
// complete.
func (d *dump) incomplete() {
	d.complete, d.endSeq = false, 0
	d.losses++
}

func (d *dump) acked(seq uint64) {
	if d.endSeq != 0 && seq >= d.endSeq {
		d.complete = true
	}
}

// want asks for a dump as soon as the spacing allows.
func (s *Sender) want(now time.Time) {
	at := now
	if !s.dump.began.IsZero() {
		if least := s.dump.began.Add(s.cfg.DumpSpacing); least.After(at) {
			at = least
		}
	}
	s.dump.wantAt = earliest(s.dump.wantAt, at)
}

// DumpRequested takes in the peer's request for a full dump. One that comes
// before the node is MASTER is served once it is. A dump under way does not count
// for Complete: the peer may have missed its beginning.
func (s *Sender) DumpRequested(now time.Time) {
	s.dump.requested = true
	s.dump.incomplete()
	s.want(now)
}

// WantDump tells that the shell must start to read the kernel's whole table now,
// and feed it to DumpFlow, then DumpDone or DumpFailed. It returns true once for
// each dump, which begins with this call and must be ended even if the role or
// the connection was lost meanwhile.
func (s *Sender) WantDump(now time.Time) bool {
	d := &s.dump
	if !s.active() || d.phase != dumpIdle || d.wantAt.IsZero() || now.Before(d.wantAt) {
		return false
	}
	s.stats.Dumps++
	d.phase, d.began, d.open = dumpRunning, now, false
	d.wantAt, d.requested = now.Add(s.cfg.Refresh), false
	d.touched, d.count = make(map[packedKey]touch), 0
	lost := d.lost
	d.lost, d.lossesBefore = false, d.losses
	s.enqueue(now, item{frame: FrameDumpBegin, lost: lost, count: s.stats.Dumps})
	return true
}

// DumpFlow takes in one flow of the table. When it returns false, the shell
// should let Next run dry before it feeds more; if it goes on for long the queue
// overflows.
func (s *Sender) DumpFlow(now time.Time, f Flow) bool {
	if s.dump.phase != dumpRunning {
		return true
	}
	s.stats.DumpFlows++
	if skip := s.exclude.skip(f); skip != SkipNone {
		s.stats.Skipped[skip]++
		return true
	}
	if s.events.n+s.dumps.n >= s.cfg.QueueLimit {
		s.stats.Overflows++
		s.lose(now)
		return false
	}
	s.dumps.push(item{frame: FrameFlows, record: Record{Kind: RecordRefresh, Flow: independent(f)}})
	return s.dumps.n < s.cfg.QueueLimit/2
}

// DumpDone tells that the whole table was fed.
func (s *Sender) DumpDone(time.Time) {
	switch s.dump.phase {
	case dumpRunning:
		s.dump.phase = dumpDraining
	case dumpDiscarding:
		s.dump.phase = dumpIdle
	case dumpIdle, dumpDraining:
	}
}

// DumpFailed tells that the table could not be read to its end. Another dump
// will be wanted.
func (s *Sender) DumpFailed(now time.Time) {
	if s.dump.phase == dumpRunning {
		s.stats.DumpsFailed++
		s.dumps.clear()
		s.dump.abandon()
		s.want(now)
	}
	s.DumpDone(now)
}

// touch remembers an event while a dump is under way.
func (s *Sender) touch(now time.Time, key packedKey, t touch) {
	d := &s.dump
	if d.touched == nil {
		return
	}
	if len(d.touched) >= s.cfg.TouchedLimit {
		s.stats.DumpsFailed++
		s.dumps.clear()
		d.abandon()
		s.want(now)
		return
	}
	if t.kind >= d.touched[key].kind {
		d.touched[key] = t
	}
}

// finishDump queues the dump's end once all its flows were sent. Flows that are
// held go before it: they may be what the dump left out, and the peer sweeps.
func (s *Sender) finishDump(now time.Time) {
	if s.dump.phase != dumpDraining || s.dumps.n > 0 || !s.dump.open {
		return
	}
	s.releaseAll(now)
	if s.dump.phase != dumpDraining {
		return
	}
	it := item{frame: FrameDumpEnd, count: s.dump.count, lost: s.dump.lost, losses: s.dump.lossesBefore}
	s.dump.abandon()
	s.enqueue(now, it)
	if it.lost {
		s.want(now)
	}
}

// Next returns the next frame to be sent; false when there is none for now. The
// frame's records stay valid until the next call.
func (s *Sender) Next(now time.Time) (Frame, bool) {
	if !s.active() {
		return Frame{}, false
	}
	s.releaseDue(now)
	for {
		s.finishDump(now)
		if s.events.n > 0 && s.events.front().frame != FrameFlows {
			it := *s.events.front()
			s.events.drop()
			return s.mark(it), true
		}
		oldest := s.gather()
		if len(s.out) > 0 {
			f := s.frame(FrameFlows)
			f.Records = s.out
			s.stats.Records += uint64(len(s.out))
			if !oldest.IsZero() {
				s.lag.sent(f.Seq, oldest)
			}
			return f, true
		}
		if s.events.n == 0 && (s.dumps.n == 0 || !s.dump.open) && s.dump.phase != dumpDraining {
			return Frame{}, false
		}
	}
}

func (s *Sender) frame(t FrameType) Frame {
	s.seq++
	s.stats.Frames++
	return Frame{Version: s.version, Type: t, Term: s.term, Seq: s.seq}
}

// mark makes a frame without records.
func (s *Sender) mark(it item) Frame {
	f := s.frame(it.frame)
	f.Lost, f.Count = it.lost, it.count
	switch {
	case it.frame == FrameDumpBegin:
		// The mark of a dump that was given up may still have been queued.
		s.dump.open = it.count == s.stats.Dumps && s.dump.touched != nil
	case it.frame == FrameDumpEnd && !it.lost && it.losses == s.dump.losses:
		s.dump.endSeq = f.Seq
	case it.frame == FrameBarrier:
		s.barrier, s.barrierSeq = barrierSent, f.Seq
	}
	return f
}

// gather fills out with records, those of events first; a quarter is kept for a
// dump, so that a flood of events cannot stop it. It returns the time of the
// oldest event.
func (s *Sender) gather() (oldest time.Time) {
	s.out = s.out[:0]
	limit := s.cfg.FrameRecords
	room := limit
	if s.dumps.n > 0 && s.dump.open {
		room = max(limit-limit/4, 1)
	}
	oldest = s.gatherEvents(room)
	for s.dump.open && s.dumps.n > 0 && len(s.out) < limit {
		r := s.dumps.front().record
		s.dumps.drop()
		if !s.dump.touched[packKey(r.Flow.Key)].amend(&r.Flow) {
			s.stats.DumpStale++
			continue
		}
		s.dump.count++
		s.out = append(s.out, r)
	}
	return earliest(oldest, s.gatherEvents(limit))
}

func (s *Sender) gatherEvents(room int) (oldest time.Time) {
	for s.events.n > 0 && s.events.front().frame == FrameFlows && len(s.out) < room {
		it := s.events.front()
		oldest = earliest(oldest, it.at)
		s.out = append(s.out, it.record)
		s.events.drop()
	}
	return oldest
}
