package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// A collector's pause is what a process with real-time duties cannot afford.
func TestHotPathDoesNotAllocate(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, unicast := a.open(a.config(ipv6)), a.open(a.unicast(b, ipv6))
		ear, peer := b.listen(ipv6), b.open(b.config(ipv6))
		message, buffer := a.message(port, 150), make([]byte, MaxPacket)
		for name, send := range map[string]func([]byte) error{
			"Advertise": port.Advertise, "Renew": port.Renew, "Revoke": port.Revoke, "Ask": port.Ask,
			"unicast Advertise": unicast.Advertise, "unicast Renew": unicast.Renew,
		} {
			if n := testing.AllocsPerRun(50, func() { err := send(message); check(t, err) }); n != 0 {
				t.Errorf("%s: %v allocations, want 0", name, n)
			}
		}
		if n := testing.AllocsPerRun(50, func() { check(t, errors.Join(port.Up(), ear.Up())) }); n != 0 {
			t.Errorf("Up: %v allocations, want 0", n)
		}
		ears := a.listen(ipv6)
		n := testing.AllocsPerRun(50, func() {
			check(t, peer.Advertise(message))
			readable(t, ears, patience)
			if _, ok, err := ears.Receive(buffer); !ok || err != nil {
				t.Fatalf("received %v, %v", ok, err)
			}
			silent(t, ears)
		})
		// What this test does itself is one buffer in silent and one list in readable.
		if n > 2 {
			t.Errorf("Receive: %v allocations, want 0", n-2)
		}
	}
}

// All virtual routers that an interface can have need a handful of descriptors.
func TestDescriptorsDoNotGrowWithVirtualRouters(t *testing.T) {
	a, _ := pair(t)
	before := descriptors(t)
	for _, ipv6 := range families() {
		a.listen(ipv6)
		for range 255 {
			a.open(a.config(ipv6))
		}
	}
	if after := descriptors(t); after-before > 8 {
		t.Errorf("510 carriers need %d descriptors", after-before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(entries)
}

// everyVRID makes macvlans for all virtual routers of both families and opens
// their ports.
func everyVRID(b *testing.B) []*Port {
	b.Helper()
	a, _ := pair(b)
	a.enter()
	var ports []*Port
	for vrid := range 255 {
		for _, ipv6 := range families() {
			mac := vrrp.VirtualMAC4(uint8(vrid + 1))
			if ipv6 {
				mac = vrrp.VirtualMAC6(uint8(vrid + 1))
			}
			name := a.virtual(ipv6)
			if vrid+1 != testVRID {
				name = fmt.Sprintf("v%d-%v", vrid+1, ipv6)
				link := &netlink.Macvlan{
					LinkAttrs: netlink.LinkAttrs{
						Name: name, ParentIndex: a.physical.Index, HardwareAddr: net.HardwareAddr(mac[:]),
					},
					Mode: netlink.MACVLAN_MODE_BRIDGE,
				}
				check(b, netlink.LinkAdd(link))
				check(b, netlink.LinkSetUp(link))
			}
			config := a.config(ipv6)
			config.VirtualLink, config.VirtualMAC = name, mac
			ports = append(ports, a.open(config))
		}
	}
	return ports
}

// One iteration is one advert of each of 255 virtual routers in both families.
func BenchmarkAdvertiseForEveryVRID(b *testing.B) {
	ports := everyVRID(b)
	messages := map[bool][]byte{}
	a := &host{t: b}
	for _, p := range ports[:2] {
		messages[p.config.Source.Is6()] = a.message(p, 200)
	}
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		for _, p := range ports {
			check(b, p.Advertise(messages[p.config.Source.Is6()]))
		}
	}
	b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime is what the thread has used, the peer's reception of a frame included:
// between namespaces it happens while sending.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_THREAD, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// One iteration announces 1 000 addresses, half of them IPv6.
func BenchmarkAnnounceThousand(b *testing.B) {
	a, _ := pair(b)
	four, six := a.open(a.config(false)), a.open(a.config(true))
	b.ReportAllocs()
	for b.Loop() {
		for range 500 {
			check(b, four.Announce(virtualAddress(false)))
			check(b, six.Announce(virtualAddress(true)))
		}
	}
}

func BenchmarkAdvertise(b *testing.B) {
	a, peer := pair(b)
	for name, config := range map[string]Config{
		"IPv4": a.config(false), "IPv6": a.config(true), "IPv4OwnMAC": a.ownMAC(false),
		"IPv4Unicast": a.unicast(peer, false), "IPv6Unicast": a.unicast(peer, true),
	} {
		port := a.open(config)
		message := a.message(port, 200)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				check(b, port.Advertise(message))
			}
		})
	}
}

func BenchmarkOpenPort(b *testing.B) {
	a, _ := pair(b)
	keep := a.open(a.config(false)) // and with it the socket
	b.ReportAllocs()
	for b.Loop() {
		port, err := Open(a.sender, a.config(false))
		check(b, errors.Join(err, port.Close()))
	}
	check(b, keep.Close())
}

func BenchmarkReceive(b *testing.B) {
	a, peer := pair(b)
	for _, ipv6 := range families() {
		ear, port := peer.listen(ipv6), a.open(a.config(ipv6))
		message, buffer := a.message(port, 200), make([]byte, MaxPacket)
		b.Run(fmt.Sprintf("IPv6=%v", ipv6), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				check(b, port.Advertise(message))
				if !readable(b, ear, patience) {
					b.Fatal("nothing received")
				}
				if _, _, err := ear.Receive(buffer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
