package kernel

import (
	"fmt"
	"net/netip"

	"tandem/router"
)

// kind is what an op does.
type kind int

const (
	setSysctl kind = iota
	raisePort
	deleteAddress
	deleteLink
	addAddress
	createLink
	markLink
	putUpFence
	replaceTable
	deleteTable
	raiseLink
	putRoute
	addRule
	deleteRule
	deleteRoute
)

// op is one change. Which fields count depends on the kind.
type op struct {
	kind kind
	// link is the interface that the op is about. If an op on a link fails, the
	// later ones on it are left out, and the other links go on.
	link    string
	path    string
	value   string
	prefix  netip.Prefix
	form    addressForm
	route   router.Route
	rule    router.Rule
	family  family
	virtual router.VirtualLink
	fenced  []router.VirtualLink
}

func (o op) String() string {
	switch o.kind {
	case setSysctl:
		return fmt.Sprintf("set %s to %s", o.path, o.value)
	case raisePort, raiseLink:
		return "set link " + o.link + " up"
	case deleteAddress:
		return fmt.Sprintf("delete address %s from %s", o.prefix, o.link)
	case deleteLink:
		return "delete link " + o.link
	case addAddress:
		return fmt.Sprintf("add address %s to %s", o.prefix, o.link)
	case createLink:
		return fmt.Sprintf("create link %s on %s with MAC %s", o.link, o.virtual.Parent, formatMAC(o.virtual.MAC))
	case markLink:
		return fmt.Sprintf("set alias of link %s to %s", o.link, o.value)
	case putUpFence:
		return "put up the fence"
	case replaceTable:
		return "replace table " + o.family.table() + " " + o.value
	case deleteTable:
		return "delete table " + o.family.table() + " " + o.value
	case putRoute:
		return "put route " + formatRoute(o.route)
	case deleteRoute:
		return "delete route " + formatRoute(o.route)
	case addRule:
		return "add rule " + formatRule(o.rule)
	case deleteRule:
		return "delete rule " + formatRule(o.rule)
	}
	return fmt.Sprintf("op(%d)", int(o.kind))
}

func formatMAC(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func formatRoute(r router.Route) string {
	s := r.Destination.String()
	if r.Unreachable {
		s = "unreachable " + s
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Link != "" {
		s += " dev " + r.Link
	}
	s += fmt.Sprintf(" table %d", r.Table)
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

func formatRule(r router.Rule) string {
	s := fmt.Sprintf("%d: from all", r.Preference)
	if r.From.IsValid() {
		s = fmt.Sprintf("%d: from %s", r.Preference, r.From)
	}
	if r.Incoming != "" {
		s += " iif " + r.Incoming
	}
	if r.Mask != 0 {
		s += fmt.Sprintf(" fwmark %#x/%#x", r.Mark, r.Mask)
	}
	s = fmt.Sprintf("%s lookup %d", s, r.Table)
	if r.IPv6 {
		s = "ipv6 " + s
	}
	return s
}
