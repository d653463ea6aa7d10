package config_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
)

// twoWays is a router with two uplinks and two networks.
const twoWays = `version: 1
group: solo
members:
  - name: solo
uplinks:
  - name: wan
    vrid: 1
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.10, 192.0.2.11]
    dns: [192.0.2.53]
    labels: [fixed, all]
    ports:
      solo: {interface: eth0, address: 192.0.2.2}
    ipv6: {prefix: "2001:db8:0:1::/64", gateway: "fe80::1", addresses: ["2001:db8:0:1::a"]}
  - name: lte
    vrid: 2
    prefix: 198.51.100.0/24
    gateway: 198.51.100.1
    addresses: [198.51.100.10, 198.51.100.11]
    cost: 10
    labels: [all]
    ports:
      solo: {interface: eth1, address: 198.51.100.2}
networks:
  - name: lan
    vrid: 3
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    uplinks: [lte, wan]
    ports:
      solo: {interface: eth2, address: 10.0.0.2}
    ipv6: {prefix: "2001:db8:0:3::/64", gateway: "2001:db8:0:3::1"}
  - name: lab
    vrid: 4
    prefix: 10.1.0.0/24
    gateway: 10.1.0.1
    uplink: wan
    ports:
      solo: {interface: eth3, address: 10.1.0.2}
`

// lan adds keys to the first network of twoWays, from line 31 on.
func lan(keys string, want ...string) spoil {
	const after = "    uplinks: [lte, wan]\n"
	return spoil{keys, after, after + "    " + strings.ReplaceAll(keys, "\n", "\n    ") + "\n", want}
}

func withLAN(t *testing.T, keys string) config.Network {
	t.Helper()
	s := lan(keys)
	return mustParse(t, strings.Replace(twoWays, s.old, s.new, 1)).Networks[0]
}

func TestUplinksAreResolved(t *testing.T) {
	address := netip.MustParseAddr
	for given, want := range map[string][]string{
		"[lte, wan]": {"wan", "lte"}, "[all]": {"wan", "lte"}, "[fixed, all, wan]": {"wan", "lte"}, "[fixed]": {"wan"}, "[lte]": {"lte"},
	} {
		doc := mustParse(t, strings.Replace(twoWays, "[lte, wan]", given, 1))
		w := doc.Networks[0]
		if !slices.Equal(w.Uplinks, want) || len(w.NATAddresses) != len(want) || w.Uplink != "" {
			t.Errorf("%s: %+v", given, w)
		}
	}
	lab := mustParse(t, twoWays).Networks[1]
	if !slices.Equal(lab.Uplinks, []string{"wan"}) || lab.Uplink != "" || lab.NATAddresses["wan"] != address("192.0.2.10") {
		t.Errorf("the short form: %+v", lab)
	}
	same := mustParse(t, strings.Replace(twoWays, "    uplink: wan\n", "    uplinks: [fixed]\n    nat_addresses: {wan: 192.0.2.10}\n", 1))
	if same.Hash() != mustParse(t, twoWays).Hash() {
		t.Error("the short and the long form have different hashes")
	}
	w := withLAN(t, "nat_addresses: {lte: 198.51.100.11}\nroutes: [{destination: 172.16.0.0/12, uplinks: [fixed]}]")
	want := map[string]netip.Addr{"wan": address("192.0.2.10"), "lte": address("198.51.100.11")}
	if diff := cmp.Diff(want, w.NATAddresses, compareNetip()); diff != "" || !slices.Equal(w.Routes[0].Uplinks, []string{"wan"}) {
		t.Errorf("%+v\n%s", w, diff)
	}
	// A route's uplink gets an address, too.
	doc := mustParse(t, strings.Replace(twoWays, "    uplink: wan\n", "    uplink: wan\n    nat_address: 192.0.2.11\n    routes: [{destination: 172.16.0.0/12, uplinks: [lte]}]\n", 1))
	want = map[string]netip.Addr{"wan": address("192.0.2.11"), "lte": address("198.51.100.10")}
	if diff := cmp.Diff(want, doc.Networks[1].NATAddresses, compareNetip()); diff != "" {
		t.Error(diff)
	}
	if w := withLAN(t, "routed_nat_address: 203.0.113.1"); len(w.NATAddresses) > 0 || w.RoutedNATAddress != address("203.0.113.1") {
		t.Errorf("%+v", w)
	}
}

