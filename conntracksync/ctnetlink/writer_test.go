package ctnetlink

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

const (
	opCreate  = conntracksync.OpCreate
	opUpdate  = conntracksync.OpUpdate
	opReplace = conntracksync.OpReplace
	opDelete  = conntracksync.OpDelete
	opSweep   = conntracksync.OpSweep
	opTimeout = conntracksync.OpTimeout
)

// statusCompared leaves out the NAT_DONE bits, which the kernel adds by itself.
const statusCompared = conntracksync.StatusSeenReply | conntracksync.StatusAssured |
	conntracksync.StatusConfirmed | conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT

// wantFlow checks that the kernel has want, apart from a timeout that ran on.
func wantFlow(t *testing.T, got, want conntracksync.Flow) {
	t.Helper()
	if got.Timeout > want.Timeout || got.Timeout+5 < want.Timeout {
		t.Errorf("timeout %d, want %d or a little less", got.Timeout, want.Timeout)
	}
	got.Timeout = want.Timeout
	got.Status &= statusCompared
	want.Status &= statusCompared
	if !equal(got, want) {
		t.Errorf("got  %s\nwant %s", shown(got), shown(want))
	}
}

func TestCreateRoundTrip(t *testing.T) {
	ns := newNamespace(t)
	c := openIn(t, ns, Config{})
	oracle := oracleIn(t, ns)
	for name, f := range sampleFlows() {
		t.Run(name, func(t *testing.T) {
			if res := apply(t, c, op(opCreate, f)); res.Created != 1 {
				t.Fatalf("not created: %+v", res)
			}
			got, ok := table(t, c)[f.Key]
			if !ok {
				t.Fatal("not in the dump")
			}
			wantFlow(t, got, f)
		})
	}
	n, err := c.Count()
	if err != nil || int(n) != len(sampleFlows()) {
		t.Errorf("count %d, %v; want %d", n, err, len(sampleFlows()))
	}
	if _, err := c.Statistics(); err != nil {
		t.Error(err)
	}
	flows, err := oracle.Dump(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		got := fromOracle(&flows[i])
		for name, want := range sampleFlows() {
			if got.Key == want.Key && got.Reply != want.Reply {
				t.Errorf("%s: the library reads the reply %+v, want %+v", name, got.Reply, want.Reply)
			}
		}
	}
}

func TestCreateRoundTripFromADump(t *testing.T) {
	first, second := openIn(t, newNamespace(t), Config{}), openIn(t, newNamespace(t), Config{})
	for _, f := range sampleFlows() {
		apply(t, first, op(opCreate, f))
	}
	want := table(t, first)
	for _, f := range want {
		apply(t, second, op(opCreate, f))
	}
	got := table(t, second)
	for k, f := range want {
		g := got[k]
		g.Timeout = f.Timeout
		if !equal(g, f) {
			t.Errorf("got  %s\nwant %s", shown(g), shown(f))
		}
	}
}

