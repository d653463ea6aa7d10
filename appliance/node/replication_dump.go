package node

import (
	"context"
	"errors"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// dumpPart is a piece of the kernel's table.
type dumpPart struct {
	flows []conntracksync.Flow
	// local parts are for the receiver, the others for the sender.
	local bool
	// last ends a dump; failed tells that it is not whole.
	last   bool
	failed error
}

// startDumps starts to read the kernel's table if somebody wants it. One dump runs
// at a time; the other waits its turn.
func (r *replication) startDumps(ctx context.Context, now time.Time) {
	if r.dumping {
		return
	}
	switch {
	case r.receiver.WantLocal():
		r.dumping = true
		go r.dump(ctx, true)
	case r.sender.WantDump(now):
		r.dumping = true
		go r.dump(ctx, false)
	}
}

// dump reads the table and brings it to the loop in parts.
func (r *replication) dump(ctx context.Context, local bool) {
	part := dumpPart{local: local, flows: make([]conntracksync.Flow, 0, eventBatch)}
	send := func() error {
		select {
		case r.dumps <- part:
			part.flows = make([]conntracksync.Flow, 0, eventBatch)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := r.table.Dump(ctx, func(f *conntracksync.Flow) error {
		part.flows = append(part.flows, *f)
		if len(part.flows) < eventBatch {
			return nil
		}
		return send()
	})
	part.last, part.failed = true, err
	_ = send() // fails only when everything ends
}

// takeDump gives a part to whom it belongs.
func (r *replication) takeDump(now time.Time, part dumpPart) {
	for i := range part.flows {
		if part.local {
			r.receiver.Local(part.flows[i])
		} else {
			r.sender.DumpFlow(now, part.flows[i])
		}
	}
	if !part.last {
		return
	}
	r.dumping = false
	if part.failed != nil && !errors.Is(part.failed, ctnetlink.ErrInterrupted) {
		r.node.log.Warn("the session table could not be read; trying again", "error", part.failed)
	}
	switch {
	case part.local:
	case part.failed != nil:
		r.sender.DumpFailed(now)
	default:
		r.sender.DumpDone(now)
	}
}
