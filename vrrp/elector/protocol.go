package elector

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"tandem/vrrp"
)

// Command is one message from the node to the elector. At least one field is set;
// they are obeyed in the order of the fields.
type Command struct {
	Configure *Configuration `json:"configure,omitempty"`
	Fitness   *Fitness       `json:"fitness,omitempty"`
	// Handover offers the role to the peer.
	Handover bool `json:"handover,omitempty"`
	// Stop ends the elector in order: priority 0, then exit.
	Stop bool `json:"stop,omitempty"`
}

// Fitness is what the node knows about its own health.
type Fitness struct {
	vrrp.Fitness
	// Down names the carriers whose links are down.
	Down []string `json:"down,omitempty"`
}

// Configuration is all that the elector needs to know of the document.
type Configuration struct {
	Interval time.Duration `json:"interval"`
	// Beat is zero where the lease hangs on the adverts alone.
	Beat     time.Duration `json:"beat"`
	Lease    time.Duration `json:"lease"`
	Priority uint8         `json:"priority"`
	Rank     uint8         `json:"rank"`
	Preempt  bool          `json:"preempt"`
	Carriers []Carrier     `json:"carriers"`
	// Heartbeat is nil for a single router.
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
}

// Carrier is one link that carries adverts.
type Carrier struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	// VirtualLink is the macvlan that adverts leave by; empty on the HA link.
	VirtualLink string     `json:"virtual_link,omitempty"`
	VRID        uint8      `json:"vrid"`
	Source      netip.Addr `json:"source"`
	// Peer is the other member's address on the link; zero for a single router.
	Peer      netip.Addr   `json:"peer"`
	Addresses []netip.Addr `json:"addresses"`
}

// Heartbeat tells how to reach the peer's elector.
type Heartbeat struct {
	Interface string         `json:"interface"`
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`
	// Key authenticates the heartbeats. It travels only over the local socket.
	Key []byte `json:"key"`
}

// Report is one message from the elector to the node: on every transition, on
// every connection and every [reportInterval].
type Report struct {
	PID      int        `json:"pid"`
	State    vrrp.State `json:"state"`
	Since    time.Time  `json:"since"`
	Reason   string     `json:"reason"`
	Priority uint8      `json:"priority"`
	Term     uint64     `json:"term"`
	// Transitions counts since the elector started.
	Transitions uint64 `json:"transitions"`
	HandingOver bool   `json:"handing_over"`
	// HandoverError says why the last offered handover was refused; it is set in
	// the one report that answers the command.
	HandoverError string `json:"handover_error,omitempty"`
	// LeaseUntil is until when the newest advert keeps the fence open.
	LeaseUntil time.Time       `json:"lease_until"`
	Peer       PeerReport      `json:"peer"`
	Carriers   []CarrierReport `json:"carriers"`
	Heartbeats HeartbeatReport `json:"heartbeats"`
	Scheduling Scheduling      `json:"scheduling"`
	// Breaths counts the pauses that the elector was forced to make; see maxAwake.
	Breaths uint64 `json:"breaths"`
	// Error says why the newest configuration was refused; empty if it was not.
	Error string `json:"error,omitempty"`
}

// PeerReport is what the elector knows of the peer.
type PeerReport struct {
	Alive    bool       `json:"alive"`
	State    vrrp.State `json:"state"`
	Priority uint8      `json:"priority"`
	Ready    bool       `json:"ready"`
	HeardAt  time.Time  `json:"heard_at"`
}

// CarrierReport counts what happened on one carrier.
type CarrierReport struct {
	Name     string            `json:"name"`
	Open     bool              `json:"open"`
	Sent     uint64            `json:"sent"`
	Received uint64            `json:"received"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
	HeardAt  time.Time         `json:"heard_at"`
	// Mismatch describes the newest advert that did not match the configuration;
	// such an advert counts all the same.
	Mismatch string `json:"mismatch,omitempty"`
	Error    string `json:"error,omitempty"`
}

// HeartbeatReport counts heartbeats.
type HeartbeatReport struct {
	Sent     uint64            `json:"sent"`
	Received uint64            `json:"received"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
	Error    string            `json:"error,omitempty"`
}

// group translates the configuration for the state machine.
func (c Configuration) group() vrrp.GroupConfig {
	carriers := make([]vrrp.Carrier, len(c.Carriers))
	for i, carrier := range c.Carriers {
		carriers[i] = vrrp.Carrier{
			Name: carrier.Name, VRID: carrier.VRID, Source: carrier.Source, Addresses: carrier.Addresses,
			Peer: carrier.Peer, Private: carrier.VirtualLink == "",
		}
	}
	return vrrp.GroupConfig{
		Interval: c.Interval, Beat: c.Beat, Lease: c.Lease, Priority: c.Priority, Rank: c.Rank,
		Preempt: c.Preempt, HasPeer: c.Heartbeat != nil, Carriers: carriers,
	}
}

// validate checks what the state machine does not.
func (c Configuration) validate() error {
	var errs []error
	for _, carrier := range c.Carriers {
		if carrier.Interface == "" || !carrier.Source.Is4() {
			errs = append(errs, fmt.Errorf("carrier %q needs an interface and an IPv4 source", carrier.Name))
		}
	}
	if h := c.Heartbeat; h != nil && (!h.Local.IsValid() || !h.Remote.IsValid() || len(h.Key) < 32) {
		errs = append(errs, errors.New("heartbeats need two addresses and a key of 32 bytes"))
	}
	return errors.Join(errs...)
}
