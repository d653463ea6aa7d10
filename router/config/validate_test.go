package config_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tandem/router/config"
)

// spoil is one edit of a good document and every fault that it must cause, as
// "LINE PATH: part of the message". No fault means that the edit is allowed.
type spoil struct {
	name     string
	old, new string
	want     []string
}

func check(t *testing.T, good string, tests []spoil) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if strings.Count(good, test.old) != 1 {
				t.Fatalf("%q stands %d times in the document", test.old, strings.Count(good, test.old))
			}
			_, err := config.Parse("edge.yaml", []byte(strings.Replace(good, test.old, test.new, 1)))
			checkFaults(t, err, test.want)
		})
	}
}

func checkFaults(t *testing.T, err error, want []string) {
	t.Helper()
	var faults *config.Faults
	if err != nil && !errors.As(err, &faults) {
		t.Fatalf("%T is not *Faults: %v", err, err)
	}
	var got []config.Fault
	if faults != nil {
		got = faults.List
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("no fault %s", want[i])
		case i >= len(want):
			t.Errorf("unexpected fault %d %s: %s", got[i].Line, got[i].Path, got[i].Message)
		default:
			place, part, _ := strings.Cut(want[i], ": ")
			if at := fmt.Sprintf("%d %s", got[i].Line, got[i].Path); at != place || !strings.Contains(got[i].Message, part) {
				t.Errorf("fault %d:\n got %s: %s\nwant %s", i, at, got[i].Message, want[i])
			}
		}
	}
}

func TestMembers(t *testing.T) {
	b := "  - name: bravo\n    public_key: " + keyB + "\n"
	check(t, pair, []spoil{
		{"same name", "- name: bravo", "- name: alpha", []string{
			`6 members[1].name: "alpha" is already the name of members[0]`,
			"13 ha_link.ports.bravo: no such member; name one of alpha",
			"22 uplinks[0].ports.bravo: no such member",
			"30 networks[0].ports.bravo: no such member",
		}},
		{"same key", keyB, keyA, []string{"7 members[1].public_key: also the key of members[0]"}},
		{"no key", "    public_key: " + keyB + "\n", "", []string{"6 members[1].public_key: is missing; with two members"}},
		{"other key", keyB, "ssh-ed25519 AAAA", []string{"7 members[1].public_key: which begins with tandem-p256:"}},
		{"short key", keyB, "tandem-p256:AAAA", []string{"7 members[1].public_key: is damaged"}},
		{"key without padding", keyB, strings.TrimSuffix(keyB, "="), []string{"7 members[1].public_key: is damaged"}},
		{"key with line break", keyB, `"` + keyB + `\n"`, []string{"7 members[1].public_key: is damaged"}},
		{"key with loose bits", keyB, strings.TrimSuffix(keyB, "w==") + "x==", []string{"7 members[1].public_key: is damaged"}},
		{"priority low", "- name: bravo", "- name: bravo\n    priority: 99", []string{"7 members[1].priority: from 100 to 255 in decimal digits, but is 99"}},
		{"priority high", "- name: bravo", "- name: bravo\n    priority: 256", []string{"7 members[1].priority: but is 256"}},
		{"priority huge", "- name: bravo", "- name: bravo\n    priority: 99999999999999999999", []string{"7 members[1].priority: must be a whole number"}},
		{"priority allowed", "- name: bravo", "- name: bravo\n    priority: 254", nil},
		{"owner", "- name: bravo", "- name: bravo\n    priority: 255", nil},
		{"two owners", "- name: alpha\n    public_key: " + keyA + "\n  - name: bravo\n", "- name: alpha\n    priority: 255\n    public_key: " + keyA + "\n  - name: bravo\n    priority: 255\n", []string{"8 members[1].priority: is 255 like that of members[0]"}},
		{"priority of the other's default", "- name: bravo", "- name: bravo\n    priority: 200", []string{"7 members[1].priority: is 200 like that of members[0]"}},
		{"three", b, b + "  - name: charlie\n    public_key: " + keyA[:len(keyA)-8] + "AAAAAA==\n", []string{
			"3 members: has 3 nodes, but a group has one or two",
			"13 ha_link.ports.charlie: is missing",
			"22 uplinks[0].ports.charlie: is missing",
			"30 networks[0].ports.charlie: is missing",
		}},
		{"one with a pair's link", b, "", []string{
			"6 ha_link: a document with a single member",
			"11 ha_link.ports.bravo: no such member",
			"20 uplinks[0].ports.bravo: no such member",
			"28 networks[0].ports.bravo: no such member",
		}},
	})
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 33)
	check(t, pair, []spoil{
		{"longest", "group: edge", "group: " + long[1:], nil},
		{"too long", "group: edge", "group: " + long, []string{"2 group: at most 32"}},
		{"upper case", "group: edge", "group: Edge", []string{`2 group: "Edge" is not a name: use small letters`}},
		{"underscore", "group: edge", "group: ed_ge", []string{"2 group: is not a name"}},
		{"hyphen first", "group: edge", "group: -edge", []string{"2 group: is not a name"}},
		{"hyphen last", "group: edge", "group: edge-", []string{"2 group: is not a name"}},
		{"empty", "group: edge", `group: ""`, []string{"2 group: is not a name"}},
		{"digits", "group: edge", `group: "12"`, nil},
		{"number", "group: edge", "group: 12", []string{"2 group: if 12 is meant as text, put it in quotes"}},
		{"truth", "group: edge", "group: true", []string{"2 group: if true is meant as text, put it in quotes"}},
		{"uplink like the link", "- name: wan", "- name: ha", []string{
			`15 uplinks[0].name: "ha" is the name of an HA link`,
			`31 networks[0].uplink: there is no uplink "wan"; name one of ha`,
		}},
		{"network like the link", "- name: lan", "- name: ha", []string{`24 networks[0].name: "ha" is the name of an HA link`}},
		{"network like the uplink", "- name: lan", "- name: wan", []string{`24 networks[0].name: "wan" is already the name of uplinks[0]`}},
		{"member with a bad name", "- name: alpha", "- name: Alpha", []string{`4 members[0].name: "Alpha" is not a name`}},
		{"uplink with a bad name", "- name: wan", "- name: WAN", []string{`15 uplinks[0].name: "WAN" is not a name`}},
	})
}

