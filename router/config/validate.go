package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

const (
	// maxMembers is the size of a pair.
	maxMembers = 2
	// maxSegments is the number of VRIDs.
	maxSegments = 255
	// reservedCarrier and secondCarrier are the names under which the HA links carry
	// adverts.
	reservedCarrier = "ha"
	secondCarrier   = "ha2"
)

// validate reports what contradicts itself. It passes over zero fields: they
// were reported when they were read.
func validate(doc *Document, r *report) {
	validateMembers(doc, r)
	validateHALink(doc, r)
	validateNames(doc, r)
	validateLabels(doc, r)
	validateOperations(doc, r)
	validateSessions(doc, r)
	all := segments(doc)
	if len(all) > maxSegments {
		r.add("", fmt.Sprintf("the document has %d segments, but there are only %d VRIDs; split it into several groups",
			len(all), maxSegments))
		return
	}
	unread := r.faulty("ha_link", "second_ha_link", "uplinks", "networks")
	if len(all) == 0 && !unread {
		r.add("", "the document has no ha_link, no uplinks and no networks; add at least one network")
	}
	validateElection(doc, r)
	validateVRIDs(all, r)
	validatePrefixes(all, r)
	for _, s := range all {
		validatePorts(doc, s, r)
		validateVRRP(doc, s, r)
		validateAddresses(s, r)
		if s.ipv6 != nil {
			validateIPv6(s, r)
		} else {
			validateNoIPv6(s, r)
		}
		validateVirtualRouters(s, r)
	}
	validateInterfaces(all, r)
	validateTranslation(doc, all, r)
	validatePaths(doc, all, r)
	validateInbound(doc, all, r)
}

func validateMembers(doc *Document, r *report) {
	if len(doc.Members) == 0 && !r.faulty("members") {
		r.add("members", "is empty; "+giveMembers)
	}
	if len(doc.Members) > maxMembers {
		r.add("members", fmt.Sprintf("has %d nodes, but a group has one or two; remove the others", len(doc.Members)))
	}
	names, keys, priorities := map[string]string{}, map[string]string{}, map[uint8]string{}
	for i, m := range doc.Members {
		path := fmt.Sprintf("members[%d]", i)
		if first, ok := taken(names, m.Name, path); ok {
			r.add(path+".name", fmt.Sprintf("%q is already the name of %s; choose another", m.Name, first))
		}
		if first, ok := taken(priorities, m.Priority, path); ok {
			r.add(path+".priority", fmt.Sprintf("is %d like that of %s; give the members different priorities", m.Priority, first))
		}
		if first, ok := taken(keys, m.PublicKey, path); ok {
			r.add(path+".public_key", fmt.Sprintf("is also the key of %s; run `tandem keygen` on each node", first))
		}
		if m.PublicKey == "" && len(doc.Members) > 1 && !r.faulty(path, path+".public_key") {
			r.add(path+".public_key", "is missing; with two members give the line that `tandem keygen` prints on the node")
		}
	}
}

func validateHALink(doc *Document, r *report) {
	switch {
	case doc.HALink == nil && len(doc.Members) > 1 && !r.faulty("ha_link"):
		r.add("ha_link", "is missing; two members need a link between them")
	case doc.HALink != nil && len(doc.Members) == 1:
		r.add("ha_link", "stands in a document with a single member; add the second member or remove the link")
	}
	if doc.SecondHALink != nil && len(doc.Members) == 1 {
		r.add("second_ha_link", "stands in a document with a single member; add the second member or remove the link")
	}
}

// validateNames checks that no two carriers share a name.
func validateNames(doc *Document, r *report) {
	names := map[string]string{}
	check := func(path, name string) {
		if name == reservedCarrier || name == secondCarrier {
			r.add(path+".name", fmt.Sprintf("%q is the name of an HA link; choose another", name))
		} else if first, ok := taken(names, name, path); ok {
			r.add(path+".name", fmt.Sprintf("%q is already the name of %s; choose another", name, first))
		}
	}
	for i, u := range doc.Uplinks {
		check(fmt.Sprintf("uplinks[%d]", i), u.Name)
	}
	for i, w := range doc.Networks {
		check(fmt.Sprintf("networks[%d]", i), w.Name)
	}
}

