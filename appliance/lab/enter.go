package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// stageVariable tells a re-executed program which part it plays. Its value is
// one of the stages below; of an inside stage the second word is the identity
// of the PID namespace, so that a variable that leaked into another
// environment makes nobody believe that he is inside.
const stageVariable = "TANDEM_LAB"

const (
	stageInit       = "init"
	stageInitDetach = "init-detach"
	stageInside     = "inside"
)

// lifelineFD and releaseFD are the descriptors that the outer program hands to
// the init process: the read end of a pipe that ends with the outer program, and
// the write end of the pipe by which [Detach] lets the outer program go.
const (
	lifelineFD = 3
	releaseFD  = 4
)

// killGrace is how long the inner program may take to end after the context of
// [Enter] did.
const killGrace = 10 * time.Second

// ErrUnavailable tells that this machine does not let this user make
// namespaces. The error that wraps it says what to do.
var ErrUnavailable = errors.New("the laboratory needs namespaces of its own")

// EnterOptions tunes [Enter].
type EnterOptions struct {
	// Detach permits the inner program to call [Detach]. Without it nothing of
	// the laboratory survives the outer program.
	Detach bool
	// OnDetach, if not nil, is called in the outer program when the inner one
	// called [Detach]. SIGTERM to pid ends the laboratory; pid also serves
	// `nsenter -t PID -a`.
	OnDetach func(pid int)
	// Input, if not nil, is the standard input of the inner program, which has none
	// otherwise.
	Input *os.File
}

