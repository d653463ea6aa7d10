package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where named network namespaces are, as iproute2 has it.
const namespaceDir = "/run/netns"

// Namespace is a named network namespace of the laboratory. It is looked up at
// every use, so that it stays valid when [Lab.Heal] makes a node's anew.
type Namespace struct {
	name string
}

// Name is the name under /run/netns.
func (n Namespace) Name() string { return n.name }

// Do runs fn in the namespace, on a thread of its own: sockets that fn opens
// stay there, goroutines that it starts do not. The error is that of fn, or of
// entering the namespace.
func (n Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function did not return")
		defer func() { done <- err }()
		err = n.run(fn)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("in namespace %s: %w", n.name, err)
	}
	return nil
}

// run leaves the goroutine locked to its thread if the way back fails, so that
// the thread ends with it.
func (n Namespace) run(fn func() error) error {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() { _ = origin.Close() }()
	target, err := netns.GetFromName(n.name)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = target.Close() }()
	if err := netns.Set(target); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}

// Start starts cmd in the namespace.
func (n Namespace) Start(cmd *exec.Cmd) error {
	return n.Do(cmd.Start)
}

// Run starts cmd in the namespace and waits for its end.
func (n Namespace) Run(cmd *exec.Cmd) error {
	if err := n.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Netlink opens a route netlink handle in the namespace; the caller closes it.
func (n Namespace) Netlink() (*netlink.Handle, error) {
	target, err := netns.GetFromName(n.name)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", n.name, err)
	}
	defer func() { _ = target.Close() }()
	handle, err := netlink.NewHandleAt(target, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in namespace %s: %w", n.name, err)
	}
	return handle, nil
}

// openNamespace opens the file that stands for a namespace; the caller closes it.
func openNamespace(name string) (*os.File, error) {
	f, err := os.Open(filepath.Join(namespaceDir, name))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	return f, nil
}

// with calls fn with a netlink handle and closes it.
func (n Namespace) with(fn func(h *netlink.Handle) error) error {
	handle, err := n.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	return fn(handle)
}

// inode identifies the namespace as /proc/PID/ns/net shows it.
func (n Namespace) inode() (uint64, error) {
	return inodeOf(filepath.Join(namespaceDir, n.name))
}

func inodeOf(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("read inode of %s: no Linux stat", path)
	}
	return stat.Ino, nil
}

// createNamespace makes an empty one with loopback up and IPv6 off.
func createNamespace(name string) (Namespace, error) {
	n := Namespace{name: name}
	made := make(chan error, 1)
	go func() { made <- makeNamed(name) }()
	if err := <-made; err != nil {
		return n, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	if err := n.Do(disableIPv6); err != nil {
		return n, err
	}
	return n, n.Do(raiseLoopback)
}

// makeNamed leaves the goroutine locked to its thread if the way back fails.
func makeNamed(name string) error {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = origin.Close() }()
	handle, err := netns.NewNamed(name)
	if back := netns.Set(origin); back == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		return err
	}
	return handle.Close()
}

// disableIPv6 keeps the laboratory free of router solicitations and neighbour
// discovery, which nothing in it uses.
func disableIPv6() error {
	for _, scope := range []string{"all", "default"} {
		err := writeSysctl("ipv6/conf/"+scope+"/disable_ipv6", "1")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// allowIPv6 undoes that on a host's interfaces.
func allowIPv6() error {
	for _, link := range []string{"lo", "eth0", "eth1"} {
		err := writeSysctl("ipv6/conf/"+link+"/disable_ipv6", "0")
		if err != nil && (link != "eth1" || !errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// writeSysctl sets a variable under net of the calling thread's namespace.
func writeSysctl(variable, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+variable, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl net/%s: %w", variable, err)
	}
	return nil
}

// deleteNamespace removes the name; the kernel removes the rest when the last
// process in it ends. A namespace that is not there is no error.
func deleteNamespace(name string) error {
	path := filepath.Join(namespaceDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}
