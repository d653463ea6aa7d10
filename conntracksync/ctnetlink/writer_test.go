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

// TestCreateRoundTripOfAChild needs a namespace whose rules use labels; the kernel takes
// them over from new flows only there.
func TestCreateRoundTripOfAChild(t *testing.T) {
	ns := newNamespace(t)
	ruleset(t, ns, "table ip l { chain c { type filter hook forward priority 0; ct label 3 accept; }; }")
	c := openIn(t, ns, Config{})
	master := sampleFlows()["helper and adjustment"]
	child := childFlow(master.Key)
	if res := apply(t, c, op(opCreate, master), op(opCreate, child)); res.Created != 2 || len(res.Stripped) != 0 {
		t.Fatalf("%+v", res)
	}
	wantFlow(t, table(t, c)[child.Key], child)
	changed := *child.Extra
	changed.Labels, changed.Synproxy.TimestampOffset = [16]byte{2}, 9
	child.Extra = &changed
	if res := apply(t, c, op(opUpdate, child)); res.Updated != 1 {
		t.Fatalf("%+v", res)
	}
	wantFlow(t, table(t, c)[child.Key], child)
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
		w.pending = append(w.pending, attempt{op: &ops[i], index: 7 + i, step: firstStep(&ops[i])})
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
