package vrrp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// The layout of an advertisement, RFC 9568 §5.2. All fields are big endian.
const (
	fixedLength    = 8 // up to the first address
	offsetChecksum = 6

	typeAdvertisement = 1

	intervalMask = 0x0fff // the upper 4 bits are reserved, §5.2.6
)

// Limits of an [Advertisement].
const (
	// MinInterval and MaxInterval bound the Max Advertise Interval, a number of 12
	// bits in units of IntervalUnit that is never 0 (RFC 9568 §5.2.7 with erratum
	// 8301).
	MinInterval  = IntervalUnit
	MaxInterval  = intervalMask * IntervalUnit
	IntervalUnit = 10 * time.Millisecond
	// MaxAddresses is what the count of 8 bits can express (RFC 9568 §5.2.5).
	MaxAddresses = 255
)

// The versions of the protocol.
const (
	// Version2 is RFC 3768: IPv4 only, intervals of whole seconds.
	Version2 uint8 = 2
	// Version3 is RFC 9568.
	Version3 uint8 = 3
)

// The priorities with a meaning of their own, RFC 9568 §5.2.4.
const (
	// PriorityLeaving announces that the MASTER gives up its role.
	PriorityLeaving uint8 = 0
	// PriorityOwner belongs to the router that owns the virtual addresses.
	PriorityOwner uint8 = 255
)

// Advertisement is one VRRP ADVERTISEMENT (RFC 9568 §5.2, RFC 3768 §5.1).
type Advertisement struct {
	// Version is [Version2] or [Version3], which zero stands for as well.
	Version uint8
	// VRID identifies the virtual router, 1 to 255.
	VRID uint8
	// Priority of the sender; see [PriorityLeaving] and [PriorityOwner].
	Priority uint8
	// Interval is the Max Advertise Interval: whole centiseconds, 10ms to 40.95s; in
	// version 2 whole seconds, 1s to 255s.
	Interval time.Duration
	// Addresses are the virtual addresses, 1 to 255, all of the family of the
	// carrying IP header. The first IPv6 address is link-local (§5.2.9).
	Addresses []netip.Addr
}

// Header holds the fields of the carrying IP header that VRRP looks at.
type Header struct {
	Source, Destination netip.Addr
	// TTL is the IPv4 TTL or the IPv6 hop limit.
	TTL uint8
}

// Append appends the message to b and returns the extended slice. The family of
// h.Source decides the family of the message; c applies to version 3 over IPv4
// only, because over IPv6 the pseudo-header always counts (RFC 9568 §5.2.8) and in
// version 2 never.
//
// It fails, with b unchanged, when a field cannot be expressed on the wire or
// when the addresses do not suit the header.
func (a Advertisement) Append(b []byte, h Header, c Checksum) ([]byte, error) {
	if err := a.validate(h); err != nil {
		return b, fmt.Errorf("encode advertisement of VRID %d: %w", a.VRID, err)
	}
	if a.Version == Version2 {
		return a.appendVersion2(b, h), nil
	}
	start := len(b)
	b = append(b, Version3<<4|typeAdvertisement, a.VRID, a.Priority, uint8(len(a.Addresses)))
	b = binary.BigEndian.AppendUint16(b, uint16(a.Interval/IntervalUnit))
	b = append(b, 0, 0)
	for _, address := range a.Addresses {
		b = appendAddress(b, address)
	}
	message := b[start:]
	if h.Source.Is6() {
		c = ChecksumPseudoHeader
	}
	binary.BigEndian.PutUint16(message[offsetChecksum:], ^c.sum(message, h))
	return b, nil
}

