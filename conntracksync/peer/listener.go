package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxHandshakes is how many callers may be without a proven key at once. One more
// ends the oldest of them, so that the peer gets through even if somebody else
// keeps calling.
const maxHandshakes = 4

// Listener takes the peer's calls. Handshakes run beside each other; only the
// newest channel, and the newest failure, wait for Accept.
type Listener struct {
	cfg      Config
	inner    net.Listener
	cancel   context.CancelFunc
	channels chan *Channel
	failures chan failure
	// now is nil but in tests.
	now func() time.Time

	mu sync.Mutex
	// pending are the handshakes under way, oldest first.
	pending []net.Conn
	// calls counts those that were taken, newest is which of them got through last.
	calls, newest uint64
	closed        bool
	workers       sync.WaitGroup
}

// failure is why a call came to nothing.
type failure struct{ err error }

// Listen listens at cfg.Local until Close, or until ctx ends.
func Listen(ctx context.Context, cfg Config) (*Listener, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: cfg.control, KeepAliveConfig: keepAlive()}
	inner, err := lc.Listen(ctx, "tcp", cfg.Local.String())
	if err != nil {
		return nil, fmt.Errorf("listen for the peer: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Listener{
		cfg: cfg, inner: inner, cancel: cancel,
		channels: make(chan *Channel, 1), failures: make(chan failure, 1),
	}
	l.workers.Go(func() { l.serve(ctx) })
	return l, nil
}

// Addr returns where the listener listens.
func (l *Listener) Addr() netip.AddrPort {
	addr, ok := l.inner.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return addr.AddrPort()
}

// Accept waits for the peer's next call. An error is that of one failed call
// ([*WrongKeyError] among others) and the next Accept may do better, but for
// net.ErrClosed and the end of ctx.
func (l *Listener) Accept(ctx context.Context) (*Channel, error) {
	select {
	case c, ok := <-l.channels:
		return l.accepted(c, ok)
	default:
	}
	select {
	case c, ok := <-l.channels:
		return l.accepted(c, ok)
	case f := <-l.failures:
		return nil, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *Listener) accepted(c *Channel, ok bool) (*Channel, error) {
	if !ok {
		return nil, net.ErrClosed
	}
	select {
	case <-l.failures: // of before
	default:
	}
	return c, nil
}

// Close ends the listener and all handshakes. Channels that Accept returned stay.
func (l *Listener) Close() error {
	l.cancel()
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	err := l.inner.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // the end of ctx was faster
	}
	l.workers.Wait()
	select {
	case c := <-l.channels:
		err = errors.Join(err, c.Close())
	default:
	}
	close(l.channels)
	return err
}

// serve ends when the listening socket does.
func (l *Listener) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = l.inner.Close() }) // Accept reports it
	defer stop()
	for {
		conn, err := l.inner.Accept()
		if err != nil {
			l.fail(fmt.Errorf("listen for the peer: %w", err))
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, say: the caller of Accept sees it.
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if !l.expected(conn) {
			_ = conn.Close() // a stranger's
			continue
		}
		call := l.begin(conn)
		l.workers.Go(func() { l.handshake(ctx, conn, call) })
	}
}

func (l *Listener) expected(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	want := l.cfg.Remote.Addr()
	return ok && (!want.IsValid() || addr.AddrPort().Addr().Unmap().WithZone("") == want.Unmap().WithZone(""))
}

// begin returns the number of the call.
func (l *Listener) begin(conn net.Conn) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, conn)
	if len(l.pending) > maxHandshakes {
		_ = l.pending[0].Close() // its handshake reports it
		l.pending = l.pending[1:]
	}
	l.calls++
	return l.calls
}

// end is false if begin of a later call has ended the handshake.
func (l *Listener) end(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.pending, conn)
	if i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
	return i >= 0
}

func (l *Listener) handshake(ctx context.Context, conn net.Conn, call uint64) {
	c, err := secure(ctx, conn, l.cfg, true, l.now)
	evicted := !l.end(conn)
	switch {
	case evicted && err != nil:
		l.fail(fmt.Errorf("%s called and proved no key, and too many others called meanwhile: look for what does so on the HA link", conn.RemoteAddr()))
		return
	case err != nil:
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// The peer calls again only if it gave its earlier call up, of which the handshake may
	// end later here.
	if call < l.newest {
		_ = c.Close()
		return
	}
	l.newest = call
	select {
	case old := <-l.channels:
		_ = old.Close()
	default:
	}
	l.channels <- c
}

func (l *Listener) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.failures:
	default:
	}
	l.failures <- failure{err: err}
}
