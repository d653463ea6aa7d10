package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// Config describes the port of one carrier.
type Config struct {
	// Carrier is the name of the network, the uplink or the HA link, for errors.
	Carrier string
	// Interface is the physical interface.
	Interface string
	// VirtualLink is the macvlan through which adverts are sent. In own-MAC mode it
	// is Interface. It is empty on the HA link, whose adverts leave by Interface, too,
	// but where there is neither a fence nor an address to announce.
	VirtualLink string
	// VirtualMAC is the address of VirtualLink; not used in own-MAC mode and on the
	// HA link.
	VirtualMAC [6]byte
	// Source is the primary IPv4 address of Interface (RFC 9568 §5.1.1.1) or its
	// link-local address (§5.1.2.1), never a virtual one. Its family is the
	// carrier's.
	Source netip.Addr
	// Unicast is where adverts and questions go instead of the group: the peer's own
	// address. It is the zero Addr if they go to the group.
	Unicast netip.Addr
}

// ownMAC says that no macvlan is between the port and the wire.
func (c Config) ownMAC() bool { return c.VirtualLink == "" || c.VirtualLink == c.Interface }

// Port sends for one carrier.
type Port struct {
	config Config
	sender *Sender
	// link is the physical interface, outgoing the name of the one that frames are
	// sent through, mac the address of the latter.
	link     device
	outgoing string
	mac      [6]byte
	// frames is shared by all carriers of the interface, packets by those that send
	// from the same address to a peer; nil without Unicast.
	frames, packets *sendSocket
	// toGroup, toGroupOwn and toAll are the link-layer destinations of adverts, of
	// questions, which leave by the physical interface, and of announcements. toPeer
	// is that of unicast adverts and questions.
	toGroup, toGroupOwn, toAll unix.SockaddrLinklayer
	toPeer                     unix.Sockaddr
	// linkLocal is the last link-local address that was announced; zero if none was.
	linkLocal netip.Addr
	// header is the constant part of the IP header of adverts and questions,
	// fenceHeader that of what the fence gets: it only knows the group.
	header, fenceHeader []byte
}

// Open opens the port of a carrier. The interfaces must exist, but may be down. It
// needs CAP_NET_RAW.
func Open(s *Sender, c Config) (*Port, error) {
	p := &Port{config: c, sender: s, outgoing: c.VirtualLink}
	if err := p.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open port of carrier %s: %w", c.Carrier, err), p.Close())
	}
	return p, nil
}

func (p *Port) open() error {
	if err := p.config.validate(); err != nil {
		return err
	}
	var err error
	if p.link, err = lookup(p.sender.control, p.config.Interface); err != nil {
		return err
	}
	outgoing := p.link
	if p.config.ownMAC() {
		p.outgoing = p.config.Interface
	} else if outgoing, err = lookup(p.sender.control, p.config.VirtualLink); err != nil {
		return err
	}
	p.mac = outgoing.mac
	if !p.config.ownMAC() && p.mac != p.config.VirtualMAC {
		return fmt.Errorf("interface %s has MAC address %v, must have the virtual one %v",
			outgoing.name, net.HardwareAddr(p.mac[:]), net.HardwareAddr(p.config.VirtualMAC[:]))
	}
	ipv6 := p.config.Source.Is6()
	p.toGroup = linkLayer(outgoing, etherType(ipv6), groupMAC(ipv6))
	p.toGroupOwn = linkLayer(p.link, etherType(ipv6), groupMAC(ipv6))
	p.toAll = linkLayer(outgoing, announcementType(ipv6), everybodyMAC(ipv6))
	p.header = newHeader(p.config.Source, p.Destination(), vrrp.Protocol)
	p.fenceHeader = p.header
	if p.frames, err = p.sender.frames(p.link); err != nil {
		return err
	}
	if !p.config.Unicast.IsValid() {
		return nil
	}
	p.toPeer = socketAddress(p.config.Unicast, p.link.index)
	p.fenceHeader = newHeader(p.config.Source, group(ipv6), vrrp.Protocol)
	p.packets, err = p.sender.packets(p.link, p.config.Source)
	return err
}

func (c Config) validate() error {
	switch {
	case !c.Source.IsValid() || c.Source.Zone() != "" || !isSource(c.Source):
		return fmt.Errorf("source %v is not an address that a node can have", c.Source)
	case c.Source.Is6() && !c.Source.IsLinkLocalUnicast():
		return fmt.Errorf("source %v is not link-local", c.Source)
	case !c.Unicast.IsValid():
		return nil
	case c.Unicast.Zone() != "" || !isSource(c.Unicast):
		return fmt.Errorf("peer %v is not an address that a node can have", c.Unicast)
	case c.Unicast.Is4() != c.Source.Is4():
		return fmt.Errorf("peer %v is not of the family of source %v", c.Unicast, c.Source)
	case c.Unicast == c.Source:
		return fmt.Errorf("peer %v is the node itself", c.Unicast)
	}
	return nil
}

// Destination is where adverts and questions go: the group or the peer.
func (p *Port) Destination() netip.Addr {
	if p.config.Unicast.IsValid() {
		return p.config.Unicast
	}
	return group(p.config.Source.Is6())
}

// Up tells the state of the physical interface: nil, [ErrLinkDown] or
// [ErrLinkGone].
func (p *Port) Up() error {
	return linkState(&p.link, p.sender.control)
}

// Close gives back what the port has of its sender. With the last port on an
// interface its socket is closed, which takes some 10ms; see [Sender.DiscardBy].
func (p *Port) Close() error {
	err := errors.Join(p.sender.release(p.frames), p.sender.release(p.packets))
	p.frames, p.packets = nil, nil
	if err != nil {
		return fmt.Errorf("close port of carrier %s: %w", p.config.Carrier, err)
	}
	return nil
}

// groupMAC is the Ethernet address of the group (RFC 1112 §6.4, RFC 2464 §7).
func groupMAC(ipv6 bool) [6]byte {
	if ipv6 {
		return [6]byte{0x33, 0x33, 0x00, 0x00, 0x00, 0x12}
	}
	return [6]byte{0x01, 0x00, 0x5e, 0x00, 0x00, 0x12}
}

// everybodyMAC is where announcements go: broadcast for ARP, and the address of
// ff02::1 for neighbour advertisements.
func everybodyMAC(ipv6 bool) [6]byte {
	if ipv6 {
		return [6]byte{0x33, 0x33, 0x00, 0x00, 0x00, 0x01}
	}
	return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}

func etherType(ipv6 bool) uint16 {
	if ipv6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

func announcementType(ipv6 bool) uint16 {
	if ipv6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_ARP
}

func linkLayer(d device, protocol uint16, destination [6]byte) unix.SockaddrLinklayer {
	address := unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol)),
		Ifindex:  d.index,
		Halen:    6,
	}
	copy(address.Addr[:], destination[:])
	return address
}
