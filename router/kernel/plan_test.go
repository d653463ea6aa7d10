package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
)

var (
	lanMAC = [6]byte{0, 0, 0x5e, 0, 1, 20} //nolint:gochecknoglobals // constants of the tests
	wanMAC = [6]byte{0, 0, 0x5e, 0, 1, 10} //nolint:gochecknoglobals // constants of the tests
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// office is a node with one uplink and one network.
func office() router.Intent {
	connected := func(table int) []router.Route {
		return []router.Route{
			{Table: table, Destination: prefix("203.0.113.0/24"), Link: "vmac10"},
			{Table: table, Destination: prefix("10.1.0.0/24"), Link: "vmac20"},
			{Table: table, Destination: prefix("0.0.0.0/0"), Gateway: addr("203.0.113.254"), Link: "vmac10"},
			{Table: table, Destination: prefix("0.0.0.0/0"), Unreachable: true, Metric: 1 << 30},
		}
	}
	return router.Intent{
		Group: "lab",
		Ports: []router.PortAddress{
			{Interface: "wan0", Prefix: prefix("203.0.113.2/24")},
			{Interface: "lan0", Prefix: prefix("10.1.0.2/24")},
		},
		VirtualLinks: []router.VirtualLink{
			{Name: "vmac10", Carrier: "wan", Parent: "wan0", MAC: wanMAC, Addresses: []netip.Addr{addr("203.0.113.10")}},
			{Name: "vmac20", Carrier: "lan", Parent: "lan0", MAC: lanMAC, Addresses: []netip.Addr{addr("10.1.0.1")}},
		},
		Rules: []router.Rule{
			{Preference: 11000, From: prefix("203.0.113.2/32"), Table: router.MainTable},
			{Preference: 11000, From: prefix("10.1.0.2/32"), Table: router.MainTable},
			{Preference: 11100, Incoming: "vmac10", Table: 1010},
			{Preference: 11100, Incoming: "vmac20", Table: 1020},
			{Preference: 11200, From: prefix("10.1.0.0/24"), Table: 1020},
			{Preference: 11300, From: prefix("203.0.113.10/32"), Table: 1010},
		},
		Routes:  append(connected(1010), connected(1020)...),
		NAT:     []router.SourceNAT{{From: prefix("10.1.0.0/24"), Link: "vmac10", To: addr("203.0.113.10")}},
		Guarded: []netip.Addr{addr("203.0.113.10")},
	}
}

// bare is a host with two ports and nothing of ours.
func bare(intent router.Intent) observed {
	seen := observed{
		families:    []family{ipv4, ipv6},
		links:       []link{{name: "lo", index: 1, up: true}, {name: "wan0", index: 2}, {name: "lan0", index: 3}},
		sysctls:     make(map[string]string),
		tables:      map[family]bool{ipv6: !hasIPv6(intent)},
		raised:      make(map[int]bool),
		allRPFilter: "0",
	}
	for _, s := range baseSysctls(intent) {
		seen.sysctls[s.path] = "x"
	}
	for _, b := range parents(intent.VirtualLinks) {
		for _, s := range slices.Concat(enablingSettings(b), parentSettings(b, "0")) {
			seen.sysctls[s.path] = "x"
		}
	}
	return seen
}

// done is the host after the plan was executed. The kernel lists what was added
// last first.
func done(intent router.Intent) observed {
	seen := bare(intent)
	seen.tables = map[family]bool{ipv4: true, ipv6: true}
	for i := range seen.links {
		seen.links[i].up = true
	}
	for i, v := range intent.VirtualLinks {
		for _, a := range v.Addresses {
			seen.addresses = append(seen.addresses, address{link: v.Name, prefix: virtualPrefix(v, a), ours: true, form: virtualForm(v, a)})
		}
		if v.OwnMAC {
			continue
		}
		seen.links = append(seen.links, link{
			name: v.Name, alias: alias(intent.Group, v), index: 10 + i, macvlan: true, parent: v.Parent, mac: v.MAC, up: true,
		})
		for _, s := range virtualSettings(v, "0", routed(intent, v)) {
			seen.sysctls[s.path] = s.value
		}
	}
	for _, b := range parents(intent.VirtualLinks) {
		for _, s := range slices.Concat(enablingSettings(b), parentSettings(b, "0")) {
			seen.sysctls[s.path] = s.value
		}
	}
	for _, s := range baseSysctls(intent) {
		seen.sysctls[s.path] = s.value
	}
	for _, p := range intent.Ports {
		seen.addresses = append(seen.addresses, address{link: p.Interface, prefix: p.Prefix, ours: true, form: ownForm(p.Prefix.Addr())})
	}
	for _, r := range intent.Routes {
		if r.Metric == 0 && r.Destination.Addr().Is6() {
			r.Metric = defaultMetric6
		}
		seen.routes = append(seen.routes, route{Route: r, ours: true, exact: true})
	}
	seen.rules = slices.Clone(intent.Rules)
	return seen
}

func texts(ops []op) []string {
	var list []string
	for _, o := range ops {
		list = append(list, o.String())
	}
	return list
}

func TestPlanFromNothing(t *testing.T) {
	intent := office()
	ops, report := plan(intent, bare(intent))
	want := strings.Split(strings.TrimSpace(`
set net/ipv4/ip_forward to 1
set net/ipv4/conf/all/send_redirects to 0
set net/ipv4/conf/all/arp_ignore to 1
set net/netfilter/nf_conntrack_events to 1
set net/netfilter/nf_conntrack_tcp_be_liberal to 1
set net/netfilter/nf_conntrack_tcp_loose to 1
set link wan0 up
set link lan0 up
add address 203.0.113.2/24 to wan0
add address 10.1.0.2/24 to lan0
create link vmac10 on wan0 with MAC 00:00:5e:00:01:0a
set alias of link vmac10 to tandem:lab:wan
create link vmac20 on lan0 with MAC 00:00:5e:00:01:14
set alias of link vmac20 to tandem:lab:lan
put up the fence
replace table ip tandem-lab
set net/ipv6/conf/vmac10/disable_ipv6 to 1
set net/ipv4/conf/vmac10/forwarding to 1
set net/ipv4/conf/vmac10/arp_ignore to 1
set net/ipv4/conf/vmac10/arp_announce to 2
set net/ipv4/conf/vmac10/rp_filter to 0
set net/ipv4/conf/vmac10/accept_local to 1
set net/ipv4/conf/vmac10/send_redirects to 0
set net/ipv4/conf/wan0/arp_ignore to 1
set net/ipv4/conf/wan0/arp_announce to 2
set net/ipv4/conf/wan0/rp_filter to 0
set net/ipv4/conf/wan0/send_redirects to 0
set net/ipv4/conf/wan0/promote_secondaries to 1
set net/ipv4/conf/wan0/proxy_arp to 0
set net/ipv6/conf/vmac20/disable_ipv6 to 1
set net/ipv4/conf/vmac20/forwarding to 1
set net/ipv4/conf/vmac20/arp_ignore to 1
set net/ipv4/conf/vmac20/arp_announce to 2
set net/ipv4/conf/vmac20/rp_filter to 0
set net/ipv4/conf/vmac20/accept_local to 1
set net/ipv4/conf/vmac20/send_redirects to 0
set net/ipv4/conf/lan0/arp_ignore to 1
set net/ipv4/conf/lan0/arp_announce to 2
set net/ipv4/conf/lan0/rp_filter to 0
set net/ipv4/conf/lan0/send_redirects to 0
set net/ipv4/conf/lan0/promote_secondaries to 1
set net/ipv4/conf/lan0/proxy_arp to 0
add address 203.0.113.10/32 to vmac10
add address 10.1.0.1/32 to vmac20
set link vmac10 up
set link vmac20 up
put route 203.0.113.0/24 dev vmac10 table 1010
put route 10.1.0.0/24 dev vmac20 table 1010
put route unreachable 0.0.0.0/0 table 1010 metric 1073741824
put route 203.0.113.0/24 dev vmac10 table 1020
put route 10.1.0.0/24 dev vmac20 table 1020
put route unreachable 0.0.0.0/0 table 1020 metric 1073741824
put route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1010
put route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1020
add rule 11000: from 203.0.113.2/32 lookup 254
add rule 11000: from 10.1.0.2/32 lookup 254
add rule 11100: from all iif vmac10 lookup 1010
add rule 11100: from all iif vmac20 lookup 1020
add rule 11200: from 10.1.0.0/24 lookup 1020
add rule 11300: from 203.0.113.10/32 lookup 1010`), "\n")
	if diff := cmp.Diff(want, texts(ops)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Report{}, report); diff != "" {
		t.Error(diff)
	}
}

func TestPlanDifferences(t *testing.T) {
	remove := func(seen *observed, name string) {
		seen.links = slices.DeleteFunc(seen.links, func(l link) bool { return l.name == name })
		seen.addresses = slices.DeleteFunc(seen.addresses, func(a address) bool { return a.link == name })
		seen.routes = slices.DeleteFunc(seen.routes, func(r route) bool { return r.Link == name })
	}
	edit := func(seen *observed, name string, f func(*link)) {
		i := slices.IndexFunc(seen.links, func(l link) bool { return l.name == name })
		f(&seen.links[i])
	}
	for _, tt := range []struct {
		name   string
		change func(*router.Intent, *observed)
		// want are the ops besides the fence, which is always looked after.
		want      []string
		missing   []string
		conflicts []string
		absent    []string // words that no op may contain
	}{
		{name: "nothing to do", change: func(*router.Intent, *observed) {}},
		{
			name:   "somebody set a macvlan down",
			change: func(_ *router.Intent, seen *observed) { edit(seen, "vmac20", func(l *link) { l.up = false }) },
			want:   []string{"set link vmac20 up"},
		},
		{
			name: "an operator set a port down",
			change: func(_ *router.Intent, seen *observed) {
				edit(seen, "lan0", func(l *link) { l.up = false; seen.raised[l.index] = true })
			},
		},
		{
			name:   "a port is down from the start",
			change: func(_ *router.Intent, seen *observed) { edit(seen, "lan0", func(l *link) { l.up = false }) },
			want:   []string{"set link lan0 up"},
		},
		{
			name: "died between creating and marking",
			change: func(_ *router.Intent, seen *observed) {
				edit(seen, "vmac20", func(l *link) { l.alias, l.up = "", false })
			},
			want: []string{"set alias of link vmac20 to tandem:lab:lan", "set link vmac20 up"},
		},
		{
			name: "carrier renamed",
			change: func(in *router.Intent, _ *observed) {
				in.VirtualLinks[1].Carrier = "staff"
			},
			want: []string{"set alias of link vmac20 to tandem:lab:staff"},
		},
		{
			name: "virtual address replaced: the old one goes before the fence forgets it",
			change: func(in *router.Intent, seen *observed) {
				seen.addresses[1].prefix = prefix("10.1.0.9/32")
			},
			want: []string{"delete address 10.1.0.9/32 from vmac20", "put up the fence", "add address 10.1.0.1/32 to vmac20"},
		},
		{
			name: "a route, a rule, a sysctl and the table are gone",
			change: func(_ *router.Intent, seen *observed) {
				seen.routes, seen.rules = seen.routes[1:], seen.rules[1:]
				seen.sysctls["net/ipv4/ip_forward"] = "0"
				seen.tables[ipv4] = false
			},
			want: []string{
				"set net/ipv4/ip_forward to 1", "put up the fence", "replace table ip tandem-lab",
				"put route 203.0.113.0/24 dev vmac10 table 1010", "add rule 11000: from 203.0.113.2/32 lookup 254",
			},
		},
		{
			name:   "connection tracking is not loaded yet",
			change: func(_ *router.Intent, seen *observed) { delete(seen.sysctls, "net/netfilter/nf_conntrack_events") },
			want:   []string{"put up the fence", "set net/netfilter/nf_conntrack_events to 1"},
		},
		{
			name: "gateway changed in place, metric changed by a second route",
			change: func(in *router.Intent, _ *observed) {
				in.Routes[2].Gateway, in.Routes[6].Metric = addr("203.0.113.253"), 5
			},
			want: []string{
				"put route 0.0.0.0/0 via 203.0.113.253 dev vmac10 table 1010",
				"put route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1020 metric 5",
				"delete route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1020",
			},
		},
		{
			name: "a route of ours was bent",
			change: func(_ *router.Intent, seen *observed) {
				seen.routes[0].exact = false
			},
			want: []string{"put route 203.0.113.0/24 dev vmac10 table 1010"},
		},
		{
			name: "rules mean the same in another form",
			change: func(in *router.Intent, _ *observed) {
				in.Rules[4].From = prefix("10.1.0.7/24")
				in.Rules[2].From = prefix("0.0.0.0/0")
			},
		},
		{
			name: "port address moved",
			change: func(in *router.Intent, seen *observed) {
				seen.links = append(seen.links, link{name: "lan1", index: 4, up: true})
				in.Ports[1].Interface = "lan1"
			},
			want: []string{"delete address 10.1.0.2/24 from lan0", "add address 10.1.0.2/24 to lan1", "put up the fence"},
		},
		{
			name: "port address by somebody else is left",
			change: func(in *router.Intent, seen *observed) {
				seen.addresses[3].ours = false
			},
		},
		{
			name: "port address stands elsewhere",
			change: func(in *router.Intent, seen *observed) {
				seen.addresses[3] = address{link: "lo", prefix: prefix("10.1.0.2/32")}
			},
			conflicts: []string{"address 10.1.0.2/24 of interface lan0 is left out: 10.1.0.2/32 is configured on lo; remove it there"},
		},
		{
			name: "MAC changed by hand: all that hangs on the link is made anew",
			change: func(_ *router.Intent, seen *observed) {
				edit(seen, "vmac10", func(l *link) { l.mac[5]++ })
			},
			want: []string{
				"delete link vmac10", "create link vmac10 on wan0 with MAC 00:00:5e:00:01:0a",
				"set alias of link vmac10 to tandem:lab:wan", "put up the fence",
				"set net/ipv6/conf/vmac10/disable_ipv6 to 1", "set net/ipv4/conf/vmac10/forwarding to 1",
				"set net/ipv4/conf/vmac10/arp_ignore to 1", "set net/ipv4/conf/vmac10/arp_announce to 2",
				"set net/ipv4/conf/vmac10/rp_filter to 0", "set net/ipv4/conf/vmac10/accept_local to 1",
				"set net/ipv4/conf/vmac10/send_redirects to 0",
				"add address 203.0.113.10/32 to vmac10", "set link vmac10 up",
				"put route 203.0.113.0/24 dev vmac10 table 1010", "put route 203.0.113.0/24 dev vmac10 table 1020",
				"put route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1010", "put route 0.0.0.0/0 via 203.0.113.254 dev vmac10 table 1020",
			},
		},
		{
			name: "network dropped from the document",
			change: func(in *router.Intent, _ *observed) {
				in.VirtualLinks, in.Ports = in.VirtualLinks[:1], in.Ports[:1]
				in.Routes = slices.DeleteFunc(in.Routes, func(r router.Route) bool { return r.Link == "vmac20" })
				in.Rules = slices.DeleteFunc(in.Rules, func(r router.Rule) bool { return r.Incoming == "vmac20" })
			},
			want: []string{
				"delete link vmac20", "delete address 10.1.0.2/24 from lan0", "put up the fence",
				"delete rule 11100: from all iif vmac20 lookup 1020",
			},
		},
		{
			name:    "interface unplugged: the node goes on with the others",
			change:  func(_ *router.Intent, seen *observed) { remove(seen, "wan0"); remove(seen, "vmac10") },
			missing: []string{"wan0"},
			absent:  []string{"vmac10", "wan0"},
		},
		{
			name: "foreign interface of the same name",
			change: func(_ *router.Intent, seen *observed) {
				remove(seen, "vmac10")
				seen.links = append(seen.links, link{name: "vmac10", index: 77, macvlan: true, parent: "wan0", up: true})
			},
			conflicts: []string{"carrier wan is left out: an interface vmac10 exists that is not Tandem's; delete or rename it"},
			absent:    []string{"vmac10"},
		},
		{
			name: "link of another group",
			change: func(_ *router.Intent, seen *observed) {
				seen.links = append(seen.links, link{name: "vmac99", alias: "tandem:lab2:x", macvlan: true})
				seen.addresses = append(seen.addresses, address{link: "vmac99", prefix: prefix("192.0.2.1/32")})
			},
		},
		{
			name: "virtual address on a foreign interface",
			change: func(_ *router.Intent, seen *observed) {
				remove(seen, "vmac20")
				seen.addresses = append(seen.addresses, address{link: "lan0", prefix: prefix("10.1.0.1/24")})
			},
			conflicts: []string{"carrier lan is left out: its virtual address 10.1.0.1 is configured on lan0; remove it there"},
			absent:    []string{"vmac20", "10.1.0.1"},
		},
		{
			name: "foreign route in the way",
			change: func(_ *router.Intent, seen *observed) {
				seen.routes[0].ours = false
			},
			conflicts: []string{"route 203.0.113.0/24 dev vmac10 table 1010 is left out: a route that is not Tandem's stands in its place; delete it or choose another table"},
		},
		{
			name: "strict reverse path filter",
			change: func(in *router.Intent, seen *observed) {
				seen.allRPFilter = "1"
			},
			want: []string{
				"put up the fence",
				"set net/ipv4/conf/vmac10/rp_filter to 2", "set net/ipv4/conf/wan0/rp_filter to 2",
				"set net/ipv4/conf/vmac20/rp_filter to 2", "set net/ipv4/conf/lan0/rp_filter to 2",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			intent := office()
			seen := done(intent)
			tt.change(&intent, &seen)
			ops, report := plan(intent, seen)
			got := texts(ops)
			if !slices.Contains(tt.want, "put up the fence") {
				got = slices.DeleteFunc(got, func(s string) bool { return s == "put up the fence" })
			}
			if diff := cmp.Diff(append([]string{}, tt.want...), got); diff != "" && tt.absent == nil {
				t.Error(diff)
			}
			for _, word := range tt.absent {
				for _, s := range got {
					if strings.Contains(s+" ", word+" ") || strings.Contains(s, word+"/") {
						t.Errorf("op %q in spite of the obstacle", s)
					}
				}
			}
			if diff := cmp.Diff(Report{Missing: tt.missing, Conflicts: tt.conflicts}, report); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a plan fences is what it creates or keeps, and nothing comes up unfenced.
func TestPlanFencesBeforeRaising(t *testing.T) {
	intent := office()
	seen := bare(intent)
	seen.links = seen.links[:2] // lan0 is missing
	ops, _ := plan(intent, seen)
	fenced := map[string]bool{}
	for _, o := range ops {
		switch o.kind {
		case putUpFence:
			for _, v := range o.fenced {
				fenced[v.Name] = true
			}
		case raiseLink:
			if !fenced[o.link] {
				t.Errorf("%s comes up outside the fence", o.link)
			}
		case addAddress:
			if strings.HasPrefix(o.link, "vmac") && !fenced[o.link] {
				t.Errorf("%s gets an address outside the fence", o.link)
			}
		case setSysctl, raisePort, deleteAddress, deleteLink, createLink, markLink, replaceTable, deleteTable, putRoute, addRule, deleteRule, deleteRoute:
		}
	}
	if diff := cmp.Diff(map[string]bool{"vmac10": true}, fenced); diff != "" {
		t.Error(diff)
	}
}

// A parent whose virtual address somebody has configured must not answer for it.
func TestPlanFencesParentOfTakenAddress(t *testing.T) {
	intent := office()
	seen := bare(intent)
	seen.addresses = append(seen.addresses, address{link: "lan0", prefix: prefix("10.1.0.1/24")})
	ops, report := plan(intent, seen)
	if len(report.Conflicts) != 1 {
		t.Fatalf("conflicts: %q", report.Conflicts)
	}
	for _, o := range ops {
		if o.kind != putUpFence {
			continue
		}
		var parents []string
		for _, v := range o.fenced {
			parents = append(parents, v.Parent)
		}
		if diff := cmp.Diff([]string{"wan0", "lan0"}, parents); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRemovalTakesOursOnly(t *testing.T) {
	seen := done(office())
	seen.links = append(seen.links, link{name: "foreign", macvlan: true})
	seen.addresses = append(seen.addresses, address{link: "lan0", prefix: prefix("10.9.0.1/24")}, address{link: "foreign", prefix: prefix("10.8.0.1/24")})
	seen.routes = append(seen.routes, route{Route: router.Route{Table: 1010, Destination: prefix("10.7.0.0/16"), Link: "lan0"}})
	got := texts(removal(router.Intent{Group: "lab"}, seen))
	want := []string{
		"delete link vmac10", "delete link vmac20",
		"delete rule 11000: from 203.0.113.2/32 lookup 254", "delete rule 11000: from 10.1.0.2/32 lookup 254",
		"delete rule 11100: from all iif vmac10 lookup 1010", "delete rule 11100: from all iif vmac20 lookup 1020",
		"delete rule 11200: from 10.1.0.0/24 lookup 1020", "delete rule 11300: from 203.0.113.10/32 lookup 1010",
		"delete route unreachable 0.0.0.0/0 table 1010 metric 1073741824",
		"delete route unreachable 0.0.0.0/0 table 1020 metric 1073741824",
		"delete address 203.0.113.2/24 from wan0", "delete address 10.1.0.2/24 from lan0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// routed tells that routes lead by a link.
func routed(intent router.Intent, v router.VirtualLink) bool {
	return slices.ContainsFunc(intent.Routes, func(r router.Route) bool { return r.Link == v.Name })
}
