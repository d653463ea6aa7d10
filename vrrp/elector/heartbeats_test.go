package elector

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// The tests in this file let two electors exchange heartbeats over the loopback interface, by
// addresses of two HA links. Their time is virtual.

// correspondent is one of them.
type correspondent struct {
	*elector
	t      *testing.T
	inputs chan vrrp.Record
	now    time.Time
}

// links returns the HA links of one of the two, which are numbered from 1.
func links(test, mine int) []HeartbeatLink {
	var list []HeartbeatLink
	for link := range maxHeartbeatLinks {
		at := func(member int) netip.AddrPort {
			return netip.MustParseAddrPort(fmt.Sprintf("127.77.%d.%d:3112", 2*test+link, member))
		}
		list = append(list, HeartbeatLink{Interface: "lo", Local: at(mine), Remote: at(3 - mine)})
	}
	return list
}

func member(links []HeartbeatLink) Configuration {
	c := single()
	c.Interval = 100 * time.Millisecond
	c.Beat = vrrp.BeatFor(c.Interval)
	c.Lease = vrrp.BeatLease(c.Beat)
	c.Heartbeat = &Heartbeat{HeartbeatLink: links[0], Key: make([]byte, minKey)}
	if len(links) > 1 {
		c.Heartbeat.Second = &links[1]
	}
	return c
}

func correspond(t *testing.T, test, mine int) *correspondent {
	t.Helper()
	filler, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	c := &correspondent{
		elector: &elector{opts: Options{Log: slog.New(slog.DiscardHandler)}, nonce: uint64(mine)},
		t:       t, inputs: make(chan vrrp.Record, recordQueue), now: time.Now(),
	}
	for i := range c.slots {
		if c.slots[i], err = reserve(filler, i); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		c.close()
		for _, s := range c.slots {
			_ = unix.Close(s.fd) // it holds the filler
		}
		_ = unix.Close(filler) // nothing can be done about it
	})
	c.configure(c.now, member(links(test, mine)))
	c.recorder = &recorder{since: c.now, queue: c.inputs, written: make(chan struct{})}
	close(c.recorder.written)
	for _, l := range c.beats.links {
		if l.fd < 0 {
			t.Skipf("no heartbeats over the loopback interface: %s", l.err)
		}
	}
	c.step(c.now, vrrp.Input{Start: true})
	c.heard()
	return c
}

// heard returns what the group has heard of the peer since it was last asked.
func (c *correspondent) heard() (beats []int, refusals int) {
	for {
		select {
		case r := <-c.inputs:
			if r.Heartbeat != nil {
				beats = append(beats, r.Link)
			}
			if r.Refusal {
				refusals++
			}
		default:
			return beats, refusals
		}
	}
}

// tell sends a heartbeat, and lets the other one read it when it is there on these links.
func (c *correspondent) tell(to *correspondent, by ...int) {
	c.t.Helper()
	c.now = c.now.Add(time.Millisecond)
	to.now = c.now
	c.beats.send(c.group.Heartbeat(c.now))
	for _, link := range by {
		fd := int32(to.beats.links[link].fd)
		if n, err := unix.Poll([]unix.PollFd{{Fd: fd, Events: unix.POLLIN}}, 5000); n != 1 {
			c.t.Fatalf("no heartbeat on link %d: %v", link, err)
		}
	}
	to.drainHeartbeats(to.now)
}

// meet lets two electors trust each other.
func meet(t *testing.T, test int) (a, b *correspondent) {
	t.Helper()
	a, b = correspond(t, test, 1), correspond(t, test, 2)
	a.drainHeartbeats(a.now) // what it sent when nobody was there was refused
	a.tell(b, 0, 1)
	b.tell(a, 0, 1)
	a.tell(b, 0, 1)
	if a.beats.received == 0 || b.beats.received == 0 {
		t.Fatalf("%d and %d heartbeats were trusted, dropped %v and %v", a.beats.received, b.beats.received, a.beats.dropped, b.beats.dropped)
	}
	a.heard()
	b.heard()
	return a, b
}

