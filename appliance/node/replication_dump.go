package node

import (
	"context"
	"errors"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

const (
	// dumpBatch is how many flows of a dump are taken in at once.
	dumpBatch = 256
	// rowsWait is how often a dump that was asked to pause looks whether it may go on.
	rowsWait = 10 * time.Millisecond
)

// startDumps starts to read the kernel's table if somebody wants it. One dump runs
// at a time; the other waits its turn.
func (r *replication) startDumps(ctx context.Context, now time.Time) {
	if r.dumping {
		return
	}
	var feed func([]conntracksync.Flow) error
	var end func(error)
	switch {
	case r.receiver.WantDump(now):
		feed, end = r.feedReceiver, r.endReceiver
	case r.sender.WantDump(now):
		feed = func(flows []conntracksync.Flow) error { return r.feedSender(ctx, flows) }
		end = func(err error) { r.endSender(ctx, err) }
	default:
		return
	}
	r.readTimeouts()
	r.dumping = true
	go r.dump(ctx, feed, end)
}

// readTimeouts reads the kernel's time-outs before each pass: somebody may have changed
// them since.
func (r *replication) readTimeouts() {
	limits, err := ctnetlink.ReadTimeouts()
	if err != nil {
		r.node.log.Warn("the time-outs of connection tracking cannot be read", "error", err)
		return
	}
	*r.timeouts = conntracksync.TimeoutTable(limits)
}

// dump reads the table and feeds it in parts. It always calls end.
func (r *replication) dump(ctx context.Context, feed func([]conntracksync.Flow) error, end func(error)) {
	flows := make([]conntracksync.Flow, 0, dumpBatch)
	err := r.table.Dump(ctx, func(f *conntracksync.Flow) error {
		flows = append(flows, *f)
		if len(flows) < dumpBatch {
			return nil
		}
		err := feed(flows)
		flows = flows[:0]
		return err
	})
	if err == nil {
		err = feed(flows)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, ctnetlink.ErrInterrupted) {
		r.node.log.Warn("the session table could not be read; trying again", "error", err)
	}
	end(err)
	r.mu.Lock()
	r.dumping = false
	r.mu.Unlock()
	signal(r.wake)
}

func (r *replication) feedReceiver(flows []conntracksync.Flow) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.obey(r.receiver.DumpFlows(time.Now(), flows))
	return nil
}

func (r *replication) endReceiver(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.receiver.DumpFailed(time.Now())
		return
	}
	r.obey(r.receiver.DumpDone(time.Now()))
	r.publish()
}

// feedSender waits while what was fed before has not been sent.
func (r *replication) feedSender(ctx context.Context, flows []conntracksync.Flow) error {
	for {
		r.mu.Lock()
		now := time.Now()
		if r.sender.WantRows(now) {
			r.write(r.sender.DumpFlows(now, flows))
			r.mu.Unlock()
			signal(r.wake)
			return nil
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.rows:
		case <-time.After(rowsWait):
		}
	}
}

func (r *replication) endSender(ctx context.Context, err error) {
	var expected []conntracksync.Expectation
	if err == nil {
		err = r.table.DumpExpectations(ctx, func(e *conntracksync.Expectation) error {
			expected = append(expected, *e)
			return nil
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for i := range expected {
		r.sender.DumpExpectation(now, &expected[i])
	}
	if err != nil {
		r.sender.DumpFailed(now)
		return
	}
	r.sender.DumpDone(now)
}
