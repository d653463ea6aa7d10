package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tandem/router"
)

// plan returns what turns the observed state into the intended one, in the order
// in which it must be done, and what stands in the way. It is pure.
func plan(intent router.Intent, seen observed) ([]op, Report) {
	p := newPlanner(withFamilies(intent, seen.families), seen)
	if hasIPv6(intent) && !hasIPv6(p.intent) {
		p.conflict("IPv6 is left out: this kernel has none; boot it without ipv6.disable=1 or take ipv6 out of the document")
	}
	p.chooseLinks()
	// The order of these calls is the order of execution; the doc comment of the
	// package says why.
	p.baseSettings()
	p.deleteLinks()
	p.deleteAddresses()
	p.ports()
	p.createLinks()
	p.add(op{kind: putUpFence, fenced: p.fenced()})
	p.tables()
	p.linkSysctls()
	p.virtualAddresses()
	p.raiseLinks()
	p.routes()
	p.rules()
	// Only now has netfilter certainly loaded connection tracking.
	p.sysctls(baseSysctls(intent), "", true)
	return p.ops, p.report
}

type planner struct {
	intent router.Intent
	seen   observed
	// links are the observed ones by name, places the observed addresses by value.
	links  map[string]link
	places map[netip.Addr][]address
	// usable are the virtual links that can stand.
	usable []router.VirtualLink
	// silenced are virtual links that cannot stand because their address is
	// configured elsewhere. Their parents are fenced all the same: theirs is the MAC
	// address that must not answer for it.
	silenced []router.VirtualLink
	// doomed are links that will be deleted: what hangs on them is as good as gone.
	doomed map[string]bool
	// virtual and own are the addresses that must stand.
	virtual map[spot]addressForm
	own     map[spot]bool
	// routed are the links by which routes lead.
	routed map[string]bool
	// lagging are interfaces on which a virtual link-local address would speak for
	// the node; see observeOrder.
	lagging map[string]bool
	ops     []op
	report  Report
	said    map[string]bool
}

// spot is an address on an interface.
type spot struct {
	link   string
	prefix netip.Prefix
}

func newPlanner(intent router.Intent, seen observed) *planner {
	p := &planner{
		intent: intent, seen: seen, links: seen.index(),
		places: make(map[netip.Addr][]address, len(seen.addresses)),
		doomed: make(map[string]bool), virtual: make(map[spot]addressForm),
		own: make(map[spot]bool, len(intent.Ports)), routed: make(map[string]bool), lagging: make(map[string]bool), said: make(map[string]bool),
	}
	for _, route := range intent.Routes {
		p.routed[route.Link] = true
	}
	for _, a := range seen.addresses {
		p.places[a.prefix.Addr()] = append(p.places[a.prefix.Addr()], a)
	}
	for _, port := range intent.Ports {
		p.own[spot{port.Interface, port.Prefix}] = true
	}
	return p
}

func (p *planner) add(o op) { p.ops = append(p.ops, o) }

func (p *planner) missing(name string) {
	if !p.said[name] {
		p.said[name] = true
		p.report.Missing = append(p.report.Missing, name)
	}
}

func (p *planner) conflict(format string, args ...any) {
	p.report.Conflicts = append(p.report.Conflicts, fmt.Sprintf(format, args...))
}

// ours tells whether a link carries the group's mark.
func ours(l link, group string) bool {
	return strings.HasPrefix(l.alias, aliasPrefix(group))
}

func aliasPrefix(group string) string { return "tandem:" + group + ":" }

func alias(group string, l router.VirtualLink) string { return aliasPrefix(group) + l.Carrier }

// unfinished tells whether a link is ours from a predecessor that died between
// creating and marking it.
func unfinished(have link, want router.VirtualLink) bool {
	return have.name == want.Name && have.alias == "" && !have.up && fits(have, want)
}

func fits(have link, want router.VirtualLink) bool {
	return have.macvlan && have.mac == want.MAC && have.parent == want.Parent
}

// chooseLinks sorts out the virtual links that cannot stand, each for a reason
// that is reported.
func (p *planner) chooseLinks() {
	macvlans := make(map[string]router.VirtualLink)
	for _, want := range p.intent.VirtualLinks {
		if p.blocked(want) {
			continue
		}
		if _, ok := p.links[want.Parent]; !ok {
			p.missing(want.Parent)
			continue
		}
		p.usable = append(p.usable, want)
		if !want.OwnMAC {
			macvlans[want.Name] = want
		}
		for _, a := range want.Addresses {
			p.virtual[spot{want.Name, virtualPrefix(want, a)}] = virtualForm(want, a)
		}
	}
	for _, l := range p.seen.links {
		if !ours(l, p.intent.Group) {
			continue
		}
		if want, ok := macvlans[l.name]; !ok || !fits(l, want) {
			p.doomed[l.name] = true
		}
	}
	p.observeOrder()
}

