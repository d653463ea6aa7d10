package config

import (
	"fmt"
	"net/netip"

	"github.com/goccy/go-yaml/ast"
)

// What to give for a required key that is absent.
const (
	giveName     = "give a name of small letters, digits and hyphens, at most 32 characters"
	giveVRID     = "give a virtual router identifier from 1 to 255 that is used nowhere else in the document"
	givePrefix   = "give the subnet, e.g. 10.0.0.0/24"
	givePrefix6  = "give the IPv6 subnet, e.g. 2001:db8:0:1::/64"
	givePorts    = "give each member's interface and address"
	giveGateway  = "give the address of the next hop to the outside"
	giveVirtual  = "give the virtual address that the hosts use as their gateway"
	giveFloating = "give at least one virtual address"
	giveMembers  = "list the one or two nodes of the group"
	giveOwn      = "give the node's own address"
	giveLink     = "give the name of the node's interface, e.g. eth1"
)

func (d decoder) document(node ast.Node) *Document {
	doc := &Document{Election: Election{
		AdvertisementInterval: DefaultAdvertisementInterval, AnnounceRefresh: DefaultAnnounceRefresh,
	}}
	d.fields(
		"", node,
		field{"version", fmt.Sprintf("write `version: %d`", Version), func(path string, n ast.Node) {
			doc.Version = d.version(path, n)
		}},
		field{"group", giveName, func(path string, n ast.Node) { doc.Group = d.name(path, n) }},
		field{"election", "", func(path string, n ast.Node) { d.election(path, n, &doc.Election) }},
		field{"members", giveMembers, func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Members = append(doc.Members, d.member(path, n)) })
		}},
		field{"ha_link", "", func(path string, n ast.Node) { doc.HALink = d.haLink(path, n) }},
		field{"second_ha_link", "", func(path string, n ast.Node) { doc.SecondHALink = d.haLink(path, n) }},
		field{"uplinks", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Uplinks = append(doc.Uplinks, d.uplink(path, n)) })
		}},
		field{"networks", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Networks = append(doc.Networks, d.network(path, n)) })
		}},
		field{"operations", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Operations = append(doc.Operations, d.operation(path, n)) })
		}},
	)
	return doc
}

func (d decoder) election(path string, node ast.Node, e *Election) {
	d.fields(
		path, node,
		field{"advertisement_interval", "", func(path string, n ast.Node) { e.AdvertisementInterval = d.interval(path, n) }},
		field{"preempt", "", func(path string, n ast.Node) { e.Preempt = d.truth(path, n) }},
		field{"preempt_delay", "", func(path string, n ast.Node) { e.PreemptDelay = d.preemptDelay(path, n) }},
		field{"announce_refresh", "", func(path string, n ast.Node) { e.AnnounceRefresh = d.announceRefresh(path, n) }},
	)
}

func (d decoder) member(path string, node ast.Node) Member {
	var m Member
	d.fields(
		path, node,
		field{"name", giveName, func(path string, n ast.Node) { m.Name = d.name(path, n) }},
		field{"priority", "", func(path string, n ast.Node) {
			m.Priority = uint8(d.number(path, n, minPriority, maxPriority))
		}},
		field{"public_key", "", func(path string, n ast.Node) { m.PublicKey = d.publicKey(path, n) }},
	)
	return m
}

func (d decoder) haLink(path string, node ast.Node) *HALink {
	l := &HALink{Port: DefaultPort}
	d.fields(
		path, node,
		field{"vrid", giveVRID, func(path string, n ast.Node) { l.VRID = d.vrid(path, n) }},
		field{"prefix", givePrefix, func(path string, n ast.Node) { l.Prefix = d.prefix(path, n, 31) }},
		field{"port", "", func(path string, n ast.Node) { l.Port = uint16(d.number(path, n, 1, 65535)) }},
		field{"ports", givePorts, func(path string, n ast.Node) { l.Ports = d.ports(path, n, false) }},
	)
	return l
}

func (d decoder) uplink(path string, node ast.Node) Uplink {
	u := Uplink{VRRP: DefaultVRRP()}
	d.fields(
		path, node,
		field{"name", giveName, func(path string, n ast.Node) { u.Name = d.name(path, n) }},
		field{"vrid", giveVRID, func(path string, n ast.Node) { u.VRID = d.vrid(path, n) }},
		field{"prefix", givePrefix, func(path string, n ast.Node) { u.Prefix = d.prefix(path, n, 30) }},
		field{"gateway", giveGateway, func(path string, n ast.Node) { u.Gateway = d.address(path, n) }},
		field{"addresses", giveFloating, func(path string, n ast.Node) { u.Addresses = d.addresses(path, n, d.address) }},
		field{"ports", givePorts, func(path string, n ast.Node) { u.Ports = d.ports(path, n, true) }},
		field{"vrrp", "", func(path string, n ast.Node) { d.vrrp(path, n, &u.VRRP) }},
		field{"ipv6", "", func(path string, n ast.Node) { u.IPv6 = d.ipv6(path, n, true) }},
		field{"virtual_routers", "", func(path string, n ast.Node) { u.VirtualRouters = d.virtualRouters(path, n) }},
		field{"cost", "", func(path string, n ast.Node) { u.Cost = d.cost(path, n) }},
		field{"labels", "", func(path string, n ast.Node) { u.Labels = d.names(path, n) }},
		field{"metered", "", func(path string, n ast.Node) { u.Metered = d.truth(path, n) }},
		field{"dns", "", func(path string, n ast.Node) { u.DNS = d.servers(path, n) }},
	)
	return u
}

