package config_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
)

// dual is a pair with IPv6 and further virtual routers.
const dual = `version: 1
group: edge
election: {advertisement_interval: 2s}
members:
  - name: alpha
    public_key: ` + keyA + `
  - name: bravo
    public_key: ` + keyB + `
ha_link:
  vrid: 1
  prefix: 10.255.0.0/30
  ports:
    alpha: {interface: eth0, address: 10.255.0.1}
    bravo: {interface: eth0, address: 10.255.0.2}
uplinks:
  - name: wan
    vrid: 2
    prefix: 192.0.2.0/24
    gateway: 192.0.2.1
    addresses: [192.0.2.10, 192.0.2.11]
    ports:
      alpha: {interface: eth1, address: 192.0.2.2}
      bravo: {interface: eth1, address: 192.0.2.3}
    ipv6:
      prefix: 2001:db8:0:2::/64
      gateway: fe80::1
      addresses: [2001:db8:0:2::a]
networks:
  - name: lan
    vrid: 3
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    ports:
      alpha: {interface: eth2, address: 10.0.0.2, ipv6: 2001:db8:0:3::2}
      bravo: {interface: eth2, address: 10.0.0.3}
    uplink: wan
    ipv6:
      prefix: 2001:db8:0:3::/64
      gateway: 2001:db8:0:3::1
    virtual_routers:
      - vrid: 4
        addresses: [10.0.0.4, 2001:db8:0:3::4]
  - name: old
    vrid: 5
    prefix: 10.5.0.0/24
    gateway: 10.5.0.1
    ports:
      alpha: {interface: eth3, address: 10.5.0.2}
      bravo: {interface: eth3, address: 10.5.0.3}
    uplink: wan
    vrrp: {version: 2}
`

func TestDualDefaults(t *testing.T) {
	doc := mustParse(t, dual)
	address := netip.MustParseAddr
	wan, lan := doc.Uplinks[0], doc.Networks[0]
	want := &config.IPv6{
		VRID: 2, Prefix: netip.MustParsePrefix("2001:db8:0:2::/64"), Gateway: address("fe80::1"),
		Addresses: []netip.Addr{address("2001:db8:0:2::a")}, LinkLocal: address("fe80::5e:2"), Translate: config.TranslateNone,
	}
	if diff := cmp.Diff(want, wan.IPv6, compareNetip()); diff != "" {
		t.Errorf("IPv6 of the uplink (-want +got):\n%s", diff)
	}
	ports := map[string]config.Port{
		"alpha": {Interface: "eth2", Address: address("10.0.0.2"), IPv6: address("2001:db8:0:3::2"), LinkLocal: address("fe80::5e:3:1")},
		"bravo": {Interface: "eth2", Address: address("10.0.0.3"), LinkLocal: address("fe80::5e:3:2")},
	}
	if diff := cmp.Diff(ports, lan.Ports, compareNetip()); diff != "" {
		t.Errorf("ports of the network (-want +got):\n%s", diff)
	}
	if got := lan.VirtualRouters[0].LinkLocal(); got != address("fe80::5e:4") {
		t.Errorf("link-local address of the further virtual router: %v", got)
	}
	if wan.VRRP != config.DefaultVRRP() || doc.Networks[1].IPv6 != nil || doc.Networks[1].Ports["alpha"].LinkLocal.IsValid() {
		t.Errorf("defaults: %+v, %+v", wan.VRRP, doc.Networks[1])
	}
	if got := doc.Networks[1].VRRP; got != (config.VRRP{Version: 2, Checksum: "rfc9568", VirtualMAC: true, Accept: true}) {
		t.Errorf("what is not given beside the version: %+v", got)
	}
	if e := doc.Election; e.PreemptDelay != 0 || e.AnnounceRefresh != time.Minute {
		t.Errorf("election: %+v", e)
	}
}

// A value that is false or 0 is not lost on the way through the canonical form, where
// the default is another.
func TestCanonicalKeepsZeroes(t *testing.T) {
	text := strings.Replace(single, "group: solo", "group: solo\nelection: {announce_refresh: 0s}", 1)
	text = strings.Replace(text, "    vrid: 2\n", "    vrid: 2\n    vrrp: {virtual_mac: false, accept: false}\n", 1)
	doc := mustParse(t, string(mustParse(t, text).JSON()))
	if v := doc.Networks[0].VRRP; v.VirtualMAC || v.Accept || v.Version != 3 || doc.Election.AnnounceRefresh != 0 {
		t.Errorf("%+v, %+v", v, doc.Election)
	}
}

