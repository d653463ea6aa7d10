package router

import (
	"net/netip"
	"slices"

	"tandem/router/config"
	"tandem/router/uplink"
)

// way is where a segment's traffic to a destination goes.
type way struct {
	path uplink.Path
	// via is a fixed next hop on a segment; invalid if one of uplinks is taken.
	via     netip.Addr
	uplinks []*config.Uplink
}

// ways returns those of one family: the default one, and a network's further routes.
func (s segment) ways(everywhere netip.Prefix) []way {
	list := []way{{path: uplink.Path{Network: s.name, Destination: everywhere}, uplinks: s.out}}
	for i, r := range s.routes {
		if r.Destination.Addr().Is6() == everywhere.Addr().Is6() {
			list = append(list, way{path: uplink.Path{Network: s.name, Destination: r.Destination}, via: r.Via, uplinks: s.routeOut[i]})
		}
	}
	return list
}

// nextHop returns where a way leads; link is empty if it leads nowhere: the segment is isolated,
// its uplinks do not have that family, or none of them is chosen.
func (w way) nextHop(all []segment, chosen uplink.Selection) (gateway netip.Addr, link string) {
	ipv6 := w.path.IPv6()
	for _, s := range all {
		switch {
		case w.via.IsValid() && s.contains(w.via):
			return w.via, s.mainLink(ipv6)
		case w.via.IsValid() || !s.isUplink || ipv6 && s.ipv6 == nil || s.name != w.choice(chosen):
		case ipv6:
			return s.ipv6.Gateway, s.mainLink(true)
		default:
			return s.out[0].Gateway, s.mainLink(false)
		}
	}
	return netip.Addr{}, ""
}

// choice names the uplink of a way: its own on the segment of an uplink.
func (w way) choice(chosen uplink.Selection) string {
	usable := func(u *config.Uplink) bool { return !w.path.IPv6() || u.IPv6 != nil }
	candidates := slices.DeleteFunc(slices.Clone(w.uplinks), func(u *config.Uplink) bool { return !usable(u) })
	if len(candidates) == 0 {
		return ""
	}
	if chosen == nil || len(w.uplinks) == 1 && w.uplinks[0].Name == w.path.Network {
		cheapest := slices.MinFunc(candidates, func(a, b *config.Uplink) int { return int(a.Cost) - int(b.Cost) })
		return cheapest.Name
	}
	return chosen[w.path]
}

func (s segment) contains(a netip.Addr) bool {
	return s.prefix.Contains(a) || s.ipv6 != nil && s.ipv6.Prefix.Contains(a)
}

// probeRoutes returns the table by which this node probes an uplink: the port's own subnet
// and gateway, and nothing else.
func (s segment) probeRoutes() []Route {
	if !s.isUplink {
		return nil
	}
	table, link := ProbeTableBase+int(s.vrid), s.port.Interface
	var list []Route
	for _, ipv6 := range s.families() {
		everywhere, subnet, gateway := netip.PrefixFrom(netip.IPv4Unspecified(), 0), s.prefix, s.out[0].Gateway
		if ipv6 {
			everywhere, subnet, gateway = netip.PrefixFrom(netip.IPv6Unspecified(), 0), s.ipv6.Prefix, s.ipv6.Gateway
		}
		list = append(
			list,
			Route{Table: table, Destination: subnet, Link: link},
			Route{Table: table, Destination: everywhere, Gateway: gateway, Link: link},
			Route{Table: table, Destination: everywhere, Unreachable: true, Metric: UnreachableMetric},
		)
	}
	return list
}

// probeRules lead this node's probes of an uplink to its table.
func (s segment) probeRules() []Rule {
	var list []Rule
	for _, ipv6 := range s.families() {
		list = append(list, Rule{Preference: PreferenceProbe, Mark: ProbeMark(s.vrid), Mask: ProbeMask, IPv6: ipv6, Table: ProbeTableBase + int(s.vrid)})
	}
	return list
}

// markedRules keep flows on the uplink that they are bound to.
func (s segment) markedRules() []Rule {
	var list []Rule
	for _, ipv6 := range s.families() {
		list = append(list, Rule{Preference: PreferenceMarked, Mark: Mark(s.vrid), Mask: MarkMask, IPv6: ipv6, Table: s.table()})
	}
	return list
}

// translations returns the source NAT of the networks on every uplink that they may take,
// so that a switch between them needs none.
func translations(doc *config.Document, all []segment) []SourceNAT {
	var list []SourceNAT
	for _, w := range doc.Networks {
		for _, u := range all {
			if !u.isUplink || !takes(w, u.name) {
				continue
			}
			to := w.NATAddresses[u.name]
			if w.RoutedNATAddress.IsValid() {
				to = w.RoutedNATAddress
			}
			list = append(list, SourceNAT{From: w.Prefix, Link: u.mainLink(false), To: to})
			if w.IPv6 != nil && u.ipv6 != nil && u.ipv6.Translate == config.TranslateNAT66 {
				list = append(list, SourceNAT{From: w.IPv6.Prefix, Link: u.mainLink(true), To: u.ipv6.Addresses[0]})
			}
		}
	}
	return list
}

// takes tells whether a network may take an uplink, for anything.
func takes(w config.Network, name string) bool {
	return slices.Contains(w.Uplinks, name) ||
		slices.ContainsFunc(w.Routes, func(r config.Route) bool { return slices.Contains(r.Uplinks, name) })
}
