package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxFrame is the greatest length of a frame in bytes.
	MaxFrame = 256 << 10
	// lengthBytes is the length of the prefix that holds a frame's length.
	lengthBytes = 4
	// sendTimeout bounds how long a peer that does not read can hold up Send.
	sendTimeout = 3 * time.Second
	// deadAfter is TCP_USER_TIMEOUT: how long data may stay unacknowledged.
	deadAfter = 3 * time.Second
)

// ErrFrameLength is the error for a frame that is empty or longer than [MaxFrame].
var ErrFrameLength = errors.New("a frame has 1 to 262144 bytes")

// Config describes both ends of the channel.
type Config struct {
	// Interface is the interface to which the connection is bound; empty for any.
	Interface string
	// Identity proves this node, PeerKey is the other one's public key as in the
	// document.
	Identity *Identity
	PeerKey  string
	// Local is where a listener listens; a dialer takes the address only. Remote is
	// where a dialer calls; a listener takes calls from its address only, from any
	// if it is zero.
	Local, Remote netip.AddrPort
}

func (c Config) check() error {
	if c.Identity == nil {
		return errors.New("this node has no identity: make one with `tandem keygen`")
	}
	if _, err := ParsePublicKey(c.PeerKey); err != nil {
		return fmt.Errorf("use the peer's key: %w", err)
	}
	return nil
}

// control sets the options that must be there before the handshake of TCP.
func (c Config) control(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter/time.Millisecond))
		if failed == nil && c.Interface != "" {
			failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, c.Interface)
		}
	})
	if failed != nil {
		return fmt.Errorf("bind to interface %q: %w", c.Interface, failed)
	}
	return err
}

// keepAlive notices within a few seconds that an idle peer is gone.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}
}

// Channel carries frames between the two nodes. One goroutine may send while
// another receives; Close may be called from anywhere, also twice.
type Channel struct {
	raw  net.Conn
	conn *tls.Conn
	out  []byte
}

// Dial calls the peer. It gives up after three seconds, or when ctx ends. A
// [*WrongKeyError] and a [*RefusedError] tell that the keys do not match the
// document.
func Dial(ctx context.Context, cfg Config) (*Channel, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	dialer := net.Dialer{
		Control: cfg.control, KeepAliveConfig: keepAlive(), Timeout: handshakeTimeout,
	}
	if cfg.Local.Addr().IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.Local.Addr(), 0))
	}
	raw, err := dialer.DialContext(ctx, "tcp", cfg.Remote.String()) // TCP_NODELAY is Go's default
	if err != nil {
		return nil, fmt.Errorf("call the peer: %w", err)
	}
	return secure(ctx, raw, cfg, false, nil)
}

// Send sends a frame. It blocks for at most three seconds; after an error the
// channel is of no more use.
func (c *Channel) Send(frame []byte) error {
	if len(frame) == 0 || len(frame) > MaxFrame {
		return fmt.Errorf("send %d bytes: %w", len(frame), ErrFrameLength)
	}
	// One write makes one TLS record of a usual frame.
	c.out = binary.BigEndian.AppendUint32(c.out[:0], uint32(len(frame)))
	c.out = append(c.out, frame...)
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// Receive returns the next frame. It uses the memory of buf if there is enough,
// else new memory. A zero deadline waits for ever; after an error the channel is
// of no more use. An error that is io.EOF means that the peer closed it between
// frames.
func (c *Channel) Receive(buf []byte, deadline time.Time) ([]byte, error) {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("receive frame: %w", err)
	}
	buf = slices.Grow(buf[:0], lengthBytes)[:lengthBytes]
	if _, err := io.ReadFull(c.conn, buf); err != nil {
		return nil, c.lost(err)
	}
	length := binary.BigEndian.Uint32(buf)
	if length == 0 || length > MaxFrame {
		return nil, fmt.Errorf("receive %d bytes: %w", length, ErrFrameLength)
	}
	buf = slices.Grow(buf[:0], int(length))[:length]
	if _, err := io.ReadFull(c.conn, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, c.lost(err)
	}
	return buf, nil
}

// lost says it in one sentence when the peer has fallen silent.
func (c *Channel) lost(err error) error {
	var network net.Error
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the peer closed the connection: %w", io.EOF)
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("the peer at %s has fallen silent, check it and the HA link: %w", c.raw.RemoteAddr(), err)
	}
	return fmt.Errorf("receive frame: %w", err)
}

// Remote returns the other end's address.
func (c *Channel) Remote() net.Addr { return c.raw.RemoteAddr() }

// Close ends the channel at once, without the farewell of TLS: that could block
// for seconds on a dead peer, and a cut is noticed by the frames' lengths.
func (c *Channel) Close() error {
	if err := c.raw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close channel: %w", err)
	}
	return nil
}
