package kernel

import (
	"strings"

	"tandem/router"
)

const (
	allForwarding4 = "net/ipv4/ip_forward"
	allForwarding6 = "net/ipv6/conf/all/forwarding"
)

// setting is a sysctl and its wanted value.
type setting struct{ path, value string }

// baseSysctls are what every node needs, with or without links.
func baseSysctls(intent router.Intent) []setting {
	list := []setting{
		{allForwarding4, "1"},
		// The kernel sends redirects if either "all" or the interface says so, and
		// they would name an address that hosts must not use (RFC 9568 §8.1.1).
		{"net/ipv4/conf/all/send_redirects", "0"},
		// Any other interface that happens to stand on the same segment would answer
		// for a virtual address, too, on the BACKUP as well.
		{"net/ipv4/conf/all/arp_ignore", "1"},
		// The default, 2, makes no events while nobody listens: a flow that begins
		// while the daemon restarts would never be replicated.
		{"net/netfilter/nf_conntrack_events", "1"},
		// A replicated flow has no windows, and the kernel learns them from the next
		// packets. An ex-MASTER's own flows have old ones: until they are replaced, the
		// kernel would take every packet for invalid. Resets outside the window stay so.
		{"net/netfilter/nf_conntrack_tcp_be_liberal", "1"},
		// Takes up connections in their midst that were not replicated in time. It
		// is the default; a hardened host may have it off.
		{"net/netfilter/nf_conntrack_tcp_loose", "1"},
	}
	if hasIPv6(intent) {
		// There is no forwarding of IPv6 by interface.
		list = append(list, setting{allForwarding6, "1"})
	}
	return list
}

