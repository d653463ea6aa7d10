package nfqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of linux/netfilter/nfnetlink_queue.h.
const (
	messagePacket       = unix.NFNL_SUBSYS_QUEUE << 8
	messageConfig       = unix.NFNL_SUBSYS_QUEUE<<8 | 2
	messageVerdictBatch = unix.NFNL_SUBSYS_QUEUE<<8 | 3

	attrPacketHeader  = 1
	attrVerdictHeader = 2

	configCommand = 1
	configParams  = 2
	configLength  = 3
	configMask    = 4
	configFlags   = 5

	commandBind   = 1
	copyMeta      = 1
	verdictAccept = 1

	// With flagFailOpen a packet that finds no room goes on. With flagGSO a large
	// one waits as it is and is not cut up.
	flagFailOpen = 1 << 0
	flagGSO      = 1 << 2
)

const (
	messageHeaderLength = 16
	attrHeaderLength    = 4
	nfgenLength         = 4
	packetIDLength      = 4

	// receiveSize holds any message: they carry no payload.
	receiveSize = 4 << 10
	// chargedSize is what a queued message costs of the receive buffer.
	chargedSize = 1280
)

// ErrClosed is the error of a call on a closed queue.
var ErrClosed = errors.New("packet queue is closed")

// Config says which queue to open.
type Config struct {
	// Group is the group whose [Rules] put packets into the queue.
	Group string
	// Length is how many packets the kernel keeps; more pass. It should be above what
	// the caller holds, so that the caller decides who leaves.
	Length int
}

// Queue hears of the packets that wait in the kernel, and releases them. Receive is
// for one goroutine, Release for another; Close may be called beside both.
type Queue struct {
	number uint16
	conn   *netlink.Conn
	raw    syscall.RawConn
	closed atomic.Bool
	// last is the number of the packet that Receive returned last.
	last atomic.Uint32

	// Arguments and results of onRead and onWrite, which are made once because a
	// closure for each call would be an allocation for each packet.
	onRead, onWrite   func(fd uintptr) bool
	wait              bool
	in, out           []byte
	n                 int
	readErr, writeErr error
}

// queueNumber is the number of a group's queue. Other programs tend to begin with 0.
func queueNumber(group string) uint16 {
	const first = 1 << 14
	h := fnv.New32a()
	_, _ = h.Write([]byte(group)) // never fails
	return uint16(first + h.Sum32()%(1<<16-first))
}

// Open binds the queue in the current network namespace, with which it stays.
func Open(cfg Config) (*Queue, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for a packet queue: %w", err)
	}
	q := &Queue{number: queueNumber(cfg.Group), conn: conn, in: make([]byte, receiveSize)}
	if err := q.bind(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("open packet queue %d: %w", q.number, err), conn.Close())
	}
	q.onRead, q.onWrite = q.read, q.write
	return q, nil
}

func (q *Queue) bind(cfg Config) (err error) {
	if q.raw, err = q.conn.SyscallConn(); err != nil {
		return err
	}
	if err := q.conn.SetReadBuffer(cfg.Length * chargedSize); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	// A packet that the socket has no room for goes on: nothing is lost that the
	// reader would have to know of.
	if err := q.conn.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	command := []byte{commandBind, 0, 0, unix.AF_UNSPEC}
	if err := q.configure(netlink.Attribute{Type: configCommand, Data: command}); err != nil {
		return withCure(err)
	}
	flags := binary.BigEndian.AppendUint32(nil, flagFailOpen|flagGSO)
	return q.configure(
		netlink.Attribute{Type: configParams, Data: []byte{0, 0, 0, 0, copyMeta}},
		netlink.Attribute{Type: configLength, Data: binary.BigEndian.AppendUint32(nil, uint32(cfg.Length))},
		netlink.Attribute{Type: configMask, Data: flags},
		netlink.Attribute{Type: configFlags, Data: flags},
	)
}

func withCure(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("another program has it, find it in /proc/net/netfilter/nfnetlink_queue: %w", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no packet queues, load the module nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE): %w", err)
	}
	return err
}

func (q *Queue) configure(attrs ...netlink.Attribute) error {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return err
	}
	_, err = q.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: messageConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(q.appendHeader(nil), data...),
	})
	return err
}

// appendHeader appends the nfgenmsg.
func (q *Queue) appendHeader(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0), q.number)
}

// Receive waits for packets and fills ids, which must not be empty, with their
// numbers, in the order in which they wait. The error is ctx's, [ErrClosed], or that
// of a broken socket.
func (q *Queue) Receive(ctx context.Context, ids []uint32) (n int, err error) {
	defer func() {
		if n > 0 {
			q.last.Store(ids[n-1])
		}
	}()
	stop := context.AfterFunc(ctx, func() {
		_ = q.conn.SetReadDeadline(time.Unix(1, 0)) // a closed socket needs no wake-up
	})
	defer stop()
	for n < len(ids) {
		q.wait = n == 0
		if err := q.raw.Read(q.onRead); err != nil {
			q.readErr = err
		}
		switch {
		case q.readErr == nil:
			n += packetIDs(q.in[:q.n], ids[n:])
		case n > 0:
			return n, nil // the error, if it is one, comes back with the next call
		case q.closed.Load():
			return 0, ErrClosed
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(q.readErr, os.ErrDeadlineExceeded):
			// An earlier call's context set it late.
			if err := q.conn.SetReadDeadline(time.Time{}); err != nil {
				return 0, fmt.Errorf("receive from packet queue %d: %w", q.number, err)
			}
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
		default:
			return 0, fmt.Errorf("receive from packet queue %d: %w", q.number, q.readErr)
		}
	}
	return n, nil
}

