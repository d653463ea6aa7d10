package ctnetlink

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// receive returns the events that are there, at least one.
func receive(t *testing.T, l *Listener) (events []conntracksync.Event, overrun bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	room := make([]conntracksync.Event, 64)
	n, overrun, err := l.Receive(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	return room[:n], overrun
}

// writerIn opens a writer whose changes nobody ignores.
func writerIn(t *testing.T, ns netns.NsHandle) *Conn {
	t.Helper()
	c := openIn(t, ns, Config{})
	if err := c.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEvents(t *testing.T) {
	for name, f := range sampleFlows() {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			c, other := openIn(t, ns, Config{}), writerIn(t, ns)
			f.Mark = 3
			changed := f
			changed.Mark = 4
			apply(t, other, op(opCreate, f), op(opUpdate, changed), op(opDelete, f))
			var kinds []conntracksync.EventKind
			for len(kinds) < 3 {
				events, overrun := receive(t, c.Listener)
				if overrun {
					t.Error("overrun")
				}
				for _, e := range events {
					kinds = append(kinds, e.Kind)
					if e.Flow.Key != f.Key || e.Flow.Reply != f.Reply {
						t.Errorf("event %d: got %+v, want %+v", e.Kind, e.Flow, f)
					}
					if e.Kind == conntracksync.EventUpdate && e.Flow.Mark != 4 {
						t.Errorf("mark %d, want 4", e.Flow.Mark)
					}
				}
			}
			want := []conntracksync.EventKind{
				conntracksync.EventNew, conntracksync.EventUpdate, conntracksync.EventDestroy,
			}
			if diff := cmp.Diff(want, kinds); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOwnChangesAreNotReported(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{}), writerIn(t, ns)
	samples := sampleFlows()
	own, foreign := samples["tcp snat"], samples["tcp dnat"]
	apply(t, c, op(opCreate, own), op(opUpdate, own), op(opDelete, own))
	apply(t, other, op(opCreate, foreign))
	events, _ := receive(t, c.Listener)
	if len(events) != 1 || events[0].Flow.Key != foreign.Key {
		t.Errorf("got %+v, want the foreign flow alone", events)
	}
}

func TestHear(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{Expectations: true}), writerIn(t, ns)
	f := sampleFlows()["tcp snat"]
	for _, tt := range []struct {
		scope Scope
		want  []conntracksync.EventKind
	}{
		{ScopeEnds, []conntracksync.EventKind{conntracksync.EventDestroy}},
		{ScopeNothing, nil},
		{ScopeEverything, []conntracksync.EventKind{
			conntracksync.EventNew, conntracksync.EventUpdate, conntracksync.EventDestroy,
		}},
	} {
		if err := c.Hear(tt.scope); err != nil {
			t.Fatal(err)
		}
		apply(t, other, op(opCreate, f), op(opUpdate, f), op(opDelete, f))
		// The kernel has queued the events by the time that Apply returns.
		var kinds []conntracksync.EventKind
		if _, err := c.Listener.s.tryRead(); err == nil {
			events := make([]conntracksync.Event, 8)
			for _, e := range events[:c.datagrams(events, 0)] {
				kinds = append(kinds, e.Kind)
			}
		}
		if diff := cmp.Diff(tt.want, kinds); diff != "" {
			t.Errorf("scope %d, want to got:\n%s", tt.scope, diff)
		}
	}
	if err := c.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Hear(ScopeEnds); !errors.Is(err, ErrClosed) {
		t.Errorf("on a closed listener: %v", err)
	}
}

// TestReceiveManyBatches has more events queued than one call of the kernel returns and
// more than the slice holds, so that all the ways to hand them over meet.
func TestReceiveManyBatches(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{}), writerIn(t, ns)
	const n = 5*batchDatagrams + 17
	flows := manyFlows(n)
	apply(t, other, flows...)
	room := make([]conntracksync.Event, batchDatagrams+9)
	for i := 0; i < n; {
		got, overrun, err := c.Receive(t.Context(), room)
		if err != nil || overrun {
			t.Fatal(overrun, err)
		}
		for _, e := range room[:got] {
			if e.Flow.Key != flows[i].Flow.Key {
				t.Fatalf("event %d is about %+v, want %+v", i, e.Flow.Key, flows[i].Flow.Key)
			}
			i++
		}
	}
	if c.Drops() != (Drops{}) {
		t.Error(c.Drops())
	}
}

func TestOverrunIsReportedAndSurvived(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{ReceiveBuffer: 4096}), writerIn(t, ns)
	const n = 300
	flows := manyFlows(n)
	if res := apply(t, other, flows...); res.Created != n {
		t.Fatalf("created %+v", res)
	}
	seen, overruns := 0, 0
	for overruns == 0 {
		events, overrun := receive(t, c.Listener)
		seen += len(events)
		if overrun {
			overruns++
		}
	}
	if seen >= n {
		t.Errorf("%d events, although the buffer holds but a few", seen)
	}
	// Congestion ends when the queue is empty; what comes then is heard again.
	drain(t, c.Listener)
	late := sampleFlows()["tcp dnat"]
	apply(t, other, op(opCreate, late))
	events, overrun := receive(t, c.Listener)
	if overrun || len(events) != 1 || events[0].Flow.Key != late.Key {
		t.Errorf("after the overrun: %+v, overrun %v; want the late flow", events, overrun)
	}
	if got := len(table(t, c)); got != n+1 {
		t.Errorf("repair by dump: %d flows, want %d", got, n+1)
	}
}

