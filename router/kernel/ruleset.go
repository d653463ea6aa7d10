package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// register is the nftables register that all rules use.
const register = 1

func tableName(group string) string { return "tandem-" + group }

// ruleset is the wanted content of the group's table.
type ruleset []filterChain

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

// matchStep runs expressions and then, unless members is empty, looks register 1
// up among them.
type matchStep struct {
	exprs   []expr.Any
	keyType nftables.SetDatatype
	members [][]byte
}

// digest identifies the whole ruleset.
func (r ruleset) digest() string {
	var b strings.Builder
	for _, c := range r {
		fmt.Fprintf(&b, "%s %s %d %d\n", c.name, c.kind, *c.hook, *c.priority)
		for _, rule := range c.rules {
			fmt.Fprintf(&b, "\t%s\n", rule.text)
		}
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

// desiredRules returns the table of an intent. The same stands on MASTER and
// BACKUP. The two nat chains must exist even without rules: without a hook the
// kernel does not translate replicated flows.
func desiredRules(intent router.Intent) ruleset {
	return ruleset{
		{
			name: "prerouting", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityNATDest,
		},
		{
			name: "postrouting", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPostrouting, priority: nftables.ChainPriorityNATSource,
			rules: translations(intent),
		},
		{
			name: "input", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookInput, priority: nftables.ChainPriorityFilter,
			rules: guard(intent),
		},
		{
			name: "forward", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookForward, priority: nftables.ChainPriorityFilter,
			rules: forwarding(intent),
		},
	}
}

// translations name their address: masquerade would drop a flow's translation
// when a link goes down, and replicated flows lack what it needs.
func translations(intent router.Intent) []filterRule {
	var rules []filterRule
	for _, n := range intent.NAT {
		if !n.From.Addr().Is4() || !n.To.Is4() {
			continue
		}
		rules = append(rules, filterRule{
			text:  fmt.Sprintf("ip saddr %s oifname %q snat to %s", n.From.Masked(), n.Link, n.To),
			steps: []matchStep{source(n.From), named(expr.MetaKeyOIFNAME, n.Link)},
			action: []expr.Any{
				&expr.Immediate{Register: register, Data: n.To.AsSlice()},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register},
			},
		})
	}
	return rules
}

// guard keeps the node from resetting flows of others that it does not know: the
// reply to a translated packet whose flow was not replicated must find nobody, so
// that the flow stalls until a packet from inside brings it back.
func guard(intent router.Intent) []filterRule {
	var guarded [][]byte
	var text []string
	for _, a := range intent.Guarded {
		if a.Is4() {
			guarded, text = append(guarded, a.AsSlice()), append(text, a.String())
		}
	}
	if len(guarded) == 0 {
		return nil
	}
	destination := matchStep{
		exprs:   []expr.Any{payload(expr.PayloadBaseNetworkHeader, 16, 4)},
		keyType: nftables.TypeIPAddr, members: guarded,
	}
	to := "ip daddr { " + strings.Join(text, ", ") + " } "
	return []filterRule{
		{
			text: to + "icmp type echo-request accept",
			steps: []matchStep{
				destination,
				{exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_ICMP),
					payload(expr.PayloadBaseTransportHeader, 0, 1), equals(8),
				}},
			},
			action: accept(),
		},
		{
			text:   to + "ct state new,invalid drop",
			steps:  []matchStep{destination, state(expr.CtStateBitNEW | expr.CtStateBitINVALID)},
			action: drop(),
		},
	}
}

// forwarding lets pass what the intent names and nothing else, as far as virtual
// links take part; traffic between other interfaces is not our business.
//
// Known flows pass first, replicated ones too: with nf_conntrack_tcp_be_liberal
// they are never invalid, whatever their windows say.
func forwarding(intent router.Intent) []filterRule {
	all, networks := sides(intent)
	if len(all) == 0 {
		return nil
	}
	rules := []filterRule{
		{
			text:   "ct state established,related accept",
			steps:  []matchStep{state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
			action: accept(),
		},
		// Untranslated, it would tell the outside our addresses.
		dropState("iifname", expr.MetaKeyIIFNAME, all),
		dropState("oifname", expr.MetaKeyOIFNAME, all),
	}
	if len(networks) > 0 {
		names := "{ " + strings.Join(networks, ", ") + " }"
		rules = append(rules, filterRule{
			text:   "iifname " + names + " oifname " + names + " accept",
			steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, networks), oneOf(expr.MetaKeyOIFNAME, networks)},
			action: accept(),
		})
		for _, n := range intent.NAT {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("iifname %s ip saddr %s oifname %q accept", names, n.From.Masked(), n.Link),
				steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, networks), source(n.From), named(expr.MetaKeyOIFNAME, n.Link)},
				action: accept(),
			})
		}
	}
	list := "{ " + strings.Join(all, ", ") + " }"
	return append(
		rules,
		filterRule{text: "iifname " + list + " drop", steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, all)}, action: drop()},
		filterRule{text: "oifname " + list + " drop", steps: []matchStep{oneOf(expr.MetaKeyOIFNAME, all)}, action: drop()},
	)
}

func dropState(field string, key expr.MetaKey, names []string) filterRule {
	return filterRule{
		text:   field + " { " + strings.Join(names, ", ") + " } ct state invalid drop",
		steps:  []matchStep{oneOf(key, names), state(expr.CtStateBitINVALID)},
		action: drop(),
	}
}

// sides returns the names of all virtual links and of those that lead to
// networks. What looks like an uplink in any way is none: to be taken for an
// uplink costs reachability, to be taken for a network opens the door.
func sides(intent router.Intent) (all, networks []string) {
	uplinks := make(map[string]bool)
	for _, n := range intent.NAT {
		uplinks[n.Link] = true
	}
	for _, r := range intent.Routes {
		if r.Destination.Bits() == 0 && r.Gateway.IsValid() {
			uplinks[r.Link] = true
		}
	}
	for _, v := range intent.VirtualLinks {
		if slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool { return slices.Contains(intent.Guarded, a) }) {
			uplinks[v.Name] = true
		}
		all = append(all, v.Name)
		if !uplinks[v.Name] {
			networks = append(networks, v.Name)
		}
	}
	return all, networks
}

func source(p netip.Prefix) matchStep {
	mask := make([]byte, 4)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return matchStep{exprs: []expr.Any{
		payload(expr.PayloadBaseNetworkHeader, 12, 4),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		equals(p.Masked().Addr().AsSlice()...),
	}}
}

func state(bits uint32) matchStep {
	return matchStep{exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}}
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

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
