package elector

import (
	"crypto/rand"
	"fmt"
	"os"
	"slices"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// echoes asks the peer's kernel on an HA link whether it lives, by ICMP echo (RFC 792).
// The kernel answers in its interrupt handlers, whatever its processes do.
type echoes struct {
	fd       int
	sequence int
	// nonces are what the newest two requests carried: only who was asked can answer.
	nonces   [2][nonceSize]byte
	sent     uint64
	received uint64
	buf      [maxEcho]byte
}

const (
	nonceSize = 16
	// maxEcho is room for a reply with the longest IP header.
	maxEcho = 128
)

// openEchoes makes the socket. It is a raw one, because the kernel lets nobody have a
// socket for echoes alone unless its administrator says so.
func openEchoes(cfg HeartbeatLink) (*echoes, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, fmt.Errorf("make socket for echoes: %w", err)
	}
	err = unix.BindToDevice(fd, cfg.Interface)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, onlyReplies)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: cfg.Local.Addr().As4()})
	}
	if err == nil {
		// From now on it gets what comes from the peer alone.
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: cfg.Remote.Addr().As4()})
	}
	if err != nil {
		_ = unix.Close(fd) // the first error says more
		return nil, fmt.Errorf("open socket for echoes on %s: %w", cfg.Interface, err)
	}
	return &echoes{fd: fd}, nil
}

const (
	// icmpFilter is ICMP_FILTER of <linux/icmp.h>: a bit that is set keeps a type out.
	icmpFilter  = 1
	onlyReplies = ^(1 << 0) // ICMP_ECHOREPLY is 0
)

func (e *echoes) close() {
	_ = unix.Close(e.fd) // nothing can be done about it
}

// ask sends a request. What cannot be sent is not answered.
func (e *echoes) ask() {
	e.nonces[1] = e.nonces[0]
	if _, err := rand.Read(e.nonces[0][:]); err != nil {
		return
	}
	e.sequence++
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{
		ID: os.Getpid() & 0xffff, Seq: e.sequence & 0xffff, Data: e.nonces[0][:],
	}}
	b, err := request.Marshal(nil)
	if err != nil {
		return
	}
	if _, err := unix.Write(e.fd, b); err == nil {
		e.sent++
	}
}

// answered reads what waits and tells whether one of the newest two requests was
// answered.
func (e *echoes) answered() bool {
	found := false
	for range maxDrain {
		n, err := unix.Read(e.fd, e.buf[:])
		if err != nil {
			return found
		}
		if nonce, ok := parseReply(e.buf[:n]); ok && slices.Contains(e.nonces[:], nonce) {
			e.received++
			found = true
		}
	}
	return found
}

// parseReply returns what an ICMP echo reply with its IP header repeats.
func parseReply(b []byte) (nonce [nonceSize]byte, ok bool) {
	if len(b) < 1 {
		return nonce, false
	}
	header := int(b[0]&0x0f) * 4
	if header < ipv4.HeaderLen || len(b) < header {
		return nonce, false
	}
	m, err := icmp.ParseMessage(ipv4.ICMPTypeEchoReply.Protocol(), b[header:])
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return nonce, false
	}
	echo, isEcho := m.Body.(*icmp.Echo)
	if !isEcho || len(echo.Data) != nonceSize {
		return nonce, false
	}
	return [nonceSize]byte(echo.Data), true
}
