package consult

import (
	"fmt"
	"net/netip"
	"slices"

	"tandem/router"
	"tandem/router/config"
)

const (
	haCarrier  = "ha"
	kindHA     = "ha"
	kindUplink = "uplink"
	kindOther  = "network"
	// maxVirtual bounds how many virtual MAC addresses are tested on a carrier.
	maxVirtual = 4
)

// carrier is one link of the document as this node sees it.
type carrier struct {
	name, kind string
	iface      string
	// own and other are the members' addresses.
	own   netip.Prefix
	other netip.Addr
	// vrids are those that nobody else may use on the segment.
	vrids []uint8
	// gateway is the next hop of an uplink; zero elsewhere.
	gateway netip.Addr
	// virtual are the virtual addresses with a virtual MAC, links their macvlans.
	virtual         []netip.Addr
	links           []router.VirtualLink
	multicast, ipv6 bool
	// linkLocals are the members' addresses for adverts over IPv6.
	linkLocals []netip.Addr
}

// segment is what uplinks and networks have in common here.
type segment struct {
	name, kind string
	vrid       uint8
	prefix     netip.Prefix
	ports      map[string]config.Port
	gateway    netip.Addr
	vrrp       config.VRRP
	ipv6       *config.IPv6
	routers    []config.VirtualRouter
}

func segments(doc *config.Document) []segment {
	var list []segment
	for _, u := range doc.Uplinks {
		list = append(list, segment{u.Name, kindUplink, u.VRID, u.Prefix, u.Ports, u.Gateway, u.VRRP, u.IPv6, u.VirtualRouters})
	}
	for _, n := range doc.Networks {
		list = append(list, segment{n.Name, kindOther, n.VRID, n.Prefix, n.Ports, netip.Addr{}, n.VRRP, n.IPv6, n.VirtualRouters})
	}
	return list
}

// carriersOf lists the carriers of a member, the HA link first.
func carriersOf(doc *config.Document, node string) ([]carrier, error) {
	intent, err := router.Derive(doc, node)
	if err != nil {
		return nil, err
	}
	other, pair := doc.Peer(node)
	var list []carrier
	if pair && doc.HALink != nil {
		port := doc.HALink.Ports[node]
		list = append(list, carrier{
			name: haCarrier, kind: kindHA, iface: port.Interface, multicast: true, vrids: []uint8{doc.HALink.VRID},
			own: netip.PrefixFrom(port.Address, doc.HALink.Prefix.Bits()), other: doc.HALink.Ports[other.Name].Address,
		})
	}
	for _, s := range segments(doc) {
		port, ok := s.ports[node]
		if !ok {
			return nil, fmt.Errorf("node %q has no port on %q; add one to the document", node, s.name)
		}
		c := carrier{
			name: s.name, kind: s.kind, iface: port.Interface, gateway: s.gateway, vrids: []uint8{s.vrid},
			own: netip.PrefixFrom(port.Address, s.prefix.Bits()), other: s.ports[other.Name].Address,
			multicast: !s.vrrp.Unicast, ipv6: s.ipv6 != nil,
		}
		if s.ipv6 != nil && s.ipv6.VRID != 0 {
			c.vrids = append(c.vrids, s.ipv6.VRID)
		}
		for _, p := range s.ports {
			c.linkLocals = append(c.linkLocals, p.LinkLocal)
		}
		for _, r := range s.routers {
			c.vrids = append(c.vrids, r.VRID)
		}
		for _, link := range intent.VirtualLinks {
			if link.Parent == port.Interface && !link.OwnMAC {
				c.links = append(c.links, link)
				c.virtual = append(c.virtual, link.Addresses...)
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// tested are the virtual links whose MAC addresses are tried.
func (c carrier) tested() []router.VirtualLink { return c.links[:min(len(c.links), maxVirtual)] }

// isVirtual tells whether a MAC address is one of the carrier's virtual ones.
func (c carrier) isVirtual(mac [6]byte) bool {
	return slices.ContainsFunc(c.links, func(l router.VirtualLink) bool { return l.MAC == mac })
}

// probed are the addresses that nobody else may have, own first, IPv4 only.
func (c carrier) probed() []netip.Addr {
	const enough = 64
	list := []netip.Addr{c.own.Addr()}
	for _, a := range c.virtual {
		if a.Is4() && len(list) < enough {
			list = append(list, a)
		}
	}
	return list
}

// ownLinkLocal is the address from which test frames over IPv6 are sent: the document's,
// or what the MAC address gives (RFC 4291, appendix A).
func ownLinkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}
