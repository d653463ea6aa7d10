package examine

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	// testTTL makes every VRRP router drop a test frame (RFC 9568 §5.1.1.3), and every
	// other router, too.
	testTTL = 1
	// notVRRP is the first octet of a test message: version 0 and type 15 are none of
	// VRRP's (RFC 9568 §5.2.1, §5.2.2).
	notVRRP = 0x0f
	magic   = "tandem-doctor"
	// testHeader is the length of what follows the IP header in a test frame.
	testHeader = 1 + len(magic) + 8 + 1 + 1 + 2
)

// Kind says what a test frame tests.
type Kind uint8

// The kinds of test frame.
const (
	// ToGroup4 and ToGroup6 go to VRRP's multicast groups.
	ToGroup4 Kind = iota + 1
	ToGroup6
	// ToPeer goes to the peer's own MAC address.
	ToPeer
	// OfSize goes there too and fills an IP packet of a certain length.
	OfSize
	// FromVirtual goes to the group from a virtual MAC address.
	FromVirtual
	// ToVirtual goes to a virtual MAC address.
	ToVirtual
)

// Test is the content of a test frame.
type Test struct {
	// Session is the number on which both doctors agreed.
	Session uint64
	Kind    Kind
	// Round counts turns with the virtual MAC address.
	Round uint8
	// Size is the length of the IP packet; 0 means as short as possible.
	Size int
}

// Envelope is how a test frame travels. The family is that of the addresses.
type Envelope struct {
	From, To            [6]byte
	Source, Destination netip.Addr
}

func (t Test) append(b []byte) []byte {
	b = append(b, notVRRP)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, t.Session)
	b = append(b, byte(t.Kind), t.Round)
	return binary.BigEndian.AppendUint16(b, uint16(t.Size))
}

func parseTest(b []byte) (Test, bool) {
	if len(b) < testHeader || b[0] != notVRRP || !bytes.HasPrefix(b[1:], []byte(magic)) {
		return Test{}, false
	}
	b = b[1+len(magic):]
	return Test{
		Session: binary.BigEndian.Uint64(b), Kind: Kind(b[8]), Round: b[9], Size: int(binary.BigEndian.Uint16(b[10:])),
	}, true
}

// Frame builds a test frame.
func (t Test) Frame(e Envelope) []byte {
	b := append(append([]byte{}, e.To[:]...), e.From[:]...)
	message := t.append(nil)
	header := ipv4Header
	if e.Source.Is6() {
		header = ipv6Header
	}
	if missing := t.Size - header - len(message); missing > 0 {
		message = append(message, make([]byte, missing)...)
	}
	if e.Source.Is6() {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
		return appendIPv6(b, e.Source, e.Destination, vrrp.Protocol, testTTL, message)
	}
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	return appendIPv4(b, e.Source, e.Destination, testTTL, message)
}

// appendIPv4 appends a packet of VRRP's protocol that nobody may fragment.
func appendIPv4(b []byte, source, destination netip.Addr, ttl uint8, message []byte) []byte {
	start := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+len(message)))
	b = append(b, 0, 0, 0x40, 0, ttl, vrrp.Protocol, 0, 0)
	from, to := source.As4(), destination.As4()
	b = append(append(b, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(b[start+10:], ^sum(b[start:]))
	return append(b, message...)
}

func appendIPv6(b []byte, source, destination netip.Addr, next, hops uint8, message []byte) []byte {
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, next, hops)
	from, to := source.As16(), destination.As16()
	b = append(append(b, from[:]...), to[:]...)
	return append(b, message...)
}

