package elector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message on the node's socket, in bytes: a configuration
// with all 255 virtual routers needs about a quarter of it.
const maxMessage = 512 << 10

// backlog is how many connections may wait to be taken.
const backlog = 16

// SocketName is the name of the elector's socket in a node's state directory.
const SocketName = "elector.sock"

// Listen makes the elector's socket. The node makes it before it starts the
// elector, so that it can connect without waiting.
func Listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make elector socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = f.Close() // the first error says more
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return f, nil
}

// Client is the node's end of the elector's socket.
type Client struct {
	conn *net.UnixConn
	buf  []byte
}

// Dial connects to a running elector. If none runs the error satisfies
// errors.Is(err, os.ErrNotExist) or unix.ECONNREFUSED.
func Dial(path string) (*Client, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("connect to the elector: %w", err)
	}
	if err := conn.SetWriteBuffer(2 * maxMessage); err != nil {
		_ = conn.Close() // the first error says more
		return nil, fmt.Errorf("size the elector socket: %w", err)
	}
	return &Client{conn: conn, buf: make([]byte, maxMessage)}, nil
}

// Send sends a command. It fails if the elector does not take it within a second.
func (c *Client) Send(cmd Command) error {
	b, err := json.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("send command to the elector: %w", err)
	}
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("send command to the elector: %w", err)
	}
	return nil
}

// Receive waits for the next report; io.EOF means that the elector is gone, an
// [os.ErrDeadlineExceeded] that it has said nothing for that long.
func (c *Client) Receive(patience time.Duration) (Report, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return Report{}, fmt.Errorf("read from the elector: %w", err)
	}
	n, err := c.conn.Read(c.buf)
	if err != nil {
		return Report{}, fmt.Errorf("read from the elector: %w", err)
	}
	if n == 0 {
		return Report{}, io.EOF
	}
	var r Report
	if err := json.Unmarshal(c.buf[:n], &r); err != nil {
		return Report{}, fmt.Errorf("decode report: %w", err)
	}
	return r, nil
}

// Close ends the connection; a Receive in progress returns.
func (c *Client) Close() error { return c.conn.Close() }

// nodeConn is the elector's end: non-blocking, one node at a time.
type nodeConn struct{ fd int }

// accept takes a waiting connection if its owner may command this process.
func accept(listener int) (*nodeConn, error) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("accept node: %w", err)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil && cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
		err = fmt.Errorf("user %d may not command this elector", cred.Uid)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, maxMessage)
	}
	if err != nil {
		_ = unix.Close(fd) // the first error says more
		return nil, err
	}
	return &nodeConn{fd: fd}, nil
}

var errGone = errors.New("the node closed its connection")

// receive returns the next command, false if none waits.
func (c *nodeConn) receive(buf []byte) (Command, bool, error) {
	n, err := unix.Read(c.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return Command{}, false, nil
	case err != nil:
		return Command{}, false, fmt.Errorf("read command: %w", err)
	case n == 0:
		return Command{}, false, errGone
	}
	var cmd Command
	if err := json.Unmarshal(buf[:n], &cmd); err != nil {
		return Command{}, false, fmt.Errorf("decode command: %w", err)
	}
	return cmd, true, nil
}

// send drops the report if the node does not read: the elector waits for nobody,
// and the next report holds everything again.
func (c *nodeConn) send(r Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	_, err = unix.Write(c.fd, b)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("send report: %w", err)
	}
	return nil
}

func (c *nodeConn) close() { _ = unix.Close(c.fd) } // nothing can be done about it
