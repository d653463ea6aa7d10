package interop

import (
	"bytes"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// shortAtOnce is how many scenarios with short intervals are played at the same time.
	shortAtOnce = 6
	// attempts is how often a scenario is played at most.
	attempts = 3
	// stallTick is how often the meter looks whether the machine is late.
	stallTick = 10 * time.Millisecond
)

// stage is where scenarios are played.
type stage struct {
	// short has a place for each scenario with intervals of less than a second, which
	// keeps the machine busy. The others, which mostly wait, need none.
	short  chan struct{}
	stalls *stallMeter
}

func newStage(t *testing.T) *stage {
	t.Helper()
	c := &stage{short: make(chan struct{}, shortAtOnce), stalls: &stallMeter{}}
	if err := c.stalls.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stalls.end(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// perform plays a scenario and demands that nothing was wrong. If something was, it is
// played again when that proves little: when a processor stood still for half an interval,
// which together with what is late anyway changes roles; when Tandem may not have
// real-time priority; when only the peer was at fault, for this is no test of peers, and
// they wait for locks of the kernel that all namespaces share.
func (c *stage) perform(t *testing.T, seg segment, play func(s *stand)) {
	t.Helper()
	if seg.interval < time.Second {
		c.short <- struct{}{}
		defer func() { <-c.short }()
	}
	for attempt := 1; ; attempt++ {
		s := newStand(t, seg, c.stalls)
		v := s.outcome(play)
		stall := c.stalls.during(s.begun, time.Now())
		if len(v.faults) > 0 && (stall > seg.interval/2 || !v.ours || !v.prompt()) && attempt < attempts {
			s.autopsy()
			t.Logf("once more: this went wrong, and a processor stood still for up to %v: %q", stall, v.faults)
			s.close()
			continue
		}
		if len(v.faults) > 0 {
			s.autopsy()
		}
		for _, fault := range v.faults {
			t.Error(fault)
		}
		for _, note := range v.notes {
			t.Log(note)
		}
		return
	}
}

// autopsy logs what the kernel of each of Tandem's nodes holds.
func (s *stand) autopsy() {
	s.t.Helper()
	for name, r := range s.routers {
		if !r.base().ours {
			continue
		}
		for _, question := range []string{
			"ip -d address", "ip neighbour", "ip rule", "ip route show table all", "ip -6 route show table all", "nft list ruleset",
		} {
			words := strings.Fields(question)
			var out bytes.Buffer
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Stdout, cmd.Stderr = &out, &out
			err := r.base().ns.Run(cmd)
			s.t.Logf("%s: %s: %v\n%s", name, question, err, out.String())
		}
	}
}

// failedPeer is the panic by which a scenario ends whose peer does not play its part.
type failedPeer string

// outcome plays a scenario and judges it.
func (s *stand) outcome(play func(s *stand)) (v *verdict) {
	s.t.Helper()
	defer func() {
		s.t.Helper()
		switch r := recover().(type) {
		case nil:
		case failedPeer:
			v = &verdict{faults: []string{string(r)}}
		default:
			panic(r)
		}
	}()
	play(s)
	return s.judge()
}

// stallMeter notes when a processor does nothing for a while, be it that others have it
// or, in a virtual machine, that the host does. It sits on each of them with the
// priority that the routers have.
type stallMeter struct {
	stop    chan struct{}
	threads sync.WaitGroup

	mu      sync.Mutex
	stalls  []span
	failure error
}

func (m *stallMeter) start() error {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	m.stop = make(chan struct{})
	for cpu, left := 0, all.Count(); left > 0; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		left--
		m.threads.Go(func() { m.sit(cpu) })
	}
	return nil
}

// sit keeps its thread locked, so that it ends with the goroutine.
func (m *stallMeter) sit(cpu int) {
	runtime.LockOSThread()
	var own unix.CPUSet
	own.Set(cpu)
	err := unix.SchedSetaffinity(0, &own)
	if e := realTime(0); !errors.Is(e, unix.EPERM) {
		err = errors.Join(err, e)
	}
	pause := unix.NsecToTimespec(int64(stallTick))
	for last := time.Now(); err == nil; {
		select {
		case <-m.stop:
			return
		default:
		}
		if e := unix.Nanosleep(&pause, nil); !errors.Is(e, unix.EINTR) {
			err = e
		}
		now := time.Now()
		if now.Sub(last) > 2*stallTick {
			m.mu.Lock()
			m.stalls = append(m.stalls, span{last.Add(stallTick), now})
			m.mu.Unlock()
		}
		last = now
	}
	m.mu.Lock()
	m.failure = errors.Join(m.failure, err)
	m.mu.Unlock()
}

// realTime gives a thread a modest real-time priority.
func realTime(thread int) error {
	return unix.SchedSetAttr(thread, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}

// during is the longest stall that touches a time.
func (m *stallMeter) during(from, to time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var longest time.Duration
	for _, s := range m.stalls {
		if s.from.Before(to) && s.to.After(from) {
			longest = max(longest, s.to.Sub(s.from))
		}
	}
	return longest
}

func (m *stallMeter) end() error {
	close(m.stop)
	m.threads.Wait()
	return m.failure
}
