package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

const (
	roleMaster = "MASTER"
	roleBackup = "BACKUP"

	// patience is how long a test waits for what must happen soon.
	patience = time.Minute
	// look is the pause between two looks.
	look = 10 * time.Millisecond

	echoTCPPort = 7001
	echoUDPPort = 7002
	bulkPort    = 7003
	newPort     = 7004

	protocolExperimental = 253 // RFC 3692
)

// stand is a laboratory with traffic.
type stand struct {
	*lab.Lab
	t      *testing.T
	server *traffic.Server
	// server6 is the same at an IPv6 address.
	server6 *traffic.Server
}

func nodes() []string { return []string{lab.Alpha, lab.Bravo} }

func other(node string) string {
	if node == lab.Alpha {
		return lab.Bravo
	}
	return lab.Alpha
}

// newStand builds a laboratory whose nodes are not started yet.
func newStand(t *testing.T) *stand { return newStandOf(t, lab.Options{}) }

// newStandOf builds one with options beside the usual ones.
func newStandOf(t *testing.T, opts lab.Options) *stand {
	t.Helper()
	needLab(t)
	noteSources(t)
	opts.Binary, opts.Dir = os.Getenv(binaryVariable), t.TempDir()
	if opts.Interval == 0 {
		opts.Interval = interval
	}
	l, err := lab.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{Lab: l, t: t}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		s.readLogs()
	})
	return s
}

// newPair builds a laboratory and waits until its pair is ready.
func newPair(t *testing.T) *stand { return newPairOf(t, lab.Options{}) }

// newPairOf does so with options beside the usual ones.
func newPairOf(t *testing.T, opts lab.Options) *stand {
	t.Helper()
	s := newStandOf(t, opts)
	s.start(nodes()...)
	s.ready()
	return s
}

// on is the same stand for a subtest.
func (s *stand) on(t *testing.T) *stand {
	return &stand{Lab: s.Lab, t: t, server: s.server, server6: s.server6}
}

// readLogs looks for what no node may say, and shows all of it after a failure.
func (s *stand) readLogs() {
	for _, node := range nodes() {
		log, err := os.ReadFile(s.LogPath(node))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			s.t.Error(err)
		}
		for _, word := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if bytes.Contains(log, []byte(word)) {
				s.t.Errorf("%s said %q", node, word)
			}
		}
		if s.t.Failed() {
			s.t.Logf("log of %s:\n%s", node, worthReading(log))
		}
	}
}

// worthReading leaves out the sixty changes with which each start begins.
func worthReading(log []byte) []byte {
	lines := slices.DeleteFunc(bytes.Split(log, []byte("\n")), func(line []byte) bool {
		return bytes.Contains(line, []byte(`msg="kernel changed"`))
	})
	return bytes.Join(lines, []byte("\n"))
}

func (s *stand) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.t.Context(), patience)
}

func (s *stand) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) start(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.must(s.StartNode(s.t.Context(), name))
	}
}

func (s *stand) stop(name string) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	s.must(s.StopNode(ctx, name))
}

// ready waits until there are a MASTER and a BACKUP without problems.
func (s *stand) ready() {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	s.must(s.WaitReady(ctx))
}

// roles names the MASTER and the BACKUP.
func (s *stand) roles() (master, backup string) {
	s.t.Helper()
	s.eventually("there is one MASTER", func(ctx context.Context) (err error) {
		master, err = s.Master(ctx)
		return err
	})
	return master, other(master)
}

func (s *stand) status(node string) status.Status {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	answer, err := s.Status(ctx, node)
	s.must(err)
	return answer
}

// eventually looks again and again until check is content.
func (s *stand) eventually(what string, check func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var wrong error
	for {
		if err := check(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			wrong = err
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: not within %v: %v", what, patience, wrong)
		case <-ticker.C:
		}
	}
}

// becomes waits until a node has a role.
func (s *stand) becomes(node, role string) {
	s.t.Helper()
	s.eventually(node+" becomes "+role, func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		if err == nil && answer.Role != role {
			err = fmt.Errorf("it is %s", answer.Role)
		}
		return err
	})
}

// pass lets time pass in which something must not happen.
func (s *stand) pass(d time.Duration) {
	s.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.t.Context().Done():
		s.t.Fatal(context.Cause(s.t.Context()))
	}
}

func (s *stand) inject(fault lab.Fault, node string) time.Time {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	at, err := s.Inject(ctx, fault, node)
	s.must(err)
	return at
}

func (s *stand) heal(fault lab.Fault, node string) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	s.must(s.Heal(ctx, fault, node))
}

// electorPID and nodePID are the two processes of a node.
func (s *stand) electorPID(node string) int {
	s.t.Helper()
	e := s.status(node).Elector
	if !e.Alive || e.PID == 0 {
		s.t.Fatalf("%s has no elector", node)
	}
	return e.PID
}

func (s *stand) nodePID(node string) int {
	s.t.Helper()
	elector := s.electorPID(node)
	rest := slices.DeleteFunc(s.Processes(node), func(pid int) bool { return pid == elector })
	if len(rest) != 1 {
		s.t.Fatalf("%s has the processes %v besides its elector, want one", node, rest)
	}
	return rest[0]
}

func (s *stand) signal(pid int, sig syscall.Signal) {
	s.t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		s.t.Fatalf("send %s to %d: %v", unix.SignalName(sig), pid, err)
	}
}

// gone waits until a process has ended.
func (s *stand) gone(node string, pid int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("process %d of %s ends", pid, node), func(context.Context) error {
		if slices.Contains(s.Processes(node), pid) {
			return errors.New("it is still there")
		}
		return nil
	})
}

