package uplink

import (
	"fmt"
	"time"

	"tandem/router/config"
)

// Kind tells what a probe asks.
type Kind uint8

// The kinds of probes.
const (
	// Gateway asks the next hop for its link-layer address (ARP, neighbour discovery).
	Gateway Kind = iota
	// EndToEnd asks a target beyond it.
	EndToEnd
)

// String names the kind.
func (k Kind) String() string {
	if k == Gateway {
		return "gateway"
	}
	return "end-to-end"
}

// Probe is one attempt to reach something through an uplink.
type Probe struct {
	// Uplink is the name of the uplink, IPv6 the family.
	Uplink string
	IPv6   bool
	Kind   Kind
	// Target is zero for [Gateway].
	Target config.Target
	// Timeout is how long the answer may take.
	Timeout time.Duration
	// Attempt tells attempts apart; the outcome gives it back. Several attempts of one
	// probe may be under way.
	Attempt uint64
}

// Outcome is what became of a [Probe].
type Outcome struct {
	Probe Probe
	OK    bool
	// RTT is how long the answer took.
	RTT time.Duration
	// Reason is a short phrase about a failure, e.g. "no answer from 192.0.2.1 within 1s".
	Reason string
	// Local tells that the probe could not be sent, or that its answer could not be
	// awaited, for a reason that lies in this node. It says nothing about the uplink.
	Local bool
}

// State is what is known of an uplink, or of a way through it.
type State uint8

// The states, from bad to good.
const (
	// Unknown: nothing has been tried yet.
	Unknown State = iota
	Dead
	// Degraded: it works, but loses too much.
	Degraded
	Working
)

// String names the state.
func (s State) String() string {
	return [...]string{"unknown", "dead", "degraded", "working"}[s]
}

// MarshalText is the name of the state.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a state.
func (s *State) UnmarshalText(text []byte) error {
	for known := Unknown; known <= Working; known++ {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown state %q", text)
}

// Works tells whether traffic can take what is in this state.
func (s State) Works() bool { return s >= Degraded }