// acceptRASettings keep an interface hearing router advertisements that did so as
// a host: when the machine becomes a router, the kernel drops the routes that it
// has learned from them and learns no more, unless the value is 2. That goes for
// every interface, ours or not: a host that is managed through such a route would
// be lost. What appears later takes its value from "default".
func acceptRASettings(intent router.Intent, seen observed) []setting {
	if !hasIPv6(intent) {
		return nil
	}
	names := []string{"default"}
	for _, l := range seen.links {
		if !ours(l, intent.Group) {
			names = append(names, l.name)
		}
	}
	var list []setting
	for _, name := range names {
		path := conf6(name) + "accept_ra"
		value, before := seen.sysctls[path], seen.originals[path]
		host := seen.sysctls[conf6(name)+"forwarding"] == "0" && seen.sysctls[conf6(name)+"disable_ipv6"] != "1"
		if value == "1" && (host || before == "1") || value == "2" && before == "1" {
			list = append(list, setting{path, "2"})
		}
	}
	return list
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

func conf4(name string) string { return "net/ipv4/conf/" + name + "/" }

func conf6(name string) string { return "net/ipv6/conf/" + name + "/" }

// markSettings are for an interface on which the kernel looks for a way back to where a packet comes
// from: it must look in the table of the flow's uplink, by the packet's mark. The way that
// its network takes now may be another, or none.
func markSettings(conf, allRPFilter string) []setting {
	if rpFilter(allRPFilter) == "0" {
		return nil
	}
	return []setting{{conf + "src_valid_mark", "1"}}
}

// virtualSettings are the sysctls of a macvlan.
func virtualSettings(v router.VirtualLink, allRPFilter string, routed bool) []setting {
	if v.IPv6 {
		return virtualSettings6(v.Name, routed)
	}
	conf := conf4(v.Name)
	return append([]setting{
		// No router solicitation, no duplicate address detection, no MLD.
		{conf6(v.Name) + "disable_ipv6", "1"},
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
	}, markSettings(conf, allRPFilter)...)
}

// virtualSettings6 are the sysctls of a macvlan that carries IPv6. It knows what it
// is told and says nothing by itself. Only through a routed one does the kernel send
// to neighbours.
func virtualSettings6(name string, routed bool) []setting {
	conf := conf6(name)
	// Learn hosts that say by themselves where they are (RFC 9568 §8.2.4). Were it on
	// every link, each such host would be there hundreds of times, and the kernel's
	// table of neighbours full.
	learn := "0"
	if routed {
		learn = "1"
	}
	return []setting{
		// IPv4 has a macvlan of its own.
		{conf4(name) + "forwarding", "0"},
		// No address from the virtual MAC address (RFC 9568 §7.4).
		{conf + "addr_gen_mode", "1"},
		{conf + "accept_ra", "0"},
		{conf + "autoconf", "0"},
		{conf + "router_solicitations", "0"},
		{conf + "accept_dad", "0"},
		{conf + "dad_transmits", "0"},
		// The elector announces addresses, when they are its own.
		{conf + "ndisc_notify", "0"},
		// Neighbour advertisements carry the Router flag (RFC 9568 §6.4.3).
		{conf + "forwarding", "1"},
		// Without this the kernel deletes the addresses when the link goes down.
		{conf + "keep_addr_on_down", "1"},
		{conf + "accept_untracked_na", learn},
		{conf + "disable_ipv6", "0"},
	}
}

// parent is an interface below virtual links.
type parent struct {
	name string
	// ipv6 tells that virtual routers of IPv6 are on it, ownMAC that virtual
	// addresses of a family stand on itself.
	ipv6   bool
	ownMAC map[family]bool
}

// parents returns the interfaces below the given links, in their order.
func parents(links []router.VirtualLink) []parent {
	var list []parent
	places := make(map[string]int)
	for _, v := range links {
		i, ok := places[v.Parent]
		if !ok {
			i = len(list)
			places[v.Parent] = i
			list = append(list, parent{name: v.Parent, ownMAC: make(map[family]bool)})
		}
		list[i].ipv6 = list[i].ipv6 || v.IPv6
		if v.OwnMAC {
			list[i].ownMAC[family(v.IPv6)] = true
		}
	}
	return list
}

// parentSettings are the sysctls of the interface below.
func parentSettings(p parent, allRPFilter string) []setting {
	conf := conf4(p.name)
	list := []setting{
		// Never answer for a virtual address. arp_filter would not do: with it both
		// MAC addresses answer. In the mode without a virtual MAC address the parent
		// answers for those that stand on itself.
		{conf + "arp_ignore", "1"},
		// A question for a neighbour in the name of a virtual address is dropped by
		// the fence, and the kernel would not ask again for a second.
		{conf + "arp_announce", "2"},
		{conf + "rp_filter", rpFilter(allRPFilter)},
		{conf + "send_redirects", "0"},
		// If our address goes, others of the same subnet must stay.
		{conf + "promote_secondaries", "1"},
	}
	if !p.ownMAC[ipv4] {
		// Whom a virtual router stands in for, it does with its virtual MAC address
		// (RFC 9568 §8.1.3).
		list = append(list, setting{conf + "proxy_arp", "0"})
	}
	if p.ipv6 {
		// Learn hosts of our subnets that say by themselves where they are, on the
		// BACKUP too (RFC 9568 §8.2.4).
		list = append(list, setting{conf6(p.name) + "accept_untracked_na", "2"})
	}
	// Without a virtual MAC address the parent itself is the router.
	if p.ownMAC[ipv4] {
		list = append(list, setting{conf + "forwarding", "1"})
		list = append(list, markSettings(conf, allRPFilter)...)
	}
	if p.ownMAC[ipv6] {
		list = append(list, setting{conf6(p.name) + "forwarding", "1"})
	}
	return list
}

// enablingSettings must be there before an interface can have addresses.
func enablingSettings(p parent) []setting {
	if !p.ipv6 {
		return nil
	}
	return []setting{{conf6(p.name) + "disable_ipv6", "0"}}
}

// lastingSettings are the sysctls that outlive our links and so must be restored.
func lastingSettings(intent router.Intent, seen observed) []setting {
	list := append(acceptRASettings(intent, seen), baseSysctls(intent)...)
	links := seen.index()
	for _, p := range parents(intent.VirtualLinks) {
		if _, ok := links[p.name]; !ok {
			continue
		}
		for _, s := range append(enablingSettings(p), parentSettings(p, seen.allRPFilter)...) {
			if !swept(s.path, seen) {
				list = append(list, s)
			}
		}
	}
	return list
}

// swept tells whether a sysctl of an interface goes where the one for all
// interfaces goes: the kernel sets forwarding everywhere when it is set for all.
func swept(path string, seen observed) bool {
	if !strings.HasSuffix(path, "/forwarding") {
		return false
	}
	all := allForwarding4
	if optional(path) {
		all = allForwarding6
	}
	before, known := seen.originals[all]
	if !known {
		before = seen.sysctls[all]
	}
	return before == "0"
}

// sysctls plans the settings that differ. A file that does not exist is left
// alone, unless late, when it belongs to a module that must be there by now.
func (p *planner) sysctls(list []setting, link string, late bool) {
	for _, s := range list {
		value, exists := p.seen.sysctls[s.path]
		if exists == late || exists && value == s.value || late && optional(s.path) {
			continue
		}
		p.add(op{kind: setSysctl, link: link, path: s.path, value: s.value})
	}
}

// baseSettings plans what comes before everything else.
func (p *planner) baseSettings() {
	p.sysctls(acceptRASettings(p.intent, p.seen), "", false)
	p.sysctls(baseSysctls(p.intent), "", false)
	for _, b := range parents(p.usable) {
		p.sysctls(enablingSettings(b), b.name, false)
	}
}

func (p *planner) linkSysctls() {
	below := make(map[string]parent)
	for _, b := range parents(p.usable) {
		below[b.name] = b
	}
	for _, v := range p.usable {
		if !v.OwnMAC {
			p.virtualSysctls(v)
		}
		if b, ok := below[v.Parent]; ok {
			delete(below, v.Parent)
			p.sysctls(parentSettings(b, p.seen.allRPFilter), v.Parent, false)
		}
	}
}

func (p *planner) virtualSysctls(v router.VirtualLink) {
	settings := virtualSettings(v, p.seen.allRPFilter, p.routed[v.Name])
	if _, ok := p.standing(v); ok {
		p.sysctls(settings, v.Name, false)
		return
	}
	for _, s := range settings {
		p.add(op{kind: setSysctl, link: v.Name, path: s.path, value: s.value})
	}
}

// optional tells whether a node can do without a sysctl: without IPv6 in the
// kernel there is nothing to switch off, and older kernels lack some.
func optional(path string) bool { return strings.HasPrefix(path, "net/ipv6/") }