func TestUplinksAreRefused(t *testing.T) {
	uplinks := func(with string, want ...string) spoil { return spoil{with, "uplinks: [lte, wan]", with, want} }
	lab := func(with string, want ...string) spoil { return spoil{with, "uplink: wan", with, want} }
	label := func(with string, want ...string) spoil { return spoil{with, "labels: [fixed, all]", with, want} }
	check(t, twoWays, []spoil{
		uplinks("uplinks: [van]", `30 networks[0].uplinks[0]: no uplink has the name or label "van"; name one of wan, lte or a label of fixed, all`),
		uplinks("uplinks: []", "30 networks[0].uplinks: is empty; give the name or a label of at least one uplink"),
		uplinks("uplinks: wan", "30 networks[0].uplinks: must be a list"),
		uplinks("uplinks: [wan, wan]", `30 networks[0].uplinks[1]: "wan" stands already at networks[0].uplinks[0]`),
		uplinks("uplink: all", `30 networks[0].uplink: "all" is a label; write uplinks: [all]`),
		uplinks("max_cost: 3", "26 networks[0].uplinks: is missing; name one of wan, lte or a label of fixed, all"),
		lab("uplink: wan\n    uplinks: [lte]", "39 networks[1].uplinks: stands beside uplink; list all of them here"),
		lab("uplink: wan\n    nat_address: 192.0.2.11\n    nat_addresses: {wan: 192.0.2.10}", "39 networks[1].nat_address: stands beside nat_addresses"),
		lab("uplink: wan\n    nat_address: 192.0.2.12", `39 networks[1].nat_address: 192.0.2.12 is not an address of uplink "wan"`),
		lan("nat_address: 192.0.2.11", "31 networks[0].nat_address: does not tell of which uplink it is; write nat_addresses: {wan: 192.0.2.11}"),
		lan("nat_addresses: {wan: 198.51.100.10}", `31 networks[0].nat_addresses.wan: 198.51.100.10 is not an address of uplink "wan"`),
		lan("nat_addresses: {all: 192.0.2.10}", `31 networks[0].nat_addresses.all: "all" is a label; give the address of each uplink`),
		lan("nat_addresses: {van: 192.0.2.10}", `31 networks[0].nat_addresses.van: there is no uplink "van"; name one of wan, lte`),
		lab("uplink: wan\n    nat_addresses: {lte: 198.51.100.10}", `39 networks[1].nat_addresses.lte: the network does not use uplink "lte"`),
		lan("routed_nat_address: 192.0.2.99", "31 networks[0].routed_nat_address: 192.0.2.99 is in 192.0.2.0/24 of uplinks[0]"),
		lan("routed_nat_address: 127.0.0.1", "31 networks[0].routed_nat_address: is not an address that can be routed"),
		lan("routed_nat_address: 203.0.113.1\nnat_addresses: {wan: 192.0.2.10}", "31 networks[0].routed_nat_address: replaces the addresses of all uplinks"),
		lan("max_cost: 256", "31 networks[0].max_cost: from 0 to 255"),
		lan("failback: yes", "31 networks[0].failback: must be drain or keep"),
		lan("drain_time: 25h", `31 networks[0].drain_time: must be a duration from 0s to 24h, such as 10m, but is "25h"`),
		label("labels: [lte]", `12 uplinks[0].labels[0]: "lte" is the name of uplinks[1]; choose another label`),
		label("labels: [wan]", `12 uplinks[0].labels[0]: "wan" is the name of uplinks[0]; choose another label`),
		label("labels: [a, a]", `12 uplinks[0].labels[1]: "a" stands already at uplinks[0].labels[0]`),
		label("labels: [A]", `12 uplinks[0].labels[0]: "A" is not a name`),
		label("cost: 256", "12 uplinks[0].cost: from 0 to 255"),
		label("metered: 1", "12 uplinks[0].metered: must be true or false"),
		{"dns", "dns: [192.0.2.53]", "dns: [192.0.2.53, 192.0.2.53]", []string{"11 uplinks[0].dns[1]: 192.0.2.53 stands already at uplinks[0].dns[0]"}},
		{"dns loopback", "dns: [192.0.2.53]", "dns: [127.0.0.53]", []string{"11 uplinks[0].dns[0]: 127.0.0.53 is not the address of a server"}},
		{"dns of IPv6", "cost: 10", `dns: ["2001:db8::53"]`, []string{"21 uplinks[1].dns[0]: is an IPv6 address, but the uplink has no IPv6"}},
	})
}

