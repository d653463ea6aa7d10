package ctnetlink

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// benchConn opens a Conn in a network namespace of its own.
func benchConn(b *testing.B) *Conn {
	b.Helper()
	var c *Conn
	err := onThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		if err := setSysctls("netfilter/nf_conntrack_events=1"); err != nil {
			return err
		}
		c, err = Open(Config{ReceiveBuffer: 64 << 20})
		return errors.Join(err, ns.Close())
	})
	if errors.Is(err, unix.EPERM) {
		b.Skip("making a network namespace needs CAP_SYS_ADMIN")
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// stopwatch adds up the processor time of what is measured, however busy the machine.
type stopwatch struct {
	b     *testing.B
	since time.Duration
	sum   time.Duration
}

func (s *stopwatch) start() {
	s.b.StartTimer()
	s.since = cpu(s.b)
}

func (s *stopwatch) stop() {
	s.sum += cpu(s.b) - s.since
	s.b.StopTimer()
}

func (s *stopwatch) report(n int, what string) {
	s.b.ReportMetric(float64(s.sum.Nanoseconds())/float64(n), "cpu-ns/"+what)
	s.b.ReportMetric(0, "ns/op")
}

func BenchmarkWriter(b *testing.B) {
	for name, scope := range map[string]Scope{
		"everything heard": ScopeEverything, "ends heard": ScopeEnds, "nothing heard": ScopeNothing,
	} {
		b.Run(name, func(b *testing.B) { benchmarkWriter(b, scope) })
	}
}

func benchmarkWriter(b *testing.B, scope Scope) {
	c := benchConn(b)
	if err := c.Hear(scope); err != nil {
		b.Fatal(err)
	}
	ops := manyFlows(20000)
	kinds := map[string]conntracksync.OpKind{"create": opCreate, "update": opUpdate, "replace": opReplace, "delete": opDelete}
	for _, name := range []string{"create", "update", "replace", "create again", "delete"} {
		kind, ok := kinds[name]
		if !ok {
			kind = opCreate
		}
		for i := range ops {
			ops[i].Kind = kind
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			done, watch := 0, stopwatch{b: b}
			for b.Loop() {
				b.StopTimer()
				if kind == opDelete || name == "create" {
					prepare(b, c, ops, kind)
				}
				watch.start()
				if _, err := c.Apply(ops); err != nil {
					b.Fatal(err)
				}
				watch.stop()
				b.StartTimer()
				done += len(ops)
			}
			watch.report(done, "flow")
		})
	}
}

// prepare empties the table before it is filled and fills it before it is emptied.
func prepare(b *testing.B, c *Conn, ops []conntracksync.Op, kind conntracksync.OpKind) {
	b.Helper()
	opposite := opDelete
	if kind == opDelete {
		opposite = opCreate
	}
	for i := range ops {
		ops[i].Kind = opposite
	}
	if _, err := c.Apply(ops); err != nil {
		b.Fatal(err)
	}
	for i := range ops {
		ops[i].Kind = kind
	}
}

func BenchmarkDump(b *testing.B) {
	c := benchConn(b)
	const n = 200000
	if res, err := c.Apply(manyFlows(n)); err != nil || res.Created != n {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	seen, watch := 0, stopwatch{b: b}
	watch.start()
	for b.Loop() {
		if err := c.Dump(b.Context(), func(*conntracksync.Flow) error { seen++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	watch.stop()
	watch.report(seen, "flow")
}

// BenchmarkListener measures the reading alone: the events are queued beforehand.
func BenchmarkListener(b *testing.B) {
	c := benchConn(b)
	// The listener ignores its own writer, so another one makes the events.
	ops := manyFlows(20000)
	if _, err := c.Apply(ops); err != nil {
		b.Fatal(err)
	}
	everybody := []bpf.RawInstruction{{Op: unix.BPF_RET, K: 1 << 18}}
	if err := c.Listener.s.setFilter(everybody); err != nil {
		b.Fatal(err)
	}
	for i := range ops {
		ops[i].Kind = opUpdate
	}
	events := make([]conntracksync.Event, 1024)
	seen, watch := 0, stopwatch{b: b}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if _, err := c.Apply(ops); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		watch.start()
		for got := 0; got < len(ops); {
			n, overrun, err := c.Receive(b.Context(), events)
			if err != nil || overrun {
				b.Fatal(n, overrun, err)
			}
			got += n
		}
		watch.stop()
		b.StartTimer()
		seen += len(ops)
	}
	watch.report(seen, "event")
}
