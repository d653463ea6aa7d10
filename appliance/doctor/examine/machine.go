package examine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
	"tandem/conntracksync/ctnetlink"
	"tandem/conntracksync/peer"
)

const (
	// realTimePriority is the elector's.
	realTimePriority = 10
	// naps and napTime are the short sleeps that measure punctuality.
	naps    = 250
	napTime = 2 * time.Millisecond
)

// MachineConfig says what to look at beside the machine itself.
type MachineConfig struct {
	// StateDirectory is the node's; it need not exist.
	StateDirectory string
	// Key is the path of the private key and PublicKey its other half in the document,
	// empty for a single router.
	Key, PublicKey string
	// IPv6 tells that the document has it.
	IPv6 bool
}

// Machine measures this machine. It takes about a second.
func Machine(ctx context.Context, c MachineConfig) doctor.Machine {
	m := doctor.Machine{
		Kernel:      release(),
		Missing:     missingCapabilities(),
		MemoryLock:  memoryLock(),
		OpenFiles:   openFiles(),
		EventBuffer: eventBuffer(),
		State:       stateDirectory(c.StateDirectory),
		Rivals:      rivals(),
		Features:    Features(ctx, c.IPv6),
	}
	m.Sysctls, m.ReadOnly = sysctls(doctor.WatchedSysctls())
	m.RealTime, m.Clock = timeliness()
	m.Clock.Source = clockSource()
	m.Clock.Synchronised, m.Clock.Offset = synchronised()
	if c.PublicKey != "" {
		outcome := key(c.Key, c.PublicKey)
		m.Key = &outcome
	}
	return m
}

func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func missingCapabilities() []string {
	needed := []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&header, &sets[0])
	var missing []string
	for _, c := range needed {
		if err != nil || sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// memoryLock locks this process's memory as the elector does, and unlocks it.
func memoryLock() doctor.Trial {
	var before unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before) == nil {
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) // as the elector
		defer func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before) }()                                     // it was so before
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return doctor.Failed(err.Error())
	}
	if err := unix.Munlockall(); err != nil {
		return doctor.Failed("locked memory cannot be unlocked: " + err.Error())
	}
	return doctor.Passed()
}

func openFiles() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return limit.Max // the runtime raises the soft limit to the hard one
}

// eventBuffer asks for the receive buffer that the node's listener asks for.
func eventBuffer() doctor.Trial {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return doctor.Untried("no netlink socket: " + err.Error())
	}
	defer func() { _ = unix.Close(fd) }() // it was only tried
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ctnetlink.DefaultReceiveBuffer) == nil {
		return doctor.Passed()
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, ctnetlink.DefaultReceiveBuffer) // what was got counts
	// The kernel doubles what it grants (socket(7)).
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || got < 2*ctnetlink.DefaultReceiveBuffer {
		return doctor.Failed(fmt.Sprintf("%d bytes instead of %d", got/2, ctnetlink.DefaultReceiveBuffer))
	}
	return doctor.Passed()
}

// sysctls reads those that exist, in this thread's network namespace.
func sysctls(paths []string) (values map[string]string, readOnly bool) {
	values = make(map[string]string, len(paths))
	for _, path := range paths {
		if b, err := os.ReadFile(filepath.Join("/proc/sys", path)); err == nil {
			values[path] = strings.TrimSpace(string(b))
		}
	}
	f, err := os.OpenFile("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY, 0) // nothing is written
	if err != nil {
		return values, true
	}
	return values, f.Close() != nil
}

// timeliness makes a thread SCHED_FIFO as the elector is, measures with it how late
// sleeps end, and ends the thread. Without permission it measures an ordinary one.
func timeliness() (doctor.Trial, doctor.Clock) {
	var clock doctor.Clock
	var trial doctor.Trial
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realTimePriority}
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			trial = doctor.Failed(err.Error())
		} else {
			trial, clock.RealTime = doctor.Passed(), true
		}
		clock.Lateness, clock.Jump = nap()
		ordinary := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		_ = unix.SchedSetAttr(0, ordinary, 0) // the thread ends in any case
	}()
	<-done
	return trial, clock
}

// nap sleeps many times and compares two clocks of the kernel.
func nap() (lateness, jump time.Duration) {
	start, startRaw := clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_MONOTONIC_RAW)
	for range naps {
		before := clock(unix.CLOCK_MONOTONIC)
		request := unix.NsecToTimespec(int64(napTime))
		if unix.Nanosleep(&request, nil) != nil {
			continue // a signal
		}
		lateness = max(lateness, clock(unix.CLOCK_MONOTONIC)-before-napTime)
	}
	jump = clock(unix.CLOCK_MONOTONIC) - start - (clock(unix.CLOCK_MONOTONIC_RAW) - startRaw)
	return lateness, jump.Abs()
}

func clock(id int32) time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(id, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

func clockSource() string {
	b, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func synchronised() (bool, time.Duration) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	unit := time.Microsecond
	if t.Status&unix.STA_NANO != 0 {
		unit = time.Nanosecond
	}
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, time.Duration(t.Offset) * unit
}

// stateDirectory looks at the directory, or at the nearest one above that exists.
func stateDirectory(path string) doctor.State {
	s := doctor.State{Directory: path}
	there := path
	for {
		info, err := os.Stat(there)
		if err == nil && !info.IsDir() {
			s.Writable = doctor.Failed(there + " is no directory")
			return s
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || there == filepath.Dir(there) {
			s.Writable = doctor.Failed(err.Error())
			return s
		}
		there = filepath.Dir(there)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(there, &fs); err != nil {
		s.Writable = doctor.Untried(err.Error())
		return s
	}
	s.Free = fs.Bavail * uint64(fs.Bsize)
	if err := unix.Access(there, unix.W_OK|unix.X_OK); err != nil {
		s.Writable = doctor.Failed(fmt.Sprintf("%s cannot be written to: %v", there, err))
		return s
	}
	s.Writable = doctor.Passed()
	return s
}

func key(path, public string) doctor.Trial {
	id, err := peer.LoadIdentity(path)
	if err != nil {
		return doctor.Failed(err.Error())
	}
	if id.PublicKey() != public {
		return doctor.Failed(fmt.Sprintf("the key in %s is not the one that the document gives this member: use the right --key, or make the document's public_key %s on both members", path, id.PublicKey()))
	}
	return doctor.Passed()
}

// rivals lists processes in this network namespace that elect, too.
func rivals() []string {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	names := []string{"keepalived", "vrrpd", "ucarp", "conntrackd"}
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		name := strings.TrimSpace(string(b))
		if err != nil || !slices.Contains(names, name) {
			continue
		}
		if theirs, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/net")); err == nil && theirs == own {
			found = append(found, fmt.Sprintf("%s (pid %s)", name, e.Name()))
		}
	}
	return found
}

// atHome tells whether this is the network namespace of the machine's first process,
// whose interfaces the machine's managers manage.
func atHome() bool {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	first, err := os.Readlink("/proc/1/ns/net")
	return err == nil && own == first
}
