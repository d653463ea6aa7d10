package conntracksync

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stream feeds a receiver with frames in sequence.
type stream struct {
	t *testing.T
	r *Receiver
	n uint64
}

func newStream(t *testing.T, cfg ReceiverConfig) *stream { return &stream{t: t, r: newBackup(cfg)} }

func (s *stream) frame(now time.Time, f Frame) Output {
	s.n++
	f.Seq, f.Version = s.n, 2
	if f.Term == 0 {
		f.Term = 3
	}
	out := s.r.Receive(now, &f)
	return Output{Ops: slices.Clone(out.Ops), Replies: slices.Clone(out.Replies)}
}

func (s *stream) records(records ...Record) []Op {
	s.t.Helper()
	return s.frame(epoch, Frame{Type: FrameFlows, Records: records}).Ops
}

func kinds(ops []Op) (k []OpKind) {
	for i := range ops {
		k = append(k, ops[i].Kind)
	}
	return k
}

func (s *stream) expect(name string, ops []Op, want ...OpKind) {
	s.t.Helper()
	if diff := cmp.Diff(want, kinds(ops), compareFrames); diff != "" {
		s.t.Errorf("%s: %s", name, diff)
	}
}

// agree sends the digest that the receiver has itself.
func (s *stream) agree(now time.Time) {
	s.frame(now, Frame{Type: FrameDigest, Digest: s.r.ix.Digest()})
}

func TestReceiverOperations(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	closing := natFlow(1)
	closing.TCP.State = TCPLastAck
	other := natFlow(1)
	other.Reply.DestinationPort++
	partial := natFlow(7)
	partial.Status &^= StatusAssured
	partial.HasTCP, partial.TCP = false, TCPInfo{}
	s.expect("unknown", s.records(Record{Kind: RecordNew, Flow: natFlow(1)}), OpCreate)
	s.expect("known", s.records(Record{Kind: RecordUpdate, Flow: closing}), OpUpdate)
	s.expect("refreshed, the same", s.records(Record{Kind: RecordRefresh, Flow: closing}))
	s.expect("refreshed, another state", s.records(Record{Kind: RecordRefresh, Flow: natFlow(1)}), OpUpdate)
	s.expect("bits that the kernel never takes back", s.records(Record{Kind: RecordUpdate, Flow: unassured(natFlow(1))}), OpReplace)
	s.expect("new again", s.records(Record{Kind: RecordNew, Flow: natFlow(1)}), OpReplace)
	s.expect("the key of a known one", s.records(Record{Kind: RecordNew, Flow: other}), OpCreate)
	s.expect("the end of the first", s.records(Record{Kind: RecordDestroy, Flow: identity(natFlow(1)), Unsure: true}), OpSweep)
	s.expect("the end of the second", s.records(Record{Kind: RecordDestroy, Flow: identity(other)}), OpDelete)
	s.expect("its end again", s.records(Record{Kind: RecordDestroy, Flow: identity(other)}))
	s.expect("too little of an unknown one", s.records(Record{Kind: RecordUpdate, Flow: partial}))
	s.expect("helper", s.records(Record{Kind: RecordNew, Flow: extraFlow()}, Record{Kind: RecordRefresh, Flow: extraFlow()}), OpCreate, OpReplace)
	s.expect("expectations", s.records(Record{Kind: RecordExpect, Expect: expectation()}, Record{Kind: RecordExpectGone, Expect: expectation()}), OpExpect, OpExpectDelete)
	if st := s.r.Stats(); st.IgnoredUnknown != 2 || st.Unchanged != 1 || s.r.ix.Flows() != 1 {
		t.Errorf("%+v, %d flows", st, s.r.ix.Flows())
	}
}

