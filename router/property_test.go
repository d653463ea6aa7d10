package router_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
	"tandem/router/config"
)

const seeds = 300

// everyDocument calls check with random documents that the validation accepts.
func everyDocument(t *testing.T, check func(t *testing.T, doc *config.Document)) {
	t.Helper()
	for seed := range uint64(seeds) {
		doc := parse(t, randomDocument(rand.New(rand.NewPCG(seed, 1))))
		check(t, doc)
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, doc.JSON())
		}
	}
}

// The names of links are the kernel's, and two macvlans with one MAC address on one
// parent cannot be.
func TestVirtualLinksAreDistinct(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		type station struct {
			parent string
			mac    [6]byte
		}
		names, stations, carriers := map[string]bool{}, map[station]bool{}, map[string]bool{}
		addresses := map[netip.Addr]string{}
		for _, link := range derive(t, doc, "one").VirtualLinks {
			if carriers[link.Carrier] {
				t.Errorf("two links of carrier %s", link.Carrier)
			}
			carriers[link.Carrier] = true
			if link.OwnMAC != (link.Name == link.Parent) || link.OwnMAC != (link.MAC == [6]byte{}) {
				t.Errorf("neither a macvlan nor the interface itself: %+v", link)
			}
			at := station{link.Parent, link.MAC}
			if !link.OwnMAC && (len(link.Name) > 15 || names[link.Name] || stations[at]) {
				t.Errorf("name or MAC address: %+v", link)
			}
			names[link.Name], stations[at] = true, true
			for _, address := range link.Addresses {
				if address.Is6() != link.IPv6 {
					t.Errorf("an address of the other family on %+v", link)
				}
				if _, ok := addresses[address]; ok && !address.IsLinkLocalUnicast() {
					t.Errorf("%v stands on two links", address)
				}
				addresses[address] = link.Name
			}
			if !slices.ContainsFunc(link.Own, func(a netip.Addr) bool { return a.Is6() == link.IPv6 }) {
				t.Errorf("no own address of the family: %+v", link)
			}
		}
	})
}

// family names the part of the kernel's tables that a prefix is in.
func family(p netip.Prefix) bool { return p.Addr().Is6() }

type table struct {
	number int
	ipv6   bool
}

// Each table reaches every subnet of its family by a link of that family, ends in an
// unreachable route, and has a rule that leads to it.
func TestTablesAreConsistent(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		in := derive(t, doc, "one")
		links := map[string]map[bool]bool{}
		for _, link := range in.VirtualLinks {
			if links[link.Name] == nil {
				links[link.Name] = map[bool]bool{}
			}
			links[link.Name][link.IPv6] = true
		}
		tables := map[table][]router.Route{}
		for _, route := range in.Routes {
			at := table{route.Table, family(route.Destination)}
			tables[at] = append(tables[at], route)
			probe := route.Table >= router.ProbeTableBase
			if route.Unreachable != (route.Link == "") || !route.Unreachable && !probe && !links[route.Link][at.ipv6] {
				t.Errorf("route %+v", route)
			}
			if route.Gateway.IsValid() && route.Gateway.Is6() != at.ipv6 {
				t.Errorf("route over the other family: %+v", route)
			}
		}
		for at, routes := range tables {
			last := routes[len(routes)-1]
			if !last.Unreachable || last.Destination.Bits() != 0 || last.Metric != router.UnreachableMetric {
				t.Errorf("table %+v ends in %+v", at, last)
			}
			for _, other := range segmentsOf(doc) {
				prefix := other.prefix(at.ipv6)
				if at.number >= router.ProbeTableBase {
					continue
				}
				if prefix.IsValid() && !slices.ContainsFunc(routes, func(r router.Route) bool { return r.Destination == prefix && !r.Unreachable }) {
					t.Errorf("table %+v does not reach %v", at, prefix)
				}
			}
		}
		checkRules(t, in, links, tables)
	})
}

