package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Defaults of the fields of ClientConfig that are zero.
const (
	// DefaultTCPInterval is the time between two messages of a TCP session.
	DefaultTCPInterval = 100 * time.Millisecond
	// DefaultUDPInterval is the time between two datagrams of a UDP flow.
	DefaultUDPInterval = 20 * time.Millisecond
	// DefaultPatience is how long a flow may be silent before it is lost.
	DefaultPatience = 15 * time.Second
	// DefaultBulkRate caps a download, in bits per second, so that the machine has
	// time left for the routers.
	DefaultBulkRate = 200_000_000

	// maxFlows bounds what one client opens, per protocol.
	maxFlows = 20_000
	// minInterval is what the client's pacing can keep even.
	minInterval = 2 * time.Millisecond
)

// ServerConfig says where a server listens.
type ServerConfig struct {
	// Address to listen on; the unspecified address listens on all.
	Address netip.Addr `json:"address"`
	// TCPPort and UDPPort echo, BulkPort sends a download. 0 lets the kernel choose;
	// see Listening.
	TCPPort  uint16 `json:"tcp_port"`
	UDPPort  uint16 `json:"udp_port"`
	BulkPort uint16 `json:"bulk_port"`
	// NewPort takes connections that end at once; 0 is none.
	NewPort uint16 `json:"new_port,omitempty"`
	// Protocols are those of IP whose datagrams are echoed as well, which needs
	// CAP_NET_RAW.
	Protocols []uint8 `json:"protocols,omitempty"`
	// BulkRate caps each download in bits per second, whatever the client asks for;
	// 0 is no cap.
	BulkRate uint64 `json:"bulk_rate"`
}

// ClientConfig says what a client sends, and to whom.
type ClientConfig struct {
	// Server and its ports.
	Server   netip.Addr `json:"server"`
	TCPPort  uint16     `json:"tcp_port"`
	UDPPort  uint16     `json:"udp_port"`
	BulkPort uint16     `json:"bulk_port"`
	// NewPort is where the server takes connections that end at once.
	NewPort uint16 `json:"new_port,omitempty"`
	// TCPSessions and UDPFlows are how many of each to keep.
	TCPSessions int `json:"tcp_sessions"`
	UDPFlows    int `json:"udp_flows"`
	// Downlinks are flows on which only the server sends, after the first datagram;
	// Pings are echo requests and replies of ICMP, Associations those of SCTP, both with
	// raw sockets, which need CAP_NET_RAW.
	Downlinks    int `json:"downlinks,omitempty"`
	Pings        int `json:"pings,omitempty"`
	Associations int `json:"associations,omitempty"`
	// Protocols are those of IP with a flow each, which also needs CAP_NET_RAW. They
	// must have no ports.
	Protocols []uint8 `json:"protocols,omitempty"`
	// NewPerSecond is the rate of further TCP connections, each from a port of its own. One
	// counts when its handshake is over, and is reset at once: a router sees four packets
	// and five events of connection tracking.
	NewPerSecond int `json:"new_per_second,omitempty"`
	// Sources are the client's addresses, which the flows of each kind take in turn;
	// without any, the kernel chooses.
	Sources []netip.Addr `json:"sources,omitempty"`
	// SourcePort is the first source port; 0 lets the kernel choose. Flows from
	// different addresses have the same ports and identifiers, in the order of the flows.
	SourcePort uint16 `json:"source_port,omitempty"`
	// Quiet flows say nothing after they have been heard once, until Wake makes each
	// say one thing more.
	Quiet bool `json:"quiet,omitempty"`
	// TCPInterval is the time between two messages of a TCP session, UDPInterval that
	// between two datagrams of any other flow; 0 is the default.
	TCPInterval time.Duration `json:"tcp_interval_ns"`
	UDPInterval time.Duration `json:"udp_interval_ns"`
	// Download asks for one download that never ends, BulkRate its speed in bits per
	// second; 0 is the default.
	Download bool   `json:"download"`
	BulkRate uint64 `json:"bulk_rate"`
	// Patience is how long a flow may be silent before it is lost; 0 is the default.
	Patience time.Duration `json:"patience_ns"`
}

// withDefaults fills the fields that are zero.
func (c ClientConfig) withDefaults() ClientConfig {
	if c.TCPInterval == 0 {
		c.TCPInterval = DefaultTCPInterval
	}
	if c.UDPInterval == 0 {
		c.UDPInterval = DefaultUDPInterval
	}
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.BulkRate == 0 {
		c.BulkRate = DefaultBulkRate
	}
	return c
}

// validate reports all that is wrong with a configuration after withDefaults.
func (c ClientConfig) validate() error {
	var faults []error
	if !c.Server.IsValid() {
		faults = append(faults, errors.New("server: missing"))
	}
	flows := len(c.Protocols) + c.NewPerSecond
	for _, n := range []struct {
		key   string
		count int
	}{
		{"tcp_sessions", c.TCPSessions},
		{"udp_flows", c.UDPFlows},
		{"downlinks", c.Downlinks},
		{"pings", c.Pings},
		{"associations", c.Associations},
		{"new_per_second", c.NewPerSecond},
	} {
		if n.count < 0 || n.count > maxFlows {
			faults = append(faults, fmt.Errorf("%s: %d is not between 0 and %d", n.key, n.count, maxFlows))
		}
		flows += n.count
	}
	if flows == 0 && !c.Download {
		faults = append(faults, errors.New("tcp_sessions, udp_flows and download: nothing to send"))
	}
	for _, a := range c.Sources {
		if a.Is6() != c.Server.Is6() {
			faults = append(faults, fmt.Errorf("sources: %s is not of the server's family", a))
		}
	}
	for _, i := range []time.Duration{c.TCPInterval, c.UDPInterval} {
		if i < minInterval {
			faults = append(faults, fmt.Errorf("interval: %v is shorter than %v", i, minInterval))
		}
	}
	if c.Patience < max(c.TCPInterval, c.UDPInterval) {
		faults = append(faults, fmt.Errorf("patience: %v is shorter than an interval", c.Patience))
	}
	return errors.Join(faults...)
}
