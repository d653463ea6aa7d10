package fence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Names of the chains to which the others jump. They stand once for all devices,
// so that hundreds of virtual links cost hundreds of rules and not thousands.
const (
	linkEgressName   = "link-egress"
	linkIngressName  = "link-ingress"
	guardEgressName  = "guard-egress"
	guardIngressName = "guard-ingress"
)

// chain is the wanted state of one chain.
type chain struct {
	name string
	// device is empty for a chain to which others jump.
	device string
	// index is the interface index of the device. It is part of the rules'
	// comments: a chain that was made for an earlier device of the same name
	// guards nothing.
	index  int
	hook   *nftables.ChainHook
	policy nftables.ChainPolicy
	rules  []rule
}

func (c chain) digest() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %d\n", c.name, c.device, c.policy)
	if c.hook != nil {
		fmt.Fprintf(&b, "hook %d\n", *c.hook)
	}
	for _, r := range c.rules {
		fmt.Fprintln(&b, r.fingerprint)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

// comments are the comments of the chain's rules: for which device they are, the
// digest of the whole chain, and the place in it.
func (c chain) comments() []string {
	list := make([]string, 0, len(c.rules))
	digest := c.digest()
	for i := range c.rules {
		list = append(list, fmt.Sprintf("%s%s %d", c.mark(), digest, i))
	}
	return list
}

// mark begins the comment of every rule that was made for this very device.
func (c chain) mark() string { return fmt.Sprintf("tandem %d ", c.index) }

// chains returns what cfg asks for: the shared chains, then those of the links in
// order, then those of each parent.
func chains(cfg Config) []chain {
	v := view(cfg.Links)
	list := []chain{{name: linkEgressName, rules: slices.Concat(
		renewals(false, cfg.Lease, nil, false),
		renewals(true, cfg.Lease, nil, false),
		[]rule{when(held(), accept())},
	)}}
	egress, ingress := guardEgress(v.global4, v.global6), guardIngress(v.global4, v.global6, v.macs)
	if len(egress) > 0 {
		list = append(list, chain{name: guardEgressName, rules: egress}, chain{name: guardIngressName, rules: ingress})
	}
	if len(v.macs) > 0 {
		list = append(list, chain{name: linkIngressName, rules: linkIngress(v.macs)})
	}
	speak, hear := []rule{when(nil, jump(linkEgressName))}, []rule{when(nil, jump(linkIngressName))}
	for _, l := range cfg.Links {
		if l.ownMAC() {
			continue
		}
		list = append(list,
			base("egress-"+l.Name, l.Name, nftables.ChainHookEgress, nftables.ChainPolicyDrop, speak),
			base("ingress-"+l.Name, l.Name, nftables.ChainHookIngress, nftables.ChainPolicyDrop, hear))
	}
	for _, p := range v.parents {
		if !p.guarded(v) {
			continue
		}
		list = append(list,
			base("parent-egress-"+p.name, p.name, nftables.ChainHookEgress, nftables.ChainPolicyAccept, p.egress(cfg, v)),
			base("parent-ingress-"+p.name, p.name, nftables.ChainHookIngress, nftables.ChainPolicyAccept, p.ingress(v)))
	}
	return list
}

// linkIngress is what a virtual link hears while the lease is held: everybody but
// the other virtual links. Each of them would take each announcement of all others
// for a neighbour, and with a few hundred links the kernel's table of neighbours is
// full.
func linkIngress(macs [][6]byte) []rule {
	return []rule{when(all(held(), notAmong(etherSource(), macSet(macs))), accept())}
}

func base(name, device string, hook *nftables.ChainHook, policy nftables.ChainPolicy, rules []rule) chain {
	return chain{name: name, device: device, hook: hook, policy: policy, rules: rules}
}

// guardEgress stops an interface from speaking for an address.
func guardEgress(v4, v6 []netip.Addr) []rule {
	var rules []rule
	if len(v4) > 0 {
		set := addressSet(v4)
		rules = append(rules,
			when(all(arp(), among(arpSender(), set)), drop()),
			when(all(ipv4(), among(source4(), set)), drop()))
	}
	if len(v6) > 0 {
		set := addressSet(v6)
		rules = append(rules,
			when(all(ipv6(), among(source6(), set)), drop()),
			when(discoveryTarget(set), drop()))
	}
	return rules
}

// guardIngress stops an interface from hearing what is meant for an address. What
// comes from an address is heard if it has a virtual MAC address: the MASTER.
func guardIngress(v4, v6 []netip.Addr, macs [][6]byte) []rule {
	var rules []rule
	if len(v4) > 0 {
		set := addressSet(v4)
		rules = append(rules,
			when(all(arp(), is(arpOperation(), []byte{0, 1}), among(arpTarget(), set)), drop()),
			when(all(ipv4(), among(destination4(), set)), drop()))
	}
	if len(v6) > 0 {
		set := addressSet(v6)
		rules = append(rules, when(all(ipv6(), among(destination6(), set)), drop()))
		var foreign []match
		if len(macs) > 0 {
			foreign = notAmong(etherSource(), macSet(macs))
		}
		rules = append(rules,
			when(all(ipv6(), foreign, among(source6(), set)), drop()),
			when(all(discoveryTarget(set), foreign), drop()))
	}
	return rules
}

func virtualMACs(load expr.Any, macs [][6]byte) []rule {
	if len(macs) == 0 {
		return nil
	}
	return []rule{when(among(load, macSet(macs)), accept())}
}
