package fence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// setName is the set whose one element is the lease.
	setName = "lease"
	// setSize leaves room for elements that have expired and not been collected
	// yet: they count, and a full set makes renewals fail.
	setSize = 4096
	// leaseKey is the key of the one element. Tables are per group, so it is the
	// same for all of them.
	leaseKey = 1

	// ipProtocolVRRP is the IP protocol of advertisements (RFC 9568 §5.1.1.4) and
	// advertTTL their TTL (§5.1.1.3).
	ipProtocolVRRP = 112
	advertTTL      = 255
	// renewalTTL marks a frame that renews the lease between two advertisements
	// and that nobody hears.
	renewalTTL = 2

	// dynsetDelete is NFT_DYNSET_OP_DELETE of linux/netfilter/nf_tables.h.
	dynsetDelete = 2

	// register is the nftables register that all rules use.
	register = 1
)

// chain is the wanted state of one base chain.
type chain struct {
	name   string
	device string
	// index is the interface index of the device. It is part of the digest: a
	// chain that was made for an earlier device of the same name guards nothing.
	index  int
	hook   *nftables.ChainHook
	policy nftables.ChainPolicy
	rules  []rule
}

// rule is one rule: match, then membership of register 1 in members unless that
// is empty, then action.
type rule struct {
	text    string
	match   []expr.Any
	members []netip.Addr
	action  []expr.Any
}

