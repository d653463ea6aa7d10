package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"

	"tandem/router"
)

// forwarding lets pass what the intent names and nothing else, as far as virtual
// links take part; traffic between other interfaces is not our business.
//
// Known flows pass first, replicated ones too: with nf_conntrack_tcp_be_liberal
// they are never invalid, whatever their windows say.
func forwarding(intent router.Intent, f family) []filterRule {
	s := sidesOf(intent, f)
	if len(s.all) == 0 {
		return nil
	}
	rules := []filterRule{
		{
			text:   "ct state established,related accept",
			steps:  []matchStep{state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
			action: accept(),
		},
		// Untranslated, it would tell the outside our addresses.
		dropState("iifname", expr.MetaKeyIIFNAME, s.all),
		dropState("oifname", expr.MetaKeyOIFNAME, s.all),
	}
	rules = append(rules, silent(intent, s)...)
	rules = append(rules, attachments(intent, f)...)
	rules = append(rules, judged(intent)...)
	rules = append(rules, admitted(intent, s)...)
	if len(s.networks) > 0 {
		names := "{ " + strings.Join(s.networks, ", ") + " }"
		rules = append(rules, filterRule{
			text:   "iifname " + names + " oifname " + names + " accept",
			steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, s.networks), oneOf(expr.MetaKeyOIFNAME, s.networks)},
			action: accept(),
		})
		if len(outward(intent, f, s)) > 0 {
			rules = append(rules, filterRule{
				text: "iifname " + names + " jump outward", steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, s.networks)}, action: jump("outward"),
			})
		}
	}
	list := "{ " + strings.Join(s.all, ", ") + " }"
	return append(
		rules,
		filterRule{text: "iifname " + list + " drop", steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, s.all)}, action: drop()},
		filterRule{text: "oifname " + list + " drop", steps: []matchStep{oneOf(expr.MetaKeyOIFNAME, s.all)}, action: drop()},
	)
}

// outward lets new flows that come from networks pass to uplinks: what is translated there,
// and of IPv6 also what has an address of the network it comes from.
func outward(intent router.Intent, f family, s sides) []filterRule {
	if len(s.networks) == 0 {
		return nil
	}
	var rules []filterRule
	for _, n := range intent.NAT {
		if familyOf(n.From.Addr()) == f {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("saddr %s oifname %q accept", n.From.Masked(), n.Link),
				steps:  []matchStep{source(n.From), named(expr.MetaKeyOIFNAME, n.Link)},
				action: accept(),
			})
		}
	}
	for _, d := range intent.Direct {
		if familyOf(d.Destination.Addr()) == f {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("saddr %s daddr %s oifname { %s } accept", d.Network.Masked(), d.Destination.Masked(), strings.Join(d.Links, ", ")),
				steps:  []matchStep{source(d.Network), target(d.Destination), oneOf(expr.MetaKeyOIFNAME, d.Links)},
				action: accept(),
			})
		}
	}
	if f == ipv4 {
		return rules
	}
	for _, n := range subnets(intent, s.networks) {
		links := without(s.uplinks, func(link string) bool {
			return slices.ContainsFunc(intent.NAT, func(t router.SourceNAT) bool { return t.Link == link && t.From.Masked() == n.prefix })
		})
		if len(links) == 0 {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("iifname %q saddr %s oifname { %s } accept", n.link, n.prefix, strings.Join(links, ", ")),
			steps:  []matchStep{named(expr.MetaKeyIIFNAME, n.link), source(n.prefix), oneOf(expr.MetaKeyOIFNAME, links)},
			action: accept(),
		})
	}
	return rules
}

// subnets returns the prefixes of IPv6 that are directly on the named links, each once,
// by the routes of the intent.
func subnets(intent router.Intent, names []string) []spot {
	done := make(map[spot]bool)
	network := make(map[string]bool, len(names))
	for _, name := range names {
		network[name] = true
	}
	var list []spot
	for _, r := range intent.Routes {
		at := spot{r.Link, r.Destination.Masked()}
		if !network[r.Link] || r.Gateway.IsValid() || familyOf(at.prefix.Addr()) == ipv4 || done[at] {
			continue
		}
		done[at] = true
		list = append(list, at)
	}
	return list
}

func dropState(field string, key expr.MetaKey, names []string) filterRule {
	return filterRule{
		text:   field + " { " + strings.Join(names, ", ") + " } ct state invalid drop",
		steps:  []matchStep{oneOf(key, names), state(expr.CtStateBitINVALID)},
		action: drop(),
	}
}

// sides are the names of all virtual links and, of one family, of those that lead
// to networks and of those that lead outside.
type sides struct{ all, networks, uplinks []string }

// sidesOf sorts the virtual links. What looks like an uplink in any way is none to
// a network: to be taken for an uplink costs reachability, to be taken for a
// network opens the door.
func sidesOf(intent router.Intent, f family) sides {
	outside := make(map[string]bool)
	for _, u := range intent.Uplinks {
		for _, link := range u.Links {
			outside[link] = true
		}
	}
	for _, n := range intent.NAT {
		outside[n.Link] = true
	}
	for _, r := range intent.Routes {
		if r.Destination.Bits() == 0 && r.Gateway.IsValid() {
			outside[r.Link] = true
		}
	}
	guarded := make(map[netip.Addr]bool, len(intent.Guarded))
	for _, a := range intent.Guarded {
		guarded[a] = true
	}
	// All virtual routers of a segment are on the same side.
	segments := make(map[string]bool)
	for _, v := range intent.VirtualLinks {
		if outside[v.Name] || slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return guarded[a] }) {
			segments[v.Parent] = true
		}
	}
	var s sides
	done := make(map[string]bool)
	for _, v := range intent.VirtualLinks {
		if !done[v.Name] {
			s.all = append(s.all, v.Name)
		}
		done[v.Name] = true
		names := &s.networks
		if segments[v.Parent] {
			names = &s.uplinks
		}
		if family(v.IPv6) == f && !slices.Contains(*names, v.Name) {
			*names = append(*names, v.Name)
		}
	}
	return s
}