func checkRules(t *testing.T, in router.Intent, links map[string]map[bool]bool, tables map[table][]router.Route) {
	t.Helper()
	led := map[table]bool{}
	for i, rule := range in.Rules {
		if i > 0 && rule.Preference < in.Rules[i-1].Preference || slices.Contains(in.Rules[:i], rule) {
			t.Errorf("rule %d stands in the wrong place or twice: %+v", i, rule)
		}
		if rule.From.IsValid() && family(rule.From) != rule.IPv6 || !rule.From.IsValid() && rule.Mask == 0 && !links[rule.Incoming][rule.IPv6] {
			t.Errorf("rule %+v matches nothing", rule)
		}
		at := table{rule.Table, rule.IPv6}
		led[at] = led[at] || rule.Preference == router.PreferenceIncoming || rule.Preference == router.PreferenceProbe
		if _, ok := tables[at]; !ok && rule.Table != router.MainTable {
			t.Errorf("rule %+v leads to an empty table", rule)
		}
	}
	for at := range tables {
		if !led[at] {
			t.Errorf("what comes in does not get to table %+v", at)
		}
	}
	for _, link := range in.VirtualLinks {
		if !slices.ContainsFunc(in.Rules, func(r router.Rule) bool { return r.Incoming == link.Name && r.IPv6 == link.IPv6 }) {
			t.Errorf("no rule for what comes in by %s", link.Name)
		}
	}
}

// What a node sends from its own addresses, and what comes in by the HA link, is left
// to the main table.
func TestOwnTrafficKeepsToTheMainTable(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		in := derive(t, doc, "one")
		for _, port := range in.Ports {
			address := port.Prefix.Addr()
			if first := firstRule(in, address, ""); first.Table != router.MainTable {
				t.Errorf("what is sent from %v takes table %d", address, first.Table)
			}
		}
		for _, l := range []*config.HALink{doc.HALink, doc.SecondHALink} {
			if l == nil {
				continue
			}
			for _, stranger := range []string{"172.31.0.1", "2001:db8:ffff::1"} {
				if first := firstRule(in, netip.MustParseAddr(stranger), l.Ports["one"].Interface); first.Table != router.MainTable {
					t.Errorf("what comes in by the HA link takes table %d", first.Table)
				}
			}
		}
		for _, link := range in.VirtualLinks {
			for _, address := range link.Addresses {
				if first := firstRule(in, address, ""); address.IsGlobalUnicast() && first.Table == router.MainTable {
					t.Errorf("what is sent from the virtual %v leaves by the main table", address)
				}
			}
		}
	})
}

// firstRule returns the rule that a packet takes; without one it is that of the kernel
// for the main table.
func firstRule(in router.Intent, from netip.Addr, incoming string) router.Rule {
	for _, rule := range in.Rules {
		if rule.IPv6 == from.Is6() && rule.Mask == 0 && (!rule.From.IsValid() || rule.From.Contains(from)) && (rule.Incoming == "" || rule.Incoming == incoming) {
			return rule
		}
	}
	return router.Rule{Table: router.MainTable}
}

// What the outside sees is the same on both members; what differs is their own.
func TestMembersAreSymmetric(t *testing.T) {
	pairs := 0
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		if len(doc.Members) == 1 {
			return
		}
		pairs++
		owner := slices.ContainsFunc(doc.Members, func(m config.Member) bool { return m.Priority == config.OwnerPriority })
		one, two := derive(t, doc, "one"), derive(t, doc, "two")
		if owner {
			one.Refused, two.Refused = nil, nil
		}
		if diff := cmp.Diff(one, two, compareNetip(), ignoreOwn()); diff != "" {
			t.Errorf("one - two +:\n%s", diff)
		}
		own := map[netip.Addr]bool{}
		for _, port := range one.Ports {
			own[port.Prefix.Addr()] = true
		}
		for _, port := range two.Ports {
			if own[port.Prefix.Addr()] && !port.Prefix.Addr().IsLinkLocalUnicast() {
				t.Errorf("both have %v", port)
			}
		}
		checkPeers(t, doc)
	})
	if pairs < seeds/4 {
		t.Errorf("%d pairs among %d documents", pairs, seeds)
	}
}

