package conntracksync

// Progress is how far a repair has come.
type Progress struct {
	// Buckets are being repaired, or are to be.
	Buckets int
	// Sent flows of them were sent or received, of about Flows.
	Sent, Flows int
}

// progress estimates the flows from the share of the buckets.
func progress(ix *Index, set *BucketSet, sent uint64) Progress {
	p := Progress{Buckets: set.Len(), Sent: int(sent)}
	p.Flows = max(ix.Flows()*p.Buckets/Buckets, p.Sent)
	return p
}

// Progress tells what the peer has asked to be repaired; zero if nothing.
func (s *Sender) Progress() Progress {
	if !s.active() {
		return Progress{}
	}
	if s.pass.repairing {
		return progress(s.ix, &s.pass.set, s.pass.count)
	}
	return progress(s.ix, &s.pass.wanted, 0)
}

// Progress tells what this node has asked the MASTER to repair; zero if nothing.
func (r *Receiver) Progress() Progress {
	switch p := &r.repair; {
	case !r.connected || r.role != RoleBackup:
	case p.state == repairRequested:
		return progress(r.ix, &p.set, 0)
	case p.open:
		return progress(r.ix, &p.set, p.received)
	}
	return Progress{}
}
