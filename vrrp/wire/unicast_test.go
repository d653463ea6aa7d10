package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

func (h *host) unicast(peer *host, ipv6 bool) Config {
	c := h.config(ipv6)
	c.Unicast = peer.source(ipv6)
	return c
}

func TestUnicastAdvertOnTheWire(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, ear, sniffer := a.open(a.unicast(b, ipv6)), b.listen(ipv6), b.sniff()
		if port.Destination() != b.source(ipv6) {
			t.Errorf("destination %v, want %v", port.Destination(), b.source(ipv6))
		}
		for _, send := range []func([]byte) error{port.Advertise, port.Ask} {
			message := a.message(port, 150)
			check(t, send(message))
			got := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
			want := frame(b.physical.HardwareAddr, a.physical.HardwareAddr,
				a.source(ipv6), b.source(ipv6), vrrp.Protocol, message)
			header := want[ethernetHeader:]
			if ipv6 {
				header[0] = 0x6c
			} else {
				header[1] = networkControl
				binary.BigEndian.PutUint16(header[offsetFragment:], dontFragment)
				copy(header[4:6], got[ethernetHeader+4:]) // the kernel chose an identification
				resum(header)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("frame:\n got %x\nwant %x", got, want)
			}
			heard := receive(t, ear)
			if _, _, reason := vrrp.ParseAdvertisement(heard.Payload, heard.Header); reason != vrrp.DropNone {
				t.Errorf("the peer drops it as %v", reason)
			}
			silent(t, ear)
		}
	}
}

// The fence lives on the virtual link and knows the group only.
func TestUnicastPortDrivesTheFenceThroughTheVirtualLink(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, sniffer := a.open(a.unicast(b, ipv6)), b.sniff()
		for hops, send := range map[byte]func([]byte) error{1: port.Revoke, 2: port.Renew} {
			check(t, send(a.message(port, 150)))
			got := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
			mac := groupMAC(ipv6)
			if !bytes.Equal(got[:6], mac[:]) || !bytes.Equal(got[6:12], virtualMAC(ipv6)) {
				t.Errorf("frame %x does not go from the virtual link to the group", got)
			}
			if got[ethernetHeader+hopOffset(ipv6)] != hops {
				t.Errorf("frame %x has not TTL %d", got, hops)
			}
		}
	}
}

// Without a socket of protocol 112 the kernel tells the peer that nobody
// understands it.
func TestUnicastAdvertIsNotAnsweredByICMP(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		icmp := map[bool]byte{false: unix.IPPROTO_ICMP, true: unix.IPPROTO_ICMPV6}[ipv6]
		port, sniffer := a.open(a.unicast(b, ipv6)), a.sniff()
		ear := b.listen(ipv6)
		for range 3 {
			check(t, port.Advertise(a.message(port, 150)))
			receive(t, ear)
		}
		// The same without a receiver shows that the test could fail.
		check(t, ear.Close())
		check(t, port.Advertise(a.message(port, 151)))
		quote := a.message(port, 151)
		for {
			got := next(t, sniffer, etherType(ipv6), icmp)
			if bytes.Contains(got, a.message(port, 150)) {
				t.Errorf("the advert was answered by %x", got)
			}
			if bytes.Contains(got, quote) {
				break
			}
		}
	}
}

// Sockets that nobody reads must not fill up.
func TestRawSocketsReceiveNothing(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, back := a.open(a.unicast(b, ipv6)), b.open(b.unicast(a, ipv6))
		ear := a.listen(ipv6)
		b.inject(frame(a.physical.HardwareAddr, b.physical.HardwareAddr, b.source(ipv6), a.source(ipv6), 255, []byte("raw")))
		check(t, back.Advertise(b.message(back, 150)))
		b.inject(b.toGroup(ipv6, b.message(back, 150)))
		receive(t, ear)
		receive(t, ear)
		for name, fd := range map[string]int{"sending": port.packets.fd, "member": ear.member, "frames": port.frames.fd} {
			if n, _, err := unix.Recvfrom(fd, make([]byte, 100), unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("the %s socket received %d octets, %v", name, n, err)
			}
		}
	}
}

func TestPeerThatCannotBeReached(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port := a.open(a.unicast(b, ipv6))
		a.enter()
		link, err := netlink.LinkByName("a0")
		check(t, err)
		addresses, err := netlink.AddrList(link, map[bool]int{false: netlink.FAMILY_V4, true: netlink.FAMILY_V6}[ipv6])
		check(t, err)
		for _, address := range addresses {
			check(t, netlink.AddrDel(link, &address))
		}
		// Over IPv4 the kernel takes a peer for a neighbour if it knows no better.
		err = port.Advertise(a.message(port, 150))
		if ipv6 && !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrLinkDown) || !ipv6 && err != nil {
			t.Errorf("advertising without a route: %v", err)
		}
		check(t, port.Up())
		a.addAddress(a.source(ipv6), map[bool]int{false: 24, true: 64}[ipv6])
		check(t, port.Advertise(a.message(port, 150))) // by the same port
		receiver := b.listen(ipv6)
		check(t, port.Advertise(a.message(port, 150)))
		receive(t, receiver)
		a.set("a0", false)
		if err := port.Advertise(a.message(port, 150)); !errors.Is(err, ErrLinkDown) {
			t.Errorf("advertising through a link that is down: %v, want %v", err, ErrLinkDown)
		}
		a.set("a0", true)
	}
}

// Adverts of the group do not come from elsewhere: neither group is forwarded,
// whatever the TTL.
func TestRFC9568_5_1_1_2_GroupIsNotForwarded(t *testing.T) { groupIsNotForwarded(t, false) }
func TestRFC9568_5_1_2_2_GroupIsNotForwarded(t *testing.T) { groupIsNotForwarded(t, true) }

func groupIsNotForwarded(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	a.enter()
	sysctl(t, "net/ipv4/ip_forward", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other0"}, PeerName: "other1"}))
	sysctl(t, "net/ipv6/conf/other0/disable_ipv6", "0")
	a.set("other0", true)
	a.set("other1", true)
	beyond := netip.MustParseAddr(map[bool]string{false: "198.51.100.7", true: "2001:db8:7::7"}[ipv6])
	other, err := netlink.LinkByName("other0")
	check(t, err)
	check(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: other.Attrs().Index, Dst: netlink.NewIPNet(beyond.AsSlice()), Scope: netlink.SCOPE_LINK,
	}))
	check(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: other.Attrs().Index, State: netlink.NUD_PERMANENT, IP: beyond.AsSlice(),
		Family:       map[bool]int{false: netlink.FAMILY_V4, true: netlink.FAMILY_V6}[ipv6],
		HardwareAddr: []byte{2, 0, 0, 0, 0, 0x77},
	}))
	a.listen(ipv6)
	sniffer := a.sniffOn("other1")
	b.inject(b.toGroup(ipv6, []byte("to the group")))
	// What follows shows that the router does forward.
	source := netip.MustParseAddr(map[bool]string{false: "192.0.2.252", true: "2001:db8::252"}[ipv6])
	b.inject(frame(a.physical.HardwareAddr, b.physical.HardwareAddr, source, beyond, vrrp.Protocol, []byte("through the router")))
	if got := next(t, sniffer, etherType(ipv6), vrrp.Protocol); !bytes.HasSuffix(got, []byte("through the router")) {
		t.Errorf("forwarded %x", got)
	}
}