// checkPeers checks that each member's peer is where the other one is.
func checkPeers(t *testing.T, doc *config.Document) {
	t.Helper()
	one, err := router.Carriers(doc, "one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := router.Carriers(doc, "two")
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != len(two) {
		t.Fatalf("%d and %d carriers", len(one), len(two))
	}
	for i, a := range one {
		b := two[i]
		if a.Source != b.Peer || a.Peer != b.Source || a.Source == a.Peer || a.Source.Is6() != a.IPv6 {
			t.Errorf("%+v does not face %+v", a, b)
		}
		if a.Name != b.Name || a.VRID != b.VRID || a.MAC != b.MAC || a.VRRP != b.VRRP || !router.IsHA(a.Segment) && !slices.Equal(a.Addresses, b.Addresses) {
			t.Errorf("%+v and %+v are not the same virtual router", a, b)
		}
		if !slices.Contains(a.Own, a.Source) {
			t.Errorf("%+v sends from an address that it does not have", a)
		}
	}
}

// The carriers are in order, those of a segment side by side, and each is what its name
// says.
func TestCarriers(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		carriers, err := router.Carriers(doc, "one")
		if err != nil {
			t.Fatal(err)
		}
		links := derive(t, doc, "one").VirtualLinks
		seen, last := map[string]bool{}, ""
		for i, c := range carriers {
			if c.Segment != last && seen[c.Segment] {
				t.Errorf("the carriers of %s are torn apart", c.Segment)
			}
			if c.Segment != last && c.IPv6 {
				t.Errorf("%s begins with IPv6", c.Segment)
			}
			seen[c.Segment], last = true, c.Segment
			if !strings.HasPrefix(c.Name, c.Segment) || c.IPv6 != strings.HasSuffix(c.Name, "/ipv6") {
				t.Errorf("name of %+v", c)
			}
			if len(c.Addresses) == 0 || c.IPv6 && !c.Addresses[0].IsLinkLocalUnicast() {
				t.Errorf("addresses of %+v", c)
			}
			if isHA := router.IsHA(c.Segment); isHA != (c.Link == "") || isHA != (i >= len(links)) {
				t.Errorf("carrier %d: %+v", i, c)
			} else if !isHA && (links[i].Name != c.Link || links[i].Carrier != c.Name || links[i].Parent != c.Interface || links[i].MAC != c.MAC) {
				t.Errorf("carrier %+v has the link %+v", c, links[i])
			}
		}
	})
}

// TestDeriveIsDeterministic also looks that documents with IPv6 come up at all.
func TestDeriveIsDeterministic(t *testing.T) {
	dual, ownMAC := 0, 0
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		in := derive(t, doc, "one")
		if diff := cmp.Diff(in, derive(t, doc, "one"), compareNetip()); diff != "" {
			t.Errorf("not deterministic:\n%s", diff)
		}
		if slices.ContainsFunc(in.VirtualLinks, func(l router.VirtualLink) bool { return l.IPv6 }) {
			dual++
		}
		if slices.ContainsFunc(in.VirtualLinks, func(l router.VirtualLink) bool { return l.OwnMAC }) {
			ownMAC++
		}
	})
	if dual < seeds/4 || ownMAC < seeds/4 {
		t.Errorf("%d documents with IPv6 and %d without virtual MACs among %d", dual, ownMAC, seeds)
	}
}

type seg struct{ of4, of6 netip.Prefix }

func (s seg) prefix(ipv6 bool) netip.Prefix {
	if ipv6 {
		return s.of6
	}
	return s.of4
}

func segmentsOf(doc *config.Document) []seg {
	var list []seg
	add := func(prefix netip.Prefix, ipv6 *config.IPv6) {
		s := seg{of4: prefix}
		if ipv6 != nil {
			s.of6 = ipv6.Prefix
		}
		list = append(list, s)
	}
	for _, u := range doc.Uplinks {
		add(u.Prefix, u.IPv6)
	}
	for _, w := range doc.Networks {
		add(w.Prefix, w.IPv6)
	}
	return list
}

