package router_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tandem/router"
	"tandem/router/config"
)

//nolint:gochecknoglobals // a flag is known before the tests run
var update = flag.Bool("update", false, "write the golden files anew")

func compareNetip() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})
}

func load(t *testing.T, path string) *config.Document {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func parse(t *testing.T, text string) *config.Document {
	t.Helper()
	doc, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func derive(t *testing.T, doc *config.Document, node string) router.Intent {
	t.Helper()
	intent, err := router.Derive(doc, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	return intent
}

// dump writes an intent in the manner of iproute2.
func dump(in router.Intent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group %s\n", in.Group)
	for _, p := range in.Ports {
		fmt.Fprintf(&b, "address %v dev %s\n", p.Prefix, p.Interface)
	}
	for _, l := range in.VirtualLinks {
		fmt.Fprintf(&b, "link %s carrier %s parent %s mac % x vrid %d addresses %v own %v", l.Name, l.Carrier, l.Parent, l.MAC, l.VRID, l.Addresses, l.Own)
		if l.OwnMAC {
			b.WriteString(" own-mac")
		}
		if l.IPv6 {
			b.WriteString(" ipv6")
		}
		b.WriteByte('\n')
	}
	for _, r := range in.Rules {
		b.WriteString(map[bool]string{true: "ipv6 "}[r.IPv6])
		fmt.Fprintf(&b, "rule %d", r.Preference)
		if r.From.IsValid() {
			fmt.Fprintf(&b, " from %v", r.From)
		}
		if r.Incoming != "" {
			fmt.Fprintf(&b, " iif %s", r.Incoming)
		}
		if r.Mask != 0 {
			fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
		}
		fmt.Fprintf(&b, " table %d\n", r.Table)
	}
	for _, r := range in.Routes {
		fmt.Fprintf(&b, "route table %d ", r.Table)
		if r.Unreachable {
			b.WriteString("unreachable ")
		}
		fmt.Fprintf(&b, "%v", r.Destination)
		if r.Gateway.IsValid() {
			fmt.Fprintf(&b, " via %v", r.Gateway)
		}
		if r.Link != "" {
			fmt.Fprintf(&b, " dev %s", r.Link)
		}
		fmt.Fprintf(&b, " metric %d\n", r.Metric)
	}
	for _, u := range in.Uplinks {
		fmt.Fprintf(&b, "uplink %s mark %#x links %v\n", u.Name, u.Mark, u.Links)
	}
	for _, n := range in.NAT {
		if n.Prefix.IsValid() {
			fmt.Fprintf(&b, "snat from %v oif %s prefix to %v\n", n.From, n.Link, n.Prefix)
		} else {
			fmt.Fprintf(&b, "snat from %v oif %s to %v\n", n.From, n.Link, n.To)
		}
	}
	for _, f := range in.Free {
		fmt.Fprintf(&b, "free %v at %v\n", f.Network, f.Address)
	}
	for _, d := range in.Direct {
		fmt.Fprintf(&b, "direct from %v to %v oif %v\n", d.Network, d.Destination, d.Links)
	}
	dumpInbound(&b, in)
	for _, h := range in.Helpers {
		fmt.Fprintf(&b, "helper %s ipv6 %v protocol %d port %d from %v\n", h.Name, h.IPv6, h.Protocol, h.Port, h.Links)
	}
	for _, u := range in.Unreplicated {
		fmt.Fprintf(&b, "unreplicated %v of %v\n", u.Prefixes, u.Links)
	}
	fmt.Fprintf(&b, "held %v\n", in.Held)
	fmt.Fprintf(&b, "guarded %v\nrefused %v\n", in.Guarded, in.Refused)
	return b.String()
}

func dumpInbound(b *strings.Builder, in router.Intent) {
	for _, f := range in.Forwards {
		fmt.Fprintf(b, "forward protocol %d %v %d-%d to %v from %v\n", f.Protocol, f.Address, f.First, f.Last, f.To, f.From)
	}
	for _, n := range in.StaticNAT {
		fmt.Fprintf(b, "static %v host %v mark %#x links %v\n", n.Address, n.Host, n.Mark, n.Links)
	}
	for _, h := range in.Hairpins {
		fmt.Fprintf(b, "hairpin %v links %v gateway %v\n", h.Network, h.Links, h.Gateway)
	}
	for _, l := range in.RateLimits {
		fmt.Fprintf(b, "limit %v to %d\n", l.Links, l.BytesPerSecond)
	}
	for _, a := range in.Access {
		fmt.Fprintf(b, "access %s of %v ingress %+v egress %+v\n", a.Network, a.Links, a.Ingress, a.Egress)
	}
}

func TestDeriveReference(t *testing.T) {
	doc := load(t, "../docs/reference.yaml")
	for _, node := range []string{"alpha", "bravo"} {
		t.Run(node, func(t *testing.T) {
			got := dump(derive(t, doc, node))
			path := filepath.Join("testdata", "reference-"+node+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with -update if this is meant (-want +got):\n%s", diff)
			}
		})
	}
}

// What the outside sees is the same on both members; what differs is their own.
func TestDeriveIsSymmetric(t *testing.T) {
	doc := load(t, "../docs/reference.yaml")
	a, b := derive(t, doc, "alpha"), derive(t, doc, "bravo")
	if diff := cmp.Diff(a, b, compareNetip(), ignoreOwn()); diff != "" {
		t.Errorf("alpha - bravo +:\n%s", diff)
	}
	if cmp.Equal(a.Ports, b.Ports, compareNetip()) {
		t.Errorf("both nodes have the same own addresses")
	}
}

// ignoreOwn leaves out what differs between the members: their own addresses.
func ignoreOwn() cmp.Options {
	return cmp.Options{
		cmpopts.IgnoreFields(router.Intent{}, "Ports"), cmpopts.IgnoreFields(router.VirtualLink{}, "Own"),
		cmpopts.IgnoreSliceElements(func(r router.Rule) bool { return r.Preference == router.PreferenceOwn }),
	}
}

const twoUplinks = `version: 1
group: solo
members: [{name: one}]
uplinks:
  - {name: fibre, vrid: 1, prefix: 192.0.2.0/24, gateway: 192.0.2.1, addresses: [192.0.2.9, 192.0.2.8], ports: {one: {interface: a, address: 192.0.2.2}}}
  - {name: radio, vrid: 2, prefix: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.9], ports: {one: {interface: b, address: 198.51.100.2}}}
networks:
  - {name: north, vrid: 255, prefix: 10.1.0.0/24, gateway: 10.1.0.1, uplink: radio, ports: {one: {interface: c, address: 10.1.0.2}}}
  - {name: south, vrid: 3, prefix: 10.2.0.0/24, gateway: 10.2.0.1, uplink: fibre, nat_address: 192.0.2.8, ports: {one: {interface: d, address: 10.2.0.2}}}
`

func TestDeriveSingleRouter(t *testing.T) {
	in := derive(t, parse(t, twoUplinks), "one")
	checkLines(t, in, []string{
		"link vmac255 carrier north parent c mac 00 00 5e 00 01 ff vrid 255 addresses [10.1.0.1] own [10.1.0.2]",
		"link vmac1 carrier fibre parent a mac 00 00 5e 00 01 01 vrid 1 addresses [192.0.2.9 192.0.2.8] own [192.0.2.2]",
		"address 10.1.0.2/24 dev c",
		"rule 11000 from 10.1.0.2/32 table 254",
		"rule 11100 iif vmac255 table 1255",
		"rule 11200 from 10.1.0.0/24 table 1255",
		"rule 11300 from 192.0.2.9/32 table 1001",
		"rule 11300 from 192.0.2.8/32 table 1001",
		"rule 11300 from 198.51.100.9/32 table 1002",
		"route table 1255 0.0.0.0/0 via 198.51.100.1 dev vmac2 metric 0",
		"route table 1003 0.0.0.0/0 via 192.0.2.1 dev vmac1 metric 0",
		"route table 1001 0.0.0.0/0 via 192.0.2.1 dev vmac1 metric 0",
		"route table 1002 0.0.0.0/0 via 198.51.100.1 dev vmac2 metric 0",
		"route table 1001 10.1.0.0/24 dev vmac255 metric 0",
		"snat from 10.1.0.0/24 oif vmac2 to 198.51.100.9",
		"snat from 10.2.0.0/24 oif vmac1 to 192.0.2.8",
		"guarded [192.0.2.9 192.0.2.8 198.51.100.9]",
	})
}

func TestDeriveIsolatedNetwork(t *testing.T) {
	in := derive(t, parse(t, `version: 1
group: solo
members: [{name: one}]
networks: [{name: lan, vrid: 9, prefix: 10.1.0.0/24, gateway: 10.1.0.1, ports: {one: {interface: c, address: 10.1.0.2}}}]
`), "one")
	if len(in.NAT) != 0 || len(in.Guarded) != 0 {
		t.Errorf("translations without an uplink: %v, %v", in.NAT, in.Guarded)
	}
	want := []router.Route{
		{Table: 1009, Destination: netip.MustParsePrefix("10.1.0.0/24"), Link: "vmac9"},
		{Table: 1009, Destination: netip.MustParsePrefix("0.0.0.0/0"), Unreachable: true, Metric: router.UnreachableMetric},
	}
	if diff := cmp.Diff(want, in.Routes, compareNetip()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

const dualStack = `version: 1
group: duo
members: [{name: one, priority: 255, public_key: "` + keyOne + `"}, {name: two, public_key: "` + keyTwo + `"}]
ha_link: {vrid: 1, prefix: 10.9.0.0/30, ports: {one: {interface: x, address: 10.9.0.1}, two: {interface: x, address: 10.9.0.2}}}
uplinks:
  - name: both
    vrid: 2
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.9]
    ports: {one: {interface: a, address: 192.0.2.2}, two: {interface: a, address: 192.0.2.3}}
    ipv6: {vrid: 200, prefix: "2001:db8:0:2::/64", gateway: "2001:db8:0:2::1", addresses: ["2001:db8:0:2::9"]}
  - name: old
    vrid: 3
    prefix: 198.51.100.0/24
    gateway: 198.51.100.1
    addresses: [198.51.100.9]
    ports: {one: {interface: b, address: 198.51.100.2}, two: {interface: b, address: 198.51.100.3}}
networks:
  - name: own
    vrid: 4
    prefix: 10.4.0.0/24
    gateway: 10.4.0.1
    uplink: both
    ports: {one: {interface: c, address: 10.4.0.2}, two: {interface: c, address: 10.4.0.3}}
    ipv6: {prefix: "2001:db8:0:4::/64", gateway: "2001:db8:0:4::1", link_local: "fe80::1"}
    vrrp: {virtual_mac: false, accept: false}
    virtual_routers: [{vrid: 5, addresses: [10.4.0.5, "2001:db8:0:4::5"]}]
  - name: north
    vrid: 6
    prefix: 10.6.0.0/24
    gateway: 10.6.0.1
    uplink: old
    ports: {one: {interface: d, address: 10.6.0.2}, two: {interface: d, address: 10.6.0.3}}
    ipv6: {prefix: "2001:db8:0:6::/64", gateway: "2001:db8:0:6::1"}
`

func TestDeriveDualStack(t *testing.T) {
	in := derive(t, parse(t, dualStack), "two")
	checkLines(t, in, []string{
		"address fe80::5e:c8:2/64 dev a",
		"address fe80::5e:4:2/64 dev c",
		"link vmac200v6 carrier both/ipv6 parent a mac 00 00 5e 00 02 c8 vrid 200 addresses [fe80::5e:c8 2001:db8:0:2::9] own [192.0.2.3 fe80::5e:c8:2] ipv6",
		"link c carrier own parent c mac 00 00 00 00 00 00 vrid 4 addresses [10.4.0.1] own [10.4.0.3 fe80::5e:4:2] own-mac",
		"link c carrier own/ipv6 parent c mac 00 00 00 00 00 00 vrid 4 addresses [fe80::1 2001:db8:0:4::1] own [10.4.0.3 fe80::5e:4:2] own-mac ipv6",
		"link c carrier own/5/ipv6 parent c mac 00 00 00 00 00 00 vrid 5 addresses [fe80::5e:5 2001:db8:0:4::5] own [10.4.0.3 fe80::5e:4:2] own-mac ipv6",
		"rule 11100 iif c table 1004\nipv6 rule 11100 iif c table 1004\nrule 11100 iif vmac6 table 1006\nipv6 rule 11100 iif vmac6v6 table 1006", // c once in each family
		"ipv6 rule 11200 from 2001:db8:0:4::/64 table 1004",
		"ipv6 rule 11300 from 2001:db8:0:2::9/128 table 1002",
		"route table 1004 ::/0 via 2001:db8:0:2::1 dev vmac200v6 metric 0",
		"route table 1002 2001:db8:0:4::/64 dev c metric 0",
		"route table 1004 0.0.0.0/0 via 192.0.2.1 dev vmac2 metric 0",
		// The uplink of north has no IPv6: it reaches the other segments, and no further.
		"route table 1006 2001:db8:0:6::/64 dev vmac6v6 metric 0\nroute table 1006 unreachable ::/0 metric 2147483647",
		"refused [10.4.0.1 fe80::1 2001:db8:0:4::1 10.4.0.5 fe80::5e:5 2001:db8:0:4::5]",
	})
	// No IPv6 table for a segment without, and no rule for what is not there.
	if text := dump(in); strings.Contains(text, "table 1003 2001") || strings.Contains(text, "vmac3v6") {
		t.Errorf("IPv6 on an uplink without:\n%s", text)
	}
}

// The owner accepts what is sent to its addresses in any case, RFC 9568 §6.4.3.
func TestOwnerRefusesNothing(t *testing.T) {
	if in := derive(t, parse(t, dualStack), "one"); len(in.Refused) > 0 {
		t.Errorf("refused: %v", in.Refused)
	}
}

func checkLines(t *testing.T, in router.Intent, want []string) {
	t.Helper()
	got := dump(in)
	for _, line := range want {
		if !strings.Contains("\n"+got, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Logf("intent:\n%s", got)
	}
}

func TestDeriveRefuses(t *testing.T) {
	tests := []struct {
		name  string
		node  string
		spoil func(*config.Document)
		want  string
	}{
		{"stranger", "two", func(*config.Document) {}, "has no such member"},
		{"nameless", "", func(*config.Document) {}, "has no such member"},
		{"no port on a network", "one", func(d *config.Document) { d.Networks[0].Ports = nil }, `no port on "north"`},
		{"no port on an uplink", "one", func(d *config.Document) { d.Uplinks[1].Ports = nil }, `no port on "radio"`},
		{"no port on the link", "one", func(d *config.Document) { d.HALink = &config.HALink{} }, "no port on the HA link"},
		{"no port on the second link", "one", func(d *config.Document) { d.SecondHALink = &config.HALink{} }, "no port on the second HA link"},
		{"no such uplink", "one", func(d *config.Document) { d.Networks[1].Uplinks = []string{"sat"} }, `network "south" takes uplink "sat"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			doc := parse(t, twoUplinks)
			test.spoil(doc)
			in, err := router.Derive(doc, test.node, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if diff := cmp.Diff(router.Intent{}, in, compareNetip()); diff != "" {
				t.Errorf("an intent with the error:\n%s", diff)
			}
		})
	}
}

// Derive neither changes nor shares what it was given.
func TestDeriveLeavesTheDocumentAlone(t *testing.T) {
	doc := parse(t, twoUplinks)
	before := doc.Hash()
	in := derive(t, doc, "one")
	for i := range in.VirtualLinks {
		in.VirtualLinks[i].Addresses[0] = netip.IPv6Loopback()
		in.VirtualLinks[i].Own[0] = netip.IPv6Loopback()
	}
	in.Guarded[0] = netip.IPv6Loopback()
	if doc.Hash() != before {
		t.Errorf("the document changed")
	}
}
