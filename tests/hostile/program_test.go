package hostile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"tandem/appliance/lab"
)

// invocation is a `tandem run` that differs from what the laboratory would start.
type invocation struct {
	namespace, node, config, key, stateDir string
	// credential is of another user; nil is the test's own.
	credential *syscall.Credential
	// wrapper is put before the command.
	wrapper []string
}

// usual is the invocation of the laboratory itself.
func (s *stand) usual(node string) invocation {
	return invocation{
		namespace: node, node: node, config: s.ConfigPath(), key: s.KeyPath(node),
		stateDir: strings.TrimSuffix(s.SocketPath(node), "/api.sock"),
	}
}

// program is a running one.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu   sync.Mutex
	text strings.Builder
}

// Write collects what the program says.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// launch starts an invocation in its namespace.
func (s *stand) launch(i invocation) *program {
	s.t.Helper()
	command := append(i.wrapper, os.Getenv(binaryVariable), "run",
		"--config", i.config, "--node", i.node, "--key", i.key, "--state-dir", i.stateDir)
	p := &program{cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	// An elector that outlives its node keeps the pipe open.
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.credential}
	s.must(s.Namespace(i.namespace).Start(p.cmd))
	go func() {
		_ = p.cmd.Wait() // the state says it
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended already where all is well
		if s.t.Failed() {
			s.t.Logf("%s in %s said:\n%s", i.node, i.namespace, p.output())
		}
	})
	return p
}

// refuses runs an invocation that must end at once with code 1 and one sentence.
func (s *stand) refuses(i invocation, words ...string) {
	s.t.Helper()
	p := s.launch(i)
	ctx, cancel := s.context()
	defer cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		s.t.Fatalf("it still runs and says:\n%s", p.output())
	}
	text := p.output()
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		s.t.Errorf("exit code %d, want 1", code)
	}
	if !strings.HasPrefix(text, "tandem: ") || strings.Count(text, "\n") != 1 {
		s.t.Errorf("want one sentence, got:\n%s", text)
	}
	if !containsAll(text, words) {
		s.t.Errorf("%q is not all of %q", text, words)
	}
	s.t.Logf("%s", strings.TrimSpace(text))
}

// ends waits for the end of a program after SIGTERM.
func (s *stand) ends(p *program) {
	s.t.Helper()
	s.must(p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
	case <-time.After(patience):
		s.t.Fatalf("it does not end; it said:\n%s", p.output())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit code %d after SIGTERM, want 0:\n%s", code, p.output())
	}
}

// answers waits until the API of a node that was launched answers.
func (s *stand) answers(node string) {
	s.t.Helper()
	s.eventually(node+" answers", func(ctx context.Context) error {
		_, err := s.Status(ctx, node)
		return err
	})
}

// tandem runs a command of the program in a namespace and returns its output.
func (s *stand) tandem(args ...string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), os.Getenv(binaryVariable), args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tandem %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// electorOf returns the PID of a node's elector.
func (s *stand) electorOf(node string) int {
	s.t.Helper()
	pid := s.status(node).Elector.PID
	if pid == 0 {
		s.t.Fatalf("%s knows no elector", node)
	}
	return pid
}

// residentMemory is the resident set of a process in bytes (proc_pid_statm(5)).
func (s *stand) residentMemory(pid int) int {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	s.must(err)
	var size, resident int
	_, err = fmt.Sscan(string(text), &size, &resident)
	s.must(err)
	return resident * os.Getpagesize()
}

// nodePID finds a node's process beside its elector.
func (s *stand) nodePID(node string) int {
	s.t.Helper()
	elector := s.electorOf(node)
	for _, pid := range s.Processes(node) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && pid != elector && strings.Contains(string(text), "\x00run\x00") {
			return pid
		}
	}
	s.t.Fatalf("%s has no process beside its elector %d", node, elector)
	return 0
}

func isRoot() bool { return lab.Privilege() == "root" }
