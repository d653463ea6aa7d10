package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// register is the nftables register that all rules use, secondRegister what a few need
// beside it.
const (
	register       = 1
	secondRegister = 2
)

func tableName(group string) string { return "tandem-" + group }

// ruleset is the wanted content of one of the group's tables.
type ruleset struct {
	family family
	// helpers are the objects that rules refer to by the names in their texts.
	helpers []router.Helper
	chains  []filterChain
}

// filterChain is a chain; one without a hook is jumped to.
type filterChain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []filterRule
}

// filterRule matches if all its steps do, and then acts.
type filterRule struct {
	text   string
	steps  []matchStep
	action []expr.Any
}

// matchStep runs expressions and then looks register 1 up among members, in ranges with
// both ends, or among the keys of pairs: then the value comes to register 2. Empty ones
// are not asked.
type matchStep struct {
	exprs   []expr.Any
	keyType nftables.SetDatatype
	members [][]byte
	ranges  [][2][]byte
	pairs   [][2][]byte
	// others turns the answer around.
	others bool
}

// digest identifies the whole ruleset.
func (r ruleset) digest() string {
	var b strings.Builder
	for _, c := range r.chains {
		fmt.Fprintf(&b, "%s %s", c.name, c.kind)
		if c.hook != nil {
			fmt.Fprintf(&b, " %d %d", *c.hook, *c.priority)
		}
		b.WriteByte('\n')
		for _, rule := range c.rules {
			fmt.Fprintf(&b, "\t%s\n", rule.text)
		}
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

// header is where things are in the packets of a family.
type header struct {
	source, destination, length uint32
	keyType                     nftables.SetDatatype
	icmp, echoRequest           byte
	natFamily                   uint32
}

func headerOf(f family) header {
	if f == ipv6 {
		return header{8, 24, 16, nftables.TypeIP6Addr, unix.IPPROTO_ICMPV6, 128, unix.NFPROTO_IPV6}
	}
	return header{12, 16, 4, nftables.TypeIPAddr, unix.IPPROTO_ICMP, 8, unix.NFPROTO_IPV4}
}

// Messages of ICMPv6 (RFC 4861 §4).
const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137
)

// desiredRules returns the table of an intent for one family. The same stands on
// MASTER and BACKUP. The two nat chains must exist even without rules: without a
// hook the kernel does not translate replicated flows.
func desiredRules(intent router.Intent, f family) ruleset {
	set := ruleset{family: f, helpers: helpersOf(intent, f), chains: append(jumpedTo(intent, f), []filterChain{
		{
			name: "recall", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle,
			rules: recall(intent, f),
		},
		{
			name: "paths", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookForward, priority: nftables.ChainPriorityMangle,
			rules: paths(intent, f),
		},
		{
			name: "prerouting", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityNATDest,
			rules: inbound(intent, f),
		},
		{
			name: "postrouting", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPostrouting, priority: nftables.ChainPriorityNATSource,
			rules: append(hostSources(intent, f), translations(intent, f)...),
		},
		{
			name: "input", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookInput, priority: nftables.ChainPriorityFilter,
			rules: append(refuse(intent, f), guard(intent, f)...),
		},
		{
			name: "forward", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookForward, priority: nftables.ChainPriorityFilter,
			rules: forwarding(intent, f),
		},
	}...)}
	if f == ipv6 {
		set.chains = append(set.chains, filterChain{
			name: "output", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityFilter,
			rules: withoutRedirects(intent),
		})
	}
	return set
}

// translations name their address: masquerade would drop a flow's translation
// when a link goes down, and replicated flows lack what it needs.
func translations(intent router.Intent, f family) []filterRule {
	var rules []filterRule
	for _, n := range intent.NAT {
		if familyOf(n.From.Addr()) == f {
			rules = append(rules, translation(n, f))
		}
	}
	return rules
}

func translation(n router.SourceNAT, f family) filterRule {
	rule := filterRule{
		text:  fmt.Sprintf("saddr %s oifname %q snat to %s", n.From.Masked(), n.Link, n.To),
		steps: []matchStep{source(n.From), named(expr.MetaKeyOIFNAME, n.Link)},
		action: []expr.Any{
			&expr.Immediate{Register: register, Data: n.To.AsSlice()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: headerOf(f).natFamily, RegAddrMin: register},
		},
	}
	if n.Prefix.IsValid() {
		first, last := bounds(n.Prefix)
		rule.text = fmt.Sprintf("saddr %s oifname %q snat prefix to %s", n.From.Masked(), n.Link, n.Prefix)
		rule.action = []expr.Any{
			&expr.Immediate{Register: register, Data: first},
			&expr.Immediate{Register: secondRegister, Data: last},
			&expr.NAT{
				Type: expr.NATTypeSourceNAT, Family: headerOf(f).natFamily, RegAddrMin: register, RegAddrMax: secondRegister, Prefix: true,
			},
		}
	}
	return rule
}

// bounds returns the first and the last address of a subnet.
func bounds(p netip.Prefix) (first, last []byte) {
	first = p.Masked().Addr().AsSlice()
	last = slices.Clone(first)
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return first, last
}

// of returns the addresses of a family and how they read in a rule.
func of(f family, all []netip.Addr) (list []netip.Addr, text string) {
	var texts []string
	for _, a := range all {
		if familyOf(a) == f {
			list, texts = append(list, a), append(texts, a.String())
		}
	}
	return list, "daddr { " + strings.Join(texts, ", ") + " } "
}

// refuse drops what is for the addresses of a virtual router that accepts nothing,
// except what tells hosts where it is (RFC 9568 §6.1, Accept_Mode). ARP does not
// come here. Replies to translated flows have got back their destination by now.
func refuse(intent router.Intent, f family) []filterRule {
	refused, to := of(f, intent.Refused)
	if len(refused) == 0 {
		return nil
	}
	var rules []filterRule
	if f == ipv6 {
		for _, kind := range []byte{neighborSolicitation, neighborAdvertisement} {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("%sicmpv6 type %d accept", to, kind),
				steps:  []matchStep{destination(f, refused), message(f, kind)},
				action: accept(),
			})
		}
	}
	return append(rules, filterRule{
		text:   to + "drop",
		steps:  []matchStep{destination(f, refused)},
		action: drop(),
	})
}

