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

// The peer's adverts carry the virtual MAC address, which is also the address of
// the macvlan here. They must still come in by the physical interface.
func TestReceiveFromOwnVirtualMAC(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		here, there := a.open(a.config(ipv6)), b.open(b.config(ipv6))
		ear, peer := a.listen(ipv6), b.listen(ipv6)
		for _, way := range []struct {
			sender   *host
			from     *Port
			self, to *Receiver
		}{{a, here, ear, peer}, {b, there, peer, ear}} {
			message := way.sender.message(way.from, 150)
			check(t, way.from.Advertise(message))
			got := receive(t, way.to)
			want := vrrp.Header{Source: way.sender.source(ipv6), Destination: group(ipv6), TTL: 255}
			if got.Dropped != vrrp.DropNone || got.Header != want || !bytes.Equal(got.Payload, message) {
				t.Errorf("received %+v, want header %+v, payload %x", got, want, message)
			}
			if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropNone {
				t.Errorf("the advertisement is dropped: %v", reason)
			}
			silent(t, way.to)   // once, not once for each socket or link
			silent(t, way.self) // nobody hears himself
		}
	}
}

func TestReceiveWithoutMacvlans(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		for _, h := range []*host{a, b} {
			h.enter()
			link, err := netlink.LinkByName(h.virtual(ipv6))
			check(t, err)
			check(t, netlink.LinkDel(link))
		}
		from, to := a.open(a.ownMAC(ipv6)), b.listen(ipv6)
		check(t, from.Advertise(a.message(from, 150)))
		if got := receive(t, to); got.Header.Source != a.source(ipv6) {
			t.Errorf("received %+v", got)
		}
	}
}

func TestRFC9568_5_2_3_OneReceiverHearsEveryVRID(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, ear := a.open(a.config(ipv6)), b.listen(ipv6)
		for _, vrid := range []byte{1, testVRID, 255} {
			message := a.message(port, 150)
			message[1] = vrid
			check(t, port.Advertise(message))
			if got := receive(t, ear); !bytes.Equal(got.Payload, message) {
				t.Errorf("received %+v, want VRID %d", got, vrid)
			}
		}
	}
}

// onlyTheLast injects frames, of which the receiver must hear the last one only.
// Frames travel in order: when it is the first thing received, those before it did
// not pass the filter.
func onlyTheLast(t *testing.T, from *host, ear *Receiver, ipv6 bool, frames ...[]byte) {
	t.Helper()
	last := []byte("the last one")
	for _, f := range append(frames, from.toGroup(ipv6, last)) {
		from.inject(f)
	}
	if got := receive(t, ear); !bytes.Equal(got.Payload, last) {
		t.Errorf("received %+v first", got)
	}
	silent(t, ear)
}

func TestRFC9568_5_1_1_4_Protocol112(t *testing.T)   { protocol112(t, false) }
func TestRFC9568_5_1_2_4_NextHeader112(t *testing.T) { protocol112(t, true) }

func protocol112(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	port, sniffer, ear := a.open(a.config(ipv6)), b.sniff(), b.listen(ipv6)
	check(t, port.Advertise(a.message(port, 150)))
	got := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
	if want := []byte{0x45, 0x6c}; got[ethernetHeader] != want[0] && got[ethernetHeader] != want[1] {
		t.Errorf("the IP header begins with %02x: options?", got[ethernetHeader])
	}
	receive(t, ear)
}

func TestRFC9568_5_1_1_4_OtherProtocolsAreNotHeard(t *testing.T)   { otherProtocols(t, false) }
func TestRFC9568_5_1_2_4_OtherNextHeadersAreNotHeard(t *testing.T) { otherProtocols(t, true) }

