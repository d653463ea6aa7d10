package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
	"tandem/router/config"
)

const (
	// eventBatch is how many events or flows are handed over at once; eventSets are
	// in flight, so that one is filled while another is emptied.
	eventBatch = 256
	eventSets  = 4
	// barrierTime bounds how long a handover waits for the peer's acknowledgement.
	barrierTime = time.Second
	// idleInterval is how often the loop looks around when nothing happens.
	idleInterval = time.Second
)

// replication keeps the session tables of the two nodes equal. One goroutine,
// loop, decides; the others bring it events, dumps, frames and wishes.
type replication struct {
	node  *node
	peer  config.Member
	table *ctnetlink.Conn
	epoch uint64

	events   chan eventSet
	free     chan []conntracksync.Event
	roles    chan roleChange
	conns    chan *connection
	dumps    chan dumpPart
	barriers chan chan error
	ready    atomic.Bool

	// mu guards what status reads; loop holds it while it works.
	mu       sync.Mutex
	sender   *conntracksync.Sender
	receiver *conntracksync.Receiver
	conn     *connection
	// out holds encoded frames that wait for the connection's writer.
	out     [][]byte
	waiting []chan error
	role    roleChange
	remote  conntracksync.Hello
	// peerHash is the hash of the peer's document, empty while not connected.
	peerHash string
	// peerStatus is what the peer last said of itself on this stream.
	peerStatus conntracksync.PeerStatus
	// ways are the HA links, the preferred one first.
	ways []way
	// linkErr says why there is no stream; keyErr tells that a key is to blame.
	linkErr string
	keyErr  bool
	// logged are the reasons that were logged since there was a stream.
	logged  []string
	applied ctnetlink.Result
	dumping bool
	// overrun tells that events were lost and the queue is not yet empty.
	overrun bool
	traffic traffic
}

// traffic counts the bytes of the frames that went over the streams.
type traffic struct{ sent, received atomic.Uint64 }

// eventSet is what the kernel reported.
type eventSet struct {
	events  []conntracksync.Event
	overrun bool
}

// roleChange is the elector's word on this node's role.
type roleChange struct {
	master bool
	term   uint64
}

// newReplication opens the kernel's table.
func newReplication(n *node, other config.Member) (*replication, error) {
	table, err := ctnetlink.Open(ctnetlink.Config{})
	if err != nil {
		return nil, fmt.Errorf("open connection tracking: %w; does this kernel have the modules nf_conntrack and nf_conntrack_netlink?", err)
	}
	var epoch [8]byte
	if _, err := rand.Read(epoch[:]); err != nil {
		return nil, fmt.Errorf("draw epoch: %w", err)
	}
	ways, err := n.ways(other)
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	own := n.ownAddresses()
	return &replication{
		node: n, peer: other, ways: ways, table: table, epoch: binary.BigEndian.Uint64(epoch[:]),
		events: make(chan eventSet), free: make(chan []conntracksync.Event, eventSets),
		roles: make(chan roleChange), conns: make(chan *connection), dumps: make(chan dumpPart),
		barriers: make(chan chan error),
		sender:   conntracksync.NewSender(conntracksync.SenderConfig{Exclude: own}),
		receiver: conntracksync.NewReceiver(conntracksync.ReceiverConfig{Exclude: own}),
	}, nil
}

// ownAddresses are those of both nodes' own ports: flows from and to them are the
// nodes' own business and not replicated.
func (n *node) ownAddresses() []netip.Addr {
	var own []netip.Addr
	add := func(ports map[string]config.Port) {
		for _, p := range ports {
			for _, address := range []netip.Addr{p.Address, p.IPv6, p.LinkLocal} {
				if address.IsValid() {
					own = append(own, address)
				}
			}
		}
	}
	for _, u := range n.doc.Uplinks {
		add(u.Ports)
	}
	for _, w := range n.doc.Networks {
		add(w.Ports)
	}
	for _, link := range []*config.HALink{n.doc.HALink, n.doc.SecondHALink} {
		if link != nil {
			add(link.Ports)
		}
	}
	return own
}

// run replicates until ctx ends.
func (r *replication) run(ctx context.Context) error {
	defer func() { _ = r.table.Close() }() // the process is ending
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.readEvents(ctx) })
	g.Go(func() error { return r.connect(ctx) })
	g.Go(func() error { return r.loop(ctx) })
	return g.Wait()
}

// readEvents brings the kernel's events to the loop. Lost events are a reason to
// repair, never to end.
func (r *replication) readEvents(ctx context.Context) error {
	for range eventSets {
		r.free <- make([]conntracksync.Event, eventBatch)
	}
	for {
		var buf []conntracksync.Event
		select {
		case <-ctx.Done():
			return nil
		case buf = <-r.free:
		}
		n, overrun, err := r.table.Receive(ctx, buf[:eventBatch])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case r.events <- eventSet{events: buf[:n], overrun: overrun}:
		}
	}
}