func TestApply(t *testing.T) {
	samples := sampleFlows()
	plain, snat := samples["tcp plain, mark and zone"], samples["tcp snat"]
	plain.Zone = 0
	changed := func(f conntracksync.Flow, change func(*conntracksync.Flow)) conntracksync.Flow {
		change(&f)
		return f
	}
	closing := changed(snat, func(f *conntracksync.Flow) {
		f.TCP.State, f.Timeout, f.Mark = conntracksync.TCPTimeWait, 60, 5
	})
	remapped := changed(snat, func(f *conntracksync.Flow) { f.Reply.DestinationPort = 1111 })
	rival := changed(snat, func(f *conntracksync.Flow) { f.Original.SourcePort = 999 })
	backwards := tcpFlow(snat.Reply, inverse(snat.Reply, snat.Protocol))
	reversed := tcpFlow(plain.Reply, plain.Original)
	unanswered := changed(snat, func(f *conntracksync.Flow) {
		f.Status = conntracksync.StatusConfirmed | conntracksync.StatusSourceNAT
		f.TCP.State = conntracksync.TCPSynSent
	})
	stateless := changed(snat, func(f *conntracksync.Flow) { f.HasTCP, f.TCP = false, conntracksync.TCPInfo{} })
	child := changed(snat, func(f *conntracksync.Flow) {
		f.Status |= conntracksync.StatusExpected
		f.Extra = &conntracksync.Extra{Master: plain.Key, HasMaster: true}
	})
	assumed := changed(snat, func(f *conntracksync.Flow) {
		const flags = tcpFlagWindowScale | tcpFlagSACK | tcpFlagBeLiberal
		f.TCP = conntracksync.TCPInfo{
			State: conntracksync.TCPEstablished, FlagsOriginal: flags, FlagsReply: flags,
		}
	})
	refused := func(name string) Result {
		return Result{Refused: 1, RefusedBy: map[string]int{name: 1}, Failed: []int{0}}
	}

	tests := []struct {
		name   string
		before []conntracksync.Flow
		ops    []conntracksync.Op
		want   Result
		after  []conntracksync.Flow
	}{
		{
			"create what is there updates",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opCreate, closing)},
			Result{Updated: 1},
			[]conntracksync.Flow{closing},
		},
		{
			"create what is there with another translation replaces",
			[]conntracksync.Flow{remapped},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create evicts who holds the reply tuple",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create evicts a flow that began with the reply",
			[]conntracksync.Flow{backwards},
			[]conntracksync.Op{op(opCreate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"create replaces the same flow seen the other way",
			[]conntracksync.Flow{reversed},
			[]conntracksync.Op{op(opCreate, plain)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"update",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, closing)},
			Result{Updated: 1},
			[]conntracksync.Flow{closing},
		},
		{
			"update without state leaves it",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, stateless)},
			Result{Updated: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"update may not take ASSURED away but does the rest",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, unanswered)},
			Result{Updated: 1},
			[]conntracksync.Flow{changed(unanswered, func(f *conntracksync.Flow) { f.Status = snat.Status })},
		},
		{
			"update what is not there creates", nil,
			[]conntracksync.Op{op(opUpdate, snat)},
			Result{Created: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"update what is not there evicts",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opUpdate, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"replace",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opReplace, remapped)},
			Result{Created: 1},
			[]conntracksync.Flow{remapped},
		},
		{
			"replace what is not there", nil,
			[]conntracksync.Op{op(opReplace, snat)},
			Result{Created: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"replace evicts",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opReplace, snat)},
			Result{Created: 1, Evicted: 1},
			[]conntracksync.Flow{snat},
		},
		{
			"delete",
			[]conntracksync.Flow{snat, plain},
			[]conntracksync.Op{op(opDelete, conntracksync.Flow{Key: snat.Key})},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"delete keeps to the zone",
			[]conntracksync.Flow{plain, samples["tcp plain, mark and zone"]},
			[]conntracksync.Op{op(opDelete, samples["tcp plain, mark and zone"])},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{"delete what is not there", nil, []conntracksync.Op{op(opDelete, snat)}, Result{Absent: 1}, nil},
		{
			"order of one flow's operations", nil,
			[]conntracksync.Op{
				op(opCreate, snat), op(opCreate, closing), op(opDelete, snat), op(opCreate, rival),
				op(opDelete, rival), op(opUpdate, snat),
			},
			Result{Created: 3, Updated: 1, Deleted: 2},
			[]conntracksync.Flow{snat},
		},
		{
			"unanswered", nil,
			[]conntracksync.Op{op(opCreate, unanswered)},
			Result{Created: 1},
			[]conntracksync.Flow{unanswered},
		},
		{
			"assured without state is taken for established", nil,
			[]conntracksync.Op{op(opCreate, stateless)},
			Result{Created: 1},
			[]conntracksync.Flow{assumed},
		},
		{
			"not assured without state", nil,
			[]conntracksync.Op{op(opCreate, changed(stateless, func(f *conntracksync.Flow) { f.Status = 0 }))},
			refused(RefusedNoState),
			nil,
		},
		{
			"update of an absent flow without state", nil,
			[]conntracksync.Op{op(opUpdate, changed(stateless, func(f *conntracksync.Flow) { f.Status = 0 }))},
			refused(RefusedNoState),
			nil,
		},
		{
			"sweep",
			[]conntracksync.Flow{snat, plain},
			[]conntracksync.Op{op(opSweep, snat)},
			Result{Deleted: 1},
			[]conntracksync.Flow{plain},
		},
		{
			"sweep spares another flow in the place",
			[]conntracksync.Flow{remapped},
			[]conntracksync.Op{op(opSweep, snat)},
			Result{Absent: 1},
			[]conntracksync.Flow{remapped},
		},
		{
			"sweep spares a flow that runs the other way",
			[]conntracksync.Flow{reversed},
			[]conntracksync.Op{op(opSweep, plain)},
			Result{Absent: 1},
			[]conntracksync.Flow{reversed},
		},
		{"sweep what is not there", nil, []conntracksync.Op{op(opSweep, snat)}, Result{Absent: 1}, nil},
		{
			"time-out and nothing else",
			[]conntracksync.Flow{snat},
			[]conntracksync.Op{op(opTimeout, changed(closing, func(f *conntracksync.Flow) { f.Timeout = 9000 }))},
			Result{Updated: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.Timeout = 9000 })},
		},
		{
			"time-out of a flow of GRE",
			[]conntracksync.Flow{samples["gre snat"]},
			[]conntracksync.Op{
				op(opUpdate, changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Mark = 5 })),
				op(opTimeout, changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Timeout = 200 })),
			},
			Result{Created: 1, Updated: 1},
			[]conntracksync.Flow{changed(samples["gre snat"], func(f *conntracksync.Flow) { f.Timeout = 200 })},
		},
		{"time-out of what is not there", nil, []conntracksync.Op{op(opTimeout, snat)}, Result{Absent: 1}, nil},
		{
			"helper that is not loaded", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) {
				f.Extra = &conntracksync.Extra{Helper: "nosuch"}
			}))},
			Result{Created: 1, Stripped: map[string]int{StrippedHelper: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"master that is gone, over a rival",
			[]conntracksync.Flow{rival},
			[]conntracksync.Op{op(opUpdate, changed(snat, func(f *conntracksync.Flow) {
				f.Status |= conntracksync.StatusExpected
				f.Extra = &conntracksync.Extra{Master: plain.Key, HasMaster: true, Helper: "nosuch"}
			}))},
			Result{Created: 1, Evicted: 1, Stripped: map[string]int{StrippedMaster: 1, StrippedHelper: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"master in the same call, and an update of the child", nil,
			[]conntracksync.Op{
				op(opCreate, plain), op(opCreate, child), op(opUpdate, changed(child, func(f *conntracksync.Flow) {
					f.Timeout = 250
				})),
			},
			Result{Created: 2, Updated: 1},
			[]conntracksync.Flow{plain, changed(child, func(f *conntracksync.Flow) { f.Timeout = 250 })},
		},
		{
			"labels for a flow that has no room", []conntracksync.Flow{snat},
			[]conntracksync.Op{op(opUpdate, changed(snat, func(f *conntracksync.Flow) {
				f.Extra = &conntracksync.Extra{Labels: [16]byte{1}, HasLabels: true}
			}))},
			Result{Updated: 1, Stripped: map[string]int{StrippedLabels: 1}},
			[]conntracksync.Flow{snat},
		},
		{
			"a state of sctp that no kernel knows", nil,
			[]conntracksync.Op{op(opCreate, extraFlow(conntracksync.Extra{
				SCTP: conntracksync.SCTPInfo{State: sctpStateMax + 1}, HasSCTP: true,
			}, unix.IPPROTO_SCTP, 7))},
			refused(RefusedMalformed),
			nil,
		},
		{
			"a master of another family", nil,
			[]conntracksync.Op{op(opCreate, childFlow(samples["tcp6 snat"].Key))},
			refused(RefusedMalformed),
			nil,
		},
		{
			"sctp without its tags", nil,
			[]conntracksync.Op{op(opCreate, changed(plain, func(f *conntracksync.Flow) {
				f.Protocol, f.HasTCP = unix.IPPROTO_SCTP, false
			}))},
			refused(RefusedNoState),
			nil,
		},
		{
			"flags that the kernel must find out itself", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsReply = 0xf0 }))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsReply = tcpFlagWindowScale })},
		},
		{
			"a liberal flow stays liberal, a foreign status is not written", nil,
			[]conntracksync.Op{op(opCreate, changed(snat, func(f *conntracksync.Flow) {
				f.TCP.FlagsOriginal |= tcpFlagBeLiberal
				f.Status |= conntracksync.StatusExpected | conntracksync.StatusDying
			}))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(snat, func(f *conntracksync.Flow) { f.TCP.FlagsOriginal |= tcpFlagBeLiberal })},
		},
		{
			"offloaded flows report no timeout", nil,
			[]conntracksync.Op{op(opCreate, changed(stateless, func(f *conntracksync.Flow) {
				f.Timeout = 0
				f.Status |= statusOffload
			}))},
			Result{Created: 1},
			[]conntracksync.Flow{changed(assumed, func(f *conntracksync.Flow) { f.Timeout = tcpEstablishedTimeout })},
		},
	}
	c := openIn(t, newNamespace(t), Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flush(t, c)
			for _, f := range tt.before {
				if res := apply(t, c, op(opCreate, f)); res.Created != 1 {
					t.Fatalf("prepare: %+v", res)
				}
			}
			if diff := cmp.Diff(tt.want, apply(t, c, tt.ops...)); diff != "" {
				t.Errorf("result, want to got:\n%s", diff)
			}
			got := table(t, c)
			if len(got) != len(tt.after) {
				t.Errorf("%d flows, want %d: %+v", len(got), len(tt.after), got)
			}
			for _, f := range tt.after {
				wantFlow(t, got[f.Key], f)
			}
		})
	}
}