func (q *Queue) read(fd uintptr) bool {
	for {
		q.n, q.readErr = unix.Read(int(fd), q.in)
		//nolint:errorlint // unix.Read returns a bare errno.
		switch q.readErr {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return !q.wait
		}
		return true
	}
}

// packetIDs puts the numbers of the packets in b into ids and returns how many there
// are. What is no packet, such as the refusal of a release that came too late, is
// skipped.
func packetIDs(b []byte, ids []uint32) (n int) {
	for len(b) >= messageHeaderLength && n < len(ids) {
		length := int(binary.NativeEndian.Uint32(b))
		if length < messageHeaderLength || length > len(b) {
			return n
		}
		if binary.NativeEndian.Uint16(b[4:]) == messagePacket {
			if id, ok := packetID(b[messageHeaderLength:length]); ok {
				ids[n] = id
				n++
			}
		}
		b = b[min(align(length), len(b)):]
	}
	return n
}

// packetID finds the packet header among the attributes behind the nfgenmsg.
func packetID(b []byte) (id uint32, ok bool) {
	if len(b) < nfgenLength {
		return 0, false
	}
	b = b[nfgenLength:]
	for len(b) >= attrHeaderLength {
		length := int(binary.NativeEndian.Uint16(b))
		if length < attrHeaderLength || length > len(b) {
			return 0, false
		}
		if binary.NativeEndian.Uint16(b[2:]) == attrPacketHeader && length >= attrHeaderLength+packetIDLength {
			return binary.BigEndian.Uint32(b[attrHeaderLength:]), true
		}
		b = b[min(align(length), len(b)):]
	}
	return 0, false
}

func align(n int) int { return (n + 3) &^ 3 }

// Release lets the packet with the number last and all before it go on. They are sent
// before it returns.
func (q *Queue) Release(last uint32) error {
	q.out = q.appendRelease(q.out[:0], last)
	err := q.raw.Write(q.onWrite)
	if err == nil {
		err = q.writeErr
	}
	switch {
	case err == nil:
		return nil
	case q.closed.Load():
		return ErrClosed
	}
	return fmt.Errorf("release packets of queue %d: %w", q.number, err)
}

func (q *Queue) appendRelease(b []byte, last uint32) []byte {
	const length = attrHeaderLength + 8
	b = q.appendMessage(b, messageVerdictBatch, length)
	b = binary.NativeEndian.AppendUint16(b, length)
	b = binary.NativeEndian.AppendUint16(b, attrVerdictHeader)
	b = binary.BigEndian.AppendUint32(b, verdictAccept)
	return binary.BigEndian.AppendUint32(b, last)
}

// appendMessage appends the headers of a message with attributes of a length.
func (q *Queue) appendMessage(b []byte, kind uint16, length int) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(messageHeaderLength+nfgenLength+length))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	return q.appendHeader(b)
}

func (q *Queue) write(fd uintptr) bool {
	for {
		_, q.writeErr = unix.Write(int(fd), q.out)
		//nolint:errorlint // unix.Write returns a bare errno.
		if q.writeErr != unix.EINTR {
			return true
		}
	}
}

// Close lets all packets that wait go on and unbinds the queue: rules let packets pass
// from now on.
func (q *Queue) Close() error {
	if q.closed.Swap(true) {
		return nil
	}
	// A queue without room lets packets pass that come after the last release, which
	// the kernel would drop with the socket.
	full := netlink.Attribute{Type: configLength, Data: make([]byte, 4)}
	err := q.writeBehind(full)
	const beyondAll = 1 << 30 // the kernel compares the numbers as they wrap around
	if err == nil {
		err = q.send(q.appendRelease(nil, q.last.Load()+beyondAll))
	}
	if err != nil {
		err = fmt.Errorf("let the packets of queue %d go: %w", q.number, err)
	}
	return errors.Join(err, q.conn.Close())
}

// writeBehind configures the queue without waiting for the kernel's answer, which
// Receive skips.
func (q *Queue) writeBehind(attr netlink.Attribute) error {
	data, err := netlink.MarshalAttributes([]netlink.Attribute{attr})
	if err != nil {
		return err
	}
	b := q.appendMessage(nil, messageConfig, len(data))
	return q.send(append(b, data...))
}

// send is for what is not worth an onWrite of its own.
func (q *Queue) send(b []byte) (err error) {
	writeErr := q.raw.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), b)
		return true
	})
	return errors.Join(writeErr, err)
}
