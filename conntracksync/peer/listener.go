package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	failures chan error
	// now is nil but in tests.
	now func() time.Time

	mu sync.Mutex
	// pending are the handshakes under way, oldest first.
	pending []net.Conn
	closed  bool
	workers sync.WaitGroup
}

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
		channels: make(chan *Channel, 1), failures: make(chan error, 1),
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
	case err := <-l.failures:
		return nil, err
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
		l.begin(conn)
		l.workers.Go(func() { l.handshake(ctx, conn) })
	}
}

func (l *Listener) expected(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	want := l.cfg.Remote.Addr()
	return ok && (!want.IsValid() || addr.AddrPort().Addr().Unmap().WithZone("") == want.Unmap().WithZone(""))
}

func (l *Listener) begin(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, conn)
	if len(l.pending) > maxHandshakes {
		_ = l.pending[0].Close() // its handshake reports it
		l.pending = l.pending[1:]
	}
}

func (l *Listener) end(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.pending {
		if c == conn {
			l.pending = append(l.pending[:i:i], l.pending[i+1:]...)
			return
		}
	}
}

func (l *Listener) handshake(ctx context.Context, conn net.Conn) {
	c, err := secure(ctx, conn, l.cfg, true, l.now)
	l.end(conn)
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case old := <-l.channels: // the peer calls again only if it gave that one up
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
	l.failures <- err
}
