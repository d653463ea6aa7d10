package config_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
)

func TestForwards(t *testing.T) {
	w := withLAN(t, `forwards:
  - {protocol: tcp, port: 8443, to: 10.0.0.9:443}
  - {protocol: udp, port: 8000-8010, to: 10.0.0.9:9000, address: 198.51.100.11, from: [203.0.113.0/24]}
static_nat:
  - {address: 192.0.2.11, host: 10.0.0.8}`)
	to := netip.MustParseAddrPort
	want := []config.Forward{
		{Protocol: "tcp", First: 8443, Last: 8443, To: to("10.0.0.9:443")},
		{Protocol: "udp", First: 8000, Last: 8010, To: to("10.0.0.9:9000"), Address: netip.MustParseAddr("198.51.100.11"), From: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
	}
	if diff := cmp.Diff(want, w.Forwards, compareNetip()); diff != "" {
		t.Error(diff)
	}
	if s := w.StaticNAT; len(s) != 1 || s[0].Address != netip.MustParseAddr("192.0.2.11") || s[0].Host != netip.MustParseAddr("10.0.0.8") {
		t.Errorf("%+v", s)
	}
}

func TestForwardsAreRefused(t *testing.T) {
	forwards := func(list string, want ...string) spoil { return lan("forwards: ["+list+"]", want...) }
	const (
		good = "protocol: tcp, port: 80, to: 10.0.0.9:80"
		at   = "31 networks[0].forwards[0]"
	)
	check(t, twoWays, []spoil{
		forwards("{" + good + "}"), forwards("{" + good + "}, {protocol: udp, port: 80, to: 10.0.0.9:80}"),
		forwards("{" + good + ", address: 192.0.2.10}, {" + good + ", address: 192.0.2.11}, {" + good + ", address: 198.51.100.10}"),
		forwards("{protocol: tcp, port: 1-9, to: 10.0.0.9:80}, {protocol: tcp, port: 10, to: 10.0.0.9:80}"),
		forwards("{}", at+".protocol: is missing; give tcp or udp", at+".port: is missing", at+".to: is missing"),
		forwards("{protocol: icmp, port: 80, to: 10.0.0.9:80}", at+".protocol: must be tcp or udp"),
		forwards("{protocol: tcp, port: 0, to: 10.0.0.9:80}", at+".port: from 1 to 65535"),
		forwards("{protocol: tcp, port: 80-, to: 10.0.0.9:80}", at+".port: must be a port from 1 to 65535 or a range such as 8000-8010"),
		forwards("{protocol: tcp, port: 90-80, to: 10.0.0.9:80}", at+".port: 90-80 ends before it begins; write 80-90"),
		forwards("{protocol: tcp, port: 80, to: 10.0.0.9}", at+`.to: "10.0.0.9" is not HOST:PORT with an IPv4 address`),
		forwards("{protocol: tcp, port: 80, to: www:80}", at+".to: is not HOST:PORT with an IPv4 address"),
		forwards(`{protocol: tcp, port: 80, to: "[2001:db8:0:3::9]:80"}`, at+".to: is an IPv6 address, whose hosts are reached without a forward"),
		forwards("{protocol: tcp, port: 80-90, to: 10.0.0.9:65530}", at+".to: the range of ports would end at 65540 inside"),
		forwards("{protocol: tcp, port: 80, to: 10.1.0.9:80}", at+".to: 10.1.0.9 is not in 10.0.0.0/24"),
		forwards("{protocol: tcp, port: 80, to: 10.0.0.1:80}", at+".to: 10.0.0.1 is the pair's own address, at networks[0].gateway"),
		forwards("{"+good+", address: 203.0.113.1}", at+".address: 203.0.113.1 is not an address of an uplink of the network; choose one of 192.0.2.10, 192.0.2.11, 198.51.100.10, 198.51.100.11"),
		forwards("{"+good+`, from: ["2001:db8::/32"]}`, at+".from[0]: 2001:db8::/32 is IPv6"),
		forwards("{"+good+", from: [203.0.113.0/24, 203.0.113.128/25]}", at+".from[1]: 203.0.113.128/25 overlaps 203.0.113.0/24"),
		forwards("{"+good+"}, {"+good+"}", "31 networks[0].forwards[1].port: tcp 80 of 192.0.2.10 is already taken by networks[0].forwards[0] (80)"),
		forwards("{protocol: tcp, port: 1-99, to: 10.0.0.9:80}, {"+good+", address: 198.51.100.10}", "31 networks[0].forwards[1].port: tcp 80 of 198.51.100.10 is already taken by networks[0].forwards[0] (1-99)"),
	})
	// The other network uses the same address.
	s := lan("forwards: [{" + good + "}]")
	both := strings.Replace(strings.Replace(twoWays, s.old, s.new, 1), "uplink: wan", "uplink: wan\n    forwards: [{protocol: tcp, port: 80, to: 10.1.0.9:80}]", 1)
	_, err := config.Parse("edge.yaml", []byte(both))
	checkFaults(t, err, []string{"40 networks[1].forwards[0].port: tcp 80 of 192.0.2.10 is already taken by networks[0].forwards[0]"})
	// An address that is routed on every uplink is good on its own.
	check(t, twoWays, []spoil{
		lan("routed_nat_address: 203.0.113.1\nforwards: [{" + good + "}, {" + good + ", address: 192.0.2.10}, {protocol: udp, port: 1, to: 10.0.0.9:1, address: 203.0.113.1}]"),
	})
}

func TestStaticNATIsRefused(t *testing.T) {
	static := func(list string, want ...string) spoil { return lan("static_nat: ["+list+"]", want...) }
	const at = "31 networks[0].static_nat[0]"
	check(t, twoWays, []spoil{
		static("{address: 192.0.2.11, host: 10.0.0.9}, {address: 198.51.100.11, host: 10.0.0.9}"),
		static("{}", at+".address: is missing", at+".host: is missing"),
		static("{address: 203.0.113.1, host: 10.0.0.9}", at+".address: is not an address of an uplink of the network"),
		static("{address: 192.0.2.11, host: 10.1.0.9}", at+".host: 10.1.0.9 is not in 10.0.0.0/24"),
		static("{address: 192.0.2.11, host: 10.0.0.2}", at+".host: is the pair's own address, at networks[0].ports.solo.address"),
		static("{address: 192.0.2.11, host: 10.0.0.9}, {address: 192.0.2.11, host: 10.0.0.8}", "31 networks[0].static_nat[1].address: 192.0.2.11 is already joined to a host by networks[0].static_nat[0]"),
		static("{address: 192.0.2.11, host: 10.0.0.9}, {address: 192.0.2.10, host: 10.0.0.9}", `31 networks[0].static_nat[1].host: 10.0.0.9 has an address of uplink "wan" already`),
		lan("static_nat: [{address: 192.0.2.11, host: 10.0.0.9}]\nforwards: [{protocol: tcp, port: 80, to: 10.0.0.9:80, address: 192.0.2.11}]",
			"32 networks[0].forwards[0].address: 192.0.2.11 is joined to a host as a whole by networks[0].static_nat[0]"),
		lan("static_nat: [{address: 192.0.2.10, host: 10.0.0.9}]\nforwards: [{protocol: tcp, port: 80, to: 10.0.0.9:80}]",
			"32 networks[0].forwards[0].port: 192.0.2.10 is joined to a host as a whole by networks[0].static_nat[0]"),
	})
	isolated := "version: 1\ngroup: g\nmembers: [{name: a}]\nnetworks:\n- {name: n, vrid: 1, prefix: 10.0.0.0/24, gateway: 10.0.0.1, ports: {a: {interface: e, address: 10.0.0.2}}}\n"
	check(t, isolated, []spoil{
		{"forward", "vrid: 1", "vrid: 1, forwards: [{protocol: tcp, port: 1, to: 10.0.0.9:1}]", []string{"5 networks[0].forwards[0]: needs an uplink, by which the outside comes"}},
		{"static NAT", "vrid: 1", "vrid: 1, static_nat: [{address: 192.0.2.1, host: 10.0.0.9}]", []string{"5 networks[0].static_nat[0].address: needs an uplink, by which the outside comes"}},
		{"routed", "vrid: 1", "vrid: 1, routed_nat_address: 192.0.2.1", []string{"5 networks[0].routed_nat_address: needs an uplink"}},
		{"targets", "vrid: 1", "vrid: 1, probe: {targets: [{icmp: 192.0.2.1}]}", []string{"5 networks[0].probe.targets: are asked through the network's uplinks, but it has none"}},
		{"operation", "group: g", "group: g\noperations: [{name: a}]", []string{"3 operations[0]: chooses between uplinks, but the document has none"}},
	})
}

func TestAccess(t *testing.T) {
	w := withLAN(t, `access:
  ingress:
    default: deny
    rules:
      - {action: allow, protocol: 6, ports: [443, 8000-8010, "9"], source: [10.1.0.0/24, 192.0.2.0/24]}
      - {action: allow, protocol: icmp}
      - {action: deny, protocol: "58", destination: ["2001:db8::/32"]}`)
	prefix := netip.MustParsePrefix
	want := config.Access{
		Ingress: config.AccessList{Default: config.Deny, Rules: []config.AccessRule{
			{
				Action: config.Allow, Protocol: "tcp", Ports: []config.PortRange{{First: 443, Last: 443}, {First: 8000, Last: 8010}, {First: 9, Last: 9}},
				Source: []netip.Prefix{prefix("10.1.0.0/24"), prefix("192.0.2.0/24")},
			},
			{Action: config.Allow, Protocol: "icmp"},
			{Action: config.Deny, Protocol: "58", Destination: []netip.Prefix{prefix("2001:db8::/32")}},
		}},
		Egress: config.AccessList{Default: config.Allow},
	}
	if diff := cmp.Diff(want, w.Access, compareNetip()); diff != "" {
		t.Error(diff)
	}
}

func TestAccessIsRefused(t *testing.T) {
	rule := func(keys, key, want string) spoil {
		s := lan("access: {egress: {rules: [{" + keys + "}]}}")
		if want != "" {
			s.want = []string{"31 networks[0].access.egress.rules[0]." + key + ": " + want}
		}
		return s
	}
	check(t, twoWays, []spoil{
		rule("action: deny", "", ""), rule("action: deny, protocol: 1", "", ""), rule("action: deny, protocol: 132, ports: [1-65535]", "", ""),
		rule("protocol: tcp", "action", "is missing; give allow or deny"),
		rule("action: reject", "action", "must be allow or deny"),
		rule("action: deny, protocol: TCP", "protocol", `must be tcp, udp, icmp, sctp, gre or a number from 1 to 255, but is "TCP"`),
		rule("action: deny, protocol: 0", "protocol", "from 1 to 255"), rule(`action: deny, protocol: "256"`, "protocol", "from 1 to 255"),
		rule("action: deny, ports: [80]", "ports", "need a protocol; give protocol tcp, udp or sctp"),
		rule("action: deny, protocol: icmp, ports: [80]", "ports", "icmp has no ports"),
		rule("action: deny, protocol: 50, ports: [80]", "ports", "protocol 50 has no ports"),
		rule("action: deny, protocol: tcp, ports: 80", "ports", "must be a list"),
		rule("action: deny, protocol: tcp, ports: [80-90, 85]", "ports[1]", "85 overlaps 80-90"),
		rule("action: deny, protocol: tcp, ports: [65536]", "ports[0]", "from 1 to 65535"),
		rule(`action: deny, source: [10.0.0.0/8, "2001:db8::/32"]`, "source[1]", "2001:db8::/32 is of another family than 10.0.0.0/8; make a rule for IPv4 and one for IPv6"),
		rule(`action: deny, source: [10.0.0.0/8], destination: ["2001:db8::/32"]`, "destination[0]", "is of another family"),
		rule("action: deny, source: [10.0.0.0/8, 10.1.0.0/16]", "source[1]", "10.1.0.0/16 overlaps 10.0.0.0/8"),
		rule("action: deny, source: [10.0.0.1]", "source[0]", "lacks the prefix length; write 10.0.0.1/32"),
		rule(`action: deny, source: ["::ffff:10.0.0.0/104"]`, "source[0]", "is an IPv4 subnet in the form of an IPv6 one"),
		lan("access: {ingress: {default: drop}}", "31 networks[0].access.ingress.default: must be allow or deny"),
		lan("access: {forward: {}}", "31 networks[0].access.forward: here may stand ingress, egress"),
	})
}
