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
	p := planner{intent: intent, seen: seen, doomed: make(map[string]bool)}
	p.chooseLinks()
	// The order of these calls is the order of execution; the doc comment of the
	// package says why.
	p.sysctls(baseSysctls(), "", false)
	p.deleteLinks()
	p.deleteAddresses()
	p.ports()
	p.createLinks()
	p.add(op{kind: putUpFence, fenced: append(slices.Clip(p.usable), p.silenced...)})
	if !seen.table {
		p.add(op{kind: replaceTable, value: tableName(intent.Group)})
	}
	p.linkSysctls()
	p.virtualAddresses()
	p.raiseLinks()
	p.routes()
	p.rules()
	// Only now has netfilter certainly loaded connection tracking.
	p.sysctls(baseSysctls(), "", true)
	return p.ops, p.report
}

type planner struct {
	intent router.Intent
	seen   observed
	// usable are the virtual links that can stand.
	usable []router.VirtualLink
	// silenced are virtual links that cannot stand because their address is
	// configured elsewhere. Their parents are fenced all the same: theirs is the MAC
	// address that must not answer for it.
	silenced []router.VirtualLink
	// doomed are links that will be deleted: what hangs on them is as good as gone.
	doomed map[string]bool
	ops    []op
	report Report
}

func (p *planner) add(o op) { p.ops = append(p.ops, o) }

