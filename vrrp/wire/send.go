package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

const (
	ethernetHeader = 14
	// maxFrame holds an advert with 255 addresses.
	maxFrame = ethernetHeader + ipv4Header + 8 + 4*vrrp.MaxAddresses

	// networkControl is DSCP CS6 (RFC 4594 §3.1), the class of routing protocols.
	networkControl = 0xc0
	// revokingTTL keeps a revocation from being taken for an advert (RFC 9568
	// §5.1.1.3), should it leave the node in spite of all.
	revokingTTL = 1
	// renewingTTL tells the fence that the frame only renews the lease.
	renewingTTL = 2
)

// Advertise sends a VRRP message to the group, from the virtual MAC address and
// with TTL 255. The frame passes the fence's egress hook, which opens or renews
// the lease (or, at priority 0, deletes it).
func (p *Port) Advertise(payload []byte) error {
	const verb = "send advertisement through"
	if err := p.requireUp(); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return p.sendMessage(verb, payload, vrrp.TTL)
}

// Revoke hands the fence a message that closes the lease and that nobody hears:
// like [Port.Advertise], but with TTL 1, with which the fence drops it.
func (p *Port) Revoke(payload []byte) error {
	err := p.sendMessage("revoke lease through", payload, revokingTTL)
	if errors.Is(err, unix.ENOBUFS) {
		return nil // so the kernel tells that the fence has dropped the frame
	}
	return err
}

// Renew hands the fence a message that renews the lease between two
// advertisements and that nobody hears.
func (p *Port) Renew(payload []byte) error {
	const verb = "renew lease through"
	if err := p.requireUp(); err != nil {
		return explain(verb, p.outgoing, err)
	}
	err := p.sendMessage(verb, payload, renewingTTL)
	if errors.Is(err, unix.ENOBUFS) {
		return nil // the fence has dropped the frame, as it should
	}
	return err
}

// Ask sends a VRRP message to the group from the physical interface and with its
// own MAC address, so that no switch learns the virtual one from it and no lease
// depends on it. A living MASTER answers a message of lower priority at once
// (RFC 9568 §6.4.3).
func (p *Port) Ask(payload []byte) error {
	const verb = "ask the MASTER through"
	if err := p.requireUp(); err != nil {
		return explain(verb, p.config.Interface, err)
	}
	frame, err := p.message(verb, p.ownMAC, payload, vrrp.TTL)
	if err != nil {
		return err
	}
	if err := unix.Sendto(p.asker, frame, unix.MSG_DONTWAIT, &p.toGroupOwn); err != nil {
		return explain(verb, p.config.Interface, err)
	}
	return nil
}

func (p *Port) sendMessage(verb string, payload []byte, ttl uint8) error {
	frame, err := p.message(verb, p.mac, payload, ttl)
	if err != nil {
		return err
	}
	return p.send(verb, frame, &p.toGroup)
}

// message builds the frame of a VRRP message to the group.
func (p *Port) message(verb string, from [6]byte, payload []byte, ttl uint8) ([]byte, error) {
	if len(payload) > maxFrame-ethernetHeader-ipv4Header {
		return nil, fmt.Errorf("%s %s: %d octets are longer than any advertisement", verb, p.outgoing, len(payload))
	}
	group := vrrp.MulticastIPv4().As4()
	source := p.config.Source.As4()
	b := p.ethernet(groupMAC(), from, unix.ETH_P_IP)
	b = append(b, 0x45, networkControl)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+len(payload)))
	// A datagram that may not be fragmented needs no identification (RFC 6864 §4.1).
	b = append(b, 0, 0, dontFragment>>8, 0, ttl, vrrp.Protocol, 0, 0)
	b = append(b, source[:]...)
	b = append(b, group[:]...)
	header := b[ethernetHeader:]
	binary.BigEndian.PutUint16(header[offsetHeaderSum:], ^headerSum(header))
	return append(b, payload...), nil
}

// Announce broadcasts a gratuitous ARP request for a virtual IPv4 address, with
// the virtual MAC address as sender (RFC 9568 §6.4.1 and erratum 7947: both the
// sender's and the target's protocol address are the virtual one).
func (p *Port) Announce(addr netip.Addr) error {
	const verb = "send gratuitous ARP through"
	if p.config.VirtualLink == "" {
		return fmt.Errorf("%s %s: carrier %s has no virtual MAC address to announce",
			verb, p.outgoing, p.config.Carrier)
	}
	// The target's hardware address means nothing in a request and is zero, as in
	// the announcements of RFC 5227 §2.3.
	var nobody [6]byte
	request, err := arp.NewPacket(arp.OperationRequest, p.mac[:], addr, nobody[:], addr)
	if err != nil {
		return fmt.Errorf("%s %s: encode %v: %w", verb, p.outgoing, addr, err)
	}
	body, err := request.MarshalBinary()
	if err != nil {
		return fmt.Errorf("%s %s: encode %v: %w", verb, p.outgoing, addr, err)
	}
	if err := p.requireUp(); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return p.send(verb, append(p.ethernet(broadcastMAC(), p.mac, unix.ETH_P_ARP), body...), &p.toAll)
}

func (p *Port) ethernet(destination, source [6]byte, etherType uint16) []byte {
	b := append(p.frame[:0], destination[:]...)
	b = append(b, source[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

func (p *Port) send(verb string, frame []byte, to *unix.SockaddrLinklayer) error {
	if err := unix.Sendto(p.sender, frame, unix.MSG_DONTWAIT, to); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return nil
}

// requireUp looks at the physical interface, because a macvlan swallows frames
// without an error while its parent is down: the fence would take such an advert
// for one that left the node.
func (p *Port) requireUp() error {
	if err := unix.IoctlIfreq(p.member, unix.SIOCGIFFLAGS, p.physical); err != nil {
		return err
	}
	if p.physical.Uint16()&unix.IFF_UP == 0 {
		return unix.ENETDOWN
	}
	return nil
}
