package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// hardware is a MAC address.
type hardware [6]byte

func (h hardware) String() string { return net.HardwareAddr(h[:]).String() }

// Numbers of the protocols.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protocolICMPv6 = 58
	protocolVRRP   = 112

	icmpNeighbourAdvertisement = 136
	optionTargetLinkLayer      = 2
)

// frame is an Ethernet frame with what the decoder makes of it: at most one of advert,
// arp and neighbour.
type frame struct {
	destination, source hardware
	advert              *advert
	arp                 *arpMessage
	neighbour           *neighbourMessage
}

// advert is a VRRP advertisement with what is around it.
type advert struct {
	source, destination netip.Addr
	// ttl is the TTL or the hop limit.
	ttl                            uint8
	version, kind, vrid, priority  uint8
	count, reserved, authorisation uint8
	interval                       time.Duration
	addresses                      []netip.Addr
	// plain and pseudo tell over what the checksum is right: the message alone, or
	// the message with the pseudo-header of its IP version.
	plain, pseudo bool
	// authorisationZero tells that the authentication data of version 2 is all zero.
	authorisationZero bool
}

// arpMessage is RFC 826 for Ethernet and IPv4.
type arpMessage struct {
	operation                      uint16
	senderHardware, targetHardware hardware
	senderAddress, targetAddress   netip.Addr
}

// neighbourMessage is a neighbour advertisement, RFC 4861 §4.4.
type neighbourMessage struct {
	source, destination         netip.Addr
	hopLimit                    uint8
	router, solicited, override bool
	target                      netip.Addr
	// linkLayer is the target's link-layer address; zero if the option is missing.
	linkLayer hardware
	intact    bool // the checksum is right
}

// decode reads a frame. What is neither an advert nor ARP nor a neighbour advertisement
// is no error; what is one and malformed is.
func decode(b []byte) (frame, error) {
	var f frame
	if len(b) < 14 {
		return f, fmt.Errorf("a frame of %d bytes", len(b))
	}
	copy(f.destination[:], b[0:6])
	copy(f.source[:], b[6:12])
	payload := b[14:]
	var err error
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		f.arp, err = decodeARP(payload)
	case etherIPv4:
		f.advert, err = decodeIPv4(payload)
	case etherIPv6:
		err = f.decodeIPv6(payload)
	}
	return f, err
}

// decodeIPv4 reads RFC 791 §3.1; it returns nil for other protocols.
func decodeIPv4(b []byte) (*advert, error) {
	if len(b) < 20 {
		return nil, errors.New("an IPv4 header that is cut off")
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[9] != protocolVRRP:
		return nil, nil
	case b[0]>>4 != 4 || header < 20 || total < header || len(b) < total:
		return nil, fmt.Errorf("an IPv4 header % x of a packet of %d bytes", b[:20], len(b))
	case onesComplement(0, b[:header]) != 0xffff:
		return nil, fmt.Errorf("the checksum of the IPv4 header % x is wrong", b[:header])
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		return nil, errors.New("an advert that is a fragment")
	}
	source, destination := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	return decodeAdvert(b[header:total], source, destination, b[8])
}

// decodeIPv6 reads RFC 8200 §3.
func (f *frame) decodeIPv6(b []byte) error {
	if len(b) < 40 {
		return errors.New("an IPv6 header that is cut off")
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if b[0]>>4 != 6 || len(b) < 40+length {
		return fmt.Errorf("an IPv6 header % x of a packet of %d bytes", b[:40], len(b))
	}
	source, destination := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	message := b[40 : 40+length]
	var err error
	switch {
	case b[6] == protocolVRRP:
		f.advert, err = decodeAdvert(message, source, destination, b[7])
	case b[6] == protocolICMPv6 && length > 0 && message[0] == icmpNeighbourAdvertisement:
		f.neighbour, err = decodeNeighbour(message, source, destination)
		if err == nil {
			f.neighbour.hopLimit = b[7]
		}
	}
	return err
}

// decodeAdvert reads RFC 9568 §5.2 and RFC 3768 §5.3, which begin alike. The length
// must be what the count of addresses says.
func decodeAdvert(b []byte, source, destination netip.Addr, ttl uint8) (*advert, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("a VRRP message of %d bytes", len(b))
	}
	a := &advert{
		source: source, destination: destination, ttl: ttl,
		version: b[0] >> 4, kind: b[0] & 0xf, vrid: b[1], priority: b[2], count: b[3],
		plain:  onesComplement(0, b) == 0xffff,
		pseudo: onesComplement(pseudoHeader(source, destination, protocolVRRP, len(b)), b) == 0xffff,
	}
	trailer := 0
	switch a.version {
	case 2:
		a.authorisation, a.interval = b[4], time.Duration(b[5])*time.Second
		trailer = 8
	case 3:
		a.reserved = b[4] >> 4
		a.interval = time.Duration(binary.BigEndian.Uint16(b[4:])&0x0fff) * 10 * time.Millisecond
	default:
		return nil, fmt.Errorf("a VRRP message of version %d", a.version)
	}
	size := source.BitLen() / 8
	if want := 8 + int(a.count)*size + trailer; len(b) != want {
		return nil, fmt.Errorf("a VRRP message of %d bytes with %d addresses, want %d bytes", len(b), a.count, want)
	}
	rest := b[8:]
	for range a.count {
		address, _ := netip.AddrFromSlice(rest[:size]) // its length is one of the two
		a.addresses = append(a.addresses, address)
		rest = rest[size:]
	}
	a.authorisationZero = string(rest) == string(make([]byte, trailer))
	return a, nil
}

func decodeARP(b []byte) (*arpMessage, error) {
	if len(b) < 28 {
		return nil, errors.New("an ARP message that is cut off")
	}
	if string(b[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return nil, fmt.Errorf("an ARP message that begins with % x", b[:6])
	}
	return &arpMessage{
		operation:      binary.BigEndian.Uint16(b[6:]),
		senderHardware: hardware(b[8:14]), senderAddress: netip.AddrFrom4([4]byte(b[14:18])),
		targetHardware: hardware(b[18:24]), targetAddress: netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

func decodeNeighbour(b []byte, source, destination netip.Addr) (*neighbourMessage, error) {
	if len(b) < 24 || b[1] != 0 {
		return nil, fmt.Errorf("a neighbour advertisement of %d bytes, code %d", len(b), b[1])
	}
	n := &neighbourMessage{
		source: source, destination: destination,
		router: b[4]&0x80 != 0, solicited: b[4]&0x40 != 0, override: b[4]&0x20 != 0,
		target: netip.AddrFrom16([16]byte(b[8:24])),
		intact: onesComplement(pseudoHeader(source, destination, protocolICMPv6, len(b)), b) == 0xffff,
	}
	for options := b[24:]; len(options) > 0; {
		if len(options) < 8 || options[1] == 0 || len(options) < int(options[1])*8 {
			return nil, errors.New("a neighbour advertisement with an option that is cut off")
		}
		if options[0] == optionTargetLinkLayer {
			n.linkLayer = hardware(options[2:8])
		}
		options = options[int(options[1])*8:]
	}
	return n, nil
}

// onesComplement is the sum of RFC 1071, continued; over bytes that hold their own
// checksum it is 0xffff.
func onesComplement(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pseudoHeader is the sum over the pseudo-header: RFC 793 §3.1 with the protocol's
// number for IPv4, RFC 8200 §8.1 for IPv6. Both add up the same.
func pseudoHeader(source, destination netip.Addr, protocol, length int) uint32 {
	return uint32(onesComplement(uint32(protocol+length), append(source.AsSlice(), destination.AsSlice()...)))
}
