package fence_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// onWire tells whether the very frame reached the far end.
func (s *segment) onWire(t *testing.T, frame []byte) bool {
	t.Helper()
	return reaches(t, s.b0, frame)
}

// reaches tells whether the very frame reaches the socket, and reads what follows it.
func reaches(t *testing.T, c *packet.Conn, frame []byte) bool {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		if err := c.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			t.Fatal(err)
		}
		if bytes.HasPrefix(buf[:n], frame) {
			collect(t, c, quiet/20)
			return true
		}
	}
}

func TestFramesOfTheElector(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			s.long(t)
			for _, step := range []struct {
				what           string
				ttl, priority  byte
				opens, reaches bool
			}{
				{"priority 0 through the closed fence", 255, 0, false, true},
				{"an advert", 255, 100, true, true},
				{"a revocation", 1, 100, false, false},
				{"a renewal", 2, 100, true, false},
				{"a revocation of priority 0", 1, 0, false, false},
				{"an advert of the highest priority", 255, 255, true, true},
				{"priority 0", 255, 0, false, true},
			} {
				frame := s.advert(step.ttl, step.priority)
				send(t, s.port, frame)
				if got := s.open(t); got != step.opens {
					t.Errorf("after %s the fence is open: %v", step.what, got)
				}
				if got := s.onWire(t, frame); got != step.reaches {
					t.Errorf("%s reaches the wire: %v", step.what, got)
				}
			}
		})
	}
}

// The BACKUP's question leaves from its own MAC address and opens nothing.
func TestQuestionDoesNotRenew(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			s.long(t)
			question := advertisement(a0MAC, s.own, s.link.VRID, 255, 1)
			send(t, s.parent, question)
			if s.open(t) {
				t.Error("the question opens the fence")
			}
			if !s.onWire(t, question) {
				t.Error("the question does not leave")
			}
			// Nor does it shut an open one.
			send(t, s.port, s.advert(255, 100))
			send(t, s.parent, question)
			if !s.open(t) {
				t.Error("the question shuts the fence")
			}
		})
	}
}

// Where the parent is shared with whatever else runs on the node, only the group's
// own adverts count.
func TestForeignAdvertsDoNotRenew(t *testing.T) {
	for _, m := range modes()[2:] {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			s.long(t)
			foreign := advertisement(a0MAC, s.own, s.link.VRID+1, 255, 100)
			send(t, s.parent, foreign)
			if s.open(t) {
				t.Error("the advert of another virtual router opens the fence")
			}
			if !s.onWire(t, foreign) {
				t.Error("the advert of another virtual router does not leave")
			}
			virtual := advertisement(a0MAC, s.vips[0], s.link.VRID, 255, 100)
			send(t, s.parent, virtual)
			if s.open(t) || s.onWire(t, virtual) {
				t.Error("an advert from a virtual address passes or opens the fence")
			}
			// Without a VRID everybody's count.
			s.cfg.Links[0].VRID = 0
			s.ensure(t)
			send(t, s.parent, foreign)
			if !s.open(t) {
				t.Error("no advert opens the fence of a link without VRID")
			}
		})
	}
}

// Both families of a parent hang on one lease, in all four combinations of macvlan
// and own MAC address.
func TestOneLeaseForBothFamilies(t *testing.T) {
	for _, pair := range [][2]mode{
		{modes()[0], modes()[1]}, {modes()[0], modes()[3]}, {modes()[2], modes()[1]}, {modes()[2], modes()[3]},
	} {
		t.Run(fmt.Sprintf("%s and %s", pair[0].name, pair[1].name), func(t *testing.T) {
			s := newSegment(t, pair[0])
			second := s.addSecond(t, pair[1])
			s.long(t)
			for _, both := range [][2]*segment{{s, second}, {second, s}} {
				one, two := both[0], both[1]
				hello := two.announce(two.vips[0])
				send(t, two.port, hello)
				if s.onWire(t, hello) {
					t.Errorf("%s: an announcement passes the closed fence", two.name)
				}
				send(t, one.port, one.advert(255, 100))
				send(t, two.port, hello)
				if !s.onWire(t, hello) {
					t.Errorf("an advert by %s does not open %s", one.name, two.name)
				}
				send(t, two.port, two.advert(1, 100))
				if s.open(t) {
					t.Errorf("a revocation by %s does not close %s", two.name, one.name)
				}
			}
		})
	}
}

