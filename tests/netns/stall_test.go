package netns

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/vrrp"
)

const (
	// stallTime is longer than a BACKUP waits for a MASTER without power at the shortest
	// interval (22.5 ms), and shorter than it waits for one whose kernel answers (45 ms).
	stallTime = 30 * time.Millisecond
	// stalls is how often the MASTER's elector is stopped, stallsLost how many of these may
	// move the role all the same: the machine has stalls of its own, which come on top.
	stalls     = 20
	stallsLost = 5
	// deaths is how often each fault is measured.
	deaths = 3
)

// TestStallsAtTheShortestInterval stops the MASTER's elector for a moment, again and
// again: its kernel answers, and the role stays.
func TestStallsAtTheShortestInterval(t *testing.T) {
	s := newPairOf(t, lab.Options{Interval: vrrp.MinInterval})
	moved := 0
	for range stalls {
		s.ready()
		master, backup := s.roles()
		pid, before := s.electorPID(master), s.status(backup)
		s.signal(pid, unix.SIGSTOP)
		s.pass(stallTime)
		s.signal(pid, unix.SIGCONT)
		s.pass(aWhile)
		if s.status(backup).Transitions != before.Transitions {
			moved++
		}
	}
	t.Logf("%d of %d stalls of %v moved the role", moved, stalls, stallTime)
	if moved > stallsLost {
		t.Errorf("%d of %d stalls of %v moved the role, want %d at most", moved, stalls, stallTime, stallsLost)
	}
}

// refusalPause is longer than the kernel waits between two ICMP errors to the same host
// (net.ipv4.icmp_ratelimit) when a burst of them has gone out, as it does while a node is down: without them
// a BACKUP takes a dead process for a stalled one.
const refusalPause = 1100 * time.Millisecond

// TestKernelTellsDeathsApart compares how long a BACKUP waits: briefly for a MASTER
// without power or process, longer for one that is stopped and has both.
func TestKernelTellsDeathsApart(t *testing.T) {
	s := newPairOf(t, lab.Options{Interval: vrrp.MinInterval})
	waits := map[lab.Fault]time.Duration{}
	for _, fault := range []lab.Fault{lab.Poweroff, lab.Crash, lab.Hang} {
		var times []time.Duration
		for range deaths {
			s.ready()
			if fault == lab.Crash {
				s.pass(refusalPause)
			}
			master, backup := s.roles()
			at := s.inject(fault, master)
			s.becomes(backup, roleMaster)
			since := s.status(backup).Since
			if since.Before(at) {
				t.Fatalf("%s has been MASTER for %v before the fault", backup, at.Sub(since))
			}
			times = append(times, since.Sub(at))
			s.heal(fault, master)
			s.becomes(master, roleBackup)
		}
		slices.Sort(times)
		waits[fault] = times[deaths/2]
		t.Logf("%v: the other node is MASTER after %v", fault, times)
	}
	if waits[lab.Poweroff] >= waits[lab.Hang] || waits[lab.Crash] >= waits[lab.Hang] {
		t.Errorf("the medians are %v, want the longest for a MASTER that is stopped", waits)
	}
}
