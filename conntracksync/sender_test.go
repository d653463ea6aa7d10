package conntracksync

import (
	"net/netip"
	"testing"
	"time"
)

func newMaster(cfg SenderConfig) *Sender {
	s := NewSender(cfg)
	s.SetRole(epoch, true, 3)
	s.Connected(epoch, version1(), version1())
	return s
}

func event(kind EventKind, f Flow) Event { return Event{Kind: kind, Flow: f} }

// drain returns all frames that are due.
func drain(s *Sender, now time.Time) []Frame {
	var frames []Frame
	for f, ok := s.Next(now); ok; f, ok = s.Next(now) {
		f.Records = append([]Record(nil), f.Records...)
		frames = append(frames, f)
	}
	return frames
}

func unassured(f Flow) Flow {
	f.Status &^= StatusAssured
	return f
}

func TestSenderSkips(t *testing.T) {
	own := addr("192.0.2.1")
	with := func(change func(*Flow)) Flow {
		f := natFlow(1)
		change(&f)
		return f
	}
	cases := map[string]struct {
		flow Flow
		want Skip
	}{
		"assured":            {natFlow(1), SkipNone},
		"IPv6":               {v6Flow(), SkipNone},
		"UDP, no reply":      {udpFlow(1), SkipNone},
		"expected":           {with(func(f *Flow) { f.Status |= StatusExpected }), SkipNone},
		"from the node":      {with(func(f *Flow) { f.Original.Source = own }), SkipAddress},
		"to the node":        {with(func(f *Flow) { f.Original.Destination = own }), SkipAddress},
		"translated to it":   {with(func(f *Flow) { f.Reply.Destination = own }), SkipAddress},
		"redirected to it":   {with(func(f *Flow) { f.Reply.Source = own }), SkipAddress},
		"loopback":           {with(func(f *Flow) { f.Original.Source = addr("127.0.0.1") }), SkipAddress},
		"multicast":          {with(func(f *Flow) { f.Original.Destination = addr("224.0.0.18") }), SkipAddress},
		"link-local":         {with(func(f *Flow) { f.Original.Source = addr("169.254.1.1") }), SkipAddress},
		"broadcast":          {with(func(f *Flow) { f.Original.Destination = addr("255.255.255.255") }), SkipAddress},
		"clash":              {with(func(f *Flow) { f.Status |= StatusNATClash }), SkipClash},
		"dying":              {with(func(f *Flow) { f.Status |= StatusDying }), SkipDying},
		"SYN":                {with(func(f *Flow) { f.Status, f.TCP.State = StatusConfirmed, TCPSynSent }), SkipHandshake},
		"no reply, no state": {with(func(f *Flow) { f.Status, f.HasTCP, f.TCP = StatusConfirmed, false, TCPInfo{} }), SkipHandshake},
		"picked up":          {with(func(f *Flow) { f.Status = StatusConfirmed }), SkipNone},
		"no address":         {Flow{}, SkipInvalid},
		"no reply direction": {with(func(f *Flow) { f.Reply = Tuple{} }), SkipInvalid},
		"two families":       {with(func(f *Flow) { f.Reply.Source = addr("::1") }), SkipInvalid},
		"impossible state":   {with(func(f *Flow) { f.TCP.State = 200 }), SkipInvalid},
		"scoped":             {with(func(f *Flow) { f.Original.Source = addr("2001:db8::1%x") }), SkipInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newMaster(SenderConfig{Exclude: []netip.Addr{own}})
			s.Event(epoch, event(EventUpdate, c.flow))
			frames := drain(s, epoch.Add(time.Second))
			if sent := len(frames) == 1; sent != (c.want == SkipNone) {
				t.Fatalf("sent: %v", sent)
			}
			if c.want != SkipNone && s.Stats().Skipped[c.want] != 1 {
				t.Errorf("not counted as %v: %v", c.want, s.Stats().Skipped)
			}
			if c.want == SkipNone && frames[0].Records[0].Flow.Status&StatusExpected != 0 {
				t.Error("sent as EXPECTED")
			}
		})
	}
}

func TestSenderSendsDestroysOfDyingFlows(t *testing.T) {
	s := newMaster(SenderConfig{})
	f := natFlow(1)
	f.Status |= StatusDying
	s.Event(epoch, event(EventDestroy, f))
	frames := drain(s, epoch)
	if len(frames) != 1 || frames[0].Records[0] != (Record{Kind: RecordDestroy, Flow: Flow{Key: f.Key}}) {
		t.Errorf("%+v", frames)
	}
}

