package conntracksync

import "time"

type repairState uint8

const (
	repairIdle repairState = iota
	// repairAsked: the MASTER will send the digests of all buckets.
	repairAsked
	// repairRequested: it will send the flows of some.
	repairRequested
	// repairRunning: it does.
	repairRunning
)

// repair is how the BACKUP finds out and gets what it misses.
type repair struct {
	state repairState
	// since is when the state was entered, or the last flow of the repair came.
	since time.Time
	// open: set is being repaired, received counts the refreshing records.
	open     bool
	set      BucketSet
	received uint64
	// hurt: something has gone since it began.
	hurt bool
	// repaired: the digest that follows shows whether a repair has helped.
	repaired bool
	// after is when the next one may be asked for, backoff the pause that led to it.
	after   time.Time
	backoff time.Duration
}

func (p *repair) enter(now time.Time, state repairState) { p.state, p.since = state, now }

// slow puts off the next repair.
func (p *repair) slow(now time.Time, cfg *ReceiverConfig) {
	p.backoff = min(max(2*p.backoff, cfg.RepairBackoff), cfg.RepairBackoffMax)
	p.after = now.Add(p.backoff)
}

// ask asks for the digests of all buckets, unless that is under way or too early.
func (r *Receiver) ask(now time.Time) {
	if r.role != RoleBackup || !r.connected || r.features&FeatureDigests == 0 || !r.ix.filled {
		return
	}
	p := &r.repair
	waiting := p.state != repairIdle && now.Before(p.since.Add(r.cfg.RequestTimeout))
	if waiting || now.Before(p.after) {
		return
	}
	p.open = false
	p.enter(now, repairAsked)
	r.reply(Frame{Type: FrameDigestRequest})
}

// digest compares the whole index. The digest stands at this very place of the
// stream, so that it is exact however many flows come and go.
func (r *Receiver) digest(now time.Time, d Digest) {
	if !r.ix.filled {
		return
	}
	r.stats.Digests++
	if d == r.ix.Digest() {
		r.agree()
		return
	}
	r.stats.Mismatches++
	r.differ()
	if r.repair.repaired {
		r.repair.repaired = false
		r.repair.slow(now, &r.cfg)
	}
	r.ask(now)
}

// agree tells that the table is the MASTER's at this place of the stream.
func (r *Receiver) agree() {
	r.equal, r.pass.patient, r.pass.doubt = true, true, BucketSet{}
	r.repair.repaired, r.repair.backoff, r.repair.after = false, 0, time.Time{}
}

// digests compares all buckets and asks for those that differ.
func (r *Receiver) digests(now time.Time, sums []uint64) {
	if !r.ix.filled || len(sums) != Buckets {
		return
	}
	p := &r.repair
	set := r.ix.differing(sums)
	if set == (BucketSet{}) {
		r.agree()
		if p.state == repairAsked {
			p.enter(now, repairIdle)
		}
		return
	}
	r.differ()
	if p.state != repairAsked {
		return
	}
	r.stats.RepairedBuckets += uint64(set.Len())
	p.enter(now, repairRequested)
	p.set = set
	r.reply(Frame{Type: FrameRepairRequest, Set: set})
}

func (r *Receiver) repairBegin(now time.Time, set *BucketSet) {
	p := &r.repair
	p.enter(now, repairRunning)
	p.open, p.set, p.received, p.hurt = true, *set, 0, false
	for i := range r.pass.doubt {
		r.pass.doubt[i] &^= set[i] // what ends from now on is in doubt again
	}
	r.ix.beginRepair(set)
}

// repairEnd drops the flows of the repaired buckets of which the MASTER has told
// nothing since the repair began. The next pass takes them out of the kernel.
func (r *Receiver) repairEnd(now time.Time, f *Frame) {
	p := &r.repair
	if !p.open || p.set != f.Set {
		return
	}
	p.open = false
	p.enter(now, repairIdle)
	if f.Count != p.received {
		r.stats.ShortRepairs++
		r.differ()
		return
	}
	r.stats.Repairs++
	p.repaired = true
	if dropped := r.ix.endRepair(&p.set); dropped > 0 {
		r.stats.Dropped += uint64(dropped)
		r.leftover(now)
	}
	if r.features&FeatureDigests == 0 {
		r.equal = !p.hurt // all was sent, and no digest will tell
	}
}
