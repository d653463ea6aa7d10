package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"tandem/router"
)

// portsPerMap bounds the maps of ports: the kernel's messages have no room for long ones.
const portsPerMap = 512

// jumpedTo are the chains without hooks. What many rules have in common is asked before the
// jump: a set of links in each of them would make a table of many networks huge.
func jumpedTo(intent router.Intent, f family) []filterChain {
	chains := accessChains(intent, f)
	if rules := destinations(intent, f); len(rules) > 0 {
		chains = append(chains, filterChain{name: "inbound", rules: rules})
	}
	if rules := outward(intent, f, sidesOf(intent, f)); len(rules) > 0 {
		chains = append(chains, filterChain{name: "outward", rules: rules})
	}
	return chains
}

// inbound leads what comes in by our links to [destinations].
func inbound(intent router.Intent, f family) []filterRule {
	s := sidesOf(intent, f)
	if len(s.all) == 0 || len(destinations(intent, f)) == 0 {
		return nil
	}
	return []filterRule{{
		text:   "iifname { " + strings.Join(s.all, ", ") + " } jump inbound",
		steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, s.all)},
		action: jump("inbound"),
	}}
}

// destinations translate what comes to virtual addresses and is meant for inner hosts.
// It may come from the outside or from any network; where from stays visible to the host.
func destinations(intent router.Intent, f family) []filterRule {
	var rules []filterRule
	for _, w := range intent.Forwards {
		if familyOf(w.Address) == f {
			rules = append(rules, forwarded(w, f)...)
		}
	}
	for _, n := range intent.StaticNAT {
		if familyOf(n.Address) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("daddr %s dnat to %s", n.Address, n.Host),
			steps:  []matchStep{target(single(n.Address))},
			action: translate(expr.NATTypeDestNAT, f, n.Host),
		})
	}
	return rules
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func translate(kind expr.NATType, f family, to netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: to.AsSlice()},
		&expr.NAT{Type: kind, Family: headerOf(f).natFamily, RegAddrMin: register},
	}
}

// forwarded are the rules of one forward. Ports stay, or are looked up: the kernel has
// no way to add to them.
func forwarded(w router.Forward, f family) []filterRule {
	text := fmt.Sprintf("daddr %s protocol %d dport %d-%d saddr %v dnat to %s",
		w.Address, w.Protocol, w.First, w.Last, w.From, w.To)
	steps := []matchStep{target(single(w.Address)), protocolIs(w.Protocol)}
	if len(w.From) > 0 {
		steps = append(steps, addressIn(f, headerOf(f).source, w.From))
	}
	steps = steps[:len(steps):len(steps)]
	if w.To.Port() == w.First {
		return []filterRule{{
			text:   text,
			steps:  append(steps, portIn([]router.PortRange{{First: w.First, Last: w.Last}})),
			action: translate(expr.NATTypeDestNAT, f, w.To.Addr()),
		}}
	}
	var rules []filterRule
	for first := int(w.First); first <= int(w.Last); first += portsPerMap {
		step := matchStep{exprs: []expr.Any{destinationPort()}, keyType: nftables.TypeInetService}
		for port := first; port <= min(first+portsPerMap-1, int(w.Last)); port++ {
			inside := int(w.To.Port()) + port - int(w.First)
			step.pairs = append(step.pairs, [2][]byte{portBytes(uint16(port)), portBytes(uint16(inside))})
		}
		rules = append(rules, filterRule{
			text:  fmt.Sprintf("%s map from %d", text, first),
			steps: append(steps, step),
			action: []expr.Any{
				&expr.Immediate{Register: register, Data: w.To.Addr().AsSlice()},
				&expr.NAT{
					Type: expr.NATTypeDestNAT, Family: headerOf(f).natFamily, RegAddrMin: register,
					RegProtoMin: secondRegister, RegProtoMax: secondRegister, Specified: true,
				},
			},
		})
	}
	return rules
}

// hostSources translate the source of what hosts send that are reached from the outside, before
// the rules of whole networks.
func hostSources(intent router.Intent, f family) []filterRule {
	var rules []filterRule
	for _, h := range intent.Hairpins {
		if familyOf(h.Gateway) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("saddr %s oifname { %s } ct status dnat snat to %s", h.Network.Masked(), strings.Join(h.Links, ", "), h.Gateway),
			steps:  []matchStep{source(h.Network), oneOf(expr.MetaKeyOIFNAME, h.Links), redirected()},
			action: translate(expr.NATTypeSourceNAT, f, h.Gateway),
		})
	}
	for _, n := range intent.StaticNAT {
		if familyOf(n.Address) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("saddr %s oifname { %s } snat to %s", n.Host, strings.Join(n.Links, ", "), n.Address),
			steps:  []matchStep{source(single(n.Host)), oneOf(expr.MetaKeyOIFNAME, n.Links)},
			action: translate(expr.NATTypeSourceNAT, f, n.Address),
		})
	}
	return rules
}

// destinationTranslated is IPS_DST_NAT.
const destinationTranslated = 1 << 5

// redirected matches flows whose destination was translated.
func redirected() matchStep {
	return anyBit(&expr.Ct{Key: expr.CtKeySTATUS, Register: register}, destinationTranslated)
}

// admitted lets new flows from the outside pass that a forward or a static NAT leads in.
func admitted(intent router.Intent, s sides) []filterRule {
	if len(intent.Forwards)+len(intent.StaticNAT) == 0 || len(s.networks) == 0 || len(s.uplinks) == 0 {
		return nil
	}
	return []filterRule{{
		text:   fmt.Sprintf("iifname { %s } oifname { %s } ct status dnat accept", strings.Join(s.uplinks, ", "), strings.Join(s.networks, ", ")),
		steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, s.uplinks), oneOf(expr.MetaKeyOIFNAME, s.networks), redirected()},
		action: accept(),
	}}
}

