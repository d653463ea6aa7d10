package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// reached is what a forward takes of an address.
type reached struct {
	address  netip.Addr
	protocol string
}

type reservation struct {
	ports PortRange
	path  string
}

// inbound checks what leads from the outside to hosts of networks.
type inbound struct {
	*report

	doc *Document
	own map[netip.Addr]string
	// whole are the addresses that a static NAT takes, forwards the ports of others.
	whole    map[netip.Addr]string
	forwards map[reached][]reservation
}

func validateInbound(doc *Document, all []segment, r *report) {
	in := inbound{r, doc, ownPlaces(all), map[netip.Addr]string{}, map[reached][]reservation{}}
	for i := range doc.Networks {
		path := fmt.Sprintf("networks[%d]", i)
		for j, s := range doc.Networks[i].StaticNAT {
			in.staticNAT(fmt.Sprintf("%s.static_nat[%d]", path, j), &doc.Networks[i], j, s)
		}
	}
	for i := range doc.Networks {
		for j, f := range doc.Networks[i].Forwards {
			in.forward(fmt.Sprintf("networks[%d].forwards[%d]", i, j), &doc.Networks[i], f)
		}
	}
}

// uplinkWith returns the uplink of the network that has an address, and what there is to choose from.
func (in inbound) uplinkWith(w *Network, address netip.Addr) (name string, known bool, choose []string) {
	known = true
	for _, name := range w.allUplinks() {
		u, ok := uplink(in.doc, name)
		known = known && ok && !slices.Contains(u.Addresses, netip.Addr{})
		if slices.Contains(u.Addresses, address) {
			return name, true, nil
		}
		for _, address := range u.Addresses {
			choose = append(choose, address.String())
		}
	}
	return "", known && len(w.allUplinks()) > 0, choose
}

func (in inbound) staticNAT(path string, w *Network, index int, s StaticNAT) {
	in.host(path+".host", w, s.Host)
	if !s.Address.IsValid() {
		return
	}
	name, known, choose := in.uplinkWith(w, s.Address)
	if name == "" {
		in.notReached(path+".address", s.Address, known, choose)
		return
	}
	if first, ok := taken(in.whole, s.Address, path); ok {
		in.add(path+".address", fmt.Sprintf("%s is already joined to a host by %s; choose another address", s.Address, first))
	}
	for j, other := range w.StaticNAT[:index] {
		if on, _, _ := in.uplinkWith(w, other.Address); on == name && other.Host == s.Host && s.Host.IsValid() {
			in.add(path+".host", fmt.Sprintf("%s has an address of uplink %q already, by static_nat[%d]; remove one of the two", s.Host, name, j))
		}
	}
}

// notReached reports an address at which the network is not reached from the outside.
func (in inbound) notReached(path string, address netip.Addr, known bool, choose []string) {
	switch {
	case in.isolated(path):
		in.add(path, "needs an uplink, by which the outside comes; add one")
	case known:
		in.add(path, fmt.Sprintf("%s is not an address of an uplink of the network; choose one of %s, or add it there", address, strings.Join(choose, ", ")))
	}
}

// isolated tells whether a network, to which a path leads, is meant to have no uplink.
func (r *report) isolated(path string) bool {
	network, _, _ := strings.Cut(path, ".")
	return !r.stands("uplinks") && !r.stands(network+".uplink") && !r.stands(network+".uplinks")
}

// host checks that an address is that of one of the network's hosts.
func (in inbound) host(path string, w *Network, host netip.Addr) {
	if !host.IsValid() || !w.Prefix.IsValid() {
		return
	}
	if message := misplaced(host, w.Prefix); message != "" {
		in.add(path, message)
		return
	}
	if own, ok := in.own[host]; ok {
		in.add(path, fmt.Sprintf("%s is the pair's own address, at %s; give that of a host", host, own))
	}
}

func (in inbound) forward(path string, w *Network, f Forward) {
	in.host(path+".to", w, f.To.Addr())
	at := path + ".port"
	var addresses []netip.Addr
	switch {
	case f.Address.IsValid():
		at = path + ".address"
		name, known, choose := in.uplinkWith(w, f.Address)
		if name == "" && f.Address != w.RoutedNATAddress {
			in.notReached(at, f.Address, known, choose)
			return
		}
		addresses = []netip.Addr{f.Address}
	case in.faulty(path + ".address"):
		return
	case w.RoutedNATAddress.IsValid():
		addresses = []netip.Addr{w.RoutedNATAddress}
	default:
		for _, name := range w.allUplinks() {
			addresses = append(addresses, w.NATAddresses[name])
		}
		if in.isolated(path) {
			in.add(path, "needs an uplink, by which the outside comes; add one")
		}
	}
	if f.Protocol == "" || f.First == 0 {
		return
	}
	for _, address := range addresses {
		if in.reserve(path, at, f, address) {
			return
		}
	}
}

// reserve reports whether a port of an address leads somewhere else already.
func (in inbound) reserve(path, at string, f Forward, address netip.Addr) bool {
	if !address.IsValid() {
		return false
	}
	if first, ok := in.whole[address]; ok {
		in.add(at, fmt.Sprintf("%s is joined to a host as a whole by %s; choose another address", address, first))
		return true
	}
	key, ports := reached{address, f.Protocol}, PortRange{f.First, f.Last}
	for _, other := range in.forwards[key] {
		if other.ports.overlaps(ports) {
			in.add(path+".port", fmt.Sprintf("%s %s of %s is already taken by %s (%s); choose other ports or another address",
				f.Protocol, ports, address, other.path, other.ports))
			return true
		}
	}
	in.forwards[key] = append(in.forwards[key], reservation{ports, path})
	return false
}
