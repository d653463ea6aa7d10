package wire

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRFC9568_6_4_1_GratuitousARP(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(false)), b.sniff()
	check(t, port.Announce(netip.MustParseAddr("192.0.2.1")))
	got := next(t, sniffer, unix.ETH_P_ARP, 0)
	if want := gratuitousRequest(virtualMAC(false)); !bytes.Equal(got, want) {
		t.Errorf("frame:\n got %x\nwant %x", got, want)
	}
}

// gratuitousRequest is the frame for 192.0.2.1.
func gratuitousRequest(mac net.HardwareAddr) []byte {
	return bytes.Join([][]byte{
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		mac,
		{0x08, 0x06},
		{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, request
		mac,
		{192, 0, 2, 1},
		{0, 0, 0, 0, 0, 0},
		{192, 0, 2, 1}, // erratum 7947: target = sender
	}, nil)
}

func TestRFC9568_6_4_1_UnsolicitedNeighborAdvertisement(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(true)), b.sniff()
	for _, address := range []string{"2001:db8::1", "fe80::1"} {
		check(t, port.Announce(netip.MustParseAddr(address)))
		requireNA(t, next(t, sniffer, unix.ETH_P_IPV6, unix.IPPROTO_ICMPV6), virtualMAC(true), address)
	}
}

// requireNA compares octet by octet, except for the checksum, which it sums up.
func requireNA(t *testing.T, got []byte, mac net.HardwareAddr, address string) {
	t.Helper()
	target := netip.MustParseAddr(address).AsSlice()
	everybody := []byte{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01}
	checksumAt := ethernetHeader + ipv6Header + 2
	if len(got) < checksumAt+2 {
		t.Fatalf("frame %x is too short", got)
	}
	want := bytes.Join([][]byte{
		{0x33, 0x33, 0x00, 0x00, 0x00, 0x01},
		mac,
		{0x86, 0xdd},
		{0x6c, 0, 0, 0, 0, 32, 58, 255},
		target,
		everybody,
		{136, 0},
		got[checksumAt : checksumAt+2],
		{0xa0, 0, 0, 0}, // R=1, S=0, O=1
		target,
		{2, 1}, // target link-layer address
		mac,
	}, nil)
	if !bytes.Equal(got, want) {
		t.Errorf("frame:\n got %x\nwant %x", got, want)
	}
	covered := bytes.Join([][]byte{target, everybody, {0, 0, 0, 32, 0, 0, 0, 58}, got[ethernetHeader+ipv6Header:]}, nil)
	if sum := sum16(covered...); sum != 0xffff {
		t.Errorf("the ICMPv6 checksum is wrong: everything sums up to %04x", sum)
	}
}

// A switch that snoops on MLD must let solicitations through to the new MASTER.
func TestRFC9568_6_4_1_SolicitedNodeGroupIsReported(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(true)), b.sniff()
	for _, c := range []struct{ address, source, group string }{
		{"2001:db8::1:2345", "::", "ff02::1:ff01:2345"}, // no link-local address is known yet
		{"fe80::5e:a", "fe80::5e:a", "ff02::1:ff5e:a"},
		{"2001:db8::99", "fe80::5e:a", "ff02::1:ff00:99"},
	} {
		check(t, port.Announce(netip.MustParseAddr(c.address)))
		got := next(t, sniffer, unix.ETH_P_IPV6, unix.IPPROTO_HOPOPTS)
		for !bytes.Equal(got[6:12], virtualMAC(true)) { // the kernel reports for its own addresses
			got = next(t, sniffer, unix.ETH_P_IPV6, unix.IPPROTO_HOPOPTS)
		}
		source, group := netip.MustParseAddr(c.source).AsSlice(), netip.MustParseAddr(c.group).AsSlice()
		routers := netip.MustParseAddr("ff02::16").AsSlice()
		const report = ethernetHeader + ipv6Header + 8
		if len(got) < report+28 {
			t.Fatalf("frame %x is too short", got)
		}
		want := bytes.Join([][]byte{
			{0x33, 0x33, 0, 0, 0, 0x16},
			virtualMAC(true),
			{0x86, 0xdd},
			{0x60, 0, 0, 0, 0, 36, 0, 1},
			source,
			routers,
			{58, 0, 5, 2, 0, 0, 1, 0}, // router alert
			{143, 0},
			got[report+2 : report+4],
			{0, 0, 0, 1, 4, 0, 0, 0}, // one record: exclude nobody
			group,
		}, nil)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.address, got, want)
		}
		if sum := sum16(bytes.Join([][]byte{source, routers, {0, 0, 0, 28, 0, 0, 0, 58}, got[report:]}, nil)...); sum != 0xffff {
			t.Errorf("%s: everything sums up to %04x", c.address, sum)
		}
	}
}

