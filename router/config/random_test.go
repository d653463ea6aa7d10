package config_test

import (
	"fmt"
	"net/netip"
	"time"

	"tandem/router/config"
)

// translate gives an uplink one of the ways to treat the IPv6 of networks.
func (r *randomSegments) translate(uplink int, v *config.IPv6) {
	v.Translate = config.TranslateNone
	switch r.IntN(3) {
	case 0:
		v.Translate, v.NPTPrefix = config.TranslateNPT, netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:%d::", uplink)), 56+r.IntN(4))
	case 1:
		if len(v.Addresses) > 0 {
			v.Translate = config.TranslateNAT66
		}
	}
}

// probe asks names and addresses outside.
func (r *randomSegments) probe(names bool) *config.Probe {
	p := config.DefaultProbe()
	p.Interval = time.Duration(100+r.IntN(100000)) * time.Millisecond
	p.Timeout = min(p.Interval, time.Duration(50+r.IntN(10000))*time.Millisecond)
	p.Rise, p.Fall, p.LossLimit = 1+r.IntN(100), 1+r.IntN(100), 1+r.IntN(100)
	all := []config.Target{
		{Kind: config.ProbeICMP, Host: "203.0.113.1"},
		{Kind: config.ProbeTCP, Host: "203.0.113.1", Port: uint16(1 + r.IntN(65535))},
		{Kind: config.ProbeHTTP, Host: "http://203.0.113.1:8080/a?b=c&d=<e>", Status: 100 + r.IntN(500), Body: "\"ok\" \\ é"},
	}
	if names {
		all = append(all, config.Target{Kind: config.ProbeDNS, Host: "example.com"},
			config.Target{Kind: config.ProbeTCP, Host: "www.example.com", Port: 443},
			config.Target{Kind: config.ProbeHTTP, Host: "https://www.example.com"})
	}
	resolved := 0
	for i, t := range all {
		if r.flip() {
			p.Targets = append(p.Targets, t)
			if i > 2 {
				resolved++
			}
		}
	}
	if p.Need = 1 + r.IntN(max(1, len(p.Targets))); resolved > 0 {
		p.Need = min(p.Need, resolved) // over IPv6
	}
	return &p
}

func (r *randomSegments) accessList() config.AccessList {
	actions := []string{config.Allow, config.Deny}
	l := config.AccessList{Default: actions[r.IntN(2)]}
	for range r.IntN(3) {
		rule := config.AccessRule{Action: actions[r.IntN(2)], Protocol: []string{"", "tcp", "udp", "sctp", "icmp", "gre", "58"}[r.IntN(7)]}
		if p := rule.Protocol; (p == "tcp" || p == "udp" || p == "sctp") && r.flip() {
			first := uint16(1 + r.IntN(60000))
			rule.Ports = []config.PortRange{{First: first, Last: first + uint16(r.IntN(100))}, {First: 65000, Last: 65535}}
		}
		if r.flip() {
			rule.Source = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("198.51.100.7/32")}
		}
		if r.flip() {
			rule.Destination = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}
		l.Rules = append(l.Rules, rule)
	}
	return l
}

// outside gives a network its uplinks and what depends on them.
func (r *randomSegments) outside(w *config.Network, index int) {
	if len(r.doc.Uplinks) == 0 {
		w.Probe.Targets, w.Probe.Need = nil, 1
		return
	}
	only := r.IntN(len(r.doc.Uplinks))
	for i, u := range r.doc.Uplinks {
		if i == only || r.flip() {
			w.Uplinks = append(w.Uplinks, u.Name)
		}
	}
	// A route takes any uplink.
	w.Routes = []config.Route{{
		Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(index), 0}), 24),
		Uplinks:     []string{r.doc.Uplinks[r.IntN(len(r.doc.Uplinks))].Name},
	}, {
		Destination: netip.MustParsePrefix("172.31.0.0/16"), Via: host(r.number, 9),
	}}
	if r.flip() {
		w.Routes[0].Probe = r.probe(false)
	}
	if r.flip() {
		w.RoutedNATAddress = netip.MustParseAddr("198.51.100.200")
	} else {
		w.NATAddresses = map[string]netip.Addr{}
	}
	used := append([]string{w.Routes[0].Uplinks[0]}, w.Uplinks...)
	for _, name := range used {
		for _, u := range r.doc.Uplinks {
			if u.Name == name && w.NATAddresses != nil {
				w.NATAddresses[name] = u.Addresses[r.IntN(len(u.Addresses))]
			}
		}
	}
	port := uint16(1000 + 10*index)
	w.Forwards = []config.Forward{{
		Protocol: "tcp", First: port, Last: port + uint16(r.IntN(10)), To: netip.AddrPortFrom(host(r.number, 8), 80),
		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}, {
		Protocol: "udp", First: port, Last: port, To: netip.AddrPortFrom(host(r.number, 8), port),
	}}
	if a, ok := w.NATAddresses[w.Uplinks[0]]; ok {
		w.Forwards[1].Address = a
	}
}