func TestElectionTimes(t *testing.T) {
	election := func(keys string, want ...string) spoil {
		return spoil{keys, "election: {advertisement_interval: 2s}", "election: {advertisement_interval: 2s, " + keys + "}", want}
	}
	check(t, dual, []spoil{
		election("preempt: true, preempt_delay: 0s"), election("preempt: true, preempt_delay: 1000s"), election("preempt_delay: 0s"),
		election("preempt: true, preempt_delay: 1.5s"), election("announce_refresh: 1s"), election("announce_refresh: 1h"),
		election("announce_refresh: 0s"),
		election("preempt_delay: 5s", "3 election.preempt_delay: delays a preemption that never happens; set preempt to true or remove this key"),
		election("preempt: false, preempt_delay: 5s", "3 election.preempt_delay: delays a preemption"),
		election("preempt: yes, preempt_delay: 5s", "3 election.preempt: must be true or false"),
		election("preempt: true, preempt_delay: 1001s", "3 election.preempt_delay: a duration from 0s to 1000s"),
		election("preempt: true, preempt_delay: -1s", `3 election.preempt_delay: but is "-1s"`),
		election("preempt: true, preempt_delay: 5", "3 election.preempt_delay: the number 5 lacks its unit"),
		election("announce_refresh: 999ms", "3 election.announce_refresh: from 1s to 1h, such as 60s, or 0s for never"),
		election("announce_refresh: 61m", "3 election.announce_refresh: from 1s to 1h"),
		election("announce_refresh: never", `3 election.announce_refresh: but is "never"`),
		election("announce_refresh: 0", "3 election.announce_refresh: the number 0 lacks its unit"),
	})
}

func TestVRRP(t *testing.T) {
	old := func(keys string, want ...string) spoil {
		return spoil{keys, "{version: 2}", keys, want}
	}
	lan := func(keys string, want ...string) spoil {
		return spoil{keys, "    vrid: 3\n", "    vrid: 3\n    vrrp: " + keys + "\n", want}
	}
	check(t, dual, []spoil{
		old("{version: 3}"), old("{}"), old("{unicast: true}"), old("{version: 2, unicast: true}"), old("{version: 2, virtual_mac: false}"),
		old("{checksum: pseudo-header}"), old("{authentication: true, accept: false}"), old("{checksum: rfc9568, version: 2}"),
		old("[]", "51 networks[1].vrrp: must be a mapping"),
		old("{version: 1}", "51 networks[1].vrrp.version: from 2 to 3"),
		old("{version: v3}", `51 networks[1].vrrp.version: but is the text "v3"`),
		old("{checksum: md5}", `51 networks[1].vrrp.checksum: must be rfc9568 or pseudo-header, but is "md5"`),
		old("{checksum: 1}", "51 networks[1].vrrp.checksum: but is a number"),
		old("{unicast: 1}", "51 networks[1].vrrp.unicast: must be true or false"),
		old("{mac: 1}", "51 networks[1].vrrp.mac: is not a known key; here may stand version, checksum, unicast, virtual_mac"),
		old("{version: 2, checksum: pseudo-header}", "51 networks[1].vrrp.checksum: is a matter of version 3"),
		old("{version: 2, authentication: true}", "51 networks[1].vrrp.authentication: needs version 3"),
		lan("{version: 2}", "31 networks[0].vrrp.version: 2 carries IPv4 only; remove the segment's key ipv6 or use version 3"),
		{"interval of version 2", "2s}", "1500ms}", []string{
			"51 networks[1].vrrp.version: 2 counts whole seconds, but the advertisement_interval is 1.5s; set that to 1s or more, or use version 3",
		}},
		{"default interval of version 2", "election: {advertisement_interval: 2s}\n", "", []string{
			"50 networks[1].vrrp.version: the advertisement_interval is 100ms",
		}},
		{"one slip", "2s}", "2}", []string{"3 election.advertisement_interval: lacks its unit"}},
		{"on the HA link", "  prefix: 10.255", "  vrrp: {version: 3}\n  prefix: 10.255", []string{"11 ha_link.vrrp: is not a known key"}},
	})
	alone := func(keys string, want ...string) spoil {
		return spoil{keys, "    vrid: 2\n", "    vrid: 2\n    vrrp: " + keys + "\n", want}
	}
	check(t, single, []spoil{
		alone("{virtual_mac: false, accept: false, checksum: pseudo-header}"), alone("{unicast: false, authentication: false}"),
		alone("{unicast: true}", "16 networks[0].vrrp.unicast: needs two members"),
		alone("{authentication: true}", "16 networks[0].vrrp.authentication: needs two members"),
	})
}