func TestElection(t *testing.T) {
	allowed := func(interval string) spoil {
		return spoil{interval, "group: edge", "group: edge\nelection: {advertisement_interval: " + interval + "}", nil}
	}
	refused := func(interval, part string) spoil {
		s := allowed(interval)
		s.want = []string{"3 election.advertisement_interval: " + part}
		return s
	}
	check(t, pair, []spoil{
		allowed("10ms"), allowed("40.95s"), allowed("1s"), allowed(`"0.03s"`), allowed("40950ms"),
		refused("9ms", "from 10ms to 40.95s"), refused("0s", "from 10ms to 40.95s"), refused("-1s", "from 10ms to 40.95s"),
		refused("40.96s", "from 10ms to 40.95s"), refused("15ms", `whole steps of 10ms, such as 100ms, but is "15ms"`),
		refused("100", "the number 100 lacks its unit"), refused("1.5", "but is a fraction"), refused("fast", `but is "fast"`),
		refused("9999999h", `but is "9999999h"`), refused("[1s]", "but is a list"),
		{"preempt is text", "group: edge", "group: edge\nelection: {preempt: yes}", []string{`3 election.preempt: must be true or false, but is the text "yes"`}},
	})
}

func TestHALink(t *testing.T) {
	link := pair[strings.Index(pair, "ha_link:"):strings.Index(pair, "uplinks:")]
	check(t, pair, []spoil{
		{"none", link, "", []string{"1 ha_link: is missing; two members need a link"}},
		{"no value", link, "ha_link:\n", []string{"8 ha_link: has no value"}},
		{"a list", link, "ha_link: []\n", []string{"8 ha_link: must be a mapping"}},
		{"/31", "10.255.0.0/30", "10.255.0.2/31", []string{"12 ha_link.ports.alpha.address: is not in 10.255.0.2/31; choose one from 10.255.0.2 to 10.255.0.3"}},
		{"/32", "10.255.0.0/30", "10.255.0.0/32", []string{"10 ha_link.prefix: from 8 to 31"}},
		{"port 0", "  vrid: 1\n", "  vrid: 1\n  port: 0\n", []string{"10 ha_link.port: from 1 to 65535"}},
		{"port 65536", "  vrid: 1\n", "  vrid: 1\n  port: 65536\n", []string{"10 ha_link.port: from 1 to 65535"}},
		{"port is text", "  vrid: 1\n", "  vrid: 1\n  port: \"1\"\n", []string{`10 ha_link.port: but is the text "1"`}},
	})
}

