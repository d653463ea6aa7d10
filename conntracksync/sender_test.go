package conntracksync

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (s *Sender) feed(now time.Time, kind EventKind, flows ...Flow) {
	for _, f := range flows {
		s.Event(now, &Event{Kind: kind, Flow: f})
	}
}

// records returns those of all frames that are due.
func records(s *Sender, now time.Time) []Record {
	var all []Record
	for _, f := range drain(s, now) {
		all = append(all, f.Records...)
	}
	return all
}

func unassured(f Flow) Flow {
	f.Status &^= StatusAssured
	return f
}

// pass feeds a whole pass over a table with these flows.
func (s *Sender) whole(t *testing.T, now time.Time, rows ...Flow) []Op {
	t.Helper()
	if !s.WantDump(now) {
		t.Fatal("no pass is wanted")
	}
	ops := s.DumpFlows(now, rows)
	s.DumpDone(now)
	return ops
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
		"from a network":     {with(func(f *Flow) { f.Original.Source = addr("172.16.9.9") }), SkipNetwork},
		"to a network":       {with(func(f *Flow) { f.Original.Destination = addr("172.16.9.9") }), SkipNetwork},
		"forwarded to one":   {with(func(f *Flow) { f.Reply.Source = addr("172.16.9.9") }), SkipNetwork},
		"translated to one":  {with(func(f *Flow) { f.Reply.Destination = addr("172.16.9.9") }), SkipNetwork},
		"clash":              {with(func(f *Flow) { f.Status |= StatusNATClash }), SkipClash},
		"dying":              {with(func(f *Flow) { f.Status |= StatusDying }), SkipDying},
		"SYN":                {with(func(f *Flow) { f.Status, f.TCP.State = StatusConfirmed, TCPSynSent }), SkipHandshake},
		"no reply, no state": {with(func(f *Flow) { f.Status, f.HasTCP, f.TCP = StatusConfirmed, false, TCPInfo{} }), SkipHandshake},
		"SYN with helper":    {with(func(f *Flow) { f.Status, f.TCP.State, f.Extra = StatusConfirmed, TCPSynSent, &Extra{Helper: "ftp"} }), SkipNone},
		"SYN of a child": {with(func(f *Flow) {
			f.Status, f.TCP.State, f.Extra = StatusConfirmed, TCPSynSent, &Extra{Master: f.Key, HasMaster: true}
		}), SkipNone},
		"picked up":          {with(func(f *Flow) { f.Status = StatusConfirmed }), SkipNone},
		"no address":         {Flow{}, SkipInvalid},
		"no reply direction": {with(func(f *Flow) { f.Reply = Tuple{} }), SkipInvalid},
		"two families":       {with(func(f *Flow) { f.Reply.Source = addr("::1") }), SkipInvalid},
		"impossible state":   {with(func(f *Flow) { f.TCP.State = 200 }), SkipInvalid},
		"scoped":             {with(func(f *Flow) { f.Original.Source = addr("2001:db8::1%x") }), SkipInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := SenderConfig{Exclude: []netip.Addr{own}, ExcludeNetworks: []netip.Prefix{netip.MustParsePrefix("172.16.0.1/12")}}
			s := newMaster(cfg)
			s.feed(epoch, EventUpdate, c.flow)
			if sent := len(records(s, epoch.Add(time.Second))) == 1; sent != (c.want == SkipNone) {
				t.Fatalf("sent: %v", sent)
			}
			if c.want != SkipNone && s.Stats().Skipped[c.want] != 1 {
				t.Errorf("not counted as %v: %v", c.want, s.Stats().Skipped)
			}
			// A pass judges in the same way.
			s = newMaster(cfg)
			s.whole(t, epoch.Add(time.Minute), c.flow)
			if sent := len(records(s, epoch.Add(time.Minute))) == 1; sent != (c.want == SkipNone) {
				t.Fatalf("sent by a pass: %v", sent)
			}
		})
	}
}

