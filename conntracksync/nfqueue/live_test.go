package nfqueue

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
	"tandem/conntracksync/hold"
)

// patience bounds what must happen soon; nothing is measured by it.
const patience = 10 * time.Second

// listen lets the server hear packets at address; each is given to heard, with the
// port of the client.
func (l *lab) listen(t testing.TB, address string, heard func(port uint16)) {
	t.Helper()
	inside(t, l.server, func() error {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				heard(from.(*net.UDPAddr).AddrPort().Port())
			}
		}()
		return nil
	})
}

// send sends a packet of a new flow for every port.
func (l *lab) send(t testing.TB, from, to string, ports ...uint16) {
	t.Helper()
	inside(t, l.client, func() error {
		for _, p := range ports {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from), Port: int(p)},
				net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("first"))
			if err := errors.Join(err, c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

// ports returns n ports from first on.
func ports(first uint16, n int) (list []uint16) {
	for range n {
		list = append(list, first)
		first++
	}
	return list
}

// collect receives n ports and fails when they do not come.
func collect(t testing.TB, heard <-chan uint16, n int) (list []uint16) {
	t.Helper()
	late := time.After(patience)
	for len(list) < n {
		select {
		case p := <-heard:
			list = append(list, p)
		case <-late:
			t.Fatalf("%d of %d packets arrived", len(list), n)
		}
	}
	slices.Sort(list)
	return list
}

// receive returns the numbers of n packets.
func receive(t *testing.T, q *Queue, n int) (ids []uint32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b := make([]uint32, 64)
	for len(ids) < n {
		got, err := q.Receive(ctx, b)
		if err != nil {
			t.Fatalf("%d of %d packets were queued: %v", len(ids), n, err)
		}
		ids = append(ids, b[:got]...)
	}
	return ids
}

func TestReleaseLetsAllUpToAPacketGo(t *testing.T) {
	l := newLab(t)
	r := l.rules(t, "c")
	l.translate(t)
	q := l.queue(t, 64)
	heard := make(chan uint16, 64)
	l.listen(t, server4+":9000", func(p uint16) { heard <- p })
	sent := ports(20000, 5)
	l.send(t, client4, server4+":9000", sent...)
	ids := receive(t, q, 5)
	if !slices.IsSorted(ids) || len(ids) != 5 {
		t.Fatalf("numbers %v", ids)
	}
	if err := q.Release(ids[2]); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, heard, 3); !slices.Equal(got, sent[:3]) {
		t.Errorf("after the release of three these arrived: %v", got)
	}
	if err := errors.Join(q.Release(ids[4]), q.Release(ids[4])); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, heard, 2); !slices.Equal(got, sent[3:]) {
		t.Errorf("after the release of the rest these arrived: %v", got)
	}
	if c := counts(t, r); c != (Counts{Picked: 5}) {
		t.Errorf("counts: %+v", c)
	}
}

