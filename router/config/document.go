package config

import (
	"net/netip"
	"time"
)

// Version is the version of the document's schema that this package reads.
const Version = 1

// Defaults of optional fields. They are filled in by [Parse], so that the rest
// of the program never asks whether a field was given.
const (
	DefaultAdvertisementInterval = 100 * time.Millisecond
	DefaultPort                  = uint16(3112)
	// DefaultPriority is the priority of the first member; each further member
	// has DefaultPriorityStep less, so that no two are equal (RFC 9568 §8.3.2
	// asks for well-spread priorities).
	DefaultPriority     = uint8(200)
	DefaultPriorityStep = uint8(20)
	// DefaultAnnounceRefresh repairs what a switch or host forgot within a minute.
	DefaultAnnounceRefresh = time.Minute
)

// OwnerPriority is the priority of the address owner (RFC 9568 §5.2.4): it becomes
// MASTER as soon as it starts.
const OwnerPriority = uint8(255)

// DefaultVRRP is what a segment without the key `vrrp` does: RFC 9568 with a virtual
// MAC address, and an answer for whoever pings the gateway.
func DefaultVRRP() VRRP {
	return VRRP{Version: 3, Checksum: ChecksumRFC9568, VirtualMAC: true, Accept: true}
}

// defaultLinkLocal is the link-local address of a virtual router. The MAC address of a
// virtual router may not make an interface identifier (RFC 9568 §7.4), so 5e, which
// begins its last half, is all that reminds of it.
func defaultLinkLocal(vrid uint8) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 13: 0x5e, 15: vrid})
}

// defaultOwnLinkLocal is the link-local address of a member, counted from 0, on the
// segment of a virtual router.
func defaultOwnLinkLocal(vrid uint8, member int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 11: 0x5e, 13: vrid, 15: byte(member + 1)})
}

// Document describes one group: one or two routers that act as one.
type Document struct {
	// Version is the schema's version; see [Version].
	Version int `yaml:"version"`
	// Group names the pair: a DNS label of at most 32 characters. It marks every
	// kernel object that Tandem makes.
	Group string `yaml:"group"`
	// Election tunes VRRP.
	Election Election `yaml:"election"`
	// Members are the nodes, one or two.
	Members []Member `yaml:"members"`
	// HALink is the link between the members; required when there are two.
	HALink *HALink `yaml:"ha_link"`
	// SecondHALink is a further one; nil if there is none. Adverts and heartbeats take both,
	// the replication takes it when the first does not work.
	SecondHALink *HALink `yaml:"second_ha_link"`
	// Uplinks lead to the outside.
	Uplinks []Uplink `yaml:"uplinks"`
	// Networks are what the pair is the gateway of.
	Networks []Network `yaml:"networks"`
	// Operations say which uplinks they may use.
	Operations []Operation `yaml:"operations"`
}

// Election holds the group's VRRP parameters.
type Election struct {
	// AdvertisementInterval is RFC 9568's Advertisement_Interval: 10ms to
	// 40.95s in whole centiseconds.
	AdvertisementInterval time.Duration `yaml:"advertisement_interval"`
	// Preempt is RFC 9568's Preempt_Mode. It defaults to false: a node that comes
	// back leaves a healthy MASTER in peace.
	Preempt bool `yaml:"preempt"`
	// PreemptDelay is how long a member that would preempt waits first, once its
	// session table is complete: 0 to 1000s. Only with Preempt.
	PreemptDelay time.Duration `yaml:"preempt_delay"`
	// AnnounceRefresh is how often a MASTER repeats its gratuitous ARP and unsolicited
	// neighbour advertisements: 1s to 1h, or zero for never.
	AnnounceRefresh time.Duration `yaml:"announce_refresh"`
}

// The ways to compute the checksum of adverts over IPv4; see [VRRP].
const (
	ChecksumRFC9568      = "rfc9568"
	ChecksumPseudoHeader = "pseudo-header"
)

// What becomes of the first packets of a network's flows; see [Network.FirstPacket].
const (
	FirstPacketPass = "pass"
	FirstPacketHold = "hold"
)

// The application protocols of [Network.Helpers].
const (
	HelperFTP  = "ftp"
	HelperH323 = "h323"
	HelperIRC  = "irc"
	HelperPPTP = "pptp"
	HelperSIP  = "sip"
	HelperTFTP = "tftp"
)

