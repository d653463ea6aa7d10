package router

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"

	"tandem/router/config"
	"tandem/vrrp"
)

// Tables and rules. The kernel consults rules in the order of preference, the
// main table at 32766.
const (
	// MainTable is the kernel's main routing table.
	MainTable = 254
	// TableBase plus the VRID is the table of a network or uplink.
	TableBase = 1000

	// PreferenceOwn is for what the node sends from its own addresses: it leaves by
	// the physical interface, with its MAC address.
	PreferenceOwn = 11000
	// PreferenceIncoming is for what came in by a virtual link.
	PreferenceIncoming = 11100
	// PreferenceNetwork is for what has the address of a network as its source,
	// above all what the node itself sends from the gateway's address.
	PreferenceNetwork = 11200
	// PreferenceUplink is for what the node sends from an uplink's virtual address.
	PreferenceUplink = 11300

	// UnreachableMetric makes the unreachable route the last resort of its table.
	UnreachableMetric = math.MaxInt32
)

// carrier is what uplinks and networks have in common.
type carrier struct {
	name    string
	vrid    uint8
	prefix  netip.Prefix
	ports   map[string]config.Port
	virtual []netip.Addr
	// out is the uplink that traffic takes; nil for an isolated network.
	out *config.Uplink
}

func (c carrier) link() string { return linkName(c.vrid) }
func (c carrier) table() int   { return TableBase + int(c.vrid) }

func linkName(vrid uint8) string { return "vmac" + strconv.Itoa(int(vrid)) }

// Derive returns the kernel state that the named node must be in. It is the same
// whether the node is MASTER or BACKUP. The order of its parts is that of the
// document, uplinks before networks.
//
// doc must be valid, as [config.Parse] returns it. The error says that the
// node is not a member, or which part of the document does not fit it.
func Derive(doc *config.Document, node string) (Intent, error) {
	if _, ok := doc.Member(node); !ok {
		return Intent{}, fmt.Errorf("derive state of node %q: group %q has no such member; start the node with the name of one", node, doc.Group)
	}
	carriers, err := carriers(doc)
	if err != nil {
		return Intent{}, fmt.Errorf("derive state of node %q: %w", node, err)
	}
	intent := Intent{Group: doc.Group}
	for _, c := range carriers {
		port, ok := c.ports[node]
		if !ok {
			return Intent{}, fmt.Errorf("derive state of node %q: it has no port on %q; add one to the document", node, c.name)
		}
		intent.Ports = append(intent.Ports, portAddress(port, c.prefix))
		intent.VirtualLinks = append(intent.VirtualLinks, VirtualLink{
			Name:      c.link(),
			Carrier:   c.name,
			Parent:    port.Interface,
			MAC:       vrrp.VirtualMAC4(c.vrid),
			Addresses: c.virtual,
		})
		intent.Routes = append(intent.Routes, routes(c, carriers)...)
	}
	if doc.HALink != nil {
		port, ok := doc.HALink.Ports[node]
		if !ok {
			return Intent{}, fmt.Errorf("derive state of node %q: it has no port on the HA link; add one to the document", node)
		}
		intent.Ports = append(intent.Ports, portAddress(port, doc.HALink.Prefix))
	}
	intent.Rules = rules(doc, intent.Ports, carriers)
	intent.NAT = translations(doc)
	for _, u := range doc.Uplinks {
		intent.Guarded = append(intent.Guarded, u.Addresses...)
	}
	return intent, nil
}

func carriers(doc *config.Document) ([]carrier, error) {
	all := make([]carrier, 0, len(doc.Uplinks)+len(doc.Networks))
	uplinks := make(map[string]*config.Uplink, len(doc.Uplinks))
	for i := range doc.Uplinks {
		u := &doc.Uplinks[i]
		uplinks[u.Name] = u
		virtual := append([]netip.Addr(nil), u.Addresses...)
		all = append(all, carrier{u.Name, u.VRID, u.Prefix, u.Ports, virtual, u})
	}
	for _, w := range doc.Networks {
		out, ok := uplinks[w.Uplink]
		if !ok && w.Uplink != "" {
			return nil, fmt.Errorf("network %q takes uplink %q, which does not exist; correct the document", w.Name, w.Uplink)
		}
		all = append(all, carrier{w.Name, w.VRID, w.Prefix, w.Ports, []netip.Addr{w.Gateway}, out})
	}
	return all, nil
}

func portAddress(port config.Port, prefix netip.Prefix) PortAddress {
	return PortAddress{Interface: port.Interface, Prefix: netip.PrefixFrom(port.Address, prefix.Bits())}
}

// routes returns the table of one carrier: every segment is reached through its
// virtual link, so that the fence holds back forwarded traffic too, and what no
// route matches must not fall through to the main table.
func routes(c carrier, all []carrier) []Route {
	table := make([]Route, 0, len(all)+2)
	for _, other := range all {
		table = append(table, Route{Table: c.table(), Destination: other.prefix, Link: other.link()})
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if c.out != nil {
		table = append(table, Route{
			Table:       c.table(),
			Destination: everywhere,
			Gateway:     c.out.Gateway,
			Link:        linkName(c.out.VRID),
		})
	}
	return append(table, Route{
		Table:       c.table(),
		Destination: everywhere,
		Unreachable: true,
		Metric:      UnreachableMetric,
	})
}

// rules returns the rules in order of preference.
func rules(doc *config.Document, ports []PortAddress, all []carrier) []Rule {
	var list []Rule
	for _, port := range ports {
		list = append(list, Rule{Preference: PreferenceOwn, From: single(port.Prefix.Addr()), Table: MainTable})
	}
	for _, c := range all {
		list = append(list, Rule{Preference: PreferenceIncoming, Incoming: c.link(), Table: c.table()})
	}
	for _, w := range doc.Networks {
		list = append(list, Rule{Preference: PreferenceNetwork, From: w.Prefix, Table: TableBase + int(w.VRID)})
	}
	for _, u := range doc.Uplinks {
		for _, address := range u.Addresses {
			list = append(list, Rule{Preference: PreferenceUplink, From: single(address), Table: TableBase + int(u.VRID)})
		}
	}
	return list
}

// translations returns the source NAT of the networks that have an uplink.
func translations(doc *config.Document) []SourceNAT {
	var list []SourceNAT
	for _, w := range doc.Networks {
		for _, u := range doc.Uplinks {
			if u.Name == w.Uplink {
				list = append(list, SourceNAT{From: w.Prefix, Link: linkName(u.VRID), To: w.NATAddress})
			}
		}
	}
	return list
}

// single is the prefix of one address.
func single(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}