// sum is the one's complement sum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// GroupMAC is the Ethernet address of a multicast group (RFC 1112 §6.4, RFC 2464 §7).
func GroupMAC(group netip.Addr) [6]byte {
	if group.Is4() {
		a := group.As4()
		return [6]byte{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
	}
	a := group.As16()
	return [6]byte{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// request builds an ARP request. An unspecified sender makes it a probe, from which
// nobody learns anything (RFC 5227 §2.1.1).
func request(from [6]byte, sender, target netip.Addr) ([]byte, error) {
	var nobody [6]byte
	p, err := arp.NewPacket(arp.OperationRequest, from[:], sender, nobody[:], target)
	if err != nil {
		return nil, err
	}
	body, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	return append(b, body...), nil
}

// allNodes is the group that every IPv6 node is in (RFC 4291 §2.7.1).
func allNodes() netip.Addr { return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1}) }

// Neighbour discovery, RFC 4861 §4.3 and §4.4.
const (
	icmpv6             = 58
	solicit, advertise = 135, 136
	discoveryLength    = 24
	discoveryHops      = 255
)

// solicitation builds a neighbour solicitation. An unspecified sender makes it a probe
// (RFC 4862 §5.4.2), which may not carry a link-layer address.
func solicitation(from [6]byte, sender, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	message := append([]byte{solicit, 0, 0, 0, 0, 0, 0, 0}, t[:]...)
	if !sender.IsUnspecified() {
		message = append(append(message, 1, 1), from[:]...)
	}
	source, destination := sender.As16(), group.As16()
	pseudo := slices.Concat(source[:], destination[:], []byte{0, 0, 0, byte(len(message)), 0, 0, 0, icmpv6}, message)
	binary.BigEndian.PutUint16(message[2:], ^sum(pseudo))
	to := GroupMAC(group)
	b := append(append([]byte{}, to[:]...), from[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	return appendIPv6(b, sender, group, icmpv6, discoveryHops, message)
}

// plainFrame is one that a closed fence must hold back.
func plainFrame(s *Station) []byte {
	return Test{Kind: FromVirtual}.Frame(Envelope{
		From: s.MAC(), To: [6]byte{0x02, 0, 0, 0, 0, 1},
		Source: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Destination: netip.AddrFrom4([4]byte{192, 0, 2, 9}),
	})
}

// advertFrame is a real advertisement, for the scratch namespace only.
func advertFrame(s *Station) ([]byte, error) {
	source := netip.AddrFrom4([4]byte{192, 0, 2, 2})
	a := vrrp.Advertisement{
		VRID: scratchVRID, Priority: 100, Interval: time.Second, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})},
	}
	message, err := a.Append(nil, vrrp.Header{Source: source, Destination: vrrp.MulticastIPv4(), TTL: vrrp.TTL}, vrrp.ChecksumPlain)
	if err != nil {
		return nil, err
	}
	to, from := GroupMAC(vrrp.MulticastIPv4()), s.MAC()
	b := append(append([]byte{}, to[:]...), from[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	return appendIPv4(b, source, vrrp.MulticastIPv4(), vrrp.TTL, message), nil
}

// Heard is one frame that came in and was understood.
type Heard struct {
	From, To [6]byte
	// Test is set for test frames, Size then being the length of the IP packet.
	Test *Test
	Size int
	// Answer is set for ARP replies and neighbour advertisements: the address that From
	// has.
	Answer netip.Addr
	// Router is set for VRRP messages.
	Router *RouterHeard
}

// RouterHeard is one VRRP message.
type RouterHeard struct {
	VRID, Version, Priority uint8
	Source                  netip.Addr
}

// understand reads a frame; false if it is none of ours to look at.
func understand(b []byte) (Heard, bool) {
	if len(b) < ethernetHeader {
		return Heard{}, false
	}
	h := Heard{From: [6]byte(b[6:12]), To: [6]byte(b[:6])}
	body := b[ethernetHeader:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		var p arp.Packet
		if p.UnmarshalBinary(body) != nil || p.Operation != arp.OperationReply || len(p.SenderHardwareAddr) != len(h.From) {
			return h, false
		}
		h.Answer = p.SenderIP
		h.From = [6]byte(p.SenderHardwareAddr)
		return h, true
	case unix.ETH_P_IP:
		if len(body) < ipv4Header || body[9] != vrrp.Protocol {
			return h, false
		}
		header, total := int(body[0]&0x0f)*4, int(binary.BigEndian.Uint16(body[2:]))
		if header < ipv4Header || total < header || len(body) < total {
			return h, false
		}
		return h.message(body[header:total], netip.AddrFrom4([4]byte(body[12:])), total)
	case unix.ETH_P_IPV6:
		return h.ipv6(body)
	}
	return h, false
}

func (h Heard) ipv6(body []byte) (Heard, bool) {
	if len(body) < ipv6Header {
		return h, false
	}
	total := ipv6Header + int(binary.BigEndian.Uint16(body[4:]))
	if len(body) < total {
		return h, false
	}
	message := body[ipv6Header:total]
	switch {
	case body[6] == vrrp.Protocol:
		return h.message(message, netip.AddrFrom16([16]byte(body[8:])), total)
	case body[6] == icmpv6 && body[7] == discoveryHops && len(message) >= discoveryLength && message[0] == advertise:
		h.Answer = netip.AddrFrom16([16]byte(message[8:]))
		return h, true
	}
	return h, false
}

// message reads what is in a packet of VRRP's protocol. Foreign routers are heard
// whatever else is wrong with their adverts.
func (h Heard) message(b []byte, source netip.Addr, size int) (Heard, bool) {
	if t, ok := parseTest(b); ok {
		h.Test, h.Size = &t, size
		return h, true
	}
	if len(b) < 8 || b[0]&0x0f != 1 || b[0]>>4 < 2 || b[0]>>4 > 3 {
		return h, false
	}
	h.Router = &RouterHeard{VRID: b[1], Version: b[0] >> 4, Priority: b[2], Source: source}
	return h, true
}
