package router

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"tandem/router/config"
)

// Tables and rules. The kernel consults rules in the order of preference, the
// main table at 32766.
const (
	// MainTable is the kernel's main routing table.
	MainTable = 254
	// TableBase plus the VRID is the table of a network or uplink.
	TableBase = 1000

	// PreferenceOwn is for what the node sends from its own addresses: it leaves by
	// the physical interface, with its MAC address.
	PreferenceOwn = 11000
	// PreferenceIncoming is for what came in by a virtual link.
	PreferenceIncoming = 11100
	// PreferenceNetwork is for what has the address of a network as its source,
	// above all what the node itself sends from the gateway's address.
	PreferenceNetwork = 11200
	// PreferenceUplink is for what the node sends from an uplink's virtual address.
	PreferenceUplink = 11300

	// UnreachableMetric makes the unreachable route the last resort of its table.
	UnreachableMetric = math.MaxInt32
)

// Derive returns the kernel state that the named node must be in. It is the same
// whether the node is MASTER or BACKUP. The order of its parts is that of the
// document, uplinks before networks.
//
// doc must be valid, as [config.Parse] returns it. The error says that the
// node is not a member, or which part of the document does not fit it.
func Derive(doc *config.Document, node string) (Intent, error) {
	member, ok := doc.Member(node)
	if !ok {
		return Intent{}, fmt.Errorf("derive state of node %q: group %q has no such member; start the node with the name of one", node, doc.Group)
	}
	segments, err := segments(doc, node)
	if err != nil {
		return Intent{}, fmt.Errorf("derive state of node %q: %w", node, err)
	}
	intent := Intent{Group: doc.Group}
	for _, s := range segments {
		intent.Ports = append(intent.Ports, s.portAddresses()...)
		for _, c := range s.carriers() {
			intent.VirtualLinks = append(intent.VirtualLinks, c.virtualLink())
			// The owner of an address accepts what is sent to it (RFC 9568 §6.4.3).
			if !s.vrrp.Accept && member.Priority != config.OwnerPriority {
				intent.Refused = append(intent.Refused, c.Addresses...)
			}
		}
		intent.Routes = append(intent.Routes, routes(s, segments)...)
	}
	links, err := HALinks(doc, node)
	if err != nil {
		return Intent{}, fmt.Errorf("derive state of node %q: %w", node, err)
	}
	for _, l := range links {
		intent.Ports = append(intent.Ports, PortAddress{Interface: l.Interface, Prefix: l.Prefix})
	}
	intent.Rules = rules(intent.Ports, segments)
	intent.NAT = translations(doc, segments)
	intent.Helpers = helpers(segments)
	intent.Unreplicated = unreplicated(segments)
	intent.Held = held(segments)
	for _, u := range doc.Uplinks {
		intent.Guarded = append(intent.Guarded, u.Addresses...)
	}
	return intent, nil
}

func (c Carrier) virtualLink() VirtualLink {
	return VirtualLink{
		Name: c.Link, Carrier: c.Name, Parent: c.Interface, MAC: c.MAC, Addresses: c.Addresses,
		VRID: c.VRID, IPv6: c.IPv6, OwnMAC: c.OwnMAC(), Own: c.Own,
	}
}

// linkLocalBits is the length of the one link-local prefix in use (RFC 4291 §2.5.6).
const linkLocalBits = 64

// portAddresses returns the node's own addresses on a segment.
func (s segment) portAddresses() []PortAddress {
	list := []PortAddress{{s.port.Interface, netip.PrefixFrom(s.port.Address, s.prefix.Bits())}}
	if s.ipv6 == nil {
		return list
	}
	if s.port.IPv6.IsValid() {
		list = append(list, PortAddress{s.port.Interface, netip.PrefixFrom(s.port.IPv6, s.ipv6.Prefix.Bits())})
	}
	return append(list, PortAddress{s.port.Interface, netip.PrefixFrom(s.port.LinkLocal, linkLocalBits)})
}

func (s segment) table() int { return TableBase + int(s.vrid) }

// families returns the families that a segment has, by whether they are IPv6.
func (s segment) families() []bool {
	if s.ipv6 == nil {
		return []bool{false}
	}
	return []bool{false, true}
}

