package kernel

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// recall gives packets the mark of their uplink before they are routed, so that a flow
// stays on the uplink where it began, whatever its network takes now. What comes from an
// uplink has that one's: with it the kernel finds a way back where it looks for one
// (src_valid_mark). What comes to an address that is the same on every uplink has none.
func recall(intent router.Intent, f family) []filterRule {
	s := sidesOf(intent, f)
	if len(intent.Uplinks) == 0 || len(s.networks) == 0 {
		return nil
	}
	rules := []filterRule{{
		text:  "iifname { " + strings.Join(s.networks, ", ") + " } ct mark & mask != 0 meta mark set ct mark & mask",
		steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, s.networks), marked()},
		// The register still holds the masked mark.
		action: []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register}},
	}}
	for _, n := range intent.Free {
		if familyOf(n.Address) == f {
			rules = append(rules, filterRule{
				text:   fmt.Sprintf("daddr %s accept", n.Address),
				steps:  []matchStep{target(single(n.Address))},
				action: accept(),
			})
		}
	}
	for _, u := range intent.Uplinks {
		rules = append(rules, filterRule{
			text:  fmt.Sprintf("iifname { %s } meta mark set %#x", strings.Join(u.Links, ", "), u.Mark),
			steps: []matchStep{oneOf(expr.MetaKeyIIFNAME, u.Links)},
			action: []expr.Any{
				&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint32(u.Mark)},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
			},
		})
	}
	return rules
}

// marked matches flows that have a mark of ours, and leaves it in the register.
func marked() matchStep {
	return anyBit(&expr.Ct{Key: expr.CtKeyMARK, Register: register}, router.MarkMask)
}

// anyBit loads a number and matches if one of the bits is set.
func anyBit(load expr.Any, bits uint32) matchStep {
	return matchStep{exprs: []expr.Any{
		load,
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}}
}

// paths looks at what passes an uplink: it gives flows the mark of the one that they take.
func paths(intent router.Intent, f family) []filterRule {
	if len(intent.Uplinks) == 0 {
		return nil
	}
	var links []string
	for _, u := range intent.Uplinks {
		links = append(links, u.Links...)
	}
	rules := append(limits(intent, f, links), clamps(intent.Uplinks, f, links)...)
	rules = append(rules, filterRule{text: "ct mark & mask != 0 accept", steps: []matchStep{marked()}, action: accept()})
	rules = append(rules, kept(intent, f)...)
	rules = append(rules, unmarked(intent, f, links)...)
	for _, u := range intent.Uplinks {
		names := strings.Join(u.Links, ", ")
		rules = append(
			rules,
			filterRule{
				text:   fmt.Sprintf("oifname { %s } ct mark set ct mark & ^mask | %#x", names, u.Mark),
				steps:  []matchStep{oneOf(expr.MetaKeyOIFNAME, u.Links)},
				action: setMark(u.Mark),
			},
			filterRule{
				text:   fmt.Sprintf("iifname { %s } meta mark & mask != 0 ct mark set ct mark & ^mask | %#x", names, u.Mark),
				steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, u.Links), anyBit(&expr.Meta{Key: expr.MetaKeyMARK, Register: register}, router.MarkMask)},
				action: setMark(u.Mark),
			},
		)
	}
	return rules
}

// linkSide is a side from which a rule sees a link.
type linkSide struct {
	field string
	key   expr.MetaKey
}

func sidesOfLink() [2]linkSide {
	return [2]linkSide{{"oifname", expr.MetaKeyOIFNAME}, {"iifname", expr.MetaKeyIIFNAME}}
}

// setMark gives the flow a mark and leaves the bits of others alone.
func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(router.MarkMask)), Xor: binaryutil.NativeEndian.PutUint32(mark),
		},
		&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true},
	}
}

