package kernel

import (
	"net/netip"

	"tandem/router"
)

// linkLocalBits is the length of the link-local prefix that hosts have on a link
// (RFC 4291 §2.5.6).
const linkLocalBits = 64

// virtualPrefix is how a virtual address is added: alone. Only the link-local one
// of a macvlan brings its subnet along, since nobody else gives the macvlan one.
func virtualPrefix(v router.VirtualLink, a netip.Addr) netip.Prefix {
	if a.Is6() && a.IsLinkLocalUnicast() && !v.OwnMAC {
		return netip.PrefixFrom(a, linkLocalBits)
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// virtualForm is how a virtual address stands. Duplicate address detection would
// ask in its name, find the MASTER and give up; it may be skipped for a virtual
// router's addresses, RFC 9568 §8.2.2. What the node sends of its own must not have
// a virtual address as source: the answer could reach the other node.
func virtualForm(v router.VirtualLink, a netip.Addr) addressForm {
	switch {
	case familyOf(a) == ipv4:
		return addressForm{hostScope: v.OwnMAC}
	case a.IsLinkLocalUnicast() && !v.OwnMAC:
		// Neighbour discovery on the macvlan is in the name of this address.
		return addressForm{nodad: true}
	default:
		return addressForm{nodad: true, deprecated: true, noPrefixRoute: true}
	}
}

// ownForm is how the node's own address stands. The link-local one is the source
// of adverts and of neighbour discovery and must work from the first moment after a
// link came up; the global one can wait for the second that the search for
// duplicates takes.
func ownForm(a netip.Addr) addressForm {
	return addressForm{nodad: familyOf(a) == ipv6 && a.IsLinkLocalUnicast()}
}

// observeOrder finds the interfaces on which a virtual link-local address was added
// before the node's own. The kernel asks for neighbours in the name of the oldest
// link-local address, on the BACKUP too, where the fence drops that.
func (p *planner) observeOrder() {
	own := make(map[string]bool)
	for _, a := range p.seen.addresses {
		if familyOf(a.prefix.Addr()) == ipv4 || !a.prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		at := spot{a.link, a.prefix}
		switch _, virtual := p.virtual[at]; {
		case virtual:
			own[a.link] = false
		case p.own[at]:
			own[a.link] = true
		}
	}
	hasOwn := make(map[string]bool)
	for at := range p.own {
		if a := at.prefix.Addr(); a.Is6() && a.IsLinkLocalUnicast() {
			hasOwn[at.link] = true
		}
	}
	for _, v := range p.usable {
		if v.OwnMAC && v.IPv6 && hasOwn[v.Name] && !own[v.Name] {
			p.lagging[v.Name] = true
		}
	}
}

// deleteAddresses takes our addresses away that are no longer wanted. It comes
// before additions, because an address may have moved to another interface.
func (p *planner) deleteAddresses() {
	for _, a := range p.seen.addresses {
		if p.doomed[a.link] || p.wanted(a) {
			continue
		}
		if a.ours || ours(p.links[a.link], p.intent.Group) {
			p.add(op{kind: deleteAddress, link: a.link, prefix: a.prefix})
		}
	}
}

func (p *planner) wanted(a address) bool {
	return p.own[spot{a.link, a.prefix}] || p.stands(a)
}

// stands tells whether an address is a virtual one as it should be.
func (p *planner) stands(a address) bool {
	form, ok := p.virtual[spot{a.link, a.prefix}]
	lags := p.lagging[a.link] && a.prefix.Addr().IsLinkLocalUnicast()
	return ok && form == a.form && !lags
}

func (p *planner) portAddress(port router.PortAddress) {
	for _, a := range p.places[port.Prefix.Addr()] {
		if a.ours && !p.wanted(a) || p.doomed[a.link] {
			continue
		}
		if a.link != port.Interface && a.prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		if a.link != port.Interface || a.prefix != port.Prefix {
			p.conflict("address %s of interface %s is left out: %s is configured on %s; remove it there",
				port.Prefix, port.Interface, a.prefix, a.link)
			return
		}
		if a.duplicate {
			p.conflict("address %s of interface %s cannot be used: another host on the segment has it; give that host another address, then set the interface down and up",
				port.Prefix, port.Interface)
		}
		return
	}
	p.add(op{kind: addAddress, link: port.Interface, prefix: port.Prefix, form: ownForm(port.Prefix.Addr())})
}

func (p *planner) virtualAddresses() {
	have := make(map[spot]bool, len(p.seen.addresses))
	for _, a := range p.seen.addresses {
		if p.stands(a) && !p.doomed[a.link] {
			have[spot{a.link, a.prefix}] = true
		}
	}
	for _, v := range p.usable {
		for _, a := range v.Addresses {
			at := spot{v.Name, virtualPrefix(v, a)}
			if !have[at] {
				p.add(op{kind: addAddress, link: at.link, prefix: at.prefix, form: p.virtual[at]})
			}
		}
	}
}
