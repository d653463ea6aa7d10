package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// paths checks the ways of one network to the outside.
type paths struct {
	*report

	doc *Document
	all []segment
	own map[netip.Addr]string
}

func validatePaths(doc *Document, all []segment, r *report) {
	p := paths{r, doc, all, ownPlaces(all)}
	for i := range doc.Networks {
		w := &doc.Networks[i]
		path := fmt.Sprintf("networks[%d]", i)
		p.probe(path+".probe", w.Probe, p.probed(w), p.families(w))
		if len(w.Probe.Targets) > 0 && r.isolated(path) {
			r.add(path+".probe.targets", "are asked through the network's uplinks, but it has none; name uplinks or remove this key")
		}
		destinations := map[netip.Prefix]string{}
		for j, route := range w.Routes {
			at := fmt.Sprintf("%s.routes[%d]", path, j)
			if first, ok := taken(destinations, route.Destination, at); ok {
				r.add(at+".destination", fmt.Sprintf("%s is already reached by %s; remove one of the two routes", route.Destination, first))
			}
			p.destination(at, *w, route)
			p.via(at, route)
			if route.Probe != nil {
				ipv6 := route.Destination.Addr().Is6()
				p.probe(at+".probe", *route.Probe, route.Uplinks, families{four: !ipv6, six: ipv6})
			}
		}
	}
}

// families are those in which a probe is of use.
type families struct{ four, six bool }

// families returns those of the routes that a network's own probe is for.
func (p paths) families(w *Network) families {
	f := families{four: true, six: w.IPv6 != nil && slices.ContainsFunc(w.Uplinks, p.has6)}
	for _, route := range w.Routes {
		if route.Probe == nil && route.Destination.Addr().Is6() {
			f.six = true
		}
	}
	return f
}

// has6 tells whether an uplink has IPv6, or was meant to.
func (p paths) has6(name string) bool {
	index := slices.IndexFunc(p.doc.Uplinks, func(u Uplink) bool { return u.Name == name })
	return index < 0 || p.doc.Uplinks[index].IPv6 != nil || p.faulty(fmt.Sprintf("uplinks[%d].ipv6", index))
}

