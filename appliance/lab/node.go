package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// scanPause is how long a killed process gets to disappear before the next look.
	scanPause = time.Millisecond
	// endGrace is how long killed or stopped processes may take to become so.
	endGrace = 5 * time.Second
)

// process is a node's daemon.
type process struct {
	cmd *exec.Cmd
	// ended is closed when the process has been waited for; err is valid then.
	ended chan struct{}
	err   error
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// StartNode starts a node's daemon in its namespace, output to
// [Lab.LogPath]. It does not wait for more than the start; the daemon ends with
// [Lab.Close], not with ctx.
func (l *Lab) StartNode(ctx context.Context, name string) error {
	if !isNode(name) {
		return fmt.Errorf("start node %q: a node is %s or %s", name, Alpha, Bravo)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	if l.options.Start != nil {
		return l.options.Start(ctx, name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.nodes[name]; p != nil && p.running() {
		return fmt.Errorf("start node %s: it is already running", name)
	}
	log, err := os.OpenFile(l.LogPath(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of node %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own descriptor
	cmd := exec.Command(l.options.Binary, "run",
		"--config", l.ConfigPath(), "--node", name, "--key", l.KeyPath(name), "--state-dir", l.stateDir(name))
	cmd.Stdout, cmd.Stderr = log, log
	if err := l.Namespace(name).Start(cmd); err != nil {
		return fmt.Errorf("start node %s: %w", name, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	l.nodes[name] = p
	return nil
}

// StopNode asks a node's daemon to end, with SIGTERM, and waits until it did or
// ctx ends. It returns the daemon's own exit as an error if that was not 0.
func (l *Lab) StopNode(ctx context.Context, name string) error {
	p := l.node(name)
	if p == nil || !p.running() {
		return fmt.Errorf("stop node %s: it is not running", name)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop node %s: %w", name, err)
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return fmt.Errorf("stop node %s: still running: %w", name, context.Cause(ctx))
	}
	if p.err != nil {
		return fmt.Errorf("stop node %s: %w%s", name, p.err, l.lastWords(name))
	}
	return nil
}

func (l *Lab) node(name string) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[name]
}

// exitOf says how a node's daemon ended; empty while it runs.
func (l *Lab) exitOf(name string) string {
	p := l.node(name)
	switch {
	case p == nil:
		return "it was not started"
	case p.running():
		return ""
	case p.err != nil:
		return fmt.Sprintf("its daemon ended: %v%s", p.err, l.lastWords(name))
	default:
		return "its daemon ended with exit code 0" + l.lastWords(name)
	}
}

// lastWords is the last line of a node's log.
func (l *Lab) lastWords(name string) string {
	content, err := os.ReadFile(l.LogPath(name))
	content = bytes.TrimSpace(content)
	if err != nil || len(content) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s: %s)", l.LogPath(name), content[bytes.LastIndexByte(content, '\n')+1:])
}

// Processes lists the PIDs whose network namespace is the named one, without
// this process and zombies. It is empty if the namespace is not there.
func (l *Lab) Processes(name string) []int {
	inode, err := l.Namespace(name).inode()
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		// A thread of this process may be in the namespace for a moment.
		if err != nil || pid == os.Getpid() {
			continue
		}
		if own, err := inodeOf(filepath.Join("/proc", entry.Name(), "ns/net")); err == nil && own == inode {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killAll kills until a look finds nobody, since a process may fork meanwhile.
func (l *Lab) killAll(name string) error {
	return l.signalUntil(name, unix.SIGKILL, func(int) bool { return false })
}

// killNode kills a node's processes and waits until its daemon is reaped, so that
// it can be started again.
func (l *Lab) killNode(name string) error {
	if err := l.killAll(name); err != nil {
		return err
	}
	p := l.node(name)
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(endGrace):
		return fmt.Errorf("wait for the daemon of node %s: still there after %v", name, endGrace)
	}
}

// stopAll suspends until every process is suspended.
func (l *Lab) stopAll(name string) error {
	return l.signalUntil(name, unix.SIGSTOP, isStopped)
}

func (l *Lab) signalUntil(name string, sig syscall.Signal, settled func(pid int) bool) error {
	deadline := time.Now().Add(endGrace)
	for {
		pending := 0
		for _, pid := range l.Processes(name) {
			if settled(pid) {
				continue
			}
			pending++
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("send %s to process %d of %s: %w", unix.SignalName(sig), pid, name, err)
			}
		}
		if pending == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("send %s to the processes of %s: %d did not obey within %v",
				unix.SignalName(sig), name, pending, endGrace)
		}
		<-time.After(scanPause)
	}
}

// isStopped reads the process state of proc_pid_stat(5), which follows the
// closing parenthesis of the command name.
func isStopped(pid int) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // it ended
	}
	end := bytes.LastIndexByte(content, ')')
	return end >= 0 && end+2 < len(content) && content[end+2] == 'T'
}
