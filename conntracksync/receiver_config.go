package conntracksync

import (
	"net/netip"
	"time"
)

// ReceiverConfig tunes a [Receiver]. Zero fields get the defaults.
type ReceiverConfig struct {
	// Exclude are both nodes' own addresses: flows from or to them are neither
	// taken from the peer nor swept.
	Exclude []netip.Addr
	// ExcludeNetworks are the networks whose flows are not replicated: as Exclude.
	ExcludeNetworks []netip.Prefix
	// Timeouts are the kernel's own; see [TimeoutTable].
	Timeouts *TimeoutTable
	// TimeoutFloor is the least time-out with which flows live on the BACKUP, where
	// no packet refreshes them: 10 min. Passes renew it.
	TimeoutFloor time.Duration
	// PassInterval and PassSpacing are as in [SenderConfig].
	PassInterval, PassSpacing time.Duration
	// RepairBackoff is the pause before the second of two repairs of which the first
	// did not help, 1 s; it doubles up to RepairBackoffMax, 1 min.
	RepairBackoff, RepairBackoffMax time.Duration
	// RequestTimeout is after how long an unanswered request is made again: 30 s.
	RequestTimeout time.Duration
	// MaxFlows bounds the flows that are remembered: 4194304. Flows beyond it are
	// not applied, and the table never counts as complete.
	MaxFlows int
}

func (c ReceiverConfig) withDefaults() ReceiverConfig {
	c.TimeoutFloor = orDuration(c.TimeoutFloor, 10*time.Minute)
	c.PassInterval = orDuration(c.PassInterval, 30*time.Second)
	c.PassSpacing = orDuration(c.PassSpacing, time.Second)
	c.RepairBackoff = orDuration(c.RepairBackoff, time.Second)
	c.RepairBackoffMax = orDuration(c.RepairBackoffMax, time.Minute)
	c.RequestTimeout = orDuration(c.RequestTimeout, 30*time.Second)
	c.MaxFlows = orInt(c.MaxFlows, 4<<20)
	if c.Timeouts == nil {
		c.Timeouts = DefaultTimeouts()
	}
	return c
}

// ReceiverStats counts since the receiver was made.
type ReceiverStats struct {
	// Frames were taken in; Records of them became operations, Unchanged told what
	// was known.
	Frames, Records, Unchanged uint64
	// IgnoredMaster counts frames that came while this node was MASTER (or had no
	// role yet), IgnoredTerm frames of an old term, IgnoredAddress records about
	// flows that are not replicated, IgnoredUnknown updates that told too little of a
	// flow not seen before or ended one that is not here.
	IgnoredMaster, IgnoredTerm, IgnoredAddress, IgnoredUnknown uint64
	// Refused records found no room, KernelRefused operations failed in the kernel.
	Refused, KernelRefused uint64
	// Gaps in the sequence, Repeated frames, and ShortRepairs, whose flows did not
	// all come, should never happen.
	Gaps, Repeated, ShortRepairs uint64
	// Digests were compared, Mismatches of them differed.
	Digests, Mismatches uint64
	// Repairs were received to their end; RepairedBuckets were asked for. Dropped
	// flows were not confirmed by one, or the MASTER said that they were gone.
	Repairs, RepairedBuckets, Dropped uint64
	// Passes over the own kernel's table were begun, PassFlows came in, PassesFailed
	// were given up. Adopted flows were there when this node started, Swept ones were
	// deleted because the MASTER does not have them, Replaced ones had old TCP
	// windows, Extended ones got a longer time-out, Missing ones were not there.
	Passes, PassFlows, PassesFailed             uint64
	Adopted, Swept, Replaced, Extended, Missing uint64
	// Expired flows ended in the own kernel while the MASTER had them.
	Expired uint64
	// Overruns are losses in the own kernel's event queue.
	Overruns uint64
}

// Output is what the shell must do, in this order. Both slices stay valid until
// the next call of the receiver. Operations not yet carried out when the node
// becomes MASTER must be dropped.
type Output struct {
	// Ops go to the kernel in order.
	Ops []Op
	// Replies go to the peer.
	Replies []Frame
}
