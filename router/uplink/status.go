package uplink

import (
	"slices"
	"time"
)

// Status is what the selector knows and has decided, for people and for metrics.
type Status struct {
	Uplinks []Evidence   `json:"uplinks"`
	Paths   []PathStatus `json:"paths"`
}

// Evidence is what is known about one uplink on this node.
type Evidence struct {
	Name    string   `json:"name"`
	Cost    uint8    `json:"cost"`
	Metered bool     `json:"metered"`
	Labels  []string `json:"labels,omitempty"`
	// Link tells that the port is up and has a carrier; LinkReason why not.
	Link       bool           `json:"link"`
	LinkReason string         `json:"link_reason,omitempty"`
	Families   []FamilyStatus `json:"families"`
}

// FamilyStatus is the evidence about one uplink in one address family.
type FamilyStatus struct {
	IPv6 bool `json:"ipv6"`
	// State is that of the uplink as a whole: the best of what its targets and gateway say.
	State  State  `json:"state"`
	Reason string `json:"reason"`
	// Address tells that the port has this node's own address.
	Address bool          `json:"address"`
	Probes  []ProbeStatus `json:"probes"`
}

// ProbeStatus is the evidence of one probe.
type ProbeStatus struct {
	// Kind is "gateway" or the kind of the target; Target what is asked, empty for the gateway.
	Kind   string `json:"kind"`
	Target string `json:"target,omitempty"`
	State  State  `json:"state"`
	// Reason is that of the last failure, if the probe has failed last or more often than not.
	Reason string `json:"reason,omitempty"`
	// LastOK and LastFailed are zero if it never happened.
	LastOK     time.Time `json:"last_ok,omitzero"`
	LastFailed time.Time `json:"last_failed,omitzero"`
	// RTT is the mean and Jitter the mean difference between two answers, of the last Window
	// probes; Loss is the share of them that failed, 0 to 1.
	RTT    time.Duration `json:"rtt_ns"`
	Jitter time.Duration `json:"jitter_ns"`
	Loss   float64       `json:"loss"`
	Window int           `json:"window"`
	// Unhealthy says why the last probe could not be sent; empty if it was.
	Unhealthy string `json:"unhealthy,omitempty"`
	// Interval is the time between two probes now.
	Interval time.Duration `json:"interval_ns"`
	// Sent and Failed count since the probe exists.
	Sent   uint64 `json:"sent"`
	Failed uint64 `json:"failed"`
}

// PathStatus is the choice of one path and what it rests on.
type PathStatus struct {
	Network     string `json:"network"`
	Destination string `json:"destination"`
	// Uplink is the one that is chosen; empty if there is none.
	Uplink string `json:"uplink"`
	// State is that of the chosen one on this path.
	State State `json:"state"`
	// Since is when it was chosen, Why the reason.
	Since time.Time `json:"since,omitzero"`
	Why   string    `json:"why"`
	// Note says what stands in the way of a better choice, if anything does.
	Note       string            `json:"note,omitempty"`
	Candidates []CandidateStatus `json:"candidates"`
	// Draining are uplinks that were left and whose flows may stay for a while.
	Draining []DrainStatus `json:"draining,omitempty"`
	// Switches counts the changes of uplink.
	Switches uint64 `json:"switches"`
}

// CandidateStatus is an uplink that a path may take.
type CandidateStatus struct {
	Uplink string `json:"uplink"`
	Cost   uint8  `json:"cost"`
	// Allowed tells that it is not too dear.
	Allowed bool `json:"allowed"`
	// Wanted tells that the path would use it if everything worked.
	Wanted bool   `json:"wanted"`
	Chosen bool   `json:"chosen"`
	State  State  `json:"state"`
	Reason string `json:"reason"`
	// Since is when State began.
	Since time.Time `json:"since,omitzero"`
	// HeldUntil is when it may be taken again although another works; zero if it may now.
	HeldUntil time.Time `json:"held_until,omitzero"`
	// Answering of Targets answer, Need must.
	Answering int `json:"answering"`
	Targets   int `json:"targets"`
	Need      int `json:"need"`
}

// DrainStatus is an uplink that a path has left.
type DrainStatus struct {
	Uplink string `json:"uplink"`
	// Until is when the flows on it are ended.
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// Status returns all of it, in the order of the document.
func (s *Selector) Status(now time.Time) Status {
	status := Status{Uplinks: []Evidence{}, Paths: []PathStatus{}}
	for _, u := range s.uplinks {
		us := Evidence{Name: u.name, Cost: u.cost, Metered: u.metered, Labels: slices.Clone(u.labels), Link: u.link, LinkReason: u.linkReason}
		for _, f := range u.families {
			if f != nil {
				us.Families = append(us.Families, f.status(now))
			}
		}
		status.Uplinks = append(status.Uplinks, us)
	}
	for _, p := range s.paths {
		status.Paths = append(status.Paths, p.status(now))
	}
	return status
}

func (f *family) status(now time.Time) FamilyStatus {
	status := FamilyStatus{IPv6: f.ipv6, Address: f.address}
	status.State, status.Reason = f.overall(now)
	if f.gateway != nil {
		status.Probes = append(status.Probes, f.gateway.status())
	}
	for _, m := range f.targets {
		status.Probes = append(status.Probes, m.status())
	}
	return status
}

func (m *monitor) status() ProbeStatus {
	status := ProbeStatus{
		Kind: m.kind.String(), Target: m.target.Asked(), State: m.state, LastOK: m.lastOK, LastFailed: m.lastFailed,
		RTT: m.mean(), Jitter: m.jitter(), Loss: m.loss(), Window: m.size(), Unhealthy: m.unhealthy, Interval: m.pause(),
		Sent: m.sent, Failed: m.failures,
	}
	if m.kind == EndToEnd {
		status.Kind = m.target.Kind
	}
	if m.lossy {
		status.State = Degraded
	}
	if m.state == Dead || m.lossy || m.lastFailed.After(m.lastOK) {
		status.Reason = m.reason
	}
	return status
}

func (p *path) status(now time.Time) PathStatus {
	status := PathStatus{
		Network: p.path.Network, Destination: p.path.Destination.String(), Since: p.since, Why: p.why, Note: p.note, Switches: p.switches,
	}
	if p.chosen != nil {
		status.Uplink, status.State = p.chosen.uplink.name, p.chosen.state
	} else {
		status.Note = "the network may use none of its uplinks"
	}
	wanted := p.wanted()
	for _, c := range p.candidates {
		cs := CandidateStatus{
			Uplink: c.uplink.name, Cost: c.uplink.cost, Allowed: c.allowed, Wanted: c == wanted, Chosen: c == p.chosen,
			State: c.state, Reason: c.reason, Since: c.since, Targets: len(c.targets), Need: c.need,
		}
		if !c.allowed {
			cs.Reason = p.tooDear(c)
		}
		if c.state.Works() && c.held(now) {
			cs.HeldUntil = c.heldUntil
		}
		for _, m := range c.targets {
			if silent, _ := c.silentWithGateway(now, m); m.state == Working && !silent {
				cs.Answering++
			}
		}
		status.Candidates = append(status.Candidates, cs)
	}
	for _, l := range p.left {
		if now.Before(l.until) {
			status.Draining = append(status.Draining, DrainStatus{Uplink: l.uplink, Until: l.until, Reason: l.reason})
		}
	}
	return status
}