// randomDocument writes a document that is valid, in YAML.
func randomDocument(random *rand.Rand) string {
	w := &writer{Rand: random, vrids: random.Perm(255), pair: random.IntN(2) == 0}
	w.line("version: 1\ngroup: g\nmembers:")
	if w.pair {
		w.line("  - {name: one, priority: %d, public_key: %q}", 200+55*random.IntN(2), keyOne)
		w.line("  - {name: two, public_key: %q}", keyTwo)
		w.line("ha_link: {vrid: %d, prefix: 10.255.0.0/30, ports: {one: {interface: ha, address: 10.255.0.1}, two: {interface: ha, address: 10.255.0.2}}}", w.vrid())
		if w.IntN(2) == 0 {
			w.line("second_ha_link: {vrid: %d, prefix: 10.255.0.4/30, ports: {one: {interface: hb, address: 10.255.0.5}, two: {interface: hb, address: 10.255.0.6}}}", w.vrid())
		}
	} else {
		w.line("  - {name: one}")
	}
	uplinks, networks := random.IntN(4), 1+random.IntN(5)
	if uplinks > 0 {
		w.line("uplinks:")
	}

	for i := range uplinks {
		w.segment(i, fmt.Sprintf("gateway: 10.0.%d.2\n    addresses: [10.0.%d.3, 10.0.%d.4]", i, i, i), "gateway: fe80::1\n      addresses: [2001:db8:0:%x::3]")
	}
	w.line("networks:")
	for i := range networks {
		number := uplinks + i
		w.segment(number, fmt.Sprintf("gateway: 10.0.%d.2", number), "gateway: 2001:db8:0:%x::2")
		if uplinks > 0 {
			w.line("    uplink: s%d", random.IntN(uplinks))
		}
		sessions := []string{"replicate: false", "replicate: true", "first_packet: hold"}[w.IntN(3)]
		w.line("    %s\n    helpers: [%s]", sessions, strings.Join([]string{"sip", "ftp", "irc", "pptp"}[w.IntN(5):], ", "))
	}
	return w.b.String()
}

const (
	keyOne = "tandem-p256:MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEL/dAlgiWPhp4ShAZgaCQkYGUAtBajx7idrXWFkrhY4Eq0nJwe9ZTu3vp+uAvy3HGd5yTSTaGbl7JUasjhq/voA=="
	keyTwo = "tandem-p256:MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwDttiTbB6YORTPUwRbSL2oDXRA/CO1B+O68PJ16bowuVtw3LL8c/tT/oLir+ltYZiHbDXvnEAv5HRYrQx69ZEw=="
)

type writer struct {
	*rand.Rand

	b     strings.Builder
	vrids []int
	pair  bool
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(&w.b, format+"\n", args...) }

func (w *writer) flip() bool { return w.IntN(2) == 0 }

func (w *writer) vrid() int {
	next := w.vrids[0]
	w.vrids = w.vrids[1:]
	return next + 1
}

// segment writes what uplinks and networks have in common.
func (w *writer) segment(i int, of4, of6 string) {
	w.line("  - name: s%d\n    vrid: %d\n    prefix: 10.0.%d.0/24\n    %s", i, w.vrid(), i, of4)
	ipv6 := w.flip()
	own := func(host int) string {
		if ipv6 && w.flip() {
			return fmt.Sprintf(", ipv6: 2001:db8:0:%x::%x", i, 0x10+host)
		}
		return ""
	}
	w.line("    ports:\n      one: {interface: eth%d, address: 10.0.%d.10%s}", i, i, own(0))
	if w.pair {
		w.line("      two: {interface: eth%d, address: 10.0.%d.11%s}", i, i, own(1))
	}
	if ipv6 {
		w.line("    ipv6:\n      prefix: 2001:db8:0:%x::/64\n      "+of6, i, i)
		if w.flip() {
			w.line("      vrid: %d", w.vrid())
		}
		if w.flip() {
			w.line("      link_local: fe80::2")
		}
	}
	w.line("    vrrp: {virtual_mac: %v, accept: %v, unicast: %v}", w.IntN(3) > 0, w.flip(), w.pair && w.flip())
	if routers := w.IntN(3); routers > 0 {
		w.line("    virtual_routers:")
		for n := range routers {
			w.line("      - vrid: %d\n        addresses:\n          - 10.0.%d.%d", w.vrid(), i, 20+n)
			if ipv6 && w.flip() {
				w.line("          - 2001:db8:0:%x::%x", i, 0x20+n)
			}
		}
	}
}
