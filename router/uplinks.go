package router

import (
	"net/netip"
	"slices"

	"tandem/router/config"
	"tandem/router/uplink"
)

// The mark of a connection tells which uplink it takes. It is the same on both members, and
// replicated, so that a connection stays where it is when the role moves.
const (
	// MarkMask are the bits of the mark; the others are not Tandem's.
	MarkMask = 0x00ff0000
	// ProbeMask are the bits of a probe's mark, which no connection has.
	ProbeMask = 0x01ff0000
	probeBit  = 0x01000000
	markShift = 16
)

// Mark is the mark of the connections that take the uplink with a VRID.
func Mark(vrid uint8) uint32 { return uint32(vrid) << markShift }

// ProbeMark is the mark of the packets that probe the uplink with a VRID.
func ProbeMark(vrid uint8) uint32 { return Mark(vrid) | probeBit }

// uplinksOf returns the uplinks of a network and of its routes, each once.
func uplinksOf(w *config.Network) []string {
	names := slices.Clone(w.Uplinks)
	for _, r := range w.Routes {
		for _, name := range r.Uplinks {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// marked returns the uplinks.
func marked(all []segment) []Uplink {
	var list []Uplink
	for _, s := range all {
		if s.isUplink {
			list = append(list, Uplink{Name: s.name, Mark: Mark(s.vrid), Links: s.linksOfBoth()})
		}
	}
	return list
}

func (s segment) markRules() []Rule {
	var list []Rule
	for _, ipv6 := range s.families() {
		list = append(list, Rule{Preference: PreferenceMarked, Mark: Mark(s.vrid), Mask: MarkMask, IPv6: ipv6, Table: s.table()})
	}
	return list
}

func (s segment) probeRules() []Rule {
	var list []Rule
	for _, ipv6 := range s.families() {
		list = append(list, Rule{Preference: PreferenceProbe, Mark: ProbeMark(s.vrid), Mask: ProbeMask, IPv6: ipv6, Table: s.probeTable()})
	}
	return list
}

func (s segment) probeTable() int { return ProbeTableBase + int(s.vrid) }

// prefixOf returns the subnet of a family; the zero prefix if there is none.
func (s segment) prefixOf(ipv6 bool) netip.Prefix {
	switch {
	case !ipv6:
		return s.prefix
	case s.ipv6 != nil:
		return s.ipv6.Prefix
	}
	return netip.Prefix{}
}

// gatewayOf returns the next hop of an uplink.
func (s segment) gatewayOf(ipv6 bool) netip.Addr {
	if ipv6 {
		return s.ipv6.Gateway
	}
	return s.uplink.Gateway
}

func everywhere(ipv6 bool) netip.Prefix {
	if ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// routes returns the tables of one segment, of which all its virtual routers share the
// first. Every segment is reached through the link of its first virtual router, so that
// the fence holds back forwarded traffic too, and what no route matches must not
// fall through to the main table.
func routes(s segment, all []segment, selection uplink.Selection) []Route {
	table := make([]Route, 0, 2*(len(all)+2))
	for _, ipv6 := range s.families() {
		for _, other := range all {
			if prefix := other.prefixOf(ipv6); prefix.IsValid() {
				table = append(table, Route{Table: s.table(), Destination: prefix, Link: other.mainLink(ipv6)})
			}
		}
		if s.isUplink {
			table = append(table, Route{Table: s.table(), Destination: everywhere(ipv6), Gateway: s.gatewayOf(ipv6), Link: s.mainLink(ipv6)})
		} else {
			table = append(table, s.outward(all, ipv6, selection)...)
		}
		table = append(table, unreachable(s.table(), everywhere(ipv6)))
	}
	if s.isUplink {
		table = append(table, s.probeRoutes()...)
	}
	return table
}

func unreachable(table int, destination netip.Prefix) Route {
	return Route{Table: table, Destination: destination, Unreachable: true, Metric: UnreachableMetric}
}

// outward returns the routes of a network that lead beyond the segments. One without an
// uplink is unreachable: it must not take that of the default route.
func (s segment) outward(all []segment, ipv6 bool, selection uplink.Selection) []Route {
	var list []Route
	for _, r := range s.network.Routes {
		if r.Destination.Addr().Is6() != ipv6 {
			continue
		}
		if r.Via.IsValid() {
			if hop, ok := segmentWith(all, r.Via); ok {
				list = append(list, Route{Table: s.table(), Destination: r.Destination, Gateway: r.Via, Link: hop.mainLink(ipv6)})
			}
		} else {
			list = append(list, s.selected(all, r.Destination, r.Uplinks, selection)...)
		}
		list = append(list, unreachable(s.table(), r.Destination))
	}
	return append(list, s.selected(all, everywhere(ipv6), s.network.Uplinks, selection)...)
}

// selected returns the route of a path; none if it has no uplink.
func (s segment) selected(all []segment, destination netip.Prefix, uplinks []string, selection uplink.Selection) []Route {
	ipv6 := destination.Addr().Is6()
	var chosen *segment
	for i := range all {
		u := &all[i]
		switch {
		case !u.isUplink || !u.prefixOf(ipv6).IsValid():
		case selection != nil:
			if u.name == selection[uplink.Path{Network: s.name, Destination: destination}] {
				chosen = u
			}
		case slices.Contains(uplinks, u.name) && u.uplink.Cost <= s.network.MaxCost && (chosen == nil || u.uplink.Cost < chosen.uplink.Cost):
			chosen = u
		}
	}
	if chosen == nil {
		return nil
	}
	return []Route{{Table: s.table(), Destination: destination, Gateway: chosen.gatewayOf(ipv6), Link: chosen.mainLink(ipv6)}}
}

func segmentWith(all []segment, address netip.Addr) (segment, bool) {
	for _, s := range all {
		if prefix := s.prefixOf(address.Is6()); prefix.IsValid() && prefix.Contains(address) {
			return s, true
		}
	}
	return segment{}, false
}

// probeRoutes return what probes take: the port itself, on the BACKUP as well.
func (s segment) probeRoutes() []Route {
	var list []Route
	for _, ipv6 := range s.families() {
		list = append(
			list,
			Route{Table: s.probeTable(), Destination: s.prefixOf(ipv6), Link: s.port.Interface},
			Route{Table: s.probeTable(), Destination: everywhere(ipv6), Gateway: s.gatewayOf(ipv6), Link: s.port.Interface},
			unreachable(s.probeTable(), everywhere(ipv6)),
		)
	}
	return list
}

// translations returns the source NAT of the networks, for each uplink that they may take.
func translations(all []segment) []SourceNAT {
	var list []SourceNAT
	npt := make(map[string]int)
	for _, s := range all {
		if s.isUplink {
			continue
		}
		names := uplinksOf(s.network)
		for _, u := range all {
			if !u.isUplink || !slices.Contains(names, u.name) {
				continue
			}
			if to := s.natAddress(u.name); to.IsValid() {
				list = append(list, SourceNAT{From: s.prefix, Link: u.mainLink(false), To: to})
			}
			if s.ipv6 == nil || u.ipv6 == nil {
				continue
			}
			switch u.ipv6.Translate {
			case config.TranslateNAT66:
				list = append(list, SourceNAT{From: s.ipv6.Prefix, Link: u.mainLink(true), To: u.ipv6.Addresses[0]})
			case config.TranslateNPT:
				outer := subnet(u.ipv6.NPTPrefix, s.ipv6.Prefix.Bits(), npt[u.name])
				list = append(list, SourceNAT{From: s.ipv6.Prefix, Link: u.mainLink(true), Prefix: outer})
				npt[u.name]++
			}
		}
	}
	return list
}

// natAddress returns the address that the outside sees through an uplink.
func (s segment) natAddress(uplink string) netip.Addr {
	if s.network.RoutedNATAddress.IsValid() {
		return s.network.RoutedNATAddress
	}
	return s.network.NATAddresses[uplink]
}

// subnet returns the n-th subnet of a length, counted from zero.
func subnet(outer netip.Prefix, bits, n int) netip.Prefix {
	address := outer.Masked().Addr().As16()
	for bit := bits - 1; n > 0 && bit >= outer.Bits(); bit-- {
		if n&1 == 1 {
			address[bit/8] |= 0x80 >> (bit % 8)
		}
		n >>= 1
	}
	return netip.PrefixFrom(netip.AddrFrom16(address), bits)
}

// free returns the networks that have one address on every uplink.
func free(all []segment) []Free {
	var list []Free
	for _, s := range all {
		if !s.isUplink && s.network.RoutedNATAddress.IsValid() {
			list = append(list, Free{Network: s.prefix, Address: s.network.RoutedNATAddress})
		}
	}
	return list
}

// direct returns the flows to private gateways on the segments of uplinks. The tables of
// uplinks, which marked flows take, do not know them.
func direct(all []segment) []Direct {
	var list []Direct
	for _, s := range all {
		if s.isUplink {
			continue
		}
		for _, r := range s.network.Routes {
			if !r.Via.IsValid() {
				continue
			}
			if hop, ok := segmentWith(all, r.Via); ok && hop.isUplink {
				list = append(list, Direct{Network: s.prefixOf(r.Via.Is6()), Destination: r.Destination, Links: hop.links(r.Via.Is6())})
			}
		}
	}
	return list
}

// guarded returns the virtual addresses to which flows are translated.
func guarded(doc *config.Document) []netip.Addr {
	var list []netip.Addr
	for _, u := range doc.Uplinks {
		list = append(list, u.Addresses...)
		if u.IPv6 != nil && u.IPv6.Translate == config.TranslateNAT66 {
			list = append(list, u.IPv6.Addresses...)
		}
	}
	return list
}
