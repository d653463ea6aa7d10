package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// churnParallel bounds the connections under way, which is more than begin while the
	// role moves and SYNs are repeated; churnPatience bounds each of them.
	churnParallel = 16384
	churnPatience = 3 * time.Second
	// churnBurst bounds what the client catches up after a pause.
	churnBurst = 250 * time.Millisecond
	// churnEvents is how many answers are taken in at once.
	churnEvents = 256
	// deferAccept is for how long the server's kernel waits for a first byte, in seconds.
	deferAccept = 1
)

// churn opens new TCP connections at a rate and resets each as soon as its handshake
// is over, so that no port has to rest. It asks the kernel directly: a goroutine, a
// poller and a dozen system calls for each connection would cost more than what is
// under test.
type churn struct {
	c    *client
	poll int
	to   unix.Sockaddr
	from []unix.Sockaddr
	// waiting are the connections under way in the order of their beginning, begun the
	// moment of each by its descriptor.
	waiting []attempt
	begun   map[int]time.Time
	number  uint64
}

// attempt is a connection that was begun. Its descriptor may be another's by now.
type attempt struct {
	fd int
	at time.Time
}

// newChurn opens what churn needs.
func (c *client) newChurn() (*churn, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("wait for new connections: %w", err)
	}
	n := &churn{c: c, poll: poll, to: socketAddress(c.serverPort(c.cfg.NewPort)), begun: make(map[int]time.Time)}
	for _, a := range c.cfg.Sources {
		n.from = append(n.from, socketAddress(netip.AddrPortFrom(a, 0)))
	}
	return n, nil
}

func socketAddress(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

// run opens connections until ctx ends.
func (n *churn) run(ctx context.Context) {
	defer n.close()
	rate := float64(n.c.cfg.NewPerSecond)
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	last, owed := time.Now(), 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		owed = min(owed+now.Sub(last).Seconds()*rate, max(1, churnBurst.Seconds()*rate))
		last = now
		for ; owed >= 1 && len(n.begun) < churnParallel; owed-- {
			n.begin(now)
		}
		n.take()
		n.expire(now)
	}
}

func (n *churn) close() {
	for fd := range n.begun {
		_ = unix.Close(fd)
	}
	_ = unix.Close(n.poll)
}

// begin sends a SYN.
func (n *churn) begin(now time.Time) {
	fd, err := n.dial()
	if err != nil {
		n.c.newFailed.Add(1)
		return
	}
	n.begun[fd] = now
	n.waiting = append(n.waiting, attempt{fd, now})
}

func (n *churn) dial() (fd int, err error) {
	family := unix.AF_INET
	if n.c.cfg.Server.Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return -1, err
	}
	if len(n.from) > 0 {
		// The port may be the same for another server; so it is chosen when it connects.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return -1, err
		}
		if err := unix.Bind(fd, n.from[n.number%uint64(len(n.from))]); err != nil {
			return -1, err
		}
	}
	n.number++
	if err := unix.Connect(fd, n.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, err
	}
	return fd, unix.EpollCtl(n.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)})
}

// take ends what was answered.
func (n *churn) take() {
	for count := churnEvents; count == churnEvents; {
		var events [churnEvents]unix.EpollEvent
		var err error
		if count, err = unix.EpollWait(n.poll, events[:], 0); err != nil {
			return // a signal
		}
		for _, e := range events[:count] {
			fd := int(e.Fd)
			reason, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			n.end(fd, err == nil && reason == 0)
		}
	}
}

func (n *churn) end(fd int, stands bool) {
	delete(n.begun, fd)
	_ = unix.Close(fd) // a connection that was reset by then is over as well
	if stands {
		n.c.newOpened.Add(1)
		return
	}
	n.c.newFailed.Add(1)
}

// expire gives up what has not been answered.
func (n *churn) expire(now time.Time) {
	gone := 0
	for _, a := range n.waiting {
		at, same := n.begun[a.fd]
		if same = same && at.Equal(a.at); same {
			if now.Sub(a.at) < churnPatience {
				break
			}
			n.end(a.fd, false)
		}
		gone++
	}
	n.waiting = n.waiting[gone:]
}

// listenNew listens for connections that churn opens. Its kernel hands out none of them
// before a first byte, which never comes: the handshake is all there is to them.
func listenNew(at *net.TCPAddr) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var refused error
		err := raw.Control(func(fd uintptr) {
			refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferAccept)
		})
		return errors.Join(err, refused)
	}}
	l, err := lc.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("listen for new connections: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// discard takes a connection and leaves it to the client to reset it: a reset that came
// first would look like a failure to connect.
func discard(*net.TCPConn) {}