func TestRFC9568_6_4_1_OtherAddressesAreNotAnnounced(t *testing.T) {
	a, b := pair(t)
	sniffer := b.sniff()
	for _, ipv6 := range families() {
		port := a.open(a.config(ipv6))
		for _, address := range []netip.Addr{
			virtualAddress(!ipv6),
			{},
			group(ipv6),
			netip.MustParseAddr("::ffff:192.0.2.1"),
			netip.MustParseAddr("fe80::1%a0"),
			netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.IPv6Loopback(),
		} {
			if err := port.Announce(address); err == nil {
				t.Errorf("announced %v by a port from %v", address, port.config.Source)
			}
		}
		// The first announcement on the wire is the one that follows.
		check(t, port.Announce(virtualAddress(ipv6)))
	}
	if got := next(t, sniffer, unix.ETH_P_ARP, 0); !bytes.Equal(got, gratuitousRequest(virtualMAC(false))) {
		t.Errorf("frame %x", got)
	}
	requireNA(t, next(t, sniffer, unix.ETH_P_IPV6, unix.IPPROTO_ICMPV6), virtualMAC(true), "2001:db8::1")
}

// Hosts that know the address from an earlier MASTER move over at once, and an
// IPv6 host that uses it as its router goes on doing so.
func TestRFC9568_8_1_2_AnnouncementMovesNeighbours(t *testing.T) { neighbourMoves(t, false) }
func TestRFC9568_8_2_2_AnnouncementMovesNeighbours(t *testing.T) { neighbourMoves(t, true) }

func neighbourMoves(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	port, address := a.open(a.config(ipv6)), virtualAddress(ipv6)
	b.enter()
	family := map[bool]int{false: netlink.FAMILY_V4, true: netlink.FAMILY_V6}[ipv6]
	check(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: b.physical.Index, Family: family, State: netlink.NUD_STALE,
		IP: address.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x99},
	}))
	check(t, port.Announce(address))
	for deadline := time.Now().Add(patience); ; {
		neighbours, err := netlink.NeighList(b.physical.Index, family)
		check(t, err)
		for _, n := range neighbours {
			if n.IP.Equal(address.AsSlice()) && bytes.Equal(n.HardwareAddr, virtualMAC(ipv6)) {
				if ipv6 && n.Flags&netlink.NTF_ROUTER == 0 {
					t.Error("the neighbour is not taken for a router")
				}
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the announcement did not move the neighbour: %v", neighbours)
		}
		unixPause(t)
	}
}

// unixPause lets the kernel work for a moment.
func unixPause(t *testing.T) {
	t.Helper()
	if _, err := unix.Poll(nil, 5); err != nil && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
}

// Where there is a virtual MAC address, the physical one never speaks for a
// virtual address: not as source of the frame, not in the message.
func TestRFC9568_8_1_2_PhysicalMACIsNotAnnounced(t *testing.T) { physicalIsNotAnnounced(t, false) }
func TestRFC9568_8_2_2_PhysicalMACIsNotAnnounced(t *testing.T) { physicalIsNotAnnounced(t, true) }