func TestSecondHALink(t *testing.T) {
	const second = `second_ha_link:
  vrid: 9
  prefix: 10.255.1.0/30
  ports:
    alpha: {interface: eth9, address: 10.255.1.1}
    bravo: {interface: eth9, address: 10.255.1.2}
`
	link := pair[strings.Index(pair, "ha_link:"):strings.Index(pair, "uplinks:")]
	with := strings.Replace(pair, "uplinks:\n", second+"uplinks:\n", 1)
	check(t, with, []spoil{
		{"whole", "vrid: 9", "vrid: 9", nil},
		{"no first", link, "", []string{"1 ha_link: is missing; two members need a link"}},
		{"of the first's subnet", "prefix: 10.255.1.0/30", "prefix: 10.255.0.0/16", []string{"16 second_ha_link.prefix: overlaps 10.255.0.0/30 of ha_link"}},
		{"of the first's interface", "interface: eth9, address: 10.255.1.1", "interface: eth0, address: 10.255.1.1", []string{"18 second_ha_link.ports.alpha.interface: eth0 is already used by ha_link.ports.alpha"}},
		{"of the first's VRID", "vrid: 9", "vrid: 1", []string{"15 second_ha_link.vrid: 1 is already the VRID of ha_link"}},
		{"a network of its name", "- name: lan", "- name: ha2", []string{`30 networks[0].name: "ha2" is the name of an HA link`}},
	})
	if mustParse(t, with).Hash() == mustParse(t, pair).Hash() {
		t.Error("the second link does not count in the hash")
	}
}

func TestVRIDs(t *testing.T) {
	check(t, pair, []spoil{
		{"zero", "vrid: 3", "vrid: 0", []string{"25 networks[0].vrid: from 1 to 255"}},
		{"256", "vrid: 3", "vrid: 256", []string{"25 networks[0].vrid: from 1 to 255"}},
		{"255", "vrid: 3", "vrid: 255", nil},
		{"negative", "vrid: 3", "vrid: -3", []string{"25 networks[0].vrid: but is -3"}},
		{"octal", "vrid: 3", "vrid: 010", []string{"25 networks[0].vrid: in decimal digits, but is 010"}},
		{"hexadecimal", "vrid: 3", "vrid: 0x3", []string{"25 networks[0].vrid: in decimal digits, but is 0x3"}},
		{"fraction", "vrid: 3", "vrid: 3.0", []string{"25 networks[0].vrid: but is a fraction"}},
		{"of the uplink", "vrid: 3", "vrid: 2", []string{"25 networks[0].vrid: 2 is already the VRID of uplinks[0]"}},
		{"of the link", "vrid: 2", "vrid: 1", []string{"16 uplinks[0].vrid: 1 is already the VRID of ha_link"}},
		{"missing", "    vrid: 3\n", "", []string{"24 networks[0].vrid: is missing; give a virtual router identifier"}},
	})
	many := pair
	for i := range 254 {
		many += fmt.Sprintf("  - {name: n%d, vrid: %d, prefix: 11.0.%d.0/24, gateway: 11.0.%d.1, uplink: wan, ports: {}}\n", i, i+1, i, i)
	}
	_, err := config.Parse("edge.yaml", []byte(many))
	checkFaults(t, err, []string{"1 : the document has 257 segments, but there are only 255 VRIDs"})
}