// blocked reports what of somebody else's stands in a virtual link's place.
func (p *planner) blocked(want router.VirtualLink) bool {
	if l, ok := p.links[want.Name]; ok && !want.OwnMAC && !ours(l, p.intent.Group) && !unfinished(l, want) {
		p.conflict("carrier %s is left out: an interface %s exists that is not Tandem's; delete or rename it", want.Carrier, want.Name)
		return true
	}
	for _, virtual := range want.Addresses {
		for _, a := range p.places[virtual] {
			if a.ours || ours(p.links[a.link], p.intent.Group) || a.link == want.Name && !want.OwnMAC {
				continue
			}
			// A link-local address means something else on every segment.
			if virtual.IsLinkLocalUnicast() && a.link != want.Parent {
				continue
			}
			p.conflict("carrier %s is left out: its virtual address %s is configured on %s; remove it there",
				want.Carrier, virtual, a.link)
			if _, ok := p.links[want.Parent]; ok {
				p.silenced = append(p.silenced, want)
			}
			return true
		}
	}
	return false
}

// fenced returns the links that the fence stands around.
func (p *planner) fenced() []router.VirtualLink {
	return append(p.usable[:len(p.usable):len(p.usable)], p.silenced...)
}

func (p *planner) deleteLinks() {
	for _, l := range p.seen.links {
		if p.doomed[l.name] {
			p.add(op{kind: deleteLink, link: l.name})
		}
	}
}

func (p *planner) ports() {
	var names []string
	for _, port := range p.intent.Ports {
		names = append(names, port.Interface)
	}
	for _, v := range p.usable {
		names = append(names, v.Parent)
	}
	looked := make(map[string]bool)
	for _, name := range names {
		if looked[name] {
			continue
		}
		looked[name] = true
		l, ok := p.links[name]
		if !ok {
			p.missing(name)
		}
		// A port that was set down after we had set it up stays down: that is an
		// operator's will.
		if ok && !l.up && !p.seen.raised[l.index] {
			p.add(op{kind: raisePort, link: name})
		}
	}
	for _, port := range p.intent.Ports {
		if _, ok := p.links[port.Interface]; ok {
			p.portAddress(port)
		}
	}
}

func (p *planner) createLinks() {
	for _, v := range p.usable {
		if v.OwnMAC {
			continue
		}
		l, ok := p.links[v.Name]
		mark := alias(p.intent.Group, v)
		if !ok || p.doomed[v.Name] {
			p.add(op{kind: createLink, link: v.Name, virtual: v})
		}
		if !ok || p.doomed[v.Name] || l.alias != mark {
			p.add(op{kind: markLink, link: v.Name, value: mark})
		}
	}
}

// standing returns the link of a virtual link unless it has yet to be made.
func (p *planner) standing(v router.VirtualLink) (link, bool) {
	l, ok := p.links[v.Name]
	return l, ok && !p.doomed[v.Name]
}

func (p *planner) raiseLinks() {
	for _, v := range p.usable {
		if l, ok := p.standing(v); !v.OwnMAC && (!ok || !l.up) {
			p.add(op{kind: raiseLink, link: v.Name})
		}
	}
}

func (p *planner) tables() {
	for _, f := range []family{ipv4, ipv6} {
		switch {
		case p.seen.tables[f]:
		case wantsTable(p.intent, f):
			p.add(op{kind: replaceTable, family: f, value: tableName(p.intent.Group)})
		default:
			p.add(op{kind: deleteTable, family: f, value: tableName(p.intent.Group)})
		}
	}
}

// wantsTable tells whether a family needs a netfilter table. That of IPv4 stands
// always: its nat hooks translate replicated flows.
func wantsTable(intent router.Intent, f family) bool { return f == ipv4 || hasIPv6(intent) }

// withFamilies returns the part of an intent that a kernel with the given families
// can be in.
func withFamilies(in router.Intent, families []family) router.Intent {
	foreign := func(a netip.Addr) bool { return !slices.Contains(families, familyOf(a)) }
	in.Ports = without(in.Ports, func(p router.PortAddress) bool { return foreign(p.Prefix.Addr()) })
	in.VirtualLinks = without(in.VirtualLinks, func(v router.VirtualLink) bool { return !slices.Contains(families, family(v.IPv6)) })
	in.Rules = without(in.Rules, func(r router.Rule) bool { return !slices.Contains(families, family(r.IPv6)) })
	in.Routes = without(in.Routes, func(r router.Route) bool { return foreign(r.Destination.Addr()) })
	return in
}

func without[T any](list []T, unwanted func(T) bool) []T {
	if !slices.ContainsFunc(list, unwanted) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), unwanted)
}

// hasIPv6 tells whether an intent has a virtual router of IPv6. Without one,
// nothing of IPv6 is touched.
func hasIPv6(intent router.Intent) bool {
	for _, v := range intent.VirtualLinks {
		if v.IPv6 {
			return true
		}
	}
	return false
}
