package router

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"tandem/router/config"
	"tandem/vrrp"
)

// HACarrier is the name of the HA link among the carriers, SecondHACarrier that of the
// second one.
const (
	HACarrier       = "ha"
	SecondHACarrier = "ha2"
)

// IsHA tells whether a segment is an HA link.
func IsHA(segment string) bool { return segment == HACarrier || segment == SecondHACarrier }

// Carrier is one way for a node's adverts: a link, a virtual router on it and an
// address family. A segment has one for each family of each of its virtual routers.
type Carrier struct {
	// Name is unique in the document: that of the segment, then "/" and the VRID for a
	// further virtual router, then "/ipv6" for IPv6.
	Name string
	// Segment is the name of the network or uplink, or [HACarrier] or [SecondHACarrier].
	Segment string
	// Interface is the node's port on the segment.
	Interface string
	// Link is the virtual link, Interface itself if the segment does without virtual
	// MAC addresses, and empty on an HA link.
	Link string
	VRID uint8
	IPv6 bool
	// MAC is the virtual MAC address; zero where there is none.
	MAC [6]byte
	// Source is the node's own address, from which adverts come: over IPv6 a
	// link-local one. Peer is the other member's; zero for a single router.
	Source, Peer netip.Addr
	// Own are all addresses of the node's own on Interface, of both families.
	Own []netip.Addr
	// Addresses are what adverts carry: the virtual addresses, over IPv6 the link-local
	// one first (RFC 9568 §5.2.9). An HA link has none of its own, and an advert must
	// carry one (§5.2.5): the group's first stands for it.
	Addresses []netip.Addr
	// VRRP says how adverts travel; on an HA link as by default.
	VRRP config.VRRP
}

// OwnMAC tells that the virtual addresses stand on the interface itself.
func (c Carrier) OwnMAC() bool { return c.Link == c.Interface }

// Carriers returns the carriers of the named node's adverts: uplinks before networks,
// IPv4 before IPv6, further virtual routers after the first, the HA links last. Those
// of the same segment stand side by side.
//
// doc must be valid, as [config.Parse] returns it. The error says which part of it
// does not fit the node.
func Carriers(doc *config.Document, node string) ([]Carrier, error) {
	segments, err := segments(doc, node)
	if err != nil {
		return nil, fmt.Errorf("list carriers of node %q: %w", node, err)
	}
	var list []Carrier
	for _, s := range segments {
		list = append(list, s.carriers()...)
	}
	links, err := HALinks(doc, node)
	if err != nil {
		return nil, fmt.Errorf("list carriers of node %q: %w", node, err)
	}
	var stand []netip.Addr
	if len(list) > 0 {
		stand = list[0].Addresses[:1:1]
	}
	for _, l := range links {
		c := Carrier{
			Name: l.Name, Segment: l.Name, Interface: l.Interface, VRID: l.VRID,
			Source: l.Prefix.Addr(), Peer: l.Peer, Own: []netip.Addr{l.Prefix.Addr()}, Addresses: stand, VRRP: config.DefaultVRRP(),
		}
		if stand == nil {
			c.Addresses = []netip.Addr{c.Source}
		}
		list = append(list, c)
	}
	return list, nil
}

// HALink is a link between the members, as one of them sees it.
type HALink struct {
	// Name is [HACarrier] or [SecondHACarrier].
	Name      string
	Interface string
	VRID      uint8
	// Prefix is the node's own address and the subnet's length, Peer the other member's
	// address.
	Prefix netip.Prefix
	Peer   netip.Addr
	// Port is that of the replication and of the heartbeats.
	Port uint16
}

// HALinks returns the node's links to the other member, the preferred one first; none
// for a single router.
func HALinks(doc *config.Document, node string) ([]HALink, error) {
	var list []HALink
	other, _ := doc.Peer(node)
	for i, l := range []*config.HALink{doc.HALink, doc.SecondHALink} {
		if l == nil {
			continue
		}
		port, ok := l.Ports[node]
		if !ok {
			return nil, errors.New("it has no port on " + [...]string{"the HA link", "the second HA link"}[i] + "; add one to the document")
		}
		list = append(list, HALink{
			Name: [...]string{HACarrier, SecondHACarrier}[i], Interface: port.Interface, VRID: l.VRID,
			Prefix: netip.PrefixFrom(port.Address, l.Prefix.Bits()), Peer: l.Ports[other.Name].Address, Port: l.Port,
		})
	}
	return list, nil
}

// segment is what uplinks and networks have in common, as one node sees it.
type segment struct {
	name   string
	vrid   uint8
	prefix netip.Prefix
	// port is the node's, peer the other member's; zero for a single router.
	port, peer config.Port
	virtual    []netip.Addr
	vrrp       config.VRRP
	// ipv6 is nil if the segment has none; virtual6 goes without the link-local address.
	ipv6     *config.IPv6
	virtual6 []netip.Addr
	routers  []config.VirtualRouter
	isUplink bool
	// uplink and network are the segment's part of the document; one of them is nil.
	uplink  *config.Uplink
	network *config.Network
	// helpers, unreplicated and held are a network's.
	helpers            []string
	unreplicated, held bool
}

