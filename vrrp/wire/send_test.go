package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

func TestRFC9568_7_2_AdvertOnTheWire(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(false)), b.sniff()
	message := a.message(port, 200)
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

func TestRFC9568_7_2_IPv6AdvertOnTheWire(t *testing.T) {
	a, b := pair(t)
	port, sniffer := a.open(a.config(true)), b.sniff()
	message := a.message(port, 200)
	check(t, port.Advertise(message))
	frame := next(t, sniffer, unix.ETH_P_IPV6, vrrp.Protocol)
	want := append([]byte{
		0x33, 0x33, 0x00, 0x00, 0x00, 0x12, // ff02::12
		0x00, 0x00, 0x5e, 0x00, 0x02, testVRID, // §7.3
		0x86, 0xdd,
		0x6c, 0, 0, 0, 0, 40, 112, 255, // traffic class CS6, no flow label
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x51, // §5.1.2.1
		0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, // §5.1.2.2
	}, message...)
	if !bytes.Equal(frame, want) {
		t.Errorf("frame:\n got %x\nwant %x", frame, want)
	}
}

// An advert from the physical MAC address would move the virtual one in no switch: it
// is better not sent.
func TestRFC9568_7_2_NoAdvertWithoutTheVirtualMAC(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, peer, sniffer := a.open(a.config(ipv6)), b.listen(ipv6), b.sniff()
		a.set(a.virtual(ipv6), false)
		if err := port.Advertise(a.message(port, 200)); !errors.Is(err, ErrLinkDown) {
			t.Errorf("an advert without the virtual link: %v, want %v", err, ErrLinkDown)
		}
		a.set(a.virtual(ipv6), true)
		reaches(t, a, port, peer) // what it sends is the first that is heard
		frame := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
		if !bytes.Equal(frame[6:12], virtualMAC(ipv6)) {
			t.Errorf("an advert from %v", net.HardwareAddr(frame[6:12]))
		}
	}
}

// The HA link has no virtual MAC address.
func TestAdvertOnTheHALinkHasTheInterfacesOwnMAC(t *testing.T) {
	a, b := pair(t)
	c := a.config(false)
	c.VirtualLink, c.VirtualMAC = "", [6]byte{}
	port, sniffer := a.open(c), b.sniff()
	message := a.message(port, 200)
	check(t, port.Advertise(message))
	frame := next(t, sniffer, unix.ETH_P_IP, vrrp.Protocol)
	if source := net.HardwareAddr(frame[6:12]); !bytes.Equal(source, a.physical.HardwareAddr) {
		t.Errorf("source %v, want %v", source, a.physical.HardwareAddr)
	}
	for name, err := range map[string]error{
		"announced": port.Announce(virtualAddress(false)),
		"renewed":   port.Renew(message),
		"revoked":   port.Revoke(message),
	} {
		if !errors.Is(err, errNoFence) {
			t.Errorf("%s without a virtual address: %v", name, err)
		}
	}
}

// A question must not move the virtual MAC address in any switch.
func TestRFC9568_6_4_3_QuestionComesFromThePhysicalMAC(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, sniffer := a.open(a.config(ipv6)), b.sniff()
		check(t, port.Ask(a.message(port, 1)))
		frame := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
		destination := groupMAC(ipv6)
		if !bytes.Equal(frame[:6], destination[:]) || !bytes.Equal(frame[6:12], a.physical.HardwareAddr) {
			t.Errorf("frame %x: want it from %v to the group", frame, a.physical.HardwareAddr)
		}
		if hops := frame[ethernetHeader+hopOffset(ipv6)]; hops != 255 {
			t.Errorf("TTL or hop limit %d, want 255", hops)
		}
	}
}

// What only the fence should see carries a TTL that no VRRP router takes for an
// advert's.
func TestRFC9568_5_1_1_3_FramesForTheFenceHaveOtherTTLs(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, peer := a.open(a.config(ipv6)), b.listen(ipv6)
		sniffer := b.sniff()
		for _, c := range []struct {
			send func([]byte) error
			want byte
		}{{port.Renew, 2}, {port.Revoke, 1}} {
			check(t, c.send(a.message(port, 100)))
			frame := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
			if hops := frame[ethernetHeader+hopOffset(ipv6)]; hops != c.want {
				t.Errorf("TTL or hop limit %d, want %d", hops, c.want)
			}
			if !bytes.Equal(frame[6:12], virtualMAC(ipv6)) {
				t.Errorf("source %v: it did not go through the macvlan", net.HardwareAddr(frame[6:12]))
			}
			got := receive(t, peer)
			if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropTTL {
				t.Errorf("a peer that hears it drops it as %v, want %v", reason, vrrp.DropTTL)
			}
		}
	}
}

func TestLongestAdverts(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, peer := a.open(a.config(ipv6)), b.listen(ipv6)
		longest := make([]byte, map[bool]int{false: 8 + 4*255, true: 8 + 16*90}[ipv6])
		check(t, port.Advertise(longest))
		if got := receive(t, peer); !bytes.Equal(got.Payload, longest) {
			t.Errorf("received %d octets, %v; want %d", len(got.Payload), got.Dropped, len(longest))
		}
		// The interface's MTU is 1500.
		for _, length := range []int{1501 - len(port.header), maxMessage, maxMessage + 100} {
			if err := port.Advertise(make([]byte, length)); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("sending %d octets: %v, want EMSGSIZE", length, err)
			}
		}
		check(t, port.Advertise(a.message(port, 1)))
		if got := receive(t, peer); !bytes.Equal(got.Payload, a.message(port, 1)) {
			t.Errorf("after the longest message a short one arrives as %+v", got)
		}
	}
}

// A shaper that lets nearly nothing through fills the sender's queue. Sending
// must fail then and not wait, and only on that interface.
func TestSendingDoesNotBlock(t *testing.T) {
	a, _ := pair(t)
	a.enter()
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other0"}, PeerName: "other1"}))
	a.set("other0", true)
	config := a.config(false)
	config.Interface, config.VirtualLink = "other0", ""
	port, other := a.open(a.config(false)), a.open(config)
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
	message, address := a.message(port, 200), virtualAddress(false)
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
	for range 100 {
		check(t, other.Advertise(message))
	}
}

func hopOffset(ipv6 bool) int {
	if ipv6 {
		return offsetHopLimit
	}
	return offsetTTL
}

func virtualAddress(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("192.0.2.1")
}

// sum16 is the one's complement sum of RFC 1071 over octets of an even number.
func sum16(b ...byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
