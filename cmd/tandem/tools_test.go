package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"tandem/appliance/status"
	"tandem/conntracksync/peer"
)

// tandem runs the command line and returns what it said.
func tandem(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// fakeNode answers as a node's API would and returns its state directory.
func fakeNode(t *testing.T, dir string, handler http.HandlerFunc) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, status.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { _ = server.Close() }) // the test is over
	return dir
}

func answer(t *testing.T, code int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}
}

func healthy() status.Status {
	now := time.Now()
	return status.Status{Time: now, Group: "edge", Node: "alpha", Role: "MASTER", Since: now.Add(-time.Minute), Priority: 200, Problems: []string{}}
}

func TestCheck(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "pair.yaml")
	text, err := os.ReadFile("../../docs/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("version: 1", "version: 7", "group: edge", "group: Ed ge", "preempt: false", "preempt: perhaps").Replace(string(text))
	if err := os.WriteFile(broken, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, file     string
		code           int
		stdout, stderr []string
	}{
		{"valid", "../../docs/reference.yaml", 0, []string{"is valid", "group edge", "2 members"}, nil},
		{"every fault at once", broken, 1, nil, []string{broken, "version", "Ed ge", "perhaps"}},
		{"missing", "/nonexistent/pair.yaml", 1, nil, []string{"tandem: read the document", "/nonexistent/pair.yaml"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := tandem(t, "check", tt.file)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			contains(t, stdout, tt.stdout)
			contains(t, stderr, tt.stderr)
		})
	}
}

func contains(t *testing.T, text string, words []string) {
	t.Helper()
	if len(words) == 0 && text != "" {
		t.Errorf("said %q, want nothing", text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q lacks %q", text, w)
		}
	}
}

func TestKeygen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alpha.key")
	code, public, stderr := tandem(t, "keygen", "--out", path)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if _, err := peer.ParsePublicKey(strings.TrimSpace(public)); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	if code, shown, _ := tandem(t, "keygen", "--show", "--out", path); code != 0 || shown != public {
		t.Errorf("--show says %q with exit code %d, want %q", shown, code, public)
	}
	code, stdout, stderr := tandem(t, "keygen", "--out", path)
	if code != 1 || stdout != "" {
		t.Errorf("overwriting: exit code %d, said %q", code, stdout)
	}
	contains(t, stderr, []string{path, "exists already", "never overwritten"})
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key changed: %v", err)
	}
	code, _, stderr = tandem(t, "keygen", "--show", "--out", path+".other")
	if code != 1 {
		t.Errorf("showing no key: exit code %d", code)
	}
	contains(t, stderr, []string{"no private key at " + path + ".other", "tandem keygen --out"})
}

func TestStatus(t *testing.T) {
	s := healthy()
	dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/status" {
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
		answer(t, http.StatusOK, s)(w, r)
	})
	code, stdout, stderr := tandem(t, "status", "--state-dir", dir)
	if code != 0 || stderr != "" || strings.Contains(stdout, "\x1b") {
		t.Errorf("exit code %d, %q, colours in a pipe: %q", code, stderr, stdout)
	}
	contains(t, stdout, []string{"alpha is MASTER for 1 min", "group edge"})

	code, stdout, _ = tandem(t, "status", "--json", "--state-dir", dir)
	var got status.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || got.Role != "MASTER" {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
}

// A clock that was set back leaves the node with a past in the future.
func TestStatusOfTheFuture(t *testing.T) {
	s := healthy()
	s.Since = s.Time.Add(365 * 24 * time.Hour)
	s.Peer = &status.Peer{Name: "bravo", Alive: true, Role: "BACKUP", LastHeard: -time.Hour}
	s.Carriers = []status.Carrier{{Name: "lan", PeerHeard: -time.Hour}}
	dir := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, s))
	code, stdout, stderr := tandem(t, "status", "--state-dir", dir)
	if code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	contains(t, stdout, []string{"alpha is MASTER for 0 s", "heard 0 s ago"})
}

