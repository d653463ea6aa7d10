package kernel

import (
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/router"
	"tandem/router/config"
	"tandem/router/uplink"
)

// A node that got its flows by replication treats them like those that it has seen begin: they
// stay on their uplink, with their address.
func TestReplicatedFlowsStayOnTheirUplink(t *testing.T) {
	if _, err := exec.LookPath("conntrack"); err != nil {
		t.Skip("the test needs conntrack")
	}
	k := newFork(t, inboundNorth, "")
	listen(t, k.server, "203.0.113.1:7")
	listen(t, k.north, "10.1.0.50:80")
	out := seen(t, k.north, "10.1.0.50", "203.0.113.1:7", "192.0.2.9")
	in4 := seen(t, k.server, "203.0.113.1", "192.0.2.9:8080", "203.0.113.1")
	if listed := k.run(t, "conntrack -L -p tcp"); strings.Count(listed, fmt.Sprintf("mark=%d ", router.Mark(1))) != 2 {
		t.Errorf("without the mark of their uplink: %s", listed)
	}
	entries := k.run(t, "conntrack -L -o save")
	k.run(t, "conntrack -F")
	k.choose(t, "radio")
	restored := 0
	for _, line := range strings.Split(entries, "\n") {
		if !strings.Contains(line, "-p tcp") {
			continue
		}
		restored++
		// The tool saves all but the mark.
		k.run(t, fmt.Sprintf("conntrack %s -m %d", strings.Replace(line, "-A ", "-I ", 1), router.Mark(1)))
	}
	if restored != 2 {
		t.Errorf("%d flows in:\n%s", restored, entries)
	}
	alive(t, out)
	alive(t, in4)
	seen(t, k.north, "10.1.0.50", "203.0.113.1:7", "198.51.100.9")
}

