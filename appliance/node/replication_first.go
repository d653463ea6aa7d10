package node

import (
	"context"
	"errors"
	"time"

	"tandem/conntracksync/hold"
	"tandem/conntracksync/nfqueue"
)

// queueLength is how many first packets the kernel keeps: more than are held, so that
// the hold decides who leaves.
const queueLength = 2 * hold.DefaultLength

// firstPackets keeps the first packets of flows until the BACKUP knows the flow, for
// networks that want it. Guarded by replication.mu.
type firstPackets struct {
	hold *hold.Hold
	// queue is open while there is a BACKUP; else packets pass without a look.
	queue *nfqueue.Queue
	// interrupt ends the reading of events that waits: a packet needs to know that all
	// of them were read.
	interrupt context.CancelFunc
	// overflows is the sender's counter at the beginning of the positions in use.
	overflows uint64
	// openErr was logged.
	openErr string
}

// newFirstPackets returns nil if no network asks for it.
func newFirstPackets(held []string) *firstPackets {
	if len(held) == 0 {
		return nil
	}
	return &firstPackets{hold: hold.New(hold.Config{}), interrupt: func() {}}
}

// switchFirst opens and closes the queue of first packets as there is a BACKUP or not.
func (r *replication) switchFirst() {
	f := r.first
	if f == nil {
		return
	}
	want := r.role.master && r.conn != nil
	switch {
	case want && f.queue == nil:
		queue, err := nfqueue.Open(nfqueue.Config{Group: r.node.doc.Group, Length: queueLength})
		if err != nil {
			if f.openErr != err.Error() {
				f.openErr = err.Error()
				r.node.log.Warn("first packets are not held for the peer", "error", err)
			}
			return
		}
		f.queue, f.overflows = queue, r.sender.Stats().Overflows
		f.hold.Connected()
		go r.readFirst(queue)
	case !want && f.queue != nil:
		f.hold.Disconnected()
		r.releaseFirst(time.Now())
		_ = f.queue.Close() // the rules let packets pass
		f.queue = nil
	}
}

// readFirst takes in packets until the queue is closed.
func (r *replication) readFirst(queue *nfqueue.Queue) {
	ids := make([]uint32, 256)
	for {
		n, err := queue.Receive(context.Background(), ids)
		if err != nil {
			if !errors.Is(err, nfqueue.ErrClosed) {
				r.node.log.Warn("first packets are no longer held for the peer", "error", err)
			}
			return
		}
		r.mu.Lock()
		now := time.Now()
		for _, id := range ids[:n] {
			r.first.hold.Packet(now, id)
		}
		r.first.interrupt()
		r.mu.Unlock()
		signal(r.hurry)
		signal(r.wake)
	}
}

// beginRead returns the context for the next reading of events, and the mark of the
// packets that it will be enough for. Where packets wait for it, it does not wait.
func (r *replication) beginRead(ctx context.Context) (context.Context, uint64) {
	if r.first == nil {
		return ctx, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	reading, cancel := context.WithCancel(ctx)
	mark, unread := r.first.hold.Mark()
	if unread {
		cancel()
	}
	r.first.interrupt = cancel
	return reading, mark
}

// eventsRead tells that no event is left of those before mark.
func (r *replication) eventsRead(now time.Time, mark uint64, lost bool) {
	f := r.first
	if f == nil || f.queue == nil {
		return
	}
	f.interrupt()
	if lost {
		f.hold.Lost()
		return
	}
	r.sender.Flush(now)
	f.hold.Read(now, mark, r.sender.Position())
	r.releaseFirst(now)
}

// releaseFirst lets those packets go on that may.
func (r *replication) releaseFirst(now time.Time) {
	f := r.first
	if f == nil || f.queue == nil {
		return
	}
	if overflows := r.sender.Stats().Overflows; overflows != f.overflows {
		f.overflows = overflows
		f.hold.Disconnected()
		f.hold.Connected()
	}
	f.hold.Acknowledged(now, r.sender.AckedPosition())
	last, ok := f.hold.Due(now)
	if !ok {
		return
	}
	if err := f.queue.Release(last); err != nil {
		r.node.log.Warn("first packets could not be released", "error", err)
	}
}

// firstDeadline is when a held packet's time is up; zero if none waits.
func (r *replication) firstDeadline() time.Time {
	if r.first == nil {
		return time.Time{}
	}
	return r.first.hold.Deadline()
}