// VRRP says how adverts travel on a segment.
type VRRP struct {
	// Version is 3 (RFC 9568) or 2 (RFC 3768), which knows IPv4 only and intervals of
	// whole seconds.
	Version int `yaml:"version"`
	// Checksum is [ChecksumRFC9568] or [ChecksumPseudoHeader], which some routers expect
	// over IPv4.
	Checksum string `yaml:"checksum"`
	// Unicast sends adverts to the peer's own address instead of the group.
	Unicast bool `yaml:"unicast"`
	// VirtualMAC tells that the virtual addresses have the virtual MAC address of RFC
	// 9568 §7.3; else they have the MASTER's own, and gratuitous ARP moves them.
	VirtualMAC bool `yaml:"virtual_mac"`
	// Authentication signs adverts with the members' keys and ignores those of others.
	Authentication bool `yaml:"authentication"`
	// Accept is RFC 9568's Accept_Mode: whether the MASTER itself answers at the virtual
	// addresses.
	Accept bool `yaml:"accept"`
}

// IPv6 is the IPv6 side of an uplink or network.
type IPv6 struct {
	// VRID as in [Uplink]; the segment's own by default. It decides the virtual MAC
	// address 00-00-5E-00-02-{VRID}.
	VRID uint8 `yaml:"vrid"`
	// Prefix is the segment's IPv6 subnet.
	Prefix netip.Prefix `yaml:"prefix"`
	// Gateway is a network's virtual address, or an uplink's next hop, which may be
	// link-local.
	Gateway netip.Addr `yaml:"gateway"`
	// Addresses are an uplink's global virtual addresses.
	Addresses []netip.Addr `yaml:"addresses"`
	// LinkLocal is the virtual router's link-local address, the first of every advert
	// (RFC 9568 §5.2.9).
	LinkLocal netip.Addr `yaml:"link_local"`
	// Translate is what an uplink does to the networks' IPv6: [TranslateNone] or its like.
	Translate string `yaml:"translate"`
	// NPTPrefix is the outer prefix of [TranslateNPT]. The networks with IPv6 that use the uplink have
	// prefixes of one length, and this one is no longer: the n-th of them in the document gets
	// its n-th subnet of that length.
	NPTPrefix netip.Prefix `yaml:"npt_prefix"`
}

// VirtualRouter is a further virtual router on a segment, with a virtual MAC address of
// its own.
type VirtualRouter struct {
	// VRID as in [Uplink].
	VRID uint8 `yaml:"vrid"`
	// Addresses are its virtual addresses, of either family.
	Addresses []netip.Addr `yaml:"addresses"`
}

// LinkLocal returns the link-local address that is the first of its IPv6 adverts.
func (v VirtualRouter) LinkLocal() netip.Addr { return defaultLinkLocal(v.VRID) }

// Member is one node of the group.
type Member struct {
	// Name is a DNS label, at most 32 characters, unique in the document.
	Name string `yaml:"name"`
	// Priority is the VRRP priority of the node when it is well: 100 to 254, or
	// [OwnerPriority], different for each member. Lower values are reserved for
	// impaired nodes.
	Priority uint8 `yaml:"priority"`
	// PublicKey pins the node's identity: the line that `tandem keygen` prints.
	// Required when there are two members.
	PublicKey string `yaml:"public_key"`
}

// HALink is the link over which the members talk to each other.
type HALink struct {
	// VRID is the virtual router identifier of the adverts on this link.
	VRID uint8 `yaml:"vrid"`
	// Prefix holds the addresses of all members.
	Prefix netip.Prefix `yaml:"prefix"`
	// Port is the TCP port of the replication stream and the UDP port of the
	// heartbeats.
	Port uint16 `yaml:"port"`
	// Ports maps each member's name to its end of the link.
	Ports map[string]Port `yaml:"ports"`
}

// Port is a member's own interface and address on a link.
type Port struct {
	// Interface is the name of the interface, e.g. "eth1".
	Interface string `yaml:"interface"`
	// Address is the node's own address on it, never a virtual one.
	Address netip.Addr `yaml:"address"`
	// IPv6 is the node's own global IPv6 address on it, if it has one.
	IPv6 netip.Addr `yaml:"ipv6"`
	// LinkLocal is the node's own link-local address there, from which it sends its
	// IPv6 adverts.
	LinkLocal netip.Addr `yaml:"link_local"`
}