func TestSenderHoldsWhatIsNotAssured(t *testing.T) {
	s := newMaster(SenderConfig{})
	s.Event(epoch, event(EventNew, udpFlow(1)))
	if got := s.Deadline(); got != epoch.Add(5*time.Millisecond) {
		t.Errorf("deadline %v", got)
	}
	if frames := drain(s, epoch.Add(4*time.Millisecond)); len(frames) != 0 {
		t.Errorf("sent early: %+v", frames)
	}
	marked := udpFlow(1)
	marked.Mark = 7
	s.Event(epoch.Add(4*time.Millisecond), event(EventUpdate, marked))
	frames := drain(s, epoch.Add(5*time.Millisecond))
	if len(frames) != 1 || len(frames[0].Records) != 1 || frames[0].Records[0] != (Record{Kind: RecordNew, Flow: marked}) {
		t.Errorf("not coalesced: %+v", frames)
	}
}

func TestSenderMergesAndSendsTheAssuredAtOnce(t *testing.T) {
	s := newMaster(SenderConfig{})
	s.Event(epoch, event(EventNew, unassured(natFlow(1))))
	partial := natFlow(1)
	partial.HasTCP, partial.TCP, partial.Mark = false, TCPInfo{}, 9
	s.Event(epoch, event(EventUpdate, partial))
	want := natFlow(1)
	want.Mark = 9
	frames := drain(s, epoch)
	if len(frames) != 1 || frames[0].Records[0] != (Record{Kind: RecordNew, Flow: want}) {
		t.Errorf("%+v", frames)
	}
	if s.Backlog() != 0 {
		t.Errorf("backlog %d", s.Backlog())
	}
}

func TestSenderHoldIsBounded(t *testing.T) {
	s := newMaster(SenderConfig{HoldLimit: 10})
	for i := range uint16(11) {
		s.Event(epoch, event(EventNew, udpFlow(i)))
	}
	if frames := drain(s, epoch); len(frames) != 1 || len(frames[0].Records) != 10 {
		t.Errorf("%+v", frames)
	}
}

