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
	givePorts    = "give each member's interface and address"
	giveGateway  = "give the address of the next hop to the outside"
	giveVirtual  = "give the virtual address that the hosts use as their gateway"
	giveFloating = "give at least one virtual address"
	giveMembers  = "list the one or two nodes of the group"
	giveOwn      = "give the node's own address"
	giveLink     = "give the name of the node's interface, e.g. eth1"
)

func (d decoder) document(node ast.Node) *Document {
	doc := &Document{Election: Election{AdvertisementInterval: DefaultAdvertisementInterval}}
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
		field{"uplinks", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Uplinks = append(doc.Uplinks, d.uplink(path, n)) })
		}},
		field{"networks", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { doc.Networks = append(doc.Networks, d.network(path, n)) })
		}},
	)
	return doc
}

func (d decoder) election(path string, node ast.Node, e *Election) {
	d.fields(
		path, node,
		field{"advertisement_interval", "", func(path string, n ast.Node) { e.AdvertisementInterval = d.interval(path, n) }},
		field{"preempt", "", func(path string, n ast.Node) { e.Preempt = d.truth(path, n) }},
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
		field{"ports", givePorts, func(path string, n ast.Node) { l.Ports = d.ports(path, n) }},
	)
	return l
}

func (d decoder) uplink(path string, node ast.Node) Uplink {
	var u Uplink
	d.fields(
		path, node,
		field{"name", giveName, func(path string, n ast.Node) { u.Name = d.name(path, n) }},
		field{"vrid", giveVRID, func(path string, n ast.Node) { u.VRID = d.vrid(path, n) }},
		field{"prefix", givePrefix, func(path string, n ast.Node) { u.Prefix = d.prefix(path, n, 30) }},
		field{"gateway", giveGateway, func(path string, n ast.Node) { u.Gateway = d.address(path, n) }},
		field{"addresses", giveFloating, func(path string, n ast.Node) { u.Addresses = d.addresses(path, n) }},
		field{"ports", givePorts, func(path string, n ast.Node) { u.Ports = d.ports(path, n) }},
	)
	return u
}

func (d decoder) network(path string, node ast.Node) Network {
	var w Network
	d.fields(
		path, node,
		field{"name", giveName, func(path string, n ast.Node) { w.Name = d.name(path, n) }},
		field{"vrid", giveVRID, func(path string, n ast.Node) { w.VRID = d.vrid(path, n) }},
		field{"prefix", givePrefix, func(path string, n ast.Node) { w.Prefix = d.prefix(path, n, 30) }},
		field{"gateway", giveVirtual, func(path string, n ast.Node) { w.Gateway = d.address(path, n) }},
		field{"ports", givePorts, func(path string, n ast.Node) { w.Ports = d.ports(path, n) }},
		field{"uplink", "", func(path string, n ast.Node) { w.Uplink = d.name(path, n) }},
		field{"nat_address", "", func(path string, n ast.Node) { w.NATAddress = d.address(path, n) }},
	)
	return w
}

// addresses keeps the place of an item that is wrong, so that the others keep
// their index.
func (d decoder) addresses(path string, node ast.Node) []netip.Addr {
	var addresses []netip.Addr
	before := len(d.faults)
	d.items(path, node, func(path string, n ast.Node) {
		addresses = append(addresses, d.address(path, n))
	})
	if len(addresses) == 0 && len(d.faults) == before {
		d.add(path, "is empty; "+giveFloating)
	}
	return addresses
}

func (d decoder) ports(path string, node ast.Node) map[string]Port {
	ports := map[string]Port{}
	for _, e := range d.entries(path, node) {
		var p Port
		if e.value != nil {
			d.fields(
				e.path, e.value,
				field{"interface", giveLink, func(path string, n ast.Node) { p.Interface = d.interfaceName(path, n) }},
				field{"address", giveOwn, func(path string, n ast.Node) { p.Address = d.address(path, n) }},
			)
		}
		ports[e.key] = p
	}
	return ports
}
