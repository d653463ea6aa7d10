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
	// eventBatch is how many events are taken in at once: not so many that the last ones
	// push the first ones out of the processor's cache.
	eventBatch = 128
	// eventSignal is after how many events that come without a pause the pump is told.
	eventSignal = 8 * eventBatch
	// settleTime is how long no event has come before the kernel's queue counts as
	// empty.
	settleTime = 50 * time.Millisecond
	// overrunQuiet is how long nothing more is logged of lost events.
	overrunQuiet = 10 * time.Second
	// barrierTime bounds how long a handover waits for the peer's acknowledgement.
	barrierTime = time.Second
	// idleInterval is how often the pump looks around when nothing happens.
	idleInterval = time.Second
	// indexLabel tells the key of the index from other secrets of the members.
	indexLabel = "tandem session index"
)

// replication keeps the session tables of the two nodes equal. Events, frames and
// parts of dumps are taken in by the goroutines that read them; pump sends. All work
// under mu, so that what the kernel is told is in order.
type replication struct {
	node  *node
	peer  config.Member
	table *ctnetlink.Conn
	epoch uint64

	// wake tells the pump that there may be something to send, rows tells a dump that
	// the pump has sent something.
	wake, rows chan struct{}
	// hurryRead and hurrySend end the pauses that let events and frames gather.
	hurryRead, hurrySend chan struct{}
	// pace is a time.Duration: how long events gather at present.
	pace    atomic.Int64
	ready   atomic.Bool
	traffic traffic

	mu    sync.Mutex
	index *conntracksync.Index
	// timeouts are the kernel's, which sender and receiver look at.
	timeouts *conntracksync.TimeoutTable
	sender   *conntracksync.Sender
	receiver *conntracksync.Receiver
	conn     *connection
	// control holds encoded frames that are not the sender's.
	control [][]byte
	// sentAt is when something was last handed to the connection.
	sentAt  time.Time
	waiting []chan error
	role    roleChange
	remote  conntracksync.Hello
	// peerHash is the hash of the peer's document, empty while not connected.
	peerHash string
	// ways are the HA links, the preferred one first.
	ways []way
	// linkErr says why there is no stream; keyErr tells that a key is to blame.
	linkErr string
	keyErr  bool
	// logged are the reasons that were logged since there was a stream.
	logged  []string
	applied ctnetlink.Result
	dumping bool
	samples samples
	masters masters
	// first is nil if no network holds first packets.
	first *firstPackets
	// overrun tells that events were lost and the queue is not yet empty; eventsAt is
	// when events last came.
	overrun         bool
	eventsAt        time.Time
	overrunLoggedAt time.Time
	// published is what the observer was last woken for: whether the table is complete.
	published bool
	// countedAt is when the BACKUP last counted its table.
	countedAt time.Time
}

// traffic counts the bytes of the frames that went over the streams.
type traffic struct{ sent, received atomic.Uint64 }

// roleChange is the elector's word on this node's role.
type roleChange struct {
	master bool
	term   uint64
}

// newReplication opens the kernel's table.
func newReplication(n *node, other config.Member) (*replication, error) {
	secret, err := n.identity.SharedSecret(other.PublicKey, indexLabel)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the session index: %w", err)
	}
	table, err := ctnetlink.Open(ctnetlink.Config{Expectations: true})
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
	own, local, timeouts := n.ownAddresses(), n.unreplicated(), conntracksync.DefaultTimeouts()
	index := conntracksync.NewIndex([16]byte(secret))
	return &replication{
		node: n, peer: other, ways: ways, table: table, epoch: binary.BigEndian.Uint64(epoch[:]),
		wake: make(chan struct{}, 1), rows: make(chan struct{}, 1),
		hurryRead: make(chan struct{}, 1), hurrySend: make(chan struct{}, 1),
		first: newFirstPackets(n.intent().Held),
		index: index, timeouts: timeouts,
		sender:   conntracksync.NewSender(conntracksync.SenderConfig{Exclude: own, ExcludeNetworks: local, Timeouts: timeouts}, index),
		receiver: conntracksync.NewReceiver(conntracksync.ReceiverConfig{Exclude: own, ExcludeNetworks: local, Timeouts: timeouts}, index),
	}, nil
}

