package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// snapshotInterval is how often a client publishes a snapshot.
	snapshotInterval = 100 * time.Millisecond
	// paceTick is how often the client sends what is due.
	paceTick = 2 * time.Millisecond
	// quietRetry is how often a quiet flow of datagrams that was not heard yet sends.
	quietRetry = 500 * time.Millisecond
	// dialParallel bounds handshakes under way, dialTimeout each of them.
	dialParallel = 64
	dialTimeout  = 10 * time.Second
)

// Verb is what a parent asks of a client.
type Verb string

const (
	// Mark begins a new observation window now.
	Mark Verb = "mark"
	// Fault tells the moment of a fault: Resumed counts flows heard since.
	Fault Verb = "fault"
	// Wake makes each quiet flow send one message.
	Wake Verb = "wake"
	// Report asks for a snapshot.
	Report Verb = "report"
	// Stop ends the client.
	Stop Verb = "stop"
)

// Command is one line from the parent. Every command is answered with a snapshot
// that carries its identifier.
type Command struct {
	ID   uint64 `json:"id"`
	Verb Verb   `json:"cmd"`
	// At is the moment of a Fault, by the wall clock; zero is now.
	At time.Time `json:"at,omitzero"`
}

// ErrNotReady is wrapped by Run's error when not every flow could be established.
var ErrNotReady = errors.New("not every flow could be established")

// client is one run of the client.
type client struct {
	cfg            ClientConfig
	key            uint64
	started        time.Time
	tcp, udp, bulk []*flow
	// downlink, ping, sctp and other are further kinds; see ClientConfig.
	downlink, ping, sctp, other []*flow
	// wakes has a place per pace.
	wakes []chan struct{}
	// newOpened and newFailed count further TCP connections.
	newOpened, newFailed atomic.Uint64
	// window and fault are the loop's own.
	window, fault time.Time
	ready         bool
	// rateAt and rateBytes are the base of the download's rate.
	rateAt    time.Time
	rateBytes uint64
	rate      uint64
	stall     atomic.Int64
	// ending tells readers that a broken socket is no loss any more.
	ending atomic.Bool
	wg     sync.WaitGroup
}

// Run opens all flows, keeps them busy and publishes a snapshot every 100 ms until
// ctx ends, commands is closed or Stop comes. It returns an error that wraps
// ErrNotReady if not all flows were established, and nil else: lost flows are in the
// snapshots. publish is called by one goroutine at a time; it may block, the traffic
// does not wait for it.
func Run(ctx context.Context, cfg ClientConfig, commands <-chan Command, publish func(Snapshot)) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("check client configuration: %w", err)
	}
	now := time.Now()
	c := &client{cfg: cfg, key: rand.Uint64(), started: now, window: now, fault: now, rateAt: now}
	ctx, cancel := context.WithCancel(ctx)
	defer c.end(cancel)
	if err := c.open(ctx); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	return c.loop(ctx, commands, publish)
}

// end closes everything and waits for all goroutines.
func (c *client) end(cancel context.CancelFunc) {
	c.ending.Store(true)
	cancel()
	c.endDownlinks()
	for f := range c.flows {
		_ = f.conn.Close()
	}
	c.wg.Wait()
}

// flows walks through all flows.
func (c *client) flows(yield func(*flow) bool) {
	for _, group := range [][]*flow{c.tcp, c.udp, c.bulk, c.downlink, c.ping, c.sctp, c.other} {
		for _, f := range group {
			if !yield(f) {
				return
			}
		}
	}
}

// start begins reading and sending.
func (c *client) start(ctx context.Context) error {
	c.started = time.Now()
	for f := range c.flows {
		f.from = c.started
	}
	for f := range c.flows {
		c.wg.Go(func() {
			switch {
			case f.kind.datagrams():
				c.readUDP(f)
			case f.kind == kindBulk:
				c.readBulk(f)
			default:
				c.readTCP(f)
			}
		})
	}
	c.pace(ctx, c.tcp, c.cfg.TCPInterval, tcpMessageSize)
	for _, flows := range [][]*flow{c.udp, c.ping, c.sctp, c.other} {
		c.pace(ctx, flows, c.cfg.UDPInterval, udpMessageSize)
	}
	c.wg.Go(func() { c.askDownlinks(ctx) })
	if c.cfg.NewPerSecond > 0 {
		fresh, err := c.newChurn()
		if err != nil {
			return err
		}
		c.wg.Go(func() { fresh.run(ctx) })
	}
	return nil
}

// loop publishes snapshots and obeys commands.
func (c *client) loop(ctx context.Context, commands <-chan Command, publish func(Snapshot)) error {
	tick := time.NewTicker(snapshotInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			now := time.Now()
			for f := range c.flows {
				f.checkPatience(now, c.cfg.Patience, c.started)
			}
			c.measureRate(now)
			s := c.snapshot(now)
			if !c.ready && s.Lost() > 0 {
				return notReady(s)
			}
			publish(s)
		case command, open := <-commands:
			if !open {
				return nil
			}
			publish(c.obey(command))
			if command.Verb == Stop {
				return nil
			}
		}
	}
}

// obey carries out a command and returns the answer.
func (c *client) obey(command Command) Snapshot {
	now := time.Now()
	wrong := ""
	switch command.Verb {
	case Mark:
		for f := range c.flows {
			f.mark(now)
		}
		c.stall.Store(0)
		c.window, c.fault = now, now
	case Fault:
		c.fault = now
		if !command.At.IsZero() {
			c.fault = command.At
		}
	case Wake:
		for _, wake := range c.wakes {
			select {
			case wake <- struct{}{}:
			default: // it is about to send
			}
		}
	case Report, Stop:
	default:
		wrong = fmt.Sprintf("unknown command %q: use mark, fault, wake, report or stop", command.Verb)
	}
	s := c.snapshot(now)
	s.ReplyTo, s.Error = command.ID, wrong
	return s
}

