package config

import (
	"slices"

	"github.com/goccy/go-yaml/ast"
)

func (d decoder) network(path string, node ast.Node) Network {
	w := Network{
		VRRP: DefaultVRRP(), Replicate: true, FirstPacket: FirstPacketPass,
		MaxCost: DefaultMaxCost, Probe: DefaultProbe(), Failback: FailbackDrain, DrainTime: DefaultDrainTime,
		Access: Access{Ingress: AccessList{Default: Allow}, Egress: AccessList{Default: Allow}},
	}
	d.fields(path, node, slices.Concat(d.segmentOfNetwork(&w), d.outsideOfNetwork(&w), d.policyOfNetwork(&w))...)
	return w
}

// segmentOfNetwork are the keys of what a network is to its hosts.
func (d decoder) segmentOfNetwork(w *Network) []field {
	return []field{
		{"name", giveName, func(path string, n ast.Node) { w.Name = d.name(path, n) }},
		{"vrid", giveVRID, func(path string, n ast.Node) { w.VRID = d.vrid(path, n) }},
		{"prefix", givePrefix, func(path string, n ast.Node) { w.Prefix = d.prefix(path, n, 30) }},
		{"gateway", giveVirtual, func(path string, n ast.Node) { w.Gateway = d.address(path, n) }},
		{"ports", givePorts, func(path string, n ast.Node) { w.Ports = d.ports(path, n, true) }},
		{"replicate", "", func(path string, n ast.Node) { w.Replicate = d.truth(path, n) }},
		{"first_packet", "", func(path string, n ast.Node) {
			w.FirstPacket = d.choice(path, n, FirstPacketPass, FirstPacketHold)
		}},
		{"helpers", "", func(path string, n ast.Node) { w.Helpers = d.helpers(path, n) }},
		{"vrrp", "", func(path string, n ast.Node) { d.vrrp(path, n, &w.VRRP) }},
		{"ipv6", "", func(path string, n ast.Node) { w.IPv6 = d.ipv6(path, n, false) }},
		{"virtual_routers", "", func(path string, n ast.Node) { w.VirtualRouters = d.virtualRouters(path, n) }},
	}
}

// outsideOfNetwork are the keys of its ways to the outside.
func (d decoder) outsideOfNetwork(w *Network) []field {
	return []field{
		{"uplink", "", func(path string, n ast.Node) { w.Uplink = d.name(path, n) }},
		{"uplinks", "", func(path string, n ast.Node) { w.Uplinks = d.uplinkNames(path, n) }},
		{"nat_address", "", func(path string, n ast.Node) { w.NATAddress = d.address(path, n) }},
		{"nat_addresses", "", func(path string, n ast.Node) { w.NATAddresses = d.natAddresses(path, n) }},
		{"routed_nat_address", "", func(path string, n ast.Node) { w.RoutedNATAddress = d.address(path, n) }},
		{"max_cost", "", func(path string, n ast.Node) { w.MaxCost = d.cost(path, n) }},
		{"probe", "", func(path string, n ast.Node) { w.Probe = d.probe(path, n) }},
		{"failback", "", func(path string, n ast.Node) { w.Failback = d.choice(path, n, FailbackDrain, FailbackKeep) }},
		{"drain_time", "", func(path string, n ast.Node) { w.DrainTime = d.durationBetween(path, n, 0, maxDrainTime, "10m") }},
		{"routes", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { w.Routes = append(w.Routes, d.route(path, n)) })
		}},
	}
}

// policyOfNetwork are the keys of what may pass.
func (d decoder) policyOfNetwork(w *Network) []field {
	return []field{
		{"forwards", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { w.Forwards = append(w.Forwards, d.forward(path, n)) })
		}},
		{"static_nat", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { w.StaticNAT = append(w.StaticNAT, d.staticNAT(path, n)) })
		}},
		{"access", "", func(path string, n ast.Node) { d.access(path, n, &w.Access) }},
		{"rate_limit", "", func(path string, n ast.Node) { w.RateLimit = d.bitRate(path, n) }},
	}
}