// addSecond puts a virtual router of another mode on the same parent.
func (s *segment) addSecond(t *testing.T, m mode) *segment {
	t.Helper()
	second := &segment{lab: s.lab, mode: m, link: s.link, own: ownLL, far: farLL, vips: []netip.Addr{vipLL, vip6}, parent: s.parent}
	second.link.IPv6, second.link.Addresses = true, second.vips
	second.link.Name, second.link.MAC = "a0", [6]byte{}
	if !m.ownMAC {
		second.link.Name, second.link.MAC = "w", vmac6
		s.macvlan(t, "w", "a0", vmac6)
	}
	s.cfg.Links = append(s.cfg.Links, second.link)
	s.ensure(t)
	second.raiseSegment(t)
	s.wireFrames(t)
	return second
}

const (
	speakerVariable = "TANDEM_FENCE_SPEAKER"
	advertsApart    = 10 * time.Millisecond
)

// TestMain lets the test's own program be the process that sends adverts.
func TestMain(m *testing.M) {
	if device := os.Getenv(speakerVariable); device != "" {
		if err := speak(device); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// speak sends the frame that it reads from file 4 into the namespace of file 3,
// again and again.
func speak(device string) error {
	runtime.LockOSThread()
	if err := netns.Set(netns.NsHandle(3)); err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	if err != nil {
		return err
	}
	frame := make([]byte, 2048)
	n, err := os.NewFile(4, "frame").Read(frame)
	if err != nil {
		return err
	}
	for tick := time.NewTicker(advertsApart); ; <-tick.C {
		if err := transmit(c, frame[:n]); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

func (s *segment) speaker(t *testing.T) *exec.Cmd {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if _, err := out.Write(s.advert(255, 100)); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	handle := os.NewFile(uintptr(dup(t, int(s.node))), "namespace")
	defer func() { _ = handle.Close() }()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), speakerVariable+"="+s.link.Name)
	cmd.ExtraFiles = []*os.File{handle, in}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A daemon that is stopped or killed falls silent within the lease with nobody's
// help, whatever its packets are.
func TestSilenceWithinTheLease(t *testing.T) {
	for _, m := range modes() {
		for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
			t.Run(fmt.Sprintf("%s, %s", m.name, unix.SignalName(signal)), func(t *testing.T) {
				s := newSegment(t, m)
				cmd := s.speaker(t)
				s.waitOpen(t)
				alive, last := s.chatter(t, cmd, signal)
				if alive == 0 {
					t.Error("nothing passes while the daemon lives")
				}
				// The signal may take effect an advert or two after it was sent.
				if bound := s.cfg.Lease + s.cfg.Lease/2; last > bound {
					t.Errorf("a frame left %s after the signal, more than %s", last, bound)
				}
				if s.open(t) {
					t.Error("the lease is still held")
				}
			})
		}
	}
}

func (s *segment) waitOpen(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !s.open(t); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the fence never opens")
		}
	}
}

// chatter announces a virtual address every millisecond for twice the lease, with a
// signal to the daemon after half of the time that the fence should last. It returns
// how many frames passed before the signal and how long after it the last was sent.
func (s *segment) chatter(t *testing.T, cmd *exec.Cmd, signal unix.Signal) (alive int, last time.Duration) {
	t.Helper()
	collect(t, s.b0, advertsApart/2)
	var sent []time.Time
	var signalled time.Time
	one := func() {
		frame := append(s.announce(s.vips[0]), "number "+strconv.Itoa(len(sent))+" "...)
		sent = append(sent, time.Now())
		send(t, s.port, frame)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < s.cfg.Lease/2; <-tick.C {
		one()
	}
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for signalled = time.Now(); time.Since(signalled) < 2*s.cfg.Lease; <-tick.C {
		one()
	}
	for _, f := range s.wireFrames(t) {
		_, number, found := bytes.Cut(f, []byte("number "))
		if !found {
			continue
		}
		text, _, _ := bytes.Cut(number, []byte(" "))
		i, err := strconv.Atoi(string(text))
		if err != nil {
			t.Fatal(err)
		}
		if after := sent[i].Sub(signalled); after > 0 {
			last = max(last, after)
		} else {
			alive++
		}
	}
	return alive, last
}

func TestLeaseExpires(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			start := time.Now()
			send(t, s.port, s.advert(255, 100))
			if !s.open(t) && time.Since(start) < s.cfg.Lease/2 {
				t.Error("closed after an advert")
			}
			if !waitClosed(t, s.lab) {
				t.Error("still open long after the lease")
			}
			hello := s.announce(s.vips[0])
			send(t, s.port, hello)
			if s.onWire(t, hello) {
				t.Error("an announcement passes after the lease")
			}
		})
	}
}
