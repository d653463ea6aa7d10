package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
	"tandem/conntracksync/hold"
	"tandem/conntracksync/nfqueue"
)

const (
	firstPort = "7100"
	// killTime is for how long MASTERs are killed, killDials how many connections
	// begin before each.
	killTime  = 20 * time.Second
	killDials = 3
	// latencyDials are enough for a 99th percentile.
	latencyDials = 300
)

// TestFirstPacketsWait takes a network with first_packet: hold through what can happen
// to a pair.
func TestFirstPacketsWait(t *testing.T) {
	// The role moves when it is told to, not when a busy machine stalls.
	s := newPairOf(t, lab.Options{Interval: 3 * interval, LAN: []string{"first_packet: hold"}})
	master, _ := s.roles()
	if f := s.first(master); f.Error == nfqueue.ErrUnsupported.Error() {
		t.Skip(f.Error)
	}
	s.echoes()
	s.holding(master)
	for _, c := range []struct {
		name string
		run  func(s *stand)
	}{
		{"sessions are on the BACKUP when they begin", (*stand).beginOnBackup},
		{"flows without an answer", (*stand).beginOneWay},
		{"the BACKUP hangs", (*stand).holdForHungBackup},
		{"without a BACKUP", (*stand).passWithoutBackup},
		{"the stream comes again", (*stand).holdAfterReconnect},
		{"the node of the MASTER is killed", (*stand).holdAfterRestart},
		{"there and back", (*stand).holdThereAndBack},
		{"the MASTER dies as they begin", (*stand).dieAsTheyBegin},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.run(s.on(t)) }) {
			return // what follows would fail for the same reason
		}
	}
}

// first is what a node says of its first packets.
func (s *stand) first(node string) status.FirstPackets {
	s.t.Helper()
	f := s.status(node).Sync.FirstPackets
	if f == nil {
		s.t.Fatalf("%s says nothing of first packets", node)
	}
	return *f
}

// holding waits until a node holds first packets.
func (s *stand) holding(node string) {
	s.t.Helper()
	s.eventually(node+" holds first packets", func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		switch f := answer.Sync.FirstPackets; {
		case err != nil:
			return err
		case f == nil || !f.Holding:
			return errors.New("it does not")
		case f.Error != "":
			return errors.New(f.Error)
		}
		return nil
	})
}

// echoes answers what comes over TCP, and hears what comes over UDP without answering.
func (s *stand) echoes() {
	s.t.Helper()
	s.must(s.Namespace(lab.Server).Do(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(lab.ServerAddress, firstPort))
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c) // the client tells how it went
					_ = c.Close()
				}()
			}
		}()
		return nil
	}))
}

// dial begins a session and returns how long that took.
func (s *stand) dial() (net.Conn, time.Duration) {
	s.t.Helper()
	var c net.Conn
	var took time.Duration
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		began := time.Now()
		c, err = net.DialTimeout("tcp", net.JoinHostPort(lab.ServerAddress, firstPort), patience)
		took = time.Since(began)
		return err
	}))
	s.t.Cleanup(func() { _ = c.Close() })
	return c, took
}

// exchange fails the test if a session is dead.
func (s *stand) exchange(c net.Conn) {
	s.t.Helper()
	word := []byte("word")
	s.must(c.SetDeadline(time.Now().Add(patience)))
	if _, err := c.Write(word); err != nil {
		s.t.Errorf("%v says: %v", c.LocalAddr(), err)
		return
	}
	if _, err := io.ReadFull(c, word); err != nil {
		s.t.Errorf("%v hears: %v", c.LocalAddr(), err)
	}
}

func clientPort(c net.Conn) uint16 { return c.LocalAddr().(*net.TCPAddr).AddrPort().Port() }

// has tells whether the table has the flow of a client's port.
func (t table) has(protocol uint8, port uint16) bool {
	for key := range t.flows {
		if key.Protocol == protocol && key.Original.SourcePort == port {
			return true
		}
	}
	return false
}

