package consult

import (
	"net/netip"
	"slices"

	"tandem/appliance/doctor"
	"tandem/router"
	"tandem/router/config"
)

// maxVirtual bounds how many virtual MAC addresses are tested on a carrier.
const maxVirtual = 4

// carrier is one link of the document as this node sees it, with all virtual routers
// and both families.
type carrier struct {
	name, iface string
	// own is the node's IPv4 address, addresses are all of its own there, other is the
	// other member's.
	own       netip.Prefix
	addresses []netip.Addr
	other     netip.Addr
	// routers are the virtual routers that nobody else may be on the segment.
	routers []doctor.VirtualRouter
	// gateways are the next hops of an uplink, one per family.
	gateways []netip.Addr
	// virtual are the virtual addresses that have a virtual MAC, links their macvlans.
	virtual []netip.Addr
	links   []virtualLink
	// multicast tells that adverts go to a group, ipv6 that some are IPv6.
	multicast, ipv6 bool
	// sources are where the members' own adverts come from.
	sources []netip.Addr
}

// virtualLink is a macvlan that Tandem makes.
type virtualLink struct {
	name      string
	mac       [6]byte
	addresses []netip.Addr
}

// carriersOf lists the carriers of a member, the HA link first.
func carriersOf(doc *config.Document, node string) ([]carrier, error) {
	all, err := router.Carriers(doc, node)
	if err != nil {
		return nil, err
	}
	var list []carrier
	for _, c := range all {
		i := slices.IndexFunc(list, func(known carrier) bool { return known.name == c.Segment })
		if i < 0 {
			i = len(list)
			list = append(list, carrier{
				name: c.Segment, iface: c.Interface, multicast: !c.VRRP.Unicast,
				own: netip.PrefixFrom(c.Own[0], prefixOf(doc, c.Segment).Bits()), addresses: c.Own,
			})
		}
		list[i].include(c)
	}
	for _, u := range doc.Uplinks {
		i := slices.IndexFunc(list, func(known carrier) bool { return known.name == u.Name })
		list[i].gateways = []netip.Addr{u.Gateway}
		if u.IPv6 != nil {
			list[i].gateways = append(list[i].gateways, u.IPv6.Gateway)
		}
	}
	if i := slices.IndexFunc(list, func(c carrier) bool { return c.name == router.HACarrier }); i >= 0 {
		ha := list[i]
		list = slices.Insert(slices.Delete(list, i, i+1), 0, ha)
	}
	return list, nil
}

// include adds one way for adverts to its link.
func (c *carrier) include(way router.Carrier) {
	c.routers = append(c.routers, doctor.VirtualRouter{VRID: way.VRID, IPv6: way.IPv6})
	c.sources = append(c.sources, way.Source, way.Peer)
	if way.IPv6 {
		c.ipv6 = true
	} else {
		c.other = way.Peer
	}
	if way.Link != "" && !way.OwnMAC() {
		c.links = append(c.links, virtualLink{way.Link, way.MAC, way.Addresses})
		c.virtual = append(c.virtual, way.Addresses...)
	}
}

func prefixOf(doc *config.Document, name string) netip.Prefix {
	for _, u := range doc.Uplinks {
		if u.Name == name {
			return u.Prefix
		}
	}
	for _, n := range doc.Networks {
		if n.Name == name {
			return n.Prefix
		}
	}
	if name == router.SecondHACarrier {
		return doc.SecondHALink.Prefix
	}
	return doc.HALink.Prefix
}

// tested are the virtual links whose MAC addresses are tried.
func (c carrier) tested() []virtualLink { return c.links[:min(len(c.links), maxVirtual)] }

// isVirtual tells whether a MAC address is one of the carrier's virtual ones.
func (c carrier) isVirtual(mac [6]byte) bool {
	return slices.ContainsFunc(c.links, func(l virtualLink) bool { return l.mac == mac })
}

// probed are the addresses that nobody else may have, own first.
func (c carrier) probed() []netip.Addr {
	const enough = 64
	list := slices.Concat(c.addresses, c.virtual)
	return list[:min(len(list), enough)]
}

// source is the node's own address from which to ask for another of the same family;
// over IPv6 that of its adverts.
func (c carrier) source(target netip.Addr) netip.Addr {
	if target.Is4() {
		return c.own.Addr()
	}
	for _, a := range c.addresses {
		if a.Is6() && a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.IPv6Unspecified()
}

// nobody is the unspecified address of a family.
func nobody(target netip.Addr) netip.Addr {
	if target.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