func physicalIsNotAnnounced(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(ipv6)), b.sniff()
	check(t, port.Announce(virtualAddress(ipv6)))
	got := next(t, sniffer, announcementType(ipv6), unix.IPPROTO_ICMPV6)
	if bytes.Contains(got, a.physical.HardwareAddr) {
		t.Errorf("frame %x has the physical address %v", got, a.physical.HardwareAddr)
	}
	if bytes.Count(got, virtualMAC(ipv6)) != 2 {
		t.Errorf("frame %x has not the virtual address as source and in the message", got)
	}
}

// Nothing is announced until the virtual MAC address is there and up.
func TestRFC9568_8_1_2_NothingIsAnnouncedWithoutTheVirtualMAC(t *testing.T) {
	announcedWithout(t, false)
}

func TestRFC9568_8_2_2_NothingIsAnnouncedWithoutTheVirtualMAC(t *testing.T) {
	announcedWithout(t, true)
}

func announcedWithout(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	config := a.config(ipv6)
	port, sniffer := a.open(config), b.sniff()
	a.set(a.virtual(ipv6), false)
	if err := port.Announce(virtualAddress(ipv6)); !errors.Is(err, ErrLinkDown) {
		t.Errorf("announcing without the virtual link: %v, want %v", err, ErrLinkDown)
	}
	check(t, port.Close())
	link, err := netlink.LinkByName(a.virtual(ipv6))
	check(t, err)
	check(t, netlink.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 0x77}))
	a.set(a.virtual(ipv6), true)
	if _, err := Open(a.sender, config); err == nil || !bytes.Contains([]byte(err.Error()), []byte("00:00:5e")) {
		t.Errorf("a port on a link with another address: %v", err)
	}
	check(t, netlink.LinkSetHardwareAddr(link, virtualMAC(ipv6)))
	check(t, a.open(config).Announce(virtualAddress(ipv6)))
	got := next(t, sniffer, announcementType(ipv6), unix.IPPROTO_ICMPV6)
	if !bytes.Equal(got[6:12], virtualMAC(ipv6)) {
		t.Errorf("the first announcement is %x, want it from the virtual address", got)
	}
}

// Clouds that refuse virtual MAC addresses get the node's own. It may change.
func TestOwnMACIsAnnounced(t *testing.T) {
	a, b := pair(t)
	ports := map[bool]*Port{false: a.open(a.ownMAC(false)), true: a.open(a.ownMAC(true))}
	mac := a.physical.HardwareAddr
	for range 2 {
		sniffer := b.sniff()
		check(t, ports[false].Announce(virtualAddress(false)))
		if got := next(t, sniffer, unix.ETH_P_ARP, 0); !bytes.Equal(got, gratuitousRequest(mac)) {
			t.Errorf("frame:\n got %x\nwant %x", got, gratuitousRequest(mac))
		}
		check(t, ports[true].Announce(virtualAddress(true)))
		requireNA(t, next(t, sniffer, unix.ETH_P_IPV6, unix.IPPROTO_ICMPV6), mac, "2001:db8::1")
		for _, ipv6 := range families() {
			for _, send := range []func([]byte) error{
				ports[ipv6].Advertise, ports[ipv6].Renew, ports[ipv6].Revoke, ports[ipv6].Ask,
			} {
				check(t, send(a.message(ports[ipv6], 150)))
				if got := next(t, sniffer, etherType(ipv6), 112); !bytes.Equal(got[6:12], mac) {
					t.Errorf("frame %x is not from %v", got, mac)
				}
			}
		}
		mac = net.HardwareAddr{2, 0, 0, 0, 0, 0x42}
		a.enter()
		link, err := netlink.LinkByName("a0")
		check(t, err)
		check(t, netlink.LinkSetHardwareAddr(link, mac))
	}
}