// loop owns the sender and the receiver.
func (r *replication) loop(ctx context.Context) error {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		r.mu.Lock()
		now := time.Now()
		r.startDumps(ctx, now)
		r.answerBarriers()
		next, writer := r.nextFrame(now)
		frames, lost := r.conn.channels()
		dumps := r.dumps
		if len(r.out) > maxWaiting {
			dumps = nil // let the connection catch up first
		}
		timer := time.NewTimer(r.untilDeadline(now))
		r.publish()
		r.mu.Unlock()

		var work func(now time.Time)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case set := <-r.events:
			work = func(now time.Time) { r.takeEvents(now, set) }
		case change := <-r.roles:
			work = func(now time.Time) { r.takeRole(now, change) }
		case conn := <-r.conns:
			work = func(now time.Time) { r.takeConnection(now, conn) }
		case f := <-frames:
			work = func(now time.Time) { r.takeFrame(now, f) }
		case err := <-lost:
			work = func(now time.Time) { r.loseConnection(err) }
		case part := <-dumps:
			work = func(now time.Time) { r.takeDump(now, part) }
		case writer <- next:
			work = func(time.Time) { r.out = r.out[1:] }
		case done := <-r.barriers:
			work = func(now time.Time) { r.sender.Barrier(now); r.waiting = append(r.waiting, done) }
		case <-ping.C:
			work = func(time.Time) { r.enqueue(&conntracksync.Frame{Type: conntracksync.FramePing}) }
		case <-timer.C:
			work = r.repair
		}
		timer.Stop()
		r.mu.Lock()
		work(time.Now())
		r.mu.Unlock()
	}
}

// untilDeadline returns how long nothing is due.
func (r *replication) untilDeadline(now time.Time) time.Duration {
	if at := r.sender.Deadline(); !at.IsZero() {
		return min(max(at.Sub(now), 0), idleInterval)
	}
	return idleInterval
}

// publish tells the election whether this node could take over without loss.
func (r *replication) publish() {
	ready := r.role.master || r.receiver.Complete()
	if r.ready.Swap(ready) != ready {
		r.node.rejudge()
		r.sendStatus()
	}
}

func (r *replication) takeEvents(now time.Time, set eventSet) {
	for _, e := range set.events {
		r.sender.Event(now, e)
	}
	r.overrun = r.overrun || set.overrun
	if len(set.events) < eventBatch {
		r.repair(now)
	}
	r.free <- set.events // has room for all there are
}

// repair asks for a full transfer after the kernel has dropped events. The kernel
// tells of the loss before it hands out what it had queued until then, and these
// older events must not count as newer than the transfer, so it waits for the end
// of the queue.
func (r *replication) repair(now time.Time) {
	if !r.overrun {
		return
	}
	r.overrun = false
	r.node.log.Warn("the kernel dropped conntrack events; repairing by a full transfer")
	r.sender.Overrun(now)
}

func (r *replication) takeRole(now time.Time, change roleChange) {
	r.feedWaiting(now)
	r.role = change
	r.sender.SetRole(now, change.master, change.term)
	r.obey(r.receiver.SetRole(now, change.master, change.term))
	r.sendStatus()
}

// feedWaiting takes in what the kernel has reported already: it belongs to the role
// that ends.
func (r *replication) feedWaiting(now time.Time) {
	for {
		select {
		case set := <-r.events:
			r.takeEvents(now, set)
		default:
			return
		}
	}
}

func (r *replication) takeFrame(now time.Time, f *conntracksync.Frame) {
	switch f.Type {
	case conntracksync.FrameAck:
		r.sender.Acked(now, f.Acked)
	case conntracksync.FrameDumpRequest:
		r.sender.DumpRequested(now)
	case conntracksync.FrameStatus:
		r.peerHash, r.peerStatus = f.Status.ConfigHash, f.Status
	case conntracksync.FrameFlows, conntracksync.FrameDumpBegin, conntracksync.FrameDumpEnd, conntracksync.FrameBarrier:
		r.obey(r.receiver.Receive(now, f))
		r.obey(r.receiver.Applied(time.Now()))
	case conntracksync.FrameHello, conntracksync.FramePing:
	}
	r.conn.recycle(f)
}

// obey carries out what the receiver asks for.
func (r *replication) obey(out conntracksync.Output) {
	if len(out.Ops) > 0 {
		result, err := r.table.Apply(out.Ops)
		r.applied.Add(result)
		if err != nil {
			r.node.log.Error("sessions could not be written to the kernel", "error", err)
		}
	}
	for i := range out.Replies {
		r.enqueue(&out.Replies[i])
	}
}

var errNotReplicating = errors.New("sessions are not being replicated")

// barrier waits until the peer has acknowledged every session that the kernel has
// reported.
func (r *replication) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTime)
	defer cancel()
	done := make(chan error, 1)
	select {
	case r.barriers <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("the peer did not acknowledge in time; the replication lag is in `tandem status`")
	}
}

func (r *replication) answerBarriers() {
	if len(r.waiting) == 0 {
		return
	}
	var err error
	switch {
	case r.conn == nil || !r.role.master:
		err = errNotReplicating
	case !r.sender.BarrierPassed(), !r.sender.Complete():
		return
	}
	for _, done := range r.waiting {
		done <- err // buffered
	}
	r.waiting = nil
}

// setRole is called by the elector's reports.
func (r *replication) setRole(ctx context.Context, change roleChange) {
	r.mu.Lock()
	same := r.role == change
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.roles <- change:
	case <-ctx.Done():
	}
}

// keyTrouble says why the keys of the two nodes do not fit; empty if they do.
func (r *replication) keyTrouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.keyErr {
		return ""
	}
	return r.linkErr
}

func (r *replication) complete() bool { return r.ready.Load() }