// TestReceiverReplacesStaleFlows: after an own mastership each TCP flow is created
// anew once, by a record or by a pass.
func TestReceiverReplacesStaleFlows(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	s.records(Record{Kind: RecordNew, Flow: natFlow(1)}, Record{Kind: RecordNew, Flow: natFlow(2)}, Record{Kind: RecordNew, Flow: udpFlow(3)})
	s.r.SetRole(epoch, true, 4)
	s.r.SetRole(epoch, false, 5)
	up := func(f Flow) Record { return Record{Kind: RecordUpdate, Flow: f} }
	frame := func(r Record) []Op {
		return s.frame(epoch, Frame{Type: FrameFlows, Term: 5, Records: []Record{r}}).Ops
	}
	s.expect("TCP", frame(up(natFlow(1))), OpReplace)
	s.expect("TCP, again", frame(up(natFlow(1))), OpUpdate)
	s.expect("unknown TCP, may be there", frame(up(natFlow(9))), OpReplace)
	s.frame(epoch, Frame{Type: FrameDigest, Term: 5, Digest: s.r.ix.Digest()})
	if s.r.Applied(epoch, nil); s.r.Complete() || s.r.ix.Stale() != 2 {
		t.Errorf("complete with %d stale flows", s.r.ix.Stale())
	}
	now := epoch.Add(time.Second)
	if !s.r.WantDump(now) {
		t.Fatal("no pass")
	}
	fresh := udpFlow(3)
	fresh.Timeout = 400
	s.expect("pass", s.r.DumpFlows(now, []Flow{natFlow(1), natFlow(2), fresh, natFlow(9)}).Ops, OpReplace)
	s.r.DumpDone(now)
	if s.r.Applied(now, nil); !s.r.Complete() || s.r.ix.Stale() != 0 {
		t.Errorf("not complete; %d stale", s.r.ix.Stale())
	}
}

func TestReceiverIgnores(t *testing.T) {
	own := addr("192.0.2.1")
	s := newStream(t, ReceiverConfig{Exclude: []netip.Addr{own}, ExcludeNetworks: excludedNetworks()})
	mine, theirs := natFlow(1), natFlow(2)
	mine.Original.Source, theirs.Reply.Destination = own, addr("172.16.1.1")
	s.expect("not replicated", s.records(Record{Kind: RecordNew, Flow: mine}, Record{Kind: RecordNew, Flow: theirs}))
	old := Frame{Type: FrameFlows, Term: 2, Records: []Record{{Kind: RecordNew, Flow: natFlow(3)}}}
	s.expect("an old term", s.frame(epoch, old).Ops)
	s.r.SetRole(epoch, true, 4)
	old.Term = 4
	s.expect("as MASTER", s.frame(epoch, old).Ops)
	if out := s.r.Applied(epoch, nil); len(out.Replies) != 0 {
		t.Errorf("%+v", out.Replies)
	}
	if st := s.r.Stats(); st.IgnoredAddress != 2 || st.IgnoredTerm != 1 || st.IgnoredMaster != 1 {
		t.Errorf("%+v", st)
	}
}

func TestReceiverRepairs(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	s.records(Record{Kind: RecordNew, Flow: natFlow(1)}, Record{Kind: RecordNew, Flow: natFlow(2)}, Record{Kind: RecordNew, Flow: natFlow(3)})
	master := NewIndex(testKey())
	hashes := make([]uint64, 5)
	for i := range hashes {
		f := natFlow(uint16(i))
		if hashes[i] = master.hash(&f); i != 2 {
			master.put(hashes[i], classOf(&f, 0, false), metaFresh)
		}
	}
	replies := func(f Frame) []Frame { return s.frame(epoch, f).Replies }
	r := replies(Frame{Type: FrameDigest, Digest: master.Digest()})
	if len(r) != 1 || r[0].Type != FrameDigestRequest {
		t.Fatalf("%+v", r)
	}
	if r := replies(Frame{Type: FrameDigest, Digest: master.Digest()}); len(r) != 0 {
		t.Errorf("asks twice: %+v", r)
	}
	r = replies(Frame{Type: FrameDigests, Digests: master.sums(nil)})
	var want BucketSet
	for _, i := range []int{0, 2, 4} {
		want.add(bucketOf(hashes[i]))
	}
	if len(r) != 1 || r[0].Type != FrameRepairRequest || r[0].Set != want {
		t.Fatalf("%+v", r)
	}
	if got := s.r.Progress(); got.Buckets != want.Len() || got.Sent != 0 {
		t.Errorf("progress after the request: %+v", got)
	}
	s.frame(epoch, Frame{Type: FrameRepairBegin, Set: *allBuckets()})
	ops := s.records(
		Record{Kind: RecordRefresh, Flow: natFlow(0)}, Record{Kind: RecordUpdate, Flow: natFlow(1)},
		Record{Kind: RecordKeep, Hash: hashes[3]}, Record{Kind: RecordRefresh, Flow: natFlow(4)},
	)
	s.expect("repair", ops, OpCreate, OpUpdate, OpCreate)
	if got := s.r.Progress(); got.Buckets != Buckets || got.Sent != 2 || got.Flows != s.r.ix.Flows() {
		t.Errorf("progress of the repair: %+v", got)
	}
	s.frame(epoch, Frame{Type: FrameRepairEnd, Set: *allBuckets(), Count: 2})
	if s.r.ix.Digest() != master.Digest() || s.r.Stats().Dropped != 1 {
		t.Errorf("%+v, want %+v; %+v", s.r.ix.Digest(), master.Digest(), s.r.Stats())
	}
	if got := s.r.Progress(); got != (Progress{}) {
		t.Errorf("progress after the repair: %+v", got)
	}
	s.agree(epoch)
	if s.r.Applied(epoch, nil); !s.r.Complete() {
		t.Error("not complete")
	}
	now := epoch.Add(time.Second)
	if !s.r.WantDump(now) {
		t.Fatal("no pass takes out what was dropped")
	}
	if ops := s.r.DumpFlows(now, []Flow{natFlow(0), natFlow(2)}).Ops; len(ops) != 1 || ops[0].Kind != OpSweep || ops[0].Flow.Key != natFlow(2).Key {
		t.Errorf("%+v", ops)
	}
}

