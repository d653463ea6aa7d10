package kernel

import (
	"net/netip"

	"tandem/router"
)

// defaultMetric6 is the metric that the kernel gives to a route of IPv6 without one.
const defaultMetric6 = 1024

// slot is what routes of one family exclude each other by.
type slot struct {
	table       int
	destination netip.Prefix
	metric      int
}

func slotOf(r router.Route) slot { return slot{r.Table, r.Destination, r.Metric} }

// routes are put before the stale ones go, so that a changed metric leaves no gap.
func (p *planner) routes() {
	have := make(map[slot][]route, len(p.seen.routes))
	for _, r := range p.seen.routes {
		if !p.doomed[r.Link] {
			have[slotOf(r.Route)] = append(have[slotOf(r.Route)], r)
		}
	}
	wanted := make(map[slot]bool, len(p.intent.Routes))
	usable := p.usableLinks()
	// The kernel takes a gateway of IPv6 only if the table says already where it is.
	var direct, indirect []router.Route
	for _, r := range p.intent.Routes {
		r, ok := p.normalRoute(r, usable)
		switch {
		case !ok:
		case r.Gateway.IsValid():
			indirect = append(indirect, r)
		default:
			direct = append(direct, r)
		}
		if ok {
			wanted[slotOf(r)] = true
		}
	}
	for _, r := range append(direct, indirect...) {
		p.route(r, have[slotOf(r)])
	}
	for _, r := range p.seen.routes {
		if r.ours && !p.doomed[r.Link] && !wanted[slotOf(r.Route)] {
			p.add(op{kind: deleteRoute, route: r.Route})
		}
	}
}

// usableLinks tells which virtual links' routes can stand.
func (p *planner) usableLinks() map[string]bool {
	m := make(map[string]bool, len(p.intent.VirtualLinks))
	for _, v := range p.intent.VirtualLinks {
		m[v.Name] = false
	}
	for _, v := range p.usable {
		m[v.Name] = p.carries(v)
	}
	return m
}

// carries tells whether the kernel takes routes by a virtual link: not by an
// interface that an operator keeps down.
func (p *planner) carries(v router.VirtualLink) bool {
	l := p.links[v.Parent]
	return !v.OwnMAC || l.up || !p.seen.raised[l.index]
}

// normalRoute returns the form in which the kernel shows a route. A subnet whose
// link cannot stand is unreachable: it must not leave by the default route, above
// all not what is for a virtual address that is not here (RFC 9568 §8.3.1).
func (p *planner) normalRoute(r router.Route, usable map[string]bool) (_ router.Route, ok bool) {
	r.Destination = r.Destination.Masked()
	if r.Metric == 0 && familyOf(r.Destination.Addr()) == ipv6 {
		r.Metric = defaultMetric6
	}
	if r.Link == "" {
		return r, true
	}
	stands, virtual := usable[r.Link]
	if !virtual {
		var l link
		if l, stands = p.links[r.Link]; !stands {
			p.missing(r.Link)
		}
		stands = stands && (l.up || !p.seen.raised[l.index])
	}
	if stands {
		return r, true
	}
	r.Link, r.Unreachable = "", true
	return r, !r.Gateway.IsValid()
}

func (p *planner) route(want router.Route, have []route) {
	for _, r := range have {
		if !r.ours {
			p.conflict("route %s is left out: a route that is not Tandem's stands in its place; delete it or choose another table",
				formatRoute(want))
			return
		}
		if r.exact && r.Route == want {
			return
		}
	}
	p.add(op{kind: putRoute, link: want.Link, route: want})
}

func (p *planner) rules() {
	have := make(map[router.Rule]bool, len(p.seen.rules))
	for _, r := range p.seen.rules {
		have[r] = true
	}
	wanted := make(map[router.Rule]bool, len(p.intent.Rules))
	for _, r := range p.intent.Rules {
		r = normalRule(r)
		if !have[r] && !wanted[r] {
			p.add(op{kind: addRule, rule: r})
		}
		wanted[r] = true
	}
	for _, r := range p.seen.rules {
		if !wanted[r] {
			p.add(op{kind: deleteRule, rule: r})
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
