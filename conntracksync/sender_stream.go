package conntracksync

import "time"

// Overrun tells that the kernel dropped events. A pass finds what is missing. The
// shell first reads and feeds what the kernel has still queued: until that queue
// is empty the kernel goes on to drop.
func (s *Sender) Overrun(now time.Time) {
	if !s.master {
		return
	}
	s.stats.Overruns++
	s.ix.trusted = false
	s.pass.overrun = true
	s.unsureUntil = now.Add(unsureTime)
	s.barrier = barrierNone
	s.lose()
	s.pass.want(now)
}

// Receive takes in what the peer's Receiver replies: FrameAck, FrameDigestRequest
// and FrameRepairRequest. Other frames are ignored.
func (s *Sender) Receive(now time.Time, f *Frame) {
	if !s.connected {
		return
	}
	switch f.Type {
	case FrameAck:
		s.acked(now, f)
	case FrameDigestRequest:
		s.stats.DigestRequests++
		s.digestsWanted = true
		s.queueDigests()
	case FrameRepairRequest:
		if s.master {
			s.pass.wanted.unite(&f.Set)
			s.pass.want(now)
			s.pass.asked = true
		}
	case FrameHello, FrameFlows, FrameDigest, FrameDigests, FrameRepairBegin, FrameRepairEnd,
		FrameBarrier, FrameStatus, FramePing:
	}
}

func (s *Sender) acked(now time.Time, f *Frame) {
	if f.Acked > s.seq {
		s.stats.BadAcks++
		return
	}
	s.ackedSeq = max(s.ackedSeq, f.Acked)
	s.peerComplete = f.Complete
	if f.Complete && s.pass.unheard && s.master {
		s.pass.want(now) // it has nothing to ask for
		s.pass.unheard = false
	}
	s.lag.acked(now, f.Acked)
	if s.barrier == barrierSent && s.ackedSeq >= s.barrierSeq {
		s.barrier = barrierPassed
	}
}

// Barrier asks the peer to confirm all events up to now; see BarrierPassed.
func (s *Sender) Barrier(now time.Time) {
	if !s.active() {
		return
	}
	s.releaseAll(now)
	s.barrier = barrierQueued
	s.queue.push(FrameBarrier)
}

// BarrierPassed tells that the peer has applied all events before the last
// Barrier. A loss of the connection, of the role or of events undoes it.
func (s *Sender) BarrierPassed() bool { return s.barrier == barrierPassed }

// queueDigest puts the digest of the index at this place of the stream.
func (s *Sender) queueDigest(now time.Time) {
	if !s.active() || !s.digests() {
		return
	}
	s.digestAt = now.Add(s.cfg.DigestInterval)
	if !s.ix.filled {
		return // it is not known yet what the kernel holds
	}
	c := s.queue.push(FrameDigest)
	c.digest, c.losses = s.ix.Digest(), s.losses
}

// queueDigests puts the digests of all buckets there.
func (s *Sender) queueDigests() {
	if !s.active() || !s.ix.filled || s.digestsQueued {
		return
	}
	s.digestsWanted, s.digestsQueued = false, true
	c := s.queue.push(FrameDigests)
	c.sums, c.losses = s.ix.sums(make([]uint64, 0, Buckets)), s.losses
}

// Next returns the next frame to be sent; false when there is none for now. The
// frame stays valid until the next call.
func (s *Sender) Next(now time.Time) (*Frame, bool) {
	if !s.active() {
		return nil, false
	}
	s.releaseDue(now)
	if s.digests() && !now.Before(s.digestAt) {
		s.queueDigest(now)
	}
	s.queue.recycle(s.sent)
	if s.sent = s.queue.pop(); s.sent == nil {
		return nil, false
	}
	c := s.sent
	s.seq++
	s.stats.Frames++
	s.stats.Records += uint64(c.records)
	s.out = Frame{
		Version: s.version, Type: c.frame, Term: s.term, Seq: s.seq,
		Encoded: c.buf, EncodedRecords: c.records,
		Digest: c.digest, Digests: c.sums, Count: c.count,
	}
	if c.set != nil {
		s.out.Set = *c.set
	}
	s.lag.sent(s.seq, c.runs)
	switch c.frame {
	case FrameDigest, FrameDigests:
		s.proves(c)
		s.digestsQueued = s.digestsQueued && c.frame != FrameDigests
	case FrameRepairEnd:
		if !s.digests() {
			s.proves(c)
		}
	case FrameBarrier:
		if s.barrier == barrierQueued {
			s.barrier, s.barrierSeq = barrierSent, s.seq
		}
	case FrameHello, FrameFlows, FrameDigestRequest, FrameRepairRequest, FrameRepairBegin,
		FrameAck, FrameStatus, FramePing:
	}
	return &s.out, true
}

// proves tells that the peer's word on its table counts from the mark on that was
// just handed out.
func (s *Sender) proves(c *chunk) {
	if s.provenSeq == 0 && c.losses == s.losses && s.ix.trusted {
		s.provenSeq = s.seq
	}
}

// Deadline is when Next, WantDump or WantRows may have something without new
// input; zero means never.
func (s *Sender) Deadline() time.Time {
	if !s.master {
		return time.Time{}
	}
	at := s.dumpDue()
	if s.pass.state == passRunning && s.pass.paused {
		at = s.trimAllowed()
	}
	if !s.connected {
		return at
	}
	if h := s.held.oldest(); h != nil {
		at = earliest(at, h.at.Add(s.cfg.Hold))
	}
	if s.digests() {
		at = earliest(at, s.digestAt)
	}
	return at
}

// Flush sends at once what is held, because somebody waits for it.
func (s *Sender) Flush(now time.Time) {
	if s.active() {
		s.releaseAll(now)
	}
}

// Position is the place in the stream that covers everything queued so far, and
// AckedPosition the last one that the peer has acknowledged. They can be compared while
// Restarts stays the same.
func (s *Sender) Position() uint64 { return s.seq + uint64(s.queue.n) }

// AckedPosition is described at Position.
func (s *Sender) AckedPosition() uint64 { return s.ackedSeq }

// Restarts counts how often positions lost their meaning, because what was queued was
// dropped: with a connection, a role, a term, or for want of room.
func (s *Sender) Restarts() uint64 { return s.restarts }
