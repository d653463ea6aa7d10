package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/peer"
)

const (
	// pingInterval keeps the stream from being silent; silenceLimit is after how
	// long a silent stream counts as broken: within a second that is an alarm.
	pingInterval = 150 * time.Millisecond
	silenceLimit = 750 * time.Millisecond
	// watchInterval is how often the silence is looked at once there is one. A look that is
	// late by more than stallLimit tells of an own stall: then what has come meanwhile is
	// read first.
	watchInterval = 50 * time.Millisecond
	stallLimit    = 100 * time.Millisecond
	// helloLimit is how long the peer may take to say hello.
	helloLimit = 1500 * time.Millisecond
	// controlLimit bounds the frames that wait for a peer that asks much and reads little.
	controlLimit = 1 << 14
	// maxLogged bounds the reasons for not having a stream that are logged.
	maxLogged = 8
)

// connection is an open stream to the peer, after both hellos.
type connection struct {
	channel *peer.Channel
	// link is the HA link that it takes.
	link   string
	remote conntracksync.Hello
	once   sync.Once
	// cause is the same, once done is closed.
	cause error
	done  chan struct{}
	// heardAt is when a frame last came, in nanoseconds since began.
	began   time.Time
	heardAt atomic.Int64
	// busy tells that a frame is being taken in, during which nothing more is read.
	busy atomic.Bool
}

// fail ends the stream once.
func (c *connection) fail(err error) {
	c.once.Do(func() {
		c.cause = err
		close(c.done)
		_ = c.channel.Close() // the first error says more
	})
}

// noteTrouble remembers why there is no stream. Each reason is logged once until
// there is one again: attempts follow each other quickly.
func (r *replication) noteTrouble(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.linkErr, r.keyErr = withoutPorts(err.Error()), aboutKeys(err)
	if len(r.logged) < maxLogged && !slices.Contains(r.logged, r.linkErr) {
		r.logged = append(r.logged, r.linkErr)
		r.node.log.Warn("the replication stream is down", "error", r.linkErr)
	}
}

// withoutPorts takes the port off every address, since a caller's is another one each
// time and says nothing.
func withoutPorts(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		out.WriteByte(text[i])
		if i+2 >= len(text) || !digit(text[i]) || text[i+1] != ':' || !digit(text[i+2]) {
			continue
		}
		for i++; i+1 < len(text) && digit(text[i+1]); {
			i++
		}
	}
	return out.String()
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// converse says hello to the peer, which has answered or called, and serves the stream
// until it breaks. A stream that is there already is replaced once both have said hello.
func (r *replication) converse(ctx context.Context, answered call) error {
	c := &connection{channel: answered.channel, link: answered.link, done: make(chan struct{}), began: time.Now()}
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	defer stop()
	if err := r.greet(c); err != nil {
		c.fail(err)
		return err
	}
	r.use(c)
	go c.watch()
	c.fail(r.read(c))
	r.drop(c)
	return c.cause
}

// greet exchanges hellos.
func (r *replication) greet(c *connection) error {
	mine := r.hello()
	b := conntracksync.AppendFrame(nil, &conntracksync.Frame{Version: mine.ProtocolMin, Type: conntracksync.FrameHello, Hello: mine})
	if err := c.channel.Send(b); err != nil {
		return err
	}
	buf, err := c.channel.Receive(nil, time.Now().Add(helloLimit))
	if err != nil {
		return err
	}
	var f conntracksync.Frame
	if err := conntracksync.ParseFrame(buf, &f); err != nil {
		return err
	}
	if f.Type != conntracksync.FrameHello {
		return fmt.Errorf("the peer began with a %s frame instead of a hello", f.Type)
	}
	if f.Hello.Node != r.peer.Name {
		return fmt.Errorf("the peer calls itself %q, the document calls it %q", f.Hello.Node, r.peer.Name)
	}
	c.remote = f.Hello
	if _, ok := conntracksync.Negotiate(mine, f.Hello); !ok {
		return fmt.Errorf("no common replication protocol: the peer speaks %d to %d, this node %d to %d; a failover now loses sessions",
			f.Hello.ProtocolMin, f.Hello.ProtocolMax, mine.ProtocolMin, mine.ProtocolMax)
	}
	return nil
}

