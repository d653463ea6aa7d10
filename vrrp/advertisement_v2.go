package vrrp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What version 2 has of its own, RFC 3768 §5.1: a type of authentication and the
// interval in seconds where version 3 has its interval, and eight octets of
// authentication data, zero today, behind the addresses.
const (
	offsetAuthentication2 = 4
	offsetInterval2       = 5
	authenticationLength2 = 8

	minInterval2 = time.Second
	maxInterval2 = 255 * time.Second
)

// validateVersion2 checks what version 2 cannot express.
func (a Advertisement) validateVersion2(h Header) error {
	if h.Source.Is6() {
		return errors.New("version 2 knows IPv4 only (RFC 3768)")
	}
	if a.Interval < minInterval2 || a.Interval > maxInterval2 || a.Interval%time.Second != 0 {
		return fmt.Errorf("the interval %v must be %v to %v in whole seconds in version 2 (RFC 3768 §5.3.7)",
			a.Interval, minInterval2, maxInterval2)
	}
	return nil
}

// appendVersion2 encodes a valid advertisement of version 2, whose checksum covers
// the message only (RFC 3768 §5.3.8).
func (a Advertisement) appendVersion2(b []byte, h Header) []byte {
	start := len(b)
	b = append(b, Version2<<4|typeAdvertisement, a.VRID, a.Priority, uint8(len(a.Addresses)),
		0, uint8(a.Interval/time.Second), 0, 0)
	for _, address := range a.Addresses {
		b = appendAddress(b, address)
	}
	b = append(b, make([]byte, authenticationLength2)...)
	message := b[start:]
	binary.BigEndian.PutUint16(message[offsetChecksum:], ^ChecksumPlain.sum(message, h))
	return b
}

// parseVersion2 decodes what version and type have shown to be an advertisement of
// version 2, in the order of RFC 3768 §7.1.
func parseVersion2(payload []byte, h Header) (Advertisement, Checksum, DropReason) {
	refuse := func(reason DropReason) (Advertisement, Checksum, DropReason) {
		return Advertisement{}, ChecksumPlain, reason
	}
	if len(payload) < fixedLength {
		return refuse(DropTruncated)
	}
	addresses := fixedLength + int(payload[3])*len(netip.IPv4Unspecified().AsSlice())
	if len(payload) < addresses+authenticationLength2 {
		return refuse(DropTruncated)
	}
	message := payload[:addresses+authenticationLength2]
	if ChecksumPlain.sum(message, h) != 0xffff {
		return refuse(DropChecksum)
	}
	switch {
	case message[1] == 0:
		return refuse(DropVRID)
	case message[offsetAuthentication2] != 0:
		return refuse(DropAuthentication)
	case message[3] == 0:
		return refuse(DropCount)
	case message[offsetInterval2] == 0:
		return refuse(DropInterval)
	}
	return Advertisement{
		Version:   Version2,
		VRID:      message[1],
		Priority:  message[2],
		Interval:  time.Duration(message[offsetInterval2]) * time.Second,
		Addresses: parseAddresses(message[fixedLength:addresses], message[3], h),
	}, ChecksumPlain, DropNone
}