func validateSessions(doc *Document, r *report) {
	for i, w := range doc.Networks {
		if w.FirstPacket == FirstPacketHold && !w.Replicate {
			path := fmt.Sprintf("networks[%d]", i)
			r.add(path+".first_packet", "hold waits until the BACKUP knows a flow, but replicate is false; remove one of the two keys")
		}
	}
}

// validateVRIDs checks that each VRID is used once in each family: that makes the
// names and MAC addresses of virtual links different.
func validateVRIDs(all []segment, r *report) {
	seen := map[bool]map[uint8]string{false: {}, true: {}}
	check := func(path, at string, vrid uint8, ipv6 bool) {
		family := ""
		if ipv6 {
			family = "IPv6 "
		}
		if first, ok := taken(seen[ipv6], vrid, path); ok && !r.faulty(at) {
			r.add(at, fmt.Sprintf("%d is already the %sVRID of %s; choose another", vrid, family, first))
		}
	}
	for _, s := range all {
		check(s.path, s.path+".vrid", s.vrid, false)
	}
	for _, s := range all {
		if s.ipv6 != nil {
			check(s.path+".ipv6", s.path+".ipv6.vrid", s.ipv6.VRID, true)
		}
	}
	for _, s := range all {
		for i, v := range s.virtualRouters {
			path := s.router(i)
			if v.has(netip.Addr.Is4) {
				check(path, path+".vrid", v.VRID, false)
			}
			if v.has(netip.Addr.Is6) {
				check(path, path+".vrid", v.VRID, true)
			}
		}
	}
}

// validatePrefixes names the first overlap of each segment, in each family.
func validatePrefixes(all []segment, r *report) {
	for i, s := range all {
		for _, other := range all[:i] {
			if s.prefix.Overlaps(other.prefix) {
				r.add(s.path+".prefix", fmt.Sprintf("%s overlaps %s of %s; give every segment a subnet of its own",
					s.prefix, other.prefix, other.path))
				break
			}
		}
		for _, other := range all[:i] {
			if s.prefix6().Overlaps(other.prefix6()) {
				r.add(s.path+".ipv6.prefix", fmt.Sprintf("%s overlaps %s of %s; give every segment a subnet of its own",
					s.prefix6(), other.prefix6(), other.path))
				break
			}
		}
	}
}

// validatePorts checks that each member, and nobody else, has a port.
func validatePorts(doc *Document, s segment, r *report) {
	path := s.path + ".ports"
	if s.ports == nil || r.faulty(path) {
		return
	}
	var names []string
	for _, m := range doc.Members {
		if m.Name == "" {
			return
		}
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return
	}
	for _, name := range names {
		if _, ok := s.ports[name]; !ok {
			r.add(join(path, name), "is missing; give this member's interface and address")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		if !slices.Contains(names, name) {
			r.add(join(path, name), "there is no such member; name one of "+strings.Join(names, ", "))
		}
	}
}

// validateInterfaces checks that no member uses an interface twice.
func validateInterfaces(all []segment, r *report) {
	type port struct{ member, link string }
	seen := map[port]string{}
	for _, s := range all {
		for _, name := range slices.Sorted(maps.Keys(s.ports)) {
			link := s.ports[name].Interface
			if link == "" {
				continue
			}
			path := join(s.path+".ports", name)
			if first, ok := taken(seen, port{name, link}, path); ok {
				r.add(path+".interface", fmt.Sprintf("%s is already used by %s; give every segment an interface or a VLAN of its own",
					link, first))
			}
		}
	}
}

// taken notes that a path uses a value, or returns the path that already does.
// Zero values belong to nobody.
func taken[V comparable](by map[V]string, value V, path string) (string, bool) {
	var zero V
	if value == zero {
		return "", false
	}
	first, ok := by[value]
	if !ok {
		by[value] = path
	}
	return first, ok
}

func uplink(doc *Document, name string) (Uplink, bool) {
	for _, u := range doc.Uplinks {
		if u.Name == name && name != "" {
			return u, true
		}
	}
	return Uplink{}, false
}