// digest identifies everything that the chain should do.
func (c chain) digest() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %d %d %d\n", c.name, c.device, c.index, *c.hook, c.policy)
	for _, r := range c.rules {
		fmt.Fprintf(&b, "%s %v\n", r.text, r.members)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

// chains returns what cfg asks for, the links in order and each parent once.
func chains(cfg Config) []chain {
	var list []chain
	parents := make(map[string][][6]byte)
	var order []string
	var addresses []netip.Addr
	for _, l := range cfg.Links {
		list = append(list, linkEgress(l.Name, cfg.Lease), linkIngress(l.Name))
		if _, seen := parents[l.Parent]; !seen {
			order = append(order, l.Parent)
		}
		parents[l.Parent] = append(parents[l.Parent], l.MAC)
		for _, a := range l.Addresses {
			if a.Is4() {
				addresses = append(addresses, a)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	if len(addresses) == 0 {
		return list
	}
	for _, p := range order {
		list = append(list, parentEgress(p, parents[p], addresses), parentIngress(p, parents[p], addresses))
	}
	return list
}

func linkEgress(device string, lease time.Duration) chain {
	advert := slices.Concat(
		equal(protocol(), etherType(unix.ETH_P_IP)),
		equal(network(16, 4), []byte{224, 0, 0, 18}),
		equal(network(9, 1), []byte{ipProtocolVRRP}),
	)
	ttl := func(op expr.CmpOp, value byte) []expr.Any { return compare(op, network(8, 1), []byte{value}) }
	const text = "ip daddr 224.0.0.18 ip protocol 112 "
	return chain{
		name: "egress-" + device, device: device,
		hook: nftables.ChainHookEgress, policy: nftables.ChainPolicyDrop,
		rules: []rule{
			{
				// Between two advertisements the daemon renews the lease without a word
				// to anybody, so that it can be much shorter than their interval.
				text:   text + "ip ttl 2 update @lease timeout " + lease.String() + " drop",
				match:  slices.Concat(advert, ttl(expr.CmpOpEq, renewalTTL)),
				action: append(leaseOperation(unix.NFT_DYNSET_OP_UPDATE, lease), verdict(expr.VerdictDrop)),
			},
			{
				// The daemon's way to close the fence without a word to anybody.
				text:   text + "ip ttl != 255 delete @lease drop",
				match:  slices.Concat(advert, ttl(expr.CmpOpNeq, advertTTL)),
				action: append(leaseOperation(dynsetDelete, 0), verdict(expr.VerdictDrop)),
			},
			{
				// Priority 0 says that the MASTER leaves (RFC 9568 §5.2.4).
				text: text + "ip ttl 255 @th,16,8 0 delete @lease accept",
				match: slices.Concat(advert, ttl(expr.CmpOpEq, advertTTL),
					equal(&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 1}, []byte{0})),
				action: append(leaseOperation(dynsetDelete, 0), verdict(expr.VerdictAccept)),
			},
			{
				text:   text + "ip ttl 255 update @lease timeout " + lease.String() + " accept",
				match:  slices.Concat(advert, ttl(expr.CmpOpEq, advertTTL)),
				action: append(leaseOperation(unix.NFT_DYNSET_OP_UPDATE, lease), verdict(expr.VerdictAccept)),
			},
			leaseAccept(),
		},
	}
}

func linkIngress(device string) chain {
	return chain{
		name: "ingress-" + device, device: device,
		hook: nftables.ChainHookIngress, policy: nftables.ChainPolicyDrop,
		rules: []rule{leaseAccept()},
	}
}

// parentEgress stops the parent from speaking for a virtual address. Frames of
// the virtual links pass here too, with a virtual MAC address as source.
func parentEgress(device string, macs [][6]byte, addresses []netip.Addr) chain {
	rules := acceptMACs("ether saddr", 6, macs)
	return chain{
		name: "parent-egress-" + device, device: device,
		hook: nftables.ChainHookEgress, policy: nftables.ChainPolicyAccept,
		rules: append(
			rules,
			rule{
				text:    "arp saddr ip drop",
				match:   append(equal(protocol(), etherType(unix.ETH_P_ARP)), network(14, 4)),
				members: addresses,
				action:  []expr.Any{verdict(expr.VerdictDrop)},
			},
			rule{
				text:    "ip saddr drop",
				match:   append(equal(protocol(), etherType(unix.ETH_P_IP)), network(12, 4)),
				members: addresses,
				action:  []expr.Any{verdict(expr.VerdictDrop)},
			},
		),
	}
}

// parentIngress stops the parent from hearing what is meant for a virtual
// address. The hook runs before macvlan takes its frames, so those to a virtual
// MAC address and to groups pass.
func parentIngress(device string, macs [][6]byte, addresses []netip.Addr) chain {
	rules := acceptMACs("ether daddr", 0, macs)
	group := rule{
		text: "ether daddr & 01:00:00:00:00:00 != 0 accept",
		match: []expr.Any{
			link(0, 1),
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{0}},
		},
		action: []expr.Any{verdict(expr.VerdictAccept)},
	}
	return chain{
		name: "parent-ingress-" + device, device: device,
		hook: nftables.ChainHookIngress, policy: nftables.ChainPolicyAccept,
		rules: append(
			rules,
			group,
			rule{
				text: "arp operation request arp daddr ip drop",
				match: slices.Concat(equal(protocol(), etherType(unix.ETH_P_ARP)),
					equal(network(6, 2), []byte{0, 1}), []expr.Any{network(24, 4)}),
				members: addresses,
				action:  []expr.Any{verdict(expr.VerdictDrop)},
			},
			rule{
				text:    "ip daddr drop",
				match:   append(equal(protocol(), etherType(unix.ETH_P_IP)), network(16, 4)),
				members: addresses,
				action:  []expr.Any{verdict(expr.VerdictDrop)},
			},
		),
	}
}

func acceptMACs(field string, offset uint32, macs [][6]byte) []rule {
	var rules []rule
	for _, mac := range macs {
		rules = append(rules, rule{
			text:   fmt.Sprintf("%s %x accept", field, mac),
			match:  equal(link(offset, 6), mac[:]),
			action: []expr.Any{verdict(expr.VerdictAccept)},
		})
	}
	return rules
}

func leaseAccept() rule {
	return rule{
		text:   "@lease accept",
		match:  []expr.Any{key(), &expr.Lookup{SourceRegister: register, SetName: setName}},
		action: []expr.Any{verdict(expr.VerdictAccept)},
	}
}

func leaseOperation(operation uint32, timeout time.Duration) []expr.Any {
	return []expr.Any{key(), &expr.Dynset{
		SrcRegKey: register, SetName: setName, Operation: operation, Timeout: timeout,
	}}
}

func key() *expr.Immediate {
	return &expr.Immediate{Register: register, Data: keyBytes()}
}

func keyBytes() []byte { return binaryutil.NativeEndian.PutUint32(leaseKey) }

func protocol() *expr.Meta {
	return &expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register}
}

func etherType(t uint16) []byte { return binaryutil.BigEndian.PutUint16(t) }

func link(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: length}
}

func network(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func equal(load expr.Any, data []byte) []expr.Any { return compare(expr.CmpOpEq, load, data) }

func compare(op expr.CmpOp, load expr.Any, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: op, Register: register, Data: data}}
}

func verdict(kind expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: kind} }
