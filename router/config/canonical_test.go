package config_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tandem/router/config"
)

func compareNetip() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})
}

func TestJSONReadsBack(t *testing.T) {
	for name, text := range map[string]string{"reference": string(reference(t)), "single": single, "json": pairJSON} {
		t.Run(name, func(t *testing.T) {
			doc := mustParse(t, text)
			if !json.Valid(doc.JSON()) {
				t.Fatalf("not JSON: %s", doc.JSON())
			}
			again := mustParse(t, string(doc.JSON()))
			if diff := cmp.Diff(doc, again, compareNetip()); diff != "" {
				t.Errorf("JSON changed the document (-before +after):\n%s", diff)
			}
			if doc.Hash() != again.Hash() {
				t.Errorf("JSON changed the hash")
			}
			var indented strings.Builder
			encoder := json.NewEncoder(&indented)
			encoder.SetIndent("", "\t")
			if err := encoder.Encode(json.RawMessage(doc.JSON())); err != nil {
				t.Fatal(err)
			}
			if mustParse(t, indented.String()).Hash() != doc.Hash() {
				t.Errorf("indentation with tabs changed the hash")
			}
		})
	}
}

// The canonical form is part of the protocol between the members: they compare
// hashes. A change of it is a change of the version.
func TestCanonicalForm(t *testing.T) {
	const vrrp = `"vrrp":{"version":3,"checksum":"rfc9568","unicast":false,"virtual_mac":true,"authentication":false,"accept":true}`
	want := `{"version":1,"group":"solo","election":{"advertisement_interval":"100ms","preempt":false,` +
		`"preempt_delay":"0s","announce_refresh":"1m0s"},` +
		`"members":[{"name":"solo","priority":200}],` +
		`"uplinks":[{"name":"wan","vrid":1,"prefix":"192.0.2.0/24","gateway":"192.0.2.1","addresses":["192.0.2.10"],` +
		`"ports":{"solo":{"interface":"eth0","address":"192.0.2.2"}},` + vrrp + `,"cost":0,"metered":false}],` +
		`"networks":[{"name":"lan","vrid":2,"prefix":"10.0.0.0/24","gateway":"10.0.0.1",` +
		`"ports":{"solo":{"interface":"eth1","address":"10.0.0.2"}},"uplinks":["wan"],"nat_addresses":{"wan":"192.0.2.10"},"max_cost":255,` +
		`"probe":{"need":1,"interval":"1s","timeout":"1s","rise":3,"fall":6,"loss_limit":12},"failback":"drain","drain_time":"10m0s",` +
		`"access":{"ingress":{"default":"allow"},"egress":{"default":"allow"}},"replicate":true,"first_packet":"pass",` + vrrp + `}]}`
	doc := mustParse(t, single)
	if diff := cmp.Diff(want, string(doc.JSON())); diff != "" {
		t.Errorf("canonical form (-want +got):\n%s", diff)
	}
	if got := mustParse(t, want).Hash(); got != doc.Hash() {
		t.Errorf("hash %s, want %s", got, doc.Hash())
	}
}

// single, but with other comments, key order, quotes and line ends.
const singleReordered = `---
# a comment
"networks": [{uplink: wan, "name": 'lan', vrid: 2, ports: {solo: {address: 10.0.0.2, interface: eth1}},
  gateway: 10.0.0.1, prefix: 10.0.0.0/24, nat_address: 192.0.2.10}]
uplinks:
- ports:
    solo: {interface: "eth0", address: 192.0.2.2}
  addresses: # the first
  - 192.0.2.10
  gateway: 192.0.2.1
  prefix: 192.0.2.0/24
  vrid: 1
  name: wan
members: [ {priority: 200, name: solo} ]
election: {advertisement_interval: 0.1s, preempt: false}
group: solo
version: 1
`

func TestHash(t *testing.T) {
	want := mustParse(t, single).Hash()
	if len(want) != 64 || strings.Trim(want, "0123456789abcdef") != "" {
		t.Errorf("%q is not a SHA-256 in hexadecimal digits", want)
	}
	same := map[string]string{
		"reordered":       singleReordered,
		"line ends":       strings.ReplaceAll(singleReordered, "\n", "\r\n"),
		"byte order mark": "\ufeff" + single,
		"trailing space":  single + "\n\n",
	}
	for name, text := range same {
		if got := mustParse(t, text).Hash(); got != want {
			t.Errorf("%s: another hash", name)
		}
	}
	seen := map[string]string{want: "single"}
	for _, change := range [][2]string{
		{"group: solo", "group: other"},
		{"vrid: 2", "vrid: 3"},
		{"10.0.0.2", "10.0.0.3"},
		{"group: solo", "group: solo\nelection: {preempt: true}"},
		{"group: solo", "group: solo\nelection: {advertisement_interval: 110ms}"},
		{"group: solo", "group: solo\nelection: {announce_refresh: 0s}"},
		{"group: solo", "group: solo\nelection: {preempt: true, preempt_delay: 1s}"},
		{"vrid: 2", "vrid: 2\n    vrrp: {virtual_mac: false}"},
		{"vrid: 2", "vrid: 2\n    vrrp: {accept: false}"},
		{"vrid: 2", "vrid: 2\n    vrrp: {checksum: pseudo-header}"},
		{"vrid: 2", "vrid: 2\n    ipv6: {prefix: 2001:db8::/64, gateway: 2001:db8::1}"},
		{"vrid: 2", "vrid: 2\n    virtual_routers: [{vrid: 9, addresses: [10.0.0.9]}]"},
		{"- name: solo", "- name: solo\n    priority: 201"},
		{"- name: solo", "- name: solo\n    public_key: " + keyA},
		{"[192.0.2.10]", "[192.0.2.10, 192.0.2.11]"},
	} {
		text := strings.Replace(single, change[0], change[1], 1)
		hash := mustParse(t, text).Hash()
		if other, ok := seen[hash]; ok {
			t.Errorf("%q has the hash of %q", change[1], other)
		}
		seen[hash] = change[1]
	}
}

func TestMemberAndPeer(t *testing.T) {
	pair, alone := mustParse(t, pairJSON), mustParse(t, single)
	tests := []struct {
		doc          *config.Document
		name         string
		member, peer string
	}{
		{pair, "alpha", "alpha", "bravo"},
		{pair, "bravo", "bravo", "alpha"},
		{pair, "charlie", "", ""},
		{pair, "", "", ""},
		{alone, "solo", "solo", ""},
	}
	for _, test := range tests {
		member, isMember := test.doc.Member(test.name)
		if member.Name != test.member || isMember != (test.member != "") {
			t.Errorf("Member(%q) = %q, %v", test.name, member.Name, isMember)
		}
		peer, hasPeer := test.doc.Peer(test.name)
		if peer.Name != test.peer || hasPeer != (test.peer != "") {
			t.Errorf("Peer(%q) = %q, %v", test.name, peer.Name, hasPeer)
		}
	}
}