func flush(t *testing.T, c *Conn) {
	t.Helper()
	for k := range table(t, c) {
		apply(t, c, op(opDelete, conntracksync.Flow{Key: k}))
	}
}

func TestRefusedFlowsDoNotKeepBackOthers(t *testing.T) {
	c := openIn(t, newNamespace(t), Config{})
	var ops []conntracksync.Op
	for i := range 3 * batchOps {
		f := sampleFlows()["udp snat"]
		f.Original.SourcePort = uint16(1000 + i)
		f.Reply.DestinationPort = uint16(5000 + i)
		switch i % 4 {
		case 1:
			f.Reply.Source = netip.MustParseAddr("::1")
		case 2:
			f.Original.Destination = netip.Addr{}
		case 3:
			f.Protocol, f.Original.DestinationPort = unix.IPPROTO_ICMP, 3<<8
		}
		ops = append(ops, op(opCreate, f))
	}
	ops = append(ops, conntracksync.Op{Flow: sampleFlows()["tcp snat"]})
	res := apply(t, c, ops...)
	want := Result{
		Created: 3 * batchOps / 4, Refused: 9*batchOps/4 + 1,
		RefusedBy: map[string]int{RefusedMalformed: 9*batchOps/4 + 1},
	}
	for i := range ops {
		if i%4 != 0 || i == 3*batchOps {
			want.Failed = append(want.Failed, i)
		}
	}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("result, want to got:\n%s", diff)
	}
}

