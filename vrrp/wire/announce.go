package wire

import (
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
// §6.4.1).
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
	if err := unix.Sendto(descriptor(p.frames), message, unix.MSG_DONTWAIT, &p.toAll); err != nil {
		return explain(verb, p.outgoing, err)
	}
	return nil
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