func TestProbe(t *testing.T) {
	w := withLAN(t, `probe:
  targets:
    - icmp: 203.0.113.1
    - tcp: 203.0.113.1:443
    - tcp: "[2001:db8:f::1]:53"
    - icmp: 2001:db8:f::1
    - http: https://203.0.113.1:8443/a?b=c
      status: 204
      body: "<all> is well"
  need: 2
  interval: 200ms`)
	want := config.DefaultProbe()
	want.Targets = []config.Target{
		{Kind: "icmp", Host: "203.0.113.1"},
		{Kind: "tcp", Host: "203.0.113.1", Port: 443},
		{Kind: "tcp", Host: "2001:db8:f::1", Port: 53},
		{Kind: "icmp", Host: "2001:db8:f::1"},
		{Kind: "http", Host: "https://203.0.113.1:8443/a?b=c", Status: 204, Body: "<all> is well"},
	}
	want.Need, want.Interval, want.Timeout = 2, 200*time.Millisecond, 200*time.Millisecond
	if diff := cmp.Diff(want, w.Probe); diff != "" {
		t.Error(diff)
	}
}

func TestRateLimit(t *testing.T) {
	for text, want := range map[string]config.BitRate{
		"16kbit": 16_000, "1500kbit": 1_500_000, "100Mbit": 100_000_000, "1Gbit": 1_000_000_000, "1000Gbit": 1_000_000_000_000,
	} {
		if got := withLAN(t, "rate_limit: "+text).RateLimit; got != want || got.String() != text {
			t.Errorf("%s: %d, written as %s", text, got, got)
		}
	}
	if got := withLAN(t, "rate_limit: 2000kbit").RateLimit; got.String() != "2Mbit" {
		t.Error(got)
	}
	var tests []spoil
	for _, text := range []string{"0kbit", "15kbit", "1001Gbit", "1.5Mbit", "01Mbit", "100mbit", "100 Mbit", "fast", "-1Mbit", "99999999999999999999Gbit"} {
		tests = append(tests, lan("rate_limit: "+text, "31 networks[0].rate_limit: must be a rate from 16kbit to 1000Gbit"))
	}
	check(t, twoWays, append(tests, lan("rate_limit: 100", "31 networks[0].rate_limit: the number 100 lacks its unit")))
}

