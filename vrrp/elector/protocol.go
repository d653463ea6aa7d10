package elector

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tandem/vrrp"
)

// Command is one message from the node to the elector. At least one field is set;
// they are obeyed in the order of the fields.
type Command struct {
	Configure *Configuration `json:"configure,omitempty"`
	Fitness   *Fitness       `json:"fitness,omitempty"`
	// Alive tells nothing but that the node is alive; it does so at least every
	// [AliveInterval].
	Alive bool `json:"alive,omitempty"`
	// Handover offers the role to the peer.
	Handover bool `json:"handover,omitempty"`
	// Stop ends the elector in order: priority 0, then exit.
	Stop bool `json:"stop,omitempty"`
}

// AliveInterval is how often a node says that it is alive.
const AliveInterval = time.Second

// minKey is the length in bytes of the shortest key that is taken.
const minKey = 32

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
	// PreemptDelay is how long a BACKUP that is ready waits before it preempts.
	PreemptDelay time.Duration `json:"preempt_delay,omitempty"`
	// AnnounceRefresh is how often a MASTER announces all addresses again; zero is never.
	AnnounceRefresh time.Duration `json:"announce_refresh,omitempty"`
	// Digest identifies the document; the heartbeats carry it.
	Digest   [vrrp.DigestSize]byte `json:"digest"`
	Carriers []Carrier             `json:"carriers"`
	// AdvertKey authenticates the adverts of carriers that want it. It travels only
	// over the local socket.
	AdvertKey []byte `json:"advert_key,omitempty"`
	// Record is the file to which the inputs of the election are written; empty for
	// none.
	Record string `json:"record,omitempty"`
	// Heartbeat is nil for a single router.
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
}

// Carrier is one link that carries adverts.
type Carrier struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	// VirtualLink is the macvlan that adverts leave by, Interface itself where the
	// virtual addresses have the node's own MAC address; empty on an HA link.
	VirtualLink string `json:"virtual_link,omitempty"`
	VRID        uint8  `json:"vrid"`
	// Source is the node's own address there; its family is that of the carrier.
	Source netip.Addr `json:"source"`
	// Peer is the other member's address on the link; zero for a single router.
	Peer      netip.Addr   `json:"peer"`
	Addresses []netip.Addr `json:"addresses"`
	// Version is the protocol's; zero is version 3.
	Version uint8 `json:"version,omitempty"`
	// Checksum is how adverts are summed up that are sent; both ways are accepted.
	Checksum vrrp.Checksum `json:"checksum,omitempty"`
	// Unicast sends adverts to Peer instead of the group, and hears nobody else.
	Unicast bool `json:"unicast,omitempty"`
	// Authenticate signs adverts and ignores those without a signature.
	Authenticate bool `json:"authenticate,omitempty"`
}

func (c Carrier) version() uint8 {
	if c.Version == 0 {
		return vrrp.Version3
	}
	return c.Version
}

// ownMAC tells that no macvlan carries the virtual addresses.
func (c Carrier) ownMAC() bool { return c.VirtualLink == c.Interface }

// Heartbeat tells how to reach the peer's elector.
type Heartbeat struct {
	// The first HA link.
	HeartbeatLink
	// Second is another; nil if there is none.
	Second *HeartbeatLink `json:"second,omitempty"`
	// Key authenticates the heartbeats. It travels only over the local socket.
	Key []byte `json:"key"`
}