func TestHeartbeatsTakeBothLinks(t *testing.T) {
	a, b := meet(t, 0)
	before := b.snapshot(b.now).Heartbeats
	const count = 5
	for range count {
		a.tell(b, 0, 1)
	}
	beats, _ := b.heard()
	if len(beats) != count {
		t.Errorf("the group heard %d heartbeats, want each of %d once", len(beats), count)
	}
	after := b.snapshot(b.now).Heartbeats
	if after.Received-before.Received != count || after.Dropped[vrrp.HeartbeatReplayed.String()] > 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	for i, l := range after.Links {
		if l.Received-before.Links[i].Received != count || !l.HeardAt.Equal(b.now) || l.Error != "" {
			t.Errorf("link %d: before %+v, after %+v", i, before.Links[i], l)
		}
	}
}

func TestOneLinkIsEnough(t *testing.T) {
	for cut := range maxHeartbeatLinks {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			a, b := meet(t, 1)
			whole, last := 1-cut, b.now
			a.beats.links[cut].close()
			a.tell(b, whole)
			if beats, _ := b.heard(); len(beats) != 1 || beats[0] != whole {
				t.Errorf("heartbeats came by %v, want one by %d", beats, whole)
			}
			report := b.snapshot(b.now).Heartbeats
			if !report.Links[cut].HeardAt.Equal(last) || !report.Links[whole].HeardAt.Equal(b.now) {
				t.Errorf("%+v, want link %d silent since %v", report, cut, last)
			}
			// Its kernel refuses what comes to the socket that is gone, but it lives.
			b.tell(a, whole)
			b.await(cut)
			b.drainHeartbeats(b.now)
			if _, refusals := b.heard(); refusals > 0 {
				t.Errorf("%d refusals count though heartbeats come in", refusals)
			}
			// Now nothing comes in.
			b.now = b.now.Add(refusalBeats * b.cfg.Beat)
			b.tell(a, whole)
			b.await(cut)
			b.drainHeartbeats(b.now)
			if _, refusals := b.heard(); refusals != 1 {
				t.Errorf("%d refusals count when nothing comes in, want one", refusals)
			}
			// And it comes back.
			a.open(a.now)
			a.tell(b, 0, 1)
			if report := b.snapshot(b.now).Heartbeats; !report.Links[cut].HeardAt.Equal(b.now) {
				t.Errorf("%+v, want link %d to be heard again", report, cut)
			}
		})
	}
}

// await waits until the kernel has something to say on a link.
func (c *correspondent) await(link int) {
	c.t.Helper()
	fds := []unix.PollFd{{Fd: int32(c.beats.links[link].fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 5000); n != 1 {
		c.t.Fatalf("nothing on link %d: %v", link, err)
	}
}

// TestLinksComeAndGo: the second link is taken out of the document and put in again. The
// peer goes on to trust what it hears.
func TestLinksComeAndGo(t *testing.T) {
	a, b := meet(t, 2)
	both := a.cfg
	a.configure(a.now, member(links(2, 1)[:1]))
	if len(a.beats.links) != 1 {
		t.Fatalf("%d links, want one", len(a.beats.links))
	}
	b.heard()
	for range 3 {
		a.tell(b, 0)
	}
	a.configure(a.now, both)
	for range 3 {
		a.tell(b, 0, 1)
	}
	if beats, _ := b.heard(); len(beats) < 6 || b.beats.dropped[vrrp.HeartbeatReplayed.String()] > 0 {
		t.Errorf("%d heartbeats were heard, dropped %v", len(beats), b.beats.dropped)
	}
	if l := b.snapshot(b.now).Heartbeats.Links[1]; !l.HeardAt.Equal(b.now) {
		t.Errorf("the second link: %+v, want it to be heard again", l)
	}
}
