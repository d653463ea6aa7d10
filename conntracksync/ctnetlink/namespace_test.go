package ctnetlink

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// newNamespace makes a network namespace in which conntrack reports every event.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		return setSysctls("netfilter/nf_conntrack_events=1", "netfilter/nf_conntrack_tcp_loose=0")
	})
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("making a network namespace needs CAP_SYS_ADMIN")
	case errors.Is(err, os.ErrNotExist):
		t.Skip("the kernel has no connection tracking: " + err.Error())
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// onThread runs f on a thread of its own, which ends with f and takes the network
// namespace that f entered along.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// inside runs f in ns.
func inside(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	if err := onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	}); err != nil {
		t.Fatal(err)
	}
}

// setSysctls writes settings of the form path=value below /proc/sys/net.
func setSysctls(settings ...string) error {
	for _, s := range settings {
		path, value, _ := strings.Cut(s, "=")
		// The kernel resolves the path in the namespace of the thread that opens it.
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", s, err)
		}
	}
	return nil
}

// openIn opens a Conn in ns.
func openIn(t *testing.T, ns netns.NsHandle, cfg Config) *Conn {
	t.Helper()
	var c *Conn
	inside(t, ns, func() (err error) {
		c, err = Open(cfg)
		return err
	})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// oracleIn opens the library's connection in ns.
func oracleIn(t *testing.T, ns netns.NsHandle) *conntrack.Conn {
	t.Helper()
	var c *conntrack.Conn
	inside(t, ns, func() (err error) {
		c, err = conntrack.Dial(nil)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// table dumps c's table.
func table(t *testing.T, c *Conn) map[conntracksync.Key]conntracksync.Flow {
	t.Helper()
	flows := make(map[conntracksync.Key]conntracksync.Flow)
	if err := c.Dump(t.Context(), func(f *conntracksync.Flow) error {
		flows[f.Key] = *f
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if d := c.Drops(); d != (Drops{}) {
		t.Fatalf("dropped messages: %v", d)
	}
	return flows
}

func op(kind conntracksync.OpKind, f conntracksync.Flow) conntracksync.Op {
	return conntracksync.Op{Kind: kind, Flow: f}
}

func apply(t *testing.T, c *Conn, ops ...conntracksync.Op) Result {
	t.Helper()
	res, err := c.Apply(ops)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