func segments(doc *config.Document, node string) ([]segment, error) {
	all := make([]segment, 0, len(doc.Uplinks)+len(doc.Networks))
	uplinks := make(map[string]bool, len(doc.Uplinks))
	peer, _ := doc.Peer(node)
	for i := range doc.Uplinks {
		u := &doc.Uplinks[i]
		uplinks[u.Name] = true
		s := segment{
			name: u.Name, vrid: u.VRID, prefix: u.Prefix, virtual: u.Addresses, peer: u.Ports[peer.Name],
			vrrp: u.VRRP, ipv6: u.IPv6, routers: u.VirtualRouters, isUplink: true, uplink: u,
		}
		if u.IPv6 != nil {
			s.virtual6 = u.IPv6.Addresses
		}
		var ok bool
		if s.port, ok = u.Ports[node]; !ok {
			return nil, noPort(u.Name)
		}
		all = append(all, s)
	}
	for i := range doc.Networks {
		w := &doc.Networks[i]
		for _, name := range uplinksOf(w) {
			if !uplinks[name] {
				return nil, fmt.Errorf("network %q takes uplink %q, which does not exist; correct the document", w.Name, name)
			}
		}
		s := segment{
			name: w.Name, vrid: w.VRID, prefix: w.Prefix, virtual: []netip.Addr{w.Gateway}, peer: w.Ports[peer.Name],
			vrrp: w.VRRP, ipv6: w.IPv6, routers: w.VirtualRouters, network: w,
			helpers: w.Helpers, unreplicated: !w.Replicate, held: w.FirstPacket == config.FirstPacketHold,
		}
		if w.IPv6 != nil {
			s.virtual6 = []netip.Addr{w.IPv6.Gateway}
		}
		var ok bool
		if s.port, ok = w.Ports[node]; !ok {
			return nil, noPort(w.Name)
		}
		all = append(all, s)
	}
	return all, nil
}

func noPort(segment string) error {
	return fmt.Errorf("it has no port on %q; add one to the document", segment)
}

// carriers returns the carriers of a segment, the main one of IPv4 first.
func (s segment) carriers() []Carrier {
	list := []Carrier{s.carrier(s.vrid, false, "", s.virtual)}
	if s.ipv6 != nil {
		list = append(list, s.carrier(s.ipv6.VRID, true, "", withFirst(s.ipv6.LinkLocal, s.virtual6)))
	}
	for _, router := range s.routers {
		var of4, of6 []netip.Addr
		for _, address := range router.Addresses {
			if address.Is4() {
				of4 = append(of4, address)
			} else {
				of6 = append(of6, address)
			}
		}
		name := "/" + strconv.Itoa(int(router.VRID))
		if len(of4) > 0 {
			list = append(list, s.carrier(router.VRID, false, name, of4))
		}
		if len(of6) > 0 {
			list = append(list, s.carrier(router.VRID, true, name, withFirst(router.LinkLocal(), of6)))
		}
	}
	return list
}

func (s segment) carrier(vrid uint8, ipv6 bool, suffix string, virtual []netip.Addr) Carrier {
	c := Carrier{
		Name: s.name + suffix, Segment: s.name, Interface: s.port.Interface, Link: s.link(vrid, ipv6),
		VRID: vrid, IPv6: ipv6, Source: s.port.Address, Peer: s.peer.Address,
		Own: ownAddresses(s.port), Addresses: append([]netip.Addr(nil), virtual...), VRRP: s.vrrp,
	}
	if ipv6 {
		c.Name += "/ipv6"
		c.Source, c.Peer = s.port.LinkLocal, s.peer.LinkLocal
	}
	switch {
	case c.OwnMAC():
	case ipv6:
		c.MAC = vrrp.VirtualMAC6(vrid)
	default:
		c.MAC = vrrp.VirtualMAC4(vrid)
	}
	return c
}

// link returns the interface on which the addresses of a virtual router stand.
func (s segment) link(vrid uint8, ipv6 bool) string {
	switch {
	case !s.vrrp.VirtualMAC:
		return s.port.Interface
	case ipv6:
		return "vmac" + strconv.Itoa(int(vrid)) + "v6"
	}
	return "vmac" + strconv.Itoa(int(vrid))
}

// mainLink returns the link by which routes of a family reach the segment. The segment
// must have that family.
func (s segment) mainLink(ipv6 bool) string {
	if ipv6 {
		return s.link(s.ipv6.VRID, true)
	}
	return s.link(s.vrid, false)
}

// ownAddresses returns what stands on a port, the IPv4 address first.
func ownAddresses(port config.Port) []netip.Addr {
	own := []netip.Addr{port.Address}
	for _, address := range []netip.Addr{port.IPv6, port.LinkLocal} {
		if address.IsValid() {
			own = append(own, address)
		}
	}
	return own
}

func withFirst(first netip.Addr, rest []netip.Addr) []netip.Addr {
	return append([]netip.Addr{first}, rest...)
}