func TestReceiverBacksOff(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	now := epoch
	wrong := Frame{Type: FrameDigest, Digest: Digest{Sum: 1}}
	var asked []time.Duration
	for ; now.Before(epoch.Add(5 * time.Minute)); now = now.Add(time.Second) {
		if r := s.frame(now, wrong).Replies; len(r) > 0 {
			asked = append(asked, now.Sub(epoch))
			s.frame(now, Frame{Type: FrameDigests, Digests: append(make([]uint64, Buckets-1), 1)})
			s.frame(now, Frame{Type: FrameRepairBegin})
			s.frame(now, Frame{Type: FrameRepairEnd})
		}
	}
	if n := len(asked); n < 6 || n > 12 || asked[n-1]-asked[n-2] < 55*time.Second {
		t.Errorf("asked at %v", asked)
	}
}

func TestReceiverAcknowledges(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	ack := func(failed ...int) *Frame {
		if out := s.r.Applied(epoch, failed); len(out.Replies) > 0 {
			return &out.Replies[0]
		}
		return nil
	}
	s.records(Record{Kind: RecordNew, Flow: natFlow(1)})
	if a := ack(); a == nil || a.Acked != 1 || a.Complete {
		t.Errorf("%+v", a)
	}
	if a := ack(); a != nil {
		t.Errorf("again: %+v", a)
	}
	s.agree(epoch)
	if a := ack(); a == nil || a.Acked != 2 || !a.Complete {
		t.Errorf("%+v", a)
	}
	s.records(Record{Kind: RecordNew, Flow: natFlow(2)}, Record{Kind: RecordNew, Flow: natFlow(3)})
	if a := ack(1); a == nil || a.Acked != 3 || a.Complete || s.r.ix.Flows() != 2 || s.r.Stats().KernelRefused != 1 {
		t.Errorf("refused: %+v", a)
	}
	s.agree(epoch)
	ack()
	s.r.Event(epoch, &Event{Kind: EventDestroy, Flow: natFlow(1)})
	if a := ack(); a == nil || a.Complete || s.r.Stats().Expired != 1 {
		t.Errorf("expired here: %+v", a)
	}
	s.agree(epoch)
	ack()
	s.r.Overrun(epoch)
	if a := ack(); a == nil || a.Complete {
		t.Errorf("overrun: %+v", a)
	}
}

func TestReceiverIsBounded(t *testing.T) {
	s := newStream(t, ReceiverConfig{MaxFlows: 2})
	s.expect("two", s.records(Record{Kind: RecordNew, Flow: natFlow(1)}, Record{Kind: RecordNew, Flow: natFlow(2)}, Record{Kind: RecordNew, Flow: natFlow(3)}), OpCreate, OpCreate)
	s.expect("a known one", s.records(Record{Kind: RecordUpdate, Flow: natFlow(2)}), OpUpdate)
	if s.r.Stats().Refused != 1 {
		t.Errorf("%+v", s.r.Stats())
	}
}