func TestIPv6Prefixes(t *testing.T) {
	prefix := func(value string, want ...string) spoil {
		return spoil{value, "prefix: 2001:db8:0:2::/64", "prefix: " + value, want}
	}
	const path = "25 uplinks[0].ipv6.prefix: "
	elsewhere := "27 uplinks[0].ipv6.addresses[0]: 2001:db8:0:2::a is not in "
	check(t, dual, []spoil{
		prefix("2001:db8:0:2::/112"), prefix("2001:db8:0:2::a/127"),
		prefix("fd00:1:2:3::/64", elsewhere+"fd00:1:2:3::/64"),
		prefix("2001:db8::/47", path+"must be from 48 to 127"),
		prefix("2001:db8:0:2::a/128", path+"must be from 48 to 127"),
		prefix("2001:db8:0:2::1/64", path+"has bits set beyond its prefix length; write 2001:db8:0:2::/64"),
		prefix("'2001:db8:0:2::'", path+"lacks the prefix length; write e.g. 2001:db8:0:2::/64"),
		prefix("192.0.2.0/24", path+"192.0.2.0/24 is an IPv4 subnet; give an IPv6 subnet"),
		prefix("::ffff:10.0.0.0/120", path+"is not a range for hosts"),
		prefix("fe80::/64", path+"is not a range for hosts; give a global subnet"),
		prefix("ff02::/64", path+"is not a range for hosts"),
		prefix("::/64", path+"is not a range for hosts"),
		prefix("64", path+"must be an IPv6 subnet, but is a number"),
		prefix("wan", path+`"wan" is not an IPv6 subnet`),
		prefix("2001:db8::/48", "38 networks[0].ipv6.prefix: 2001:db8:0:3::/64 overlaps 2001:db8::/48 of uplinks[0]"),
	})
	check(t, dual, []spoil{
		{"missing", "      prefix: 2001:db8:0:2::/64\n", "", []string{"24 uplinks[0].ipv6.prefix: is missing; give the IPv6 subnet"}},
		{"empty", "      prefix: 2001:db8:0:2::/64\n      gateway: fe80::1\n      addresses: [2001:db8:0:2::a]\n", "      {}\n", []string{
			"24 uplinks[0].ipv6.prefix: is missing", "24 uplinks[0].ipv6.gateway: is missing; give the address of the next hop",
		}},
		{"not a mapping", "      prefix: 2001:db8:0:2::/64\n      gateway: fe80::1\n      addresses: [2001:db8:0:2::a]\n", "      true\n", []string{
			"24 uplinks[0].ipv6: must be a mapping",
		}},
	})
}