func otherProtocols(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	ear, mac := a.listen(ipv6), groupMAC(ipv6)
	var frames [][]byte
	for _, protocol := range []byte{0, 1, 2, 6, 17, 50, 58, 111, 113, 255} {
		frames = append(frames,
			frame(mac[:], b.physical.HardwareAddr, b.source(ipv6), group(ipv6), protocol, []byte("not for the election")),
			frame(a.physical.HardwareAddr, b.physical.HardwareAddr, b.source(ipv6), a.source(ipv6), protocol, []byte("not for the election")))
	}
	if ipv6 {
		// Hop-by-hop options, destination options, a first fragment: VRRP behind an
		// extension header is not understood.
		for _, extension := range []byte{0, 60, 44, 43} {
			payload := append([]byte{vrrp.Protocol, 0, 1, 4, 0, 0, 0, 0}, "VRRP message"...)
			frames = append(frames, frame(mac[:], virtualMAC(true), b.source6, group(true), extension, payload))
		}
	}
	onlyTheLast(t, b, ear, ipv6, frames...)
}

func TestRFC9568_5_1_1_2_AdvertsGoToTheGroup(t *testing.T) { groupIsHeard(t, false) }
func TestRFC9568_5_1_2_2_AdvertsGoToTheGroup(t *testing.T) { groupIsHeard(t, true) }

func groupIsHeard(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	port, ear := a.open(a.config(ipv6)), b.listen(ipv6)
	want := netip.MustParseAddr(map[bool]string{false: "224.0.0.18", true: "ff02::12"}[ipv6])
	if port.Destination() != want {
		t.Errorf("the port's destination is %v, want %v", port.Destination(), want)
	}
	check(t, port.Advertise(a.message(port, 150)))
	if got := receive(t, ear); got.Header.Destination != want {
		t.Errorf("sent to %v, want %v", got.Header.Destination, want)
	}
}

func TestRFC9568_5_1_1_2_OtherDestinationsAreNotHeard(t *testing.T) {
	a, b := pair(t)
	ear, mac, all := a.listen(false), groupMAC(false), everybodyMAC(false)
	payload := []byte("VRRP message")
	to := func(mac net.HardwareAddr, address string) []byte {
		return frame(mac, b.physical.HardwareAddr, b.source4, netip.MustParseAddr(address), vrrp.Protocol, payload)
	}
	elsewhere := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	onlyTheLast(t, b, ear, false,
		to(mac[:], "224.0.0.17"),
		to(mac[:], "225.0.0.18"), // the same MAC address
		to(all[:], "255.255.255.255"),
		to(all[:], "192.0.2.255"),
		to(a.physical.HardwareAddr, "198.51.100.7"), // to be forwarded
		to(virtualMAC(false), "192.0.2.251"),        // for the macvlan
		to(elsewhere, "192.0.2.251"),                // flooded
		tagged(b.toGroup(false, payload), 5),        // of a VLAN
	)
}

func TestRFC9568_5_1_2_2_OtherDestinationsAreNotHeard(t *testing.T) {
	a, b := pair(t)
	ear, mac := a.listen(true), groupMAC(true)
	payload := []byte("VRRP message")
	to := func(mac net.HardwareAddr, address string) []byte {
		return frame(mac, b.physical.HardwareAddr, b.source6, netip.MustParseAddr(address), vrrp.Protocol, payload)
	}
	elsewhere := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	onlyTheLast(t, b, ear, true,
		to(mac[:], "ff02::1"),
		to(mac[:], "ff02::13"),
		to(mac[:], "ff05::12"),
		to(mac[:], "ff02::1:0:0:12"), // the same MAC address
		to(a.physical.HardwareAddr, "2001:db8::7"),
		to(a.physical.HardwareAddr, "fe80::1:0:0:251"),
		to(virtualMAC(true), "fe80::251"),
		to(elsewhere, "fe80::251"),
		tagged(b.toGroup(true, payload), 5),
	)
}

// tagged is the frame with an IEEE 802.1Q tag.
func tagged(f []byte, vlan byte) []byte {
	return bytes.Join([][]byte{f[:12], {0x81, 0x00, 0xe0, vlan}, f[12:]}, nil)
}

// An interface of that VLAN takes such frames. The one below does not hear them.
func TestAdvertOfAVLANIsNotHeardBelow(t *testing.T) {
	a, b := pair(t)
	a.enter()
	err := netlink.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: "a0.5", ParentIndex: a.physical.Index}, VlanId: 5,
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the kernel has no VLAN interfaces")
	}
	check(t, err)
	a.set("a0.5", true)
	for _, ipv6 := range families() {
		ear := a.listen(ipv6)
		vlan, err := OpenReceiver(ReceiverConfig{Interface: "a0.5", IPv6: ipv6})
		check(t, err)
		tagged := tagged(b.toGroup(ipv6, []byte("VRRP message")), 5)
		onlyTheLast(t, b, ear, ipv6, tagged)
		if got := receive(t, vlan); string(got.Payload) != "VRRP message" {
			t.Errorf("received %+v", got)
		}
		check(t, vlan.Close())
	}
}