func TestFailover(t *testing.T) {
	tests := []struct {
		name           string
		code           int
		body           any
		exit           int
		stdout, stderr []string
	}{
		{
			"happy", http.StatusOK,
			status.Failover{From: "alpha", To: "bravo", Took: 12345 * time.Microsecond},
			0,
			[]string{"bravo is MASTER now; alpha handed over in 12.3ms."},
			nil,
		},
		{
			"refused", http.StatusConflict,
			status.Failure{Error: "the peer's session table is not complete, so sessions would be lost"},
			1,
			nil,
			[]string{"tandem: the peer's session table is not complete, so sessions would be lost\n"},
		},
		{"refused without a word", http.StatusBadGateway, "what?", 1, nil, []string{"the node answered 502"}},
		{"nonsense", http.StatusOK, []int{1}, 1, nil, []string{"decode the node's answer"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost || r.URL.Path != "/v1/failover" {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				answer(t, tt.code, tt.body)(w, r)
			})
			code, stdout, stderr := tandem(t, "failover", "--state-dir", dir)
			if code != tt.exit {
				t.Errorf("exit code %d, want %d", code, tt.exit)
			}
			contains(t, stdout, tt.stdout)
			contains(t, stderr, tt.stderr)
		})
	}
}

func TestChooseNode(t *testing.T) {
	root := t.TempDir()
	choose := func() (string, error) { return (&nodeFlags{root: root}).socket() }
	if _, err := choose(); err == nil || !strings.Contains(err.Error(), "no node runs here: nothing below "+root) {
		t.Errorf("no node: %v", err)
	}
	alpha := fakeNode(t, filepath.Join(root, "alpha"), answer(t, http.StatusOK, healthy()))
	if got, err := choose(); err != nil || got != filepath.Join(alpha, status.SocketName) {
		t.Errorf("one node: %q, %v", got, err)
	}
	bravo := fakeNode(t, filepath.Join(root, "bravo"), answer(t, http.StatusOK, healthy()))
	_, err := choose()
	if err == nil {
		t.Fatal("several nodes, and one was chosen")
	}
	contains(t, err.Error(), []string{"several nodes run here", alpha, bravo, "choose one with --state-dir"})
	if got, err := (&nodeFlags{root: root, stateDir: bravo}).socket(); err != nil || got != filepath.Join(bravo, status.SocketName) {
		t.Errorf("chosen: %q, %v", got, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	for _, command := range []string{"status", "failover"} {
		code, stdout, stderr := tandem(t, command, "--state-dir", dir)
		if code != 1 || stdout != "" {
			t.Errorf("%s: exit code %d, said %q", command, code, stdout)
		}
		contains(t, stderr, []string{"tandem: no node answers at " + filepath.Join(dir, status.SocketName), "is `tandem run` running"})
	}
}

// lines tells of each write.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func TestWatchEndsWithItsContext(t *testing.T) {
	dir := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, healthy()))
	for _, asJSON := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		out, ended := make(lines), make(chan error, 1)
		go func() { ended <- watchStatus(ctx, out, &nodeFlags{stateDir: dir}, asJSON) }()
		first := <-out
		if !strings.Contains(first, "alpha") {
			t.Errorf("said %q", first)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the end of the context is an error: %v", err)
		}
	}
}

// The view goes on when the node does not answer; a stream of JSON ends.
func TestWatchWithoutNode(t *testing.T) {
	f := &nodeFlags{stateDir: t.TempDir()}
	if err := watchStatus(t.Context(), io.Discard, f, true); err == nil || !strings.Contains(err.Error(), "no node answers") {
		t.Errorf("JSON: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := make(lines), make(chan error, 1)
	go func() { ended <- watchStatus(ctx, out, f, false) }()
	for range 2 {
		if said := <-out; !strings.Contains(said, "no node answers") {
			t.Errorf("said %q", said)
		}
	}
	cancel()
	go func() {
		for range out { // one more may be on its way
		}
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(out)
}

// Every command that people use explains itself with an example.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
				continue
			}
			if c.Short == "" || !strings.Contains(c.Example, c.CommandPath()) {
				t.Errorf("`%s` has no example", c.CommandPath())
			}
			code, stdout, stderr := tandem(t, append(strings.Fields(c.CommandPath())[1:], "--help")...)
			if code != 0 || stderr != "" || !strings.Contains(stdout, c.Example) {
				t.Errorf("`%s --help`: exit code %d, %s%s", c.CommandPath(), code, stdout, stderr)
			}
			walk(c)
		}
	}
	walk(root())
}

func TestMisuse(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"},
		{"status", "too", "many"},
		{"check"},
		{"status", "--nonsense"},
		{"demo", "--fault", "nonsense"},
		{"elect"},
		{"traffic", "nonsense"},
	} {
		code, _, stderr := tandem(t, args...)
		if code != 1 || !strings.HasPrefix(stderr, "tandem: ") || strings.Count(stderr, "\n") > 4 {
			t.Errorf("tandem %s: exit code %d, %q", strings.Join(args, " "), code, stderr)
		}
	}
}