func TestIPv6Addresses(t *testing.T) {
	gateway := func(value string, want ...string) spoil {
		return spoil{value, "gateway: 2001:db8:0:3::1", "gateway: " + value, want}
	}
	const path = "39 networks[0].ipv6.gateway: "
	check(t, dual, []spoil{
		gateway("'2001:db8:0:3:ffff::'"), gateway("2001:db8:0:3:fdff:ffff:ffff:ff7f"),
		gateway("'2001:db8:0:3::'", path+"is the anycast address of all routers of 2001:db8:0:3::/64 (RFC 4291); choose another, such as 2001:db8:0:3::1"),
		gateway("2001:db8:0:3:fdff:ffff:ffff:fffe", path+"is a reserved anycast address of 2001:db8:0:3::/64 (RFC 2526)"),
		gateway("2001:db8:0:3:fdff:ffff:ffff:ff80", path+"is a reserved anycast address"),
		gateway("2001:db8:0:4::1", path+"2001:db8:0:4::1 is not in 2001:db8:0:3::/64"),
		gateway("fe80::1", path+"fe80::1 is not in 2001:db8:0:3::/64"),
		gateway("fe80::1%eth2", path+"names an interface; write fe80::1"),
		gateway("10.0.0.1", path+"10.0.0.1 is an IPv4 address; give an IPv6 address"),
		gateway("::ffff:10.0.0.1", path+"is an IPv4 address in the form of an IPv6 one; write 10.0.0.1"),
		gateway("2001:db8:0:3::1/64", path+"without a prefix length; write 2001:db8:0:3::1"),
		gateway("2001:db8:0:3::g", path+"is not an IPv6 address such as 2001:db8::1"),
		gateway("2001:db8:0:3::2", "34 networks[0].ports.alpha.ipv6: 2001:db8:0:3::2 is already used by networks[0].ipv6.gateway"),
		gateway("2001:db8:0:3::4", "42 networks[0].virtual_routers[0].addresses[1]: is already used by networks[0].ipv6.gateway"),
		{"unnecessary addresses", "gateway: 2001:db8:0:3::1", "gateway: 2001:db8:0:3::1\n      addresses: [2001:db8:0:3::7]", []string{
			"40 networks[0].ipv6.addresses: is not a known key",
		}},
		{"next hop in the subnet", "gateway: fe80::1", "gateway: 2001:db8:0:2::1", nil},
		{"next hop elsewhere", "gateway: fe80::1", "gateway: 2001:db8:0:9::1", []string{"26 uplinks[0].ipv6.gateway: is not in 2001:db8:0:2::/64"}},
		{"next hop is the pair", "gateway: fe80::1", "gateway: fe80::5e:2", []string{"26 uplinks[0].ipv6.gateway: fe80::5e:2 is already used by uplinks[0].ipv6.link_local"}},
		{"no addresses", "      addresses: [2001:db8:0:2::a]\n", "", nil},
		{"empty addresses", "[2001:db8:0:2::a]", "[]", nil},
		{"addresses are no list", "[2001:db8:0:2::a]", "2001:db8:0:2::a", []string{"27 uplinks[0].ipv6.addresses: must be a list"}},
		{"own address elsewhere", "ipv6: 2001:db8:0:3::2", "ipv6: 2001:db8:0:2::2", []string{"34 networks[0].ports.alpha.ipv6: is not in 2001:db8:0:3::/64"}},
		{"own address without IPv6", "{interface: eth3, address: 10.5.0.2}", "{interface: eth3, address: 10.5.0.2, ipv6: 2001:db8:0:5::2, link_local: fe80::2}", []string{
			"48 networks[1].ports.alpha.ipv6: needs the segment's IPv6; give it the key ipv6 or remove this one",
			"48 networks[1].ports.alpha.link_local: needs the segment's IPv6",
		}},
		{"own address on the HA link", "address: 10.255.0.1}", "address: 10.255.0.1, ipv6: 2001:db8::1}", []string{
			"13 ha_link.ports.alpha.ipv6: is not a known key; here may stand interface, address",
		}},
	})
}

func TestLinkLocalAddresses(t *testing.T) {
	port := func(value string, want ...string) spoil {
		return spoil{"own " + value, "{interface: eth2, address: 10.0.0.3}", "{interface: eth2, address: 10.0.0.3, link_local: " + value + "}", want}
	}
	virtual := func(value string, want ...string) spoil {
		return spoil{"virtual " + value, "gateway: 2001:db8:0:3::1", "gateway: 2001:db8:0:3::1\n      link_local: " + value, want}
	}
	const own, ours = "35 networks[0].ports.bravo.link_local: ", "40 networks[0].ipv6.link_local: "
	check(t, dual, []spoil{
		port("fe80::3"), virtual("fe80::1"), virtual("fe80::ffff:ffff:ffff:ffff"),
		port("fe80::", own+"fe80:: is not a link-local address; choose one of fe80::/64"),
		port("fe80:0:0:1::1", own+"is not a link-local address"),
		port("2001:db8:0:3::3", own+"is not a link-local address"),
		port("169.254.0.1", own+"169.254.0.1 is an IPv4 address"),
		port("fe80::5e:3:1", own+"fe80::5e:3:1 is already used by networks[0].ports.alpha.link_local"),
		port("fe80::5e:3", own+"fe80::5e:3 is already used by networks[0].ipv6.link_local"),
		port("fe80::5e:4", "41 networks[0].virtual_routers[0].vrid: fe80::5e:4 is already used by networks[0].ports.bravo.link_local"),
		virtual("febf::1", ours+"is not a link-local address"),
		virtual("fe80::5e:3:2", "35 networks[0].ports.bravo.link_local: fe80::5e:3:2 is already used by networks[0].ipv6.link_local"),
		virtual("fe80::1%vmac3v6", ours+"names an interface; write fe80::1"),
	})
}

