package router

import (
	"net/netip"
	"slices"
	"strconv"

	"tandem/router/config"
)

// Forward leads what comes to a port of a virtual address to an inner host.
type Forward struct {
	Address netip.Addr
	// Protocol is the number of TCP or UDP.
	Protocol uint8
	// First and Last are the ports outside; inside they begin with that of To.
	First, Last uint16
	To          netip.AddrPort
	// From are the subnets that may; anybody if there are none.
	From []netip.Prefix
}

// StaticNAT joins a virtual address of an uplink to an inner host.
type StaticNAT struct {
	Address, Host netip.Addr
	// Links lead to the uplink, and Mark is its.
	Links []string
	Mark  uint32
}

// Hairpin is a network with hosts that are reached from the outside. Its own hosts reach
// them by the same addresses, and the answers must come back through the router.
type Hairpin struct {
	Network netip.Prefix
	Links   []string
	Gateway netip.Addr
}

// RateLimit bounds what a network sends to the outside, and what it gets from there.
type RateLimit struct {
	Links []string
	// BytesPerSecond is of each direction.
	BytesPerSecond uint64
}

// Access is the ACL of a network; both lists judge new flows.
type Access struct {
	Network string
	Links   []string
	// Ingress is about flows to the network's hosts, Egress about those that they begin.
	Ingress, Egress AccessList
}

// AccessList are ordered rules, of which the first match counts.
type AccessList struct {
	Rules []AccessRule
	// Deny is the default.
	Deny bool
}

// AccessRule matches flows. Zero fields match everything.
type AccessRule struct {
	Deny bool
	// Protocol is the number of the transport protocol; ICMP tells that it is that of the family.
	Protocol uint8
	ICMP     bool
	// Ports are destination ports.
	Ports               []PortRange
	Source, Destination []netip.Prefix
}

// PortRange is a range of ports; both ends belong to it.
type PortRange struct{ First, Last uint16 }

// trivial tells that a list lets everything pass.
func (l AccessList) trivial() bool { return !l.Deny && len(l.Rules) == 0 }

// inbound fills in what networks say about their traffic beyond routes and translations.
func (in *Intent) inbound(all []segment) {
	for _, s := range all {
		if s.isUplink {
			continue
		}
		for _, f := range s.network.Forwards {
			in.Forwards = append(in.Forwards, s.forwards(f)...)
		}
		for _, n := range s.network.StaticNAT {
			in.StaticNAT = append(in.StaticNAT, staticNAT(n, all)...)
		}
		if len(s.network.Forwards)+len(s.network.StaticNAT) > 0 {
			in.Hairpins = append(in.Hairpins, Hairpin{Network: s.prefix, Links: s.links(false), Gateway: s.network.Gateway})
		}
		if rate := uint64(s.network.RateLimit); rate > 0 {
			const bitsPerByte = 8
			in.RateLimits = append(in.RateLimits, RateLimit{Links: s.linksOfBoth(), BytesPerSecond: max(rate/bitsPerByte, 1)})
		}
		access := Access{
			Network: s.name, Links: s.linksOfBoth(),
			Ingress: accessList(s.network.Access.Ingress), Egress: accessList(s.network.Access.Egress),
		}
		if !access.Ingress.trivial() || !access.Egress.trivial() {
			in.Access = append(in.Access, access)
		}
	}
}

// forwards returns a forward for each address that it is reached at.
func (s segment) forwards(f config.Forward) []Forward {
	addresses := []netip.Addr{f.Address}
	if !f.Address.IsValid() {
		addresses = nil
		for _, name := range uplinksOf(s.network) {
			if a := s.natAddress(name); a.IsValid() && !slices.Contains(addresses, a) {
				addresses = append(addresses, a)
			}
		}
	}
	var list []Forward
	for _, a := range addresses {
		list = append(list, Forward{
			Address: a, Protocol: protocolNumber(f.Protocol), First: f.First, Last: f.Last, To: f.To, From: slices.Clone(f.From),
		})
	}
	return list
}

// staticNAT finds the uplink that has the address.
func staticNAT(n config.StaticNAT, all []segment) []StaticNAT {
	for _, u := range all {
		if u.isUplink && slices.Contains(u.virtual, n.Address) {
			return []StaticNAT{{Address: n.Address, Host: n.Host, Links: u.links(false), Mark: Mark(u.vrid)}}
		}
	}
	return nil
}

func accessList(l config.AccessList) AccessList {
	list := AccessList{Deny: l.Default == config.Deny}
	for _, r := range l.Rules {
		rule := AccessRule{
			Deny: r.Action == config.Deny, ICMP: r.Protocol == "icmp",
			Source: slices.Clone(r.Source), Destination: slices.Clone(r.Destination),
		}
		if !rule.ICMP {
			rule.Protocol = protocolNumber(r.Protocol)
		}
		for _, p := range r.Ports {
			rule.Ports = append(rule.Ports, PortRange{p.First, p.Last})
		}
		list.Rules = append(list.Rules, rule)
	}
	return list
}

// protocolNumber returns the number of a transport protocol (IANA) that a document names.
func protocolNumber(word string) uint8 {
	switch word {
	case "tcp":
		return protocolTCP
	case "udp":
		return protocolUDP
	case "sctp":
		return protocolSCTP
	case "gre":
		return protocolGRE
	}
	n, _ := strconv.ParseUint(word, 10, 8)
	return uint8(n)
}
