package conntracksync

import (
	"net/netip"
	"time"
)

// SenderConfig tunes a [Sender]. Zero fields get the defaults.
type SenderConfig struct {
	// Exclude are both nodes' own addresses. Flows from or to them stay here.
	Exclude []netip.Addr
	// ExcludeNetworks are the networks whose flows are not replicated.
	ExcludeNetworks []netip.Prefix
	// Timeouts are the kernel's own; see [TimeoutTable].
	Timeouts *TimeoutTable
	// DigestInterval is the time from one digest to the next: 5 s.
	DigestInterval time.Duration
	// PassInterval is the least time from one regular pass over the kernel's table
	// to the next: 30 s. Passes that take long are rarer; see passShare.
	PassInterval time.Duration
	// PassSpacing is the least time between the starts of two passes, whatever the
	// reason: 1 s.
	PassSpacing time.Duration
	// TrimDelay is how long after a promotion the pass starts that takes back the
	// time-outs by which flows lived on the BACKUP: 5 s. TrimRate is how many flows
	// of it are handled in a second: 100000.
	TrimDelay time.Duration
	TrimRate  int
	// Hold is how long a flow that is not assured waits for more events: 5 ms.
	Hold time.Duration
	// HoldLimit is how many flows may wait; when there are more, all are sent
	// early: 8192.
	HoldLimit int
	// QueueLimit bounds the records that wait to be sent: 65536. When there are
	// more, all are dropped and a repair makes up for them.
	QueueLimit int
	// RowCredit is how many flows of a pass may wait in the queue before WantRows
	// asks for a pause: 1024. Events that come meanwhile wait behind them.
	RowCredit int
	// FrameRecords is the greatest number of records in a frame: 256.
	FrameRecords int
	// RepairInterval is how often the whole table is sent to a peer that does not
	// know digests: 60 s.
	RepairInterval time.Duration
}

func (c SenderConfig) withDefaults() SenderConfig {
	c.DigestInterval = orDuration(c.DigestInterval, 5*time.Second)
	c.PassInterval = orDuration(c.PassInterval, 30*time.Second)
	c.PassSpacing = orDuration(c.PassSpacing, time.Second)
	c.TrimDelay = orDuration(c.TrimDelay, 5*time.Second)
	c.TrimRate = orInt(c.TrimRate, 100_000)
	c.Hold = orDuration(c.Hold, 5*time.Millisecond)
	c.HoldLimit = orInt(c.HoldLimit, 8192)
	c.QueueLimit = orInt(c.QueueLimit, 65536)
	c.RowCredit = orInt(c.RowCredit, 1024)
	c.FrameRecords = min(orInt(c.FrameRecords, 256), MaxRecords)
	c.RepairInterval = orDuration(c.RepairInterval, time.Minute)
	if c.Timeouts == nil {
		c.Timeouts = DefaultTimeouts()
	}
	return c
}

func orDuration(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}

func orInt(n, fallback int) int {
	if n > 0 {
		return n
	}
	return fallback
}

// SenderStats counts since the sender was made.
type SenderStats struct {
	// Events are those taken in as MASTER; Skipped of them and of the flows of
	// passes were not replicated. Coalesced were merged into a flow that was held,
	// Unsent ended before anything of them was sent.
	Events, Coalesced, Unsent uint64
	Skipped                   Skips
	// Frames and Records were handed out by Next.
	Frames, Records uint64
	// Passes over the kernel's table were begun, PassFlows came in, PassStale of
	// these were passed over because an event had told more, PassesFailed were
	// given up.
	Passes, PassFlows, PassStale, PassesFailed uint64
	// Found flows were in the kernel's table and no event had told of them, or told
	// otherwise; Gone ones were not there any more and no event had told.
	Found, Gone uint64
	// Repairs were begun, with RepairedBuckets and RepairedFlows in sum.
	Repairs, RepairedBuckets, RepairedFlows uint64
	// DigestRequests came from the peer: its table differed.
	DigestRequests uint64
	// Trimmed flows got their normal time-out after a promotion.
	Trimmed uint64
	// Overruns are losses in the kernel's event queue, Overflows losses here.
	Overruns, Overflows uint64
	// BadAcks acknowledged what was never sent.
	BadAcks uint64
}
