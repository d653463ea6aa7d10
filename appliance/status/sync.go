package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Sync is the state of the session replication.
type Sync struct {
	Connected bool `json:"connected"`
	// Since is when Connected last changed; zero if it never did.
	Since time.Time `json:"since,omitzero"`
	// Link is the HA link that the stream takes; empty if there is no stream.
	Link string `json:"link,omitempty"`
	// Complete tells that both tables are equal but for what is in flight.
	Complete bool `json:"complete"`
	// CompleteSince is when Complete last changed; zero if it never did.
	CompleteSince time.Time `json:"complete_since,omitzero"`
	// Repair is what is left to do until the tables are equal; nil if nothing is.
	Repair *Repair `json:"repair,omitempty"`
	// Sessions is the number of flows in this node's kernel, Limit the most that it
	// takes (nf_conntrack_max), zero if unknown.
	Sessions int `json:"sessions"`
	Limit    int `json:"limit"`
	// Flows are those that this node knows to be in the BACKUP's kernel, or to have been
	// told to it.
	Flows int `json:"flows"`
	// Kernel counts what this node's connection tracking did.
	Kernel Kernel `json:"kernel"`
	// LagP50, LagP99 and LagMax are, over the last minute on the MASTER, the time
	// from the kernel's event to the BACKUP's acknowledgement, each flow counted.
	LagP50 time.Duration `json:"lag_p50_ns"`
	LagP99 time.Duration `json:"lag_p99_ns"`
	LagMax time.Duration `json:"lag_max_ns"`
	// Backlog is the number of records that wait to be sent.
	Backlog int `json:"backlog"`
	// EventRate and RecordRate are the kernel's events and the records sent, or on the
	// BACKUP applied, of the last second.
	EventRate  float64 `json:"event_rate"`
	RecordRate float64 `json:"record_rate"`
	// Events, Sent, Applied, Refused and Overruns count flows and events.
	Events   uint64 `json:"events"`
	Sent     uint64 `json:"sent"`
	Applied  uint64 `json:"applied"`
	Refused  uint64 `json:"refused"`
	Overruns uint64 `json:"overruns"`
	// Overflows counts how often more waited to be sent than there is room for.
	Overflows uint64 `json:"overflows"`
	// RefusedBy splits Refused by the kernel's reason, Skipped counts by reason the
	// flows that are not replicated.
	RefusedBy map[string]uint64 `json:"refused_by,omitempty"`
	Skipped   map[string]uint64 `json:"skipped,omitempty"`
	// Stripped counts, by part, what the kernel did not take of flows that it took.
	Stripped map[string]uint64 `json:"stripped,omitempty"`
	// Verified counts flows that were read back from the kernel after they had been
	// written, VerificationFailed those that were not there as they should be.
	Verified           uint64 `json:"verified"`
	VerificationFailed uint64 `json:"verification_failed"`
	// Resyncs counts repairs of the table, in parts or as a whole.
	Resyncs uint64 `json:"resyncs"`
	// RepairedBuckets are the parts that were repaired, Swept the flows that a BACKUP
	// deleted because the MASTER does not have them.
	RepairedBuckets uint64 `json:"repaired_buckets"`
	Swept           uint64 `json:"swept"`
	// BytesSent and BytesReceived count what went over the stream, before encryption.
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	// FirstPackets tells of the first packets that wait for the BACKUP; nil if no network
	// holds them.
	FirstPackets *FirstPackets `json:"first_packets,omitempty"`
	// Error is the newest trouble of the channel, empty if none.
	Error string `json:"error,omitempty"`
}

// FirstPackets tells of the first packets of flows that wait until the BACKUP knows the
// flow.
type FirstPackets struct {
	// Holding tells that they wait now: this node is MASTER and there is a BACKUP.
	Holding bool `json:"holding"`
	// Error says why none wait though they should, empty if nothing keeps them from it.
	Error string `json:"error,omitempty"`
	// Waiting is how many wait now.
	Waiting int `json:"waiting"`
	// Held counts those that waited: Acknowledged left because the BACKUP knew their
	// flow, Expired because their time was up, Displaced because too many waited,
	// Abandoned because the stream ended or what it had to send was lost.
	Held         uint64 `json:"held"`
	Acknowledged uint64 `json:"acknowledged"`
	Expired      uint64 `json:"expired"`
	Displaced    uint64 `json:"displaced"`
	Abandoned    uint64 `json:"abandoned"`
	// Unprotected counts those that came as the BACKUP went, and did not wait.
	Unprotected uint64 `json:"unprotected"`
	// Waited is how long the acknowledged ones waited in all.
	Waited      time.Duration `json:"waited_ns"`
	MeanWait    time.Duration `json:"mean_wait_ns"`
	LongestWait time.Duration `json:"longest_wait_ns"`
	// Picked are those that the kernel would have let wait, whether there was a BACKUP
	// or not; Early are those that it could not. Both are a second old at most.
	Picked uint64 `json:"picked"`
	Early  uint64 `json:"early"`
}

// Repair is how far the tables are from being equal. They are compared in parts, the
// buckets.
type Repair struct {
	// Buckets are those that differ, of Of.
	Buckets int `json:"buckets"`
	Of      int `json:"of"`
	// Sent flows of Flows were sent again; Flows is zero while it is unknown.
	Sent  int `json:"sent"`
	Flows int `json:"flows"`
}

// Kernel counts, since the network namespace was made, what its connection tracking
// did.
type Kernel struct {
	Found           uint64 `json:"found"`
	Invalid         uint64 `json:"invalid"`
	Ignored         uint64 `json:"ignored"`
	Inserted        uint64 `json:"inserted"`
	InsertFailed    uint64 `json:"insert_failed"`
	Dropped         uint64 `json:"dropped"`
	EarlyDropped    uint64 `json:"early_dropped"`
	SearchRestarted uint64 `json:"search_restarted"`
}

// Buckets is the number of parts in which the tables are compared.
const Buckets = 4096

// TableFull is the kernel's reason to refuse a flow for which its table has no room.
const TableFull = "ENOMEM"

// raiseLimit is what to do about a table that is too small.
const raiseLimit = "raise net.netfilter.nf_conntrack_max on both nodes"

// Readiness says whether a failover now would find the sessions: "complete" and how far
// the peer may be behind, or "INCOMPLETE" and why.
func (s Sync) Readiness() string {
	switch {
	case !s.Connected:
		return "INCOMPLETE: they are not replicated" + because(s.Error)
	case !s.Complete:
		return "INCOMPLETE: " + s.lacks()
	case s.LagMax > 0:
		return "complete, lag p99 " + span(s.LagP99)
	}
	return "complete"
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", " + why
}

// lacks says why connected tables are not equal.
func (s Sync) lacks() string {
	r := s.Repair
	if r == nil {
		return "the session tables are being compared"
	}
	text := fmt.Sprintf("%d of %d parts of the session tables are not equal yet", r.Buckets, r.Of)
	if r.Flows > 0 {
		text += fmt.Sprintf(", %d of %d flows sent again", r.Sent, r.Flows)
	}
	return text
}

// counts writes a map of counters, the greatest first.
func counts(m map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			if m[a] > m[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, 0, len(names))
	for _, name := range names {
		if m[name] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	return strings.Join(parts, ", ")
}

// bytesText writes an amount as people say it.
func bytesText(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	i := -1
	for f >= 999.5 && i+1 < len(units) {
		f /= 1000
		i++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, units[i])
	}
	return fmt.Sprintf("%.0f %cB", f, units[i])
}
