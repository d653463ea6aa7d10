package ctnetlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveSize holds every datagram of ctnetlink but those of a batch: the kernel fills
// dumps up to 32 kB, and an answer has a few hundred bytes.
const receiveSize = 32 << 10

// ErrClosed is the error of a call on a closed socket.
var ErrClosed = errors.New("conntrack socket is closed")

// socket is a netlink socket that is read and written without copies: the
// library's own calls copy each message, which at the rate of conntrack events
// costs more than the decoding. It is not among the files that Go's poller watches,
// either: that would wake a thread for each event, even while nobody waits for one.
// One goroutine may use it at a time; close may be called from any.
type socket struct {
	// ready tells when there is something to read, for those who wait.
	ready *readiness
	// port is the netlink port.
	port uint32

	// mu keeps fd, negative once it is closed, from being closed while it is used.
	mu     sync.Mutex
	fd     int
	closed atomic.Bool

	// batch is set for a socket that receives many datagrams at a time, in for the
	// others.
	batch *batch
	in    []byte
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
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for conntrack: %w", err)
	}
	s := &socket{fd: fd}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("open netlink socket for conntrack: %w", errors.Join(err, unix.Close(fd)))
	}
	return s, nil
}

// prepare has the kernel choose a port.
func (s *socket) prepare() (err error) {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	if address, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = address.Pid
	}
	s.ready, err = watch(s.fd)
	return err
}

// setOption sets an option of SOL_NETLINK.
func (s *socket) setOption(option, value int) error {
	return s.use(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, value) })
}

// setReceiveBuffer goes beyond net.core.rmem_max where it may.
func (s *socket) setReceiveBuffer(size int) error {
	return s.use(func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err == nil {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	})
}

// setFilter has the kernel drop messages before they are queued.
func (s *socket) setFilter(program []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	attached := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return s.use(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &attached)
	})
}

// use keeps the socket open while f runs.
func (s *socket) use(f func(fd int) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	return f(s.fd)
}

// rawCall reads or writes without telling Go's scheduler, which would think the thread
// blocked after 20 µs, hand its work to another and keep looking: that costs a tenth of
// the whole. The socket never blocks, and the kernel needs a fraction of a millisecond.
func rawCall(call uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

// close first ends the waiting, which uses the socket.
func (s *socket) close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.ready.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	err = errors.Join(err, unix.Close(s.fd))
	s.fd = -1
	return err
}

// write sends the messages in b as one datagram. The kernel has worked through all
// of them when write returns.
func (s *socket) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	_, err := rawCall(unix.SYS_WRITE, s.fd, b)
	return err
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return 0, ErrClosed
	}
	if s.batch != nil {
		return s.batch.receive(s.fd)
	}
	return rawCall(unix.SYS_READ, s.fd, s.in)
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
		_ = s.ready.set.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrDeadlineExceeded) {
		// An earlier call's context may have set the deadline late. Clearing it
		// before looking at ctx keeps a deadline that ctx sets from now on.
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := s.ready.set.SetReadDeadline(time.Time{}); err != nil {
				return 0, s.translate(err)
			}
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		err = s.ready.wait(func() bool {
			n, err = s.tryRead()
			return !errors.Is(err, unix.EAGAIN)
		})
	}
	return n, s.translate(err)
}

func (s *socket) translate(err error) error {
	if err != nil && s.closed.Load() {
		return ErrClosed
	}
	return err
}
