package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

var (
	_ Lab     = (*lab.Lab)(nil)
	_ Traffic = (*traffic.Client)(nil)
)

// world is a pair and its traffic as they should be, but for what a test spoils.
type world struct {
	mu     sync.Mutex
	began  time.Time
	master string
	broken map[string]lab.Fault
	marked time.Time
	fault  time.Time
	lost   int
	// outage is how long a fault silences all flows.
	outage time.Duration
	// stays makes the MASTER stay whatever happens, moves makes it move.
	stays, moves bool
	// loses is the number of flows that each fault kills.
	loses int
	// never keeps flows silent after the fault.
	never bool
	// failing is the call that fails, hanging the one that lasts until ctx ends.
	failing, hanging string
	// injected counts faults; at is called with each.
	injected int
}

func newWorld() *world {
	return &world{
		began: time.Now(), master: lab.Alpha, broken: map[string]lab.Fault{},
		outage: 240 * time.Millisecond, marked: time.Now(), fault: time.Now(),
	}
}

var errFake = errors.New("the cable tester is on fire")

func (w *world) call(ctx context.Context, name string) error {
	switch name {
	case w.failing:
		return errFake
	case w.hanging:
		<-ctx.Done()
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}
	return ctx.Err()
}

func other(node string) string {
	if node == lab.Alpha {
		return lab.Bravo
	}
	return lab.Alpha
}

func (w *world) Status(ctx context.Context, node string) (status.Status, error) {
	w.mu.Lock()
	fault, broken := w.broken[node]
	role := roleBackup
	if w.master == node {
		role = roleMaster
	}
	w.mu.Unlock()
	if broken && fault == lab.Hang {
		<-ctx.Done()
		return status.Status{}, ctx.Err()
	}
	if broken && (fault == lab.Poweroff || fault == lab.Crash) {
		return status.Status{}, errors.New("connection refused")
	}
	return status.Status{Node: node, Role: role, Since: w.began, Sync: status.Sync{
		Connected: true, Complete: true, Sessions: 601, LagP99: 3100 * time.Microsecond,
	}}, w.call(ctx, "status")
}

func (w *world) WaitReady(ctx context.Context) error { return w.call(ctx, "ready") }

func (w *world) Master(ctx context.Context) (string, error) {
	if err := w.call(ctx, "master"); err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.master, nil
}

func (w *world) Inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error) {
	if err := w.call(ctx, "inject"); err != nil {
		return time.Time{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[node] = fault
	w.injected++
	w.lost += w.loses
	if w.moves || movesMaster(fault) && !w.stays {
		w.master = other(node)
	}
	return time.Now(), nil
}

func (w *world) Heal(ctx context.Context, _ lab.Fault, node string) error {
	if err := w.call(ctx, "heal"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.broken, node)
	return nil
}

func (w *world) Ready(ctx context.Context) error { return w.call(ctx, "traffic") }

func (w *world) Latest() traffic.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	group := func(total, lost int, p50, most time.Duration) traffic.Group {
		g := traffic.Group{Total: total, Alive: total - lost, Lost: lost, SilenceP50: p50, SilenceMax: most}
		if time.Since(w.fault) >= w.outage && (!w.never || len(w.broken) == 0) {
			g.Resumed = g.Alive
		}
		if lost > 0 {
			g.Reasons = map[string]int{"reset": lost}
			g.Examples = []traffic.Loss{{Flow: 17, Reason: "reset", Detail: "connection reset by peer", After: 4 * time.Second}}
		}
		return g
	}
	s := traffic.Snapshot{Time: time.Now(), Ready: true, WindowStart: w.marked, Fault: w.fault}
	udp, tcp := 20*time.Millisecond, 100*time.Millisecond
	if w.fault.After(w.marked) {
		udp, tcp = udp+w.outage, tcp+2*w.outage
	}
	s.TCP = group(500, w.lost, tcp, tcp+50*time.Millisecond)
	s.UDP = group(100, 0, udp, udp+9*time.Millisecond)
	s.Bulk = group(1, 0, tcp, tcp)
	if time.Since(w.fault) >= w.outage {
		s.BulkRate = 199_600_000
	}
	return s
}

func (w *world) Mark(ctx context.Context) error {
	w.mu.Lock()
	w.marked, w.fault = time.Now(), time.Now()
	w.mu.Unlock()
	return w.call(ctx, "mark")
}

func (w *world) Fault(ctx context.Context, at time.Time) error {
	w.mu.Lock()
	w.fault = at
	w.mu.Unlock()
	return w.call(ctx, "fault")
}

func (w *world) Report(ctx context.Context) (traffic.Snapshot, error) {
	return w.Latest(), w.call(ctx, "report")
}
