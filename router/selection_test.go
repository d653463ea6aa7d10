package router_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tandem/router"
	"tandem/router/config"
	"tandem/router/uplink"
)

const manyWays = `version: 1
group: solo
members: [{name: one}]
uplinks:
  - {name: lte, vrid: 1, cost: 5, prefix: 192.0.2.0/24, gateway: 192.0.2.1, addresses: [192.0.2.9], ports: {one: {interface: a, address: 192.0.2.2}}}
  - {name: fibre, vrid: 2, prefix: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.9, 198.51.100.8], ports: {one: {interface: b, address: 198.51.100.2}},
     ipv6: {prefix: "2001:db8:2::/64", gateway: "fe80::1", addresses: ["2001:db8:2::9"], translate: nat66}}
  - {name: dsl, vrid: 3, cost: 2, prefix: 203.0.113.0/24, gateway: 203.0.113.1, addresses: [203.0.113.9], ports: {one: {interface: c, address: 203.0.113.2}},
     ipv6: {prefix: "2001:db8:3::/64", gateway: "2001:db8:3::1", addresses: ["2001:db8:3::9"], translate: npt, npt_prefix: "2001:db8:f300::/56"}}
networks:
  - name: lan
    vrid: 10
    prefix: 10.1.0.0/24
    gateway: 10.1.0.1
    uplinks: [lte, fibre]
    nat_addresses: {fibre: 198.51.100.8}
    ports: {one: {interface: d, address: 10.1.0.2}}
    ipv6: {prefix: "fd00:1::/64", gateway: "fd00:1::1"}
    routes:
      - {destination: 172.16.0.0/16, uplinks: [dsl, lte]}
      - {destination: 172.17.0.0/16, via: 10.2.0.7}
      - {destination: 172.18.0.0/16, via: 203.0.113.7}
      - {destination: "2001:db8:77::/48", uplinks: [dsl]}
  - {name: iot, vrid: 11, prefix: 10.2.0.0/24, gateway: 10.2.0.1, uplinks: [dsl], ports: {one: {interface: e, address: 10.2.0.2}},
     ipv6: {prefix: "fd00:2::/64", gateway: "fd00:2::1"}}
`

func TestDeriveManyWays(t *testing.T) {
	checkLines(t, derive(t, parse(t, manyWays), "one"), []string{
		// The cheapest by default, which is not the first.
		"route table 1010 0.0.0.0/0 via 198.51.100.1 dev vmac2 metric 0",
		"route table 1010 172.16.0.0/16 via 203.0.113.1 dev vmac3 metric 0",
		"route table 1010 unreachable 172.16.0.0/16 metric 2147483647",
		"route table 1010 172.17.0.0/16 via 10.2.0.7 dev vmac11 metric 0",
		"route table 1010 unreachable 172.17.0.0/16 metric 2147483647",
		"route table 1010 172.18.0.0/16 via 203.0.113.7 dev vmac3 metric 0",
		"route table 1010 2001:db8:77::/48 via 2001:db8:3::1 dev vmac3v6 metric 0",
		"route table 1010 ::/0 via fe80::1 dev vmac2v6 metric 0",
		"route table 2003 203.0.113.0/24 dev c metric 0",
		"route table 2003 0.0.0.0/0 via 203.0.113.1 dev c metric 0",
		"rule 10900 fwmark 0x1030000/0x1ff0000 table 2003",
		"rule 11050 fwmark 0x30000/0xff0000 table 1003",
		"uplink fibre mark 0x20000 links [vmac2 vmac2v6]",
		"snat from 10.1.0.0/24 oif vmac1 to 192.0.2.9",
		"snat from 10.1.0.0/24 oif vmac2 to 198.51.100.8",
		"snat from 10.1.0.0/24 oif vmac3 to 203.0.113.9",
		"snat from fd00:1::/64 oif vmac2v6 to 2001:db8:2::9",
		"snat from fd00:1::/64 oif vmac3v6 prefix to 2001:db8:f300::/64",
		"snat from fd00:2::/64 oif vmac3v6 prefix to 2001:db8:f300:1::/64",
		"direct from 10.1.0.0/24 to 172.18.0.0/16 oif [vmac3]",
		"guarded [192.0.2.9 198.51.100.9 198.51.100.8 2001:db8:2::9 203.0.113.9]",
	})
}

// A selection decides about routes and nothing else. What it does not name is unreachable, and
// nothing of it takes the default route instead.
func TestSelectionDecidesAboutRoutesOnly(t *testing.T) {
	doc := parse(t, manyWays)
	lan := func(destination string) uplink.Path {
		return uplink.Path{Network: "lan", Destination: netip.MustParsePrefix(destination)}
	}
	byDefault := derive(t, doc, "one")
	for _, selection := range []uplink.Selection{
		{},
		{lan("0.0.0.0/0"): "lte"},
		{lan("0.0.0.0/0"): "fibre", lan("::/0"): "fibre", lan("172.16.0.0/16"): "lte"},
		{lan("172.16.0.0/16"): "dsl", lan("2001:db8:77::/48"): "dsl", lan("::/0"): "gone"},
	} {
		in, err := router.Derive(doc, "one", selection)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(byDefault, in, compareNetip(), cmpopts.IgnoreFields(router.Intent{}, "Routes")); diff != "" {
			t.Errorf("%v changes:\n%s", selection, diff)
		}
		for _, destination := range []string{"0.0.0.0/0", "172.16.0.0/16", "::/0", "2001:db8:77::/48"} {
			path := lan(destination)
			var links []string
			last := false
			for _, r := range in.Routes {
				if r.Table == 1010 && r.Destination == path.Destination {
					links, last = append(links, r.Link), r.Unreachable
				}
			}
			want := []string{""}
			if link := map[string]string{"lte": "vmac1", "fibre": "vmac2", "dsl": "vmac3"}[selection[path]]; link != "" {
				if path.IPv6() {
					link += "v6"
				}
				want = []string{link, ""}
			}
			if !slices.Equal(links, want) || !last {
				t.Errorf("%v: %s by %q, want %q", selection, destination, links, want)
			}
		}
	}
}

// Every mark is of one uplink and in the bits that are ours, and that of its probes is not taken
// for it.
func TestMarks(t *testing.T) {
	marks := map[uint32]bool{0: true}
	for vrid := 1; vrid <= 255; vrid++ {
		mark, probe := router.Mark(uint8(vrid)), router.ProbeMark(uint8(vrid))
		if marks[mark] || mark&^router.MarkMask != 0 || probe&^router.ProbeMask != 0 || probe&router.MarkMask != mark || probe == mark {
			t.Errorf("VRID %d: %#x, %#x", vrid, mark, probe)
		}
		marks[mark] = true
	}
}

// A document that is no longer valid for its networks' routes is refused.
func TestRouteByUnknownUplink(t *testing.T) {
	doc := parse(t, manyWays)
	doc.Networks[0].Routes[0].Uplinks = []string{"sat"}
	if _, err := router.Derive(doc, "one", nil); err == nil {
		t.Error("took an uplink that does not exist")
	}
}

// Without an address of a network on an uplink there is no translation that could be wrong.
func TestNothingIsTranslatedToNothing(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		for _, n := range derive(t, doc, "one").NAT {
			if n.To.IsValid() == n.Prefix.IsValid() || n.Prefix.IsValid() && n.Prefix.Bits() != n.From.Bits() {
				t.Errorf("translation %+v", n)
			}
		}
	})
}