func TestIPv6VRIDs(t *testing.T) {
	lan := func(vrid string, want ...string) spoil {
		return spoil{vrid, "prefix: 2001:db8:0:3::/64", "prefix: 2001:db8:0:3::/64\n      vrid: " + vrid, want}
	}
	const path = "39 networks[0].ipv6.vrid: "
	check(t, dual, []spoil{
		lan("3"), lan("255"),
		lan("5"), // of another segment's IPv4
		lan("1"), // of the HA link, which is IPv4
		lan("2", path+"2 is already the IPv6 VRID of uplinks[0].ipv6; choose another"),
		lan("4", "42 networks[0].virtual_routers[0].vrid: 4 is already the IPv6 VRID of networks[0].ipv6"),
		lan("0", path+"from 1 to 255"), lan("256", path+"from 1 to 255"),
		{"missing", "    vrid: 3\n", "", []string{"29 networks[0].vrid: is missing"}},
	})
}

func TestVirtualRouters(t *testing.T) {
	lan := func(value string, want ...string) spoil {
		return spoil{value, "- vrid: 4\n        addresses: [10.0.0.4, 2001:db8:0:3::4]", value, want}
	}
	const path = "networks[0].virtual_routers[0]"
	check(t, dual, []spoil{
		lan("- {vrid: 4, addresses: [10.0.0.4]}"), lan("- {vrid: 4, addresses: ['2001:db8:0:3::4']}"),
		lan("- {vrid: 5, addresses: ['2001:db8:0:3::4']}"), // 5 is another segment's in IPv4 only
		lan("- {vrid: 4, addresses: [10.0.0.4]}\n      - {vrid: 4, addresses: ['2001:db8:0:3::4']}"),
		lan("- {vrid: 5, addresses: [10.0.0.4]}", "41 "+path+".vrid: 5 is already the VRID of networks[1]"),
		lan("- {vrid: 1, addresses: [10.0.0.4]}", "41 "+path+".vrid: 1 is already the VRID of ha_link"),
		lan("- {vrid: 3, addresses: [10.0.0.4, '2001:db8:0:3::4']}", "41 "+path+".vrid: 3 is already the VRID of networks[0]"),
		lan("- {vrid: 4, addresses: [10.0.0.4]}\n      - {vrid: 4, addresses: [10.0.0.5]}", "42 networks[0].virtual_routers[1].vrid: 4 is already the VRID of "+path),
		lan("- {addresses: [10.0.0.4]}", "41 "+path+".vrid: is missing"),
		lan("- {vrid: 4}", "41 "+path+".addresses: is missing; give at least one virtual address"),
		lan("- {vrid: 4, addresses: []}", "41 "+path+".addresses: is empty"),
		lan("- {vrid: 4, addresses: [10.0.0.1]}", "41 "+path+".addresses[0]: 10.0.0.1 is already used by networks[0].gateway"),
		lan("- {vrid: 4, addresses: [10.0.1.1]}", "41 "+path+".addresses[0]: is not in 10.0.0.0/24"),
		lan("- {vrid: 4, addresses: [10.0.0.4, ten]}", "41 "+path+`.addresses[1]: "ten" is not an IPv4 or IPv6 address`),
		lan("- {vrid: 4, addresses: ['2001:db8:0:2::4']}", "41 "+path+".addresses[0]: is not in 2001:db8:0:3::/64"),
		lan("- {vrid: 4, addresses: ['fe80::4']}", "41 "+path+".addresses[0]: is not in 2001:db8:0:3::/64"),
		lan("- {vrid: 4, addresses: ['::ffff:10.0.0.4']}", "41 "+path+".addresses[0]: in the form of an IPv6 one; write 10.0.0.4"),
		lan("- {vrid: 4, addresses: [2001:db8:0:3::4]}", "41 "+path+".addresses[0]: but is a mapping of keys to values; put an IPv6 address in quotes here"),
		lan("- four", "41 "+path+`: must be a mapping of keys to values, but is the text "four"`),
		{"without IPv6", "    vrrp: {version: 2}", "    virtual_routers: [{vrid: 6, addresses: [10.5.0.4, '2001:db8:0:5::4']}]", []string{
			"51 networks[1].virtual_routers[0].addresses[1]: 2001:db8:0:5::4 needs the segment's IPv6; give it the key ipv6 or remove the address",
		}},
	})
}