func TestSenderEndsWhatItTold(t *testing.T) {
	s := newMaster(SenderConfig{})
	f := natFlow(1)
	s.feed(epoch, EventUpdate, f)
	f.Status |= StatusDying
	s.feed(epoch, EventDestroy, f, natFlow(2))
	want := []Record{{Kind: RecordUpdate, Flow: natFlow(1)}, {Kind: RecordDestroy, Flow: identity(f)}}
	if diff := cmp.Diff(want, records(s, epoch), compareFrames); diff != "" {
		t.Error(diff)
	}
	if s.ix.Flows() != 0 {
		t.Errorf("%d flows in the index", s.ix.Flows())
	}
}

// TestSenderHandshakeSucceeds: a SYN on the tuples of a known flow is another one.
func TestSenderHandshakeSucceeds(t *testing.T) {
	s := newMaster(SenderConfig{})
	syn := natFlow(1)
	syn.Status, syn.TCP.State = StatusConfirmed, TCPSynSent
	s.feed(epoch, EventUpdate, natFlow(1))
	s.feed(epoch, EventNew, syn) // may be older than what is known
	if diff := cmp.Diff([]Record{{Kind: RecordUpdate, Flow: natFlow(1)}}, records(s, epoch.Add(time.Second)), compareFrames); diff != "" {
		t.Error(diff)
	}
	later := epoch.Add(time.Minute)
	s.whole(t, later, syn)
	if diff := cmp.Diff([]Record{{Kind: RecordDestroy, Flow: identity(syn)}}, records(s, later), compareFrames); diff != "" {
		t.Error(diff)
	}
}

func TestSenderHoldsWhatIsNotAssured(t *testing.T) {
	s := newMaster(SenderConfig{})
	s.feed(epoch, EventNew, udpFlow(1))
	if got := s.Deadline(); got != epoch.Add(5*time.Millisecond) {
		t.Errorf("deadline %v", got)
	}
	if r := records(s, epoch.Add(4*time.Millisecond)); len(r) != 0 {
		t.Errorf("sent early: %+v", r)
	}
	marked := udpFlow(1)
	marked.Mark = 7
	s.feed(epoch.Add(4*time.Millisecond), EventUpdate, marked)
	if diff := cmp.Diff([]Record{{Kind: RecordNew, Flow: marked}}, records(s, epoch.Add(5*time.Millisecond)), compareFrames); diff != "" {
		t.Errorf("not coalesced: %s", diff)
	}
	// What ends meanwhile is never told of.
	s.feed(epoch, EventNew, udpFlow(2))
	s.feed(epoch, EventDestroy, udpFlow(2))
	if r := records(s, epoch.Add(time.Second)); len(r) != 0 || s.Stats().Unsent != 1 {
		t.Errorf("%+v", r)
	}
}

func TestSenderMergesAndSendsTheAssuredAtOnce(t *testing.T) {
	s := newMaster(SenderConfig{})
	first := unassured(natFlow(1))
	first.Extra = &Extra{Helper: "ftp", HasLabels: true, Labels: [16]byte{1}}
	s.feed(epoch, EventNew, first)
	partial := natFlow(1)
	partial.HasTCP, partial.TCP, partial.Mark = false, TCPInfo{}, 9
	partial.Extra = &Extra{HasLabels: true, Labels: [16]byte{2}}
	s.feed(epoch, EventUpdate, partial)
	want := natFlow(1)
	want.Mark, want.Extra = 9, &Extra{Helper: "ftp", HasLabels: true, Labels: [16]byte{2}}
	if diff := cmp.Diff([]Record{{Kind: RecordNew, Flow: want}}, records(s, epoch), compareFrames); diff != "" {
		t.Error(diff)
	}
	if s.Backlog() != 0 {
		t.Errorf("backlog %d", s.Backlog())
	}
}

func TestSenderHoldIsBounded(t *testing.T) {
	s := newMaster(SenderConfig{HoldLimit: 10})
	for i := range uint16(11) {
		s.feed(epoch, EventNew, udpFlow(i))
	}
	if r := records(s, epoch); len(r) != 10 {
		t.Errorf("%+v", r)
	}
}