// TestReceiverPass: the own kernel's table against the index.
func TestReceiverPass(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	gone := udpFlow(3)
	s.records(Record{Kind: RecordNew, Flow: natFlow(1)}, Record{Kind: RecordNew, Flow: udpFlow(2)}, Record{Kind: RecordNew, Flow: gone})
	s.agree(epoch)
	s.r.Applied(epoch, nil)
	now := epoch.Add(time.Minute)
	short := udpFlow(2)
	short.Timeout = 299
	for pass := range 2 {
		if !s.r.WantDump(now) {
			t.Fatal("no pass")
		}
		ended := natFlow(8)
		if pass == 0 { // comes and goes while the pass runs
			s.frame(now, Frame{Type: FrameFlows, Records: []Record{{Kind: RecordNew, Flow: ended}, {Kind: RecordDestroy, Flow: identity(ended)}}})
		}
		ops := s.r.DumpFlows(now, []Flow{natFlow(1), short, natFlow(9), ended}).Ops
		want := []OpKind{OpTimeout, OpSweep, OpSweep}[:3-(1-pass)]
		s.expect("pass", ops, want...)
		if ops[0].Flow.Timeout != 600 {
			t.Errorf("%+v", ops[0])
		}
		s.r.DumpDone(now)
		s.r.Applied(now, nil)
		if complete := s.r.Complete(); complete != (pass == 0) {
			t.Errorf("pass %d: complete is %v", pass, complete)
		}
		now = now.Add(2 * time.Second)
	}
	if s.r.Stats().Missing != 1 || s.r.ix.Flows() != 2 {
		t.Errorf("%+v, %d flows", s.r.Stats(), s.r.ix.Flows())
	}
}

func TestInjectedTimeouts(t *testing.T) {
	tcp := func(state TCPState, timeout uint32) Flow {
		f := natFlow(1)
		f.TCP.State, f.Timeout = state, timeout
		return f
	}
	offloaded := natFlow(1)
	offloaded.HasTCP, offloaded.TCP, offloaded.Timeout = false, TCPInfo{}, 0
	for name, c := range map[string]struct {
		in   Flow
		want uint32
	}{
		"UDP":                  {udpFlow(1), 600},
		"established":          {tcp(TCPEstablished, 17000), 17000},
		"offloaded":            {offloaded, 432000},
		"established, unknown": {tcp(TCPEstablished, 0), 432000},
		"TIME_WAIT":            {tcp(TCPTimeWait, 3), 600},
	} {
		s := newStream(t, ReceiverConfig{})
		if ops := s.records(Record{Kind: RecordNew, Flow: c.in}); ops[0].Flow.Timeout != c.want {
			t.Errorf("%s: %d, want %d", name, ops[0].Flow.Timeout, c.want)
		}
	}
}

func TestInjectedState(t *testing.T) {
	f := natFlow(1)
	f.HasTCP, f.TCP = false, TCPInfo{}
	f.Status |= StatusExpected | StatusDying | StatusFixedTimeout
	s := newStream(t, ReceiverConfig{})
	got := s.records(Record{Kind: RecordUpdate, Flow: f})[0].Flow
	if got.TCP.State != TCPEstablished || got.TCP.FlagsReply != tcpBeLiberal || got.Status != natFlow(1).Status|StatusExpected {
		t.Errorf("assured: %+v", got)
	}
	if got := s.records(Record{Kind: RecordUpdate, Flow: f})[0]; got.Kind != OpUpdate || got.Flow.HasTCP {
		t.Errorf("an update invents a state: %+v", got)
	}
}

func TestInverse(t *testing.T) {
	echo := Tuple{Source: addr("10.0.0.1"), Destination: addr("10.0.0.2"), SourcePort: 77, DestinationPort: 8 << 8}
	want := Tuple{Source: addr("10.0.0.2"), Destination: addr("10.0.0.1"), SourcePort: 77}
	if got := echo.inverse(protocolICMP); got != want || got.inverse(protocolICMP) != echo {
		t.Errorf("%+v", got)
	}
	odd := echo
	odd.DestinationPort = 3<<8 | 1
	if got := odd.inverse(protocolICMP); got.DestinationPort != odd.DestinationPort {
		t.Errorf("%+v", got)
	}
}

