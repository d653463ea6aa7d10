package examine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Scratch is a network namespace without a name. It and all that is in it vanish
// when it is closed or when the process ends, however it does.
type Scratch struct {
	calls  chan func()
	handle netns.NsHandle
}

// NewScratch makes a namespace in which no interface speaks IPv6. It needs
// CAP_SYS_ADMIN.
func NewScratch() (*Scratch, error) {
	s := &Scratch{calls: make(chan func()), handle: netns.None()}
	made := make(chan error)
	go s.serve(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace for tests: %w", err)
	}
	return s, nil
}

// serve stays locked to its thread, so that the thread ends with the goroutine and the
// namespace with the thread.
func (s *Scratch) serve(made chan<- error) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		s.handle, err = netns.Get()
	}
	if err == nil {
		err = silence()
	}
	made <- err
	if err != nil {
		return
	}
	for call := range s.calls {
		call()
	}
}

// disableIPv6 is for links that are made later.
const disableIPv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"

// silence keeps the kernel from speaking of its own accord on links made later.
func silence() error {
	err := writeSysctl(disableIPv6, "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // no IPv6 in the kernel
	}
	return err
}

func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Do runs fn in the namespace and returns its error.
func (s *Scratch) Do(fn func() error) error {
	done := make(chan error, 1)
	s.calls <- func() {
		err := errors.New("the function did not return")
		defer func() { done <- err }()
		err = fn()
	}
	return <-done
}

// Close ends the namespace. The kernel takes down what is in it soon after.
func (s *Scratch) Close() error {
	close(s.calls)
	if err := s.handle.Close(); err != nil {
		return fmt.Errorf("close namespace for tests: %w", err)
	}
	return nil
}

// Runs tells whether a node of the group runs in this network namespace, or its
// elector without it. It reads the names that they hold and touches neither.
func Runs(group string) bool {
	// Not /proc/net, which is that of the process's first thread.
	text, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if name := fields[len(fields)-1]; name == "@tandem-"+group || name == "@tandem-elector-"+group {
			return true
		}
	}
	return false
}
