package node

import (
	"time"

	"tandem/appliance/status"
	"tandem/conntracksync"
)

// status reports what the replication knows; the second value is the hash of the peer's
// document. What it does not know, observer adds.
func (r *replication) status(now time.Time) (status.Sync, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sender.Stats()
	s := status.Sync{
		Connected: r.conn != nil, Error: r.linkErr, Backlog: r.sender.Backlog(),
		Applied: uint64(r.applied.Created + r.applied.Updated + r.applied.Deleted), Refused: uint64(r.applied.Refused),
		Events: sent.Events, Sent: sent.Records, Overruns: sent.Overruns, Overflows: sent.Overflows,
		Skipped: skipped(sent.Skipped), BytesSent: r.traffic.sent.Load(), BytesReceived: r.traffic.received.Load(),
	}
	s.FirstPackets = r.firstStatus()
	if r.conn != nil && len(r.ways) > 1 {
		s.Link = r.conn.link
	}
	s.RefusedBy = counters(r.applied.RefusedBy)
	s.Flows, s.Verified, s.VerificationFailed = r.index.Flows(), r.samples.verified, r.samples.differently
	received := r.receiver.Stats()
	s.Resyncs, s.RepairedBuckets = sent.Repairs+received.Repairs, sent.RepairedBuckets+received.RepairedBuckets
	s.Swept, s.Stripped = received.Swept, counters(r.applied.Stripped)
	p := r.receiver.Progress()
	if r.role.master {
		p = r.sender.Progress()
	}
	if p.Buckets > 0 {
		s.Repair = &status.Repair{Buckets: p.Buckets, Of: conntracksync.Buckets, Sent: p.Sent, Flows: p.Flows}
	}
	if r.role.master {
		s.Complete = r.sender.Complete()
		s.LagP50, s.LagP99, s.LagMax = r.sender.Lag(now)
	} else {
		s.Complete = r.receiver.Complete()
	}
	return s, r.peerHash
}

// counters copies what the writer counts.
func counters(from map[string]int) map[string]uint64 {
	if len(from) == 0 {
		return nil
	}
	to := make(map[string]uint64, len(from))
	for name, count := range from {
		to[name] = uint64(count)
	}
	return to
}

// skipped names the counters that are not zero.
func skipped(skips conntracksync.Skips) map[string]uint64 {
	var named map[string]uint64
	for reason, count := range skips {
		if count == 0 {
			continue
		}
		if named == nil {
			named = make(map[string]uint64)
		}
		named[conntracksync.Skip(reason).String()] = count
	}
	return named
}
