package kernel

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/conntracksync/nfqueue"
)

// held is the office whose network holds first packets.
func (l *lab) applyHeld(t *testing.T) Report {
	t.Helper()
	in := office()
	in.Held = []string{"vmac20"}
	report := l.apply(t, in)
	if report.FirstPackets.Lacking == nfqueue.ErrUnsupported.Error() {
		t.Skip(report.FirstPackets.Lacking)
	}
	return report
}

// A session waits for the release of its first packet.
func TestFirstPacketIsHeld(t *testing.T) {
	l := newLab(t, time.Minute)
	if report := l.applyHeld(t); report.FirstPackets != (FirstPackets{}) || !slices.Contains(report.Changed, "replace table inet tandem-lab-hold") {
		t.Fatalf("%+v", report)
	}
	if report := l.applyHeld(t); len(report.Changed)+len(report.Conflicts) > 0 {
		t.Errorf("again: %+v", report)
	}
	l.echoServer(t)
	l.advertise(t, 100)
	var queue *nfqueue.Queue
	in(t, l.router, func() (err error) {
		queue, err = nfqueue.Open(nfqueue.Config{Group: "lab", Length: 16})
		return err
	})
	defer func() { _ = queue.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	released := make(chan error, 1)
	go func() {
		ids := make([]uint32, 16)
		n, err := queue.Receive(ctx, ids)
		if err == nil {
			err = queue.Release(ids[n-1])
		}
		released <- err
	}()
	if err := exchange(l.dial(t), "word", 5*time.Second); err != nil {
		t.Error(err)
	}
	if err := <-released; err != nil {
		t.Errorf("no packet waited: %v", err)
	}
	report := l.applyHeld(t)
	if len(report.Changed) > 0 || report.FirstPackets != (FirstPackets{Counts: nfqueue.Counts{Picked: 1}}) {
		t.Errorf("after a session: %+v", report)
	}
	if report := l.apply(t, office()); !slices.Equal(report.Changed, []string{"delete table inet tandem-lab-hold"}) {
		t.Errorf("without it: %+v", report)
	}
}

// Connection tracking is in use when the document begins to ask for it.
func TestFirstPacketIsAskedForTooLate(t *testing.T) {
	l := newLab(t, time.Minute)
	l.apply(t, office())
	l.applyHeld(t)
	l.echoServer(t)
	l.advertise(t, 100)
	if err := exchange(l.dial(t), "word", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	report := l.applyHeld(t)
	const want = "connection tracking was in use before Tandem's table inet tandem-lab-hold was there; " +
		"restart this machine, and start Tandem before other firewalls"
	if first := report.FirstPackets; first.Lacking != want || first.Counts.Early == 0 || len(report.Conflicts) > 0 {
		t.Errorf("%+v", report)
	}
	if err := l.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := l.run(t, "nft list tables"); strings.Contains(out, "hold") {
		t.Errorf("after the removal: %s", out)
	}
}
