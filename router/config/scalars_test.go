package config_test

import (
	"errors"
	"strings"
	"testing"

	"tandem/router/config"
)

// scalar is a field of single, and values that it may and may not have.
type scalar struct {
	path    string
	old     string
	allowed []string
	refused []string
}

func TestScalars(t *testing.T) {
	tests := []scalar{
		{
			path: "group", old: "group: solo",
			allowed: []string{"a", "0a", "a0", "a-b", "x1-2-3y", "'quoted'", `"12"`},
			refused: []string{"A", "a.b", "a b", `"-"`, "-a", "a-", "é", "12", "1.5", "true", "~", "[a]", `""`, `"a "`, `"a\nb"`},
		},
		{
			path: "networks[0].vrid", old: "vrid: 2",
			allowed: []string{"2", "9", "99", "255"},
			refused: []string{"0", "256", "-1", "+2", "02", "0x2", "0b1", "0o2", "2.0", "2e0", "1_0", `"2"`, "two", "[2]", "{}"},
		},
		{
			path: "members[0].name", old: "name: solo\nuplinks",
			refused: []string{"Solo\nuplinks", "so_lo\nuplinks", "[]\nuplinks"},
		},
		{
			path: "networks[0].ports.solo.interface", old: "interface: eth1",
			allowed: []string{"eth1", "eth1.100", "br-lan", "wlan_0", "Ethernet1", "e", `"1"`, "loop", "all0", "xvmac1"},
			refused: []string{
				"lo", "all", "default", "vmac", "vmac1", "vmacs", "eth/1", "eth:1", "-eth", ".", "..", "...", `"eth 1"`, `"eth\t1"`,
				"abcdefghijklmnop", "é", `""`, "1", "true", "[eth1]",
			},
		},
		{
			path: "networks[0].gateway", old: "gateway: 10.0.0.1",
			allowed: []string{"10.0.0.1", "10.0.0.254", "'10.0.0.9'"},
			refused: []string{
				"10.0.0", "10.0.0.1.1", "10.0.0.1/24", "10.0.0.001", "0x0a.0.0.1", "167772161", "::1", "::ffff:10.0.0.1", "fe80::1%eth0",
				"gateway", "10.0.0.0", "10.0.0.255", "10.0.0.2", "10.1.0.1", "255.255.255.255", "0.0.0.0", `" 10.0.0.1"`,
			},
		},
		{
			path: "networks[0].prefix", old: "prefix: 10.0.0.0/24",
			allowed: []string{"10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/30"},
			refused: []string{
				"10.0.0.0/7", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.0/33", "10.0.0.0/024", "10.0.0.0/", "10.0.0.0", "10.0.0.4/24",
				"192.0.2.0/25", "192.0.0.0/16", "::/0", "2001:db8::/64", "24", "ten",
			},
		},
		{
			path: "version", old: "version: 1",
			allowed: []string{"1"},
			refused: []string{"0", "2", "-1", "01", "1.0", `"1"`, "one", "[1]", "true"},
		},
	}
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			key, _, _ := strings.Cut(test.old, " ")
			for _, value := range test.allowed {
				if err := parseWith(test.old, key+" "+value); err != nil {
					t.Errorf("%s: %v", value, err)
				}
			}
			for _, value := range test.refused {
				err := parseWith(test.old, key+" "+value)
				var faults *config.Faults
				if !errors.As(err, &faults) || !hasFault(faults.List, test.path) && !hasFault(faults.List, "networks[0].ports.solo.address") {
					t.Errorf("%s: accepted, or refused for another reason: %v", value, err)
				}
			}
		})
	}
}

func parseWith(old, changed string) error {
	_, err := config.Parse("edge.yaml", []byte(strings.Replace(single, old, changed, 1)))
	return err
}

// One slip is one fault: what cannot be read causes no contradictions.
func TestOneSlipIsOneFault(t *testing.T) {
	check(t, pair, []spoil{
		{"name of a member", "- name: bravo", "- name: Bravo", []string{`6 members[1].name: "Bravo" is not a name`}},
		{"priority of a member", "- name: bravo", "- name: bravo\n    priority: high", []string{`7 members[1].priority: but is the text "high"`}},
		{"member", "- name: bravo\n    public_key: " + keyB, "- bravo", []string{`6 members[1]: but is the text "bravo"`}},
		{"members", pair[strings.Index(pair, "  - name: alpha"):strings.Index(pair, "ha_link:")], "  two\n", []string{"3 members: must be a list"}},
		{"ports", "    alpha: {interface: eth0, address: 10.255.0.1}\n    bravo: {interface: eth0, address: 10.255.0.2}\n", "    none\n", []string{
			"11 ha_link.ports: must be a mapping",
		}},
		{"prefix", "prefix: 192.0.2.0/24", "prefix: 192.0.2.0/240", []string{`17 uplinks[0].prefix: is not an IPv4 subnet`}},
		{"prefix with host bits", "prefix: 192.0.2.0/24", "prefix: 192.0.2.10/24", []string{"17 uplinks[0].prefix: write 192.0.2.0/24"}},
		{"addresses", "[192.0.2.10, 192.0.2.11]", "{}", []string{"19 uplinks[0].addresses: must be a list, but is a mapping"}},
		{"one of the addresses", "[192.0.2.10, 192.0.2.11]", "[192.0.2.10, 192.0.2.l1]", []string{`19 uplinks[0].addresses[1]: "192.0.2.l1" is not`}},
		{"uplink", "    uplink: wan", "    uplink: [wan]", []string{"31 networks[0].uplink: must be a name, but is a list"}},
		{"network", pair[strings.Index(pair, "  - name: lan"):], "  - lan\n", []string{`24 networks[0]: but is the text "lan"`}},
		{"networks", pair[strings.Index(pair, "  - name: lan"):], "  lan\n", []string{`23 networks: but is the text "lan"`}},
	})
}
