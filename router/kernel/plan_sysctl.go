package kernel

import (
	"slices"
	"strings"

	"tandem/router"
)

// setting is a sysctl and its wanted value.
type setting struct{ path, value string }

// baseSysctls are what every node needs, with or without links.
func baseSysctls() []setting {
	return []setting{
		{"net/ipv4/ip_forward", "1"},
		// The kernel sends redirects if either "all" or the interface says so, and
		// they would name an address that hosts must not use (RFC 9568 §8.1.1).
		{"net/ipv4/conf/all/send_redirects", "0"},
		// Any other interface that happens to stand on the same segment would answer
		// for a virtual address, too, on the BACKUP as well.
		{"net/ipv4/conf/all/arp_ignore", "1"},
		// The default, 2, makes no events while nobody listens: a flow that begins
		// while the daemon restarts would never be replicated.
		{"net/netfilter/nf_conntrack_events", "1"},
		// A replicated flow's windows are older than its packets. Without this the
		// new MASTER takes live connections for invalid.
		{"net/netfilter/nf_conntrack_tcp_be_liberal", "1"},
		// Takes up connections in their midst that were not replicated in time. It
		// is the default; a hardened host may have it off.
		{"net/netfilter/nf_conntrack_tcp_loose", "1"},
	}
}

// rpFilter returns the value for our interfaces. The kernel takes the larger of
// "all" and the interface, and strict filtering (1) makes a macvlan deaf whose
// subnet is routed through its parent; loose (2) overrules it.
func rpFilter(all string) string {
	if all == "0" {
		return "0"
	}
	return "2"
}

// virtualSettings are the sysctls of a macvlan.
func virtualSettings(name, allRPFilter string) []setting {
	conf := "net/ipv4/conf/" + name + "/"
	return []setting{
		// No router solicitation, no duplicate address detection, no MLD.
		{"net/ipv6/conf/" + name + "/disable_ipv6", "1"},
		{conf + "forwarding", "1"},
		// Answer for the addresses of this link only (RFC 9568 §8.1.2).
		{conf + "arp_ignore", "1"},
		// Ask for neighbours in the name of the virtual address of this link, not of
		// whatever address the packet at hand comes from.
		{conf + "arp_announce", "2"},
		{conf + "rp_filter", rpFilter(allRPFilter)},
		// The other node's parent may talk to this link, and so may our own.
		{conf + "accept_local", "1"},
		{conf + "send_redirects", "0"},
	}
}

// parentSettings are the sysctls of the interface below.
func parentSettings(name, allRPFilter string) []setting {
	conf := "net/ipv4/conf/" + name + "/"
	return []setting{
		// Never answer for a virtual address. arp_filter would not do: with it both
		// MAC addresses answer.
		{conf + "arp_ignore", "1"},
		// A question for a neighbour in the name of a virtual address is dropped by
		// the fence, and the kernel would not ask again for a second.
		{conf + "arp_announce", "2"},
		{conf + "rp_filter", rpFilter(allRPFilter)},
		{conf + "send_redirects", "0"},
		// If our address goes, others of the same subnet must stay.
		{conf + "promote_secondaries", "1"},
	}
}

// lastingSettings are the sysctls that outlive our links and so must be restored.
func lastingSettings(intent router.Intent, seen observed) []setting {
	list := baseSysctls()
	var done []string
	for _, v := range intent.VirtualLinks {
		if _, ok := seen.link(v.Parent); ok && !slices.Contains(done, v.Parent) {
			done = append(done, v.Parent)
			list = append(list, parentSettings(v.Parent, seen.allRPFilter)...)
		}
	}
	return list
}

// sysctls plans the settings that differ. A file that does not exist is left
// alone, unless late, when it belongs to a module that must be there by now.
func (p *planner) sysctls(list []setting, link string, late bool) {
	for _, s := range list {
		value, exists := p.seen.sysctls[s.path]
		if exists == late || exists && value == s.value {
			continue
		}
		p.add(op{kind: setSysctl, link: link, path: s.path, value: s.value})
	}
}

func (p *planner) linkSysctls() {
	var done []string
	for _, v := range p.usable {
		settings := virtualSettings(v.Name, p.seen.allRPFilter)
		if _, ok := p.standing(v); ok {
			p.sysctls(settings, v.Name, false)
		} else {
			for _, s := range settings {
				p.add(op{kind: setSysctl, link: v.Name, path: s.path, value: s.value})
			}
		}
		if !slices.Contains(done, v.Parent) {
			done = append(done, v.Parent)
			p.sysctls(parentSettings(v.Parent, p.seen.allRPFilter), v.Parent, false)
		}
	}
}

// optional tells whether a node can do without a sysctl: without IPv6 in the
// kernel there is nothing to switch off.
func optional(path string) bool { return strings.HasPrefix(path, "net/ipv6/") }
