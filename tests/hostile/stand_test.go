package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

const (
	roleMaster = "MASTER"
	roleBackup = "BACKUP"

	// interval is the advertisement interval of the pair.
	interval = 100 * time.Millisecond
	// patience is how long a test waits for what must happen soon.
	patience = 20 * time.Second
	// look is the pause between two looks.
	look = 10 * time.Millisecond
	// calmSilence is the longest silence of undisturbed traffic. A datagram leaves
	// every 20 ms; the rest is room for two processors that everything here shares.
	calmSilence = 250 * time.Millisecond
	// switchSilence is the longest silence when the role moves because a node says
	// that it is no longer fit.
	switchSilence = 700 * time.Millisecond

	echoTCPPort = 7001
	echoUDPPort = 7002
	bulkPort    = 7003

	echoSessions, echoDatagrams = 50, 20
	echoFlows                   = echoSessions + echoDatagrams
)

// stand is a laboratory with a pair and live traffic through it.
type stand struct {
	*lab.Lab
	t      *testing.T
	client *traffic.Client
	// forgiven is how many flows may have been lost, by what a test could not spare
	// them.
	forgiven *int
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
	if !lab.Inside() {
		t.Skip("this machine lets the test make no namespaces: run it as root")
	}
	opts.Binary, opts.Dir, opts.Interval = os.Getenv(binaryVariable), t.TempDir(), interval
	l, err := lab.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{Lab: l, t: t, forgiven: new(int)}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		s.readLogs()
	})
	return s
}

// newPair builds a laboratory, waits until its pair is ready with alpha as MASTER, and
// sends traffic.
func newPair(t *testing.T) *stand { return newPairOf(t, lab.Options{}) }

// newPairOf does so with options beside the usual ones.
func newPairOf(t *testing.T, opts lab.Options) *stand {
	t.Helper()
	s := newStandOf(t, opts)
	s.startAlpha()
	s.start(lab.Bravo)
	s.answers(lab.Bravo)
	s.ready()
	s.startTraffic()
	return s
}

// on is the same stand for a subtest.
func (s *stand) on(t *testing.T) *stand {
	return &stand{Lab: s.Lab, t: t, client: s.client, forgiven: s.forgiven}
}

// readLogs looks for what no node may say, and shows all of it after a failure.
func (s *stand) readLogs() {
	for _, node := range nodes() {
		text := s.log(node)
		for _, word := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if strings.Contains(text, word) {
				s.t.Errorf("%s said %q", node, word)
			}
		}
		if s.t.Failed() {
			s.t.Logf("log of %s:\n%s", node, text)
		}
	}
}

// log is what a node has said, without the sixty changes with which each start begins.
func (s *stand) log(node string) string {
	text, err := os.ReadFile(s.LogPath(node))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Error(err)
	}
	lines := slices.DeleteFunc(bytes.SplitAfter(text, []byte("\n")), func(line []byte) bool {
		return bytes.Contains(line, []byte(`msg="kernel changed"`))
	})
	return string(bytes.Join(lines, nil))
}

// said waits until a node has logged a sentence.
func (s *stand) said(node string, words ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s says %q", node, words), func(context.Context) error {
		for line := range strings.Lines(s.log(node)) {
			if containsAll(line, words) {
				return nil
			}
		}
		return errors.New("it does not")
	})
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
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

// startAlpha starts alpha and waits until it is MASTER. Of two healthy nodes that start
// at the same time either may be.
func (s *stand) startAlpha() {
	s.t.Helper()
	s.start(lab.Alpha)
	s.answers(lab.Alpha)
	s.becomes(lab.Alpha, roleMaster)
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

// expect waits until a node's status satisfies check.
func (s *stand) expect(what, node string, check func(status.Status) error) {
	s.t.Helper()
	s.eventually(what, func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		if err != nil {
			return err
		}
		return check(answer)
	})
}

func (s *stand) becomes(node, role string) {
	s.t.Helper()
	s.expect(node+" becomes "+role, node, func(answer status.Status) error {
		if answer.Role != role {
			return fmt.Errorf("it is %s, problems %q", answer.Role, answer.Problems)
		}
		return nil
	})
}

// complains waits until one problem of a node contains all the words.
func (s *stand) complains(node string, words ...string) {
	s.t.Helper()
	s.expect(fmt.Sprintf("%s complains %q", node, words), node, func(answer status.Status) error {
		if !slices.ContainsFunc(answer.Problems, func(p string) bool { return containsAll(p, words) }) {
			return fmt.Errorf("its problems are %q", answer.Problems)
		}
		return nil
	})
}

