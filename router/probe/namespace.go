package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is the network namespace in which sockets are made.
type namespace struct {
	handle netns.NsHandle
	// foreign tells that some threads of the process are in others.
	foreign bool
}

func (n *namespace) open() error {
	handle, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	n.handle = handle
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return errors.Join(fmt.Errorf("look at the process's threads: %w", err), handle.Close())
	}
	for _, t := range threads {
		of, err := netns.GetFromPath(tasks + t.Name() + "/ns/net")
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return errors.Join(fmt.Errorf("look at the process's threads: %w", err), handle.Close())
		}
		n.foreign = n.foreign || !handle.Equal(of)
		if err := of.Close(); err != nil {
			return errors.Join(err, handle.Close())
		}
	}
	return nil
}

const tasks = "/proc/self/task/"

func (n *namespace) close() error { return n.handle.Close() }

// do calls f in the namespace.
func (n *namespace) do(f func() error) error {
	if !n.foreign {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(n.handle); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
