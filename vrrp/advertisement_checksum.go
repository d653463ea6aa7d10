package vrrp

import (
	"encoding/binary"
	"net/netip"
)

// Checksum is a way to compute the checksum of an advertisement over IPv4.
type Checksum uint8

const (
	// ChecksumPlain covers the VRRP message only, as RFC 9568 §5.2.8 wants it for
	// IPv4.
	ChecksumPlain Checksum = iota
	// ChecksumPseudoHeader covers the pseudo-header of RFC 8200 §8.1 as well: the
	// rule for IPv6, and over IPv4 the habit of keepalived and FRR, which took it
	// from RFC 5798.
	ChecksumPseudoHeader
)

// String returns "plain" or "pseudo-header".
func (c Checksum) String() string {
	switch c {
	case ChecksumPlain:
		return "plain"
	case ChecksumPseudoHeader:
		return "pseudo-header"
	}
	return "unknown"
}

// verify says which way to compute the checksum fits the message, if any. A
// message that fits both ways counts as plain.
func verify(message []byte, h Header) (Checksum, bool) {
	if !h.Source.Is6() && ChecksumPlain.sum(message, h) == 0xffff {
		return ChecksumPlain, true
	}
	return ChecksumPseudoHeader, ChecksumPseudoHeader.sum(message, h) == 0xffff
}

// sum is the one's complement sum (RFC 1071) of what c covers.
func (c Checksum) sum(message []byte, h Header) uint16 {
	sum := addWords(0, message)
	if c == ChecksumPseudoHeader {
		sum = addAddress(sum, h.Source)
		sum = addAddress(sum, h.Destination)
		sum += uint32(len(message)) + Protocol
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func addAddress(sum uint32, address netip.Addr) uint32 {
	if address.Is4() {
		octets := address.As4()
		return addWords(sum, octets[:])
	}
	octets := address.As16()
	return addWords(sum, octets[:])
}

// addWords needs an even length, which every message and every address has. The
// longest message has 2044 words of 16 bits: 32 bits cannot overflow.
func addWords(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}
