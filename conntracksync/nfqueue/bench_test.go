package nfqueue

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/conntracksync"
	"tandem/conntracksync/hold"
)

// BenchmarkFirstExchange measures a first packet and its answer, for a new flow each
// time. held: all is held until the flow is in the BACKUP's kernel, without a network
// between the two.
func BenchmarkFirstExchange(b *testing.B) {
	for _, held := range []bool{false, true} {
		b.Run(map[bool]string{false: "pass", true: "hold"}[held], func(b *testing.B) {
			l := newLab(b)
			links := []string{"x"}
			if held {
				links = []string{"c"}
			}
			l.rules(b, links...)
			l.translate(b)
			m := openMirror(b, l, 0)
			m.serve(b, l.queue(b, 2*hold.DefaultLength))
			l.echo(b)
			times := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			inside(b, l.client, func() error {
				answer := make([]byte, 64)
				for range b.N {
					c, err := net.Dial("udp", server4+":9000")
					if err != nil {
						return err
					}
					begin := time.Now()
					_, err = c.Write([]byte("first"))
					if err == nil {
						err = c.SetReadDeadline(begin.Add(patience))
					}
					if err == nil {
						_, err = c.Read(answer)
					}
					times = append(times, time.Since(begin))
					if err := errors.Join(err, c.Close()); err != nil {
						return err
					}
				}
				return nil
			})
			b.StopTimer()
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(times[len(times)-1].Microseconds()), "max-us")
		})
	}
}

func (l *lab) echo(b *testing.B) {
	b.Helper()
	inside(b, l.server, func() error {
		c, err := net.ListenPacket("udp", server4+":9000")
		if err != nil {
			return err
		}
		b.Cleanup(func() { _ = c.Close() })
		go func() {
			packet := make([]byte, 64)
			for {
				n, from, err := c.ReadFrom(packet)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(packet[:n], from) // a lost answer ends the client
			}
		}()
		return nil
	})
}

// BenchmarkNewFlows sends one packet each of b.N flows as fast as it can. queue: each
// waits in the queue and is released as soon as it is heard of. hold: each is
// replicated, too.
func BenchmarkNewFlows(b *testing.B) {
	for _, mode := range []string{"pass", "events", "queue", "hold"} {
		b.Run(mode, func(b *testing.B) {
			l := newLab(b)
			l.sink(b)
			links := []string{"c"}
			if mode == "pass" || mode == "events" {
				links = []string{"x"}
			}
			r := l.rules(b, links...)
			l.translate(b)
			m := openMirror(b, l, 0)
			q := l.queue(b, 2*hold.DefaultLength)
			switch mode {
			case "queue":
				go func() { _ = releaseAll(b.Context(), q) }() // ends with the context
			case "hold":
				m.serve(b, q)
			case "events":
				go func() { _ = m.replicate(b.Context()) }() // ends with the context
			}
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.ResetTimer()
			l.flood(b, b.N, 0)
			b.StopTimer()
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N)/1e3, "cpu-us/flow")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
			counts, err := r.Counts()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(counts.Picked), "picked")
			m.mu.Lock()
			defer m.mu.Unlock()
			s := m.hold.Stats()
			b.ReportMetric(float64(s.Acknowledged), "acknowledged")
			b.ReportMetric(float64(s.Displaced+s.Expired), "given-up")
		})
	}
}

func releaseAll(ctx context.Context, q *Queue) error {
	ids := make([]uint32, 256)
	for {
		n, err := q.Receive(ctx, ids)
		if err != nil {
			return err
		}
		if err := q.Release(ids[n-1]); err != nil {
			return err
		}
	}
}

// BenchmarkRate sends one packet each of new flows at a rate, and tells which share of
// them waited until it was known to the BACKUP.
func BenchmarkRate(b *testing.B) {
	for _, rate := range []int{1000, 5000, 10000, 20000} {
		b.Run(strconv.Itoa(rate), func(b *testing.B) {
			l := newLab(b)
			l.sink(b)
			l.rules(b, "c")
			l.translate(b)
			m := openMirror(b, l, 0)
			m.serve(b, l.queue(b, 2*hold.DefaultLength))
			l.flood(b, b.N, rate)
			m.mu.Lock()
			defer m.mu.Unlock()
			s := m.hold.Stats()
			b.ReportMetric(100*float64(s.Acknowledged)/float64(b.N), "held-%")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
			b.ReportMetric(float64(s.Waited.Microseconds())/float64(max(s.Acknowledged, 1)), "mean-us")
			b.ReportMetric(float64(s.Longest.Microseconds()), "max-us")
		})
	}
}

// sink is where no answer comes from, not even an error.
func (l *lab) sink(b *testing.B) {
	b.Helper()
	inside(b, l.router, func() error {
		to, err := netlink.ParseIPNet("10.3.0.0/16")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(server4)})
	})
}

// flood sends n packets into the sink, each of a flow of its own: rate a second, or as
// fast as it can if rate is 0.
func (l *lab) flood(b *testing.B, n, rate int) {
	b.Helper()
	inside(b, l.client, func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(client4)})
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		to := &net.UDPAddr{IP: net.IPv4(10, 3, 0, 1), Port: 1}
		begin := time.Now()
		for i := range n {
			if rate > 0 {
				time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			}
			if _, err := c.WriteToUDP([]byte("first"), to); err != nil {
				return err
			}
			if to.Port++; to.Port > 65000 {
				to.Port, to.IP[14] = 1, to.IP[14]+1
			}
		}
		return nil
	})
}

// replicate replicates without holding anything, until ctx ends.
func (m *mirror) replicate(ctx context.Context) error {
	events := make([]conntracksync.Event, 1024)
	for {
		n, _, err := m.events.Receive(ctx, events)
		if err != nil {
			return err
		}
		if err := m.apply(operations(events[:n], nil)); err != nil {
			return err
		}
	}
}

// BenchmarkForwarding sends packets of one answered flow: what the table costs those
// that it does not pick. none: there is no table; idle: it has no links.
func BenchmarkForwarding(b *testing.B) {
	for _, mode := range []string{"none", "idle", "hold"} {
		b.Run(mode, func(b *testing.B) {
			l := newLab(b)
			switch mode {
			case "idle":
				l.rules(b)
			case "hold":
				l.rules(b, "c")
			}
			l.translate(b)
			l.echo(b)
			inside(b, l.client, func() error {
				c, err := net.Dial("udp", server4+":9000")
				if err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
				if _, err = c.Write([]byte("first")); err == nil {
					err = c.SetReadDeadline(time.Now().Add(patience))
				}
				if err == nil {
					_, err = c.Read(make([]byte, 64))
				}
				if err != nil {
					return err
				}
				b.ResetTimer()
				for range b.N {
					if _, err := c.Write([]byte("later")); err != nil {
						return err
					}
				}
				b.StopTimer()
				return nil
			})
		})
	}
}