// Uplink leads to the outside through a segment that both members stand on.
type Uplink struct {
	// Name is a DNS label, unique among uplinks and networks.
	Name string `yaml:"name"`
	// VRID is the virtual router identifier, 1 to 255, unique in the document.
	// It decides the virtual MAC address 00-00-5E-00-01-{VRID}.
	VRID uint8 `yaml:"vrid"`
	// Prefix is the segment's subnet.
	Prefix netip.Prefix `yaml:"prefix"`
	// Gateway is the next hop to the outside.
	Gateway netip.Addr `yaml:"gateway"`
	// Addresses are the virtual (floating) addresses on this uplink, at least one;
	// networks are translated to them.
	Addresses []netip.Addr `yaml:"addresses"`
	// Ports maps each member's name to its port on the segment.
	Ports map[string]Port `yaml:"ports"`
	// VRRP says how adverts travel on the segment.
	VRRP VRRP `yaml:"vrrp"`
	// IPv6 is the segment's IPv6 side, nil if it has none.
	IPv6 *IPv6 `yaml:"ipv6"`
	// VirtualRouters are further virtual routers on the segment.
	VirtualRouters []VirtualRouter `yaml:"virtual_routers"`
	// Cost orders the uplinks: the cheapest one that works is used. 0 is free.
	Cost uint8 `yaml:"cost"`
	// Labels are names by which networks may refer to several uplinks.
	Labels []string `yaml:"labels"`
	// Metered tells that its traffic is paid for by volume.
	Metered bool `yaml:"metered"`
	// DNS are the name servers that are asked through it.
	DNS []netip.Addr `yaml:"dns"`
}

// Network is a subnet whose gateway is the pair.
type Network struct {
	// Name is a DNS label, unique among uplinks and networks.
	Name string `yaml:"name"`
	// VRID as in [Uplink].
	VRID uint8 `yaml:"vrid"`
	// Prefix is the network's subnet.
	Prefix netip.Prefix `yaml:"prefix"`
	// Gateway is the virtual address that the network's hosts use.
	Gateway netip.Addr `yaml:"gateway"`
	// Ports maps each member's name to its port on the network.
	Ports map[string]Port `yaml:"ports"`
	// Uplink names the only uplink that the network's traffic takes. Parse moves it to
	// Uplinks, and NATAddress to NATAddresses.
	Uplink string `yaml:"uplink"`
	// NATAddress is the virtual address of the uplink to which the network's
	// connections are translated; the uplink's first address by default.
	NATAddress netip.Addr `yaml:"nat_address"`
	// Uplinks are the names of the uplinks that the network may take as long as they are no dearer than
	// MaxCost, each once and in the order of the document. The document may name labels.
	Uplinks []string `yaml:"uplinks"`
	// NATAddresses are the addresses to which its connections are translated, by the name of
	// the uplink: one for each of Uplinks and of its routes', the uplink's first address by default.
	// Empty with RoutedNATAddress.
	NATAddresses map[string]netip.Addr `yaml:"nat_addresses"`
	// RoutedNATAddress replaces them all: an address that the outside routes to the pair on every
	// uplink, so that flows go on whichever uplink they take. Invalid if there is none.
	RoutedNATAddress netip.Addr `yaml:"routed_nat_address"`
	// MaxCost is the cost of the dearest uplink that the network may take.
	MaxCost uint8 `yaml:"max_cost"`
	// Probe says what must be reached through an uplink.
	Probe Probe `yaml:"probe"`
	// Failback is [FailbackDrain] or [FailbackKeep].
	Failback string `yaml:"failback"`
	// DrainTime is how long flows may stay on an uplink that the network has left: 0s to 24h.
	DrainTime time.Duration `yaml:"drain_time"`
	// Routes are further routes of the network.
	Routes []Route `yaml:"routes"`
	// Forwards and StaticNAT let the outside in.
	Forwards  []Forward   `yaml:"forwards"`
	StaticNAT []StaticNAT `yaml:"static_nat"`
	// Access is the network's ACL.
	Access Access `yaml:"access"`
	// RateLimit bounds what the network sends to the outside, and what it gets from there, each;
	// zero for no bound.
	RateLimit BitRate `yaml:"rate_limit"`
	// Replicate tells whether the BACKUP gets to know the network's sessions. Else they
	// stay on the node.
	Replicate bool `yaml:"replicate"`
	// FirstPacket is [FirstPacketPass] or [FirstPacketHold]: then the first packets of a
	// flow leave the router only when the BACKUP knows the flow.
	FirstPacket string `yaml:"first_packet"`
	// Helpers are the application protocols, each once, whose control connections from
	// the network's hosts are read for the further connections that they announce; one
	// of [HelperFTP] and its like.
	Helpers []string `yaml:"helpers"`
	// VRRP says how adverts travel on the segment.
	VRRP VRRP `yaml:"vrrp"`
	// IPv6 is the segment's IPv6 side, nil if it has none.
	IPv6 *IPv6 `yaml:"ipv6"`
	// VirtualRouters are further virtual routers on the segment.
	VirtualRouters []VirtualRouter `yaml:"virtual_routers"`
}
