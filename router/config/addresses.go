package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

const (
	// maxAddresses4 is what the count of an advert holds (RFC 9568 §5.2.5).
	maxAddresses4 = 255
	// maxAddresses6 is what fits into an advert of 1500 bytes, the link-local address
	// not counted, and maxSigned6 what fits beside an authenticator.
	maxAddresses6 = 89
	maxSigned6    = 87
)

// most6 returns how many IPv6 addresses a virtual router of the segment can have.
func (s segment) most6() int {
	if s.vrrp.Authentication {
		return maxSigned6
	}
	return maxAddresses6
}

// validateAddresses checks that every IPv4 address belongs to its segment and to
// nothing else in it.
func validateAddresses(s segment, r *report) {
	places := slices.Concat(s.places, s.placesOfRouters(netip.Addr.Is4))
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		places = append(places, place{join(s.path+".ports", name) + ".address", s.ports[name].Address})
	}
	validateDistinct(places, r)
	for _, p := range places {
		if !p.address.IsValid() || !s.prefix.IsValid() {
			continue
		}
		if message := misplaced(p.address, s.prefix); message != "" {
			r.add(p.path, message)
		}
	}
	if count := len(s.places) - 1; count > maxAddresses4 {
		r.add(s.path+".addresses", crowded(count, maxAddresses4))
	}
}

func crowded(count, most int) string {
	return fmt.Sprintf("has %d addresses of one family, but an advertisement holds %d; move the others to another of virtual_routers", count, most)
}

// validateDistinct checks that no two places on a segment have the same address.
func validateDistinct(places []place, r *report) {
	seen := map[netip.Addr]string{}
	for _, p := range places {
		if first, ok := taken(seen, p.address, p.path); ok {
			r.add(p.path, fmt.Sprintf("%s is already used by %s; choose another address", p.address, first))
		}
	}
}

// validateIPv6 does for IPv6 what validateAddresses does for IPv4, and checks the
// link-local addresses: those of the virtual routers and of the members.
func validateIPv6(s segment, r *report) {
	at := s.path + ".ipv6"
	hosts := slices.Concat(s.places6, s.placesOfRouters(netip.Addr.Is6))
	local := []place{{at + ".link_local", s.ipv6.LinkLocal}}
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		path := join(s.path+".ports", name)
		hosts = append(hosts, place{path + ".ipv6", s.ports[name].IPv6})
		local = append(local, place{path + ".link_local", s.ports[name].LinkLocal})
	}
	for i, v := range s.virtualRouters {
		// It stands nowhere in the document, but follows from the VRID.
		at := s.router(i) + ".vrid"
		if v.VRID != 0 && v.has(netip.Addr.Is6) && !r.faulty(at) {
			local = append(local, place{at, v.LinkLocal()})
		}
	}
	validateDistinct(slices.Concat(local, hosts), r)
	for _, p := range local {
		if p.address.IsValid() && !linkLocal(p.address) {
			r.add(p.path, fmt.Sprintf("%s is not a link-local address; choose one of fe80::/64 or remove the key", p.address))
		}
	}
	for i, p := range hosts {
		nextHop := s.isUplink && i == 0 && linkLocal(p.address)
		if !p.address.IsValid() || !s.ipv6.Prefix.IsValid() || nextHop {
			continue
		}
		if message := misplaced6(p.address, s.ipv6.Prefix); message != "" {
			r.add(p.path, message)
		}
	}
	if count := len(s.places6) - 1; count > s.most6() {
		r.add(at+".addresses", crowded(count, s.most6()))
	}
}

// validateNoIPv6 checks that nothing of IPv6 stands on a segment without it.
func validateNoIPv6(s segment, r *report) {
	if r.faulty(s.path + ".ipv6") {
		return // it was meant to have it
	}
	const needs = "needs the segment's IPv6; give it the key ipv6 or remove this one"
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		path := join(s.path+".ports", name)
		if s.ports[name].IPv6.IsValid() {
			r.add(path+".ipv6", needs)
		}
		if s.ports[name].LinkLocal.IsValid() {
			r.add(path+".link_local", needs)
		}
	}
	for _, p := range s.placesOfRouters(netip.Addr.Is6) {
		r.add(p.path, fmt.Sprintf("%s needs the segment's IPv6; give it the key ipv6 or remove the address", p.address))
	}
}

// validateVirtualRouters checks the counts; the addresses are checked with those of the
// segment.
func validateVirtualRouters(s segment, r *report) {
	for i, v := range s.virtualRouters {
		count6 := 0
		for _, address := range v.Addresses {
			if address.Is6() {
				count6++
			}
		}
		if count4 := len(v.Addresses) - count6; count4 > maxAddresses4 {
			r.add(s.router(i)+".addresses", crowded(count4, maxAddresses4))
		}
		if count6 > s.most6() {
			r.add(s.router(i)+".addresses", crowded(count6, s.most6()))
		}
	}
}

// linkLocal tells whether a host may have this link-local address: only fe80::/64 of
// fe80::/10 is in use (RFC 4291 §2.5.6), and its first address is that of all routers.
func linkLocal(address netip.Addr) bool {
	first := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80})
	return address != first && netip.PrefixFrom(first, 64).Contains(address)
}

// misplaced6 says why an address cannot be a host's in the prefix; it is empty if
// it can.
func misplaced6(address netip.Addr, prefix netip.Prefix) string {
	switch {
	case !prefix.Contains(address):
		return fmt.Sprintf("%s is not in %s; choose one of its addresses", address, prefix)
	case prefix.Bits() == 127: // Both are hosts', RFC 6164.
		return ""
	case address == prefix.Addr():
		return fmt.Sprintf("%s is the anycast address of all routers of %s (RFC 4291); choose another, such as %s", address, prefix, address.Next())
	case prefix.Bits() == 64 && reservedAnycast(address):
		return fmt.Sprintf("%s is a reserved anycast address of %s (RFC 2526); choose another, such as %s", address, prefix, prefix.Addr().Next())
	}
	return ""
}

// reservedAnycast tells whether the interface identifier is one of RFC 2526's. In
// prefixes that are longer, people number their hosts without regard to it.
func reservedAnycast(address netip.Addr) bool {
	id := address.As16()
	return [7]byte(id[8:15]) == [7]byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff} && id[15] >= 0x80
}

// misplaced says why an address cannot be a host's in the prefix; it is empty if
// it can.
func misplaced(address netip.Addr, prefix netip.Prefix) string {
	low, high := prefix.Addr(), broadcast(prefix)
	first, last := low, high
	if prefix.Bits() <= 30 { // In a /31 both addresses are hosts', RFC 3021.
		first, last = low.Next(), high.Prev()
	}
	what := "is not in"
	switch {
	case first.Compare(address) <= 0 && address.Compare(last) <= 0:
		return ""
	case address == low:
		what = "is the network address of"
	case address == high:
		what = "is the broadcast address of"
	}
	return fmt.Sprintf("%s %s %s; choose one from %s to %s", address, what, prefix, first, last)
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(prefix netip.Prefix) netip.Addr {
	last := prefix.Addr().As4()
	for bit := prefix.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(last)
}