func TestPrefixes(t *testing.T) {
	check(t, pair, []spoil{
		{"host bits", "prefix: 10.0.0.0/24", "prefix: 10.0.0.1/24", []string{"26 networks[0].prefix: write 10.0.0.0/24"}},
		{"host bits and a stray address", "prefix: 10.0.0.0/24", "prefix: 10.0.0.1/31", []string{
			"26 networks[0].prefix: from 8 to 30",
		}},
		{"no length", "prefix: 10.0.0.0/24", "prefix: 10.0.0.0", []string{"26 networks[0].prefix: lacks the prefix length; write e.g. 10.0.0.0/24"}},
		{"not a prefix", "prefix: 10.0.0.0/24", "prefix: office", []string{`26 networks[0].prefix: "office" is not an IPv4 subnet`}},
		{"a number", "prefix: 10.0.0.0/24", "prefix: 10", []string{"26 networks[0].prefix: must be an IPv4 subnet, but is a number"}},
		{"IPv6", "prefix: 10.0.0.0/24", "prefix: 2001:db8::/64", []string{"26 networks[0].prefix: 2001:db8::/64 is an IPv6 subnet; give an IPv4 one here"}},
		{"everything", "prefix: 10.0.0.0/24", "prefix: 0.0.0.0/0", []string{"26 networks[0].prefix: from 8 to 30"}},
		{"loopback", "prefix: 10.0.0.0/24", "prefix: 127.0.0.0/24", []string{"26 networks[0].prefix: is not a range for hosts"}},
		{"multicast", "prefix: 10.0.0.0/24", "prefix: 224.0.0.0/24", []string{"26 networks[0].prefix: is not a range for hosts"}},
		{"around another", "prefix: 10.0.0.0/24", "prefix: 10.0.0.0/8", []string{
			"26 networks[0].prefix: 10.0.0.0/8 overlaps 10.255.0.0/30 of ha_link",
		}},
		{"same as another", "prefix: 192.0.2.0/24", "prefix: 10.0.0.0/24", []string{
			"18 uplinks[0].gateway: is not in 10.0.0.0/24; choose one from 10.0.0.1 to 10.0.0.254",
			"19 uplinks[0].addresses[0]: is not in",
			"19 uplinks[0].addresses[1]: is not in",
			"21 uplinks[0].ports.alpha.address: is not in",
			"22 uplinks[0].ports.bravo.address: is not in",
			"26 networks[0].prefix: 10.0.0.0/24 overlaps 10.0.0.0/24 of uplinks[0]",
		}},
	})
}