func TestRefusalOfTheKernelIsCountedByName(t *testing.T) {
	ns := newNamespace(t)
	c, oracle := openIn(t, ns, Config{}), oracleIn(t, ns)
	f := sampleFlows()["udp6 plain"]
	fixed := conntrack.NewFlow(f.Protocol, conntrack.StatusConfirmed|conntrack.StatusFixedTimeout,
		f.Original.Source, f.Original.Destination, f.Original.SourcePort, f.Original.DestinationPort, 300, 0)
	if err := oracle.Create(fixed); err != nil {
		t.Fatal(err)
	}
	want := Result{Created: 1, Refused: 1, RefusedBy: map[string]int{"EPERM": 1}, Failed: []int{0}}
	if diff := cmp.Diff(want, apply(t, c, op(opUpdate, f), op(opCreate, sampleFlows()["tcp snat"]))); diff != "" {
		t.Errorf("result, want to got:\n%s", diff)
	}
}

// TestAnswersAreMatchedBySequence stands in for the errnos that a healthy kernel
// does not produce, a full table above all.
func TestAnswersAreMatchedBySequence(t *testing.T) {
	f := sampleFlows()["udp snat"]
	ops := []conntracksync.Op{op(opCreate, f), op(opCreate, f), op(opDelete, f)}
	w := &Writer{sequence: 1<<32 - 2}
	for i := range ops {
		w.pending = append(w.pending, attempt{op: &ops[i], index: 7 + i, step: firstStep(ops[i].Kind)})
	}
	w.encode()
	failed := func(sequence uint32, errno unix.Errno) message {
		var e encoder
		e.buf = append(e.buf, 0, 0, 0, 0)
		code := uint32(-int32(errno))
		for i := range e.buf {
			e.buf[i] = byte(code >> (8 * i))
		}
		return message{kind: unix.NLMSG_ERROR, sequence: sequence, payload: e.buf}
	}
	if w.answer(failed(1<<32-3, unix.EPERM)) || w.answer(failed(1<<32-1, unix.ENOMEM)) {
		t.Fatal("took a message in the middle for the last")
	}
	if !w.answer(failed(1, 0)) {
		t.Fatal("missed the last message")
	}
	var res Result
	for i := range w.pending {
		if w.settle(&w.pending[i], &res) {
			t.Errorf("operation %d is still open", i)
		}
	}
	want := Result{
		Created: 1, Deleted: 1, Refused: 1, RefusedBy: map[string]int{"ENOMEM": 1}, Failed: []int{7},
	}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("result, want to got:\n%s", diff)
	}
}