func TestProbeIsRefused(t *testing.T) {
	probe := func(keys string, want ...string) spoil { return lan("probe: {"+keys+"}", want...) }
	target := func(keys, key, want string) spoil {
		path := "31 networks[0].probe.targets[0]"
		if key != "" {
			path += "." + key
		}
		return probe("targets: [{"+keys+"}]", path+": "+want)
	}
	one := "targets: [{icmp: 203.0.113.1}], "
	check(t, twoWays, []spoil{
		probe(one + "need: 1"), probe("need: 1"), probe("interval: 100ms, timeout: 50ms"), probe("interval: 1h, timeout: 1m"), probe("targets: []"),
		probe(one+"need: 2", "31 networks[0].probe.need: is 2, but there are 1 targets"),
		probe("need: 2", "31 networks[0].probe.need: is 2, but there are 0 targets"),
		probe("need: 0", "31 networks[0].probe.need: from 1 to 32"),
		probe(`targets: [{icmp: 203.0.113.1}, {icmp: "2001:db8:f::1"}], need: 2`, "31 networks[0].probe.need: is 2, but only 1 of the targets can be asked over IPv4"),
		probe(`targets: [{icmp: 203.0.113.1}, {icmp: 203.0.113.2}, {icmp: "2001:db8:f::1"}], need: 2`, "31 networks[0].probe.need: is 2, but only 1 of the targets can be asked over IPv6"),
		probe("interval: 99ms", "31 networks[0].probe.interval: must be a duration from 100ms to 1h, such as 1s"),
		probe("interval: 2h", "31 networks[0].probe.interval: from 100ms to 1h"),
		probe("timeout: 49ms", "31 networks[0].probe.timeout: must be a duration from 50ms to 1m"),
		probe("timeout: 2m, interval: 5m", "31 networks[0].probe.timeout: must be a duration from 50ms to 1m"),
		probe("timeout: 2s", "31 networks[0].probe.timeout: 2s is longer than the interval 1s"),
		probe("rise: 0", "31 networks[0].probe.rise: from 1 to 100"), probe("fall: 101", "31 networks[0].probe.fall: from 1 to 100"),
		probe("loss_limit: 0", "31 networks[0].probe.loss_limit: from 1 to 100"),
		probe("target: []", `31 networks[0].probe.target: did you mean "targets"?`),
		probe("targets: [{icmp: 203.0.113.1}, {icmp: 203.0.113.1}]", "31 networks[0].probe.targets[1]: asks the same as networks[0].probe.targets[0]"),
		target("", "", "asks nothing; give it one of icmp, tcp, dns and http"),
		target("icmp: 203.0.113.1, tcp: 203.0.113.1:1", "", "has icmp and tcp; make a target of each"),
		target("ping: 203.0.113.1", "ping", "is not a known key"),
		target("icmp: 203.0.113.256", "icmp", `"203.0.113.256" is not an address or a name, such as 192.0.2.1 or www.example.com`),
		target("icmp: 127.0.0.1", "icmp", "127.0.0.1 is not an address that an uplink leads to"),
		target(`icmp: "fe80::1"`, "icmp", "fe80::1 is not an address that an uplink leads to"),
		target(`icmp: "2001:db8::1%eth0"`, "icmp", "names an interface"),
		target("icmp: 192.0.2.10", "icmp", "192.0.2.10 is the pair's own address, at uplinks[0].addresses[0]"),
		target("icmp: 10.1.0.77", "icmp", "10.1.0.77 is in networks[1], where no uplink leads"),
		target("icmp: 192.0.2.1, status: 200", "status", "is what http answers with"),
		target("icmp: 192.0.2.1, body: x", "body", "is what http answers with"),
		target("tcp: 203.0.113.1", "tcp", `"203.0.113.1" is not HOST:PORT`),
		target("tcp: 203.0.113.1:0", "tcp", "is not HOST:PORT"), target("tcp: 203.0.113.1:65536", "tcp", "is not HOST:PORT"),
		target(`tcp: "2001:db8::1:443"`, "tcp", "is not HOST:PORT"),
		target("dns: 203.0.113.1", "dns", `"203.0.113.1" is not a name such as www.example.com`),
		target("http: 203.0.113.1", "http", "is not a URL"), target("http: ftp://203.0.113.1/", "http", "is not a URL"),
		target("http: http://me@203.0.113.1/", "http", "has a user's name"), target(`http: "http://203.0.113.1/#a"`, "http", "has a fragment"),
		target("http: http://203.0.113.1:x/", "http", `"x" is not a port`), target("http: http:///a", "http", `"" is not a URL`),
		target(`http: "http://203.0.113.1/é"`, "http", "of printable ASCII characters"),
		target("http: http://203.0.113.1/, status: 99", "status", "from 100 to 599"),
		target(`http: http://203.0.113.1/, body: ""`, "body", "must be a text of printable characters"),
		target("dns: www.example.com", "dns", `is to be resolved by the name servers of uplink "lte", which has none; give it dns or remove this target`),
		target("tcp: www.example.com:443", "tcp", `is to be resolved by the name servers of uplink "lte", which has none; give it dns or an address here`),
		target("http: http://www.example.com/", "http", `is to be resolved by the name servers of uplink "lte"`),
	})
	// Where every uplink has servers, names are good; where there is no IPv6, its addresses are not.
	only := func(target, key string, want ...string) spoil {
		s := spoil{target, "uplink: wan", "uplink: wan\n    probe: {targets: [{" + target + "}]}", nil}
		for _, w := range want {
			s.want = append(s.want, "39 networks[1].probe.targets[0]."+key+": "+w)
		}
		return s
	}
	check(t, twoWays, []spoil{
		only("dns: WWW.example.com.", "dns"), only("http: http://www.example.com:80", "http"), only("icmp: a_b.example.com", "icmp"),
		only(`icmp: "2001:db8:f::1"`, "icmp", "2001:db8:f::1 is an IPv6 address, but the traffic is IPv4"),
	})
}

