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
)

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
	// Uplinks lead to the outside.
	Uplinks []Uplink `yaml:"uplinks"`
	// Networks are what the pair is the gateway of.
	Networks []Network `yaml:"networks"`
}

// Election holds the group's VRRP parameters.
type Election struct {
	// AdvertisementInterval is RFC 9568's Advertisement_Interval: 10ms to
	// 40.95s in whole centiseconds.
	AdvertisementInterval time.Duration `yaml:"advertisement_interval"`
	// Preempt is RFC 9568's Preempt_Mode. It defaults to false: a node that comes
	// back leaves a healthy MASTER in peace.
	Preempt bool `yaml:"preempt"`
}

// Member is one node of the group.
type Member struct {
	// Name is a DNS label, at most 32 characters, unique in the document.
	Name string `yaml:"name"`
	// Priority is the VRRP priority of the node when it is well: 100 to 254,
	// different for each member. Lower values are reserved for impaired nodes.
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
	// Uplink names the uplink that the network's traffic takes.
	Uplink string `yaml:"uplink"`
	// NATAddress is the virtual address of the uplink to which the network's
	// connections are translated; the uplink's first address by default.
	NATAddress netip.Addr `yaml:"nat_address"`
}
