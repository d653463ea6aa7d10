package wire

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

func TestRFC9568_7_2_AdvertOnTheWire(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config()), b.sniff()
	message := a.message(200)
	check(t, port.Advertise(message))
	frame := next(t, sniffer, unix.ETH_P_IP, vrrp.Protocol)

	want := append([]byte{
		0x01, 0x00, 0x5e, 0x00, 0x00, 0x12, // 224.0.0.18
		0x00, 0x00, 0x5e, 0x00, 0x01, testVRID, // §7.3
		0x08, 0x00,
		0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 255, 112, 0xd7, 0x9f,
		192, 0, 2, 251, // §5.1.1.1: the primary address
		224, 0, 0, 18, // §5.1.1.2
	}, message...)
	if !bytes.Equal(frame, want) {
		t.Errorf("frame:\n got %x\nwant %x", frame, want)
	}
}

// The HA link has no virtual MAC address.
func TestAdvertOnTheHALinkHasTheInterfacesOwnMAC(t *testing.T) {
	a, b := pair(t)
	c := a.config()
	c.VirtualLink, c.VirtualMAC = "", [6]byte{}
	port, sniffer := a.open(c), b.sniff()
	check(t, port.Advertise(a.message(200)))
	frame := next(t, sniffer, unix.ETH_P_IP, vrrp.Protocol)
	if source := net.HardwareAddr(frame[6:12]); !bytes.Equal(source, a.physical.HardwareAddr) {
		t.Errorf("source %v, want %v", source, a.physical.HardwareAddr)
	}
	if err := port.Announce(netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("announced an address without a virtual MAC address")
	}
}

// The peer's adverts carry the virtual MAC address, which is also the address of
// the macvlan here. They must still come in by the physical interface.
func TestReceiveFromOwnVirtualMAC(t *testing.T) {
	a, b := pair(t)
	here, there := a.open(a.config()), b.open(b.config())
	for _, way := range []struct {
		from, to *Port
		sender   *host
	}{{here, there, a}, {there, here, b}} {
		message := way.sender.message(150)
		check(t, way.from.Advertise(message))
		got := receive(t, way.to)
		want := vrrp.Header{Source: way.sender.source, Destination: vrrp.MulticastIPv4(), TTL: 255}
		if got.Dropped != vrrp.DropNone || got.Header != want || !bytes.Equal(got.Payload, message) {
			t.Errorf("received %+v, want header %+v, payload %x", got, want, message)
		}
		if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropNone {
			t.Errorf("the advertisement is dropped: %v", reason)
		}
		silent(t, way.to)   // once, not once for each socket or link
		silent(t, way.from) // nobody hears himself
	}
}

func TestReceiveWithoutMacvlans(t *testing.T) {
	a, b := pair(t)
	for _, h := range []*host{a, b} {
		h.enter()
		check(t, netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: h.virtual.Name}}))
	}
	ca, cb := a.config(), b.config()
	ca.VirtualLink, cb.VirtualLink = "", ""
	from, to := a.open(ca), b.open(cb)
	check(t, from.Advertise(a.message(150)))
	if got := receive(t, to); got.Header.Source != a.source {
		t.Errorf("received %+v", got)
	}
}

// Frames travel in order, so when the advert is the first thing received, what
// was sent before it did not pass the filter.
func TestFilterDropsOthers(t *testing.T) {
	a, b := pair(t)
	port := a.open(a.config())
	group, all := groupMAC(), broadcastMAC()
	stranger := netip.MustParseAddr("192.0.2.99")
	elsewhere := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	junk := []byte("not for the election")
	for _, protocol := range []byte{1, 2, 6, 17, 50, 111, 113} {
		b.inject(frame4(group[:], b.physical.HardwareAddr, b.source, vrrp.MulticastIPv4(), protocol, junk))
		b.inject(frame4(a.physical.HardwareAddr, b.physical.HardwareAddr, b.source, a.source, protocol, junk))
		b.inject(frame4(all[:], b.physical.HardwareAddr, b.source, netip.MustParseAddr("192.0.2.255"), protocol, junk))
	}
	b.inject(frame4(elsewhere, b.physical.HardwareAddr, b.source, stranger, vrrp.Protocol, junk)) // flooded
	b.inject(frame4(group[:], virtualMAC(), b.source, vrrp.MulticastIPv4(), vrrp.Protocol, b.message(7)))

	got := receive(t, port)
	if !bytes.Equal(got.Payload, b.message(7)) {
		t.Errorf("received %+v first", got)
	}
	silent(t, port)
}

func TestReceiveDropsAreNamed(t *testing.T) {
	a, b := pair(t)
	port := a.open(a.config())
	group := groupMAC()
	frame := frame4(group[:], virtualMAC(), b.source, vrrp.MulticastIPv4(), vrrp.Protocol, b.message(7))
	frame[ethernetHeader+offsetHeaderSum] ^= 1
	b.inject(frame)
	if got := receive(t, port); got.Dropped != vrrp.DropHeader {
		t.Errorf("dropped as %v, want %v", got.Dropped, vrrp.DropHeader)
	}
	b.inject(frame4(group[:], virtualMAC(), b.source, vrrp.MulticastIPv4(), vrrp.Protocol, b.message(7)))
	readable(t, port, patience)
	got, ok, err := port.Receive(make([]byte, 24))
	if err != nil || !ok || got.Dropped != vrrp.DropTruncated {
		t.Errorf("into a short buffer: %+v, %v, %v; want truncated", got, ok, err)
	}
}