// unmarked leaves flows without a mark that no uplink's default route may hold: those that
// have the same address on each, and those to private gateways. Those that came to such an
// address have no mark from [recall].
func unmarked(intent router.Intent, f family, links []string) []filterRule {
	var rules []filterRule
	for _, d := range intent.Direct {
		if familyOf(d.Destination.Addr()) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("saddr %s daddr %s oifname { %s } accept", d.Network.Masked(), d.Destination.Masked(), strings.Join(d.Links, ", ")),
			steps:  []matchStep{source(d.Network), target(d.Destination), oneOf(expr.MetaKeyOIFNAME, d.Links)},
			action: accept(),
		}, filterRule{
			text:   fmt.Sprintf("saddr %s daddr %s iifname { %s } accept", d.Destination.Masked(), d.Network.Masked(), strings.Join(d.Links, ", ")),
			steps:  []matchStep{source(d.Destination), target(d.Network), oneOf(expr.MetaKeyIIFNAME, d.Links)},
			action: accept(),
		})
	}
	names := "{ " + strings.Join(links, ", ") + " }"
	for _, n := range intent.Free {
		if familyOf(n.Network.Addr()) != f {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("saddr %s oifname %s accept", n.Network.Masked(), names),
			steps:  []matchStep{source(n.Network), oneOf(expr.MetaKeyOIFNAME, links)},
			action: accept(),
		})
	}
	return rules
}

// target is [source] for the destination.
func target(p netip.Prefix) matchStep {
	return within(p, headerOf(familyOf(p.Addr())).destination)
}

// Parts of the header of TCP (RFC 9293 §3.1) and the option of the segment size.
const (
	tcpFlags      = 13
	tcpSYN        = 2
	tcpRST        = 4
	maximumOption = 2
)

// clamps keep connections from sending segments that an uplink's MTU does not let pass. What
// leaves may have a smaller one on its way, as far as the kernel knows. What comes in tells
// hosts how much they may send by the uplink. The kernel never makes the size larger.
func clamps(uplinks []router.Uplink, f family, links []string) []filterRule {
	size := func() expr.Any {
		return &expr.Exthdr{SourceRegister: register, Type: maximumOption, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}
	}
	rules := []filterRule{{
		text:  "oifname { " + strings.Join(links, ", ") + " } tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu",
		steps: []matchStep{oneOf(expr.MetaKeyOIFNAME, links), opening()},
		action: []expr.Any{
			&expr.Rt{Register: register, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 2, Size: 2},
			size(),
		},
	}}
	for _, u := range uplinks {
		largest := u.MTU - headersOf(f)
		if largest <= 0 || largest > math.MaxUint16 {
			continue
		}
		rules = append(rules, filterRule{
			text:   fmt.Sprintf("iifname { %s } tcp flags & (syn|rst) == syn tcp option maxseg size set %d", strings.Join(u.Links, ", "), largest),
			steps:  []matchStep{oneOf(expr.MetaKeyIIFNAME, u.Links), opening()},
			action: []expr.Any{&expr.Immediate{Register: register, Data: portBytes(uint16(largest))}, size()},
		})
	}
	return rules
}

// headersOf is the length of the headers of IP and TCP without options.
func headersOf(f family) int {
	if f == ipv6 {
		return 60
	}
	return 40
}

// opening matches what opens a connection of TCP, and the answer.
func opening() matchStep {
	return matchStep{exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_TCP),
		payload(expr.PayloadBaseTransportHeader, tcpFlags, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{tcpSYN | tcpRST}, Xor: []byte{0}},
		equals(tcpSYN),
	}}
}

// withMTUs returns an intent that knows how large packets each uplink takes.
func (r *Reconciler) withMTUs(in router.Intent) router.Intent {
	in.Uplinks = slices.Clone(in.Uplinks)
	for i := range in.Uplinks {
		u := &in.Uplinks[i]
		for _, v := range in.VirtualLinks {
			if !slices.Contains(u.Links, v.Name) {
				continue
			}
			for _, name := range []string{v.Parent, v.Name} {
				// One that is not there yet will have that of its parent.
				if l, err := r.links.LinkByName(name); err == nil && (u.MTU == 0 || l.Attrs().MTU < u.MTU) {
					u.MTU = l.Attrs().MTU
				}
			}
		}
	}
	return in
}
