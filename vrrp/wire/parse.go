package wire

import (
	"encoding/binary"
	"net/netip"

	"tandem/vrrp"
)

// Offsets and lengths of the IPv4 header, RFC 791 §3.1.
const (
	ipv4Header        = 20 // without options
	offsetLength      = 2
	offsetFragment    = 6
	offsetTTL         = 8
	offsetProtocol    = 9
	offsetHeaderSum   = 10
	offsetSource      = 12
	offsetDestination = 16

	dontFragment = 0x4000
	// fragmented are the bits that are set in any fragment: more fragments, and the
	// offset.
	fragmented = 0x3fff
)

// Offsets and lengths of the IPv6 header, RFC 8200 §3.
const (
	ipv6Header         = 40
	offsetLength6      = 4
	offsetNextHeader   = 6
	offsetHopLimit     = 7
	offsetSource6      = 8
	offsetDestination6 = 24
)

const (
	// maxMessage is as long as 255 IPv6 addresses, with room for an authenticator.
	maxMessage = 8 + 16*vrrp.MaxAddresses + 256
	// MaxPacket is the size of a buffer for [Receiver.Receive] that holds the longest
	// message with the longest IP header and some padding.
	MaxPacket = maxMessage + 128
)

// Packet is one received IP packet of protocol 112.
type Packet struct {
	// Header is valid unless Dropped says DropHeader or DropTruncated.
	Header vrrp.Header
	// Payload is the VRRP message, without what pads the frame. It aliases the
	// buffer and is nil when the packet is to be dropped.
	Payload []byte
	// Dropped is a fault of the IP packet itself, DropNone if it has none. TTL and
	// payload are left to [vrrp.ParseAdvertisement].
	Dropped vrrp.DropReason
}

// parseIPv4 looks at the packet as the network card delivered it: the kernel's own
// checks come after packet sockets. The header's checksum matters, since VRRP's
// does not cover the source address that breaks ties.
func parseIPv4(b []byte) Packet {
	if len(b) < ipv4Header {
		return Packet{Dropped: vrrp.DropTruncated}
	}
	headerLength := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[offsetLength:]))
	switch {
	case b[0]>>4 != 4 || headerLength < ipv4Header || total < headerLength:
		return Packet{Dropped: vrrp.DropHeader}
	case len(b) < total:
		return Packet{Dropped: vrrp.DropTruncated}
	case headerSum(b[:headerLength]) != 0xffff || b[offsetProtocol] != vrrp.Protocol:
		return Packet{Dropped: vrrp.DropHeader}
	}
	packet := Packet{Header: vrrp.Header{
		Source:      netip.AddrFrom4([4]byte(b[offsetSource:])),
		Destination: netip.AddrFrom4([4]byte(b[offsetDestination:])),
		TTL:         b[offsetTTL],
	}}
	if !isSource(packet.Header.Source) {
		return Packet{Dropped: vrrp.DropHeader}
	}
	if binary.BigEndian.Uint16(b[offsetFragment:])&fragmented != 0 {
		packet.Dropped = vrrp.DropFragment
		return packet
	}
	packet.Payload = b[headerLength:total:total]
	return packet
}

// parseIPv6 does the same for IPv6, whose header has no checksum: there VRRP's
// covers the addresses (RFC 9568 §5.2.8). An extension header in front of the
// message, a fragment's among them, is a next header other than 112.
func parseIPv6(b []byte) Packet {
	if len(b) < ipv6Header {
		return Packet{Dropped: vrrp.DropTruncated}
	}
	end := ipv6Header + int(binary.BigEndian.Uint16(b[offsetLength6:]))
	switch {
	case b[0]>>4 != 6 || b[offsetNextHeader] != vrrp.Protocol:
		return Packet{Dropped: vrrp.DropHeader}
	case len(b) < end:
		return Packet{Dropped: vrrp.DropTruncated}
	}
	header := vrrp.Header{
		Source:      netip.AddrFrom16([16]byte(b[offsetSource6:])),
		Destination: netip.AddrFrom16([16]byte(b[offsetDestination6:])),
		TTL:         b[offsetHopLimit],
	}
	if !isSource(header.Source) {
		return Packet{Dropped: vrrp.DropHeader}
	}
	return Packet{Header: header, Payload: b[ipv6Header:end:end]}
}

// isSource says whether one node can have sent from the address. Ties are broken
// by it.
func isSource(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// headerSum is the one's complement sum (RFC 1071) over an IPv4 header: 0xffff if
// its checksum is right.
func headerSum(header []byte) uint16 {
	var sum uint32
	for ; len(header) >= 2; header = header[2:] {
		sum += uint32(binary.BigEndian.Uint16(header))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
