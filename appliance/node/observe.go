package node

import (
	"context"
	"sync"
	"time"

	"tandem/appliance/status"
	"tandem/conntracksync/ctnetlink"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

const (
	// observeInterval is how often this node looks at itself for the events. What
	// changes asks for a look by itself; this is for what only time brings.
	observeInterval = 500 * time.Millisecond
	// observePause is the least time between two looks: what changes again and again is
	// seen as it is then.
	observePause = 20 * time.Millisecond
	// sampleInterval is the time over which rates are measured.
	sampleInterval = time.Second
)

// observer remembers since when things are as they are. Whoever asks for the status
// lets it look, so that it is never behind what it is asked about.
type observer struct {
	// kick asks for a look before it is due; nil while nobody looks.
	kick chan struct{}

	mu sync.Mutex
	// began is when the first look was.
	began time.Time
	// connected and complete are as last seen, the moments when they began to be so.
	connected, complete           bool
	connectedSince, completeSince time.Time
	peerAlive                     bool
	peerSince                     time.Time
	// kernel and refused are the counters of the last sample, fullAt when they last
	// told of a full table.
	kernel   status.Kernel
	refused  uint64
	fullAt   time.Time
	sessions int
	limit    int
	// tableErr says why the kernel's numbers are not known.
	tableErr error

	sampledAt             time.Time
	sampledEvents         uint64
	sampledRecords        uint64
	eventRate, recordRate float64
}

// wake asks for a look now.
func (o *observer) wake() {
	select {
	case o.kick <- struct{}{}:
	default: // one is pending, or nobody looks
	}
}

// look completes s by what only shows over time.
func (o *observer) look(now time.Time, s *status.Sync) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.began.IsZero() {
		o.began, o.completeSince = now, now
	}
	if s.Connected != o.connected {
		o.connected, o.connectedSince = s.Connected, now
		// Before, nobody could know whether the tables are equal.
		o.completeSince = now
	}
	if s.Complete != o.complete {
		o.complete, o.completeSince = s.Complete, now
	}
	s.Since, s.CompleteSince = o.connectedSince, o.completeSince
	s.EventRate, s.RecordRate = o.eventRate, o.recordRate
	s.Sessions, s.Limit, s.Kernel = o.sessions, o.limit, o.kernel
	if o.tableErr != nil && s.Error == "" {
		s.Error = o.tableErr.Error()
	}
}

// seePeer returns since when the peer lives.
func (o *observer) seePeer(now time.Time, alive bool) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if alive != o.peerAlive {
		o.peerAlive, o.peerSince = alive, now
	}
	return o.peerSince
}

// sample measures rates and notices a table without room.
func (o *observer) sample(now time.Time, s status.Sync, master bool, table *ctnetlink.Reader) {
	numbers, err := readTable(table)
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.sampledAt.IsZero()
	records := s.Applied
	if master {
		records = s.Sent
	}
	if took := now.Sub(o.sampledAt).Seconds(); !first && took > 0 {
		o.eventRate, o.recordRate = rate(s.Events, o.sampledEvents, took), rate(records, o.sampledRecords, took)
	}
	o.sampledAt, o.sampledEvents, o.sampledRecords = now, s.Events, records
	refused := s.RefusedBy[status.TableFull]
	if refused > o.refused {
		o.fullAt = now
	}
	o.refused = refused
	if o.tableErr = err; err != nil {
		return
	}
	k := numbers.kernel
	if !first && (k.Dropped > o.kernel.Dropped || k.EarlyDropped > o.kernel.EarlyDropped) {
		o.fullAt = now
	}
	o.sessions, o.limit, o.kernel = numbers.sessions, numbers.limit, k
}

// rate is per second; a counter that began anew, or counts something else since a
// change of role, says nothing.
func rate(now, before uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}

// tableNumbers are the kernel's own about its sessions.
type tableNumbers struct {
	sessions, limit int
	kernel          status.Kernel
}

func readTable(table *ctnetlink.Reader) (tableNumbers, error) {
	var n tableNumbers
	if table == nil {
		return n, nil
	}
	count, err := table.Count()
	if err != nil {
		return n, err
	}
	k, err := table.Statistics()
	if err != nil {
		return n, err
	}
	limit, err := table.Limit()
	if err != nil {
		return n, err
	}
	return tableNumbers{sessions: int(count), limit: limit, kernel: status.Kernel{
		Found: k.Found, Invalid: k.Invalid, Ignored: k.Ignored, Inserted: k.Inserted, InsertFailed: k.InsertFailed,
		Dropped: k.Dropped, EarlyDropped: k.EarlyDropped, SearchRestarted: k.SearchRestarted,
	}}, nil
}

// syncStatus is all that is known of the sessions; the second value is the hash of the
// peer's document.
func (n *node) syncStatus(now time.Time) (status.Sync, string) {
	var s status.Sync
	var hash string
	if n.sync != nil {
		s, hash = n.sync.status(now)
	}
	n.observer.look(now, &s)
	if s.FirstPackets != nil {
		n.mu.Lock()
		k := n.state.firstPackets
		n.mu.Unlock()
		s.FirstPackets.Picked, s.FirstPackets.Early = k.Counts.Picked, k.Counts.Early
		if k.Lacking != "" {
			s.FirstPackets.Error = k.Lacking
		}
	}
	return s, hash
}

// diagnoseSync names what is the case with the sessions.
func (n *node) diagnoseSync(now time.Time, r elector.Report, s status.Sync) []status.Condition {
	v := status.SyncView{
		Now: now, Master: r.State == vrrp.Master, PeerAlive: r.Peer.Alive,
		Sync: s, FullAt: n.observer.fullSince(),
	}
	if other, ok := n.doc().Peer(n.opts.Name); ok {
		v.Peer = other.Name
	}
	if n.sync != nil {
		v.KeyTrouble = n.sync.keyTrouble() != ""
	}
	v.PeerSince = n.observer.seePeer(now, v.PeerAlive)
	return status.DiagnoseSync(v)
}

func (o *observer) fullSince() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fullAt
}

// observe looks at this node again and again, and reports what has changed.
func (n *node) observe(ctx context.Context) error {
	timer := time.NewTimer(observeInterval)
	defer timer.Stop()
	n.events.add(status.Event{Kind: status.EventNode, Reason: "the node starts"})
	var before status.Status
	var lost status.Sync
	var sampled time.Time
	for {
		now := time.Now()
		s := n.moment(now)
		if sampled.IsZero() || now.Sub(sampled) >= sampleInterval {
			sampled = now
			n.observer.sample(now, s.Sync, s.Role == vrrp.Master.String(), n.table)
			n.events.add(status.Losses(lost, s.Sync)...)
			lost = s.Sync
		}
		n.events.add(status.Changes(before, s)...)
		before = s
		timer.Reset(observeInterval)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			continue
		case <-n.observer.kick:
		}
		if wait := observePause - time.Since(now); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
	}
}

// moment is the part of the status that events come from, without what is dear to find
// out.
func (n *node) moment(now time.Time) status.Status {
	r, _, _ := n.elector.latest()
	s := status.Status{Time: now, Node: n.opts.Name, Role: r.State.String(), Term: r.Term}
	s.Sync, s.Config.PeerHash = n.syncStatus(now)
	s.Config.PeerHash = peerHash(r.Peer, s.Config.PeerHash, n.hash())
	s.Uplinks, s.Networks = n.uplinks.outside(now)
	s.Conditions = n.conditions(now, r, s)
	return s
}