// reconfigure takes what a changed document says of the sessions.
func (r *replication) reconfigure() {
	own, local := r.node.ownAddresses(), r.node.unreplicated()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sender.SetExclude(own, local)
	r.receiver.SetExclude(own, local)
	if r.first == nil { // once there, it stays: without rules nothing gets to it
		r.first = newFirstPackets(r.node.intent().Held)
	}
	signal(r.wake)
}

// unreplicated are the subnets whose flows stay on the node.
func (n *node) unreplicated() []netip.Prefix {
	var local []netip.Prefix
	for _, u := range n.intent().Unreplicated {
		local = append(local, u.Prefixes...)
	}
	return local
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
	for _, u := range n.doc().Uplinks {
		add(u.Ports)
	}
	for _, w := range n.doc().Networks {
		add(w.Ports)
	}
	for _, link := range []*config.HALink{n.doc().HALink, n.doc().SecondHALink} {
		if link != nil {
			add(link.Ports)
		}
	}
	return own
}

// run replicates until ctx ends.
func (r *replication) run(ctx context.Context) error {
	defer func() { _ = r.table.Close() }() // the process is ending
	defer r.closeFirst()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.readEvents(ctx) })
	g.Go(func() error { return r.connect(ctx) })
	g.Go(func() error { return r.pump(ctx) })
	return g.Wait()
}

// signal wakes whoever waits for c, now or later.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// readEvents takes in what the kernel reports. Lost events are a reason to repair,
// never to end.
func (r *replication) readEvents(ctx context.Context) error {
	events := make([]conntracksync.Event, eventBatch)
	pause := newPacer(r.hurryRead)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for count := 0; ; {
		reading, done, mark := r.beginRead(ctx)
		if count > 0 {
			reading = ended // no more than what is there
		}
		n, overrun, err := r.table.Receive(reading, events)
		done()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		r.takeEvents(events[:n], overrun, mark)
		count += n
		if n < eventBatch || count%eventSignal == 0 {
			signal(r.wake)
		}
		if n == eventBatch {
			continue
		}
		r.pace.Store(int64(pause.pace(count)))
		pause.keep(ctx, time.Duration(r.pace.Load()))
		count = 0
	}
}

// takeEvents takes in what was reported. If that is all there was, the first packets
// before mark know what they wait for.
func (r *replication) takeEvents(events []conntracksync.Event, overrun bool, mark uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.eventsAt = now
	if r.role.master {
		r.sender.Events(now, events)
		r.masters.note(now, events)
	} else {
		for i := range events {
			r.receiver.Event(now, &events[i])
		}
	}
	r.overrun = r.overrun || overrun
	if overrun || len(events) == eventBatch {
		return // there may be more
	}
	r.eventsRead(now, mark, r.overrun)
	r.repair(now)
}

// repair makes up for events that the kernel has dropped. The kernel tells of the
// loss before it hands out what it had queued until then, and these older events must
// not count as newer than what the repair reads, so it waits for the end of the queue.
func (r *replication) repair(now time.Time) {
	if !r.overrun {
		return
	}
	r.overrun = false
	if now.Sub(r.overrunLoggedAt) > overrunQuiet {
		r.overrunLoggedAt = now
		r.node.log.Warn("the kernel dropped conntrack events; comparing the tables")
	}
	r.sender.Overrun(now)
	r.receiver.Overrun(now)
}

// unreported makes up for a while in which the kernel was told to report nothing. What
// began in it is never reported, so that only a look at the whole table finds it.
func (r *replication) unreported() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node.log.Warn("something has told the kernel not to report sessions; comparing the tables", "sysctl", "net.netfilter.nf_conntrack_events")
	now := time.Now()
	r.sender.Overrun(now)
	r.receiver.Recheck(now)
	r.publish()
	signal(r.wake)
}

