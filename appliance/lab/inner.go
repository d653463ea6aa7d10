package lab

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Detach lets the program that called [Enter] return with exit code 0 while
// this one goes on until it ends by itself or the init process gets SIGTERM.
// The standard streams of the calling process become /dev/null, since the
// terminal is no longer its own.
//
// It fails outside a laboratory and when Enter did not permit it.
func Detach() error {
	words := strings.Fields(os.Getenv(stageVariable))
	if !Inside() || len(words) < 3 {
		return errors.New("detach from the laboratory: Enter was not called with Detach")
	}
	if err := dropStreams(); err != nil {
		return err
	}
	if err := syscall.Kill(1, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("detach from the laboratory: %w", err)
	}
	return nil
}

func dropStreams() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("detach from the terminal: %w", err)
	}
	defer func() { _ = null.Close() }()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("detach from the terminal: %w", err)
		}
	}
	return nil
}

// runInit is the life of the PID namespace's first process: it prepares the
// namespaces, starts the inner program and reaps. It is a process apart from
// the inner program because waiting for every orphan would steal the exits that
// os/exec waits for there. When it returns, its caller exits, and the kernel
// kills what is left.
func runInit(detach bool) (int, error) {
	// The inner program must not hold its own lifeline.
	unix.CloseOnExec(lifelineFD)
	unix.CloseOnExec(releaseFD)
	var detached atomic.Bool
	go func() {
		lifeline := os.NewFile(lifelineFD, "lifeline")
		_, _ = lifeline.Read(make([]byte, 1)) // nobody writes: it ends with the outer program
		if !detached.Load() {
			os.Exit(128 + int(syscall.SIGKILL))
		}
	}()
	if err := prepareMounts(); err != nil {
		return 1, unavailable(err)
	}
	if err := raiseLoopback(); err != nil {
		return 1, err
	}
	stage, err := insideStage(detach)
	if err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	inner, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   environment(stage),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 1, fmt.Errorf("start program in the laboratory: %w", err)
	}
	go func() {
		release := os.NewFile(releaseFD, "release")
		for sig := range signals {
			switch {
			case sig != syscall.SIGUSR1:
				_ = inner.Signal(sig) // it fails only when the inner program has ended
			case detach && !detached.Swap(true):
				_ = dropStreams()               // then the terminal's user sees late output, no more
				_, _ = release.Write([]byte{1}) // it fails only when nobody is there to let go
				_ = release.Close()
			}
		}
	}()
	return reap(inner.Pid)
}

// insideStage is the stage variable of the inner program.
func insideStage(detach bool) (string, error) {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", fmt.Errorf("read PID namespace: %w", err)
	}
	stage := stageInside + " " + own
	if detach {
		stage += " detach"
	}
	return stage, nil
}

// reap waits for every child, own or adopted, until the one with that PID ends.
func reap(pid int) (int, error) {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the laboratory's program: %w", err)
		case ended != pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}

func prepareMounts() error {
	// Without this the mounts below would show up on the host.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("proc", "/proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", flags, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find link lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set link lo up: %w", err)
	}
	return nil
}
