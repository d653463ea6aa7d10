package peer

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stream reads and writes a TCP connection without telling Go's scheduler. The calls do
// not block, and the scheduler would wake its monitor for each, which then looks
// every 20 µs what has become of it: with a frame every few milliseconds that cost more
// than everything else that is done for the frame. One goroutine may read while another
// writes, which crypto/tls sees to.
type stream struct {
	net.Conn
	raw     syscall.RawConn
	in, out transfer
	onRead  func(fd uintptr) bool
	onWrite func(fd uintptr) bool
}

// transfer is a call under way: what is left of the buffer, and how it ended.
type transfer struct {
	rest []byte
	n    int
	err  error
}

// newStream returns conn itself if it is no socket.
func newStream(conn net.Conn) net.Conn {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn // it is closed already, and says so itself
	}
	s := &stream{Conn: conn, raw: raw}
	s.onRead, s.onWrite = s.readSome, s.writeAll // once, lest each call allocates
	return s
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.in = transfer{rest: b}
	if err := s.raw.Read(s.onRead); err != nil {
		return 0, named(err, "read")
	}
	switch {
	case s.in.err != nil:
		return 0, os.NewSyscallError("read", s.in.err)
	case s.in.n == 0:
		return 0, io.EOF
	}
	return s.in.n, nil
}

func (s *stream) readSome(fd uintptr) (done bool) {
	n, errno := transferOnce(unix.SYS_READ, fd, s.in.rest)
	if errno == unix.EAGAIN {
		return false
	}
	s.in.n = n
	if errno != 0 {
		s.in.err = errno
	}
	return true
}

// Write implements net.Conn.
func (s *stream) Write(b []byte) (int, error) {
	s.out = transfer{rest: b}
	if err := s.raw.Write(s.onWrite); err != nil {
		return s.out.n, named(err, "write")
	}
	return s.out.n, os.NewSyscallError("write", s.out.err)
}

// named calls the operation what its user calls it, not "raw-read".
func named(err error, operation string) error {
	var failed *net.OpError
	if !errors.As(err, &failed) {
		return err
	}
	renamed := *failed
	renamed.Op = operation
	return &renamed
}

func (s *stream) writeAll(fd uintptr) (done bool) {
	for len(s.out.rest) > 0 {
		n, errno := transferOnce(unix.SYS_WRITE, fd, s.out.rest)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 {
			s.out.err = errno
			return true
		}
		s.out.n, s.out.rest = s.out.n+n, s.out.rest[n:]
	}
	return true
}

// transferOnce is one system call.
func transferOnce(call, fd uintptr, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
