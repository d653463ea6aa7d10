package router

import "net/netip"

// Intent is the whole desired kernel state of one node.
type Intent struct {
	// Group marks every object: link aliases start with "tandem:{Group}:" and the
	// tables are named after it.
	Group string
	// Ports are the node's own addresses on physical interfaces.
	Ports []PortAddress
	// VirtualLinks are the macvlans that carry the virtual MAC addresses.
	VirtualLinks []VirtualLink
	// Rules are the policy routing rules, in order of preference.
	Rules []Rule
	// Routes are the routes of Tandem's own tables.
	Routes []Route
	// Uplinks are the ways to the outside, with the marks of their flows.
	Uplinks []Uplink
	// NAT holds source translations, explicit and never masquerade: one for each uplink that
	// a network may take, so that another choice changes nothing here.
	NAT []SourceNAT
	// Free are the networks whose flows may change to another uplink at any time.
	Free []Free
	// Direct are the flows that leave by the segment of an uplink, but not to its gateway.
	Direct []Direct
	// Forwards and StaticNAT lead the outside to inner hosts, Hairpins the hosts' own networks.
	Forwards  []Forward
	StaticNAT []StaticNAT
	Hairpins  []Hairpin
	// RateLimits bound networks, and Access judges what begins there or comes in.
	RateLimits []RateLimit
	Access     []Access
	// Helpers read control connections for the further ones that they announce.
	Helpers []Helper
	// Unreplicated are the networks whose flows stay on the node.
	Unreplicated []Unreplicated
	// Held are the links of networks whose flows begin only when the BACKUP knows them.
	Held []string
	// Guarded are virtual addresses whose unknown flows must not be answered
	// with RST or ICMP errors.
	Guarded []netip.Addr
	// Refused are virtual addresses at which nothing is accepted but ARP and neighbour
	// discovery (RFC 9568 §6.1, Accept_Mode false).
	Refused []netip.Addr
}

// PortAddress is a node's own address on a physical interface.
type PortAddress struct {
	Interface string
	Prefix    netip.Prefix
}

// VirtualLink is a macvlan (bridge mode) on a physical interface, or that interface
// itself; see OwnMAC.
type VirtualLink struct {
	// Name of the macvlan, at most 15 bytes.
	Name string
	// Carrier is the name of the [Carrier] whose addresses stand here.
	Carrier string
	// Parent is the physical interface.
	Parent string
	// MAC is the virtual MAC address, RFC 9568 §7.3.
	MAC [6]byte
	// Addresses are the virtual addresses, added as /32 or /128.
	Addresses []netip.Addr
	// VRID of the virtual router and IPv6 tell, with Parent, whose adverts travel here.
	VRID uint8
	IPv6 bool
	// OwnMAC tells that there is no macvlan: Name is Parent, and Addresses stand there.
	OwnMAC bool
	// Own are the node's own addresses on Parent, of both families.
	Own []netip.Addr
}

// Rule is a policy routing rule. Zero fields do not take part in the match.
type Rule struct {
	Preference int
	From       netip.Prefix
	// Incoming is the name of the interface the packet came in by.
	Incoming string
	// Mark is that of the packet, as far as Mask goes.
	Mark, Mask uint32
	// IPv6 tells whose packets are meant: each family has its own rules and tables.
	IPv6  bool
	Table int
}

// Route is a route in one of Tandem's tables.
type Route struct {
	Table       int
	Destination netip.Prefix
	// Gateway is zero for a directly connected prefix.
	Gateway netip.Addr
	// Link is the name of the outgoing interface; empty for an unreachable route.
	Link string
	// Unreachable makes the kernel answer with an error instead of leaking to
	// another table.
	Unreachable bool
	// Metric orders routes to the same destination.
	Metric int
}

// Uplink is a way to the outside.
type Uplink struct {
	Name string
	// Mark is that of the connections that take it; see [MarkMask].
	Mark uint32
	// Links lead to it, those of both families.
	Links []string
	// MTU is the largest packet that it takes; zero if it is not known. It is filled in by
	// who looks at the kernel.
	MTU int
}

// SourceNAT translates what a network sends through an uplink.
type SourceNAT struct {
	// From is the network's subnet.
	From netip.Prefix
	// Link is the uplink's macvlan.
	Link string
	// To is the virtual address that the outside sees.
	To netip.Addr
	// Prefix takes the place of From, and the rest of each address stays; then To is zero.
	Prefix netip.Prefix
}

// Free is a network that has the same address to the outside on every uplink.
type Free struct {
	Network netip.Prefix
	Address netip.Addr
}

// Direct are the flows of a network to a private gateway on the segment of an uplink.
type Direct struct {
	Network, Destination netip.Prefix
	// Links lead to the segment.
	Links []string
}

// Helper is a connection tracking helper of the kernel, and whose connections it reads.
type Helper struct {
	// Application is the document's word, e.g. "h323", and Name the kernel's, e.g. "RAS".
	Application, Name string
	// IPv6 tells the family of the connections.
	IPv6 bool
	// Protocol is the number of TCP or UDP, Port that of the server.
	Protocol uint8
	Port     uint16
	// Links are the links by which the connections come in.
	Links []string
}

// Unreplicated is a network whose flows stay on the node.
type Unreplicated struct {
	// Links lead to the network, those of both families.
	Links []string
	// Prefixes are its subnets.
	Prefixes []netip.Prefix
}
