package router

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"tandem/router/config"
	"tandem/router/uplink"
)

// Tables and rules. The kernel consults rules in the order of preference, the
// main table at 32766.
const (
	// MainTable is the kernel's main routing table.
	MainTable = 254
	// TableBase plus the VRID is the table of a network or uplink.
	TableBase = 1000

	// ProbeTableBase plus the VRID is the table of an uplink's probes.
	ProbeTableBase = 2000

	// PreferenceProbe is for probes, which find out what an uplink leads to.
	PreferenceProbe = 10900
	// PreferenceOwn is for what the node sends from its own addresses: it leaves by
	// the physical interface, with its MAC address.
	PreferenceOwn = 11000
	// PreferenceMarked is for the packets of flows that have an uplink already.
	PreferenceMarked = 11050
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
// document, uplinks before networks. The selection decides about routes only; with nil
// each path takes the cheapest of its uplinks.
//
// doc must be valid, as [config.Parse] returns it. The error says that the
// node is not a member, or which part of the document does not fit it.
func Derive(doc *config.Document, node string, selection uplink.Selection) (Intent, error) {
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
		intent.Routes = append(intent.Routes, routes(s, segments, selection)...)
	}
	links, err := HALinks(doc, node)
	if err != nil {
		return Intent{}, fmt.Errorf("derive state of node %q: %w", node, err)
	}
	for _, l := range links {
		intent.Ports = append(intent.Ports, PortAddress{Interface: l.Interface, Prefix: l.Prefix})
	}
	intent.Rules = rules(intent.Ports, segments)
	intent.Uplinks = marked(segments)
	intent.NAT = translations(segments)
	intent.Free, intent.Direct = free(segments), direct(segments)
	intent.inbound(segments)
	intent.Helpers = helpers(segments)
	intent.Unreplicated = unreplicated(segments)
	intent.Held = held(segments)
	intent.Guarded = guarded(doc)
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

// rules returns the rules in order of preference.
//
// On a segment without virtual MAC addresses what came in is known by the physical
// interface. What is for the node itself never gets to that rule, because the kernel
// looks for local addresses first, and what the node sends itself did not come in.
func rules(ports []PortAddress, all []segment) []Rule {
	var probes, own, marks, incoming, networks, uplinks []Rule
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
			probes, marks = append(probes, s.probeRules()...), append(marks, s.markRules()...)
			continue
		}
		networks = append(networks, Rule{Preference: PreferenceNetwork, From: s.prefix, Table: s.table()})
		if s.ipv6 != nil {
			networks = append(networks, Rule{Preference: PreferenceNetwork, From: s.ipv6.Prefix, IPv6: true, Table: s.table()})
		}
	}
	return slices.Concat(probes, own, marks, incoming, networks, uplinks)
}

func isLinkLocal6(address netip.Addr) bool { return address.Is6() && address.IsLinkLocalUnicast() }

// single is the prefix of one address.
func single(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}
