package conntracksync

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Unix(1_700_000_000, 0) //nolint:gochecknoglobals // a constant

func version1() Hello { return Hello{ProtocolMin: 1, ProtocolMax: 1} }

// script drives a receiver with frames in sequence.
type script struct {
	t    *testing.T
	r    *Receiver
	seq  uint64
	term uint64
}

func newScript(t *testing.T, cfg ReceiverConfig) *script {
	s := &script{t: t, r: NewReceiver(cfg), term: 5}
	s.r.SetRole(epoch, false, 5)
	s.connect()
	return s
}

func (s *script) connect() {
	s.t.Helper()
	s.seq = 0
	s.r.Disconnected()
	if out := s.r.Connected(epoch, version1(), version1()); len(out.Replies) != 1 || out.Replies[0].Type != FrameDumpRequest {
		s.t.Fatalf("connected: %+v", out)
	}
}

func (s *script) frame(f Frame) Output {
	s.seq++
	f.Seq, f.Term = s.seq, s.term
	return s.r.Receive(epoch, &f)
}

func (s *script) flows(kind RecordKind, flows ...Flow) Output {
	f := Frame{Type: FrameFlows}
	for _, flow := range flows {
		f.Records = append(f.Records, Record{Kind: kind, Flow: flow})
	}
	return s.frame(f)
}

func (s *script) dump(flows ...Flow) Output {
	s.frame(Frame{Type: FrameDumpBegin})
	s.flows(RecordRefresh, flows...)
	return s.frame(Frame{Type: FrameDumpEnd, Count: uint64(len(flows))})
}

func (s *script) want(out Output, kinds ...OpKind) {
	s.t.Helper()
	var got []OpKind
	for _, op := range out.Ops {
		got = append(got, op.Kind)
	}
	if diff := cmp.Diff(kinds, got); diff != "" {
		s.t.Errorf("operations: %s", diff)
	}
}

func TestReceiverReplacesUntilTheFirstDumpEnded(t *testing.T) {
	s := newScript(t, ReceiverConfig{})
	s.want(s.flows(RecordUpdate, natFlow(1)), OpReplace)
	s.want(s.flows(RecordUpdate, natFlow(1)), OpUpdate)
	s.frame(Frame{Type: FrameDumpBegin})
	s.want(s.flows(RecordRefresh, natFlow(1), natFlow(2)), OpUpdate, OpReplace)
	s.want(s.frame(Frame{Type: FrameDumpEnd, Count: 2}))
	s.want(s.flows(RecordNew, natFlow(3)), OpCreate)
	s.want(s.flows(RecordUpdate, natFlow(4)), OpCreate)
	s.want(s.dump(natFlow(1), natFlow(2)), OpDelete, OpDelete)
	s.connect()
	s.want(s.flows(RecordRefresh, natFlow(1)), OpReplace)
}

func TestReceiverReplacesASuccessor(t *testing.T) {
	s := newScript(t, ReceiverConfig{})
	s.dump(natFlow(1))
	s.want(s.flows(RecordUpdate, natFlow(1)), OpUpdate)
	other := natFlow(1)
	other.Reply.DestinationPort = 61000
	s.want(s.flows(RecordUpdate, other), OpReplace)
	other.Status &^= StatusAssured
	s.want(s.flows(RecordRefresh, other), OpReplace)
	s.want(s.flows(RecordNew, other), OpReplace)
}

func TestReceiverSweeps(t *testing.T) {
	s := newScript(t, ReceiverConfig{Exclude: []netip.Addr{addr("10.0.0.9")}})
	own := udpFlow(9)
	own.Original.Source = addr("10.0.0.9")
	if !s.r.WantLocal() || s.r.WantLocal() {
		t.Fatal("the local table is wanted once")
	}
	for _, f := range []Flow{udpFlow(7), own, natFlow(1)} {
		s.r.Local(f)
	}
	s.frame(Frame{Type: FrameDumpBegin})
	s.want(s.flows(RecordNew, udpFlow(3)), OpReplace)
	s.want(s.flows(RecordRefresh, natFlow(1)), OpReplace)
	out := s.frame(Frame{Type: FrameDumpEnd, Count: 1})
	s.want(out, OpDelete)
	if out.Ops[0].Flow.Key != udpFlow(7).Key {
		t.Errorf("swept %+v", out.Ops[0])
	}
	s.want(s.dump(natFlow(1)), OpDelete) // the event's flow is not in this dump
	if st := s.r.Stats(); st.Swept != 2 || s.r.Flows() != 1 {
		t.Errorf("%+v, %d flows", st, s.r.Flows())
	}
}

func TestReceiverComplete(t *testing.T) {
	s := newScript(t, ReceiverConfig{})
	step := func(name string, want bool) {
		t.Helper()
		s.r.Applied(epoch)
		if s.r.Complete() != want {
			t.Errorf("%s: Complete is %v", name, !want)
		}
	}
	step("connected", false)
	s.frame(Frame{Type: FrameDumpEnd})
	step("an end without a beginning", false)
	s.dump(natFlow(1))
	if s.r.Complete() {
		t.Error("complete before it is applied")
	}
	step("dump", true)
	s.frame(Frame{Type: FrameDumpBegin})
	step("a periodic dump began", true)
	s.frame(Frame{Type: FrameDumpBegin, Lost: true})
	step("events were lost", false)
	s.frame(Frame{Type: FrameDumpEnd, Lost: true})
	step("events were lost meanwhile", false)
	s.dump()
	step("dump", true)
	s.seq++
	if out := s.flows(RecordNew, natFlow(2)); len(out.Replies) != 1 || out.Replies[0].Type != FrameDumpRequest {
		t.Errorf("gap: %+v", out.Replies)
	}
	step("gap", false)
	s.dump()
	step("dump", true)
	s.frame(Frame{Type: FrameDumpBegin})
	s.frame(Frame{Type: FrameDumpEnd, Count: 3})
	step("short dump", false)
	s.dump()
	step("dump", true)
	s.r.SetRole(epoch, true, 6)
	step("MASTER", false)
	s.r.SetRole(epoch, false, 7)
	step("BACKUP again", false)
	s.term = 7
	s.dump()
	step("dump", true)
	s.r.Disconnected()
	step("disconnected", false)
}