// guard keeps the node from resetting flows of others that it does not know: the
// reply to a translated packet whose flow was not replicated must find nobody, so
// that the flow stalls until a packet from inside brings it back. Neighbour
// discovery is not tracked and passes.
func guard(intent router.Intent, f family) []filterRule {
	guarded, to := of(f, intent.Guarded)
	if len(guarded) == 0 {
		return nil
	}
	return []filterRule{
		{
			text:   to + "icmp type echo-request accept",
			steps:  []matchStep{destination(f, guarded), message(f, headerOf(f).echoRequest)},
			action: accept(),
		},
		{
			text:   to + "ct state new,invalid drop",
			steps:  []matchStep{destination(f, guarded), state(expr.CtStateBitNEW | expr.CtStateBitINVALID)},
			action: drop(),
		},
	}
}

// withoutRedirects drops redirects (RFC 9568 §8.2.1): for IPv6 the kernel has no
// switch, and it would send them in the name of an address that no host uses as its
// router where the virtual router has no link of its own.
func withoutRedirects(intent router.Intent) []filterRule {
	var names []string
	for _, v := range intent.VirtualLinks {
		names = append(names, v.Name, v.Parent)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return []filterRule{{
		text:   "oifname { " + strings.Join(names, ", ") + " } icmpv6 type redirect drop",
		steps:  []matchStep{oneOf(expr.MetaKeyOIFNAME, names), message(ipv6, redirect)},
		action: drop(),
	}}
}

func source(p netip.Prefix) matchStep {
	return within(p, headerOf(familyOf(p.Addr())).source)
}

// within matches an address at an offset of the header by a subnet.
func within(p netip.Prefix, offset uint32) matchStep {
	h := headerOf(familyOf(p.Addr()))
	mask := make([]byte, h.length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return matchStep{exprs: []expr.Any{
		payload(expr.PayloadBaseNetworkHeader, offset, h.length),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: h.length, Mask: mask, Xor: make([]byte, h.length)},
		equals(p.Masked().Addr().AsSlice()...),
	}}
}

func destination(f family, addresses []netip.Addr) matchStep {
	h := headerOf(f)
	s := matchStep{exprs: []expr.Any{payload(expr.PayloadBaseNetworkHeader, h.destination, h.length)}, keyType: h.keyType}
	for _, a := range addresses {
		s.members = append(s.members, a.AsSlice())
	}
	return s
}

// message matches one type of ICMP.
func message(f family, kind byte) matchStep {
	return matchStep{exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(headerOf(f).icmp),
		payload(expr.PayloadBaseTransportHeader, 0, 1), equals(kind),
	}}
}

func state(bits uint32) matchStep {
	return anyBit(&expr.Ct{Key: expr.CtKeySTATE, Register: register}, bits)
}

func named(key expr.MetaKey, name string) matchStep {
	return matchStep{exprs: []expr.Any{&expr.Meta{Key: key, Register: register}, equals(interfaceName(name)...)}}
}

func oneOf(key expr.MetaKey, names []string) matchStep {
	s := matchStep{exprs: []expr.Any{&expr.Meta{Key: key, Register: register}}, keyType: nftables.TypeIFName}
	for _, n := range names {
		s.members = append(s.members, interfaceName(n))
	}
	return s
}

// interfaceName pads a name to IFNAMSIZ.
func interfaceName(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}

func payload(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func equals(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
