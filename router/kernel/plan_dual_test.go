package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
)

// only6 is the IPv6 half of the dual-stack office's network.
func only6() router.Intent {
	in := dual()
	in.NAT, in.Guarded = nil, nil
	in.Ports = slices.DeleteFunc(in.Ports, func(p router.PortAddress) bool { return p.Interface == "wan0" || p.Prefix.Addr().Is4() })
	in.VirtualLinks = slices.DeleteFunc(in.VirtualLinks, func(v router.VirtualLink) bool { return v.Name != "vmac20v6" })
	in.Rules = slices.DeleteFunc(in.Rules, func(r router.Rule) bool {
		return !r.IPv6 || r.Table == 1010 || r.From.IsValid() && r.From.Addr() == addr("2001:db8:1::2")
	})
	in.Routes = slices.DeleteFunc(in.Routes, func(r router.Route) bool {
		return r.Destination.Addr().Is4() || r.Link == "vmac10v6" || r.Table == 1010
	})
	return in
}

func TestPlanIPv6FromNothing(t *testing.T) {
	intent := only6()
	seen := bare(intent)
	seen.sysctls["net/ipv6/conf/lan0/accept_ra"], seen.sysctls["net/ipv6/conf/lan0/forwarding"] = "1", "0"
	ops, report := plan(intent, seen)
	want := strings.Split(strings.TrimSpace(`
set net/ipv6/conf/lan0/accept_ra to 2
set net/ipv4/ip_forward to 1
set net/ipv4/conf/all/send_redirects to 0
set net/ipv4/conf/all/arp_ignore to 1
set net/netfilter/nf_conntrack_events to 1
set net/netfilter/nf_conntrack_tcp_be_liberal to 1
set net/netfilter/nf_conntrack_tcp_loose to 1
set net/ipv6/conf/all/forwarding to 1
set net/ipv6/conf/lan0/disable_ipv6 to 0
set link lan0 up
add address fd00:20::2/64 to lan0
add address fe80::5e:14:1/64 to lan0
create link vmac20v6 on lan0 with MAC 00:00:5e:00:02:14
set alias of link vmac20v6 to tandem:lab:lan/ipv6
put up the fence
replace table ip tandem-lab
replace table ip6 tandem-lab
set net/ipv4/conf/vmac20v6/forwarding to 0
set net/ipv6/conf/vmac20v6/addr_gen_mode to 1
set net/ipv6/conf/vmac20v6/accept_ra to 0
set net/ipv6/conf/vmac20v6/autoconf to 0
set net/ipv6/conf/vmac20v6/router_solicitations to 0
set net/ipv6/conf/vmac20v6/accept_dad to 0
set net/ipv6/conf/vmac20v6/dad_transmits to 0
set net/ipv6/conf/vmac20v6/ndisc_notify to 0
set net/ipv6/conf/vmac20v6/forwarding to 1
set net/ipv6/conf/vmac20v6/keep_addr_on_down to 1
set net/ipv6/conf/vmac20v6/accept_untracked_na to 1
set net/ipv6/conf/vmac20v6/disable_ipv6 to 0
set net/ipv4/conf/lan0/arp_ignore to 1
set net/ipv4/conf/lan0/arp_announce to 2
set net/ipv4/conf/lan0/rp_filter to 0
set net/ipv4/conf/lan0/send_redirects to 0
set net/ipv4/conf/lan0/promote_secondaries to 1
set net/ipv4/conf/lan0/proxy_arp to 0
set net/ipv6/conf/lan0/accept_untracked_na to 2
add address fe80::5e:14/64 to vmac20v6
add address fd00:20::1/128 to vmac20v6
set link vmac20v6 up
put route fd00:20::/64 dev vmac20v6 table 1020 metric 1024
put route unreachable ::/0 table 1020 metric 2147483647
add rule ipv6 11000: from fd00:20::2/128 lookup 254
add rule ipv6 11100: from all iif vmac20v6 lookup 1020
add rule ipv6 11200: from fd00:20::/64 lookup 1020`), "\n")
	if diff := cmp.Diff(want, texts(ops)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Report{}, report); diff != "" {
		t.Error(diff)
	}
	for _, o := range ops {
		virtual := o.link == "vmac20v6" || o.prefix.Addr().IsLinkLocalUnicast()
		if o.kind == addAddress && o.form.nodad != virtual {
			t.Errorf("%s: duplicate address detection %v", o, !o.form.nodad)
		}
	}
}