// VLAN 0 is none, the tag only carries a priority (IEEE 802.1Q §6.9).
func TestPriorityTaggedAdvertIsHeard(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		ear := a.listen(ipv6)
		b.inject(tagged(b.toGroup(ipv6, []byte("VRRP message")), 0))
		if got := receive(t, ear); string(got.Payload) != "VRRP message" {
			t.Errorf("received %+v", got)
		}
	}
}

func TestRFC9568_5_1_1_3_TTL255(t *testing.T)      { hops255(t, false) }
func TestRFC9568_5_1_2_3_HopLimit255(t *testing.T) { hops255(t, true) }

func hops255(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	unicast := a.config(ipv6)
	unicast.Unicast = b.source(ipv6)
	for _, config := range []Config{a.config(ipv6), a.ownMAC(ipv6), unicast} {
		port, ear := a.open(config), b.listen(ipv6)
		for _, send := range []func([]byte) error{port.Advertise, port.Ask} {
			check(t, send(a.message(port, 150)))
			got := receive(t, ear)
			_, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header)
			if got.Header.TTL != 255 || reason != vrrp.DropNone {
				t.Errorf("TTL or hop limit %d, dropped as %v", got.Header.TTL, reason)
			}
		}
	}
}

func TestRFC9568_5_1_1_3_OtherTTLIsDropped(t *testing.T)      { otherHops(t, false) }
func TestRFC9568_5_1_2_3_OtherHopLimitIsDropped(t *testing.T) { otherHops(t, true) }

// otherHops sends adverts that differ from good ones in the TTL only.
func otherHops(t *testing.T, ipv6 bool) {
	a, b := pair(t)
	ear, message := a.listen(ipv6), b.message(b.open(b.config(ipv6)), 150)
	for _, hops := range []byte{0, 1, 2, 64, 254} {
		f := b.toGroup(ipv6, message)
		f[ethernetHeader+hopOffset(ipv6)] = hops
		if !ipv6 {
			resum(f[ethernetHeader:])
		}
		b.inject(f)
		got := receive(t, ear)
		if got.Dropped != vrrp.DropNone || got.Header.TTL != hops {
			t.Errorf("received %+v, want TTL %d", got, hops)
		}
		if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropTTL {
			t.Errorf("with TTL %d dropped as %v, want %v", hops, reason, vrrp.DropTTL)
		}
	}
}

// The vectors are for an interval of 1s.
func TestRFC9568_5_2_8_ChecksumOnTheWire(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		port, sniffer := a.open(a.config(ipv6)), b.sniff()
		addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		want := uint16(0x448e) // over the message alone
		if ipv6 {
			addresses = []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")}
			want = 0xd9d3 // over the pseudo-header, too
		}
		message, err := vrrp.Advertisement{
			VRID: testVRID, Priority: 200, Interval: time.Second, Addresses: addresses,
		}.Append(nil, vrrp.Header{Source: port.config.Source, Destination: port.Destination()}, vrrp.ChecksumPlain)
		check(t, err)
		check(t, port.Advertise(message))
		f := next(t, sniffer, etherType(ipv6), vrrp.Protocol)
		start := ethernetHeader + len(port.header)
		if got := binary.BigEndian.Uint16(f[start+6:]); got != want {
			t.Errorf("checksum %04x, want %04x", got, want)
		}
		// Once more without the code under test.
		covered := f[start:]
		if ipv6 {
			pseudo := append(bytes.Clone(f[ethernetHeader+8:start]), 0, 0, 0, byte(len(f)-start), 0, 0, 0, 112)
			covered = append(pseudo, covered...)
		}
		if sum := sum16(covered...); sum != 0xffff {
			t.Errorf("the checksum is wrong: everything sums up to %04x", sum)
		}
	}
}