func TestReceiveDoesNotBlock(t *testing.T) {
	a, _ := pair(t)
	port := a.open(a.config())
	hang := time.AfterFunc(patience, func() { panic("Receive blocks") })
	defer hang.Stop()
	for range 100 {
		silent(t, port)
	}
	if readable(t, port, 0) {
		t.Error("the descriptor is readable, but nothing is there")
	}
}

// A shaper that lets nearly nothing through fills the sender's queue. Sending
// must fail then and not wait.
func TestSendingDoesNotBlock(t *testing.T) {
	a, _ := pair(t)
	port := a.open(a.config())
	err := netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: a.physical.Index, Parent: netlink.HANDLE_ROOT},
		Rate:       1000,     // octets per second
		Buffer:     31250000, // of which two seconds at once, in ticks of 64ns
		Limit:      1 << 24,
	})
	if errors.Is(err, unix.ENOENT) {
		t.Skip("the kernel has no tbf queue")
	}
	check(t, err)
	hang := time.AfterFunc(patience, func() { panic("sending blocks") })
	defer hang.Stop()
	message, address := a.message(200), netip.MustParseAddr("192.0.2.1")
	full := 0
	for range 5000 {
		for _, err := range []error{port.Advertise(message), port.Announce(address)} {
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
				full++
			} else {
				check(t, err)
			}
		}
	}
	if full == 0 {
		t.Error("the queue never filled, the test proves nothing")
	}
}

func TestRevokeHasTTL1(t *testing.T) {
	a, b := pair(t)
	port, sniffer, peer := a.open(a.config()), b.sniff(), b.open(b.config())
	check(t, port.Revoke(a.message(vrrp.PriorityLeaving)))
	frame := next(t, sniffer, unix.ETH_P_IP, vrrp.Protocol)
	if ttl := frame[ethernetHeader+offsetTTL]; ttl != 1 {
		t.Errorf("TTL %d, want 1", ttl)
	}
	if !bytes.Equal(frame[6:12], virtualMAC()) {
		t.Errorf("source %v: it did not go through the macvlan", net.HardwareAddr(frame[6:12]))
	}
	got := receive(t, peer)
	if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropTTL {
		t.Errorf("a peer that hears it drops it as %v, want %v", reason, vrrp.DropTTL)
	}
}

func TestRFC9568_6_4_1_GratuitousARP(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config()), b.sniff()
	check(t, port.Announce(netip.MustParseAddr("192.0.2.1")))
	frame := next(t, sniffer, unix.ETH_P_ARP, 0)
	mac := []byte{0x00, 0x00, 0x5e, 0x00, 0x01, testVRID}
	want := bytes.Join([][]byte{
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		mac,
		{0x08, 0x06},
		{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, request
		mac,
		{192, 0, 2, 1},
		{0, 0, 0, 0, 0, 0},
		{192, 0, 2, 1}, // erratum 7947: target = sender
	}, nil)
	if !bytes.Equal(frame, want) {
		t.Errorf("frame:\n got %x\nwant %x", frame, want)
	}
	if err := port.Announce(netip.MustParseAddr("2001:db8::1")); err == nil {
		t.Error("announced an IPv6 address by ARP")
	}
}

// Snooping switches forward the group only to where it was reported from.
func TestGroupIsReportedFromThePhysicalInterface(t *testing.T) {
	a, b := pair(t)
	sniffer := b.sniff()
	a.open(a.config())
	const igmp = 2
	for {
		frame := next(t, sniffer, unix.ETH_P_IP, igmp)
		source := net.HardwareAddr(frame[6:12])
		if !bytes.Contains(frame, []byte{224, 0, 0, 18}) || bytes.Equal(source, b.physical.HardwareAddr) {
			continue // of another group, or what the sniffer's host itself sends
		}
		if !bytes.Equal(source, a.physical.HardwareAddr) {
			t.Errorf("reported from %v, want %v", source, a.physical.HardwareAddr)
		}
		break
	}
	a.enter()
	groups, err := os.ReadFile("/proc/thread-self/net/igmp")
	check(t, err)
	if !strings.Contains(string(groups), "120000E0") { // reports are repeated from it
		t.Errorf("no member of 224.0.0.18 while a port is open:\n%s", groups)
	}
}

