package ctnetlink

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// decodeTuple reads a CTA_TUPLE_*.
func decodeTuple(b []byte, t *conntracksync.Tuple, protocol *uint8) error {
	if usualTuple(b, t, protocol) {
		return nil
	}
	return decodeAnyTuple(b, t, protocol)
}

// isHeader tells whether b begins with the header of an attribute of this length,
// header included, and kind.
func isHeader(b []byte, length, kind uint16) bool {
	return binary.NativeEndian.Uint16(b) == length && binary.NativeEndian.Uint16(b[2:]) == kind
}

// Lengths of a tuple's content as the kernel lays it out: two addresses, then the
// protocol and two ports.
const (
	usualPortsLength  = attrHeaderLength + 3*8
	usualTuple4Length = attrHeaderLength + 2*8 + usualPortsLength
	usualTuple6Length = attrHeaderLength + 2*20 + usualPortsLength
)

// usualTuple reads a tuple that has ports and is laid out as the kernel does it,
// which nearly all are. It returns false for any other, and has not failed then:
// walking the attributes one by one takes four times as long.
func usualTuple(b []byte, t *conntracksync.Tuple, protocol *uint8) bool {
	switch len(b) {
	case usualTuple4Length:
		if !isHeader(b, attrHeaderLength+2*8, tupleIP|attrNested) ||
			!isHeader(b[4:], 8, ipv4Source) || !isHeader(b[12:], 8, ipv4Dest) ||
			!usualPorts(b[20:], t, protocol) {
			return false
		}
		t.Source = netip.AddrFrom4([4]byte(b[8:12]))
		t.Destination = netip.AddrFrom4([4]byte(b[16:20]))
		return true
	case usualTuple6Length:
		if !isHeader(b, attrHeaderLength+2*20, tupleIP|attrNested) ||
			!isHeader(b[4:], 20, ipv6Source) || !isHeader(b[24:], 20, ipv6Dest) ||
			!usualPorts(b[44:], t, protocol) {
			return false
		}
		t.Source = netip.AddrFrom16([16]byte(b[8:24]))
		t.Destination = netip.AddrFrom16([16]byte(b[28:44]))
		return true
	}
	return false
}

func usualPorts(b []byte, t *conntracksync.Tuple, protocol *uint8) bool {
	if len(b) != usualPortsLength || !isHeader(b, usualPortsLength, tupleProto|attrNested) ||
		!isHeader(b[4:], 5, protoNumber) ||
		!isHeader(b[12:], 6, protoSourcePort) || !isHeader(b[20:], 6, protoDestPort) || isICMP(b[8]) {
		return false
	}
	*protocol = b[8]
	t.SourcePort, t.DestinationPort = binary.BigEndian.Uint16(b[16:]), binary.BigEndian.Uint16(b[24:])
	return true
}

func decodeAnyTuple(b []byte, t *conntracksync.Tuple, protocol *uint8) error {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case tupleIP:
			err = decodeAddresses(at.data, t)
		case tupleProto:
			err = decodePorts(at.data, t, protocol)
		case tupleZone:
			err = ReasonZone
		}
		if err != nil {
			return err
		}
	}
	if walk.seen&(1<<tupleIP|1<<tupleProto) != 1<<tupleIP|1<<tupleProto {
		return ReasonTuple
	}
	return nil
}

func decodeAddresses(b []byte, t *conntracksync.Tuple) error {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case ipv4Source:
			err = at.ipv4(&t.Source)
		case ipv4Dest:
			err = at.ipv4(&t.Destination)
		case ipv6Source:
			err = at.ipv6(&t.Source)
		case ipv6Dest:
			err = at.ipv6(&t.Destination)
		}
		if err != nil {
			return err
		}
	}
	switch walk.seen & (1<<ipv4Source | 1<<ipv4Dest | 1<<ipv6Source | 1<<ipv6Dest) {
	case 1<<ipv4Source | 1<<ipv4Dest, 1<<ipv6Source | 1<<ipv6Dest:
		return nil
	case 0, 1 << ipv4Source, 1 << ipv4Dest, 1 << ipv6Source, 1 << ipv6Dest:
		return ReasonTuple
	}
	return ReasonFamily
}

func (at attribute) ipv4(a *netip.Addr) error {
	if len(at.data) != 4 {
		return ReasonLength
	}
	*a = netip.AddrFrom4([4]byte(at.data))
	return nil
}

func (at attribute) ipv6(a *netip.Addr) error {
	if len(at.data) != 16 {
		return ReasonLength
	}
	*a = netip.AddrFrom16([16]byte(at.data))
	return nil
}

// decodePorts reads a CTA_TUPLE_PROTO. The number of the protocol need not come
// first, so what the other attributes mean is settled at the end.
func decodePorts(b []byte, t *conntracksync.Tuple, protocol *uint8) error {
	var source, dest, id uint16
	var kind, code uint8
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case protoNumber:
			err = at.uint8(protocol)
		case protoSourcePort:
			err = at.uint16(&source)
		case protoDestPort:
			err = at.uint16(&dest)
		case protoICMPID, protoICMPv6ID:
			err = at.uint16(&id)
		case protoICMPType, protoICMPv6Type:
			err = at.uint8(&kind)
		case protoICMPCode, protoICMPv6Code:
			err = at.uint8(&code)
		}
		if err != nil {
			return err
		}
	}
	if walk.seen&(1<<protoNumber) == 0 {
		return ReasonTuple
	}
	t.SourcePort, t.DestinationPort = source, dest
	if isICMP(*protocol) {
		t.SourcePort, t.DestinationPort = id, uint16(kind)<<8|uint16(code)
	}
	return nil
}

func isICMP(protocol uint8) bool {
	return protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
}