// standing is what must not change by itself. (The term of a BACKUP is no such thing:
// it follows the MASTER's.)
type standing struct {
	role        string
	transitions uint64
}

func (s *stand) standing(node string) standing {
	s.t.Helper()
	answer := s.status(node)
	return standing{answer.Role, answer.Transitions}
}

// unmoved returns a check that both nodes stand as they do now.
func (s *stand) unmoved() func() {
	s.t.Helper()
	before := map[string]standing{}
	for _, node := range nodes() {
		before[node] = s.standing(node)
	}
	return func() {
		s.t.Helper()
		for _, node := range nodes() {
			if now := s.standing(node); now != before[node] {
				s.t.Errorf("%s was %+v and is %+v", node, before[node], now)
			}
		}
	}
}

// throughout looks at check all the time for a while.
func (s *stand) throughout(d time.Duration, check func()) {
	s.t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for end := time.After(d); ; {
		check()
		select {
		case <-end:
			return
		case <-s.t.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// startTraffic begins the sessions that all of this happens to.
func (s *stand) startTraffic() {
	s.t.Helper()
	address := netip.MustParseAddr(lab.ServerAddress)
	binary := os.Getenv(binaryVariable)
	ctx, cancel := s.context()
	defer cancel()
	s.must(s.Namespace(lab.Server).Do(func() error {
		server, err := traffic.StartServer(exec.Command(binary, "traffic", "server"), traffic.ServerConfig{
			Address: address, TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
		})
		if err != nil {
			return err
		}
		_, err = server.Ready(ctx)
		return err
	}))
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		s.client, err = traffic.StartClient(exec.Command(binary, "traffic", "client"), traffic.ClientConfig{
			Server: address, TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
			TCPSessions: echoSessions, UDPFlows: echoDatagrams,
		})
		return err
	}))
	s.must(s.client.Ready(ctx))
}

// traffic begins an observation and returns the check that nothing was lost since,
// and that no flow was silent for longer than the limit.
func (s *stand) traffic(limit time.Duration) func() {
	s.t.Helper()
	s.must(s.client.Mark(s.t.Context()))
	return func() {
		s.t.Helper()
		snapshot, err := s.client.Report(s.t.Context())
		s.must(err)
		if snapshot.Lost() > *s.forgiven {
			s.t.Errorf("lost flows: TCP %+v, UDP %+v", snapshot.TCP, snapshot.UDP)
		}
		if silence := snapshot.UDP.SilenceMax; silence > limit+snapshot.Stall {
			s.t.Errorf("the traffic was silent for %v, limit %v (the client itself was late by %v)", silence, limit, snapshot.Stall)
		} else {
			s.t.Logf("longest silence %v", silence)
		}
	}
}

// flowsOn waits until every flow was heard again.
func (s *stand) flowsOn() {
	s.t.Helper()
	s.must(s.client.Fault(s.t.Context(), time.Now()))
	s.eventually("all traffic flows on", func(ctx context.Context) error {
		snapshot, err := s.client.Report(ctx)
		if err != nil {
			return err
		}
		total := snapshot.TCP.Total + snapshot.UDP.Total
		if snapshot.Lost() > *s.forgiven || snapshot.Resumed()+snapshot.Lost() < total {
			err = fmt.Errorf("%d of %d flows were heard, lost are %+v", snapshot.Resumed(), total, slices.Concat(snapshot.TCP.Examples, snapshot.UDP.Examples))
		}
		return err
	})
}

// harmless returns the check that nothing has happened to the pair and its traffic.
func (s *stand) harmless() func() {
	s.t.Helper()
	unmoved, calm := s.unmoved(), s.traffic(calmSilence)
	return func() {
		s.t.Helper()
		s.flowsOn()
		unmoved()
		calm()
		s.ready() // no problem stays
	}
}

// replaceInDocument writes a changed copy of the pair's document.
func (s *stand) replaceInDocument(pairs ...string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.ConfigPath())
	s.must(err)
	changed := string(text)
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(changed, pairs[i]) {
			s.t.Fatalf("the document has no %q:\n%s", pairs[i], text)
		}
		changed = strings.ReplaceAll(changed, pairs[i], pairs[i+1])
	}
	path := filepath.Join(s.t.TempDir(), "pair.yaml")
	s.must(os.WriteFile(path, []byte(changed), 0o600))
	return path
}
