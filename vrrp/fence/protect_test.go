package fence_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/mdlayher/packet"

	"tandem/vrrp/fence"
)

// plain makes the lab's fence one that anybody can delete, as on Linux before 6.9.
func (l *lab) plain(t *testing.T) {
	t.Helper()
	l.fence.Plain()
	if err := l.fence.Remove(group); err != nil {
		t.Fatal(err)
	}
	l.ensure(t)
}

func (l *lab) nft(t *testing.T, command string) error {
	t.Helper()
	var failed error
	in(t, l.node, func() error {
		out, err := exec.CommandContext(t.Context(), "nft", command).CombinedOutput()
		if err != nil {
			failed = errors.Join(err, errors.New(string(out)))
		}
		return nil
	})
	return failed
}

func (l *lab) protected(t *testing.T) bool {
	t.Helper()
	p, err := l.fence.Protected(group)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// another is a second daemon in the lab's namespace.
func (l *lab) another(t *testing.T) *fence.Fence {
	t.Helper()
	var f *fence.Fence
	in(t, l.node, func() (err error) {
		f, err = fence.New()
		return err
	})
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func needProtection(t *testing.T, l *lab) {
	t.Helper()
	if !l.fence.CanProtect() {
		t.Skip("this kernel cannot protect tables, that takes Linux 6.9")
	}
}

func TestProtectedFenceSurvivesOthers(t *testing.T) {
	l := newLab(t)
	needProtection(t, l)
	if !l.protected(t) {
		t.Fatal("the table is not protected")
	}
	if err := l.nft(t, "flush ruleset"); err != nil {
		t.Error(err)
	}
	for _, command := range []string{
		"delete table netdev tandem-lab", "flush table netdev tandem-lab", "flush chain netdev tandem-lab ingress-v0",
		"insert rule netdev tandem-lab egress-v0 accept", "add element netdev tandem-lab lease { 0x1 }",
		"add table netdev tandem-lab { flags dormant; }",
	} {
		if err := l.nft(t, command); err == nil {
			t.Errorf("nft %q succeeds", command)
		}
	}
	if err := l.fence.Check(l.cfg); err != nil {
		t.Error(err)
	}
	// A second daemon finds all well and can change nothing.
	second := l.another(t)
	if changed, err := second.Ensure(l.cfg); err != nil || len(changed) > 0 {
		t.Errorf("a second daemon changed %q, %v", changed, err)
	}
	if p, err := second.Protected(group); err != nil || p {
		t.Errorf("the table belongs to a second daemon: %v, %v", p, err)
	}
	other := l.cfg
	other.Lease = time.Minute
	if _, err := second.Ensure(other); err == nil {
		t.Error("a second daemon changes the fence")
	}
	if err := second.Check(l.cfg); err != nil {
		t.Error(err)
	}
	if err := second.Remove(group); err == nil {
		t.Error("a second daemon removes the fence")
	}
}

// A fence whose daemon was killed stands, and the next daemon takes it over with
// the lease.
func TestAdoption(t *testing.T) {
	l := newLab(t)
	needProtection(t, l)
	l.cfg.Lease = time.Minute
	l.ensure(t)
	send(t, l.v0, advert(vmac, 255, 100))
	l.fence.Kill()
	next := l.another(t)
	if err := next.Check(l.cfg); err != nil {
		t.Errorf("the orphan does not stand: %v", err)
	}
	if p, err := next.Protected(group); err != nil || p {
		t.Errorf("the orphan is protected: %v, %v", p, err)
	}
	if changed, err := next.Ensure(l.cfg); err != nil || len(changed) != 1 || changed[0] != "adopt table netdev tandem-lab" {
		t.Errorf("adoption: %q, %v", changed, err)
	}
	if p, err := next.Protected(group); err != nil || !p {
		t.Errorf("the adopted fence is protected: %v, %v", p, err)
	}
	if changed, err := next.Ensure(l.cfg); err != nil || len(changed) > 0 {
		t.Errorf("after adoption: %q, %v", changed, err)
	}
	if open, _, err := next.Lease(group); err != nil || !open {
		t.Errorf("the lease is open after adoption: %v, %v", open, err)
	}
	if err := l.nft(t, "flush ruleset"); err != nil {
		t.Error(err)
	}
	if err := next.Check(l.cfg); err != nil {
		t.Error(err)
	}
	// Frames of the elector go on moving the lease.
	send(t, l.v0, advert(vmac, 255, 0))
	if open, _, err := next.Lease(group); err != nil || open {
		t.Errorf("open after priority 0: %v, %v", open, err)
	}
}

// A plain table of an earlier version, or of a kernel before an upgrade, becomes a
// protected one without a moment in which the lease is lost or the fence is open.
func TestPlainTableBecomesProtected(t *testing.T) {
	l := newLab(t)
	needProtection(t, l)
	l.cfg.Lease = time.Minute
	l.plain(t)
	if l.protected(t) {
		t.Fatal("a plain table is called protected")
	}
	send(t, l.v0, advert(vmac, 255, 100))
	next := l.another(t)
	if changed, err := next.Ensure(l.cfg); err != nil || len(changed) != 1 || changed[0] != "protect table netdev tandem-lab" {
		t.Errorf("changed %q, %v", changed, err)
	}
	if p, err := next.Protected(group); err != nil || !p {
		t.Errorf("protected %v, %v", p, err)
	}
	open, remaining, err := next.Lease(group)
	if err != nil || !open || remaining > l.cfg.Lease {
		t.Errorf("open %v for %s, %v", open, remaining, err)
	}
	if err := next.Check(l.cfg); err != nil {
		t.Error(err)
	}
}

func TestLeaseWithoutEndIsDeleted(t *testing.T) {
	l := newLab(t)
	l.plain(t)
	if err := l.nft(t, "add element netdev tandem-lab lease { 0x1 }"); err != nil {
		t.Fatal(err)
	}
	if open, _, err := l.fence.Lease(group); err != nil || !open {
		t.Fatalf("open %v, %v", open, err)
	}
	if err := l.fence.Check(l.cfg); err == nil {
		t.Error("Check sees nothing wrong")
	}
	if changed := l.ensure(t); len(changed) != 1 || changed[0] != "delete a lease that does not end" {
		t.Errorf("changed %q", changed)
	}
	if open, _, err := l.fence.Lease(group); err != nil || open {
		t.Errorf("open %v, %v", open, err)
	}
	if err := l.fence.Check(l.cfg); err != nil {
		t.Error(err)
	}
}

func (l *lab) watch(t *testing.T) <-chan fence.Tampering {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	reports, err := l.fence.Watch(ctx, group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range reports {
			continue // until it is closed
		}
	})
	return reports
}

func TestWatchReportsOthers(t *testing.T) {
	for _, command := range []string{
		"flush ruleset", "delete table netdev tandem-lab", "flush table netdev tandem-lab",
		"flush chain netdev tandem-lab ingress-v0", "delete chain netdev tandem-lab parent-ingress-a0",
		"insert rule netdev tandem-lab egress-v0 accept", "add chain netdev tandem-lab ingress-v0 { policy accept; }",
		"add element netdev tandem-lab lease { 0x1 }", "add table netdev tandem-lab { flags dormant; }",
	} {
		t.Run(command, func(t *testing.T) {
			l := newLab(t)
			l.plain(t)
			reports := l.watch(t)
			if err := l.nft(t, command); err != nil {
				t.Fatal(err)
			}
			select {
			case r := <-reports:
				if r.Process != "nft" || r.PID == 0 {
					t.Errorf("reported %s", r)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("no report")
			}
			if len(l.ensure(t)) == 0 {
				t.Error("nothing to repair")
			}
			if err := l.fence.Check(l.cfg); err != nil {
				t.Error(err)
			}
			quietFor(t, reports)
		})
	}
}

// quietFor fails if there is another report.
func quietFor(t *testing.T, reports <-chan fence.Tampering) {
	t.Helper()
	select {
	case r, ok := <-reports:
		t.Errorf("report %s, %v", r, ok)
	case <-time.After(quiet):
	}
}

func TestWatchIgnoresTheRest(t *testing.T) {
	l := newLab(t)
	l.plain(t)
	reports := l.watch(t)
	for _, command := range []string{
		"add table netdev other; add chain netdev other c; add rule netdev other c accept; delete table netdev other",
		"add table ip tandem-lab; delete table ip tandem-lab", "list ruleset",
	} {
		if err := l.nft(t, command); err != nil {
			t.Fatal(err)
		}
	}
	// Its own changes, and the life of a lease.
	l.cfg.Lease = fence.MinLease
	l.ensure(t)
	for range 5 {
		send(t, l.v0, advert(vmac, 255, 100))
		waitClosed(t, l)
	}
	send(t, l.v0, advert(vmac, 255, 0))
	if err := l.fence.Remove(group); err != nil {
		t.Fatal(err)
	}
	l.ensure(t)
	quietFor(t, reports)
}

// A program that fights for the table gets ten reports a second and no more.
func TestWatchIsNoBusyLoop(t *testing.T) {
	l := newLab(t)
	l.plain(t)
	reports := l.watch(t)
	start, got := time.Now(), 0
	for range 40 {
		if err := l.nft(t, "add chain netdev tandem-lab c; delete chain netdev tandem-lab c"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reports:
			got++
		default:
		}
	}
	if most := 2 + int(time.Since(start)/(100*time.Millisecond)); got == 0 || got > most {
		t.Errorf("%d reports in %s, want 1 to %d", got, time.Since(start), most)
	}
}

// How long a plain fence lets frames pass after a flush, if the reports are answered
// as they should be: by Restore.
func TestFlushedPlainFenceIsRestored(t *testing.T) {
	l := newLab(t)
	l.fence.Plain()
	if err := l.fence.Remove(group); err != nil {
		t.Fatal(err)
	}
	guard := l.fence.Guard(group, l.cfg.Lease)
	if changed, err := guard.Restore(); err != nil || len(changed) > 0 {
		t.Fatalf("nothing to restore: %q, %v", changed, err)
	}
	if _, err := guard.Ensure(l.cfg.Links); err != nil {
		t.Fatal(err)
	}
	reports, err := guard.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restored := make(chan error, 1)
	go func() {
		<-reports
		_, err := guard.Restore()
		restored <- err
	}()
	stop := make(chan struct{})
	sent := make(chan int)
	go func() { sent <- flood(l.v0, stop) }()
	if err := l.nft(t, "flush ruleset"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-restored:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no report")
	}
	tick := time.After(quiet / 4)
	<-tick
	close(stop)
	total := <-sent
	if err := l.fence.Check(l.cfg); err != nil {
		t.Error(err)
	}
	times := leaks(t, l.b0)
	if len(times) == 0 {
		t.Skip("nothing leaked") // a flush always opens a plain fence, but perhaps not for a frame
	}
	openFor := times[len(times)-1].Sub(times[0])
	t.Logf("%d of %d frames leaked; the fence was open for %s", len(times), total, openFor)
	if openFor > 2*time.Second {
		t.Errorf("the fence was open for %s", openFor)
	}
}

// flood announces a virtual address with the time of sending in each frame.
func flood(c *packet.Conn, stop <-chan struct{}) (sent int) {
	hello := arpRequest(allMAC, vmac, vip, vip)
	for {
		select {
		case <-stop:
			return sent
		default:
		}
		stamp, err := time.Now().MarshalBinary()
		if err != nil {
			return sent
		}
		frame := append(append(append([]byte(nil), hello...), "time "...), stamp...)
		_ = transmit(c, frame) // refused while the fence is closed
		sent++
	}
}

// leaks are the times of the flood's frames that reached the far end.
func leaks(t *testing.T, c *packet.Conn) []time.Time {
	t.Helper()
	var times []time.Time
	for _, f := range collect(t, c, quiet) {
		if _, stamp, found := bytes.Cut(f, []byte("time ")); found {
			var at time.Time
			if err := at.UnmarshalBinary(stamp[:15]); err != nil {
				t.Fatal(err)
			}
			times = append(times, at)
		}
	}
	return times
}