// limitBurst is what may come at once beyond a second's worth, which the kernel adds by itself; a
// train of segments that the receiving card has put together must fit in.
const limitBurst = 1 << 17

// limits drop what is beyond the rates of networks.
func limits(intent router.Intent, f family, links []string) []filterRule {
	s := sidesOf(intent, f)
	if len(s.all) == 0 {
		return nil
	}
	var rules []filterRule
	for _, l := range intent.RateLimits {
		for i, side := range sidesOfLink() {
			other := sidesOfLink()[1-i]
			rules = append(rules, filterRule{
				text: fmt.Sprintf("%s { %s } %s { %s } limit rate over %d bytes/second drop",
					side.field, strings.Join(l.Links, ", "), other.field, strings.Join(links, ", "), l.BytesPerSecond),
				steps: []matchStep{oneOf(side.key, l.Links), oneOf(other.key, links)},
				action: append([]expr.Any{
					&expr.Limit{Type: expr.LimitTypePktBytes, Rate: l.BytesPerSecond, Over: true, Unit: expr.LimitTimeSecond, Burst: limitBurst},
				}, drop()...),
			})
		}
	}
	return rules
}

// protocolIs matches the transport protocol.
func protocolIs(number byte) matchStep {
	return matchStep{exprs: []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(number)}}
}

// destinationPort loads the destination port, which TCP, UDP and SCTP have in one place.
func destinationPort() expr.Any { return payload(expr.PayloadBaseTransportHeader, 2, 2) }

func portBytes(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }

func portIn(ports []router.PortRange) matchStep {
	step := matchStep{exprs: []expr.Any{destinationPort()}, keyType: nftables.TypeInetService}
	for _, p := range ports {
		step.ranges = append(step.ranges, [2][]byte{portBytes(p.First), portBytes(p.Last)})
	}
	return step
}

// addressIn matches an address at an offset of the header by subnets.
func addressIn(f family, offset uint32, prefixes []netip.Prefix) matchStep {
	h := headerOf(f)
	step := matchStep{exprs: []expr.Any{payload(expr.PayloadBaseNetworkHeader, offset, h.length)}, keyType: h.keyType}
	for _, p := range prefixes {
		first, last := bounds(p)
		step.ranges = append(step.ranges, [2][]byte{first, last})
	}
	return step
}

// accessChains are the chains that hold the networks' ACLs.
func accessChains(intent router.Intent, f family) []filterChain {
	var chains []filterChain
	for _, a := range intent.Access {
		chains = append(
			chains,
			filterChain{name: "ingress-" + a.Network, rules: judgements(a.Ingress, f)},
			filterChain{name: "egress-" + a.Network, rules: judgements(a.Egress, f)},
		)
	}
	return chains
}

// judgements are the rules of one list: what is allowed returns to where more is asked.
func judgements(list router.AccessList, f family) []filterRule {
	var rules []filterRule
	for _, r := range list.Rules {
		if foreign(r.Source, f) || foreign(r.Destination, f) {
			continue
		}
		var steps []matchStep
		protocol := r.Protocol
		if r.ICMP {
			protocol = headerOf(f).icmp
		}
		if protocol != 0 {
			steps = append(steps, protocolIs(protocol))
		}
		if len(r.Ports) > 0 {
			steps = append(steps, portIn(r.Ports))
		}
		if len(r.Source) > 0 {
			steps = append(steps, addressIn(f, headerOf(f).source, r.Source))
		}
		if len(r.Destination) > 0 {
			steps = append(steps, addressIn(f, headerOf(f).destination, r.Destination))
		}
		action, word := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, "return"
		if r.Deny {
			action, word = drop(), "drop"
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("protocol %d dport %v saddr %v daddr %v %s", protocol, r.Ports, r.Source, r.Destination, word),
			steps:  steps,
			action: action,
		})
	}
	if list.Deny {
		rules = append(rules, filterRule{text: "drop", action: drop()})
	}
	return rules
}

// foreign tells that subnets are of the other family.
func foreign(prefixes []netip.Prefix, f family) bool {
	return len(prefixes) > 0 && familyOf(prefixes[0].Addr()) != f
}

// judged leads new flows to the ACLs of the networks that they come from and go to. What stays
// in a network is not judged.
func judged(intent router.Intent) []filterRule {
	var rules []filterRule
	for _, direction := range []string{"egress-", "ingress-"} {
		near, far := sidesOfLink()[1], sidesOfLink()[0]
		if direction == "ingress-" {
			near, far = far, near
		}
		for _, a := range intent.Access {
			beyond := oneOf(far.key, a.Links)
			beyond.others = true
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("%s { %s } %s != same jump %s%s", near.field, strings.Join(a.Links, ", "), far.field, direction, a.Network),
				steps:  []matchStep{oneOf(near.key, a.Links), beyond},
				action: jump(direction + a.Network),
			})
		}
	}
	return rules
}

// kept gives the flows of hosts with an address of their own the mark of its uplink, also where
// those of their network have none.
func kept(intent router.Intent, f family) []filterRule {
	var rules []filterRule
	for _, n := range intent.StaticNAT {
		if familyOf(n.Host) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("saddr %s oifname { %s } ct mark set ct mark & ^mask | %#x accept", n.Host, strings.Join(n.Links, ", "), n.Mark),
			steps:  []matchStep{source(single(n.Host)), oneOf(expr.MetaKeyOIFNAME, n.Links)},
			action: append(setMark(n.Mark), accept()...),
		})
	}
	return rules
}