// load is live traffic; it fails the test at its end if anything was lost.
type load struct {
	*traffic.Client
	s *stand
}

// lightLoad is enough to see what a router does and little enough for captures to
// keep up with it where the host limits their buffers.
func lightLoad() traffic.ClientConfig {
	return traffic.ClientConfig{TCPSessions: 60, UDPFlows: 30, UDPInterval: udpInterval, Download: true, BulkRate: 10_000_000}
}

// traffic starts a client, and the server before the first one.
func (s *stand) traffic(cfg traffic.ClientConfig) *load {
	s.t.Helper()
	return s.trafficTo(lab.Client, lab.ServerAddress, &s.server, cfg)
}

// guestTraffic is traffic from the second network.
func (s *stand) guestTraffic(cfg traffic.ClientConfig) *load {
	s.t.Helper()
	return s.trafficTo(lab.Guest, lab.ServerAddress, &s.server, cfg)
}

// traffic6 is traffic over IPv6.
func (s *stand) traffic6(cfg traffic.ClientConfig) *load {
	s.t.Helper()
	return s.trafficTo(lab.Client, lab.ServerAddressIPv6, &s.server6, cfg)
}

func (s *stand) trafficTo(from, to string, server **traffic.Server, cfg traffic.ClientConfig) *load {
	s.t.Helper()
	binary, address := os.Getenv(binaryVariable), netip.MustParseAddr(to)
	ctx, cancel := s.context()
	defer cancel()
	if *server == nil {
		config := traffic.ServerConfig{Address: address, TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort, NewPort: newPort}
		if address.Is4() {
			config.Protocols = []uint8{unix.IPPROTO_SCTP, unix.IPPROTO_GRE, protocolExperimental}
		}
		s.must(s.Namespace(lab.Server).Do(func() (err error) {
			*server, err = traffic.StartServer(exec.Command(binary, "traffic", "server"), config)
			return err
		}))
		started := *server
		s.t.Cleanup(func() { _ = started.Stop() }) // it may have been killed with its namespace
		_, err := started.Ready(ctx)
		s.must(err)
	}
	cfg.Server, cfg.TCPPort, cfg.UDPPort, cfg.BulkPort, cfg.NewPort = address, echoTCPPort, echoUDPPort, bulkPort, newPort
	l := &load{s: s}
	s.must(s.Namespace(from).Do(func() (err error) {
		l.Client, err = traffic.StartClient(exec.Command(binary, "traffic", "client"), cfg)
		return err
	}))
	s.t.Cleanup(func() { _ = l.Stop() })
	s.must(l.Ready(ctx))
	return l
}

// on is the same load for a subtest.
func (l *load) on(s *stand) *load { return &load{Client: l.Client, s: s} }

// mark begins a new window of observation.
func (l *load) mark() {
	l.s.t.Helper()
	ctx, cancel := l.s.context()
	defer cancel()
	l.s.must(l.Mark(ctx))
}

// report fails the test if a flow was lost, and returns the window's snapshot.
func (l *load) report() traffic.Snapshot {
	l.s.t.Helper()
	ctx, cancel := l.s.context()
	defer cancel()
	snap, err := l.Report(ctx)
	l.s.must(err)
	for _, g := range snap.Groups() {
		if g.Lost > 0 {
			l.s.t.Errorf("%d of %d lost: %s: %+v", g.Lost, g.Total, g.Name, g.Examples)
		}
	}
	return snap
}

// resumes waits until every living flow was heard again since at.
func (l *load) resumes(at time.Time) {
	l.s.t.Helper()
	ctx, cancel := l.s.context()
	defer cancel()
	l.s.must(l.Fault(ctx, at))
	l.s.eventually("the traffic resumes", func(context.Context) error {
		if snap := l.Latest(); snap.Fault.Before(at) || snap.Resumed() < snap.Alive() {
			return fmt.Errorf("%d of %d flows were heard again%s", snap.Resumed(), snap.Alive(), missing(snap))
		}
		return nil
	})
}

// missing names the kinds of which not every living flow was heard again.
func missing(snap traffic.Snapshot) string {
	text := ""
	for _, g := range snap.Groups() {
		if g.Resumed < g.Alive {
			text += fmt.Sprintf(", %d of %d: %s", g.Resumed, g.Alive, g.Name)
		}
	}
	return text
}

// wake makes every quiet flow say one thing.
func (l *load) wake() {
	l.s.t.Helper()
	ctx, cancel := l.s.context()
	defer cancel()
	l.s.must(l.Wake(ctx))
}

// undisturbed fails the test if the traffic has felt more than a handover since
// the last mark.
func (l *load) undisturbed() {
	l.s.t.Helper()
	l.within(handoverSilence)
}

func (l *load) within(bound time.Duration) {
	l.s.t.Helper()
	snap := l.report()
	limit := bound + udpInterval + schedulingRoom + snap.Stall
	if snap.UDP.SilenceMax > limit {
		l.s.t.Errorf("a UDP flow was silent for %v, want at most %v (%v, the interval %v, room %v and the client's own stall %v)",
			snap.UDP.SilenceMax, limit, bound, udpInterval, schedulingRoom, snap.Stall)
	}
	l.s.t.Logf("longest silence: UDP %v (limit %v, median %v), TCP %v, download %v",
		snap.UDP.SilenceMax.Round(time.Millisecond), limit.Round(time.Millisecond), snap.UDP.SilenceP50.Round(time.Millisecond),
		snap.TCP.SilenceMax.Round(time.Millisecond), snap.Bulk.SilenceMax.Round(time.Millisecond))
}