func TestResultAdd(t *testing.T) {
	var sum Result
	sum.Add(Result{Created: 1, Refused: 1, RefusedBy: map[string]int{"ENOMEM": 1}, Failed: []int{3}})
	sum.Add(Result{Stripped: map[string]int{StrippedHelper: 1}})
	sum.Add(Result{Updated: 2, Deleted: 3, Absent: 4, Evicted: 5})
	sum.Add(Result{Refused: 3, RefusedBy: map[string]int{"ENOMEM": 1, "EINVAL": 2}})
	want := Result{
		Created: 1, Updated: 2, Deleted: 3, Absent: 4, Evicted: 5, Refused: 4,
		RefusedBy: map[string]int{"ENOMEM": 2, "EINVAL": 2}, Stripped: map[string]int{StrippedHelper: 1},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Error(diff)
	}
}

// manyFlows are n distinct translated flows.
func manyFlows(n int) []conntracksync.Op {
	ops := make([]conntracksync.Op, n)
	for i := range ops {
		f := sampleFlows()["tcp snat"]
		f.Original.Source = netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), byte(i >> 8)})
		f.Original.SourcePort = uint16(1 + i&0xff)
		f.Reply.Destination = netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 16)})
		f.Reply.DestinationPort = uint16(i)
		ops[i] = op(opCreate, f)
	}
	return ops
}

func TestDumpCanBeLeftAndEnded(t *testing.T) {
	c := openIn(t, newNamespace(t), Config{})
	const n = 2000 // several datagrams
	if res := apply(t, c, manyFlows(n)...); res.Created != n {
		t.Fatalf("created %+v", res)
	}
	enough := errors.New("enough")
	if err := c.Dump(t.Context(), func(*conntracksync.Flow) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v, want the callback's error", err)
	}
	if got := len(table(t, c)); got != n {
		t.Errorf("dump after one that was left: %d flows, want %d", got, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err := c.Dump(ctx, func(*conntracksync.Flow) error { cancel(); seen++; return nil })
	if !errors.Is(err, context.Canceled) || seen == n {
		t.Errorf("got %v after %d flows, want an early end", err, seen)
	}
	if got := len(table(t, c)); got != n {
		t.Errorf("dump after one that was cancelled: %d flows, want %d", got, n)
	}
	if err := c.Reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Dump(t.Context(), func(*conntracksync.Flow) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("dump of a closed reader: %v", err)
	}
	if err := c.Writer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(manyFlows(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("write to a closed writer: %v", err)
	}
}

func TestDumpTellsOfInterruption(t *testing.T) {
	var e encoder
	k := sampleFlows()["tcp snat"].Key
	e.begin(messageNew, unix.NLM_F_DUMP_INTR, 7, &k)
	e.end()
	var r Reader
	done := appendRequest(nil, unix.NLMSG_DONE, unix.NLM_F_MULTI, 7)
	clear(done[messageHeaderLength:])
	b := append(e.buf, done...)
	ended, interrupted, err := r.datagram(b, 7, func(message) error { return nil })
	if !ended || !interrupted || err != nil {
		t.Errorf("ended %v, interrupted %v, %v", ended, interrupted, err)
	}
}