// A SYN that passes an uplink names a segment size that fits through it.
func TestSegmentSize(t *testing.T) {
	k := newFork(t, inboundNorth, "")
	k.run(t, "ip link set wan0 mtu 1400")
	k.run(t, "ip link set vmac1 mtu 1400")
	k.choose(t, "fibre")
	listen(t, k.server, "203.0.113.1:7")
	listen(t, k.north, "10.1.0.50:80")
	atServer, atHost := capture(t, k.server, "s0"), capture(t, k.north, "c0")
	seen(t, k.north, "10.1.0.50", "203.0.113.1:7", "192.0.2.9")
	seen(t, k.server, "203.0.113.1", "192.0.2.9:8080", "203.0.113.1")
	for where, frames := range map[string][][]byte{"the server": atServer(), "the host": atHost()} {
		found := 0
		for _, f := range frames {
			// The first option of a SYN or its answer is the size.
			if len(f) < 58 || f[12] != 8 || f[13] != 0 || f[23] != 6 || f[47]&2 == 0 || f[54] != 2 {
				continue
			}
			own := f[6+5] == 6 && where == "the server" || f[6+5] == 2 && where == "the host"
			if size := int(f[56])<<8 | int(f[57]); !own {
				found++
				if size > 1360 {
					t.Errorf("%s is told a size of %d", where, size)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s saw no SYN", where)
		}
	}
}

// A private gateway on the segment of an uplink gets what is for it, and the next packets, too.
func TestPrivateGateway(t *testing.T) {
	k := newFork(t, `, routes: [{destination: 198.18.1.0/24, via: 192.0.2.7}]`, "")
	for _, c := range []string{"ip addr add 192.0.2.7/24 dev s0", "ip addr add 198.18.1.1/32 dev lo"} {
		runIn(t, k.server, c)
	}
	k.choose(t, "radio")
	listen(t, k.server, "198.18.1.1:7")
	c := seen(t, k.north, "", "198.18.1.1:7", "192.0.2.9")
	alive(t, c)
	if got := k.run(t, "ip route get 198.18.1.1 from 10.1.0.50 iif vmac20"); !strings.Contains(got, "via 192.0.2.7") {
		t.Errorf("goes %s", got)
	}
	if got := k.run(t, "conntrack -L -d 198.18.1.1"); !strings.Contains(got, "mark=0") {
		t.Errorf("the flow is marked: %s", got)
	}
}

// Networks keep to their rates in both directions.
func TestRateLimit(t *testing.T) {
	const rate = 40_000_000 / 8
	k := newFork(t, `, rate_limit: 40Mbit`, "")
	listen(t, k.server, "203.0.113.1:7")
	c := seen(t, k.north, "10.1.0.50", "203.0.113.1:7", "192.0.2.9")
	const size = 4 * rate
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := c.Write(make([]byte, size))
		written <- err
	}()
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes there and back in %v: %.0f%% of the rate", size, took, 100*size/took.Seconds()/rate)
	// A second's worth may come at once.
	if least := (size - 2*rate) / rate * time.Second; took < least {
		t.Errorf("%d bytes in %v", size, took)
	}
	// What goes elsewhere is not bounded.
	listen(t, k.south, "10.2.0.50:7")
	free := seen(t, k.north, "10.1.0.50", "10.2.0.50:7", "10.1.0.50")
	alive(t, free)
	if got := k.run(t, "nft list chain ip tandem-lab paths"); strings.Count(got, "limit rate over") != 2 {
		t.Errorf("the rules: %s", got)
	}
}

// hall is a node with many networks and two uplinks on interfaces of its own.
func hall(tb testing.TB, networks int) (*lab, *config.Document) {
	tb.Helper()
	l := newLab(tb, time.Second)
	text := `version: 1
group: lab
members: [{name: one}]
uplinks:
  - {name: fibre, vrid: 254, prefix: 192.0.2.0/24, gateway: 192.0.2.1, addresses: [192.0.2.9], ports: {one: {interface: wan0, address: 192.0.2.2}}}
  - {name: radio, vrid: 255, prefix: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.9], ports: {one: {interface: lan0, address: 198.51.100.2}}}
networks:
`
	for i := range networks {
		name := fmt.Sprintf("n%d", i)
		if err := cable(l.links, name, [6]byte{2, 0, 0, 1, 0, byte(i)}, "m"+name, [6]byte{2, 0, 0, 2, 0, byte(i)}, l.client); err != nil {
			tb.Fatal(err)
		}
		text += fmt.Sprintf("  - {name: %s, vrid: %d, prefix: 10.%d.0.0/24, gateway: 10.%[3]d.0.1, uplinks: [fibre, radio], ports: {one: {interface: %[1]s, address: 10.%[3]d.0.2}}}\n", name, i+1, i)
	}
	doc, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return l, doc
}

func chosen(tb testing.TB, doc *config.Document, name string) router.Intent {
	tb.Helper()
	selection := uplink.Selection{}
	for _, w := range doc.Networks {
		selection[uplink.Path{Network: w.Name, Destination: netip.MustParsePrefix("0.0.0.0/0")}] = name
	}
	in, err := router.Derive(doc, "one", selection)
	if err != nil {
		tb.Fatal(err)
	}
	return in
}

// processorTime is what this process has used, in the kernel as well.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSwitch measures the change of the uplink of 200 networks: at once, and as the
// reconciler would do it that looks at everything.
func BenchmarkSwitch(b *testing.B) {
	l, doc := hall(b, 200)
	intents := [2]router.Intent{chosen(b, doc, "fibre"), chosen(b, doc, "radio")}
	l.apply(b, intents[0])
	b.Run("Reroute", func(b *testing.B) {
		now, start := 0, processorTime(b)
		for b.Loop() {
			if _, err := l.kernel.Reroute(intents[now], intents[1-now]); err != nil {
				b.Fatal(err)
			}
			now = 1 - now
		}
		b.StopTimer()
		b.ReportMetric(float64((processorTime(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
		l.apply(b, intents[0])
	})
	b.Run("Apply", func(b *testing.B) {
		now := 0
		for b.Loop() {
			now = 1 - now
			l.apply(b, intents[now])
		}
	})
	b.Run("Derive", func(b *testing.B) {
		for b.Loop() {
			chosen(b, doc, "radio")
		}
	})
}
