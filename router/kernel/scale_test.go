package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tandem/router"
)

// crowd is a node with all virtual routers that a link can have, of both families,
// on a number of segments.
func crowd(segments int) router.Intent {
	in := router.Intent{Group: "lab"}
	const routers = 255
	for s := range segments {
		parent := fmt.Sprintf("p%d", s)
		own4, own6, local := address4(10, s, 255, 2), address6(0xfd00, s, 0xffff, 2), address6(0xfe80, 0, s+1, 0xffff)
		in.Ports = append(in.Ports,
			router.PortAddress{Interface: parent, Prefix: netip.PrefixFrom(own4, 16)},
			router.PortAddress{Interface: parent, Prefix: netip.PrefixFrom(own6, 64)},
			router.PortAddress{Interface: parent, Prefix: netip.PrefixFrom(local, 64)})
		in.Rules = append(in.Rules,
			router.Rule{Preference: router.PreferenceOwn, From: netip.PrefixFrom(own4, 32), Table: router.MainTable},
			router.Rule{Preference: router.PreferenceOwn, From: netip.PrefixFrom(own6, 128), IPv6: true, Table: router.MainTable})
	}
	for i := range routers {
		s, vrid := i%segments, i+1
		parent, table := fmt.Sprintf("p%d", s), 1001+s
		own := []netip.Addr{address4(10, s, 255, 2), address6(0xfd00, s, 0xffff, 2), address6(0xfe80, 0, s+1, 0xffff)}
		in.VirtualLinks = append(in.VirtualLinks,
			router.VirtualLink{
				Name: fmt.Sprintf("vmac%d", vrid), Carrier: fmt.Sprintf("c%d", vrid), Parent: parent, VRID: uint8(vrid), Own: own,
				MAC: [6]byte{0, 0, 0x5e, 0, 1, byte(vrid)}, Addresses: []netip.Addr{address4(10, s, vrid, 1), address4(10, s, vrid, 2)},
			},
			router.VirtualLink{
				Name: fmt.Sprintf("vmac%dv6", vrid), Carrier: fmt.Sprintf("c%d/ipv6", vrid), Parent: parent, VRID: uint8(vrid), IPv6: true, Own: own,
				MAC: [6]byte{0, 0, 0x5e, 0, 2, byte(vrid)}, Addresses: []netip.Addr{address6(0xfe80, 0, 0, vrid), address6(0xfd00, s, vrid, 1)},
			})
		in.Rules = append(in.Rules,
			router.Rule{Preference: router.PreferenceIncoming, Incoming: fmt.Sprintf("vmac%d", vrid), Table: table},
			router.Rule{Preference: router.PreferenceIncoming, Incoming: fmt.Sprintf("vmac%dv6", vrid), IPv6: true, Table: table})
	}
	for s := range segments {
		for other := range segments {
			in.Routes = append(in.Routes,
				router.Route{Table: 1001 + s, Destination: netip.PrefixFrom(address4(10, other, 0, 0), 16), Link: fmt.Sprintf("vmac%d", other+1)},
				router.Route{Table: 1001 + s, Destination: netip.PrefixFrom(address6(0xfd00, other, 0, 0), 64), Link: fmt.Sprintf("vmac%dv6", other+1)})
		}
		in.Routes = append(in.Routes,
			router.Route{Table: 1001 + s, Destination: prefix("0.0.0.0/0"), Unreachable: true, Metric: router.UnreachableMetric},
			router.Route{Table: 1001 + s, Destination: prefix("::/0"), Unreachable: true, Metric: router.UnreachableMetric})
	}
	return in
}

func address4(a, b, c, d int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), byte(d)})
}

func address6(first, subnet, a, b int) netip.Addr {
	return netip.AddrFrom16([16]byte{
		byte(first >> 8), byte(first), byte(subnet >> 8), byte(subnet), 0, 0, 0, 0, 0, 0, 0, 0, byte(a >> 8), byte(a), byte(b >> 8), byte(b),
	})
}

func newCrowdLab(t testing.TB, segments int) *lab {
	t.Helper()
	l := newLab(t, time.Second)
	for s := range segments {
		if err := cable(l.links, fmt.Sprintf("p%d", s), [6]byte{2, 0, 0, 1, 0, byte(s)}, fmt.Sprintf("q%d", s), [6]byte{2, 0, 0, 2, 0, byte(s)}, l.client); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// A node with 510 macvlans and more than 1000 addresses is built up whole, and
// nothing of it is touched again.
func TestCrowd(t *testing.T) {
	for _, segments := range []int{1, 16} {
		t.Run(fmt.Sprint(segments), func(t *testing.T) {
			l := newCrowdLab(t, segments)
			intent := crowd(segments)
			start := time.Now()
			if report := l.apply(t, intent); len(report.Missing)+len(report.Conflicts) > 0 {
				t.Fatalf("%+v", report)
			}
			built := time.Since(start)
			start = time.Now()
			if again := l.apply(t, intent); len(again.Changed) > 0 {
				t.Errorf("changed again %q", again.Changed)
			}
			t.Logf("built in %v, looked at in %v", built, time.Since(start))
			if len(intent.VirtualLinks) != 510 {
				t.Errorf("%d virtual links", len(intent.VirtualLinks))
			}
			start = time.Now()
			if err := l.kernel.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("removed in %v", time.Since(start))
			if d := l.dump(t) + l.dump6(t); strings.Contains(d, "vmac") || strings.Contains(d, "proto 112") {
				t.Errorf("left:\n%s", d)
			}
		})
	}
}

// BenchmarkApplyCrowd measures an Apply that finds nothing to do.
func BenchmarkApplyCrowd(b *testing.B) {
	for _, segments := range []int{1, 16, 255} {
		b.Run(fmt.Sprint(segments), func(b *testing.B) {
			l := newCrowdLab(b, segments)
			intent := crowd(segments)
			l.apply(b, intent)
			for b.Loop() {
				l.apply(b, intent)
			}
		})
	}
}

// BenchmarkBuildCrowd measures an Apply on a kernel that has nothing.
func BenchmarkBuildCrowd(b *testing.B) {
	for _, segments := range []int{1, 16} {
		b.Run(fmt.Sprint(segments), func(b *testing.B) {
			l := newCrowdLab(b, segments)
			intent := crowd(segments)
			for b.Loop() {
				l.apply(b, intent)
				b.StopTimer()
				if err := l.kernel.Remove(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