func TestSenderIsSilentWithoutRolePeerOrVersion(t *testing.T) {
	for name, undo := range map[string]func(*Sender){
		"BACKUP":            func(s *Sender) { s.SetRole(epoch, false, 4) },
		"alone":             func(s *Sender) { s.Disconnected() },
		"no common version": func(s *Sender) { s.Connected(epoch, hello2(), Hello{ProtocolMin: 3, ProtocolMax: 4}) },
	} {
		s := newMaster(SenderConfig{})
		s.feed(epoch, EventNew, natFlow(1), udpFlow(1))
		undo(s)
		if s.ix.Flows() != 2 {
			t.Errorf("%s: the index has %d flows", name, s.ix.Flows())
		}
		s.feed(epoch, EventDestroy, natFlow(1))
		if f := drain(s, epoch.Add(time.Minute)); len(f) != 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if want := map[bool]int{true: 2, false: 1}[name == "BACKUP"]; s.ix.Flows() != want {
			t.Errorf("%s: the index has %d flows after an end", name, s.ix.Flows())
		}
		s.pass.trimAt = time.Time{}
		if s.WantDump(epoch.Add(time.Hour)) || !s.Deadline().IsZero() {
			t.Errorf("%s: has plans", name)
		}
	}
}

func TestSenderPassSchedule(t *testing.T) {
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	s := newMaster(SenderConfig{})
	s.pass.trimAt = time.Time{}
	if s.WantDump(at(29*time.Second)) || !s.WantDump(at(30*time.Second)) || s.WantDump(at(30*time.Second)) {
		t.Fatal("not exactly one after 30 s")
	}
	s.DumpDone(at(33 * time.Second)) // it took long
	if s.WantDump(at(33*time.Second + 89*time.Second)) {
		t.Error("a long pass is followed too soon")
	}
	s.Overrun(at(34 * time.Second))
	if s.WantDump(at(35*time.Second)) || !s.WantDump(at(36*time.Second)) {
		t.Error("an overrun wants one, but not sooner than twice its length")
	}
	s.DumpFailed(at(36 * time.Second))
	if !s.WantDump(at(37 * time.Second)) {
		t.Error("one that failed is not tried again")
	}
	if s.ix.Trusted() {
		t.Error("trusted before the pass")
	}
	s.DumpDone(at(37 * time.Second))
	if !s.ix.Trusted() {
		t.Error("not trusted after it")
	}
}