// HeartbeatLink is one HA link. Every heartbeat goes by all of them.
type HeartbeatLink struct {
	Interface string         `json:"interface"`
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`
}

// maxHeartbeatLinks is how many there can be.
const maxHeartbeatLinks = 2

func (h Heartbeat) links() []HeartbeatLink {
	if h.Second == nil {
		return []HeartbeatLink{h.HeartbeatLink}
	}
	return []HeartbeatLink{h.HeartbeatLink, *h.Second}
}

// usable tells that a socket can be made.
func (l HeartbeatLink) usable() bool {
	return l.Local.IsValid() && l.Local.Addr().Is4() && l.Remote.IsValid() && l.Remote.Addr().Is4()
}

// Report is one message from the elector to the node: on every transition, on
// every connection and every [reportInterval].
type Report struct {
	// At is when it was made: up to [reportInterval] before it is looked at.
	At       time.Time  `json:"at"`
	PID      int        `json:"pid"`
	State    vrrp.State `json:"state"`
	Since    time.Time  `json:"since"`
	Reason   string     `json:"reason"`
	Priority uint8      `json:"priority"`
	Term     uint64     `json:"term"`
	// DownInterval is Active_Down_Interval (RFC 9568 §6.1) as it is now.
	DownInterval time.Duration `json:"down_interval"`
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
	// Hears tells by which carriers this node hears the peer's adverts.
	Hears      []bool          `json:"hears,omitempty"`
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
	// HeartbeatAt is when an authenticated heartbeat last came.
	HeartbeatAt time.Time `json:"heartbeat_at"`
	// Configuration is the digest that the peer's heartbeats carry.
	Configuration [vrrp.DigestSize]byte `json:"configuration"`
	// Hears tells by which carriers the peer hears this node; nil if unknown.
	Hears []bool `json:"hears,omitempty"`
}

// CarrierReport counts what happened on one carrier.
type CarrierReport struct {
	Name     string            `json:"name"`
	Open     bool              `json:"open"`
	Sent     uint64            `json:"sent"`
	Received uint64            `json:"received"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"`
	HeardAt  time.Time         `json:"heard_at,omitzero"`
	// Checksums counts the received adverts by the way in which they were summed up.
	Checksums map[string]uint64 `json:"checksums,omitempty"`
	// Stranger is the router outside the group that was last heard; nil if none was.
	Stranger *Stranger `json:"stranger,omitempty"`
	// EchoAt is when an advert with this node's own address last came in.
	EchoAt time.Time `json:"echo_at,omitzero"`
	// Mismatch describes the newest advert that did not match the configuration;
	// such an advert counts all the same.
	Mismatch string `json:"mismatch,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Stranger is a router that is no member of the group and has the VRID of a carrier.
type Stranger struct {
	Address  netip.Addr `json:"address"`
	Priority uint8      `json:"priority"`
	HeardAt  time.Time  `json:"heard_at"`
}

// HeartbeatReport counts heartbeats, each once, by however many links it went.
type HeartbeatReport struct {
	// IntroducedAt is when a heartbeat last came from a peer that does not hear this
	// node, or did not yet.
	IntroducedAt time.Time         `json:"introduced_at"`
	Sent         uint64            `json:"sent"`
	Received     uint64            `json:"received"`
	Dropped      map[string]uint64 `json:"dropped,omitempty"`
	// Links are the HA links in the order of [Heartbeat].
	Links []HeartbeatLinkReport `json:"links,omitempty"`
}

// HeartbeatLinkReport tells of the heartbeats on one HA link.
type HeartbeatLinkReport struct {
	// HeardAt is when an authentic heartbeat last came by it, IntroducedAt when one from a
	// peer that does not hear this node, or did not yet.
	HeardAt      time.Time `json:"heard_at,omitzero"`
	IntroducedAt time.Time `json:"introduced_at,omitzero"`
	Sent         uint64    `json:"sent"`
	Received     uint64    `json:"received"`
	Error        string    `json:"error,omitempty"`
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
		Preempt: c.Preempt, PreemptDelay: c.PreemptDelay, HasPeer: c.Heartbeat != nil, Digest: c.Digest, Carriers: carriers,
	}
}

// validate checks what the state machine does not.
func (c Configuration) validate() error {
	var errs []error
	for _, carrier := range c.Carriers {
		switch {
		case carrier.Interface == "" || !carrier.Source.IsValid():
			errs = append(errs, fmt.Errorf("carrier %q needs an interface and a source", carrier.Name))
		case carrier.Source.Is6() && !carrier.Source.IsLinkLocalUnicast():
			errs = append(errs, fmt.Errorf("carrier %q: the source %v is not link-local (RFC 9568 §5.1.2.1)", carrier.Name, carrier.Source))
		case carrier.Unicast && !carrier.Peer.IsValid():
			errs = append(errs, fmt.Errorf("carrier %q needs a peer to send its adverts to", carrier.Name))
		case carrier.Authenticate && len(c.AdvertKey) < minKey:
			errs = append(errs, fmt.Errorf("carrier %q needs a key of %d bytes to sign its adverts", carrier.Name, minKey))
		}
	}
	if h := c.Heartbeat; h != nil && (len(h.Key) < minKey || slices.ContainsFunc(h.links(), func(l HeartbeatLink) bool { return !l.usable() })) {
		errs = append(errs, fmt.Errorf("heartbeats need two IPv4 addresses on each HA link and a key of %d bytes", minKey))
	}
	return errors.Join(errs...)
}