func TestCloseLeavesTheGroup(t *testing.T) {
	a, _ := pair(t)
	port := a.open(a.config())
	check(t, port.Close())
	a.enter()
	if fd := port.FD(); fd != -1 {
		t.Errorf("descriptor %d after Close, want -1", fd)
	}
	groups, err := os.ReadFile("/proc/thread-self/net/igmp")
	check(t, err)
	if strings.Contains(string(groups), "120000E0") {
		t.Errorf("still a member:\n%s", groups)
	}
	if err := port.Advertise(a.message(1)); !errors.Is(err, unix.EBADF) {
		t.Errorf("advertising through a closed port: %v", err)
	}
	check(t, port.Close())
}

func TestPhysicalLinkFlaps(t *testing.T) {
	a, b := pair(t)
	here, there := a.open(a.config()), b.open(b.config())
	buffer := make([]byte, MaxPacket)
	for range 2 {
		a.set("a0", false)
		if !readable(t, here, patience) {
			t.Fatal("the descriptor does not report that the link went down")
		}
		if _, _, err := here.Receive(buffer); !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrLinkGone) {
			t.Errorf("receiving on a link that is down: %v, want %v", err, ErrLinkDown)
		}
		silent(t, here) // reported once
		if err := here.Advertise(a.message(150)); !errors.Is(err, ErrLinkDown) {
			t.Errorf("advertising through a link that is down: %v, want %v", err, ErrLinkDown)
		}
		a.set("a0", true)
		reaches(t, a, here, there)
		reaches(t, b, there, here)
	}
}

func TestVirtualLinkFlaps(t *testing.T) {
	a, b := pair(t)
	here, there := a.open(a.config()), b.open(b.config())
	a.set("vmac-a", false)
	if err := here.Advertise(a.message(150)); !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrLinkGone) {
		t.Errorf("advertising through a macvlan that is down: %v, want %v", err, ErrLinkDown)
	}
	if err := here.Announce(netip.MustParseAddr("192.0.2.1")); !errors.Is(err, ErrLinkDown) {
		t.Errorf("announcing through a macvlan that is down: %v, want %v", err, ErrLinkDown)
	}
	check(t, there.Advertise(b.message(150)))
	receive(t, here) // reception does not depend on the macvlan
	a.set("vmac-a", true)
	check(t, here.Advertise(a.message(150)))
	receive(t, there)
}

func TestDeletedLinkIsToldFromOneThatIsDown(t *testing.T) {
	a, _ := pair(t)
	port := a.open(a.config())
	link, err := netlink.LinkByName("vmac-a")
	check(t, err)
	check(t, netlink.LinkDel(link))
	err = port.Advertise(a.message(150))
	if !errors.Is(err, ErrLinkGone) || !errors.Is(err, ErrLinkDown) {
		t.Errorf("advertising through a deleted macvlan: %v, want %v", err, ErrLinkGone)
	}
}

func TestOpenWhileTheLinkIsDown(t *testing.T) {
	a, b := pair(t)
	a.set("a0", false)
	here, there := a.open(a.config()), b.open(b.config())
	a.set("a0", true)
	if _, _, err := here.Receive(make([]byte, MaxPacket)); err != nil && !errors.Is(err, ErrLinkDown) {
		t.Error(err) // that the link was down may be remembered
	}
	reaches(t, a, here, there)
	reaches(t, b, there, here)
}

func TestOpenRefuses(t *testing.T) {
	a, _ := pair(t)
	a.enter()
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"unknown interface", func(c *Config) { c.Interface = "eth9" }, `"eth9"`},
		{"unknown virtual link", func(c *Config) { c.VirtualLink = "vmac9" }, `"vmac9"`},
		{"not Ethernet", func(c *Config) { c.Interface = "lo" }, `"lo"`},
		{"another MAC address", func(c *Config) { c.VirtualMAC[5]++ }, "00:00:5e:00:01:0b"},
		{"IPv6 source", func(c *Config) { c.Source = netip.MustParseAddr("fe80::1") }, "fe80::1"},
		{"no source", func(c *Config) { c.Source = netip.Addr{} }, "source"},
	} {
		config := a.config()
		c.change(&config)
		p, err := Open(config) // not in a subtest, which would be on another thread
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "lan") {
			t.Errorf("%s: error %v, want one about the carrier and %s", c.name, err, c.want)
		}
		if p != nil {
			t.Errorf("%s: a port in spite of the error", c.name)
		}
	}
}

// A collector's pause is what a process with real-time duties cannot afford.
func TestHotPathDoesNotAllocate(t *testing.T) {
	a, _ := pair(t)
	port, buffer, message := a.open(a.config()), make([]byte, MaxPacket), a.message(150)
	if n := testing.AllocsPerRun(50, func() { _ = port.Advertise(message) }); n != 0 {
		t.Errorf("Advertise: %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(50, func() { _, _, _ = port.Receive(buffer) }); n != 0 {
		t.Errorf("Receive: %v allocations, want 0", n)
	}
}

func BenchmarkAdvertise(b *testing.B) {
	port, message := benchmarkPort(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := port.Advertise(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAnnounce(b *testing.B) {
	port, _ := benchmarkPort(b)
	address := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		if err := port.Announce(address); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkPort(b *testing.B) (*Port, []byte) {
	b.Helper()
	a, _ := pair(b)
	return a.open(a.config()), a.message(200)
}
