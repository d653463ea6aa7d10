package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// bindings are the chains that bind flows to uplinks: a flow without our mark gets that of the
// uplink by which it leaves or came in, and what comes in from a network of a flow with a mark is routed
// by it. So flows stay where they began when their network moves to another uplink, and replies leave
// by where the question came in.
func bindings(intent router.Intent, f family) []filterChain {
	return []filterChain{
		{
			name: "bound", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle,
			rules: follow(intent),
		},
		{
			name: "bind", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookForward, priority: nftables.ChainPriorityMangle,
			rules: append(clamp(intent), bind(intent, f)...),
		},
	}
}

func follow(intent router.Intent) []filterRule {
	if len(intent.Exits) == 0 || len(intent.Entrances) == 0 {
		return nil
	}
	return []filterRule{{
		text:   fmt.Sprintf("iifname { %s } ct mark & %#x != 0 meta mark set ct mark & %#x", strings.Join(intent.Entrances, ", "), router.MarkMask, router.MarkMask),
		steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, intent.Entrances), bound(expr.CmpOpNeq)},
		action: []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true}},
	}}
}

// bound compares our bits of the connection mark, which stay in the register, with zero.
func bound(op expr.CmpOp) matchStep {
	return matchStep{exprs: append(markBits(router.MarkMask, 0),
		&expr.Cmp{Op: op, Register: register, Data: make([]byte, 4)})}
}

// markBits loads the connection mark, of which it keeps the bits of mask and toggles those of xor.
func markBits(mask, xor uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor),
		},
	}
}

func bind(intent router.Intent, f family) []filterRule {
	if len(intent.Exits) == 0 {
		return nil
	}
	rules := []filterRule{{
		text:   fmt.Sprintf("ct mark & %#x != 0 accept", router.MarkMask),
		steps:  []matchStep{bound(expr.CmpOpNeq)},
		action: accept(),
	}}
	for _, n := range intent.Floating {
		if familyOf(n.Prefix.Addr()) == f {
			rules = append(rules,
				filterRule{text: fmt.Sprintf("saddr %s accept", n.Prefix.Masked()), steps: []matchStep{source(n.Prefix)}, action: accept()},
				filterRule{text: fmt.Sprintf("daddr %s accept", n.Prefix.Masked()), steps: []matchStep{towards(n.Prefix)}, action: accept()})
		}
	}
	for _, e := range intent.Exits {
		action := append(markBits(^uint32(router.MarkMask), e.Mark), &expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true})
		for _, side := range []struct {
			field string
			key   expr.MetaKey
		}{{"oifname", expr.MetaKeyOIFNAME}, {"iifname", expr.MetaKeyIIFNAME}} {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("%s { %s } ct mark set ct mark & %#x | %#x", side.field, strings.Join(e.Links, ", "), ^uint32(router.MarkMask), e.Mark),
				steps:  []matchStep{oneOf(side.key, e.Links)},
				action: action,
			})
		}
	}
	return rules
}

// clamp makes hosts send no segments that are too long for the uplink that their connection takes: it may
// have a smaller MTU than the one before.
func clamp(intent router.Intent) []filterRule {
	var links []string
	for _, e := range intent.Exits {
		links = append(links, e.Links...)
	}
	if len(links) == 0 {
		return nil
	}
	var rules []filterRule
	for _, side := range []struct {
		field string
		key   expr.MetaKey
	}{{"oifname", expr.MetaKeyOIFNAME}, {"iifname", expr.MetaKeyIIFNAME}} {
		rules = append(rules, filterRule{
			text:  fmt.Sprintf("%s { %s } tcp flags syn / syn,rst tcp option maxseg size set rt mtu", side.field, strings.Join(links, ", ")),
			steps: []matchStep{oneOf(side.key, links), {exprs: beginning()}},
			action: []expr.Any{
				&expr.Rt{Register: register, Key: expr.RtTCPMSS},
				&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 2, Size: 2},
				&expr.Exthdr{SourceRegister: register, Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
			},
		})
	}
	return rules
}

// The option of TCP that bounds the size of segments (RFC 9293 §3.2), and flags with their place.
const (
	tcpOptionMSS = 2
	tcpFlags     = 13
	tcpSYN       = 0x02
	tcpRST       = 0x04
)

// beginning matches segments that begin or accept a connection.
func beginning() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_TCP),
		payload(expr.PayloadBaseTransportHeader, tcpFlags, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{tcpSYN | tcpRST}, Xor: []byte{0}},
		equals(tcpSYN),
	}
}

// towards matches a destination by its prefix.
func towards(p netip.Prefix) matchStep {
	return within(p, headerOf(familyOf(p.Addr())).destination)
}
