package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

const (
	// networkControl is DSCP CS6 (RFC 4594 §3.1), the class of routing protocols.
	networkControl = 0xc0
	// revokingTTL keeps a revocation from being taken for an advert (RFC 9568
	// §5.1.1.3), should it leave the node in spite of all.
	revokingTTL = 1
	// renewingTTL tells the fence that the frame only renews the lease.
	renewingTTL = 2
)

// errNoFence is what the HA link has to say about leases and announcements.
var errNoFence = errors.New("it has no virtual addresses, and no fence")

// Advertise sends a VRRP message to the group, from the virtual MAC address and
// with TTL 255. The frame passes the fence's egress hook, which opens or renews
// the lease (or, at priority 0, deletes it). A unicast port sends it to the peer
// and past the fence.
func (p *Port) Advertise(payload []byte) error {
	return p.sendOut("send advertisement through", payload, p.outgoing, &p.toGroup)
}

// Ask sends a VRRP message like [Port.Advertise], but from the physical interface
// and with its own MAC address, so that no switch learns the virtual one from it
// and no lease depends on it. A living MASTER answers a message of lower priority
// at once (RFC 9568 §6.4.3).
func (p *Port) Ask(payload []byte) error {
	return p.sendOut("ask the MASTER through", payload, p.link.name, &p.toGroupOwn)
}

// Renew hands the fence a message that renews the lease between two
// advertisements and that nobody hears.
func (p *Port) Renew(payload []byte) error {
	const verb = "renew lease through"
	if err := p.requireUp(); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return p.sendToFence(verb, payload, renewingTTL)
}

// Revoke hands the fence a message that closes the lease and that nobody hears:
// like [Port.Advertise], but with TTL 1, with which the fence drops it.
func (p *Port) Revoke(payload []byte) error {
	return p.sendToFence("revoke lease through", payload, revokingTTL)
}

// sendOut sends what others should hear.
func (p *Port) sendOut(verb string, payload []byte, through string, to *unix.SockaddrLinklayer) error {
	if err := p.requireUp(); err != nil {
		return explain(verb, through, err)
	}
	packet, err := appendPacket(p.sender.packet[:0], p.header, payload, vrrp.TTL)
	if err != nil {
		return explain(verb, through, err)
	}
	if p.toPeer != nil {
		through = p.link.name
		err = unix.Sendto(descriptor(p.packets), packet, unix.MSG_DONTWAIT, p.toPeer)
	} else {
		err = unix.Sendto(descriptor(p.frames), packet, unix.MSG_DONTWAIT, to)
	}
	if err != nil {
		return explain(verb, through, err)
	}
	return nil
}

func (p *Port) sendToFence(verb string, payload []byte, ttl uint8) error {
	if p.config.VirtualLink == "" {
		return fmt.Errorf("%s %s: carrier %s: %w", verb, p.outgoing, p.config.Carrier, errNoFence)
	}
	packet, err := appendPacket(p.sender.packet[:0], p.fenceHeader, payload, ttl)
	if err != nil {
		return explain(verb, p.outgoing, err)
	}
	err = unix.Sendto(descriptor(p.frames), packet, unix.MSG_DONTWAIT, &p.toGroup)
	if err != nil && !errors.Is(err, unix.ENOBUFS) { // so the kernel tells that the fence has dropped the frame
		return explain(verb, p.outgoing, err)
	}
	return nil
}

// requireUp looks at the physical interface, because a macvlan swallows frames
// without an error while its parent is down: the fence would take such an advert
// for one that left the node.
func (p *Port) requireUp() error {
	return p.link.requireUp(p.sender.control)
}

// descriptor is -1 for a port or a sender that was closed.
func descriptor(s *sendSocket) int {
	if s == nil {
		return -1
	}
	return s.fd
}

// newHeader returns an IP header without what differs from message to message.
func newHeader(source, destination netip.Addr, protocol uint8) []byte {
	var b []byte
	if source.Is6() {
		b = []byte{0x60 | networkControl>>4, networkControl << 4 & 0xff, 0, 0, 0, 0, protocol, 0}
	} else {
		// A datagram that may not be fragmented needs no identification (RFC 6864 §4.1).
		b = []byte{0x45, networkControl, 0, 0, 0, 0, dontFragment >> 8, 0, 0, protocol, 0, 0}
	}
	return append(append(b, source.AsSlice()...), destination.AsSlice()...)
}

// appendPacket appends an IP packet to b and fills in what the header leaves open.
func appendPacket(b, header, payload []byte, ttl uint8) ([]byte, error) {
	if len(payload) > maxMessage {
		return nil, fmt.Errorf("a message of %d octets: %w", len(payload), unix.EMSGSIZE)
	}
	start := len(b)
	b = append(append(b, header...), payload...)
	ip := b[start : start+len(header)]
	if len(header) == ipv6Header {
		ip[offsetHopLimit] = ttl
		binary.BigEndian.PutUint16(ip[offsetLength6:], uint16(len(payload)))
		return b, nil
	}
	ip[offsetTTL] = ttl
	binary.BigEndian.PutUint16(ip[offsetLength:], uint16(len(header)+len(payload)))
	binary.BigEndian.PutUint16(ip[offsetHeaderSum:], ^headerSum(ip)) // the field is still 0
	return b, nil
}
