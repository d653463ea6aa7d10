package uplink

import (
	"time"

	"tandem/router/config"
)

// Config is what the selector needs to know of a document; see [NewConfig].
type Config struct{}

// NewConfig reads it from a document that is valid and complete, as config.Parse leaves it.
func NewConfig(doc *config.Document) Config {
	_ = doc
	return Config{}
}

// Selector holds the evidence about all uplinks and chooses one for each path. It
// belongs to one goroutine. After any call that takes the time, [Selector.Selection],
// [Selector.Duties], [Selector.Switches] and [Selector.Failures] may give something new.
type Selector struct{}

// New returns a selector that knows of no link and no address yet.
func New(now time.Time, c Config) *Selector {
	_, _ = now, c
	return &Selector{}
}

// Reconfigure takes a changed document. Evidence about what stays is kept.
func (s *Selector) Reconfigure(now time.Time, c Config) {}

// Adopt takes what the kernel routes when the node starts: a choice that stands is kept
// until there is evidence against it. It must come right after [New].
func (s *Selector) Adopt(now time.Time, chosen Selection) {}

// SetLink tells whether the port of an uplink is up and has a carrier, and if not, why.
func (s *Selector) SetLink(now time.Time, uplink string, up bool, reason string) {}

// SetAddress tells whether the port has this node's own address of a family.
func (s *Selector) SetAddress(now time.Time, uplink string, ipv6, present bool) {}

// SetCost changes the cost of an uplink, until a document changes it again.
func (s *Selector) SetCost(now time.Time, uplink string, cost uint8) {}

// SetRole tells whether this node is MASTER.
func (s *Selector) SetRole(now time.Time, master bool) {}

// SetPeer tells whether a peer stands ready that could take over at once, and whose uplinks
// are well.
func (s *Selector) SetPeer(now time.Time, fit bool) {}

// Due returns the probes to start now. Each is answered by one [Selector.Finish].
func (s *Selector) Due(now time.Time) []Probe { return nil }

// Finish takes the outcome of a probe. Outcomes of probes that nobody waits for any more are ignored.
func (s *Selector) Finish(now time.Time, o Outcome) {}

// Tick does what is due.
func (s *Selector) Tick(now time.Time) {}

// Deadline returns when [Selector.Due] or [Selector.Tick] has something to do; zero for never.
func (s *Selector) Deadline() time.Time { return time.Time{} }

// Selection names the uplink of every path that has one.
func (s *Selector) Selection() Selection { return nil }

// Duty is to end flows: those of a path's networks that are bound to an uplink, as long as
// it is listed.
type Duty struct {
	Path   Path
	Uplink string
	// VRID is that of the uplink, which the document may not have any more.
	VRID uint8
	// Reason says why, in a phrase for events and status.
	Reason string
	// Since is when the duty began. A look at the kernel's table is dear, and what is
	// older than some seconds finds little: look again at growing intervals.
	Since time.Time
	// Outbound tells that the uplink works and that only flows which began inside are to be ended:
	// those from outside stay with the uplink that they came in by.
	Outbound bool
}

// Duties returns what is to be ended now, ordered by path and uplink; nothing on a BACKUP.
func (s *Selector) Duties(now time.Time) []Duty { return nil }

// Switch tells that a path has changed its uplink.
type Switch struct {
	Path Path
	// From is empty for the first choice, To if there is no uplink any more.
	From, To string
	// Planned tells that the flows of From could stay there for a while.
	Planned bool
	Reason  string
	// FailedAt is when the failure was noticed, zero if there was none; At when the path
	// changed.
	FailedAt, At time.Time
}

// Switches returns what has changed since the last call, oldest first.
func (s *Selector) Switches() []Switch { return nil }

// Failures returns what speaks against this node as MASTER, sorted: the names of the uplinks that
// networks want and that are dead here, and "network NAME" if a network has none at all.
func (s *Selector) Failures() []string { return nil }

// Use tells whether an operation may use an uplink now.
type Use struct {
	Uplink string `json:"uplink"`
	Cost   uint8  `json:"cost"`
	Usable bool   `json:"usable"`
	// Reason says why it is not usable, or what is known of it.
	Reason string `json:"reason"`
}

// Usable returns all uplinks, the best one for the operation first.
func (s *Selector) Usable(o config.Operation) []Use { return nil }
