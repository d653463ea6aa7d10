package config

import (
	"net/netip"
	"time"
)

// Defaults of the selection of uplinks. They make a port whose gateway is dead lose within
// 1.5 seconds and one that is dead further out within four.
const (
	// DefaultMaxCost lets a network use every uplink.
	DefaultMaxCost = uint8(255)
	// DefaultProbeInterval and DefaultProbeTimeout are of the probes of a network's targets. A
	// shorter interval makes the timeout as short.
	DefaultProbeInterval = time.Second
	DefaultProbeTimeout  = time.Second
	// DefaultProbeNeed is how many targets must answer.
	DefaultProbeNeed = 1
	// DefaultRise is how many successes in a row make a target reachable again.
	DefaultRise = 3
	// DefaultFall is how many failures in a row make it unreachable. After the first one
	// the next attempts follow faster; see package uplink.
	DefaultFall = 6
	// DefaultLossLimit is the share of lost probes, in percent, above which an uplink is
	// degraded: another one that works is better.
	DefaultLossLimit = 12
	// DefaultDrainTime is how long flows may stay on an uplink that still works when
	// their network has moved to another.
	DefaultDrainTime = 10 * time.Minute
)

// What a network does when an uplink of lower cost works again; see [Network.Failback].
const (
	// FailbackDrain moves new flows and leaves the old ones where they are.
	FailbackDrain = "drain"
	// FailbackKeep stays until the uplink in use fails.
	FailbackKeep = "keep"
)

// DefaultProbe is how a network without the key `probe` finds out: by the gateways alone.
func DefaultProbe() Probe {
	return Probe{
		Need: DefaultProbeNeed, Interval: DefaultProbeInterval, Timeout: DefaultProbeTimeout,
		Rise: DefaultRise, Fall: DefaultFall, LossLimit: DefaultLossLimit,
	}
}

// The kinds of probes; see [Target].
const (
	ProbeICMP = "icmp"
	ProbeTCP  = "tcp"
	ProbeDNS  = "dns"
	ProbeHTTP = "http"
)

// Probe says how a network finds out which uplinks lead to where its traffic goes.
// Link, address and gateway of an uplink are looked at in any case.
type Probe struct {
	// Targets are what must answer; none if the gateway is all that is known.
	Targets []Target `yaml:"targets"`
	// Need is how many of the targets must answer: 1 to their number; 1 also if there are none.
	Need int `yaml:"need"`
	// Interval is the time between two probes of a target: 100ms to 1h.
	Interval time.Duration `yaml:"interval"`
	// Timeout is how long an answer may take: 50ms to 1m, and no longer than Interval.
	Timeout time.Duration `yaml:"timeout"`
	// Rise and Fall are how many successes, or failures, in a row change the verdict: 1 to 100.
	Rise int `yaml:"rise"`
	Fall int `yaml:"fall"`
	// LossLimit is a percentage of lost probes, 1 to 100; see [DefaultLossLimit].
	LossLimit int `yaml:"loss_limit"`
}

// Target is one thing that a probe asks. Equal targets of several networks are asked once.
type Target struct {
	// Kind is one of [ProbeICMP] and its like.
	Kind string
	// Host is an address or a name for icmp and tcp, the name to resolve for dns (asked of the
	// uplink's own servers), and the URL for http. Names are in lower case and without a final dot.
	Host string
	// Port is that of tcp.
	Port uint16
	// Status is the expected status code of http; zero takes 200 to 399.
	Status int
	// Body is a text that the answer to http must contain; empty for any.
	Body string
}

// Route is a route of a network beside its default route.
type Route struct {
	// Destination is the subnet that is reached by it.
	Destination netip.Prefix `yaml:"destination"`
	// Via is a next hop on the segment of an uplink or network: a private gateway. The route
	// then takes no uplink of its own choice.
	Via netip.Addr `yaml:"via"`
	// Uplinks are names or labels, as in [Network.Uplinks]; only without Via.
	Uplinks []string `yaml:"uplinks"`
	// Probe is of this route; the network's if it is nil. Only with Uplinks.
	Probe *Probe `yaml:"probe"`
}

// Forward is a port that the outside reaches an inner host by.
type Forward struct {
	// Protocol is "tcp" or "udp".
	Protocol string `yaml:"protocol"`
	// First and Last are the ports outside, written "8443" or "8000-8010".
	First, Last uint16
	// To is the host inside, IPv4, and the first of its ports.
	To netip.AddrPort `yaml:"to"`
	// Address is the virtual address that is reached, IPv4; invalid for every address to which the
	// network is translated, on every uplink of it.
	Address netip.Addr `yaml:"address"`
	// From are the subnets that may; anybody if there are none.
	From []netip.Prefix `yaml:"from"`
}

// StaticNAT joins a virtual IPv4 address of an uplink to one inner host, in both directions.
type StaticNAT struct {
	Address netip.Addr `yaml:"address"`
	Host    netip.Addr `yaml:"host"`
}

// What a rule or a default policy does.
const (
	Allow = "allow"
	Deny  = "deny"
)

// Access is a network ACL: ordered rules, the first match counts, and the default.
type Access struct {
	// Ingress judges new flows to the network's hosts from other networks, and from the
	// outside as far as a forward or a static NAT leads there. Egress judges those that its hosts begin.
	Ingress AccessList `yaml:"ingress"`
	Egress  AccessList `yaml:"egress"`
}

// AccessList is one direction of an [Access].
type AccessList struct {
	// Default is [Allow] or [Deny].
	Default string       `yaml:"default"`
	Rules   []AccessRule `yaml:"rules"`
}

// AccessRule matches new flows. Zero fields match everything.
type AccessRule struct {
	// Action is [Allow] or [Deny].
	Action string `yaml:"action"`
	// Protocol is "tcp", "udp", "icmp" (of either family), "sctp", "gre" or another number from 1 to 255
	// in decimal digits.
	Protocol string `yaml:"protocol"`
	// Ports are destination ports or ranges, for tcp, udp and sctp. No two overlap.
	Ports []PortRange `yaml:"ports"`
	// Source and Destination are subnets, of one family in each rule. No two of a list overlap.
	Source      []netip.Prefix `yaml:"source"`
	Destination []netip.Prefix `yaml:"destination"`
}

// PortRange is written "443" or "8000-8010".
type PortRange struct{ First, Last uint16 }

// Operation is something that the machine or its operator does and that may use some uplinks only.
type Operation struct {
	// Name, e.g. "image-download", "updates" or "telemetry".
	Name string `yaml:"name"`
	// MaxCost is the dearest uplink that it may use; Metered whether it may use metered ones.
	MaxCost uint8 `yaml:"max_cost"`
	Metered bool  `yaml:"metered"`
	// Uplinks are names, as in [Network.Uplinks]; any if there are none.
	Uplinks []string `yaml:"uplinks"`
}

// BitRate is in bits per second, written "64kbit", "100Mbit" or "1Gbit".
type BitRate uint64

// How an uplink treats the IPv6 of networks; see [IPv6.Translate].
const (
	// TranslateNone routes it.
	TranslateNone = "none"
	// TranslateNPT replaces the network's prefix by one of NPTPrefix (RFC 6296).
	TranslateNPT = "npt"
	// TranslateNAT66 translates to the uplink's first IPv6 address.
	TranslateNAT66 = "nat66"
)