func TestSenderIsSilentWithoutRolePeerOrVersion(t *testing.T) {
	for name, s := range map[string]*Sender{
		"BACKUP": func() *Sender {
			s := newMaster(SenderConfig{})
			s.Event(epoch, event(EventNew, natFlow(1)))
			s.SetRole(epoch, false, 4)
			return s
		}(),
		"alone": func() *Sender {
			s := newMaster(SenderConfig{})
			s.Event(epoch, event(EventNew, natFlow(1)))
			s.Disconnected()
			return s
		}(),
		"no common version": func() *Sender {
			s := newMaster(SenderConfig{})
			s.Connected(epoch, version1(), Hello{ProtocolMin: 2, ProtocolMax: 4})
			return s
		}(),
	} {
		s.Event(epoch, event(EventDestroy, natFlow(1)))
		if f := drain(s, epoch.Add(time.Minute)); len(f) != 0 || s.WantDump(epoch.Add(time.Minute)) || !s.Deadline().IsZero() {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestSenderDumpSchedule(t *testing.T) {
	s := newMaster(SenderConfig{})
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	if s.WantDump(epoch) || s.Deadline() != at(200*time.Millisecond) {
		t.Fatalf("unasked at once; deadline %v", s.Deadline())
	}
	s.DumpRequested(at(time.Millisecond))
	if !s.WantDump(at(time.Millisecond)) || s.WantDump(at(time.Millisecond)) {
		t.Fatal("asked for: exactly one")
	}
	s.DumpFlow(at(2*time.Millisecond), natFlow(1))
	s.DumpDone(at(3 * time.Millisecond))
	frames := drain(s, at(3*time.Millisecond))
	if len(frames) != 3 || frames[0].Type != FrameDumpBegin || frames[2].Type != FrameDumpEnd || frames[2].Count != 1 {
		t.Fatalf("%+v", frames)
	}
	if want := at(time.Millisecond + 20*time.Second); s.Deadline() != want || s.WantDump(at(19*time.Second)) {
		t.Errorf("deadline %v, want %v", s.Deadline(), want)
	}
	s.Overrun(at(100 * time.Millisecond))
	if want := at(1001 * time.Millisecond); s.Deadline() != want {
		t.Errorf("after an overrun: deadline %v, want %v", s.Deadline(), want)
	}
}

// TestSenderDumpYieldsToEvents: what an event has told is not overwritten by an
// older row, and events overtake the rows.
func TestSenderDumpYieldsToEvents(t *testing.T) {
	s := newMaster(SenderConfig{})
	s.DumpRequested(epoch)
	s.WantDump(epoch)
	partial := natFlow(4)
	partial.HasTCP, partial.TCP, partial.Mark = false, TCPInfo{}, 44
	for i := range uint16(5) {
		s.DumpFlow(epoch, natFlow(i))
	}
	s.Event(epoch, event(EventDestroy, natFlow(1)))
	s.Event(epoch, event(EventUpdate, natFlow(2)))
	s.Event(epoch, event(EventNew, natFlow(1)))
	s.Event(epoch, event(EventUpdate, partial))
	s.Event(epoch, event(EventNew, udpFlow(9))) // held, but before the end
	s.DumpDone(epoch)
	frames := drain(s, epoch)
	var got []RecordKind
	for _, f := range frames {
		for _, r := range f.Records {
			got = append(got, r.Kind)
			if r.Kind == RecordRefresh && r.Flow.Original.SourcePort == 4 && r.Flow.Mark != 44 {
				t.Errorf("old mark: %+v", r)
			}
		}
	}
	want := []RecordKind{
		RecordDestroy, RecordUpdate, RecordNew, RecordUpdate,
		RecordRefresh, RecordRefresh, RecordRefresh, RecordNew,
	}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	if end := frames[len(frames)-1]; end.Type != FrameDumpEnd || end.Count != 3 || s.Stats().DumpStale != 2 {
		t.Errorf("%+v, %+v", end, s.Stats())
	}
}

func TestSenderOverflow(t *testing.T) {
	s := newMaster(SenderConfig{QueueLimit: 10})
	s.DumpRequested(epoch)
	s.WantDump(epoch)
	drain(s, epoch)
	for i := range uint16(11) {
		s.Event(epoch, event(EventNew, natFlow(i)))
	}
	if s.Stats().Overflows != 1 || len(drain(s, epoch)) != 0 {
		t.Fatalf("%+v", s.Stats())
	}
	later := epoch.Add(2 * time.Second)
	if s.WantDump(later) {
		t.Error("a second dump while the shell still reads the first")
	}
	s.DumpFlow(later, natFlow(1))
	s.DumpDone(later)
	if !s.WantDump(later) {
		t.Error("no dump to make up for it")
	}
	if frames := drain(s, later); len(frames) != 1 || !frames[0].Lost {
		t.Errorf("%+v", frames)
	}
	for i := range uint16(11) {
		if more := s.DumpFlow(later, natFlow(i)); more != (i < 4) {
			t.Errorf("row %d: room %v", i, more)
		}
	}
	if s.Stats().Overflows != 2 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestSenderComplete(t *testing.T) {
	s := newMaster(SenderConfig{})
	at := epoch
	dump := func() uint64 {
		t.Helper()
		at = at.Add(30 * time.Second)
		if !s.WantDump(at) {
			t.Fatal("no dump wanted")
		}
		s.DumpDone(at)
		frames := drain(s, at)
		return frames[len(frames)-1].Seq
	}
	step := func(name string, want bool) {
		t.Helper()
		if s.Complete() != want {
			t.Errorf("%s: Complete is %v", name, !want)
		}
	}
	end := dump()
	s.Acked(at, end-1)
	step("the end is not acknowledged", false)
	s.Acked(at, end+1)
	step("an impossible acknowledgement", false)
	s.Acked(at, end)
	step("acknowledged", true)
	dump()
	step("a periodic dump", true)
	s.Overrun(at)
	step("overrun", false)
	s.Acked(at, s.seq)
	step("acknowledgement of an older end", false)
	s.Acked(at, dump())
	step("dump", true)
	s.DumpRequested(at)
	step("the peer distrusts its table", false)
	s.Acked(at, dump())
	step("dump", true)

	at = at.Add(30 * time.Second)
	s.WantDump(at)
	s.DumpDone(at)
	s.Next(at)
	s.finishDump(at) // the end is queued, not sent
	s.Overrun(at)
	drain(s, at)
	s.Acked(at, s.seq)
	step("overrun behind the queued end", false)
	s.Acked(at, dump())
	step("dump", true)
	s.SetRole(at, true, 9)
	step("another term", false)
	if s.Stats().BadAcks != 1 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestSenderRequestDuringDump(t *testing.T) {
	s := newMaster(SenderConfig{})
	s.DumpRequested(epoch)
	s.WantDump(epoch)
	drain(s, epoch)
	s.DumpRequested(epoch) // the peer did not see the beginning
	s.DumpDone(epoch)
	frames := drain(s, epoch)
	s.Acked(epoch, frames[len(frames)-1].Seq)
	if s.Complete() {
		t.Error("a dump that the peer did not ask for completes")
	}
	if !s.WantDump(epoch.Add(time.Second)) {
		t.Error("the request is forgotten")
	}
}

func TestSenderDumpFails(t *testing.T) {
	s := newMaster(SenderConfig{TouchedLimit: 2})
	s.DumpRequested(epoch)
	s.WantDump(epoch)
	s.DumpFlow(epoch, natFlow(1))
	s.DumpFailed(epoch)
	for _, f := range drain(s, epoch) {
		if f.Type == FrameDumpEnd || f.Type == FrameFlows {
			t.Errorf("%+v", f)
		}
	}
	later := epoch.Add(time.Second)
	if !s.WantDump(later) {
		t.Fatal("no second attempt")
	}
	for i := range uint16(3) {
		s.Event(later, event(EventUpdate, natFlow(i)))
	}
	s.DumpDone(later)
	for _, f := range drain(s, later) {
		if f.Type == FrameDumpEnd {
			t.Error("a dump of which too much was touched has an end")
		}
	}
	if !s.WantDump(later.Add(time.Second)) || s.Stats().DumpsFailed != 2 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestSenderBarrier(t *testing.T) {
	pass := func(undo func(*Sender)) bool {
		s := newMaster(SenderConfig{})
		s.Event(epoch, event(EventNew, udpFlow(1)))
		s.Barrier(epoch)
		frames := drain(s, epoch)
		if len(frames) != 2 || frames[0].Type != FrameFlows || frames[1].Type != FrameBarrier {
			t.Fatalf("%+v", frames)
		}
		s.Acked(epoch, 1)
		if s.BarrierPassed() {
			t.Error("passed by what was before it")
		}
		s.Acked(epoch, 2)
		undo(s)
		return s.BarrierPassed()
	}
	if !pass(func(*Sender) {}) {
		t.Error("not passed")
	}
	for name, undo := range map[string]func(*Sender){
		"overrun":    func(s *Sender) { s.Overrun(epoch) },
		"disconnect": func(s *Sender) { s.Disconnected() },
		"role":       func(s *Sender) { s.SetRole(epoch, false, 3) },
		"another":    func(s *Sender) { s.Barrier(epoch) },
	} {
		if pass(undo) {
			t.Errorf("%s does not undo it", name)
		}
	}
}

func TestSenderSequenceAndTerm(t *testing.T) {
	s := newMaster(SenderConfig{FrameRecords: 2})
	for i := range uint16(5) {
		s.Event(epoch, event(EventUpdate, natFlow(i)))
	}
	for i, f := range drain(s, epoch) {
		if f.Seq != uint64(i+1) || f.Term != 3 || f.Version != 1 || len(f.Records) > 2 {
			t.Errorf("frame %d: %+v", i, f)
		}
	}
	s.Connected(epoch, version1(), version1())
	s.Event(epoch, event(EventUpdate, natFlow(1)))
	if f := drain(s, epoch); len(f) != 1 || f[0].Seq != 1 {
		t.Errorf("a new connection begins with %+v", f)
	}
}

// TestSenderDumpIsNotStarved: a quarter of each frame is the dump's.
func TestSenderDumpIsNotStarved(t *testing.T) {
	s := newMaster(SenderConfig{FrameRecords: 8})
	s.DumpRequested(epoch)
	s.WantDump(epoch)
	for i := range uint16(20) {
		s.DumpFlow(epoch, udpFlow(i))
		s.Event(epoch, event(EventUpdate, natFlow(i)))
	}
	s.Next(epoch)
	f, _ := s.Next(epoch)
	dumped := 0
	for _, r := range f.Records {
		if r.Kind == RecordRefresh {
			dumped++
		}
	}
	if len(f.Records) != 8 || dumped != 2 {
		t.Errorf("%d of %d records are the dump's", dumped, len(f.Records))
	}
}

func TestHoldSurvivesRemovals(t *testing.T) {
	h := newHold()
	for i := range uint16(5000) {
		f := udpFlow(i)
		h.add(packKey(f.Key), Record{Kind: RecordNew, Flow: f}, epoch)
	}
	for i := range uint16(5000) {
		if i%7 != 0 {
			h.remove(packKey(udpFlow(i).Key))
		}
	}
	for i := uint16(0); i < 5000; i += 7 {
		o := h.oldest()
		if o == nil || o.key != packKey(udpFlow(i).Key) || h.get(o.key) != o {
			t.Fatalf("at %d: %+v", i, o)
		}
		h.remove(o.key)
	}
	if h.len() != 0 || h.oldest() != nil || h.span() != 0 {
		t.Errorf("left: %d, span %d", h.len(), h.span())
	}
}

func BenchmarkSender(b *testing.B) {
	s := newMaster(SenderConfig{})
	f := natFlow(0)
	for i := 0; b.Loop(); i++ {
		f.Original.SourcePort = uint16(i)
		s.Event(epoch, Event{Kind: EventUpdate, Flow: f})
		if i%128 == 127 {
			s.Next(epoch)
		}
	}
}

func BenchmarkReceiver(b *testing.B) {
	r := NewReceiver(ReceiverConfig{})
	r.SetRole(epoch, false, 1)
	r.Connected(epoch, version1(), version1())
	f := Frame{Type: FrameFlows, Term: 1}
	for i := range 128 {
		f.Records = append(f.Records, Record{Kind: RecordRefresh, Flow: natFlow(uint16(i))})
	}
	for b.Loop() {
		f.Seq++
		r.Receive(epoch, &f)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/128, "ns/flow")
}