func (p *planner) missing(name string) {
	if !slices.Contains(p.report.Missing, name) {
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
	for _, want := range p.intent.VirtualLinks {
		if p.blocked(want) {
			continue
		}
		if _, ok := p.seen.link(want.Parent); !ok {
			p.missing(want.Parent)
			continue
		}
		p.usable = append(p.usable, want)
	}
	for _, l := range p.seen.links {
		i := slices.IndexFunc(p.usable, func(v router.VirtualLink) bool { return v.Name == l.name })
		if !ours(l, p.intent.Group) {
			continue
		}
		if i < 0 || !fits(l, p.usable[i]) {
			p.doomed[l.name] = true
		}
	}
}

// blocked reports what of somebody else's stands in a virtual link's place.
func (p *planner) blocked(want router.VirtualLink) bool {
	if l, ok := p.seen.link(want.Name); ok && !ours(l, p.intent.Group) && !unfinished(l, want) {
		p.conflict("carrier %s is left out: an interface %s exists that is not Tandem's; delete or rename it", want.Carrier, want.Name)
		return true
	}
	for _, a := range p.seen.addresses {
		if !slices.Contains(want.Addresses, a.prefix.Addr()) {
			continue
		}
		if l, ok := p.seen.link(a.link); ok && ours(l, p.intent.Group) || a.link == want.Name {
			continue
		}
		p.conflict("carrier %s is left out: its virtual address %s is configured on %s; remove it there",
			want.Carrier, a.prefix.Addr(), a.link)
		if _, ok := p.seen.link(want.Parent); ok {
			p.silenced = append(p.silenced, want)
		}
		return true
	}
	return false
}

func (p *planner) deleteLinks() {
	for _, l := range p.seen.links {
		if p.doomed[l.name] {
			p.add(op{kind: deleteLink, link: l.name})
		}
	}
}

// deleteAddresses takes our addresses away that are no longer wanted. It comes
// before additions, because an address may have moved to another interface.
func (p *planner) deleteAddresses() {
	for _, a := range p.seen.addresses {
		if p.doomed[a.link] || p.wanted(a) {
			continue
		}
		l, _ := p.seen.link(a.link)
		if a.ours || ours(l, p.intent.Group) {
			p.add(op{kind: deleteAddress, link: a.link, prefix: a.prefix})
		}
	}
}

func (p *planner) wanted(a address) bool {
	for _, v := range p.usable {
		if v.Name == a.link {
			return slices.Contains(v.Addresses, a.prefix.Addr()) && a.prefix.IsSingleIP()
		}
	}
	return slices.Contains(p.intent.Ports, router.PortAddress{Interface: a.link, Prefix: a.prefix})
}

func (p *planner) ports() {
	var names []string
	for _, port := range p.intent.Ports {
		names = append(names, port.Interface)
	}
	for _, v := range p.usable {
		names = append(names, v.Parent)
	}
	for i, name := range names {
		l, ok := p.seen.link(name)
		if !ok {
			p.missing(name)
		}
		// A port that was set down after we had set it up stays down: that is an
		// operator's will.
		if ok && !l.up && !p.seen.raised[l.index] && !slices.Contains(names[:i], name) {
			p.add(op{kind: raisePort, link: name})
		}
	}
	for _, port := range p.intent.Ports {
		if _, ok := p.seen.link(port.Interface); ok {
			p.portAddress(port)
		}
	}
}

func (p *planner) portAddress(port router.PortAddress) {
	for _, a := range p.seen.addresses {
		if a.prefix.Addr() != port.Prefix.Addr() || a.ours && !p.wanted(a) {
			continue
		}
		if a.link == port.Interface && a.prefix == port.Prefix {
			return
		}
		p.conflict("address %s of interface %s is left out: %s is configured on %s; remove it there",
			port.Prefix, port.Interface, a.prefix, a.link)
		return
	}
	p.add(op{kind: addAddress, link: port.Interface, prefix: port.Prefix})
}

func (p *planner) createLinks() {
	for _, v := range p.usable {
		l, ok := p.seen.link(v.Name)
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
	l, ok := p.seen.link(v.Name)
	return l, ok && !p.doomed[v.Name]
}

func (p *planner) virtualAddresses() {
	for _, v := range p.usable {
		_, stands := p.standing(v)
		for _, a := range v.Addresses {
			prefix := netip.PrefixFrom(a, a.BitLen())
			if !stands || !slices.ContainsFunc(p.seen.addresses, func(have address) bool {
				return have.link == v.Name && have.prefix == prefix
			}) {
				p.add(op{kind: addAddress, link: v.Name, prefix: prefix})
			}
		}
	}
}

func (p *planner) raiseLinks() {
	for _, v := range p.usable {
		if l, ok := p.standing(v); !ok || !l.up {
			p.add(op{kind: raiseLink, link: v.Name})
		}
	}
}

// linkExists tells whether routes may use a link, now or after the plan.
func (p *planner) linkExists(name string) bool {
	if slices.ContainsFunc(p.usable, func(v router.VirtualLink) bool { return v.Name == name }) {
		return true
	}
	if slices.ContainsFunc(p.intent.VirtualLinks, func(v router.VirtualLink) bool { return v.Name == name }) {
		return false // already reported
	}
	_, ok := p.seen.link(name)
	if !ok {
		p.missing(name)
	}
	return ok
}

// routes are put before the stale ones go, so that a changed metric leaves no gap.
func (p *planner) routes() {
	var want []router.Route
	for _, r := range p.intent.Routes {
		if r.Link == "" || p.linkExists(r.Link) {
			r.Destination = r.Destination.Masked()
			want = append(want, r)
		}
	}
	for _, r := range want {
		p.route(r)
	}
	for _, have := range p.seen.routes {
		replaced := slices.ContainsFunc(want, func(w router.Route) bool { return sameSlot(w, have.Route) })
		if have.ours && !p.doomed[have.Link] && !replaced {
			p.add(op{kind: deleteRoute, route: have.Route})
		}
	}
}

func (p *planner) route(want router.Route) {
	for _, have := range p.seen.routes {
		if !sameSlot(want, have.Route) || p.doomed[have.Link] {
			continue
		}
		if !have.ours {
			p.conflict("route %s is left out: a route that is not Tandem's stands in its place; delete it or choose another table",
				formatRoute(want))
			return
		}
		if have.exact && have.Route == want {
			return
		}
	}
	p.add(op{kind: putRoute, link: want.Link, route: want})
}

// sameSlot tells whether two routes exclude each other in the kernel.
func sameSlot(a, b router.Route) bool {
	return a.Table == b.Table && a.Destination == b.Destination && a.Metric == b.Metric
}

func (p *planner) rules() {
	var want []router.Rule
	for _, r := range p.intent.Rules {
		want = append(want, normalRule(r))
	}
	for i, r := range want {
		if !slices.Contains(p.seen.rules, r) && !slices.Contains(want[:i], r) {
			p.add(op{kind: addRule, rule: r})
		}
	}
	for _, have := range p.seen.rules {
		if !slices.Contains(want, have) {
			p.add(op{kind: deleteRule, rule: have})
		}
	}
}

// normalRule gives the one form to rules that mean the same.
func normalRule(r router.Rule) router.Rule {
	switch {
	case r.From.IsValid() && r.From.Bits() == 0:
		r.From = netip.Prefix{}
	case r.From.IsValid():
		r.From = r.From.Masked()
	}
	return r
}
