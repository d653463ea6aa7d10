package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/peer"
)

const (
	// pingInterval keeps the stream from being silent; silenceLimit is after how
	// long a silent stream counts as broken: within a second that is an alarm.
	pingInterval = 200 * time.Millisecond
	silenceLimit = 900 * time.Millisecond
	// helloLimit is how long the peer may take to say hello.
	helloLimit = 1500 * time.Millisecond
	// reconnectDelay is the pause between attempts to connect.
	reconnectDelay = 250 * time.Millisecond
	// maxWaiting is how many encoded frames may wait for the connection before no
	// more of a dump is taken in.
	maxWaiting = 8
	// maxLogged bounds the reasons for not having a stream that are logged.
	maxLogged = 8
)

// connection is an open stream to the peer, after both hellos.
type connection struct {
	channel *peer.Channel
	remote  conntracksync.Hello
	traffic *traffic
	frames  chan *conntracksync.Frame
	free    chan *conntracksync.Frame
	writes  chan []byte
	// lost holds the error that ended the stream.
	lost chan error
	once sync.Once
	done chan struct{}
}

// channels are what the loop selects on; nil channels block for ever.
func (c *connection) channels() (<-chan *conntracksync.Frame, <-chan error) {
	if c == nil {
		return nil, nil
	}
	return c.frames, c.lost
}

// fail ends the stream once.
func (c *connection) fail(err error) {
	c.once.Do(func() {
		c.lost <- err // buffered
		close(c.done)
		_ = c.channel.Close() // the first error says more
	})
}

// recycle gives a frame's memory back.
func (c *connection) recycle(f *conntracksync.Frame) {
	if c == nil {
		return
	}
	select {
	case c.free <- f:
	default:
	}
}

// connect keeps a stream to the peer open until ctx ends: the member whose name
// sorts first calls, the other one listens.
func (r *replication) connect(ctx context.Context) error {
	ha := r.node.doc.HALink
	mine, theirs := ha.Ports[r.node.opts.Name], ha.Ports[r.peer.Name]
	cfg := peer.Config{
		Interface: mine.Interface, Identity: r.node.identity, PeerKey: r.peer.PublicKey,
		Local:  netip.AddrPortFrom(mine.Address, ha.Port),
		Remote: netip.AddrPortFrom(theirs.Address, ha.Port),
	}
	open := r.dialer(cfg)
	if r.node.opts.Name > r.peer.Name {
		var closeListener func()
		open, closeListener = r.listener(cfg)
		defer closeListener()
	}
	// Before, this node does not even have its address on the HA link.
	select {
	case <-ctx.Done():
	case <-r.node.programmed:
	}
	for ctx.Err() == nil {
		err := r.converse(ctx, open)
		if ctx.Err() != nil {
			return nil
		}
		r.noteTrouble(err)
		select {
		case <-ctx.Done():
		case <-time.After(reconnectDelay):
		}
	}
	return nil
}