func counts(t *testing.T, r *Rules) Counts {
	t.Helper()
	c, err := r.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mirror replicates the router's flows into the BACKUP, each after a delay, and holds
// first packets until then. It is the shell in small.
type mirror struct {
	events, table *ctnetlink.Conn
	delay         time.Duration

	mu   sync.Mutex
	hold *hold.Hold
	// known is what the BACKUP's kernel had when it was last looked at; nil is never.
	known map[uint16]conntracksync.Flow
}

func openMirror(t testing.TB, l *lab, delay time.Duration) *mirror {
	t.Helper()
	m := &mirror{delay: delay, hold: hold.New(hold.Config{Time: patience})}
	inside(t, l.router, func() (err error) {
		m.events, err = ctnetlink.Open(ctnetlink.Config{})
		return err
	})
	inside(t, l.backup, func() (err error) {
		m.table, err = ctnetlink.Open(ctnetlink.Config{})
		return err
	})
	t.Cleanup(func() {
		if err := errors.Join(m.events.Close(), m.table.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// serve replicates and holds until the test ends.
func (m *mirror) serve(t testing.TB, q *Queue) {
	t.Helper()
	m.hold.Connected()
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.run(t.Context(), q); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	t.Cleanup(running.Wait)
}

func newMirror(t testing.TB, l *lab, q *Queue) *mirror {
	t.Helper()
	m := openMirror(t, l, 20*time.Millisecond)
	m.known = make(map[uint16]conntracksync.Flow)
	m.serve(t, q)
	return m
}

func (m *mirror) run(ctx context.Context, q *Queue) error {
	ids := make([]uint32, 256)
	events := make([]conntracksync.Event, 1024)
	var ops []conntracksync.Op
	var position uint64
	for {
		n, err := q.Receive(ctx, ids)
		if err != nil {
			return err
		}
		m.mu.Lock()
		for _, id := range ids[:n] {
			m.hold.Packet(time.Now(), id)
		}
		mark, _ := m.hold.Mark()
		m.mu.Unlock()
		position++
		if ops, err = m.drain(ctx, events, ops[:0]); err != nil {
			return err
		}
		m.mu.Lock()
		m.hold.Read(time.Now(), mark, position)
		m.mu.Unlock()
		if m.delay > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(m.delay):
			}
		}
		if err := m.apply(ops); err != nil {
			return err
		}
		m.mu.Lock()
		m.hold.Acknowledged(time.Now(), position)
		last, ok := m.hold.Due(time.Now())
		m.mu.Unlock()
		if !ok {
			continue
		}
		if err := q.Release(last); err != nil {
			return err
		}
	}
}

// drain reads the events until none is left.
func (m *mirror) drain(ctx context.Context, events []conntracksync.Event, ops []conntracksync.Op) ([]conntracksync.Op, error) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for {
		n, overrun, err := m.events.Receive(ended, events)
		switch {
		case overrun:
			return nil, errors.New("events were lost")
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, context.Canceled):
			return ops, nil
		case err != nil:
			return nil, err
		}
		ops = operations(events[:n], ops)
		if n < len(events) {
			return ops, nil
		}
	}
}

func operations(events []conntracksync.Event, ops []conntracksync.Op) []conntracksync.Op {
	for i := range events {
		if events[i].Kind != conntracksync.EventDestroy {
			ops = append(ops, conntracksync.Op{Kind: conntracksync.OpReplace, Flow: events[i].Flow})
		}
	}
	return ops
}

func (m *mirror) apply(ops []conntracksync.Op) error {
	if len(ops) == 0 {
		return nil
	}
	if _, err := m.table.Apply(ops); err != nil || m.known == nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.Dump(context.Background(), func(f *conntracksync.Flow) error {
		m.known[f.Original.SourcePort] = *f
		return nil
	})
}

// flow returns what the BACKUP's kernel had of the flow of a port when it was last
// looked at.
func (m *mirror) flow(port uint16) (f conntracksync.Flow, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, known = m.known[port]
	return f, known
}

// TestFirstPacketComesAfterItsFlow lets the server ask, for each first packet, whether
// the BACKUP knows the flow. Without the rules it never does.
func TestFirstPacketComesAfterItsFlow(t *testing.T) {
	l := newLab(t)
	r := l.rules(t, "c")
	l.translate(t)
	m := newMirror(t, l, l.queue(t, 1024))
	type arrival struct {
		port  uint16
		known bool
	}
	arrivals := make(chan arrival, 1024)
	for _, address := range []string{server4 + ":9000", "[" + server6 + "]:9000"} {
		l.listen(t, address, func(port uint16) {
			_, known := m.flow(port)
			arrivals <- arrival{port, known}
		})
	}
	for _, c := range []struct {
		name, from, to string
		first          uint16
		links          []string
		known          bool
	}{
		{"IPv4, translated", client4, server4 + ":9000", 20000, []string{"c"}, true},
		{"IPv6", client6, "[" + server6 + "]:9000", 21000, []string{"c"}, true},
		{"to the network", client4, server4 + ":9000", 22000, []string{"x", "s"}, true},
		{"of another network", client4, server4 + ":9000", 23000, []string{"x"}, false},
		{"no network", client4, server4 + ":9000", 24000, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ensure(t, r, c.links...)
			const flows = 50
			l.send(t, c.from, c.to, ports(c.first, flows)...)
			late := time.After(patience)
			for n := range flows {
				select {
				case a := <-arrivals:
					if a.known != c.known {
						t.Fatalf("packet of port %d arrived, known to the BACKUP: %t", a.port, a.known)
					}
				case <-late:
					t.Fatalf("%d of %d packets arrived", n, flows)
				}
			}
		})
	}
	if c := counts(t, r); c.Early != 0 {
		t.Errorf("counts: %+v", c)
	}
}

// TestSessionIsKnownWhenItIsEstablished dials over TCP: the answer to the SYN is what
// waits.
func TestSessionIsKnownWhenItIsEstablished(t *testing.T) {
	l := newLab(t)
	r := l.rules(t, "c")
	l.translate(t)
	m := newMirror(t, l, l.queue(t, 1024))
	inside(t, l.server, func() error {
		listener, err := net.Listen("tcp", server4+":9000")
		if err == nil {
			t.Cleanup(func() { _ = listener.Close() })
		}
		return err
	})
	const sessions = 10
	for i := range sessions {
		inside(t, l.client, func() error {
			c, err := net.DialTimeout("tcp", server4+":9000", patience)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() })
			f, known := m.flow(c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
			if !known || f.TCP.State != conntracksync.TCPSynReceived {
				t.Errorf("session %d is established, the BACKUP knows: %t, %v", i, known, f.TCP.State)
			}
			return nil
		})
	}
	if c := counts(t, r); c != (Counts{Picked: sessions}) {
		t.Errorf("counts: %+v", c)
	}
}

