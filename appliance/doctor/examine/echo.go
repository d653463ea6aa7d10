package examine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
)

// The layout of a datagram of the echo: session, question or answer, number.
const (
	echoLength   = 8 + 1 + 2
	echoQuestion = 'q'
	echoAnswer   = 'a'
)

// Echo answers the peer's datagrams and measures with its own. Its methods may be
// called concurrently.
type Echo struct {
	conn    *net.UDPConn
	session uint64
	peer    netip.AddrPort
	reader  sync.WaitGroup

	mu   sync.Mutex
	sent []time.Time
	took []time.Duration
}

// OpenEcho listens at an address of an interface and answers peer, which has the same
// port.
func OpenEcho(ctx context.Context, iface string, local netip.AddrPort, peer netip.Addr, session uint64) (*Echo, error) {
	lc := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var failed error
		err := conn.Control(func(fd uintptr) {
			failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, iface)
		})
		return errors.Join(err, failed)
	}}
	conn, err := lc.ListenPacket(ctx, "udp", local.String())
	if err != nil {
		return nil, fmt.Errorf("listen for datagrams at %v: %w", local, err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen for datagrams at %v: not UDP", local), conn.Close())
	}
	e := &Echo{conn: udp, session: session, peer: netip.AddrPortFrom(peer, local.Port())}
	e.reader.Go(e.read)
	return e, nil
}

// read ends when the socket is closed.
func (e *Echo) read() {
	b := make([]byte, 64)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != echoLength || from.Addr().Unmap() != e.peer.Addr() || binary.BigEndian.Uint64(b) != e.session {
			continue
		}
		if b[8] == echoQuestion {
			b[8] = echoAnswer
			_, _ = e.conn.WriteToUDPAddrPort(b[:n], e.peer) // a lost answer is what is measured
			continue
		}
		e.answered(int(binary.BigEndian.Uint16(b[9:])), time.Now())
	}
}

func (e *Echo) answered(number int, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number < len(e.sent) && !e.sent[number].IsZero() {
		e.took = append(e.took, at.Sub(e.sent[number]))
		e.sent[number] = time.Time{} // a second answer to the same question
	}
}

// Burst sends n datagrams, one every gap, and waits until all were answered, for at most
// patience.
func (e *Echo) Burst(ctx context.Context, n int, gap, patience time.Duration) doctor.Echo {
	result := doctor.Echo{Tested: true, Sent: n, Port: e.peer.Port()}
	ticker := time.NewTicker(gap)
	defer ticker.Stop()
	var b [echoLength]byte
	binary.BigEndian.PutUint64(b[:], e.session)
	b[8] = echoQuestion
	for i := range n {
		binary.BigEndian.PutUint16(b[9:], uint16(i))
		e.mu.Lock()
		e.sent = append(e.sent, time.Now())
		e.mu.Unlock()
		_, _ = e.conn.WriteToUDPAddrPort(b[:], e.peer) // what is not sent is lost
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return doctor.Echo{Problem: context.Cause(ctx).Error()}
		}
	}
	deadline := time.Now().Add(patience)
	for e.answers() < n && time.Now().Before(deadline) {
		if pause(ctx, lookPause) != nil {
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	slices.Sort(e.took)
	if result.Received = len(e.took); result.Received > 0 {
		result.Median, result.High, result.Max = e.took[len(e.took)/2], e.took[len(e.took)*9/10], e.took[len(e.took)-1]
	}
	return result
}

func (e *Echo) answers() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.took)
}

// Close ends it.
func (e *Echo) Close() error {
	err := e.conn.Close()
	e.reader.Wait()
	return err
}
