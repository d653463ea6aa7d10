package ctnetlink

import (
	"errors"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
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

func BenchmarkWriter(b *testing.B) {
	c := benchConn(b)
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
			done := 0
			for b.Loop() {
				if kind == opDelete || name == "create" {
					b.StopTimer()
					prepare(b, c, ops, kind)
					b.StartTimer()
				}
				if _, err := c.Apply(ops); err != nil {
					b.Fatal(err)
				}
				done += len(ops)
			}
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "ops/s")
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
	const n = 20000
	if _, err := c.Apply(manyFlows(n)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	seen := 0
	for b.Loop() {
		if err := c.Dump(b.Context(), func(*conntracksync.Flow) error { seen++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(seen)/b.Elapsed().Seconds(), "flows/s")
}

// BenchmarkListener measures the reading alone: the events are queued beforehand.
func BenchmarkListener(b *testing.B) {
	c := benchConn(b)
	// The listener ignores its own writer, so another one makes the events.
	ops := manyFlows(20000)
	if _, err := c.Apply(ops); err != nil {
		b.Fatal(err)
	}
	if err := c.Listener.s.conn.RemoveBPF(); err != nil {
		b.Fatal(err)
	}
	for i := range ops {
		ops[i].Kind = opUpdate
	}
	events := make([]conntracksync.Event, 256)
	seen := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if _, err := c.Apply(ops); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		b.StartTimer()
		for got := 0; got < len(ops); {
			n, overrun, err := c.Receive(b.Context(), events)
			if err != nil || overrun {
				b.Fatal(n, overrun, err)
			}
			got += n
		}
		seen += len(ops)
	}
	b.ReportMetric(float64(seen)/b.Elapsed().Seconds(), "events/s")
}