// An advertisement holds only so many addresses.
func TestCrowdedVirtualRouters(t *testing.T) {
	of4 := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200)
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	of6 := func(n int) string { return strings.NewReplacer("10.0.", "2001:db8:0:3::", ".", ":").Replace(of4(n)) }
	wide := strings.Replace(dual, "10.0.0.0/24", "10.0.0.0/16", 1)
	router := func(name, addresses string, want ...string) spoil {
		return spoil{name, "[10.0.0.4, 2001:db8:0:3::4]", addresses, want}
	}
	check(t, wide, []spoil{
		router("255 of IPv4", of4(255)), router("89 of IPv6", of6(89)),
		router("256 of IPv4", of4(256), "42 networks[0].virtual_routers[0].addresses: has 256 addresses of one family, but an advertisement holds 255"),
		router("90 of IPv6", of6(90), "42 networks[0].virtual_routers[0].addresses: has 90 addresses of one family, but an advertisement holds 89"),
	})
	signed := strings.Replace(wide, "    vrid: 3\n", "    vrid: 3\n    vrrp: {authentication: true}\n", 1)
	check(t, signed, []spoil{
		router("87 of IPv6", of6(87)),
		router("88 of IPv6", of6(88), "43 networks[0].virtual_routers[0].addresses: has 88 addresses of one family, but an advertisement holds 87"),
	})
	uplink := strings.Replace(wide, "192.0.2.0/24", "192.0.0.0/16", 1)
	check(t, uplink, []spoil{
		{"uplink, IPv4", "[192.0.2.10, 192.0.2.11]", strings.ReplaceAll(of4(256), "10.0.", "192.0.9"), []string{"20 uplinks[0].addresses: has 256 addresses of one family"}},
		{"uplink, IPv6", "[2001:db8:0:2::a]", strings.ReplaceAll(of6(90), ":0:3:", ":0:2:"), []string{"27 uplinks[0].ipv6.addresses: has 90 addresses of one family"}},
	})
}

// The greatest document that the VRIDs of both families allow is still read.
func TestGreatestDualStackDocument(t *testing.T) {
	doc := mustParse(t, dual)
	doc.Uplinks[0].VirtualRouters, doc.Networks = nil, nil
	doc.Election.AdvertisementInterval = time.Second
	for i := 3; i < 256; i++ {
		ports := map[string]config.Port{}
		for j, name := range []string{"alpha", "bravo"} {
			ports[name] = config.Port{
				Interface: fmt.Sprintf("eth2.%d", i), Address: netip.AddrFrom4([4]byte{10, 1, byte(i), byte(2 + j)}),
				IPv6:      netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::%d", i, 2+j)),
				LinkLocal: netip.MustParseAddr(fmt.Sprintf("fe80::%d", 2+j)),
			}
		}
		allow := config.AccessList{Default: config.Allow}
		doc.Networks = append(doc.Networks, config.Network{
			MaxCost: 255, Probe: config.DefaultProbe(), Failback: config.FailbackDrain, Access: config.Access{Ingress: allow, Egress: allow},
			Name: fmt.Sprintf("n%d", i), VRID: uint8(i), Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24),
			Gateway: netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), Ports: ports, Uplinks: []string{"wan"},
			NATAddresses: map[string]netip.Addr{"wan": doc.Uplinks[0].Addresses[0]}, VRRP: config.DefaultVRRP(),
			FirstPacket: config.FirstPacketPass, IPv6: &config.IPv6{
				VRID: uint8(i), Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%x::/64", i)),
				Gateway: netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::1", i)), LinkLocal: netip.MustParseAddr("fe80::1"),
			},
		})
	}
	// The HA link has its VRID in IPv4 only.
	doc.Networks[0].VirtualRouters = []config.VirtualRouter{{VRID: 1, Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:1:3::9")}}}
	if again := mustParse(t, string(doc.JSON())); again.Hash() != doc.Hash() || len(again.Networks) != 253 {
		t.Errorf("read back as another document")
	}
}