func (c *client) snapshot(now time.Time) Snapshot {
	fault := c.fault.UnixNano()
	s := Snapshot{
		Time: now, Uptime: now.Sub(c.started), WindowStart: c.window, Fault: c.fault,
		TCP:      summarise(c.tcp, now, c.started, fault),
		UDP:      summarise(c.udp, now, c.started, fault),
		Bulk:     summarise(c.bulk, now, c.started, fault),
		Downlink: summarise(c.downlink, now, c.started, fault),
		Ping:     summarise(c.ping, now, c.started, fault),
		SCTP:     summarise(c.sctp, now, c.started, fault),
		Other:    summarise(c.other, now, c.started, fault),
		Opened:   c.newOpened.Load(), Failed: c.newFailed.Load(),
		BulkRate: c.rate, BulkBytes: c.bulkBytes(),
		Stall: time.Duration(c.stall.Load()),
	}
	if !c.ready {
		c.ready = true
		for f := range c.flows {
			f.mu.Lock()
			c.ready = c.ready && !f.heard.IsZero()
			f.mu.Unlock()
		}
	}
	s.Ready = c.ready
	return s
}

func (c *client) bulkBytes() uint64 {
	var n uint64
	for _, f := range c.bulk {
		f.mu.Lock()
		n += f.bytes
		f.mu.Unlock()
	}
	return n
}

func (c *client) measureRate(now time.Time) {
	bytes, passed := c.bulkBytes(), now.Sub(c.rateAt)
	if passed < snapshotInterval/2 {
		return
	}
	c.rate = uint64(float64(bytes-c.rateBytes) * 8 / passed.Seconds())
	c.rateAt, c.rateBytes = now, bytes
}

// notReady tells which flows were lost before all had echoed.
func notReady(s Snapshot) error {
	for _, g := range s.Groups() {
		if len(g.Examples) > 0 {
			first := g.Examples[0]
			return fmt.Errorf("%w: %s %d of %d: %s %s; check the path to the server and that the server runs",
				ErrNotReady, g.Name, first.Flow+1, g.Total, first.Reason, first.Detail)
		}
	}
	return ErrNotReady
}

// pace has the flows send.
func (c *client) pace(ctx context.Context, flows []*flow, interval time.Duration, size int) {
	switch {
	case len(flows) == 0:
	case c.cfg.Quiet:
		wake := make(chan struct{}, 1)
		c.wakes = append(c.wakes, wake)
		c.wg.Go(func() { c.sendQuietly(ctx, flows, wake, size) })
	default:
		c.wg.Go(func() { c.sendEvenly(ctx, flows, interval, size) })
	}
}

// sendQuietly sends a message on each flow until something was heard on it, and then
// one for each wake.
func (c *client) sendQuietly(ctx context.Context, flows []*flow, wake <-chan struct{}, size int) {
	tick := time.NewTicker(quietRetry)
	defer tick.Stop()
	buf := make([]byte, size)
	woken := true
	for {
		for _, f := range flows {
			if woken || f.kind.datagrams() && f.silent() {
				c.send(f, buf)
			}
		}
		woken = false
		select {
		case <-ctx.Done():
			return
		case <-wake:
			woken = true
		case <-tick.C:
		}
	}
}

// sendEvenly sends one message per flow and interval, spread evenly over the interval.
// After a stall it leaves out what it missed beyond one interval.
func (c *client) sendEvenly(ctx context.Context, flows []*flow, interval time.Duration, size int) {
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	n := int64(len(flows))
	buf := make([]byte, size)
	start := time.Now()
	last, done := start, int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		c.noteStall(now.Sub(last) - paceTick)
		last = now
		due := int64(float64(now.Sub(start)) / float64(interval) * float64(n))
		for done = max(done, due-n); done < due; done++ {
			c.send(flows[done%n], buf)
		}
	}
}

func (c *client) noteStall(d time.Duration) {
	for {
		old := c.stall.Load()
		if int64(d) <= old || c.stall.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (c *client) send(f *flow, buf []byte) {
	m, ok := f.take(time.Now())
	if !ok {
		return
	}
	m.encode(buf, c.key)
	_, err := f.conn.Write(buf)
	switch {
	case err == nil || c.ending.Load():
	case f.kind.datagrams():
		// A datagram refused, for instance for an ICMP error or a neighbour that does
		// not answer, is a loss of packets and not of the flow.
		f.mu.Lock()
		f.sendErrors++
		f.mu.Unlock()
	default:
		c.broken(f, err)
	}
}

// broken loses a flow for an error of its socket.
func (c *client) broken(f *flow, err error) {
	if c.ending.Load() {
		return
	}
	r := Broken
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		r = Closed
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		r = Reset
	case errors.Is(err, syscall.ETIMEDOUT):
		r = Silent
	}
	f.lose(time.Now(), r, err.Error())
}

// serverPort returns the server's address with a port.
func (c *client) serverPort(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(c.cfg.Server, port)
}

// source returns the address and port of the flow of that index among those of its
// kind; either may be left to the kernel.
func (c *client) source(index int) netip.AddrPort {
	n := len(c.cfg.Sources)
	if n == 0 {
		return netip.AddrPort{}
	}
	port := c.cfg.SourcePort
	if port != 0 {
		port += uint16(index / n)
	}
	return netip.AddrPortFrom(c.cfg.Sources[index%n], port)
}

// dial opens the connection of the flow of that index.
func (c *client) dial(ctx context.Context, network string, port uint16, index int) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	if from := c.source(index); from.IsValid() && network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	} else if from.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	return d.DialContext(ctx, network, c.serverPort(port).String())
}
