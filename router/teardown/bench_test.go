package teardown

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// many are flows of TCP of one host inside, as connection tracking has them.
func many(n int) []conntracksync.Op {
	host, nat := netip.MustParseAddr(officeHost4), netip.MustParseAddr(natA4)
	ops := make([]conntracksync.Op, n)
	for i := range ops {
		outer := netip.AddrFrom4([4]byte{192, 0, 2, byte(i >> 15)})
		port := uint16(1<<15 | i&0x7fff)
		ops[i] = conntracksync.Op{Kind: conntracksync.OpCreate, Flow: conntracksync.Flow{
			Key: conntracksync.Key{Protocol: unix.IPPROTO_TCP, Original: conntracksync.Tuple{
				Source: host, SourcePort: port, Destination: outer, DestinationPort: 443,
			}},
			Reply: conntracksync.Tuple{
				Source: outer, SourcePort: 443, Destination: nat, DestinationPort: port,
			},
			Status: conntracksync.StatusAssured | conntracksync.StatusSeenReply, Timeout: 3600, Mark: markA,
			HasTCP: true, TCP: conntracksync.TCPInfo{State: conntracksync.TCPEstablished},
		}}
	}
	return ops
}

// BenchmarkEnd measures how long it takes until no flow is left and all hosts have been told.
func BenchmarkEnd(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			down := l.teardown(b)
			var w *ctnetlink.Writer
			inside(b, l.router, func() (err error) {
				w, err = ctnetlink.NewWriter()
				return err
			})
			b.Cleanup(func() { _ = w.Close() })
			ops := many(n)
			l.use(b, "b")
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				if err := down.table.remove(); err != nil {
					b.Fatal(err)
				}
				if res, err := w.Apply(ops); err != nil || res.Created != n {
					b.Fatalf("created %+v: %v", res, err)
				}
				b.StartTimer()
				start, before := time.Now(), processor(b)
				ended, _, err := down.end(b.Context(), officeOnA())
				if err != nil || ended.TCP != n || ended.Told != n || ended.Left != 0 {
					b.Fatalf("ended %+v: %v", ended, err)
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms")
				b.ReportMetric(float64((processor(b)-before).Microseconds())/float64(n), "cpu-µs/flow")
			}
		})
	}
}

// processor is the time that this process has used, with that of the host inside, which is in the
// same kernel.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
