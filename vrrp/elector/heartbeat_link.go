package elector

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// heartbeatLink is the UDP socket to the peer's elector on one HA link.
type heartbeatLink struct {
	cfg  HeartbeatLink
	slot slot
	fd   int
	// sent and received count what went by this link, heardAt is when an authentic
	// heartbeat last came by it, introducedAt when one from a peer that did not hear this
	// process.
	sent, received        uint64
	heardAt, introducedAt time.Time
	err                   string
	// echoes is nil while there is no socket for them: then the peer's kernel counts as
	// silent.
	echoes *echoes
	// refused tells that the peer's kernel has refused a heartbeat, and nobody has heard
	// of it yet.
	refused bool
}

func newHeartbeatLink(cfg HeartbeatLink, s slot) *heartbeatLink {
	return &heartbeatLink{cfg: cfg, slot: s, fd: -1}
}

// open makes the socket; it fails while the interface or its address is missing.
func (l *heartbeatLink) open() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		l.err = fmt.Sprintf("make heartbeat socket: %v", err)
		return
	}
	err = unix.BindToDevice(fd, l.cfg.Interface)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: l.cfg.Local.Addr().As4(), Port: int(l.cfg.Local.Port())})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: l.cfg.Remote.Addr().As4(), Port: int(l.cfg.Remote.Port())})
	}
	if err != nil {
		_ = unix.Close(fd) // the first error says more
		l.err = fmt.Sprintf("open heartbeat socket on %s: %v", l.cfg.Interface, err)
		return
	}
	if l.fd, err = l.slot.take(fd); err != nil {
		l.err = fmt.Sprintf("open heartbeat socket: %v", err)
		return
	}
	l.err = ""
	if l.echoes, err = openEchoes(l.cfg); err != nil {
		l.err = err.Error()
	}
}

func (l *heartbeatLink) close() {
	if l.fd >= 0 {
		l.slot.free()
		l.fd = -1
	}
	if l.echoes != nil {
		l.echoes.close()
		l.echoes = nil
	}
}

// send sends a sealed heartbeat and reports whether it left. A refused or unreachable
// peer is its own affair.
func (l *heartbeatLink) send(b []byte) bool {
	if l.fd < 0 {
		return false
	}
	_, err := unix.Write(l.fd, b)
	switch {
	case err == nil:
		l.sent++
		l.err = ""
		return true
	case errors.Is(err, unix.ECONNREFUSED):
		l.refused = true // it is about the one before
	case errors.Is(err, unix.EAGAIN):
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		l.close()
		l.err = fmt.Sprintf("the interface %s is gone", l.cfg.Interface)
	default:
		l.err = fmt.Sprintf("send heartbeat on %s: %v", l.cfg.Interface, err)
	}
	return false
}

var (
	// errRefused tells that the peer's kernel has refused a heartbeat.
	errRefused = errors.New("nobody listens for heartbeats at the peer")
	// errDrained tells that nothing waits.
	errDrained = errors.New("no heartbeat waits")
)

// receive reads one heartbeat, or what became of one that was sent.
func (l *heartbeatLink) receive(buf []byte) (int, error) {
	if l.fd < 0 {
		return 0, errDrained
	}
	if l.refused {
		l.refused = false
		return 0, errRefused
	}
	for {
		n, err := unix.Read(l.fd, buf)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.ECONNREFUSED):
			return 0, errRefused
		case !errors.Is(err, unix.EINTR):
			return 0, errDrained
		}
	}
}