// TestWithoutListenerPacketsPass has nobody on the queue, before it is opened and after
// it was closed.
func TestWithoutListenerPacketsPass(t *testing.T) {
	l := newLab(t)
	l.rules(t, "c")
	l.translate(t)
	heard := make(chan uint16, 64)
	l.listen(t, server4+":9000", func(p uint16) { heard <- p })
	l.send(t, client4, server4+":9000", ports(20000, 3)...)
	collect(t, heard, 3)
	if err := l.queue(t, 16).Close(); err != nil {
		t.Fatal(err)
	}
	l.send(t, client4, server4+":9000", ports(21000, 3)...)
	collect(t, heard, 3)
}

func TestFullQueueLetsPacketsPass(t *testing.T) {
	l := newLab(t)
	l.rules(t, "c")
	l.translate(t)
	q := l.queue(t, 4)
	heard := make(chan uint16, 64)
	l.listen(t, server4+":9000", func(p uint16) { heard <- p })
	sent := ports(20000, 10)
	l.send(t, client4, server4+":9000", sent...)
	if got := collect(t, heard, 6); !slices.Equal(got, sent[4:]) {
		t.Errorf("beside the full queue these arrived: %v", got)
	}
	ids := receive(t, q, 4)
	if err := q.Release(ids[3]); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, heard, 4); !slices.Equal(got, sent[:4]) {
		t.Errorf("out of the queue these arrived: %v", got)
	}
}

// TestFlowWithoutAnswerWaitsOnce sends packets of one flow that nobody answers.
func TestFlowWithoutAnswerWaitsOnce(t *testing.T) {
	l := newLab(t)
	r := l.rules(t, "c")
	l.translate(t)
	q := l.queue(t, 16)
	heard := make(chan uint16, 64)
	l.listen(t, server4+":9000", func(p uint16) { heard <- p })
	l.send(t, client4, server4+":9000", 20000, 20000)
	ids := receive(t, q, 2) // the second must not overtake the first
	if err := q.Release(ids[1]); err != nil {
		t.Fatal(err)
	}
	collect(t, heard, 2)
	before := counts(t, r)
	l.send(t, client4, server4+":9000", 20000, 20000, 20000)
	collect(t, heard, 3)
	if after := counts(t, r); after != before {
		t.Errorf("counts went from %+v to %+v", before, after)
	}
}

// TestTableMadeTooLateHoldsNothing makes the table when connection tracking is in use.
func TestTableMadeTooLateHoldsNothing(t *testing.T) {
	l := newLab(t)
	l.translate(t)
	r := l.rules(t, "c")
	l.queue(t, 16)
	heard := make(chan uint16, 64)
	l.listen(t, server4+":9000", func(p uint16) { heard <- p })
	l.send(t, client4, server4+":9000", ports(20000, 3)...)
	collect(t, heard, 3)
	if c := counts(t, r); c.Early < 3 || c.Picked > 0 {
		t.Errorf("counts: %+v", c)
	}
}

func TestEnsureChangesOnlyWhatDiffers(t *testing.T) {
	l := newLab(t)
	r := l.rules(t)
	l.translate(t)
	for _, c := range []struct {
		links   []string
		changed bool
	}{{nil, false}, {[]string{"c"}, true}, {[]string{"c"}, false}, {[]string{"c", "s"}, true}, {nil, true}} {
		changed, err := r.Ensure(c.links)
		if err != nil {
			t.Fatal(err)
		}
		if changed != c.changed {
			t.Errorf("links %v: changed %t", c.links, changed)
		}
	}
	for _, want := range []bool{true, false} {
		if removed, err := r.Remove(); err != nil || removed != want {
			t.Fatalf("removed %t, %v; want %t", removed, err, want)
		}
	}
	if c := counts(t, r); c != (Counts{}) {
		t.Errorf("counts without a table: %+v", c)
	}
}

func TestQueueIsOnes(t *testing.T) {
	l := newLab(t)
	q := l.queue(t, 16)
	inside(t, l.router, func() error {
		if second, err := Open(Config{Group: testGroup, Length: 16}); err == nil {
			return errors.Join(errors.New("the queue was opened twice"), second.Close())
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Receive(ctx, make([]uint32, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("receive without time: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Receive(t.Context(), make([]uint32, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("receive from a closed queue: %v", err)
	}
	if err := q.Release(1); !errors.Is(err, ErrClosed) {
		t.Errorf("release of a closed queue: %v", err)
	}
}
