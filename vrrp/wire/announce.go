package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// hopLimitND is the hop limit of all of neighbour discovery (RFC 4861 §7.1.2).
const hopLimitND = 255

// Announce tells everybody on the link that a virtual address is at the virtual
// MAC address or, in own-MAC mode, at that of the physical interface: by a
// gratuitous ARP request, or by an unsolicited neighbour advertisement (RFC 9568
// §6.4.1). Before the latter it tells the switches to let solicitations for the address
// through.
func (p *Port) Announce(addr netip.Addr) error {
	verb, encode := "send gratuitous ARP through", gratuitousARP
	if p.config.Source.Is6() {
		verb, encode = "send unsolicited neighbour advertisement through", neighbourAdvertisement
	}
	if p.config.VirtualLink == "" {
		return fmt.Errorf("%s %s: carrier %s: %w", verb, p.outgoing, p.config.Carrier, errNoFence)
	}
	if addr.Is4() != p.config.Source.Is4() || addr.Zone() != "" || !isSource(addr) {
		return fmt.Errorf("%s %s: %v is not an address that the carrier can have", verb, p.outgoing, addr)
	}
	if err := p.requireUp(); err != nil {
		return explain(verb, p.outgoing, err)
	}
	mac, err := p.currentMAC()
	if err != nil {
		return explain(verb, p.outgoing, err)
	}
	message, err := encode(mac, addr)
	if err != nil {
		return fmt.Errorf("%s %s: encode %v: %w", verb, p.outgoing, addr, err)
	}
	if addr.Is6() {
		if err := p.report(addr); err != nil {
			return explain(verb, p.outgoing, err)
		}
	}
	if err := unix.Sendto(descriptor(p.frames), message, unix.MSG_DONTWAIT, &p.toAll); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return nil
}

// report tells snooping switches that the solicited-node group of an address has a
// member here (RFC 9568 §6.4.1: join it). The kernel has joined it long ago, but while
// the fence was closed its reports were dropped, and it does not repeat them unasked.
func (p *Port) report(addr netip.Addr) error {
	if addr.IsLinkLocalUnicast() {
		p.linkLocal = addr
	}
	source := netip.IPv6Unspecified() // as long as there is none, RFC 3810 §5.2.13
	if p.linkLocal.IsValid() {
		source = p.linkLocal
	}
	to := p.toAll
	copy(to.Addr[:], []byte{0x33, 0x33, 0x00, 0x00, 0x00, 0x16})
	return unix.Sendto(descriptor(p.frames), listenerReport(source, solicitedNode(addr)), unix.MSG_DONTWAIT, &to)
}

// solicitedNode is the group to which solicitations for an address go (RFC 4291 §2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	octets := addr.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff}
	copy(group[13:], octets[13:])
	return netip.AddrFrom16(group)
}

// listenerReport is a Multicast Listener Report of version 2 (RFC 3810 §5.2) with one
// record that excludes no source, behind the router alert option of RFC 2711.
func listenerReport(source, group netip.Addr) []byte {
	const (
		reportType = 143
		toExclude  = 4
		hopLimit   = 1
	)
	routers := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x16})
	body := []byte{reportType, 0, 0, 0, 0, 0, 0, 1, toExclude, 0, 0, 0}
	body = append(body, group.AsSlice()...)
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, covered := range [][]byte{source.AsSlice(), routers.AsSlice(), body} {
		for ; len(covered) > 0; covered = covered[2:] {
			sum += uint32(binary.BigEndian.Uint16(covered))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	// Hop-by-hop options: ICMPv6 follows; router alert for MLD; PadN.
	options := []byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}
	packet := append(make([]byte, 0, ipv6Header+len(options)+len(body)), 0x60, 0, 0, 0)
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(options)+len(body)))
	packet = append(packet, unix.IPPROTO_HOPOPTS, hopLimit)
	packet = append(packet, source.AsSlice()...)
	packet = append(packet, routers.AsSlice()...)
	return append(append(packet, options...), body...)
}

// currentMAC asks the kernel in own-MAC mode, since others may change the MAC
// address of a physical interface, a bond above all.
func (p *Port) currentMAC() ([6]byte, error) {
	if !p.config.ownMAC() {
		return p.mac, nil
	}
	return hardwareAddress(descriptor(p.frames))
}

// gratuitousARP is a request whose sender and target are the virtual address
// (RFC 9568 §6.4.1 with erratum 7947). The target's hardware address means nothing
// in a request and is zero, as in the announcements of RFC 5227 §2.3.
func gratuitousARP(mac [6]byte, addr netip.Addr) ([]byte, error) {
	var nobody [6]byte
	request, err := arp.NewPacket(arp.OperationRequest, mac[:], addr, nobody[:], addr)
	if err != nil {
		return nil, err
	}
	return request.MarshalBinary()
}

// neighbourAdvertisement is the unsolicited advertisement of RFC 4861 §7.2.6 with
// the flags of RFC 9568 §6.4.1: a router's, not an answer, and it overrides what
// hosts know. Its source is the address that it is about.
func neighbourAdvertisement(mac [6]byte, addr netip.Addr) ([]byte, error) {
	everybody := netip.IPv6LinkLocalAllNodes()
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
		Router: true, Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	}, addr, everybody)
	if err != nil {
		return nil, err
	}
	return appendPacket(nil, newHeader(addr, everybody, unix.IPPROTO_ICMPV6), message, hopLimitND)
}
