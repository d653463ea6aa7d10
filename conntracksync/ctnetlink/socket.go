package ctnetlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// receiveSize holds every datagram of ctnetlink but those of a batch: the kernel fills
// dumps up to 32 kB, and an answer has a few hundred bytes.
const receiveSize = 32 << 10

// ErrClosed is the error of a call on a closed socket.
var ErrClosed = errors.New("conntrack socket is closed")

// socket is a netlink socket that is read and written without copies: the
// library's own calls copy each message, which at the rate of conntrack events
// costs more than the decoding. One goroutine may use it at a time; close may be
// called from any.
type socket struct {
	conn   *netlink.Conn
	raw    syscall.RawConn
	closed atomic.Bool

	// Arguments and results of onRead and onWrite, which are made once because a
	// closure for each call would be an allocation for each event.
	onRead  func(fd uintptr) bool
	onWrite func(fd uintptr) bool
	wait    bool
	// batch is set for a socket that receives many datagrams at a time, in for the
	// others.
	batch *batch
	in    []byte
	out   []byte
	n     int
	err   error
}

// openSocket opens a socket that receives one datagram at a time.
func openSocket() (*socket, error) {
	s, err := openNetlink()
	if err != nil {
		return nil, err
	}
	s.in = make([]byte, receiveSize)
	return s, nil
}

// openBatchSocket opens a socket that receives many datagrams at a time.
func openBatchSocket() (*socket, error) {
	s, err := openNetlink()
	if err != nil {
		return nil, err
	}
	s.batch = newBatch()
	return s, nil
}

func openNetlink() (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for conntrack: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket for conntrack: %w", err), conn.Close())
	}
	s := &socket{conn: conn, raw: raw}
	s.onRead = func(fd uintptr) bool {
		for {
			if s.batch != nil {
				s.n, s.err = s.batch.receive(int(fd))
			} else {
				s.n, s.err = rawCall(unix.SYS_READ, fd, s.in)
			}
			//nolint:errorlint // Both return a bare errno.
			switch s.err {
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return !s.wait
			}
			return true
		}
	}
	s.onWrite = func(fd uintptr) bool {
		for {
			_, s.err = rawCall(unix.SYS_WRITE, fd, s.out)
			//nolint:errorlint // rawCall returns a bare errno.
			if s.err != unix.EINTR {
				return true
			}
		}
	}
	return s, nil
}

// rawCall reads or writes without telling Go's scheduler, which would think the thread
// blocked after 20 µs, hand its work to another and keep looking: that costs a tenth of
// the whole. The socket never blocks, and the kernel needs a fraction of a millisecond.
func rawCall(call, fd uintptr, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (s *socket) close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.conn.Close()
}

// write sends the messages in b as one datagram. The kernel has worked through all
// of them when write returns.
func (s *socket) write(b []byte) error {
	s.out = b
	err := s.raw.Write(s.onWrite)
	s.out = nil
	if err == nil {
		err = s.err
	}
	return s.translate(err)
}

// poll returns one datagram, valid until the next call. Without one it returns
// unix.EAGAIN.
func (s *socket) poll() ([]byte, error) {
	n, err := s.tryRead()
	return s.in[:n], err
}

// receive is poll that waits for a datagram until ctx ends.
func (s *socket) receive(ctx context.Context) ([]byte, error) {
	n, err := s.waitRead(ctx)
	return s.in[:n], err
}

// tryRead reads what is there: the result is the length of one datagram in in, or
// how many datagrams batch has received.
func (s *socket) tryRead() (int, error) {
	s.wait = false
	for {
		n, err := s.read()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		// The deadline is that of an earlier call's context.
		if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
			return 0, s.translate(err)
		}
	}
}

// waitRead is tryRead that waits until ctx ends. With a ctx that has ended it does not
// wait, and reads all the same.
func (s *socket) waitRead(ctx context.Context) (int, error) {
	n, err := s.tryRead()
	if !errors.Is(err, unix.EAGAIN) {
		return n, err
	}
	stop := context.AfterFunc(ctx, func() {
		// A socket that is closed by now needs no wake-up.
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	for {
		// An earlier call's context may have set the deadline late. Clearing it
		// before looking at ctx keeps a deadline that ctx sets from now on.
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
				return 0, s.translate(err)
			}
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		s.wait = true
		if n, err = s.read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

func (s *socket) read() (int, error) {
	err := s.raw.Read(s.onRead)
	if err == nil {
		err = s.err
	}
	if err != nil {
		return 0, s.translate(err)
	}
	return s.n, nil
}

func (s *socket) translate(err error) error {
	if err != nil && s.closed.Load() {
		return ErrClosed
	}
	return err
}
