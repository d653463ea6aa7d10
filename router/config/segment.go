package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// segment is what the HA link, uplinks and networks have in common.
type segment struct {
	path     string
	isUplink bool
	vrid     uint8
	prefix   netip.Prefix
	ports    map[string]Port
	// places and places6 are the gateways, each the first, and the virtual addresses
	// but those of virtualRouters.
	places, places6 []place
	// vrrp is zero on the HA link.
	vrrp           VRRP
	ipv6           *IPv6
	virtualRouters []VirtualRouter
}

// place is an address at its place in the document.
type place struct {
	path    string
	address netip.Addr
}

// prefix6 returns the IPv6 subnet, zero if there is none.
func (s segment) prefix6() netip.Prefix {
	if s.ipv6 == nil {
		return netip.Prefix{}
	}
	return s.ipv6.Prefix
}

// has tells whether any address of a virtual router is of a family.
func (v VirtualRouter) has(family func(netip.Addr) bool) bool {
	return slices.ContainsFunc(v.Addresses, family)
}

// segments lists the segments in the order of the fields of [Document].
func segments(doc *Document) []segment {
	var all []segment
	if l := doc.HALink; l != nil {
		all = append(all, segment{path: "ha_link", vrid: l.VRID, prefix: l.Prefix, ports: l.Ports})
	}
	if l := doc.SecondHALink; l != nil {
		all = append(all, segment{path: "second_ha_link", vrid: l.VRID, prefix: l.Prefix, ports: l.Ports})
	}
	for i, u := range doc.Uplinks {
		path := fmt.Sprintf("uplinks[%d]", i)
		s := segment{
			path: path, isUplink: true, vrid: u.VRID, prefix: u.Prefix, ports: u.Ports,
			vrrp: u.VRRP, ipv6: u.IPv6, virtualRouters: u.VirtualRouters,
			places: append([]place{{path + ".gateway", u.Gateway}}, placesOf(path+".addresses", u.Addresses)...),
		}
		if v := u.IPv6; v != nil {
			s.places6 = append([]place{{path + ".ipv6.gateway", v.Gateway}}, placesOf(path+".ipv6.addresses", v.Addresses)...)
		}
		all = append(all, s)
	}
	for i, w := range doc.Networks {
		path := fmt.Sprintf("networks[%d]", i)
		s := segment{
			path: path, vrid: w.VRID, prefix: w.Prefix, ports: w.Ports,
			vrrp: w.VRRP, ipv6: w.IPv6, virtualRouters: w.VirtualRouters,
			places: []place{{path + ".gateway", w.Gateway}},
		}
		if v := w.IPv6; v != nil {
			s.places6 = []place{{path + ".ipv6.gateway", v.Gateway}}
		}
		all = append(all, s)
	}
	return all
}

// placesOf returns the places of a list of addresses.
func placesOf(path string, addresses []netip.Addr) []place {
	places := make([]place, len(addresses))
	for i, address := range addresses {
		places[i] = place{fmt.Sprintf("%s[%d]", path, i), address}
	}
	return places
}

// router returns the path of a further virtual router.
func (s segment) router(index int) string {
	return fmt.Sprintf("%s.virtual_routers[%d]", s.path, index)
}

// placesOfRouters returns the addresses of one family of the further virtual routers.
func (s segment) placesOfRouters(family func(netip.Addr) bool) []place {
	var places []place
	for i, v := range s.virtualRouters {
		places = append(places, placesOf(s.router(i)+".addresses", v.Addresses)...)
	}
	return slices.DeleteFunc(places, func(p place) bool { return !family(p.address) })
}

// normalize fills in the defaults that depend on other fields.
func normalize(doc *Document, r *report) {
	for i := range doc.Members[:min(len(doc.Members), maxMembers)] {
		m := &doc.Members[i]
		path := fmt.Sprintf("members[%d]", i)
		if m.Priority == 0 && !r.faulty(path, path+".priority") {
			m.Priority = DefaultPriority - uint8(i)*DefaultPriorityStep
		}
	}
	for _, s := range segments(doc) {
		if s.ipv6 != nil && !r.faulty(s.path+".ipv6") {
			s.normalizeIPv6(doc, r)
		}
	}
}

// normalizeIPv6 works through the pointer and the map that the segment shares with the
// document.
func (s segment) normalizeIPv6(doc *Document, r *report) {
	v, at := s.ipv6, s.path+".ipv6"
	if v.VRID == 0 && !r.faulty(at+".vrid") {
		v.VRID = s.vrid
	}
	if v.VRID == 0 {
		return // reported
	}
	if !v.LinkLocal.IsValid() && !r.faulty(at+".link_local") {
		v.LinkLocal = defaultLinkLocal(v.VRID)
	}
	for i, m := range doc.Members[:min(len(doc.Members), maxMembers)] {
		port, ok := s.ports[m.Name]
		at := join(s.path+".ports", m.Name)
		if ok && !port.LinkLocal.IsValid() && !r.faulty(at, at+".link_local") {
			port.LinkLocal = defaultOwnLinkLocal(v.VRID, i)
			s.ports[m.Name] = port
		}
	}
}