func TestReceiverAcknowledgesWhatIsApplied(t *testing.T) {
	s := newScript(t, ReceiverConfig{})
	if out := s.r.Applied(epoch); len(out.Replies) != 0 {
		t.Errorf("nothing came, but %+v", out.Replies)
	}
	s.flows(RecordNew, natFlow(1))
	s.frame(Frame{Type: FrameBarrier})
	want := []Frame{{Version: 1, Type: FrameAck, Term: 5, Acked: 2}}
	if diff := cmp.Diff(want, s.r.Applied(epoch).Replies, compareFrames); diff != "" {
		t.Error(diff)
	}
	if out := s.r.Applied(epoch); len(out.Replies) != 0 {
		t.Errorf("acknowledged twice: %+v", out.Replies)
	}
}

func TestReceiverIgnores(t *testing.T) {
	own := netip.MustParseAddr("198.51.100.53")
	s := newScript(t, ReceiverConfig{Exclude: []netip.Addr{own}})
	s.dump(natFlow(1))
	s.want(s.flows(RecordNew, udpFlow(1)))
	s.want(s.flows(RecordDestroy, udpFlow(1)))
	s.term = 4
	s.want(s.flows(RecordDestroy, natFlow(1)))
	s.term = 5
	s.seq -= 2
	s.want(s.flows(RecordDestroy, natFlow(1)))
	s.seq++
	s.r.SetRole(epoch, true, 6)
	s.term = 6
	s.want(s.flows(RecordDestroy, natFlow(1)))
	if out := s.r.Applied(epoch); len(out.Replies) != 0 {
		t.Errorf("a MASTER acknowledges: %+v", out.Replies)
	}
	got := s.r.Stats()
	if got.IgnoredAddress != 2 || got.IgnoredTerm != 1 || got.Repeated != 1 || got.IgnoredMaster != 1 {
		t.Errorf("%+v", got)
	}
	if out := NewReceiver(ReceiverConfig{}).Receive(epoch, &Frame{Type: FrameFlows, Seq: 1}); len(out.Ops)+len(out.Replies) != 0 {
		t.Errorf("without role and connection: %+v", out)
	}
}

func TestReceiverRefusesBeyondItsLimit(t *testing.T) {
	s := newScript(t, ReceiverConfig{MaxFlows: 2})
	s.dump(natFlow(1), natFlow(2), natFlow(3))
	s.r.Applied(epoch)
	if s.r.Complete() || s.r.Stats().Refused != 1 || s.r.Flows() != 2 {
		t.Errorf("complete %v, %d flows, %+v", s.r.Complete(), s.r.Flows(), s.r.Stats())
	}
	s.dump(natFlow(1), natFlow(2))
	if s.r.Applied(epoch); !s.r.Complete() {
		t.Error("a dump that fits does not complete")
	}
}

func TestInjectedTimeouts(t *testing.T) {
	tcp := func(state TCPState, timeout uint32) Flow {
		f := natFlow(1)
		f.TCP.State, f.Timeout = state, timeout
		return f
	}
	udp := udpFlow(1)
	offloaded := natFlow(1)
	offloaded.HasTCP, offloaded.TCP, offloaded.Timeout = false, TCPInfo{}, 0
	long := udpFlow(1)
	long.Timeout = 180
	for name, c := range map[string]struct {
		in   Flow
		want uint32
	}{
		"UDP":                   {udp, 60},
		"UDP stream":            {long, 180},
		"established":           {tcp(TCPEstablished, 17), 17},
		"offloaded":             {offloaded, establishedTimeout},
		"established, unknown":  {tcp(TCPEstablished, 0), establishedTimeout},
		"handshake":             {tcp(TCPSynReceived, 5), 60},
		"FIN_WAIT":              {tcp(TCPFinWait, 110), 110},
		"TIME_WAIT":             {tcp(TCPTimeWait, 3), 10},
		"TIME_WAIT, just begun": {tcp(TCPTimeWait, 120), 120},
		"CLOSE":                 {tcp(TCPClose, 0), 10},
	} {
		got, ok := injected(c.in, OpCreate)
		if !ok || got.Timeout != c.want {
			t.Errorf("%s: %d (%v), want %d", name, got.Timeout, ok, c.want)
		}
	}
}

func TestInjectedState(t *testing.T) {
	f := natFlow(1)
	f.HasTCP, f.TCP = false, TCPInfo{}
	f.Status |= StatusExpected | StatusDying | StatusFixedTimeout
	got, ok := injected(f, OpReplace)
	if !ok || got.TCP.State != TCPEstablished || got.TCP.FlagsReply != tcpBeLiberal || got.Status != natFlow(1).Status {
		t.Errorf("assured: %+v %v", got, ok)
	}
	if got, ok := injected(f, OpUpdate); !ok || got.HasTCP {
		t.Errorf("an update invents a state: %+v %v", got, ok)
	}
	f.Status &^= StatusAssured
	if _, ok := injected(f, OpCreate); ok {
		t.Error("a flow of unknown state is created")
	}
}