// Inside tells whether this process runs inside a laboratory.
func Inside() bool {
	words := strings.Fields(os.Getenv(stageVariable))
	if len(words) < 2 || words[0] != stageInside {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && own == words[1]
}

// Privilege tells by what right the laboratory makes namespaces: "root" or
// "user namespace".
func Privilege() string {
	const wholeRange = "0 0 4294967295"
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && os.Geteuid() == 0 && strings.Join(strings.Fields(string(ids)), " ") == wholeRange {
		return "root"
	}
	return "user namespace"
}

// Enter runs the current program again, with the same arguments, inside fresh
// PID, mount and network namespaces, and a user namespace when the right to
// make them is missing. It returns the exit code of the inner program, which
// the caller passes to [os.Exit]:
//
//	if !lab.Inside() {
//		code, err := lab.Enter(ctx, lab.EnterOptions{})
//		…
//		os.Exit(code)
//	}
//
// The call must come early: the program runs up to it three times, as the outer
// program, as the init process of the PID namespace and as the inner program.
//
// The first SIGINT, SIGTERM or end of ctx is passed on to the inner program as
// one signal; a second signal, or ten seconds after the end of ctx, kill it.
// The inner program has its own process group, so that Ctrl-C does not reach it
// twice, and reads nothing from the terminal. Its /run is private and empty.
//
// The error wraps [ErrUnavailable] where neither root nor user namespaces help.
func Enter(ctx context.Context, opts EnterOptions) (exitCode int, err error) {
	switch stage := os.Getenv(stageVariable); {
	case stage == stageInit && os.Getpid() == 1:
		return runInit(false)
	case stage == stageInitDetach && os.Getpid() == 1:
		return runInit(true)
	}
	if Inside() {
		return 1, errors.New("enter laboratory: this process is already inside one")
	}
	return runOuter(ctx, opts)
}

// outer is the outer program's grip on the init process.
type outer struct {
	cmd *exec.Cmd
	// lifeline is held open as long as the init process shall live.
	lifeline *os.File
	// release gets one byte when the inner program detaches.
	release *os.File
}

func runOuter(ctx context.Context, opts EnterOptions) (int, error) {
	// The death signal of a child is bound to the thread that started it, so
	// this goroutine keeps its thread until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)

	o, err := startInit(opts)
	if err != nil {
		return 1, err
	}
	defer o.close()
	ended := make(chan error, 1)
	go func() { ended <- o.cmd.Wait() }()
	released := make(chan bool, 1)
	go func() {
		n, _ := o.release.Read(make([]byte, 1)) // an error is the end of the init process
		released <- n == 1
	}()

	done := ctx.Done()
	var grace <-chan time.Time
	asked := false
	for {
		select {
		case err := <-ended:
			return exitCodeOf(o.cmd, err)
		case detached := <-released:
			released = nil
			if detached && opts.Detach {
				if opts.OnDetach != nil {
					opts.OnDetach(o.cmd.Process.Pid)
				}
				return 0, nil
			}
		case sig := <-signals:
			if asked {
				sig = syscall.SIGKILL
			}
			asked = true
			_ = o.cmd.Process.Signal(sig) // it fails only when the process has ended
		case <-done:
			done = nil
			grace = time.After(killGrace)
			asked = true
			_ = o.cmd.Process.Signal(syscall.SIGTERM) // as above
		case <-grace:
			_ = o.cmd.Process.Kill() // as above
		}
	}
}

func (o *outer) close() {
	_ = o.lifeline.Close()
	_ = o.release.Close()
}

// exitCodeOf translates the end of the init process as a shell would.
func exitCodeOf(cmd *exec.Cmd, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, fmt.Errorf("wait for the laboratory: %w", err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// startInit starts the init process, as root if that is possible, else in a
// user namespace.
func startInit(opts EnterOptions) (*outer, error) {
	if os.Geteuid() == 0 {
		o, err := startInitIn(false, opts)
		if err == nil || !errors.Is(err, syscall.EPERM) {
			return o, err
		}
	}
	o, err := startInitIn(true, opts)
	if err != nil {
		return nil, unavailable(err)
	}
	return o, nil
}

func startInitIn(userNamespace bool, opts EnterOptions) (*outer, error) {
	lifelineRead, lifelineWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make lifeline of the laboratory: %w", err)
	}
	defer func() { _ = lifelineRead.Close() }()
	releaseRead, releaseWrite, err := os.Pipe()
	if err != nil {
		_ = lifelineWrite.Close()
		return nil, fmt.Errorf("make lifeline of the laboratory: %w", err)
	}
	defer func() { _ = releaseWrite.Close() }()

	stage := stageInit
	if opts.Detach {
		stage = stageInitDetach
	}
	o := &outer{lifeline: lifelineWrite, release: releaseRead, cmd: &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        os.Args,
		Env:         environment(stage),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{lifelineRead, releaseWrite},
		SysProcAttr: initAttributes(userNamespace, opts.Detach),
	}}
	if opts.Input != nil {
		o.cmd.Stdin = opts.Input
	}
	if err := o.cmd.Start(); err != nil {
		o.close()
		return nil, fmt.Errorf("start laboratory: %w", err)
	}
	return o, nil
}

func initAttributes(userNamespace, detach bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
	}
	if detach {
		// The lifeline alone binds it to the outer program, since that can be
		// let go of and a death signal cannot.
		attr.Setsid = true
	} else {
		attr.Setpgid = true
		attr.Pdeathsig = syscall.SIGKILL
	}
	if userNamespace {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// environment is the current one with another stage.
func environment(stage string) []string {
	env := make([]string, 0, len(os.Environ())+1)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, stageVariable+"=") {
			env = append(env, entry)
		}
	}
	return append(env, stageVariable+"="+stage)
}

// unavailable makes the sentence that says why there is no laboratory here and
// what to do about it.
func unavailable(cause error) error {
	cure := "run it as root (sudo)"
	for _, knob := range []struct{ path, forbids, name, allow string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", "1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns", "0"},
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", "1024"},
	} {
		if value, err := readWord(knob.path); err == nil && value == knob.forbids {
			cure = fmt.Sprintf("run it as root (sudo), or allow user namespaces with `sudo sysctl %s=%s`", knob.name, knob.allow)
			break
		}
	}
	if _, err := os.Stat("/.dockerenv"); err == nil {
		cure += "; in a container, start that one with --privileged"
	}
	return fmt.Errorf("%w, which this machine refuses (%w): %s", ErrUnavailable, cause, cure)
}

func readWord(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, 64))
	return strings.TrimSpace(string(content)), err
}