func TestAddresses(t *testing.T) {
	check(t, pair, []spoil{
		{"network address", "gateway: 10.0.0.1", "gateway: 10.0.0.0", []string{"27 networks[0].gateway: is the network address of 10.0.0.0/24"}},
		{"broadcast address", "gateway: 10.0.0.1", "gateway: 10.0.0.255", []string{"27 networks[0].gateway: is the broadcast address of 10.0.0.0/24"}},
		{"outside", "gateway: 10.0.0.1", "gateway: 10.0.1.1", []string{"27 networks[0].gateway: is not in 10.0.0.0/24; choose one from 10.0.0.1 to 10.0.0.254"}},
		{"IPv6", "gateway: 10.0.0.1", "gateway: fe80::1", []string{"27 networks[0].gateway: is an IPv6 address; give an IPv4 one here"}},
		{"IPv4 in IPv6", "gateway: 10.0.0.1", "gateway: ::ffff:10.0.0.1", []string{"27 networks[0].gateway: is an IPv6 address; give an IPv4 one here"}},
		{"with a length", "gateway: 10.0.0.1", "gateway: 10.0.0.1/24", []string{"27 networks[0].gateway: write 10.0.0.1"}},
		{"not an address", "gateway: 10.0.0.1", "gateway: 10.0.0.256", []string{`27 networks[0].gateway: "10.0.0.256" is not an IPv4 address`}},
		{"leading zero", "gateway: 10.0.0.1", "gateway: 10.0.0.01", []string{"27 networks[0].gateway: is not an IPv4 address"}},
		{"a fraction", "gateway: 10.0.0.1", "gateway: 10.0", []string{"27 networks[0].gateway: must be an IPv4 address, but is a fraction"}},
		{"gateway and port", "address: 10.0.0.3", "address: 10.0.0.1", []string{"30 networks[0].ports.bravo.address: 10.0.0.1 is already used by networks[0].gateway"}},
		{"port and port", "address: 10.0.0.3", "address: 10.0.0.2", []string{"30 networks[0].ports.bravo.address: is already used by networks[0].ports.alpha.address"}},
		{"virtual twice", "192.0.2.10, 192.0.2.11", "192.0.2.11, 192.0.2.11", []string{"19 uplinks[0].addresses[1]: is already used by uplinks[0].addresses[0]"}},
		{"virtual and next hop", "192.0.2.10, 192.0.2.11", "192.0.2.1, 192.0.2.11", []string{"19 uplinks[0].addresses[0]: is already used by uplinks[0].gateway"}},
		{"no virtual", "[192.0.2.10, 192.0.2.11]", "[]", []string{"19 uplinks[0].addresses: is empty; give at least one"}},
		{"virtual is no list", "[192.0.2.10, 192.0.2.11]", "192.0.2.10", []string{"19 uplinks[0].addresses: must be a list"}},
		{"virtual without value", "[192.0.2.10, 192.0.2.11]", "[192.0.2.11, ~]", []string{"19 uplinks[0].addresses[1]: must be an IPv4 address, but is nothing"}},
		{"second virtual is wrong", "192.0.2.10, 192.0.2.11", "192.0.2.10, x", []string{`19 uplinks[0].addresses[1]: "x" is not an IPv4 address`}},
	})
}

func TestPorts(t *testing.T) {
	check(t, pair, []spoil{
		{"member without", "      bravo: {interface: eth2, address: 10.0.0.3}\n", "", []string{"28 networks[0].ports.bravo: is missing"}},
		{"unknown member", "bravo: {interface: eth2", "brave: {interface: eth2", []string{
			"28 networks[0].ports.bravo: is missing",
			"30 networks[0].ports.brave: there is no such member; name one of alpha, bravo",
		}},
		{"odd member", "bravo: {interface: eth2", `"a.b [": {interface: eth2`, []string{
			"28 networks[0].ports.bravo: is missing",
			`30 networks[0].ports["a.b ["]: there is no such member`,
		}},
		{"nothing given", "{interface: eth2, address: 10.0.0.3}", "{}", []string{
			"30 networks[0].ports.bravo.interface: is missing; give the name of the node's interface",
			"30 networks[0].ports.bravo.address: is missing; give the node's own address",
		}},
		{"no value", "{interface: eth2, address: 10.0.0.3}", "", []string{"30 networks[0].ports.bravo: has no value"}},
		{"interface twice", "bravo: {interface: eth2", "bravo: {interface: eth1", []string{
			"30 networks[0].ports.bravo.interface: eth1 is already used by uplinks[0].ports.bravo",
		}},
		{"interface of the link", "bravo: {interface: eth1", "bravo: {interface: eth0", []string{
			"22 uplinks[0].ports.bravo.interface: eth0 is already used by ha_link.ports.bravo",
		}},
		{"other member's interface", "bravo: {interface: eth2", "bravo: {interface: eth3", nil},
		{"longest", "bravo: {interface: eth2", "bravo: {interface: enp3s0f1np1.100", nil},
		{"too long", "bravo: {interface: eth2", "bravo: {interface: enp3s0f1np1.1000", []string{"30 networks[0].ports.bravo.interface: at most 15"}},
		{"slash", "bravo: {interface: eth2", "bravo: {interface: eth/2", []string{"30 networks[0].ports.bravo.interface: is not the name of an interface"}},
		{"space", "bravo: {interface: eth2", "bravo: {interface: eth 2", []string{"30 networks[0].ports.bravo.interface: is not the name of an interface"}},
		{"dots", "bravo: {interface: eth2", "bravo: {interface: ..", []string{"30 networks[0].ports.bravo.interface: is not the name of an interface"}},
		{"hyphen first", "bravo: {interface: eth2", "bravo: {interface: -eth2", []string{"30 networks[0].ports.bravo.interface: is not the name of an interface"}},
		{"empty", "bravo: {interface: eth2", `bravo: {interface: ""`, []string{"30 networks[0].ports.bravo.interface: is not the name of an interface"}},
		{"loopback", "bravo: {interface: eth2", "bravo: {interface: lo", []string{`30 networks[0].ports.bravo.interface: "lo" cannot be a port`}},
		{"sysctl's all", "bravo: {interface: eth2", "bravo: {interface: all", []string{`30 networks[0].ports.bravo.interface: "all" cannot be a port`}},
		{"ours", "bravo: {interface: eth2", "bravo: {interface: vmac3", []string{`30 networks[0].ports.bravo.interface: the router's own virtual links`}},
	})
}