// held begins a session and fails the test if its answer did not wait for the BACKUP.
func (s *stand) held(master string) {
	s.t.Helper()
	s.holding(master)
	before := s.first(master)
	c, _ := s.dial()
	s.exchange(c)
	if after := s.first(master); after.Acknowledged == before.Acknowledged {
		s.t.Errorf("nothing has waited for the BACKUP: %+v, before %+v", after, before)
	}
}

func (s *stand) beginOnBackup() {
	master, backup := s.roles()
	before := s.first(master)
	for range 10 {
		acknowledged := s.first(master).Acknowledged
		c, _ := s.dial()
		if s.first(master).Acknowledged == acknowledged {
			s.t.Logf("this machine kept the answer for %v waiting beyond its time", c.LocalAddr())
		} else if !s.table(backup).has(unix.IPPROTO_TCP, clientPort(c)) {
			s.t.Errorf("the session of %v is established, and the BACKUP does not know it", c.LocalAddr())
		}
		s.exchange(c)
	}
	var times []time.Duration
	for range latencyDials {
		c, took := s.dial()
		s.must(c.Close())
		times = append(times, took)
	}
	s.logTimes("held", times)
	after := s.first(master)
	if n := after.Acknowledged - before.Acknowledged; n < 10+latencyDials/2 {
		s.t.Errorf("%d first packets were acknowledged: %+v", n, after)
	}
	s.t.Logf("%+v", after)
}

func (s *stand) logTimes(what string, times []time.Duration) {
	slices.Sort(times)
	s.t.Logf("%s: %d sessions begin in p50 %v, p99 %v, at most %v", what, len(times), times[len(times)/2], times[len(times)*99/100], times[len(times)-1])
}

// beginOneWay has the server look at the BACKUP's table when the first datagram comes.
func (s *stand) beginOneWay() {
	master, backup := s.roles()
	var heard net.PacketConn
	s.must(s.Namespace(lab.Server).Do(func() (err error) {
		heard, err = net.ListenPacket("udp", net.JoinHostPort(lab.ServerAddress, firstPort))
		return err
	}))
	defer func() { _ = heard.Close() }()
	before := s.first(master)
	const flows = 20
	for range flows {
		var port uint16
		s.must(s.Namespace(lab.Client).Do(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(lab.ServerAddress, firstPort))
			if err != nil {
				return err
			}
			port = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			_, err = c.Write([]byte("word"))
			return errors.Join(err, c.Close())
		}))
		s.must(heard.SetReadDeadline(time.Now().Add(patience)))
		if _, _, err := heard.ReadFrom(make([]byte, 16)); err != nil {
			s.t.Fatal(err)
		}
		if !s.table(backup).has(unix.IPPROTO_UDP, port) {
			s.t.Errorf("the datagram of port %d has come, and the BACKUP does not know its flow", port)
		}
	}
	if after := s.first(master); after.Acknowledged-before.Acknowledged < flows/2 {
		s.t.Errorf("%+v, before %+v", after, before)
	}
}

// holdForHungBackup: packets wait for their time and not longer, until the stream
// counts as broken.
func (s *stand) holdForHungBackup() {
	master, backup := s.roles()
	before := s.first(master)
	pid := s.nodePID(backup)
	s.signal(pid, unix.SIGSTOP)
	var times []time.Duration
	for s.first(master).Holding {
		c, took := s.dial()
		s.exchange(c)
		times = append(times, took)
	}
	after := s.first(master)
	s.signal(pid, unix.SIGCONT)
	if after.Expired == before.Expired {
		s.t.Errorf("no packet's time was up: %+v, before %+v", after, before)
	}
	s.logTimes("in vain", times)
	if median := times[len(times)/2]; median < hold.DefaultTime/2 || median > hold.DefaultTime+schedulingRoom {
		s.t.Errorf("half of the sessions took more than %v to begin, want %v", median, hold.DefaultTime)
	}
	s.ready()
	s.held(master)
}

