package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureBuffer is the socket's receive buffer in bytes: a burst of some
	// thousand frames.
	captureBuffer = 16 << 20
	// maxFrames bounds what a capture keeps; see [Capture.Lost].
	maxFrames = 1 << 20
	// snapLength is how much of a frame the filter sees, in bytes.
	snapLength = 512
	// ethernetHeader is the length of both addresses and the type.
	ethernetHeader = 14
)

// Frame is one Ethernet frame that came in at a port.
type Frame struct {
	// At is the kernel's wall clock when the frame came in.
	At time.Time
	// Source and Destination are the MAC addresses.
	Source, Destination [6]byte
	// EtherType is of the outermost header.
	EtherType uint16
	// Length is that of the whole frame in bytes.
	Length int
}

// Virtual tells that the source is a VRRP virtual router MAC address for IPv4,
// 00-00-5E-00-01-{VRID} (RFC 9568 §7.3).
func (f Frame) Virtual() bool {
	return f.Source[0] == 0 && f.Source[1] == 0 && f.Source[2] == 0x5e && f.Source[3] == 0 && f.Source[4] == 1
}

// Capture records frames until it is stopped.
type Capture struct {
	file  *os.File
	ended chan struct{}

	mu     sync.Mutex
	frames []Frame
	lost   int
	err    error
}

// Capture records the frames that come in at a link of the fabric and that
// filter accepts; nil accepts all. The filter sees the first 512 bytes of a
// frame and must not keep them. It ends with ctx or [Capture.Stop].
//
// At a [PortName] that is what the node behind the cable emitted, also while
// the switch blocks the port; at a [TrunkName] it is what the core switch got
// from there.
func (l *Lab) Capture(ctx context.Context, where string, filter func(frame []byte) bool) (*Capture, error) {
	link, err := l.fabric.LinkByName(where)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", where, err)
	}
	var fd int
	err = l.Namespace(Fabric).Do(func() error {
		fd, err = openPacketSocket(link.Attrs().Index)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", where, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture "+where), ended: make(chan struct{})}
	forget := context.AfterFunc(ctx, c.expire)
	go func() {
		defer close(c.ended)
		defer forget()
		c.read(filter)
	}()
	return c, nil
}

// openPacketSocket opens it in the calling thread's namespace.
func openPacketSocket(index int) (int, error) {
	// Protocol 0 receives nothing until bind: no frame of another link slips in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if err := preparePacketSocket(fd, index); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func preparePacketSocket(fd, index int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		// In a user namespace the host's limit stands.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer); err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("ask for kernel time stamps: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing frames: %w", err)
	}
	const allProtocols = uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // network byte order
	address := &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: index}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// expire makes the reader end.
func (c *Capture) expire() {
	_ = c.file.SetReadDeadline(time.Now()) // it fails only when the reader has ended
}

// read records until the file's deadline, and then what was already received.
func (c *Capture) read(filter func([]byte) bool) {
	defer func() { _ = c.file.Close() }()
	conn, err := c.file.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	frame, control := make([]byte, snapLength), make([]byte, 128)
	var failure error
	drain := func(fd uintptr) bool {
		for {
			n, controlLength, _, _, err := unix.Recvmsg(int(fd), frame, control, unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			// The link went down; the socket gets on when it comes up again.
			case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EINTR):
			case err != nil:
				failure = err
				return true
			case n >= ethernetHeader:
				seen := frame[:min(n, len(frame))]
				if filter == nil || filter(seen) {
					c.record(seen, n, stampOf(control[:controlLength]))
				}
			}
		}
	}
	err = conn.Read(drain)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = conn.Control(func(fd uintptr) { drain(fd) })
	}
	c.countDrops()
	if err := errors.Join(failure, err); err != nil {
		c.fail(err)
	}
}

func (c *Capture) record(seen []byte, length int, at time.Time) {
	f := Frame{At: at, EtherType: uint16(seen[12])<<8 | uint16(seen[13]), Length: length}
	copy(f.Destination[:], seen[0:6])
	copy(f.Source[:], seen[6:12])
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.frames) == maxFrames {
		c.lost++
		return
	}
	c.frames = append(c.frames, f)
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// stampOf takes the kernel's time stamp out of the control messages; without
// one it is now, which is late and never early.
func stampOf(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, message := range messages {
		if message.Header.Level == unix.SOL_SOCKET && message.Header.Type == unix.SCM_TIMESTAMPNS && len(message.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(message.Data[0:8])), int64(binary.NativeEndian.Uint64(message.Data[8:16])))
		}
	}
	return time.Now()
}

// Frames returns what was recorded so far, oldest first.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Frame(nil), c.frames...)
}

// Lost counts frames that are missing in Frames, because the kernel's buffer
// or the capture was full. A test that asserts absence asserts zero here.
func (c *Capture) Lost() int {
	c.countDrops()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// countDrops collects the kernel's count, which reading resets.
func (c *Capture) countDrops() {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return // closed: the reader has counted
	}
	_ = conn.Control(func(fd uintptr) { // closed, as above
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			c.mu.Lock()
			c.lost += int(stats.Drops)
			c.mu.Unlock()
		}
	})
}

// Stop ends the capture and returns what it recorded, including what the kernel
// had received by then. The error tells that the capture failed before. Stop may
// be called twice.
func (c *Capture) Stop() ([]Frame, error) {
	c.expire()
	<-c.ended
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return c.Frames(), fmt.Errorf("capture: %w", err)
	}
	return c.Frames(), nil
}

// From makes a filter that accepts frames with that source MAC address.
func From(mac net.HardwareAddr) func(frame []byte) bool {
	return func(frame []byte) bool {
		return string(frame[6:12]) == string(mac)
	}
}