// A second virtual router of a segment serves hosts as a gateway, but the kernel
// reaches the segment by the first one.
func TestPlanLearnsNeighboursByRoutedLinksOnly(t *testing.T) {
	intent := only6()
	further := intent.VirtualLinks[0]
	further.Name, further.VRID, further.MAC[5] = "vmac21v6", 21, 21
	further.Addresses = []netip.Addr{addr("fe80::5e:15"), addr("fd00:20::15")}
	intent.VirtualLinks = append(intent.VirtualLinks, further)
	ops, _ := plan(intent, bare(intent))
	var got []string
	for _, text := range texts(ops) {
		if strings.Contains(text, "/vmac2") && strings.Contains(text, "accept_untracked_na") {
			got = append(got, text)
		}
	}
	want := []string{
		"set net/ipv6/conf/vmac20v6/accept_untracked_na to 1", "set net/ipv6/conf/vmac21v6/accept_untracked_na to 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlanIPv6Differences(t *testing.T) {
	move := func(seen *observed, a string, f func(*address)) {
		i := slices.IndexFunc(seen.addresses, func(have address) bool { return have.prefix.Addr() == addr(a) })
		f(&seen.addresses[i])
	}
	drop := func(seen *observed, a string) {
		seen.addresses = slices.DeleteFunc(seen.addresses, func(have address) bool { return have.prefix.Addr() == addr(a) })
	}
	for _, tt := range []struct {
		name      string
		ownMAC    bool
		change    func(*router.Intent, *observed)
		want      []string
		conflicts []string
	}{
		{name: "nothing to do", change: func(*router.Intent, *observed) {}},
		{
			name: "a kernel without IPv6",
			change: func(_ *router.Intent, seen *observed) {
				seen.families, seen.links = []family{ipv4}, seen.links[:3]
				seen.addresses, seen.routes, seen.rules = nil, nil, nil
			},
			conflicts: []string{"IPv6 is left out: this kernel has none; boot it without ipv6.disable=1 or take ipv6 out of the document"},
		},
		{name: "nothing to do without virtual MAC addresses", ownMAC: true, change: func(*router.Intent, *observed) {}},
		{
			name: "a link that went down lost its addresses",
			change: func(_ *router.Intent, seen *observed) {
				drop(seen, "fe80::5e:14")
				drop(seen, "fd00:20::1")
			},
			want: []string{"add address fe80::5e:14/64 to vmac20v6", "add address fd00:20::1/128 to vmac20v6"},
		},
		{
			name: "an address without nodad waits for the MASTER's objection",
			change: func(_ *router.Intent, seen *observed) {
				move(seen, "fd00:20::1", func(a *address) { a.form.nodad = false })
			},
			want: []string{"delete address fd00:20::1/128 from vmac20v6", "add address fd00:20::1/128 to vmac20v6"},
		},
		{
			name: "an address that the kernel made",
			change: func(_ *router.Intent, seen *observed) {
				seen.addresses = append(seen.addresses, address{link: "vmac20v6", prefix: prefix("fe80::200:5eff:fe00:214/64")})
			},
			want: []string{"delete address fe80::200:5eff:fe00:214/64 from vmac20v6"},
		},
		{
			name: "the same link-local address on another link is nobody's business",
			change: func(_ *router.Intent, seen *observed) {
				seen.links = append(seen.links, link{name: "eth7", index: 7, up: true})
				seen.addresses = append(seen.addresses, address{link: "eth7", prefix: prefix("fe80::5e:14/64")},
					address{link: "eth7", prefix: prefix("fe80::5e:14:1/64")})
			},
		},
		{
			name: "the same link-local address on the port is a conflict",
			change: func(_ *router.Intent, seen *observed) {
				drop(seen, "fe80::5e:14")
				seen.addresses = append(seen.addresses, address{link: "lan0", prefix: prefix("fe80::5e:14/64")})
			},
			want: []string{
				"delete link vmac20v6", "put up the fence",
				"put route unreachable fd00:20::/64 table 1020 metric 1024",
			},
			conflicts: []string{"carrier lan/ipv6 is left out: its virtual address fe80::5e:14 is configured on lan0; remove it there"},
		},
		{
			name: "another host has the node's address",
			change: func(_ *router.Intent, seen *observed) {
				move(seen, "fd00:20::2", func(a *address) { a.duplicate = true })
			},
			conflicts: []string{"address fd00:20::2/64 of interface lan0 cannot be used: another host on the segment has it; give that host another address, then set the interface down and up"},
		},
		{
			name: "a machine that was no host keeps its deafness to router advertisements",
			change: func(_ *router.Intent, seen *observed) {
				seen.sysctls["net/ipv6/conf/lan0/accept_ra"], seen.sysctls["net/ipv6/conf/lan0/forwarding"] = "1", "1"
			},
		},
		{
			name: "somebody else's interface loses its ear",
			change: func(_ *router.Intent, seen *observed) {
				seen.sysctls["net/ipv6/conf/lan0/accept_ra"] = "1"
				seen.originals = map[string]string{"net/ipv6/conf/lan0/accept_ra": "1"}
			},
			want: []string{"set net/ipv6/conf/lan0/accept_ra to 2"},
		},
		{
			name:   "the node's link-local address came back after the virtual one",
			ownMAC: true,
			change: func(_ *router.Intent, seen *observed) {
				slices.Reverse(seen.addresses)
			},
			want: []string{"delete address fe80::5e:14/128 from lan0", "add address fe80::5e:14/128 to lan0"},
		},
		{
			name:   "from virtual to own MAC address",
			ownMAC: true,
			change: func(_ *router.Intent, seen *observed) {
				virtual := only6()
				*seen = done(virtual)
				seen.sysctls["net/ipv4/conf/lan0/forwarding"], seen.sysctls["net/ipv6/conf/lan0/forwarding"] = "1", "1"
			},
			want: []string{
				"delete link vmac20v6", "put up the fence",
				"add address fe80::5e:14/128 to lan0", "add address fd00:20::1/128 to lan0",
				"put route fd00:20::/64 dev lan0 table 1020 metric 1024",
				"add rule ipv6 11100: from all iif lan0 lookup 1020", "delete rule ipv6 11100: from all iif vmac20v6 lookup 1020",
			},
		},
		{
			name: "from own to virtual MAC address: the address leaves the port before the fence lets go",
			change: func(_ *router.Intent, seen *observed) {
				*seen = done(withoutMAC(only6()))
				v := only6().VirtualLinks[0]
				seen.links = append(seen.links, link{name: v.Name, alias: alias("lab", v), macvlan: true, parent: v.Parent, mac: v.MAC, up: true})
				for _, s := range virtualSettings(v, "0", true) {
					seen.sysctls[s.path] = s.value
				}
			},
			want: []string{
				"delete address fe80::5e:14/128 from lan0", "delete address fd00:20::1/128 from lan0", "put up the fence",
				"add address fe80::5e:14/64 to vmac20v6", "add address fd00:20::1/128 to vmac20v6",
				"put route fd00:20::/64 dev vmac20v6 table 1020 metric 1024",
				"add rule ipv6 11100: from all iif vmac20v6 lookup 1020", "delete rule ipv6 11100: from all iif lan0 lookup 1020",
			},
		},
		{
			name:   "a port that is kept down takes no routes",
			ownMAC: true,
			change: func(_ *router.Intent, seen *observed) {
				i := slices.IndexFunc(seen.links, func(l link) bool { return l.name == "lan0" })
				seen.links[i].up = false
				seen.raised[seen.links[i].index] = true
				seen.routes = slices.DeleteFunc(seen.routes, func(r route) bool { return r.Link == "lan0" })
			},
			want: []string{"put route unreachable fd00:20::/64 table 1020 metric 1024"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			intent := only6()
			if tt.ownMAC {
				intent = withoutMAC(intent)
			}
			seen := done(intent)
			tt.change(&intent, &seen)
			ops, report := plan(intent, seen)
			got := texts(ops)
			if !slices.Contains(tt.want, "put up the fence") {
				got = slices.DeleteFunc(got, func(s string) bool { return s == "put up the fence" })
			}
			if diff := cmp.Diff(append([]string{}, tt.want...), got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(Report{Conflicts: tt.conflicts}, report); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// In every mode, nothing of a virtual router stands before its fence.
func TestPlanFencesEverythingFirst(t *testing.T) {
	for name, intent := range map[string]router.Intent{"virtual MAC": dual(), "own MAC": withoutMAC(dual())} {
		t.Run(name, func(t *testing.T) {
			virtual := make(map[netip.Addr]bool)
			for _, v := range intent.VirtualLinks {
				for _, a := range v.Addresses {
					virtual[a] = true
				}
			}
			ops, _ := plan(intent, bare(intent))
			fenced, added := 0, 0
			for _, o := range ops {
				switch {
				case o.kind == putUpFence:
					fenced = len(o.fenced)
				case o.kind == raiseLink, o.kind == addAddress && virtual[o.prefix.Addr()]:
					added++
					if fenced != len(intent.VirtualLinks) {
						t.Errorf("%s before the fence", o)
					}
				}
			}
			if added < len(virtual) {
				t.Errorf("%d virtual addresses are added, of %d", added, len(virtual))
			}
		})
	}
}