func TestRoutesAreRefused(t *testing.T) {
	route := func(keys, key string, want ...string) spoil {
		path := "31 networks[0].routes[0]"
		if key != "" {
			path += "." + key
		}
		s := lan("routes: [{" + keys + "}]")
		for _, w := range want {
			s.want = append(s.want, path+": "+w)
		}
		return s
	}
	check(t, twoWays, []spoil{
		route("destination: 172.16.0.0/12, uplinks: [all]", ""), route("destination: 172.16.0.0/12, via: 10.1.0.9", ""),
		route("destination: 172.16.0.0/12, via: 192.0.2.1", ""), route(`destination: "2001:db8:f::/48", uplinks: [all]`, ""),
		route("destination: 10.0.0.0/8, via: 10.0.0.9", ""), route(`destination: "2001:db8:f::/48", via: "2001:db8:0:3::9"`, ""),
		route("uplinks: [all]", "destination", "is missing"),
		route("destination: 172.16.0.0/12", "", "leads nowhere; give it via"),
		route("destination: 172.16.0.0/12, uplinks: [van]", "uplinks[0]", `no uplink has the name or label "van"`),
		route("destination: 172.16.0.0/12, uplinks: [all], via: 10.1.0.9", "via", "stands beside uplinks"),
		route("destination: 172.16.0.0/12, via: 10.1.0.9, probe: {}", "probe", "chooses between uplinks"),
		route("destination: 172.16.0.1/12, via: 10.1.0.9", "destination", "has bits set beyond its prefix length; write 172.16.0.0/12"),
		route("destination: 172.16.0.1, via: 10.1.0.9", "destination", "lacks the prefix length; write 172.16.0.1/32"),
		route("destination: 0.0.0.0/0, via: 10.1.0.9", "destination", "is the default route"),
		route("destination: 10.0.0.128/25, via: 10.1.0.9", "destination", "10.0.0.128/25 is in 10.0.0.0/24 of networks[0], which the pair reaches by itself"),
		route("destination: 192.0.2.0/24, via: 10.1.0.9", "destination", "is in 192.0.2.0/24 of uplinks[0]"),
		route("destination: 172.16.0.0/12, via: 10.9.0.1", "via", "10.9.0.1 is on no segment of the document"),
		route("destination: 172.16.0.0/12, via: 10.1.0.1", "via", "is the pair's own address, at networks[1].gateway"),
		route(`destination: 172.16.0.0/12, via: "2001:db8:0:3::9"`, "via", "is of another family than 172.16.0.0/12"),
		route(`destination: "2001:db8:f::/48", uplinks: [lte]`, "destination", "none of the route's uplinks has IPv6"),
		route(`destination: 172.16.0.0/12, uplinks: [wan], probe: {targets: [{icmp: "2001:db8:f::1"}]}`, "probe.targets[0].icmp", "is an IPv6 address, but the traffic is IPv4"),
		route(`destination: "2001:db8:f::/48", uplinks: [wan], probe: {targets: [{icmp: 203.0.113.1}]}`, "probe.targets[0].icmp", "is an IPv4 address, but the traffic is IPv6"),
		lan("routes: [{destination: 172.16.0.0/12, via: 10.1.0.9}, {destination: 172.16.0.0/12, uplinks: [all]}]",
			"31 networks[0].routes[1].destination: 172.16.0.0/12 is already reached by networks[0].routes[0]"),
		{"no IPv6", "uplink: wan", "uplink: wan\n    routes: [{destination: \"2001:db8:f::/48\", uplinks: [wan]}]", []string{
			"39 networks[1].routes[0].destination: is an IPv6 subnet, but the network has no IPv6",
		}},
	})
	pairWith := strings.Replace(pair, "    uplink: wan\n", "    uplink: wan\n    routes: [{destination: 172.16.0.0/12, via: 10.255.0.2}]\n", 1)
	_, err := config.Parse("edge.yaml", []byte(pairWith))
	checkFaults(t, err, []string{"32 networks[0].routes[0].via: 10.255.0.2 is the pair's own address"})
}