func (s *stand) passWithoutBackup() {
	master, backup := s.roles()
	s.inject(lab.Crash, backup)
	s.eventually("the stream is down", func(ctx context.Context) error {
		if answer, err := s.Status(ctx, master); err != nil || answer.Sync.FirstPackets.Holding {
			return errors.New("packets are still held")
		}
		return nil
	})
	before := s.first(master)
	var times []time.Duration
	for range latencyDials {
		c, took := s.dial()
		s.must(c.Close())
		times = append(times, took)
	}
	s.logTimes("passed", times)
	if after := s.first(master); after.Held != before.Held {
		s.t.Errorf("%d packets were held for nobody", after.Held-before.Held)
	}
	s.heal(lab.Crash, backup)
	s.ready()
	s.held(master)
}

func (s *stand) holdAfterReconnect() {
	master, _ := s.roles()
	for range 3 {
		s.inject(lab.HALink, master)
		c, _ := s.dial()
		s.parted()
		s.exchange(c)
		s.heal(lab.HALink, master)
		s.ready()
		s.held(master)
	}
}

// holdAfterRestart kills the process that the packets wait for.
func (s *stand) holdAfterRestart() {
	master, _ := s.roles()
	s.killNode(master)
	for range 10 {
		c, _ := s.dial()
		s.exchange(c)
	}
	s.restart(master)
	s.ready()
	s.held(master)
}

func (s *stand) holdThereAndBack() {
	for range 2 {
		master, backup := s.roles()
		s.inject(lab.Handover, master)
		s.becomes(backup, roleMaster)
		s.ready()
		s.held(backup)
		if f := s.first(master); f.Holding || f.Waiting > 0 {
			s.t.Errorf("the BACKUP holds first packets: %+v", f)
		}
	}
}

// dieAsTheyBegin kills the MASTER as soon as a client takes its session for
// established, again and again. Every answer to a SYN leaves the MASTER once the BACKUP
// has written the session or its time is up, so a session that began in less than that
// time, while the stream stood, is known.
func (s *stand) dieAsTheyBegin() {
	survived, late, unknown, deaths, judged := 0, 0, 0, 0, 0
	for began := time.Now(); time.Since(began) < killTime; deaths++ {
		master, backup := s.roles()
		s.holding(master)
		pids := s.Processes(master)
		type begun struct {
			net.Conn
			took time.Duration
		}
		var sessions []begun
		for range killDials {
			c, took := s.dial()
			sessions = append(sessions, begun{c, took})
		}
		killed := time.Now()
		for _, pid := range pids {
			s.signal(pid, unix.SIGKILL)
		}
		// A flow whose port stays the same would survive even so: the new MASTER takes it
		// for one that it has not seen yet.
		known := s.table(backup)
		stood := !s.lostStream(backup).Before(killed)
		if stood {
			judged++
		}
		for _, c := range sessions {
			switch knows := known.has(unix.IPPROTO_TCP, clientPort(c)); {
			case !knows && stood && c.took < hold.DefaultTime:
				s.t.Errorf("death %d: the session of %v was established within %v, and the BACKUP does not know it", deaths+1, c.LocalAddr(), c.took)
			case !knows:
				unknown++
			}
			if c.took >= hold.DefaultTime {
				late++
			}
		}
		s.inject(lab.Crash, master)
		s.becomes(backup, roleMaster)
		for _, c := range sessions {
			s.exchange(c)
			if s.t.Failed() {
				s.t.Fatalf("after %d deaths and %d sessions that survived", deaths, survived)
			}
			survived++
		}
		s.heal(lab.Crash, master)
		s.ready()
	}
	s.t.Logf("%d sessions survived %d deaths, in %d of which the stream stood until then; %d took %v or longer to begin, and the BACKUP did not know %d",
		survived, deaths, judged, late, hold.DefaultTime, unknown)
	if judged == 0 {
		s.t.Error("the stream stood in none of them")
	}
}

// lostStream waits until a node knows that its stream is gone and returns since when.
func (s *stand) lostStream(node string) (since time.Time) {
	s.t.Helper()
	s.eventually(node+" loses its stream", func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		if err == nil && answer.Sync.Connected {
			err = errors.New("it stands")
		}
		since = answer.Sync.Since
		return err
	})
	return since
}
