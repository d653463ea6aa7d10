package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

const (
	// captureBuffer is the socket's receive buffer in bytes.
	captureBuffer = 8 << 20
	// allProtocols is ETH_P_ALL in network byte order.
	allProtocols = uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
)

// sighting is a frame that a router sent.
type sighting struct {
	frame
	// at is the kernel's wall clock when the frame came in at the switch.
	at time.Time
	// from names the router behind the port.
	from string
}

// capture records what comes in at the ports of the switch, in the order in which it
// came in, whatever the port.
type capture struct {
	file  *os.File
	ended chan struct{}

	mu sync.Mutex
	// ports names the routers by the index of their ports.
	ports   map[int]string
	seen    []sighting
	faults  []string
	failure error
}

// startCapture listens to all links of a namespace; what is behind them, [capture.name]
// tells.
func startCapture(where lab.Namespace) (*capture, error) {
	var fd int
	err := where.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(allProtocols))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture in %s: %w", where.Name(), err)
	}
	c := &capture{file: os.NewFile(uintptr(fd), "capture"), ended: make(chan struct{}), ports: map[int]string{}}
	if err := prepareCapture(fd); err != nil {
		_ = c.file.Close() // the first error tells
		return nil, fmt.Errorf("capture in %s: %w", where.Name(), err)
	}
	go func() {
		defer close(c.ended)
		c.read()
	}()
	return c, nil
}

func prepareCapture(fd int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		// In a user namespace the host's limit stands.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
}

// name tells which router is behind a port of the switch.
func (c *capture) name(index int, router string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ports[index] = router
}

func (c *capture) read() {
	conn, err := c.file.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	b, control := make([]byte, 2048), make([]byte, 128)
	err = conn.Read(func(fd uintptr) bool {
		for {
			n, controls, _, from, err := unix.Recvmsg(int(fd), b, control, 0)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EINTR):
			case err != nil:
				c.fail(err)
				return true
			default:
				c.record(b[:n], control[:controls], from)
			}
		}
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.fail(err)
	}
}

func (c *capture) record(b, control []byte, from unix.Sockaddr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	address, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return
	}
	// The switch's own link and the host's get a second copy.
	router, ok := c.ports[address.Ifindex]
	if !ok {
		return
	}
	at, err := stampOf(control)
	if err != nil {
		c.failure = errors.Join(c.failure, err)
		return
	}
	f, err := decode(b)
	if err != nil {
		c.faults = append(c.faults, fmt.Sprintf("%s sent %v", router, err))
		return
	}
	c.seen = append(c.seen, sighting{f, at, router})
}

// stampOf takes the kernel's time stamp out of the control messages.
func stampOf(control []byte) (time.Time, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("a frame without a time stamp")
}

func (c *capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = errors.Join(c.failure, err)
}

// sightings returns what was recorded since a moment.
func (c *capture) sightings(since time.Time) []sighting {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := len(c.seen)
	for first > 0 && !c.seen[first-1].at.Before(since) {
		first--
	}
	return slices.Clone(c.seen[first:])
}

// stop ends the capture. It returns everything, and what was sent that is malformed.
func (c *capture) stop() ([]sighting, []string, error) {
	if err := c.file.SetReadDeadline(time.Now()); err != nil {
		return nil, nil, err
	}
	<-c.ended
	lost, err := c.dropped()
	err = errors.Join(c.failure, err, c.file.Close())
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("the capture has lost %d frames", lost))
	}
	return c.seen, c.faults, err
}

func (c *capture) dropped() (lost uint32, err error) {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failure error
	err = conn.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, failure = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); failure == nil {
			lost = stats.Drops
		}
	})
	return lost, errors.Join(err, failure)
}

// host is a machine on the LAN that asks, all the time, who has the virtual addresses.
type host struct {
	fd   int
	ask  [][]byte
	stop chan struct{}
	done chan struct{}
}

// hostMAC and the addresses of the host.
const (
	hostAddress  = "10.0.0.100"
	hostAddress6 = "fe80::64"
	// askPause is the pause between two rounds of questions.
	askPause = 50 * time.Millisecond
)

// startHost asks through a link that is plugged into the switch.
func startHost(where lab.Namespace, link string, questions func(mac hardware) [][]byte) (*host, error) {
	h := &host{stop: make(chan struct{}), done: make(chan struct{})}
	address := &unix.SockaddrLinklayer{}
	err := where.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		address.Ifindex = ifi.Index
		h.ask = questions(hardware(ifi.HardwareAddr))
		h.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the host: %w", err)
	}
	go func() {
		defer close(h.done)
		ticker := time.NewTicker(askPause)
		defer ticker.Stop()
		for {
			select {
			case <-h.stop:
				return
			case <-ticker.C:
				for _, question := range h.ask {
					_ = unix.Sendto(h.fd, question, 0, address) // a lost question is asked again
				}
			}
		}
	}()
	return h, nil
}

func (h *host) end() {
	if h == nil {
		return
	}
	close(h.stop)
	<-h.done
	_ = unix.Close(h.fd) // it has served
}