func (r *replication) hello() conntracksync.Hello {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.helloNow()
}

func (r *replication) helloNow() conntracksync.Hello {
	return conntracksync.Hello{
		ProtocolMin: conntracksync.ProtocolMin, ProtocolMax: conntracksync.ProtocolMax, Features: conntracksync.Features,
		Epoch: r.epoch, Role: r.role.wire(), Term: r.role.term,
		Node: r.node.opts.Name, ConfigHash: r.node.hash(),
	}
}

func (c roleChange) wire() conntracksync.Role {
	if c.master {
		return conntracksync.RoleMaster
	}
	return conntracksync.RoleBackup
}

// read takes in frames until the stream breaks.
func (r *replication) read(c *connection) error {
	var buf []byte
	var f conntracksync.Frame
	for {
		var err error
		if buf, err = c.channel.Receive(buf, time.Time{}); err != nil {
			return err
		}
		c.busy.Store(true)
		r.traffic.received.Add(uint64(len(buf)))
		if err := conntracksync.ParseFrame(buf, &f); err != nil {
			return err
		}
		r.takeFrame(c, &f)
		c.heardAt.Store(int64(time.Since(c.began)))
		c.busy.Store(false)
	}
}

// watch ends a stream on which nothing comes. A deadline of the socket would end it also
// when this process was stopped for a while and everything is there to be read.
func (c *connection) watch() {
	timer := time.NewTimer(watchInterval)
	defer timer.Stop()
	start := time.Since(c.began)
	c.heardAt.Store(int64(start))
	due := start + watchInterval
	patience := silenceLimit
	for {
		select {
		case <-c.done:
			return
		case <-timer.C:
		}
		now := time.Since(c.began)
		silent := now - time.Duration(c.heardAt.Load())
		switch {
		case c.busy.Load(): // it is this node that keeps the peer waiting
		case silent < stallLimit+pingInterval:
			patience = silenceLimit
		case now-due > stallLimit:
			patience = max(silenceLimit, silent+pingInterval+stallLimit)
		case silent > patience:
			c.fail(fmt.Errorf("the peer at %s has been silent for %v, check it and the HA link", c.channel.Remote(), silent.Round(10*time.Millisecond)))
			return
		}
		// While frames come there is nothing to look at before the next one is overdue.
		wait := max(watchInterval, stallLimit+pingInterval-silent)
		due = now + wait
		timer.Reset(wait)
	}
}

// use starts to use a stream.
func (r *replication) use(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.fail(errReplaced)
	}
	now, mine := time.Now(), r.helloNow()
	r.conn, r.remote, r.peerHash, r.linkErr, r.keyErr, r.control = c, c.remote, c.remote.ConfigHash, "", false, nil
	r.logged, r.sentAt = nil, now
	r.sender.Connected(now, mine, c.remote)
	r.obey(r.receiver.Connected(now, mine, c.remote))
	r.node.log.Info("the replication stream is up", "peer", r.peer.Name, "link", c.link)
	r.node.observer.wake()
	r.switchFirst()
	r.publish()
	r.sendStatus()
}

// drop stops using a stream that broke, unless a newer one has taken its place.
func (r *replication) drop(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != c {
		return
	}
	r.conn, r.control, r.peerHash, r.linkErr = nil, nil, "", withoutPorts(c.cause.Error())
	r.switchFirst()
	r.sender.Disconnected()
	r.receiver.Disconnected()
	r.node.observer.wake()
	r.publish()
	signal(r.wake)
	signal(r.rows)
}

// sendStatus tells the peer how this node stands.
func (r *replication) sendStatus() {
	r.enqueue(&conntracksync.Frame{Type: conntracksync.FrameStatus, Status: conntracksync.PeerStatus{
		Role: r.role.wire(), Term: r.role.term, Ready: r.ready.Load(), ConfigHash: r.node.hash(),
	}})
	signal(r.wake)
}

// enqueue encodes a frame for the pump.
func (r *replication) enqueue(f *conntracksync.Frame) {
	if r.conn == nil {
		return
	}
	if f.Version == 0 {
		f.Version = conntracksync.ProtocolMin
	}
	if len(r.control) >= controlLimit {
		r.conn.fail(errUnread)
		return
	}
	r.control = append(r.control, conntracksync.AppendFrame(nil, f))
}
