package vrrp

import (
	"net/netip"
	"time"
)

// Input is one event that a group takes; exactly one field is set, Link aside. It is what a
// recording of a group consists of: the same inputs at the same times make the same
// outputs.
type Input struct {
	Configure *GroupConfig    `json:"configure,omitempty"`
	Start     bool            `json:"start,omitempty"`
	Stop      *Reason         `json:"stop,omitempty"`
	Tick      bool            `json:"tick,omitempty"`
	Advert    *ReceivedAdvert `json:"advert,omitempty"`
	Heartbeat *Heartbeat      `json:"heartbeat,omitempty"`
	Fitness   *Fitness        `json:"fitness,omitempty"`
	Links     []bool          `json:"links,omitempty"`
	Handover  bool            `json:"handover,omitempty"`
	// Echo and Refusal are what the peer's kernel says on an HA link.
	Echo    bool `json:"echo,omitempty"`
	Refusal bool `json:"refusal,omitempty"`
	// Link is the HA link by which a heartbeat, an echo or a refusal came, counted from
	// zero. It decides nothing and is for who reads the recording.
	Link int `json:"link,omitempty"`
}

// ReceivedAdvert is an advert that came in by a carrier and passed validation.
type ReceivedAdvert struct {
	Carrier       int           `json:"carrier"`
	Source        netip.Addr    `json:"source"`
	Advertisement Advertisement `json:"advertisement"`
}

// Step lets the group take an input. The error is that of [Group.Reconfigure] or
// [Group.Handover]; the output counts all the same.
func (g *Group) Step(now time.Time, in Input) (Output, error) {
	switch {
	case in.Configure != nil:
		return g.Reconfigure(now, *in.Configure)
	case in.Start:
		return g.Start(now), nil
	case in.Stop != nil:
		return g.Stop(now, *in.Stop), nil
	case in.Tick:
		return g.Tick(now), nil
	case in.Advert != nil:
		return g.Receive(now, in.Advert.Carrier, in.Advert.Source, in.Advert.Advertisement), nil
	case in.Heartbeat != nil:
		return g.ReceiveHeartbeat(now, *in.Heartbeat), nil
	case in.Fitness != nil:
		return g.SetFitness(now, *in.Fitness), nil
	case in.Links != nil:
		return g.SetLinks(now, in.Links), nil
	case in.Handover:
		return g.Handover(now)
	case in.Echo:
		return g.ReceiveEcho(now), nil
	case in.Refusal:
		return g.ReceiveRefusal(now), nil
	}
	return Output{}, nil
}

// Record is one line of a recording: an input and when it came, counted from the
// begin of the recording. The first one is a configuration.
type Record struct {
	At time.Duration `json:"at"`
	Input
}