func TestRFC9568_5_2_8_DamagedMessageIsDropped(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		ear, message := a.listen(ipv6), b.message(b.open(b.config(ipv6)), 150)
		message[2]++ // the priority
		b.inject(b.toGroup(ipv6, message))
		got := receive(t, ear)
		if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropChecksum {
			t.Errorf("dropped as %v, want %v", reason, vrrp.DropChecksum)
		}
	}
}

// Ethernet pads short frames, and some switches and cards leave more behind.
func TestRFC9568_7_1_PaddingIsTolerated(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		ear, message := a.listen(ipv6), b.message(b.open(b.config(ipv6)), 150)
		b.inject(append(b.toGroup(ipv6, message), bytes.Repeat([]byte{0xaa}, 30)...))
		got := receive(t, ear)
		if !bytes.Equal(got.Payload, message) {
			t.Errorf("received %x, want %x", got.Payload, message)
		}
	}
}

func TestRFC9568_7_1_IncompletePacketIsDropped(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		ear, message := a.listen(ipv6), b.message(b.open(b.config(ipv6)), 150)
		f := b.toGroup(ipv6, message)
		b.inject(f[:len(f)-1])
		if got := receive(t, ear); got.Dropped != vrrp.DropTruncated || got.Payload != nil {
			t.Errorf("a frame that was cut: %+v, want it truncated", got)
		}
		b.inject(f)
		readable(t, ear, patience)
		got, ok, err := ear.Receive(make([]byte, len(f)-ethernetHeader-1))
		if err != nil || !ok || got.Dropped != vrrp.DropTruncated {
			t.Errorf("into a short buffer: %+v, %v, %v; want truncated", got, ok, err)
		}
		b.inject(b.toGroup(ipv6, message[:len(message)-4])) // less than its count says
		got = receive(t, ear)
		if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropTruncated {
			t.Errorf("an incomplete message is dropped as %v", reason)
		}
	}
}

func TestReceiveDropsAreNamed(t *testing.T) {
	a, b := pair(t)
	ear := a.listen(false)
	f := b.toGroup(false, []byte("VRRP message"))
	f[ethernetHeader+offsetHeaderSum] ^= 1
	b.inject(f)
	if got := receive(t, ear); got.Dropped != vrrp.DropHeader {
		t.Errorf("dropped as %v, want %v", got.Dropped, vrrp.DropHeader)
	}
}

// A network with a loop gives back what the node has sent. The caller sees by
// the source that it is his own.
func TestReflectedAdvertIsHeardWithItsSource(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		ear, port := a.listen(ipv6), a.open(a.config(ipv6))
		b.inject(a.toGroup(ipv6, a.message(port, 150)))
		if got := receive(t, ear); got.Header.Source != a.source(ipv6) {
			t.Errorf("received %+v", got)
		}
	}
}

func TestReceiveDoesNotBlock(t *testing.T) {
	a, _ := pair(t)
	for _, ipv6 := range families() {
		ear := a.listen(ipv6)
		hang := time.AfterFunc(patience, func() { panic("Receive blocks") })
		for range 100 {
			silent(t, ear)
		}
		if readable(t, ear, 0) {
			t.Error("the descriptor is readable, but nothing is there")
		}
		hang.Stop()
	}
}

// A stall of the process must not cost adverts, also where it may not go beyond
// the system's limit for buffers.
func TestBurstIsKept(t *testing.T) {
	a, b := pair(t)
	ear, port := a.listen(false), b.open(b.config(false))
	for priority := range 255 {
		check(t, port.Advertise(b.message(port, byte(priority))))
	}
	buffer := make([]byte, MaxPacket)
	for priority := range 255 {
		if !readable(t, ear, patience) {
			t.Fatalf("%d of 255 adverts were kept", priority)
		}
		got, _, err := ear.Receive(buffer)
		check(t, err)
		if got.Payload[2] != byte(priority) {
			t.Fatalf("priority %d after %d adverts", got.Payload[2], priority)
		}
	}
	if size, err := unix.GetsockoptInt(ear.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || size < 255*768 {
		t.Errorf("the receive buffer has %d octets, %v", size, err)
	}
}