// probed returns the uplinks that are asked by a network's own probe.
func (p paths) probed(w *Network) []string {
	names := slices.Clone(w.Uplinks)
	for _, route := range w.Routes {
		if route.Probe == nil {
			names = append(names, route.Uplinks...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (p paths) probe(path string, probe Probe, uplinks []string, of families) {
	if probe.Timeout > probe.Interval && probe.Interval > 0 {
		p.add(path+".timeout", fmt.Sprintf("%s is longer than the interval %s; make it as short, or the interval longer", brief(probe.Timeout), brief(probe.Interval)))
	}
	count4, count6 := 0, 0
	for i, t := range probe.Targets {
		at := fmt.Sprintf("%s.targets[%d]", path, i)
		if t.Kind == "" || p.faulty(at) {
			continue
		}
		address := t.Address()
		switch {
		case !address.IsValid():
			count4, count6 = count4+1, count6+1
			p.resolvable(at+"."+t.Kind, t, uplinks)
		case address.Is4():
			count4++
		default:
			count6++
		}
		p.reachable(at+"."+t.Kind, address, of)
	}
	if p.faulty(path+".need", path+".targets") {
		return
	}
	switch most := max(1, len(probe.Targets)); {
	case probe.Need > most:
		p.add(path+".need", fmt.Sprintf("is %d, but there are %d targets; add targets or need less", probe.Need, len(probe.Targets)))
	case of.four && count4 > 0 && probe.Need > count4:
		p.add(path+".need", fmt.Sprintf("is %d, but only %d of the targets can be asked over IPv4; add targets or need less", probe.Need, count4))
	case of.six && count6 > 0 && probe.Need > count6:
		p.add(path+".need", fmt.Sprintf("is %d, but only %d of the targets can be asked over IPv6; add targets or need less", probe.Need, count6))
	}
}

// resolvable checks that there is somebody to ask for a name: an uplink that leads nowhere must
// not borrow the answer of one that does.
func (p paths) resolvable(path string, t Target, uplinks []string) {
	for _, name := range uplinks {
		u, ok := uplink(p.doc, name)
		if !ok || len(u.DNS) > 0 {
			continue
		}
		index := slices.IndexFunc(p.doc.Uplinks, func(u Uplink) bool { return u.Name == name })
		if p.faulty(fmt.Sprintf("uplinks[%d].dns", index)) {
			continue
		}
		give := "give it dns or an address here"
		if t.Kind == ProbeDNS {
			give = "give it dns or remove this target"
		}
		p.add(path, fmt.Sprintf("is to be resolved by the name servers of uplink %q, which has none; %s", name, give))
		return
	}
}

// reachable checks that a target lies beyond the uplinks.
func (p paths) reachable(path string, address netip.Addr, of families) {
	if !address.IsValid() {
		return
	}
	if own, ok := p.own[address]; ok {
		p.add(path, fmt.Sprintf("%s is the pair's own address, at %s; ask a host beyond the uplink", address, own))
		return
	}
	if s, ok := segmentOf(p.all, address); ok && !s.isUplink {
		p.add(path, fmt.Sprintf("%s is in %s, where no uplink leads; ask a host beyond the uplink", address, s.path))
		return
	}
	if address.Is6() && !of.six {
		p.add(path, fmt.Sprintf("%s is an IPv6 address, but the traffic is IPv4; give an IPv4 address or a name", address))
	}
	if address.Is4() && !of.four {
		p.add(path, fmt.Sprintf("%s is an IPv4 address, but the traffic is IPv6; give an IPv6 address or a name", address))
	}
}

// destination checks that a route does not take the place of one that is there anyway.
func (p paths) destination(path string, w Network, route Route) {
	to, at := route.Destination, path+".destination"
	if !to.IsValid() {
		return
	}
	if to.Bits() == 0 {
		p.add(at, "is the default route, which the network's own uplinks are; change those or give a smaller subnet")
		return
	}
	for _, s := range p.all {
		prefix := s.prefix
		if to.Addr().Is6() {
			prefix = s.prefix6()
		}
		if prefix.IsValid() && prefix.Bits() <= to.Bits() && prefix.Overlaps(to) {
			p.add(at, fmt.Sprintf("%s is in %s of %s, which the pair reaches by itself; remove the route", to, prefix, s.path))
			return
		}
	}
	if to.Addr().Is4() {
		return
	}
	if w.IPv6 == nil {
		p.add(at, fmt.Sprintf("%s is an IPv6 subnet, but the network has no IPv6; give it the key ipv6 or an IPv4 subnet here", to))
		return
	}
	if len(route.Uplinks) > 0 && !slices.ContainsFunc(route.Uplinks, p.has6) {
		p.add(at, fmt.Sprintf("%s is an IPv6 subnet, but none of the route's uplinks has IPv6; give one of them the key ipv6", to))
	}
}

// via checks that a next hop stands on a segment.
func (p paths) via(path string, route Route) {
	at := path + ".via"
	if !route.Via.IsValid() {
		return
	}
	if to := route.Destination; to.IsValid() && to.Addr().Is4() != route.Via.Is4() {
		p.add(at, fmt.Sprintf("%s is of another family than %s; give a next hop of the same", route.Via, to))
		return
	}
	if own, ok := p.own[route.Via]; ok {
		p.add(at, fmt.Sprintf("%s is the pair's own address, at %s; give that of the next router", route.Via, own))
		return
	}
	s, ok := segmentOf(p.all, route.Via)
	switch {
	case !ok:
		p.add(at, fmt.Sprintf("%s is on no segment of the document; give a next hop on an uplink or network", route.Via))
	case s.path == "ha_link" || s.path == "second_ha_link":
		p.add(at, fmt.Sprintf("%s is on an HA link, which carries no traffic of networks; give a next hop on an uplink or network", route.Via))
	}
}
