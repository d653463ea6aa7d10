package fence

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// layout is what the links of a group mean for their parents.
type layout struct {
	// macs are the virtual MAC addresses of the whole group: frames of a VLAN
	// interface pass its lower interface, too.
	macs [][6]byte
	// global4 and global6 are the virtual addresses that are so for every parent;
	// a link-local one is virtual on its own link only (RFC 4291 §2.5.6).
	global4, global6 []netip.Addr
	parents          []*parent
}

// parent is an interface on which links stand.
type parent struct {
	name string
	// linkLocal are the virtual link-local addresses on it.
	linkLocal []netip.Addr
	// never are the virtual addresses of macvlans on it.
	never4, never6 []netip.Addr
	// own4 and own6 are the node's own addresses on it.
	own4, own6 []netip.Addr
	// fenced4 and fenced6 tell that the family is fenced by address, because a
	// link of that family has no virtual MAC address.
	fenced4, fenced6 bool
	// vrids4 and vrids6 are the virtual routers whose adverts may renew; nil for any.
	vrids4, vrids6 []byte
}

// view sorts the links by parents.
func view(links []Link) layout {
	var v layout
	parents := make(map[string]*parent)
	for _, l := range links {
		p, seen := parents[l.Parent]
		if !seen {
			p = &parent{name: l.Parent}
			parents[l.Parent] = p
			v.parents = append(v.parents, p)
		}
		if l.ownMAC() {
			p.addOwnMAC(l)
		} else {
			v.macs = append(v.macs, l.MAC)
		}
		v.addAddresses(p, l)
		for _, a := range l.Own {
			if a = plain(a); a.Is4() {
				p.own4 = append(p.own4, a)
			} else {
				p.own6 = append(p.own6, a)
			}
		}
	}
	v.macs = slices.CompactFunc(slices.SortedFunc(slices.Values(v.macs), compareMACs), func(a, b [6]byte) bool { return a == b })
	v.global4, v.global6 = sorted(v.global4), sorted(v.global6)
	for _, p := range v.parents {
		p.linkLocal = sorted(p.linkLocal)
		p.never4, p.never6 = sorted(p.never4), sorted(p.never6)
		p.own4, p.own6 = sorted(p.own4), sorted(p.own6)
		slices.Sort(p.vrids4)
		slices.Sort(p.vrids6)
	}
	return v
}

func (v *layout) addAddresses(p *parent, l Link) {
	for _, a := range l.Addresses {
		a = plain(a)
		switch {
		case a.Is4():
			v.global4 = append(v.global4, a)
			if !l.ownMAC() {
				p.never4 = append(p.never4, a)
			}
			continue
		case a.IsLinkLocalUnicast():
			p.linkLocal = append(p.linkLocal, a)
		default:
			v.global6 = append(v.global6, a)
		}
		if !l.ownMAC() {
			p.never6 = append(p.never6, a)
		}
	}
}

// addOwnMAC notes that the link's family is fenced by address. One link without a
// VRID makes the adverts of any count.
func (p *parent) addOwnMAC(l Link) {
	fenced, vrids := &p.fenced4, &p.vrids4
	if l.IPv6 {
		fenced, vrids = &p.fenced6, &p.vrids6
	}
	*vrids = append(*vrids, l.VRID)
	*fenced = true
}

