package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/status"
	"tandem/vrrp/elector"
)

const (
	// maxSocketPath is sun_path of unix(7) without its final zero byte.
	maxSocketPath = 107
	// electorPatience is how long an elector that is ending may still hold its name;
	// claimPause is the time between two looks.
	electorPatience = time.Second
	claimPause      = 10 * time.Millisecond
)

// claim makes sure that a node runs once: neither twice on one state directory, nor
// twice in one network namespace, where two would fight for the same links.
func claim(dir, group string) (func(), error) {
	for _, name := range []string{status.SocketName, elector.SocketName} {
		if path := filepath.Join(dir, name); len(path) > maxSocketPath {
			return nil, fmt.Errorf("the socket %s would have a path of %d characters and the kernel takes %d: choose a shorter --state-dir",
				path, len(path), maxSocketPath)
		}
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	held, err := takeName(groupName(group))
	if err != nil {
		unlock()
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("claim the name of group %s: %w", group, err)
		}
		return nil, fmt.Errorf("group %s runs already in this network namespace%s: stop it first, a namespace has room for one node of a group",
			group, holder(groupName(group)))
	}
	release := func() {
		_ = held.Close() // closing is giving up the name
		unlock()
	}
	if err := checkElector(dir, group); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// checkElector refuses to start beside an elector that this node could not adopt. It
// does not connect: every connection renews the time for which an elector stays
// MASTER without a node.
func checkElector(dir, group string) error {
	if _, err := os.Stat(filepath.Join(dir, elector.SocketName)); err == nil {
		return nil
	}
	name, err := holdElector(group)
	if err != nil {
		return err
	}
	return name.Close()
}

// lock makes the state directory and claims it.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w; choose another with --state-dir", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w; choose another --state-dir", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the first error says more
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("this node runs already (%s is locked): stop it first, or give a node of another group a --state-dir of its own", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil // closing is unlocking
}

func groupName(group string) string { return "@tandem-" + group }

func electorName(group string) string { return "@tandem-elector-" + group }

// takeName takes a name that there is once in a network namespace: that of an abstract
// socket (unix(7)). The kernel frees it when the last process that has it open ends,
// however it does.
func takeName(name string) (*net.UnixListener, error) {
	return net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
}

// holder says who holds a name, as far as the kernel tells.
func holder(name string) string {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: name, Net: "unixpacket"})
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }() // it was only asked who is there
	raw, err := conn.SyscallConn()
	if err != nil {
		return ""
	}
	var credentials *unix.Ucred
	err = raw.Control(func(fd uintptr) {
		credentials, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) // nil then
	})
	if err != nil || credentials == nil || credentials.Pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d of user %d)", credentials.Pid, credentials.Uid)
}

// electorRuns tells whether the group has an elector in this network namespace,
// whosoever started it.
func electorRuns(group string) bool {
	name, err := holdElector(group)
	if err != nil {
		return true
	}
	_ = name.Close() // it was only asked whether it is free
	return false
}

// holdElector takes the name of the group's elector. It is the elector that has it
// open, so that a node that cannot reach one that still runs starts no second.
func holdElector(group string) (*os.File, error) {
	name := electorName(group)
	deadline := time.Now().Add(electorPatience)
	for {
		listener, err := takeName(name)
		if err == nil {
			defer func() { _ = listener.Close() }() // the copy stays
			return listener.File()
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("claim the elector's name: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the elector of an earlier node of group %s still runs in this network namespace and does not answer in this --state-dir: start the node with the one of before, or wait a minute, after which it ends by itself", group)
		}
		<-time.After(claimPause)
	}
}
