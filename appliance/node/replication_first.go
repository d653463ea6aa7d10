package node

import (
	"context"
	"errors"
	"time"

	"tandem/appliance/status"
	"tandem/conntracksync/hold"
	"tandem/conntracksync/nfqueue"
)

const (
	// queueLength is how many first packets the kernel keeps: more than are held, so that
	// the hold decides who leaves.
	queueLength = 2 * hold.DefaultLength
	// packetBatch is how many first packets are taken in at once.
	packetBatch = 256
	// queueRetry is when a queue that could not be opened, or broke, is tried again.
	queueRetry = time.Second
)

// firstPackets keeps the first packets of flows until the BACKUP knows the flow, for
// networks that want it. Guarded by replication.mu.
type firstPackets struct {
	hold *hold.Hold
	// queue is open while there is a BACKUP; else packets pass without a look.
	queue *nfqueue.Queue
	// interrupt ends the reading of events that waits: a packet needs to know that all
	// of them were read.
	interrupt context.CancelFunc
	// restarts is the sender's count of the positions in use.
	restarts uint64
	// err says why there is no queue though there should be, retryAt when to try again.
	err     string
	retryAt time.Time
	// timer is due when the time of a packet is up, if armed. The pump does not do for
	// this: it may be the connection to the peer that keeps both waiting.
	timer *time.Timer
	armed bool
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
	case want && f.queue == nil && !time.Now().Before(f.retryAt):
		queue, err := nfqueue.Open(nfqueue.Config{Group: r.node.doc().Group, Length: queueLength})
		if err != nil {
			r.failFirst(err)
			return
		}
		f.queue, f.err, f.restarts = queue, "", r.sender.Restarts()
		f.hold.Connected()
		go r.readFirst(queue)
	case !want:
		r.dropQueue()
		f.err, f.retryAt = "", time.Time{}
	}
}

// dropQueue lets all packets go: rules let them pass without a queue.
func (r *replication) dropQueue() {
	f := r.first
	if f.queue == nil {
		return
	}
	f.hold.Disconnected()
	f.hold.Due(time.Now()) // closing lets these go as well
	if err := f.queue.Close(); err != nil {
		r.node.log.Warn("first packets may have been lost", "error", err)
	}
	f.queue = nil
}

func (r *replication) failFirst(err error) {
	f := r.first
	f.retryAt = time.Now().Add(queueRetry)
	if f.err != err.Error() {
		f.err = err.Error()
		r.node.log.Warn("first packets are not held for the peer", "error", err)
	}
}

// closeFirst is for the end.
func (r *replication) closeFirst() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first != nil {
		r.dropQueue()
	}
}

// readFirst takes in packets until the queue is closed.
func (r *replication) readFirst(queue *nfqueue.Queue) {
	ids := make([]uint32, packetBatch)
	for {
		n, err := queue.Receive(context.Background(), ids)
		if !r.takeFirst(queue, ids[:n], err) {
			return
		}
		signal(r.hurryRead)
		signal(r.hurrySend)
	}
}

// takeFirst returns false if the queue is no longer used.
func (r *replication) takeFirst(queue *nfqueue.Queue, ids []uint32, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.first
	if f.queue != queue {
		return false
	}
	if err != nil && !errors.Is(err, nfqueue.ErrClosed) {
		r.dropQueue() // nobody would release what waits there
		r.failFirst(err)
		return false
	}
	now := time.Now()
	for _, id := range ids {
		f.hold.Packet(now, id)
	}
	f.interrupt()
	r.armFirst(now)
	return true
}

// armFirst sees to it that packets go when their time is up.
func (r *replication) armFirst(now time.Time) {
	f := r.first
	deadline := f.hold.Deadline()
	if f.armed || deadline.IsZero() {
		return
	}
	f.armed = true
	wait := max(deadline.Sub(now), 0)
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, r.expireFirst)
		return
	}
	f.timer.Reset(wait)
}

func (r *replication) expireFirst() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first.armed = false
	now := time.Now()
	r.releaseFirst(now)
	r.armFirst(now)
}

// beginRead returns the context for the next reading of events, what ends it, and the
// mark of the packets that it will be enough for. Where packets wait for it, it does
// not wait.
func (r *replication) beginRead(ctx context.Context) (reading context.Context, done context.CancelFunc, mark uint64) {
	if r.first == nil {
		return ctx, func() {}, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	reading, done = context.WithCancel(ctx)
	mark, unread := r.first.hold.Mark()
	if unread {
		done()
	}
	r.first.interrupt = done
	return reading, done, mark
}

// eventsRead tells that no event is left of those before mark.
func (r *replication) eventsRead(now time.Time, mark uint64, lost bool) {
	f := r.first
	if f == nil || f.queue == nil {
		return
	}
	r.renewFirst()
	if lost {
		f.hold.Lost()
		return
	}
	if _, unread := f.hold.Mark(); unread {
		r.sender.Flush(now)
		r.renewFirst()
		f.hold.Read(now, mark, r.sender.Position())
	}
	r.releaseFirst(now)
}

// renewFirst lets the packets go whose positions have lost their meaning.
func (r *replication) renewFirst() {
	f := r.first
	if restarts := r.sender.Restarts(); restarts != f.restarts {
		f.restarts = restarts
		f.hold.Connected()
	}
}

// releaseFirst lets those packets go on that may.
func (r *replication) releaseFirst(now time.Time) {
	f := r.first
	if f == nil || f.queue == nil {
		return
	}
	r.renewFirst()
	f.hold.Acknowledged(now, r.sender.AckedPosition())
	last, ok := f.hold.Due(now)
	if !ok {
		return
	}
	if err := f.queue.Release(last); err != nil {
		r.dropQueue()
		r.failFirst(err)
	}
}

// firstUrgent tells that packets wait for what is to be sent, or on the MASTER may do.
func (r *replication) firstUrgent() bool {
	f := r.first
	return f != nil && (!r.role.master || !f.hold.Deadline().IsZero())
}

// firstStatus is nil for pairs that hold no first packets.
func (r *replication) firstStatus() *status.FirstPackets {
	f := r.first
	if f == nil {
		return nil
	}
	h := f.hold.Stats()
	s := &status.FirstPackets{
		Holding: f.queue != nil, Error: f.err, Waiting: h.Waiting,
		Held: h.Held, Acknowledged: h.Acknowledged, Expired: h.Expired, Displaced: h.Displaced, Abandoned: h.Abandoned,
		Unprotected: h.Unprotected, Waited: h.Waited, LongestWait: h.Longest,
	}
	if h.Acknowledged > 0 {
		s.MeanWait = h.Waited / time.Duration(h.Acknowledged)
	}
	return s
}