// addresses keeps the place of an item that is wrong, so that the others keep
// their index.
func (d decoder) addresses(path string, node ast.Node, decode func(string, ast.Node) netip.Addr) []netip.Addr {
	var addresses []netip.Addr
	before := len(d.faults)
	d.items(path, node, func(path string, n ast.Node) {
		addresses = append(addresses, decode(path, n))
	})
	if len(addresses) == 0 && len(d.faults) == before {
		d.add(path, "is empty; "+giveFloating)
	}
	return addresses
}

// helpers decodes a list of application protocols, each of which may stand once.
func (d decoder) helpers(path string, node ast.Node) []string {
	var helpers []string
	seen := map[string]string{}
	d.items(path, node, func(path string, n ast.Node) {
		word := d.choice(path, n, HelperFTP, HelperH323, HelperIRC, HelperPPTP, HelperSIP, HelperTFTP)
		if first, ok := taken(seen, word, path); ok {
			d.add(path, fmt.Sprintf("%q stands already at %s; remove one of them", word, first))
		}
		helpers = append(helpers, word)
	})
	return helpers
}

// ports decodes the members' ports. Those of the HA link have no IPv6.
func (d decoder) ports(path string, node ast.Node, withIPv6 bool) map[string]Port {
	ports := map[string]Port{}
	for _, e := range d.entries(path, node) {
		var p Port
		fields := []field{
			{"interface", giveLink, func(path string, n ast.Node) { p.Interface = d.interfaceName(path, n) }},
			{"address", giveOwn, func(path string, n ast.Node) { p.Address = d.address(path, n) }},
		}
		if withIPv6 {
			fields = append(
				fields,
				field{"ipv6", "", func(path string, n ast.Node) { p.IPv6 = d.address6(path, n) }},
				field{"link_local", "", func(path string, n ast.Node) { p.LinkLocal = d.address6(path, n) }},
			)
		}
		if e.value != nil {
			d.fields(e.path, e.value, fields...)
		}
		ports[e.key] = p
	}
	return ports
}

func (d decoder) vrrp(path string, node ast.Node, v *VRRP) {
	d.fields(
		path, node,
		field{"version", "", func(path string, n ast.Node) { v.Version = d.number(path, n, 2, 3) }},
		field{"checksum", "", func(path string, n ast.Node) {
			v.Checksum = d.choice(path, n, ChecksumRFC9568, ChecksumPseudoHeader)
		}},
		field{"unicast", "", func(path string, n ast.Node) { v.Unicast = d.truth(path, n) }},
		field{"virtual_mac", "", func(path string, n ast.Node) { v.VirtualMAC = d.truth(path, n) }},
		field{"authentication", "", func(path string, n ast.Node) { v.Authentication = d.truth(path, n) }},
		field{"accept", "", func(path string, n ast.Node) { v.Accept = d.truth(path, n) }},
	)
}

// ipv6 decodes the IPv6 side of a segment. Only an uplink has addresses beside the
// gateway, which is not the pair's there.
func (d decoder) ipv6(path string, node ast.Node, isUplink bool) *IPv6 {
	v := new(IPv6)
	gateway := giveVirtual
	if isUplink {
		gateway = giveGateway
		v.Translate = TranslateNone
	}
	fields := []field{
		{"vrid", "", func(path string, n ast.Node) { v.VRID = d.vrid(path, n) }},
		{"prefix", givePrefix6, func(path string, n ast.Node) { v.Prefix = d.prefix6(path, n, 48) }},
		{"gateway", gateway, func(path string, n ast.Node) { v.Gateway = d.address6(path, n) }},
		{"link_local", "", func(path string, n ast.Node) { v.LinkLocal = d.address6(path, n) }},
	}
	if isUplink {
		fields = append(
			fields,
			field{"addresses", "", func(path string, n ast.Node) {
				d.items(path, n, func(path string, n ast.Node) { v.Addresses = append(v.Addresses, d.address6(path, n)) })
			}},
			field{"translate", "", func(path string, n ast.Node) {
				v.Translate = d.choice(path, n, TranslateNone, TranslateNPT, TranslateNAT66)
			}},
			field{"npt_prefix", "", func(path string, n ast.Node) { v.NPTPrefix = d.prefix6(path, n, shortestNPT) }},
		)
	} else {
		const elsewhere = "is a matter of the uplinks; write it under the ipv6 of those that translate"
		fields = append(fields, field{"translate", elsewhere, nil}, field{"npt_prefix", elsewhere, nil})
	}
	d.fields(path, node, fields...)
	return v
}

func (d decoder) virtualRouters(path string, node ast.Node) []VirtualRouter {
	var routers []VirtualRouter
	d.items(path, node, func(path string, n ast.Node) {
		var v VirtualRouter
		d.fields(
			path, n,
			field{"vrid", giveVRID, func(path string, n ast.Node) { v.VRID = d.vrid(path, n) }},
			field{"addresses", giveFloating, func(path string, n ast.Node) { v.Addresses = d.addresses(path, n, d.addressOfEither) }},
		)
		routers = append(routers, v)
	})
	return routers
}
