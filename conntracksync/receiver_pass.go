package conntracksync

import "time"

// receiverPass is what the BACKUP does with its own kernel's table.
type receiverPass struct {
	pass
	// leftovers: the kernel may hold flows that the index does not have. That many
	// passes that begin from now on will have found them; one alone may be shown a
	// table that changes only in part. during tells of those that came up since the
	// pass began.
	leftovers int
	during    bool
	// patient: the next pass that meets a difference leaves what it finds strange to
	// the repair; one that comes before the repair does not wait any more.
	patient, deferred bool
	// doubt are buckets of flows that ended in this kernel by itself. Such a report may
	// be older than a record that has brought the flow back, so what seems strange there
	// may be the MASTER's until the tables were compared again.
	doubt BucketSet
	// filling: the index does not know the table yet, and takes it in.
	filling bool
}

func (p *receiverPass) leave() { p.leftovers, p.during = 2, true }

// leftover wants a pass that takes out of the kernel what has left the index.
func (r *Receiver) leftover(now time.Time) {
	r.pass.leave()
	r.pass.want(now)
}

// WantDump tells that the shell must start to read this node's whole kernel table
// now, and feed it to DumpFlows, then call DumpDone or DumpFailed. It returns true
// once for each dump, which must be ended even if the role was lost meanwhile.
func (r *Receiver) WantDump(now time.Time) bool {
	due := r.Deadline()
	if due.IsZero() || now.Before(due) {
		return false
	}
	r.stats.Passes++
	r.pass.begin(now)
	r.ix.beginPass()
	r.pass.filling, r.pass.during = !r.ix.filled, false
	return true
}

// Deadline is when WantDump may become true without new input; zero means never.
func (r *Receiver) Deadline() time.Time {
	if r.role != RoleBackup {
		return time.Time{}
	}
	return r.pass.due(true)
}

// DumpFlows takes in flows of the own kernel's table, some hundred at a time.
func (r *Receiver) DumpFlows(now time.Time, flows []Flow) Output {
	r.begin()
	if r.pass.state == passRunning && !r.ix.broken {
		r.stats.PassFlows += uint64(len(flows))
		for i := range flows {
			r.row(now, &flows[i])
		}
	}
	return r.output()
}

// row looks after one flow of the own table. Flows that are not replicated are
// none of its business.
func (r *Receiver) row(now time.Time, f *Flow) {
	if !f.encodable() || r.exclude.flow(f) != SkipNone || f.Status&StatusDying != 0 {
		return
	}
	hash := r.ix.hash(f)
	meta := r.ix.find(hash)
	if !live(meta) {
		if meta == nil {
			r.strange(now, hash, f)
		}
		return
	}
	*meta = *meta&^metaMissed | metaSeen
	if *meta&metaTouched != 0 {
		return // a record has told more
	}
	if class := classOf(f, *meta, true); class != *meta&classMask {
		r.ix.put(hash, class, 0)
		r.differ()
	}
	if *meta&metaFresh == 0 {
		r.renew(meta, f)
		return
	}
	r.extend(f)
}

// renew rids a flow of windows of an earlier mastership; only TCP has any.
func (r *Receiver) renew(meta *uint16, f *Flow) {
	switch {
	case f.Protocol != protocolTCP:
		r.ix.freshen(meta)
		r.extend(f)
	case injectable(f, OpReplace):
		r.ix.freshen(meta)
		r.stats.Replaced++
		r.ops = append(r.ops, Op{Kind: OpReplace, Flow: *f})
		r.inject(&r.ops[len(r.ops)-1].Flow, OpReplace)
	}
}

// extend gives a flow time until well after the next passes, and no less than half of
// what a packet would give it: a session that is kept alive by rare packets must not
// die before the next one comes to a new MASTER. A time-out that is fixed cannot be
// changed; that of GRE the writer itself has fixed, and knows how.
func (r *Receiver) extend(f *Flow) {
	full := max(r.floor(), r.cfg.Timeouts.normal(f))
	if f.Timeout >= full/2 || f.Status&StatusFixedTimeout != 0 && f.Protocol != protocolGRE {
		return
	}
	r.stats.Extended++
	r.ops = append(r.ops, Op{Kind: OpTimeout, Flow: *f})
	r.ops[len(r.ops)-1].Flow.Timeout = full
}

// strange handles a flow that the index does not have. One that was there when this
// node started may well be the MASTER's; a repair under way may be about to tell.
func (r *Receiver) strange(now time.Time, hash uint64, f *Flow) {
	p := &r.repair
	switch {
	case r.pass.filling:
		if passing(f) == SkipNone && r.ix.flows < r.cfg.MaxFlows {
			r.stats.Adopted++
			r.ix.put(hash, classOf(f, 0, false), metaSeen)
			r.differ()
			r.renew(r.ix.find(hash), f)
		}
	case p.state == repairAsked, p.state != repairIdle && p.set.has(bucketOf(hash)):
		r.leftover(now)
	case r.connected && r.pass.doubt.has(bucketOf(hash)):
		r.pass.leave()
	case !r.equal && r.connected && r.pass.patient:
		r.pass.deferred = true
		r.leftover(now.Add(passAgain))
	default:
		r.stats.Swept++
		r.ops = append(r.ops, Op{Kind: OpSweep, Flow: *f})
	}
}

// DumpDone tells that the whole table was fed.
func (r *Receiver) DumpDone(now time.Time) Output {
	if r.ix.broken {
		r.begin()
		r.DumpFailed(now)
		return r.output()
	}
	r.begin()
	if !r.pass.ended() {
		return r.output()
	}
	missing := 0
	again := r.ix.missing(func(_ uint64, times int) bool {
		if times > 1 {
			missing++
		}
		return times > 1
	})
	if missing > 0 {
		r.stats.Missing += uint64(missing)
		r.differ()
	}
	r.ix.endPass()
	r.ix.filled = true
	r.ix.trusted = !r.pass.overrun
	if !r.pass.during {
		r.pass.leftovers = max(r.pass.leftovers-1, 0)
	}
	r.pass.finish(now)
	if r.pass.deferred {
		r.pass.patient, r.pass.deferred = false, false
	}
	switch {
	case r.pass.overrun:
		r.pass.want(now)
	case again > 0 || r.ix.stale > 0:
		r.pass.want(now.Add(passAgain))
	}
	if !r.equal {
		r.ask(now)
	}
	return r.output()
}

// DumpFailed tells that the table could not be read to its end. Another dump will
// be wanted.
func (r *Receiver) DumpFailed(now time.Time) {
	if !r.pass.ended() {
		return
	}
	r.stats.PassesFailed++
	r.ix.endPass()
	r.pass.finish(now)
	r.pass.want(now)
}
