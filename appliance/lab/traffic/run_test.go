package traffic

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// testPatience bounds each wait; a test that passes waits for none of it.
const testPatience = 20 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1") //nolint:gochecknoglobals // a constant of the tests

func serve(t *testing.T) Listening {
	t.Helper()
	s, err := listen(ServerConfig{Address: loopback})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s.listening()
}

// running is a client in this process.
type running struct {
	t        *testing.T
	commands chan Command
	// latest holds the newest snapshot, replies those that answer a command.
	latest  chan Snapshot
	replies chan Snapshot
	done    chan error
}

func runClient(t *testing.T, cfg ClientConfig) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{
		t: t, commands: make(chan Command), latest: make(chan Snapshot, 1),
		replies: make(chan Snapshot, 1), done: make(chan error, 1),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- Run(ctx, cfg, r.commands, func(s Snapshot) {
			if s.ReplyTo != 0 {
				r.replies <- s
			}
			select {
			case <-r.latest:
			default:
			}
			r.latest <- s
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

// until waits for a snapshot that satisfies ok.
func (r *running) until(what string, ok func(Snapshot) bool) Snapshot {
	r.t.Helper()
	timeout := time.After(testPatience)
	var s Snapshot
	for {
		select {
		case s = <-r.latest:
			if ok(s) {
				return s
			}
		case err := <-r.done:
			r.t.Fatalf("client ended while the test waited until %s: %v", what, err)
		case <-timeout:
			r.t.Fatalf("not seen: %s; last: %+v", what, s)
		}
	}
}

func (r *running) do(c Command) Snapshot {
	r.t.Helper()
	c.ID = 7
	select {
	case r.commands <- c:
	case err := <-r.done:
		r.t.Fatalf("client ended: %v", err)
	}
	return <-r.replies
}

func ready(s Snapshot) bool { return s.Ready }

func TestAllFlowsEcho(t *testing.T) {
	t.Parallel()
	at := serve(t)
	r := runClient(t, ClientConfig{
		Server: loopback, TCPPort: at.TCP.Port(), UDPPort: at.UDP.Port(), BulkPort: at.Bulk.Port(),
		TCPSessions: 50, UDPFlows: 10, Download: true, BulkRate: 40_000_000,
	})
	r.until("ready", ready)
	r.do(Command{Verb: Mark})
	s := r.until("all resumed", func(s Snapshot) bool { return s.Resumed() == 61 })
	if s.Alive() != 61 || s.Lost() != 0 || s.UDP.Duplicates != 0 {
		t.Errorf("not all alive: %+v", s)
	}
	s = r.until("a rate", func(s Snapshot) bool { return s.BulkRate > 0 })
	if s.BulkRate > 80_000_000 {
		t.Errorf("download runs at %d bit/s, capped at 40 000 000", s.BulkRate)
	}
	// A whole interval lies between two echoes, so silence cannot be less.
	s = r.until("a full window", func(s Snapshot) bool { return s.Time.Sub(s.WindowStart) > 2*DefaultTCPInterval })
	if s.TCP.SilenceP50 < DefaultTCPInterval/2 || s.UDP.SilenceMax < DefaultUDPInterval/2 || s.Bulk.SilenceMax == 0 {
		t.Errorf("silence shorter than the interval: %+v", s)
	}
	future := r.do(Command{Verb: Fault, At: time.Now().Add(time.Hour)})
	if future.Resumed() != 0 {
		t.Errorf("%d flows resumed after a fault that is yet to come", future.Resumed())
	}
	if r.do(Command{Verb: "dance"}).Error == "" {
		t.Error("an unknown command is not refused")
	}
	r.do(Command{Verb: Stop})
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

func TestOutageIsSilenceAndNotLoss(t *testing.T) {
	t.Parallel()
	at := serve(t)
	udp, tcp := relayUDP(t, at.UDP), relayTCP(t, at.TCP)
	r := runClient(t, ClientConfig{
		Server: loopback, TCPPort: tcp.at.Port(), UDPPort: udp.at.Port(), TCPSessions: 5, UDPFlows: 5,
	})
	r.until("ready", ready)
	r.do(Command{Verb: Mark})
	udp.drop.Store(true)
	tcp.hold()
	r.do(Command{Verb: Fault})
	const outage = 300 * time.Millisecond
	r.until("silence of all", func(s Snapshot) bool {
		return s.UDP.SilenceP50 > outage && s.TCP.SilenceP50 > outage
	})
	udp.drop.Store(false)
	tcp.release()
	r.until("all resumed", func(s Snapshot) bool { return s.Resumed() == 10 })
	s := r.do(Command{Verb: Report})
	if s.Lost() != 0 || s.UDP.SilenceMax < outage || s.TCP.SilenceMax < outage {
		t.Errorf("%+v", s)
	}
	if s.UDP.Missing == 0 {
		t.Error("dropped datagrams are not counted")
	}
	s = r.do(Command{Verb: Mark})
	if s.UDP.SilenceMax != 0 || s.TCP.SilenceMax != 0 {
		t.Errorf("the mark does not begin a new window: %+v", s)
	}
}

func TestSilentFlowsAreLostWhenThePatienceEnds(t *testing.T) {
	t.Parallel()
	at := serve(t)
	udp := relayUDP(t, at.UDP)
	r := runClient(t, ClientConfig{
		Server: loopback, UDPPort: udp.at.Port(), UDPFlows: 3, Patience: 500 * time.Millisecond,
	})
	r.until("ready", ready)
	udp.drop.Store(true)
	s := r.until("all lost", func(s Snapshot) bool { return s.UDP.Lost == 3 })
	if s.UDP.Alive != 0 || s.UDP.Reasons[Silent.String()] != 3 {
		t.Errorf("%+v", s.UDP)
	}
}

func TestANewMappingLosesTheFlow(t *testing.T) {
	t.Parallel()
	at := serve(t)
	udp := relayUDP(t, at.UDP)
	r := runClient(t, ClientConfig{Server: loopback, UDPPort: udp.at.Port(), UDPFlows: 2})
	r.until("ready", ready)
	udp.remap.Store(true)
	s := r.until("a loss", func(s Snapshot) bool { return s.UDP.Lost > 0 })
	if s.UDP.Reasons[Remapped.String()] != s.UDP.Lost || len(s.UDP.Examples) == 0 {
		t.Errorf("%+v", s.UDP)
	}
}

func TestOneSessionIsResetClosedOrWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		harm func(*net.TCPConn, []byte)
		want Reason
	}{
		"reset": {func(c *net.TCPConn, _ []byte) { _ = c.SetLinger(0); _ = c.Close() }, Reset},
		"close": {func(c *net.TCPConn, _ []byte) { _ = c.CloseWrite() }, Closed},
		"wrong": {func(_ *net.TCPConn, b []byte) { b[27] ^= 1 }, WrongData},
		"again": {func(c *net.TCPConn, b []byte) { _, _ = c.Write(b[:tcpMessageSize]) }, OutOfOrder},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spoiltServer(t, c.harm)
			r := runClient(t, ClientConfig{Server: loopback, TCPPort: s.at.Port(), TCPSessions: 6})
			r.until("ready", ready)
			s.armed.Store(true)
			r.until("one lost", func(s Snapshot) bool { return s.TCP.Lost == 1 })
			r.do(Command{Verb: Fault})
			got := r.until("others resumed", func(s Snapshot) bool { return s.TCP.Resumed == 5 })
			if got.TCP.Lost != 1 || got.TCP.Alive != 5 || got.TCP.Reasons[c.want.String()] != 1 {
				t.Errorf("%+v", got.TCP)
			}
		})
	}
}

func TestAServerThatDoesNotListen(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), ClientConfig{Server: loopback, TCPPort: 1, TCPSessions: 1}, nil, func(Snapshot) {})
	if !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v", err)
	}
	err = Run(t.Context(), ClientConfig{
		Server: loopback, UDPPort: 1, UDPFlows: 1, Patience: 200 * time.Millisecond,
	}, nil, func(Snapshot) {})
	if !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

// spoilt is an echo server that harms one session once.
type spoilt struct {
	at    netip.AddrPort
	armed atomic.Bool
}

func spoiltServer(t *testing.T, harm func(*net.TCPConn, []byte)) *spoilt {
	t.Helper()
	l, err := listenTCP(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &spoilt{at: l.Addr().(*net.TCPAddr).AddrPort()}
	go func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				buf := make([]byte, 1024)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if s.armed.CompareAndSwap(true, false) {
						harm(conn, buf[:n])
					}
					if _, err := conn.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return s
}