// TestSenderPassYieldsToEvents: what an event has told is not overwritten by an
// older row.
func TestSenderPassYieldsToEvents(t *testing.T) {
	s := newMaster(SenderConfig{})
	later := epoch.Add(time.Minute)
	s.feed(epoch, EventUpdate, natFlow(1), natFlow(2), natFlow(3))
	drain(s, later)
	s.WantDump(later)
	closing := natFlow(2)
	closing.TCP.State = TCPTimeWait
	s.feed(later, EventDestroy, natFlow(1))
	s.feed(later, EventUpdate, closing)
	s.feed(later, EventDestroy, natFlow(5))
	s.feed(later, EventNew, udpFlow(9)) // held
	s.DumpFlows(later, []Flow{natFlow(1), natFlow(2), natFlow(3), natFlow(4), natFlow(5), udpFlow(9)})
	s.DumpDone(later)
	want := []Record{
		{Kind: RecordDestroy, Flow: identity(natFlow(1))},
		{Kind: RecordUpdate, Flow: closing},
		{Kind: RecordRefresh, Flow: natFlow(4)},
		{Kind: RecordNew, Flow: udpFlow(9)},
	}
	if diff := cmp.Diff(want, records(s, later), compareFrames); diff != "" {
		t.Error(diff)
	}
	if s.Stats().Found != 1 || s.Stats().PassStale != 4 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestSenderGone(t *testing.T) {
	s := newMaster(SenderConfig{})
	now := epoch.Add(time.Minute)
	s.feed(epoch, EventUpdate, natFlow(1), natFlow(2))
	drain(s, now)
	s.whole(t, now, natFlow(1))
	if r := records(s, now); len(r) != 0 {
		t.Fatalf("one pass is enough: %+v", r)
	}
	now = now.Add(2 * time.Second)
	s.whole(t, now, natFlow(1))
	f := natFlow(2)
	if diff := cmp.Diff([]Record{{Kind: RecordGone, Hash: s.ix.hash(&f)}}, records(s, now), compareFrames); diff != "" {
		t.Error(diff)
	}
}

// TestSenderRepair: what is in the buckets goes, whatever the index says, and what
// the dump left out is kept.
func TestSenderRepair(t *testing.T) {
	s := newMaster(SenderConfig{})
	now := epoch.Add(time.Minute)
	child := extraFlow()
	child.Extra = &Extra{Master: natFlow(20).Key, HasMaster: true}
	s.feed(epoch, EventUpdate, natFlow(1), natFlow(2), child, natFlow(20))
	drain(s, now)
	s.Receive(now, &Frame{Type: FrameRepairRequest, Set: *allBuckets()})
	if got := s.Progress(); got != (Progress{Buckets: Buckets, Flows: 4}) {
		t.Errorf("progress after the request: %+v", got)
	}
	s.whole(t, now, child, natFlow(1), natFlow(20))
	if got := s.Progress(); got != (Progress{}) {
		t.Errorf("progress after the repair: %+v", got)
	}
	frames := drain(s, now)
	f := natFlow(2)
	want := []Record{
		{Kind: RecordRefresh, Flow: natFlow(1)},
		{Kind: RecordRefresh, Flow: natFlow(20)},
		{Kind: RecordRefresh, Flow: child},
		{Kind: RecordKeep, Hash: s.ix.hash(&f)},
	}
	if len(frames) != 4 || frames[0].Type != FrameRepairBegin || frames[2].Type != FrameRepairEnd || frames[3].Type != FrameDigest {
		t.Fatalf("%+v", frames)
	}
	if diff := cmp.Diff(want, frames[1].Records, compareFrames); diff != "" || frames[2].Count != 3 {
		t.Errorf("%s, count %d", diff, frames[2].Count)
	}
}

func TestSenderOverflow(t *testing.T) {
	s := newMaster(SenderConfig{QueueLimit: 10})
	now := epoch.Add(time.Minute)
	s.Receive(now, &Frame{Type: FrameRepairRequest, Set: *allBuckets()})
	s.WantDump(now)
	for i := range uint16(11) {
		s.feed(now, EventUpdate, natFlow(i))
	}
	frames := drain(s, now)
	if s.Stats().Overflows != 1 || len(frames) != 1 || frames[0].Type != FrameDigest || frames[0].Digest.Flows != 11 {
		t.Fatalf("%+v %+v", s.Stats(), frames)
	}
	s.DumpFlows(now, []Flow{natFlow(1)})
	s.DumpDone(now)
	for _, f := range drain(s, now) {
		if f.Type == FrameRepairEnd {
			t.Error("a repair that lost its beginning has an end")
		}
	}
	s.whole(t, now.Add(time.Second))
	if f := drain(s, now.Add(time.Second)); f[0].Type != FrameRepairBegin {
		t.Errorf("the repair is forgotten: %+v", f)
	}
}

// TestSenderRowCredit: rows never make events wait for long, and get their turn.
func TestSenderRowCredit(t *testing.T) {
	s := newMaster(SenderConfig{RowCredit: 4})
	now := epoch.Add(time.Minute)
	s.WantDump(now)
	for i := range uint16(4) {
		if !s.WantRows(now) {
			t.Fatalf("no room at %d", i)
		}
		s.DumpFlows(now, []Flow{natFlow(i)})
	}
	if s.WantRows(now) {
		t.Error("room for all")
	}
	s.feed(now, EventUpdate, natFlow(9))
	s.Next(now)
	if !s.WantRows(now) {
		t.Error("no room after they were sent")
	}
}

func TestSenderTrims(t *testing.T) {
	s := newMaster(SenderConfig{TrimRate: 2})
	now := epoch.Add(5 * time.Second)
	long := udpFlow(1)
	long.Timeout = 600
	fixed := long
	fixed.Status |= StatusFixedTimeout
	if !s.WantDump(now) {
		t.Fatal("no pass after the promotion")
	}
	ops := s.DumpFlows(now, []Flow{long, udpFlow(2), natFlow(3), fixed})
	want := []Op{{Kind: OpTimeout, Flow: udpFlow(1)}}
	if diff := cmp.Diff(want, ops, compareFrames); diff != "" {
		t.Error(diff)
	}
	drain(s, now)
	if s.WantRows(now) || s.Deadline() != now.Add(500*time.Millisecond) || !s.WantRows(now.Add(500*time.Millisecond)) {
		t.Errorf("not paced: %v", s.Deadline().Sub(now))
	}
	s.DumpDone(now.Add(time.Second))
	if ops := s.whole(t, now.Add(time.Hour), long); len(ops) != 0 {
		t.Errorf("trimmed again: %+v", ops)
	}
}

func TestSenderComplete(t *testing.T) {
	s := newMaster(SenderConfig{})
	at := epoch
	ack := func(complete bool) { s.Receive(at, &Frame{Type: FrameAck, Acked: s.seq, Complete: complete}) }
	step := func(name string, want bool) {
		t.Helper()
		if s.Complete() != want {
			t.Errorf("%s: Complete is %v", name, !want)
		}
	}
	pass := func() { at = at.Add(time.Minute); s.whole(t, at); drain(s, at) }
	s.Receive(at, &Frame{Type: FrameAck, Acked: s.provenSeq - 1, Complete: true})
	step("the digest is not acknowledged", false)
	s.Receive(at, &Frame{Type: FrameAck, Acked: s.seq + 1, Complete: true})
	step("an impossible acknowledgement", false)
	ack(false)
	step("the peer differs", false)
	ack(true)
	step("acknowledged", true)
	s.Overrun(at)
	step("overrun", false)
	ack(true)
	step("acknowledgement of an older digest", false)
	pass()
	ack(true)
	step("acknowledged after the pass", true)

	s.queueDigest(at)
	s.Overrun(at) // behind the queued digest
	pass()
	s.Receive(at, &Frame{Type: FrameAck, Acked: s.seq - 1, Complete: true})
	step("digest of the time before", false)
	ack(true)
	step("acknowledged", true)
	s.SetRole(at, true, 9)
	drain(s, at)
	step("another term", false)
	ack(true)
	step("acknowledged", true)
	s.Disconnected()
	step("disconnected", false)
	if s.Stats().BadAcks != 1 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestSenderBarrier(t *testing.T) {
	pass := func(undo func(*Sender)) bool {
		s := newMaster(SenderConfig{})
		s.feed(epoch, EventNew, udpFlow(1))
		s.Barrier(epoch)
		frames := drain(s, epoch)
		if len(frames) != 2 || frames[0].Type != FrameFlows || frames[1].Type != FrameBarrier {
			t.Fatalf("%+v", frames)
		}
		s.Receive(epoch, &Frame{Type: FrameAck, Acked: frames[0].Seq})
		if s.BarrierPassed() {
			t.Error("passed by what was before it")
		}
		s.Receive(epoch, &Frame{Type: FrameAck, Acked: frames[1].Seq})
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
	first := s.seq
	for i := range uint16(5) {
		s.feed(epoch, EventUpdate, natFlow(i))
	}
	for i, f := range drain(s, epoch) {
		if f.Seq != first+uint64(i+1) || f.Term != 3 || f.Version != 2 || len(f.Records) > 2 {
			t.Errorf("frame %d: %+v", i, f)
		}
	}
	s.Connected(epoch, hello2(), hello2())
	if f := drain(s, epoch); len(f) != 1 || f[0].Seq != 1 || f[0].Type != FrameDigest || f[0].Digest.Flows != 5 {
		t.Errorf("a new connection begins with %+v", f)
	}
}
