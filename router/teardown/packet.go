package teardown

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	header4Length = 20
	header6Length = 40
	tcpLength     = 20
	udpLength     = 8
	icmpLength    = 8
	hopLimit      = 64

	tcpACK = 0x10
	// timestampLength is that of the option with its padding: RFC 7323 §3.2 lets a host drop
	// segments without it in silence if the connection has it. A timestamp that is too old is
	// answered as well (§5.3, R1), and one that is too new is ignored by what comes after.
	timestampLength = 12

	// Unreachable ports (RFC 792; RFC 4443 §3.1).
	icmp4Unreachable, icmp4Port = 3, 3
	icmp6Unreachable, icmp6Port = 1, 4

	dontFragment = 0x4000
)

// appendSegment appends an empty acknowledgement from f's peer to the host inside.
func appendSegment(b []byte, f *flow, sequence, acknowledgement uint32) []byte {
	start := len(b)
	b = appendHeader(b, f.outer.Addr(), f.inner.Addr(), unix.IPPROTO_TCP, tcpLength+timestampLength)
	segment := len(b)
	b = binary.BigEndian.AppendUint16(b, f.outer.Port())
	b = binary.BigEndian.AppendUint16(b, f.inner.Port())
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = binary.BigEndian.AppendUint32(b, acknowledgement)
	b = append(b, (tcpLength+timestampLength)/4<<4, tcpACK, 0, 0, 0, 0, 0, 0)
	b = append(b, 1, 1, 8, 10) // two paddings, timestamps
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = binary.BigEndian.AppendUint32(b, acknowledgement)
	sum := checksum(pseudo(f.outer.Addr(), f.inner.Addr(), unix.IPPROTO_TCP, len(b)-segment), b[segment:])
	binary.BigEndian.PutUint16(b[segment+16:], sum)
	return seal(b, start)
}

// appendUnreachable appends the message to the host inside that f's port outside is
// unreachable, in the name of the host outside and with the beginning of a packet of f.
func appendUnreachable(b []byte, f *flow) []byte {
	start := len(b)
	outer, inner := f.outer.Addr(), f.inner.Addr()
	protocol, kind, code, embedded := unix.IPPROTO_ICMP, byte(icmp4Unreachable), byte(icmp4Port), header4Length
	if inner.Is6() {
		protocol, kind, code, embedded = unix.IPPROTO_ICMPV6, icmp6Unreachable, icmp6Port, header6Length
	}
	b = appendHeader(b, outer, inner, protocol, icmpLength+embedded+udpLength)
	message := len(b)
	b = append(b, kind, code, 0, 0, 0, 0, 0, 0)
	cause := len(b)
	b = appendHeader(b, inner, outer, unix.IPPROTO_UDP, udpLength)
	b = seal(b, cause)
	b = binary.BigEndian.AppendUint16(b, f.inner.Port())
	b = binary.BigEndian.AppendUint16(b, f.outer.Port())
	b = append(b, 0, udpLength, 0, 0)
	sum := uint32(0) // that of ICMP has no pseudo header
	if inner.Is6() {
		sum = pseudo(outer, inner, protocol, len(b)-message)
	}
	binary.BigEndian.PutUint16(b[message+2:], checksum(sum, b[message:]))
	return seal(b, start)
}

// appendHeader appends a header of IP, still without its checksum.
func appendHeader(b []byte, from, to netip.Addr, protocol, length int) []byte {
	if from.Is6() {
		b = append(b, 6<<4, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, byte(protocol), hopLimit)
		b = append(b, from.AsSlice()...)
		return append(b, to.AsSlice()...)
	}
	b = append(b, 4<<4|header4Length/4, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(header4Length+length))
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, dontFragment)
	b = append(b, hopLimit, byte(protocol), 0, 0)
	b = append(b, from.AsSlice()...)
	return append(b, to.AsSlice()...)
}

// seal puts in the checksum of the IPv4 header that begins at start.
func seal(b []byte, start int) []byte {
	if header := b[start:]; header[0]>>4 == 4 {
		binary.BigEndian.PutUint16(header[10:], checksum(0, header[:header4Length]))
	}
	return b
}

// pseudo is the sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
func pseudo(from, to netip.Addr, protocol, length int) uint32 {
	return sum(sum(0, from.AsSlice()), to.AsSlice()) + uint32(protocol) + uint32(length)
}

func sum(start uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	return start
}

// checksum is the Internet checksum (RFC 1071) of b after what start sums up.
func checksum(start uint32, b []byte) uint16 {
	s := sum(start, b)
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
