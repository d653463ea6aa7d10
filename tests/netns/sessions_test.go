package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

const (
	// newPerSecond is the rate of new connections beside the sessions that are watched: a
	// little more than the 5000 that shall stand on the average, since those that begin
	// while the role moves stand late or, at the end, not at all.
	newPerSecond = 5500
	// sharedPort is the first source port that several clients have.
	sharedPort = 20000
	// fileSize takes some three seconds; wordSize is over at once.
	fileSize = 150 * ftpChunk
	wordSize = 10
	// forever is a patience that no test tries.
	forever = time.Hour
)

// sessions are sessions of every kind, each of which must survive.
type sessions struct {
	s *stand
	// busy are heard all the time, quiet when they are woken.
	busy, quiet []*load
	// control are control connections of FTP: one is left alone, one has fetched files
	// in both ways.
	control []*ftpSession
	// fresh opens new connections beside all that.
	fresh *load
}

// TestSessionsSurvive takes sessions of every kind through three round trips of the
// role, under new connections. None may be lost.
func TestSessionsSurvive(t *testing.T) {
	s := newPairOf(t, lab.Options{Clients: 20, IPv6: true, LAN: []string{"helpers: [ftp]"}})
	for _, node := range nodes() {
		s.markUDP(node, udpMark)
		// Else what churns would fill the tables of a small machine.
		s.tune(node, "nf_conntrack_tcp_timeout_close", "1")
	}
	all := s.everySession()
	s.remapped()
	s.equalTables(100)
	all.churn()
	for trip := range 3 {
		master, _ := s.roles()
		all.move(fmt.Sprintf("round trip %d, there", trip+1), lab.Crash, master)
		master, _ = s.roles() // on a machine that stalls it may have moved once more
		all.move(fmt.Sprintf("round trip %d, back", trip+1), lab.Handover, master)
	}
	all.calm()
	s.equalTables(100)
	for _, l := range append(all.busy, all.quiet...) {
		l.report()
	}
}

// everySession begins sessions of all kinds.
func (s *stand) everySession() *sessions {
	s.t.Helper()
	var clients []netip.Addr
	for _, a := range s.ClientAddresses() {
		clients = append(clients, netip.MustParseAddr(a))
	}
	all := &sessions{s: s}
	// Two clients have the same ports and identifiers, so that one of them is given
	// others.
	all.busy = append(all.busy, s.traffic(traffic.ClientConfig{
		Sources: clients[:2], SourcePort: sharedPort, UDPInterval: udpInterval,
		TCPSessions: 20, UDPFlows: 20, Downlinks: 6, Pings: 6, Associations: 6,
		Protocols: []uint8{unix.IPPROTO_GRE, protocolExperimental}, Download: true, BulkRate: 10_000_000,
	}), s.traffic6(traffic.ClientConfig{
		UDPInterval: udpInterval, TCPSessions: 20, UDPFlows: 10, Downlinks: 3, Pings: 3, Download: true, BulkRate: 10_000_000,
	}))
	quiet := traffic.ClientConfig{Quiet: true, TCPSessions: 20, UDPFlows: 20, Patience: forever}
	all.quiet = append(all.quiet, s.traffic(quiet), s.traffic6(quiet))
	s.ftp()
	for i := range 2 {
		all.control = append(all.control, s.ftpLogin(clients[2+i].String()))
	}
	all.fetch(all.control[1])
	return all
}

// fetch fetches files in both ways.
func (all *sessions) fetch(f *ftpSession) {
	all.s.t.Helper()
	if err := f.passive(wordSize); err != nil {
		all.s.t.Fatalf("fetch a file in passive mode: %v", err)
	}
	if err := f.active(wordSize); err != nil {
		all.s.t.Fatalf("fetch a file in active mode: %v", err)
	}
}

// churn begins the new connections.
func (all *sessions) churn() {
	all.s.t.Helper()
	cfg := traffic.ClientConfig{NewPerSecond: newPerSecond, TCPSessions: 1}
	for _, a := range all.s.ClientAddresses()[4:] {
		cfg.Sources = append(cfg.Sources, netip.MustParseAddr(a))
	}
	all.fresh = all.s.traffic(cfg)
}

// calm ends them and says how many there were. How fast they came is for the machine to
// say, so that only their standstill is an error.
func (all *sessions) calm() {
	all.s.t.Helper()
	snap := all.fresh.report()
	all.s.must(all.fresh.Stop())
	rate := float64(snap.Opened) / snap.Uptime.Seconds()
	all.s.t.Logf("new connections, each a handshake of TCP and a reset: %d stood in %v, %.0f a second, and %d failed",
		snap.Opened, snap.Uptime.Round(time.Millisecond), rate, snap.Failed)
	if snap.Opened == 0 || snap.Failed > snap.Opened {
		all.s.t.Errorf("the new connections stand still: %d stood, %d failed", snap.Opened, snap.Failed)
	}
}

// move takes the role from a node, and looks at every session.
func (all *sessions) move(name string, fault lab.Fault, master string) {
	all.s.t.Helper()
	s, backup := all.s, other(master)
	before := all.fresh.Latest()
	// Files are under way in both directions.
	results := make(chan error, 2)
	begin := func(fetch func(int) error) { go func() { results <- fetch(fileSize) }() }
	transfers := []*ftpSession{s.ftpLogin(s.ClientAddresses()[2]), s.ftpLogin(s.ClientAddresses()[3])}
	begin(transfers[0].passive)
	begin(transfers[1].active)
	s.pass(aWhile)

	for _, l := range all.busy {
		l.mark()
	}
	at := s.inject(fault, master)
	s.becomes(backup, roleMaster)
	for _, l := range all.quiet {
		l.wake()
		l.resumes(at)
	}
	for _, l := range all.busy {
		l.resumes(at)
		l.report()
	}
	// What follows is read and rewritten by the new MASTER.
	for _, f := range all.control {
		all.fetch(f)
	}
	if err := errors.Join(<-results, <-results); err != nil {
		s.t.Errorf("%s: a file that was under way: %v", name, err)
	}
	for _, f := range transfers {
		all.fetch(f)
		s.must(f.control.Close())
	}
	s.heal(fault, master)
	s.ready()
	after := all.fresh.Latest()
	took := after.Time.Sub(before.Time)
	s.t.Logf("%s: %d new connections in %v, %.0f a second, %d failed", name, after.Opened-before.Opened,
		took.Round(time.Millisecond), float64(after.Opened-before.Opened)/took.Seconds(), after.Failed-before.Failed)
	if s.t.Failed() {
		s.t.FailNow() // what follows would fail for the same reason
	}
}

// remapped fails the test unless flows of each protocol with ports have been given
// another port.
func (s *stand) remapped() {
	s.t.Helper()
	master, _ := s.roles()
	counts := map[uint8]int{}
	for key, flow := range s.table(master).flows {
		if key.Original.SourcePort >= sharedPort && flow.reply.DestinationPort != key.Original.SourcePort && key.Original.Source.Is4() {
			counts[key.Protocol]++
		}
	}
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMP} {
		if counts[protocol] == 0 {
			s.t.Errorf("no flow of protocol %d has another port than its client gave it: %v", protocol, counts)
		}
	}
}