func TestTimeoutTable(t *testing.T) {
	table := DefaultTimeouts()
	sctp := udpFlow(1)
	sctp.Protocol, sctp.Extra = protocolSCTP, &Extra{HasSCTP: true, SCTP: SCTPInfo{State: 4}}
	stream := udpFlow(1)
	stream.Status |= StatusAssured
	with := func(protocol uint8) Flow { f := udpFlow(1); f.Protocol = protocol; return f }
	for name, c := range map[string]struct {
		flow Flow
		want uint32
	}{
		"TCP": {natFlow(1), 432000}, "UDP": {udpFlow(1), 30}, "UDP stream": {stream, 120}, "SCTP": {sctp, 210},
		"ICMP": {with(protocolICMP), 30}, "ICMPv6": {with(protocolICMPv6), 30}, "GRE": {with(protocolGRE), 30},
		"IPIP": {with(4), 600},
	} {
		if got := table.normal(&c.flow); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestPromotionWithTrafficAlready: packets may arrive before the role does. What they
// did to the table is found by the first pass of the new MASTER.
func TestPromotionWithTrafficAlready(t *testing.T) {
	s := newStream(t, ReceiverConfig{})
	s.r.Event(epoch, &Event{Kind: EventNew, Flow: natFlow(1)})
	master := NewSender(SenderConfig{}, s.r.ix)
	s.r.SetRole(epoch, true, 4)
	master.SetRole(epoch, true, 4)
	master.Connected(epoch, hello2(), hello2())
	if s.r.ix.Trusted() {
		t.Error("the index is trusted")
	}
	now := epoch.Add(5 * time.Second)
	master.whole(t, now, natFlow(1))
	if got := records(master, now); len(got) != 1 || got[0].Kind != RecordRefresh || !s.r.ix.Trusted() {
		t.Errorf("%+v", got)
	}
}

func TestAbsurdTermCountsForItsConnectionOnly(t *testing.T) {
	ix := NewIndex([16]byte{1})
	r := NewReceiver(ReceiverConfig{}, ix)
	now := time.Unix(1000, 0)
	local := Hello{ProtocolMin: ProtocolMin, ProtocolMax: ProtocolMax, Features: Features}
	remote := local
	r.SetRole(now, false, 2)
	remote.Term = ^uint64(0)
	r.Connected(now, local, remote)
	r.Receive(now, &Frame{Version: ProtocolMin, Type: 'E', Seq: 1, Term: ^uint64(0)})
	remote.Term = 3
	r.Connected(now, local, remote)
	r.Receive(now, &Frame{Version: ProtocolMin, Type: 'E', Seq: 1, Term: ^uint64(0)})
	r.Receive(now, &Frame{Version: ProtocolMin, Type: FrameBarrier, Seq: 2, Term: 3})
	if ignored := r.Stats().IgnoredTerm; ignored != 0 {
		t.Fatalf("%d frames of the MASTER in office are ignored", ignored)
	}
	r.SetRole(now, true, 4)
	r.SetRole(now, false, 4)
	r.Receive(now, &Frame{Version: ProtocolMin, Type: FrameBarrier, Seq: 3, Term: 3})
	if ignored := r.Stats().IgnoredTerm; ignored != 1 {
		t.Fatalf("%d frames of an old term are ignored, want 1", ignored)
	}
}

func TestExpectationsOfExcludedFlowsAreLeftOut(t *testing.T) {
	own := netip.MustParseAddr("10.9.9.1")
	inside, outside := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("198.51.100.7")
	full := netip.MustParseAddr("255.255.255.255")
	master := func(a, b netip.Addr) Key {
		return Key{Original: Tuple{Source: a, Destination: b, SourcePort: 5, DestinationPort: 21}, Protocol: 6}
	}
	e := newExclusion([]netip.Addr{own}, nil)
	for name, c := range map[string]struct {
		x    Expectation
		want Skip
	}{
		"forwarded": {Expectation{Master: master(inside, outside), Key: master(outside, inside), Mask: Tuple{Destination: full}}, SkipNone},
		"any source": {Expectation{
			Master: master(inside, outside), Key: Key{Original: Tuple{Source: netip.IPv4Unspecified(), Destination: inside}},
			Mask: Tuple{Source: netip.IPv4Unspecified(), Destination: full},
		}, SkipNone},
		"own master":  {Expectation{Master: master(own, outside), Key: master(outside, inside)}, SkipAddress},
		"to the node": {Expectation{Master: master(inside, outside), Key: master(outside, own), Mask: Tuple{Destination: full}}, SkipAddress},
	} {
		if got := e.expectation(&c.x); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