func compareMACs(a, b [6]byte) int { return slices.Compare(a[:], b[:]) }

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func sorted(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// guarded tells whether there is anything to hold back.
func (p *parent) guarded(v layout) bool {
	return len(v.global4)+len(v.global6)+len(p.linkLocal) > 0 || p.fenced4 || p.fenced6
}

// egress stops the parent from speaking for a virtual address. Frames of the
// virtual links pass here too, with a virtual MAC address as source. Where a
// family is fenced by address, the parent is the virtual link: adverts from an own
// address move the lease, and while it is not held only the own addresses speak.
func (p *parent) egress(cfg Config, v layout) []rule {
	rules := append(tagged(accept()), virtualMACs(etherSource(), v.macs)...)
	if p.fenced4 {
		sender := all(among(source4(), addressSet(p.own4)), ofVRID(payload(expr.PayloadBaseTransportHeader, 1, 1), p.vrids4))
		rules = append(rules, renewals(false, cfg.Lease, sender, true)...)
		rules = append(rules, guardEgress(p.never4, nil)...)
	}
	if p.fenced6 {
		sender := all(among(source6(), addressSet(p.own6)), ofVRID(network(41, 1), p.vrids6))
		rules = append(rules, renewals(true, cfg.Lease, sender, true)...)
		rules = append(rules, guardEgress(nil, p.never6)...)
	}
	rules = append(rules, p.open()...)
	rules = append(rules, guardJump(v, guardEgressName)...)
	rules = append(rules, guardEgress(nil, p.linkLocal)...)
	if p.fenced4 {
		own := append(slices.Clone(p.own4), netip.IPv4Unspecified())
		if len(v.global4) > 0 {
			rules = append(rules, when(all(arp(), among(arpTarget(), addressSet(v.global4))), drop()))
		}
		rules = append(rules,
			when(all(ipv4(), among(source4(), addressSet(own))), accept()),
			when(ipv4(), drop()))
	}
	if p.fenced6 {
		own := append(slices.Clone(p.own6), netip.IPv6Unspecified())
		rules = append(rules,
			when(all(ipv6(), among(source6(), addressSet(own))), accept()),
			when(ipv6(), drop()))
	}
	return rules
}

// ingress stops the parent from hearing what is meant for a virtual address. The
// hook runs before macvlan takes its frames, so those to a virtual MAC address
// and, in a family that has macvlans, to groups pass.
func (p *parent) ingress(v layout) []rule {
	rules := append(tagged(accept()), virtualMACs(etherDestination(), v.macs)...)
	// What an own-MAC link may hear while the lease is held, a macvlan beside it
	// hears by its own MAC address only.
	if p.fenced4 {
		rules = append(rules, p.unicastGuard(p.never4, nil, v)...)
	}
	if p.fenced6 {
		rules = append(rules, p.unicastGuard(nil, p.never6, v)...)
	}
	rules = append(rules, p.open()...)
	if !p.fenced4 {
		rules = append(rules, when(all(arp(), toGroup()), accept()), when(all(ipv4(), toGroup()), accept()))
	}
	if !p.fenced6 {
		rules = append(rules, when(all(ipv6(), toGroup()), accept()))
	}
	rules = append(rules, guardJump(v, guardIngressName)...)
	rules = append(rules, guardIngress(nil, p.linkLocal, v.macs)...)
	if p.fenced4 {
		rules = append(rules, p.hear4(v)...)
	}
	if p.fenced6 {
		groups := masked(expr.CmpOpEq, network(24, 1), []byte{0xff}, []byte{0xff})
		rules = append(rules,
			when(all(ipv6(), toGroup()), accept()),
			when(all(ipv6(), groups), accept()),
			when(all(ipv6(), among(destination6(), addressSet(p.own6))), accept()),
			when(ipv6(), drop()))
	}
	return rules
}

// hear4 is what the parent may hear of IPv4 while the lease is not held.
func (p *parent) hear4(v layout) []rule {
	var rules []rule
	if len(v.global4) > 0 {
		set := addressSet(v.global4)
		rules = append(rules,
			when(all(arp(), among(arpSender(), set)), drop()),
			when(all(arp(), among(arpTarget(), set)), drop()),
			when(all(ipv4(), among(source4(), set)), drop()))
	}
	groups := masked(expr.CmpOpEq, network(16, 1), []byte{0xf0}, []byte{0xe0})
	return append(rules,
		when(all(ipv4(), toGroup()), accept()),
		when(all(ipv4(), groups), accept()),
		when(all(ipv4(), among(destination4(), addressSet(p.own4))), accept()),
		when(all(ipv4(), transportProtocol(unix.IPPROTO_UDP),
			is(payload(expr.PayloadBaseTransportHeader, 2, 2), []byte{0, dhcpClientPort})), accept()),
		when(ipv4(), drop()))
}

// unicastGuard is guardIngress for frames to the parent's own MAC address.
func (p *parent) unicastGuard(v4, v6 []netip.Addr, v layout) []rule {
	rules := guardIngress(v4, v6, v.macs)
	single := masked(expr.CmpOpEq, payload(expr.PayloadBaseLLHeader, 0, 1), []byte{1}, []byte{0})
	for i, r := range rules {
		rules[i] = when(all(r.matches, single), r.action...)
	}
	return rules
}

// open lets everything of the families pass that are fenced by address while the
// lease is held.
func (p *parent) open() []rule {
	var rules []rule
	if p.fenced4 {
		rules = append(rules, when(all(ipv4(), held()), accept()), when(all(arp(), held()), accept()))
	}
	if p.fenced6 {
		rules = append(rules, when(all(ipv6(), held()), accept()))
	}
	return rules
}

func guardJump(v layout, name string) []rule {
	if len(v.global4)+len(v.global6) == 0 {
		return nil
	}
	return []rule{when(nil, jump(name))}
}

// ofVRID is true for adverts of the virtual routers; one of 0 stands for any.
func ofVRID(load expr.Any, vrids []byte) []match {
	if len(vrids) == 0 || vrids[0] == 0 {
		return nil
	}
	return among(load, byteSet(nftables.TypeInetProto, slices.Compact(slices.Clone(vrids))...))
}
