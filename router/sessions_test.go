package router_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
	"tandem/router/config"
)

// twoNetworks is a single router with a dual-stack network and one without virtual MAC
// addresses.
const twoNetworks = `version: 1
group: g
members:
  - {name: one}
networks:
  - name: office
    vrid: 20
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    replicate: false
    helpers: [sip, irc]
    ports:
      one: {interface: eth0, address: 10.0.0.2}
    ipv6: {prefix: "2001:db8:0:1::/64", gateway: "2001:db8:0:1::1"}
    virtual_routers:
      - {vrid: 21, addresses: [10.0.0.9]}
  - name: cloud
    vrid: 30
    prefix: 10.0.1.0/24
    gateway: 10.0.1.1
    replicate: false
    helpers: [ftp, irc]
    ports:
      one: {interface: eth1, address: 10.0.1.2}
    vrrp: {virtual_mac: false}
    ipv6: {prefix: "2001:db8:0:2::/64", gateway: "2001:db8:0:2::1"}
`

func TestHelpersAndUnreplicatedNetworks(t *testing.T) {
	in := derive(t, parse(t, twoNetworks), "one")
	want := []router.Helper{
		{Application: "ftp", Name: "ftp", Protocol: 6, Port: 21, Links: []string{"eth1"}},
		{Application: "ftp", Name: "ftp", IPv6: true, Protocol: 6, Port: 21, Links: []string{"eth1"}},
		{Application: "irc", Name: "irc", Protocol: 6, Port: 6667, Links: []string{"vmac20", "vmac21", "eth1"}},
		{Application: "sip", Name: "sip", Protocol: 6, Port: 5060, Links: []string{"vmac20", "vmac21"}},
		{Application: "sip", Name: "sip", IPv6: true, Protocol: 6, Port: 5060, Links: []string{"vmac20v6"}},
		{Application: "sip", Name: "sip", Protocol: 17, Port: 5060, Links: []string{"vmac20", "vmac21"}},
		{Application: "sip", Name: "sip", IPv6: true, Protocol: 17, Port: 5060, Links: []string{"vmac20v6"}},
	}
	if diff := cmp.Diff(want, in.Helpers); diff != "" {
		t.Errorf("helpers (-want +got):\n%s", diff)
	}
	off := []router.Unreplicated{
		{Links: []string{"vmac20", "vmac21", "vmac20v6"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8:0:1::/64")}},
		{Links: []string{"eth1"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("2001:db8:0:2::/64")}},
	}
	if diff := cmp.Diff(off, in.Unreplicated, compareNetip()); diff != "" {
		t.Errorf("unreplicated (-want +got):\n%s", diff)
	}
}

// A helper stands once for each family, protocol and port, and reads what comes in by
// links of networks alone, all of which exist.
func TestHelpersAreDistinct(t *testing.T) {
	everyDocument(t, func(t *testing.T, doc *config.Document) {
		t.Helper()
		in := derive(t, doc, "one")
		type spot struct {
			ipv6     bool
			protocol uint8
			port     uint16
		}
		seen, asked := map[spot]bool{}, 0
		for _, w := range doc.Networks {
			asked += len(w.Helpers)
		}
		if asked > 0 != (len(in.Helpers) > 0) {
			t.Errorf("%d helpers for %d words", len(in.Helpers), asked)
		}
		for _, h := range in.Helpers {
			at := spot{h.IPv6, h.Protocol, h.Port}
			if seen[at] || len(h.Links) == 0 {
				t.Errorf("%+v", h)
			}
			seen[at] = true
			for _, name := range h.Links {
				if !slices.ContainsFunc(in.VirtualLinks, func(v router.VirtualLink) bool { return v.Name == name && v.IPv6 == h.IPv6 }) {
					t.Errorf("there is no link %s of the family of %+v", name, h)
				}
			}
		}
		for _, u := range in.Unreplicated {
			if len(u.Links) == 0 || len(u.Prefixes) == 0 {
				t.Errorf("%+v", u)
			}
		}
	})
}

func TestHeldNetworks(t *testing.T) {
	text := strings.Replace(twoNetworks, "replicate: false", "first_packet: hold", 1)
	if diff := cmp.Diff([]string{"vmac20", "vmac21", "vmac20v6"}, derive(t, parse(t, text), "one").Held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	text = strings.ReplaceAll(twoNetworks, "replicate: false", "first_packet: hold")
	if diff := cmp.Diff([]string{"vmac20", "vmac21", "vmac20v6", "eth1"}, derive(t, parse(t, text), "one").Held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	if links := derive(t, parse(t, twoNetworks), "one").Held; links != nil {
		t.Errorf("held %v", links)
	}
}
