package probe

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/router/config"
)

// BenchmarkRun measures the processor time of a probe, with that of the gateway and of the server,
// which are in the same kernel.
func BenchmarkRun(b *testing.B) {
	l := newLab(b)
	l.web(b)
	l.names(b, server4)
	// As in a node, where there is one namespace.
	for name, r := range map[string]Request{
		"gateway": toGateway(request4(config.Target{})), "gateway6": toGateway(request6(config.Target{})),
		"icmp": request4(target(config.ProbeICMP, server4)), "tcp": request4(tcp(server4, 80)),
		"name": request4(target(config.ProbeICMP, "well.example")), "dns": request4(target(config.ProbeDNS, "well.example")),
		"http": request4(target(config.ProbeHTTP, "http://"+server4)),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := processor(b)
			for b.Loop() {
				if got := l.prober.Run(b.Context(), r); !got.OK {
					b.Fatalf("outcome %+v", got)
				}
			}
			b.ReportMetric(float64((processor(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

func processor(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