// drain takes what is queued without waiting.
func drain(t *testing.T, l *Listener) {
	t.Helper()
	for {
		_, err := l.s.tryRead()
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
}

func TestReceiveFillsTheSliceAndKeepsTheRest(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{}), writerIn(t, ns)
	apply(t, other, manyFlows(5)...)
	var sizes []int
	room := make([]conntracksync.Event, 2)
	for range 3 {
		n, _, err := c.Receive(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, n)
	}
	if diff := cmp.Diff([]int{2, 2, 1}, sizes); diff != "" {
		t.Error(diff)
	}
	if _, _, err := c.Receive(t.Context(), nil); err == nil {
		t.Error("an empty slice was taken")
	}
}

// TestReceiveWithoutTimeTakesWhatIsThere uses a context that has ended, again and again.
func TestReceiveWithoutTimeTakesWhatIsThere(t *testing.T) {
	ns := newNamespace(t)
	c, other := openIn(t, ns, Config{}), writerIn(t, ns)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	room := make([]conntracksync.Event, 8)
	for i, o := range manyFlows(20) {
		if n, _, err := c.Receive(ended, room); n != 0 || !errors.Is(err, context.Canceled) {
			t.Fatalf("round %d: got %d events and %v, want the context's error", i, n, err)
		}
		apply(t, other, o)
		if n, _, err := c.Receive(ended, room); n != 1 || err != nil {
			t.Fatalf("round %d: got %d events and %v, want one", i, n, err)
		}
	}
}

func TestTakeSplitsDatagramsAndCountsDrops(t *testing.T) {
	var e encoder
	f := sampleFlows()["tcp snat"]
	for range 3 {
		e.create(&f, 0, 1)
	}
	e.update(&f, 0, 1) // has no reply tuple
	e.get(&f.Key, 1)   // is no event
	e.buf = append(e.buf, 1, 2, 3)
	l := &Listener{s: &socket{batch: newBatch()}}
	events := make([]conntracksync.Event, 2)
	if n := l.take(e.buf, events, 0); n != 2 {
		t.Fatalf("%d events, want 2", n)
	}
	if n := l.take(l.rest, events, 0); n != 1 || len(l.rest) != 0 {
		t.Fatalf("%d events and %d bytes left, want 1 and 0", n, len(l.rest))
	}
	want := Drops{ReasonTuple: 1, ReasonType: 1, ReasonTruncated: 1}
	if diff := cmp.Diff(want, l.Drops()); diff != "" {
		t.Error(diff)
	}
}

func TestReceiveIsInterrupted(t *testing.T) {
	c := openIn(t, newNamespace(t), Config{})
	room := make([]conntracksync.Event, 1)
	for range 20 { // a late wake-up of one call must not end the next
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, _, err := c.Receive(ctx, room); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the context's error", err)
		}
		cancel()
	}
	result := make(chan error)
	go func() {
		_, _, err := c.Receive(context.Background(), room)
		result <- err
	}()
	if err := c.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
}