// routes returns the table of one segment, which all its virtual routers share. Every
// segment is reached through the link of its first virtual router, so that the fence
// holds back forwarded traffic too, and what no route matches must not fall through to
// the main table. IPv6 is routed as IPv4 is, but never translated.
func routes(s segment, all []segment) []Route {
	table := make([]Route, 0, 2*(len(all)+2))
	for _, ipv6 := range s.families() {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if ipv6 {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		for _, other := range all {
			switch {
			case !ipv6:
				table = append(table, Route{Table: s.table(), Destination: other.prefix, Link: other.mainLink(false)})
			case other.ipv6 != nil:
				table = append(table, Route{Table: s.table(), Destination: other.ipv6.Prefix, Link: other.mainLink(true)})
			}
		}
		if gateway, link := s.nextHop(all, ipv6); link != "" {
			table = append(table, Route{Table: s.table(), Destination: everywhere, Gateway: gateway, Link: link})
		}
		table = append(table, Route{Table: s.table(), Destination: everywhere, Unreachable: true, Metric: UnreachableMetric})
	}
	return table
}

// nextHop returns where a segment's traffic of a family leaves to the outside; nowhere
// if the segment is isolated or its uplink does not have that family.
func (s segment) nextHop(all []segment, ipv6 bool) (gateway netip.Addr, link string) {
	for _, u := range all {
		switch {
		case s.out == nil || !u.isUplink || u.name != s.out.Name:
		case !ipv6:
			return s.out.Gateway, u.mainLink(false)
		case u.ipv6 != nil:
			return u.ipv6.Gateway, u.mainLink(true)
		}
	}
	return netip.Addr{}, ""
}

// rules returns the rules in order of preference.
//
// On a segment without virtual MAC addresses what came in is known by the physical
// interface. What is for the node itself never gets to that rule, because the kernel
// looks for local addresses first, and what the node sends itself did not come in.
func rules(ports []PortAddress, all []segment) []Rule {
	var own, incoming, networks, uplinks []Rule
	for _, port := range ports {
		address := port.Prefix.Addr()
		if !isLinkLocal6(address) { // fe80::/64 is in the main table alone
			own = append(own, Rule{Preference: PreferenceOwn, From: single(address), IPv6: address.Is6(), Table: MainTable})
		}
	}
	for _, s := range all {
		seen := make(map[Rule]bool)
		for _, c := range s.carriers() {
			rule := Rule{Preference: PreferenceIncoming, Incoming: c.Link, IPv6: c.IPv6, Table: s.table()}
			if !seen[rule] {
				incoming = append(incoming, rule)
			}
			seen[rule] = true
			for _, address := range c.Addresses {
				if s.isUplink && !isLinkLocal6(address) {
					uplinks = append(uplinks, Rule{Preference: PreferenceUplink, From: single(address), IPv6: c.IPv6, Table: s.table()})
				}
			}
		}
		if s.isUplink {
			continue
		}
		networks = append(networks, Rule{Preference: PreferenceNetwork, From: s.prefix, Table: s.table()})
		if s.ipv6 != nil {
			networks = append(networks, Rule{Preference: PreferenceNetwork, From: s.ipv6.Prefix, IPv6: true, Table: s.table()})
		}
	}
	return slices.Concat(own, incoming, networks, uplinks)
}

func isLinkLocal6(address netip.Addr) bool { return address.Is6() && address.IsLinkLocalUnicast() }

// translations returns the source NAT of the networks that have an uplink.
func translations(doc *config.Document, all []segment) []SourceNAT {
	var list []SourceNAT
	for _, w := range doc.Networks {
		for _, u := range all {
			if u.isUplink && len(w.Uplinks) > 0 && u.name == w.Uplinks[0] {
				to := w.NATAddresses[u.name]
				if w.RoutedNATAddress.IsValid() {
					to = w.RoutedNATAddress
				}
				list = append(list, SourceNAT{From: w.Prefix, Link: u.mainLink(false), To: to})
			}
		}
	}
	return list
}

// single is the prefix of one address.
func single(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}