func (a Advertisement) validate(h Header) error {
	switch {
	case h.Source.Is4() != h.Destination.Is4() || !h.Source.IsValid() || !h.Destination.IsValid():
		return fmt.Errorf("source %v and destination %v are not of one family", h.Source, h.Destination)
	case a.VRID == 0:
		return errors.New("the VRID must be 1 to 255")
	case a.Version == Version2:
		if err := a.validateVersion2(h); err != nil {
			return err
		}
	case a.Version != Version3 && a.Version != 0:
		return fmt.Errorf("version %d does not exist", a.Version)
	case a.Interval < MinInterval || a.Interval > MaxInterval || a.Interval%IntervalUnit != 0:
		return fmt.Errorf("the interval %v must be %v to %v in steps of %v",
			a.Interval, MinInterval, MaxInterval, IntervalUnit)
	}
	switch {
	case len(a.Addresses) == 0 || len(a.Addresses) > MaxAddresses:
		return fmt.Errorf("%d addresses, must be 1 to %d", len(a.Addresses), MaxAddresses)
	}
	for _, address := range a.Addresses {
		if !address.IsValid() || address.Is4() != h.Source.Is4() {
			return fmt.Errorf("address %v is not of the family of source %v", address, h.Source)
		}
	}
	if h.Source.Is6() && !a.Addresses[0].IsLinkLocalUnicast() {
		return fmt.Errorf("the first IPv6 address %v must be link-local", a.Addresses[0])
	}
	return nil
}

// ParseAdvertisement decodes and validates the payload of an IP packet in the
// order of RFC 9568 §7.1. The first check that fails is the reason; DropNone
// means that the advertisement may be used. Bytes after the last address are
// padding and are ignored.
//
// Over IPv4 both ways to compute the checksum are accepted, because RFC 5798
// was read in two ways and RFC 9568 settled on the one that fewer routers send;
// the result says which one matched.
//
// Whether the version, the VRID, the interval and the addresses are those of a
// configured virtual router is for the caller to judge. The result does not alias payload.
func ParseAdvertisement(payload []byte, h Header) (Advertisement, Checksum, DropReason) {
	refuse := func(reason DropReason) (Advertisement, Checksum, DropReason) {
		return Advertisement{}, ChecksumPlain, reason
	}
	if h.TTL != TTL {
		return refuse(DropTTL)
	}
	if len(payload) == 0 {
		return refuse(DropTruncated)
	}
	version := payload[0] >> 4
	if version != Version3 && (version != Version2 || h.Source.Is6()) {
		return refuse(DropVersion)
	}
	if payload[0]&0x0f != typeAdvertisement {
		return refuse(DropType)
	}
	if version == Version2 {
		return parseVersion2(payload, h)
	}
	message, complete := trimPadding(payload, h)
	if !complete {
		return refuse(DropTruncated)
	}
	c, ok := verify(message, h)
	if !ok {
		return refuse(DropChecksum)
	}
	a := Advertisement{
		Version:  Version3,
		VRID:     message[1],
		Priority: message[2],
		Interval: time.Duration(binary.BigEndian.Uint16(message[4:])&intervalMask) * IntervalUnit,
	}
	if a.VRID == 0 {
		return refuse(DropVRID)
	}
	if message[3] == 0 { // erratum 8299
		return refuse(DropCount)
	}
	if a.Interval == 0 { // erratum 8301
		return refuse(DropInterval)
	}
	a.Addresses = parseAddresses(message[fixedLength:], message[3], h)
	if h.Source.Is6() && !a.Addresses[0].IsLinkLocalUnicast() { // erratum 8300
		return refuse(DropLinkLocal)
	}
	return a, c, DropNone
}

// trimPadding cuts off what follows the last address: Ethernet pads short
// frames. It reports false when the message does not reach that far.
func trimPadding(payload []byte, h Header) ([]byte, bool) {
	if len(payload) < fixedLength {
		return nil, false
	}
	length := fixedLength + int(payload[3])*addressLength(h)
	if len(payload) < length {
		return nil, false
	}
	return payload[:length], true
}

func parseAddresses(rest []byte, count uint8, h Header) []netip.Addr {
	addresses := make([]netip.Addr, 0, count)
	for size := addressLength(h); len(rest) > 0; rest = rest[size:] {
		if size == 4 {
			addresses = append(addresses, netip.AddrFrom4([4]byte(rest)))
		} else {
			addresses = append(addresses, netip.AddrFrom16([16]byte(rest)))
		}
	}
	return addresses
}

func addressLength(h Header) int {
	if h.Source.Is6() {
		return 16
	}
	return 4
}

func appendAddress(b []byte, address netip.Addr) []byte {
	if address.Is4() {
		octets := address.As4()
		return append(b, octets[:]...)
	}
	octets := address.As16()
	return append(b, octets[:]...)
}