// publish tells the election whether this node could take over without loss.
func (r *replication) publish() {
	complete := r.receiver.Complete()
	ready := r.role.master || complete
	if r.role.master {
		complete = r.sender.Complete()
	}
	if complete != r.published {
		r.published = complete
		r.node.observer.wake()
	}
	if r.ready.Swap(ready) != ready {
		r.node.rejudge()
		r.sendStatus()
	}
}

// setRole is called by the elector's reports. What the kernel has reported and nobody
// has read yet counts for the new role: it is true of this node's table in either.
func (r *replication) setRole(change roleChange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.role == change {
		return
	}
	now := time.Now()
	// What happens in a BACKUP's table comes from the peer, and the kernel makes a message
	// of each change for whoever listens, ours included: that would double their cost.
	scope := ctnetlink.ScopeNothing
	if change.master {
		scope = ctnetlink.ScopeEverything
	}
	if err := r.table.Hear(scope); err != nil {
		r.node.log.Error("the events of connection tracking cannot be chosen", "error", err)
	}
	r.role = change
	if change.master {
		r.obey(r.receiver.SetRole(now, true, change.term))
		r.sender.SetRole(now, true, change.term)
	} else {
		r.sender.SetRole(now, false, change.term)
		r.obey(r.receiver.SetRole(now, false, change.term))
	}
	r.switchFirst()
	r.publish()
	r.sendStatus()
	signal(r.wake)
}

// takeFrame takes in a frame of the peer.
func (r *replication) takeFrame(c *connection, f *conntracksync.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != c {
		return // of a stream that was replaced
	}
	now := time.Now()
	switch f.Type {
	case conntracksync.FrameAck, conntracksync.FrameDigestRequest, conntracksync.FrameRepairRequest:
		r.sender.Receive(now, f)
		r.releaseFirst(now)
		r.publish()
		r.answerBarriers()
		if f.Type != conntracksync.FrameAck { // which asks for nothing
			signal(r.wake)
		}
	case conntracksync.FrameStatus:
		if r.peerHash != f.Status.ConfigHash {
			r.node.observer.wake()
		}
		r.peerHash = f.Status.ConfigHash
	case conntracksync.FrameHello, conntracksync.FramePing:
	case conntracksync.FrameFlows, conntracksync.FrameDigest, conntracksync.FrameDigests,
		conntracksync.FrameRepairBegin, conntracksync.FrameRepairEnd, conntracksync.FrameBarrier:
		r.obey(r.receiver.Receive(now, f))
		r.publish()
	default: // a newer version's; the receiver counts it
		r.obey(r.receiver.Receive(now, f))
	}
}

// obey carries out what the receiver asks for.
func (r *replication) obey(out conntracksync.Output) {
	failed := r.write(out.Ops)
	r.reply(out.Replies)
	r.reply(r.receiver.Applied(time.Now(), failed).Replies)
}

// write changes the kernel's table and returns which operations failed.
func (r *replication) write(ops []conntracksync.Op) (failed []int) {
	if len(ops) == 0 {
		return nil
	}
	result, err := r.table.Apply(ops)
	r.applied.Add(result)
	if err == nil {
		r.samples.take(ops, result.Failed)
		return result.Failed
	}
	r.node.log.Error("sessions could not be written to the kernel", "error", err)
	for i := range ops {
		failed = append(failed, i) // how far it came is not known
	}
	return failed
}

func (r *replication) reply(frames []conntracksync.Frame) {
	for i := range frames {
		r.enqueue(&frames[i])
	}
	if len(frames) > 0 {
		signal(r.wake)
	}
}

var errNotReplicating = errors.New("sessions are not being replicated")

// barrier waits until the peer has acknowledged every session that the kernel has
// reported.
func (r *replication) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTime)
	defer cancel()
	done := make(chan error, 1)
	r.mu.Lock()
	r.sender.Barrier(time.Now())
	r.waiting = append(r.waiting, done)
	r.mu.Unlock()
	signal(r.wake)
	signal(r.hurrySend)
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