func TestOperations(t *testing.T) {
	operations := func(text string, want ...string) spoil {
		return spoil{text, "group: solo", "group: solo\noperations: [" + text + "]", want}
	}
	check(t, twoWays, []spoil{
		operations("{name: updates}"), operations("{name: updates, max_cost: 0, metered: true, uplinks: [all]}"),
		operations("{}", "3 operations[0].name: is missing; give the name of the operation"),
		operations("{name: a}, {name: a}", `3 operations[1].name: "a" is already the name of operations[0]`),
		operations("{name: a, uplinks: [van]}", `3 operations[0].uplinks[0]: no uplink has the name or label "van"`),
		operations("{name: a, uplinks: []}", "3 operations[0].uplinks: is empty"),
		operations("{name: a, max_cost: -1}", "3 operations[0].max_cost: from 0 to 255"),
	})
	doc := mustParse(t, strings.Replace(twoWays, "group: solo", "group: solo\noperations: [{name: a}, {name: b, uplinks: [all], metered: true}]", 1))
	want := []config.Operation{{Name: "a", MaxCost: 255}, {Name: "b", MaxCost: 255, Metered: true, Uplinks: []string{"wan", "lte"}}}
	if diff := cmp.Diff(want, doc.Operations); diff != "" {
		t.Error(diff)
	}
}

func TestTranslation(t *testing.T) {
	uplink := func(keys string, want ...string) spoil {
		const end = `addresses: ["2001:db8:0:1::a"]}`
		return spoil{keys, end, strings.TrimSuffix(end, "}") + ", " + keys + "}", want}
	}
	network := func(keys string, want ...string) spoil {
		const end = `gateway: "2001:db8:0:3::1"}`
		return spoil{keys, end, strings.TrimSuffix(end, "}") + ", " + keys + "}", want}
	}
	const npt = "translate: npt, npt_prefix: "
	check(t, twoWays, []spoil{
		uplink("translate: none"), uplink("translate: nat66"), uplink(npt + `"2001:db8:8::/64"`), uplink(npt+`"2001:db8::/32"`, "15 uplinks[0].ipv6.npt_prefix: overlaps"),
		uplink("translate: npt", "15 uplinks[0].ipv6.npt_prefix: is missing; give the subnet"),
		uplink(`npt_prefix: "2001:db8:8::/48"`, "15 uplinks[0].ipv6.npt_prefix: needs translate: npt"),
		uplink("translate: nat", "15 uplinks[0].ipv6.translate: must be none or npt or nat66"),
		uplink(npt+`"2001:db8:8::/65"`, "33 networks[0].ipv6.prefix: 2001:db8:0:3::/64 does not fit into the npt_prefix 2001:db8:8::/65"),
		uplink(npt+`"2001:db8:0:1::/64"`, "15 uplinks[0].ipv6.npt_prefix: overlaps 2001:db8:0:1::/64 of uplinks[0]"),
		{"nat66 without an address", `, addresses: ["2001:db8:0:1::a"]}`, ", translate: nat66}", []string{"15 uplinks[0].ipv6.translate: nat66 translates to the first of the uplink's IPv6 addresses"}},
		network("translate: npt", "33 networks[0].ipv6.translate: is a matter of the uplinks"),
		network(`npt_prefix: "2001:db8:8::/48"`, "33 networks[0].ipv6.npt_prefix: is a matter of the uplinks"),
		network("nat: none", `33 networks[0].ipv6.nat: here may stand vrid, prefix, gateway, link_local`),
	})
}
