package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// validateLabels checks what uplinks are called beside their names.
func validateLabels(doc *Document, r *report) {
	names := map[string]string{}
	for i, u := range doc.Uplinks {
		taken(names, u.Name, fmt.Sprintf("uplinks[%d]", i))
	}
	for i, u := range doc.Uplinks {
		for j, label := range u.Labels {
			if first, ok := names[label]; ok {
				r.add(fmt.Sprintf("uplinks[%d].labels[%d]", i, j),
					fmt.Sprintf("%q is the name of %s; choose another label", label, first))
			}
		}
	}
}

func validateOperations(doc *Document, r *report) {
	names := map[string]string{}
	for i, o := range doc.Operations {
		path := fmt.Sprintf("operations[%d]", i)
		if first, ok := taken(names, o.Name, path); ok {
			r.add(path+".name", fmt.Sprintf("%q is already the name of %s; choose another", o.Name, first))
		}
		if !r.stands("uplinks") && !r.stands(path+".uplinks") && !r.faulty(path) {
			r.add(path, "chooses between uplinks, but the document has none; add uplinks or remove the operation")
		}
	}
}

// validateTranslation checks how uplinks treat IPv6, and the addresses that no segment has.
func validateTranslation(doc *Document, all []segment, r *report) {
	for i, u := range doc.Uplinks {
		path := fmt.Sprintf("uplinks[%d]", i)
		for j, server := range u.DNS {
			if server.Is6() && u.IPv6 == nil && !r.faulty(path+".ipv6") {
				r.add(fmt.Sprintf("%s.dns[%d]", path, j), fmt.Sprintf("%s is an IPv6 address, but the uplink has no IPv6; give it the key ipv6 or an IPv4 server", server))
			}
		}
		v, at := u.IPv6, path+".ipv6"
		if v == nil || r.faulty(at, at+".translate", at+".npt_prefix") {
			continue
		}
		switch {
		case v.Translate == TranslateNAT66 && len(v.Addresses) == 0 && !r.faulty(at+".addresses"):
			r.add(at+".translate", "nat66 translates to the first of the uplink's IPv6 addresses, and there is none; give addresses")
		case v.Translate == TranslateNPT && !v.NPTPrefix.IsValid():
			r.add(at+".npt_prefix", "is missing; give the subnet that the outside routes to the pair, or remove translate")
		case v.Translate != TranslateNPT && v.NPTPrefix.IsValid():
			r.add(at+".npt_prefix", "needs translate: npt; add that or remove this key")
		case v.Translate == TranslateNPT:
			validateNPT(doc, i, all, r)
		}
	}
	for i, w := range doc.Networks {
		address, at := w.RoutedNATAddress, fmt.Sprintf("networks[%d].routed_nat_address", i)
		s, ok := segmentOf(all, address)
		switch {
		case ok:
			r.add(at, fmt.Sprintf("%s is in %s of %s; give an address that the outside routes to the pair", address, s.prefix, s.path))
		case address.IsValid() && !askable(address):
			r.add(at, fmt.Sprintf("%s is not an address that can be routed; give one that the outside routes to the pair", address))
		case address.IsValid() && r.isolated(at):
			r.add(at, "needs an uplink; add one or remove this key")
		}
	}
}

// segmentOf returns the segment whose subnet an address is in.
func segmentOf(all []segment, address netip.Addr) (segment, bool) {
	for _, s := range all {
		if address.IsValid() && (s.prefix.Contains(address) || s.prefix6().Contains(address)) {
			return s, true
		}
	}
	return segment{}, false
}

// validateNPT checks that every network has an outer prefix of its own.
func validateNPT(doc *Document, index int, all []segment, r *report) {
	u := doc.Uplinks[index]
	outer, at := u.IPv6.NPTPrefix, fmt.Sprintf("uplinks[%d].ipv6.npt_prefix", index)
	for _, s := range all {
		if s.prefix6().Overlaps(outer) {
			r.add(at, fmt.Sprintf("%s overlaps %s of %s; give a subnet that the outside routes to the pair", outer, s.prefix6(), s.path))
			return
		}
	}
	for i, other := range doc.Uplinks[:index] {
		if other.IPv6 != nil && other.IPv6.NPTPrefix.Overlaps(outer) {
			r.add(at, fmt.Sprintf("%s overlaps that of uplinks[%d]; give every uplink one of its own", outer, i))
			return
		}
	}
	var first netip.Prefix
	count := uint64(0)
	for i, w := range doc.Networks {
		if w.IPv6 == nil || !w.IPv6.Prefix.IsValid() || !slices.Contains(w.allUplinks(), u.Name) {
			continue
		}
		inner, path := w.IPv6.Prefix, fmt.Sprintf("networks[%d].ipv6.prefix", i)
		if !first.IsValid() {
			first = inner
		}
		count++
		switch {
		case inner.Bits() < outer.Bits():
			r.add(path, fmt.Sprintf("%s does not fit into the npt_prefix %s of uplink %q; give that a shorter one", inner, outer, u.Name))
		case inner.Bits() != first.Bits():
			r.add(path, fmt.Sprintf("%s is not as long as %s, and uplink %q translates prefixes of one length; make them equal", inner, first, u.Name))
		case inner.Bits()-outer.Bits() < 63 && count > 1<<(inner.Bits()-outer.Bits()):
			r.add(at, fmt.Sprintf("%s has no subnet left for networks[%d]; give a shorter one", outer, i))
			return
		}
	}
}

// ownPlaces are the addresses of the pair, virtual and members' own, each with its path.
func ownPlaces(all []segment) map[netip.Addr]string {
	own := map[netip.Addr]string{}
	add := func(places ...place) {
		for _, p := range places {
			if p.address.IsValid() && !p.address.IsLinkLocalUnicast() {
				taken(own, p.address, p.path)
			}
		}
	}
	for _, s := range all {
		for _, places := range [][]place{s.places, s.places6} {
			if s.isUplink && len(places) > 0 {
				places = places[1:] // the next hop
			}
			add(places...)
		}
		for i, v := range s.virtualRouters {
			add(placesOf(s.router(i)+".addresses", v.Addresses)...)
		}
		for _, name := range slices.Sorted(maps.Keys(s.ports)) {
			path := join(s.path+".ports", name)
			add(place{path + ".address", s.ports[name].Address}, place{path + ".ipv6", s.ports[name].IPv6})
		}
	}
	return own
}