// noteTrouble remembers why there is no stream. Each reason is logged once until
// there is one again: attempts follow each other quickly.
func (r *replication) noteTrouble(err error) {
	var wrong *peer.WrongKeyError
	var refused *peer.RefusedError
	r.mu.Lock()
	defer r.mu.Unlock()
	r.linkErr, r.keyErr = withoutPorts(err.Error()), errors.As(err, &wrong) || errors.As(err, &refused)
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

// dialer returns a function that calls the peer.
func (r *replication) dialer(cfg peer.Config) func(context.Context) (*peer.Channel, error) {
	return func(ctx context.Context) (*peer.Channel, error) { return peer.Dial(ctx, cfg) }
}

// listener returns a function that waits for the peer's call, and one that ends
// the listening. The interface may be missing at first, so it is opened late.
func (r *replication) listener(cfg peer.Config) (func(context.Context) (*peer.Channel, error), func()) {
	var l *peer.Listener
	open := func(ctx context.Context) (*peer.Channel, error) {
		if l == nil {
			var err error
			if l, err = peer.Listen(ctx, cfg); err != nil {
				l = nil
				return nil, err
			}
		}
		return l.Accept(ctx)
	}
	return open, func() {
		if l != nil {
			_ = l.Close() // the process is ending
		}
	}
}

// converse opens a stream, says hello and serves it until it breaks.
func (r *replication) converse(ctx context.Context, open func(context.Context) (*peer.Channel, error)) error {
	channel, err := open(ctx)
	if err != nil {
		return err
	}
	c := &connection{
		channel: channel, traffic: &r.traffic, frames: make(chan *conntracksync.Frame, 4), free: make(chan *conntracksync.Frame, 8),
		writes: make(chan []byte), lost: make(chan error, 1), done: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	defer stop()
	if err := r.greet(c); err != nil {
		c.fail(err)
		return err
	}
	select {
	case r.conns <- c:
	case <-ctx.Done():
		c.fail(ctx.Err())
		return ctx.Err()
	}
	go c.write()
	err = c.read()
	c.fail(err)
	return err
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
	return conntracksync.Hello{
		ProtocolMin: conntracksync.ProtocolMin, ProtocolMax: conntracksync.ProtocolMax,
		Epoch: r.epoch, Role: r.role.wire(), Term: r.role.term,
		Node: r.node.opts.Name, ConfigHash: r.node.doc.Hash(),
	}
}

func (c roleChange) wire() conntracksync.Role {
	if c.master {
		return conntracksync.RoleMaster
	}
	return conntracksync.RoleBackup
}

// read brings frames to the loop until the stream breaks.
func (c *connection) read() error {
	var buf []byte
	for {
		var err error
		if buf, err = c.channel.Receive(buf, time.Now().Add(silenceLimit)); err != nil {
			return err
		}
		c.traffic.received.Add(uint64(len(buf)))
		var f *conntracksync.Frame
		select {
		case f = <-c.free:
		default:
			f = new(conntracksync.Frame)
		}
		if err := conntracksync.ParseFrame(buf, f); err != nil {
			return err
		}
		select {
		case c.frames <- f:
		case <-c.done:
			return errors.New("the stream was closed")
		}
	}
}

// write sends what the loop hands over until the stream breaks.
func (c *connection) write() {
	for {
		select {
		case b := <-c.writes:
			if err := c.channel.Send(b); err != nil {
				c.fail(err)
				return
			}
			c.traffic.sent.Add(uint64(len(b)))
		case <-c.done:
			return
		}
	}
}

// takeConnection begins to use a stream.
func (r *replication) takeConnection(now time.Time, c *connection) {
	if r.conn != nil {
		r.conn.fail(errors.New("replaced by a newer stream"))
	}
	mine := conntracksync.Hello{ProtocolMin: conntracksync.ProtocolMin, ProtocolMax: conntracksync.ProtocolMax, Role: r.role.wire(), Term: r.role.term}
	r.conn, r.remote, r.peerHash, r.linkErr, r.keyErr, r.out = c, c.remote, c.remote.ConfigHash, "", false, nil
	r.logged = nil
	r.sender.Connected(now, mine, c.remote)
	r.obey(r.receiver.Connected(now, mine, c.remote))
	r.node.log.Info("the replication stream is up", "peer", r.peer.Name)
	r.sendStatus()
}

func (r *replication) loseConnection(err error) {
	r.conn, r.out, r.peerHash, r.linkErr = nil, nil, "", withoutPorts(err.Error())
	r.sender.Disconnected()
	r.receiver.Disconnected()
}

// sendStatus tells the peer how this node stands.
func (r *replication) sendStatus() {
	r.enqueue(&conntracksync.Frame{Type: conntracksync.FrameStatus, Status: conntracksync.PeerStatus{
		Role: r.role.wire(), Term: r.role.term, Ready: r.ready.Load(), ConfigHash: r.node.doc.Hash(),
	}})
}

// enqueue encodes a frame for the writer.
func (r *replication) enqueue(f *conntracksync.Frame) {
	if r.conn == nil {
		return
	}
	if f.Version == 0 {
		f.Version = conntracksync.ProtocolMax
	}
	r.out = append(r.out, conntracksync.AppendFrame(nil, f))
}

// nextFrame returns what the writer is to send next and its channel; a nil channel
// if there is nothing.
func (r *replication) nextFrame(now time.Time) ([]byte, chan<- []byte) {
	if r.conn == nil {
		return nil, nil
	}
	// The sender's queue, not this one, is where flows wait: it coalesces.
	for len(r.out) < 2 {
		f, ok := r.sender.Next(now)
		if !ok {
			break
		}
		r.enqueue(&f)
	}
	if len(r.out) == 0 {
		return nil, nil
	}
	return r.out[0], r.conn.writes
}