func TestUplinkOfNetwork(t *testing.T) {
	uplinks := pair[strings.Index(pair, "uplinks:"):strings.Index(pair, "networks:")]
	check(t, pair, []spoil{
		{"missing", "    uplink: wan\n", "", []string{"24 networks[0].uplinks: is missing; name one of wan"}},
		{"unknown", "uplink: wan", "uplink: van", []string{`31 networks[0].uplink: there is no uplink "van"; name one of wan`}},
		{"no uplinks", uplinks, "", []string{`22 networks[0].uplink: there is no uplink "wan"; add it to uplinks or remove this key`}},
		{"foreign address", "nat_address: 192.0.2.11", "nat_address: 192.0.2.12", []string{`32 networks[0].nat_address: 192.0.2.12 is not an address of uplink "wan"`}},
		{"next hop", "nat_address: 192.0.2.11", "nat_address: 192.0.2.1", []string{"32 networks[0].nat_address: is not an address of uplink"}},
		{"default", "    nat_address: 192.0.2.11\n", "", nil},
		{"uplinks is no list", uplinks, "uplinks: wan\n", []string{"14 uplinks: must be a list"}},
	})
	isolated := strings.Replace(strings.Replace(pair, uplinks, "", 1), "    uplink: wan\n    nat_address: 192.0.2.11\n", "", 1)
	check(t, isolated, []spoil{
		{"isolated", "group: edge", "group: edge", nil},
		{"isolated with an address", "gateway: 10.0.0.1", "gateway: 10.0.0.1\n    nat_address: 192.0.2.1", []string{"19 networks[0].nat_address: needs an uplink"}},
	})
}

func TestNothingToDo(t *testing.T) {
	nothing := "version: 1\ngroup: g\nmembers:\n- name: a\n"
	check(t, nothing, []spoil{
		{"no segment", "group: g", "group: g", []string{"1 : add at least one network"}},
		{"empty lists", "group: g", "group: g\nnetworks: []\nuplinks: []", []string{"1 : add at least one network"}},
		{"no members", "members:\n- name: a\n", "members: []", []string{
			"1 : add at least one network",
			"3 members: is empty; list the one or two nodes",
		}},
		{"only the link", "- name: a\n", "- {name: a, public_key: \"" + keyA + "\"}\n- {name: b, public_key: \"" + keyB + "\"}\n" +
			"ha_link: {vrid: 1, prefix: 10.0.0.0/31, ports: {a: {interface: x, address: 10.0.0.0}, b: {interface: y, address: 10.0.0.1}}}\n", nil},
	})
}
