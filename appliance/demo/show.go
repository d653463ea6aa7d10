package demo

import (
	"context"
	"fmt"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

// show runs the faults one after the other.
type show struct {
	opts     Options
	pair     Lab
	traffic  Traffic
	faults   []lab.Fault
	stage    *stage
	audience *audience
}

// run returns what was seen, also of a run that an error cut short.
func (s *show) run(ctx context.Context) (Result, error) {
	began := time.Now()
	result := Result{Planned: len(s.faults)}
	err := s.open(ctx)
	for i := 0; err == nil && i < len(s.faults); i++ {
		var row Row
		row, err = s.one(ctx, i, s.faults[i])
		if err != nil {
			err = fmt.Errorf("fault %d of %d (%v): %w", i+1, len(s.faults), s.faults[i], err)
			break
		}
		result.Rows = append(result.Rows, row)
		s.stage.finished(row)
		s.audience.healed(row)
	}
	if err == nil {
		s.stage.set(func(sc *scene) { sc.phase = phaseDone })
	}
	result.conclude(s.traffic.Latest(), time.Since(began))
	return result, err
}

// open waits for the pair and for the traffic.
func (s *show) open(ctx context.Context) error {
	s.audience.say("waiting until the pair is ready")
	if err := s.waitReady(ctx, phaseReady); err != nil {
		return err
	}
	s.audience.say(fmt.Sprintf("opening %s and %s", count(s.opts.Sessions, "TCP session"), count(s.opts.Flows, "UDP flow")))
	s.stage.set(func(sc *scene) { sc.phase = phaseTraffic })
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	if err := s.traffic.Ready(ctx); err != nil {
		return fmt.Errorf("establish the traffic: %w", err)
	}
	snap := s.traffic.Latest()
	s.audience.say(fmt.Sprintf("%s, %s and %s cross the pair", count(snap.TCP.Total, "TCP session"),
		count(snap.UDP.Total, "UDP flow"), count(snap.Bulk.Total, "download")))
	return nil
}

func (s *show) waitReady(ctx context.Context, p phase) error {
	s.stage.set(func(sc *scene) { sc.phase = p })
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	return s.pair.WaitReady(ctx)
}

// one shows one fault from readiness to readiness.
func (s *show) one(ctx context.Context, i int, fault lab.Fault) (Row, error) {
	row := Row{Fault: fault.String()}
	s.stage.set(func(sc *scene) { sc.index, sc.fault = i, fault })
	if err := s.waitReady(ctx, phaseReady); err != nil {
		return row, err
	}
	before, err := s.report(ctx)
	if err != nil {
		return row, err
	}
	if err := s.mark(ctx); err != nil {
		return row, err
	}
	s.stage.set(func(sc *scene) { sc.phase = phaseCalm })
	if err := pause(ctx, s.opts.Interval); err != nil {
		return row, err
	}
	if err := s.inject(ctx, fault, &row); err != nil {
		return row, err
	}
	if err := s.observe(ctx, fault, &row); err != nil {
		return row, err
	}
	if err := s.heal(ctx, fault, &row, before); err != nil {
		return row, err
	}
	row.judge(movesMaster(fault))
	return row, nil
}

// inject breaks the MASTER.
func (s *show) inject(ctx context.Context, fault lab.Fault, row *Row) error {
	var err error
	if row.MasterBefore, err = s.pair.Master(ctx); err != nil {
		return err
	}
	row.Node = row.MasterBefore
	// The picture must show the fault from its first moment on.
	s.stage.set(func(sc *scene) {
		sc.phase, sc.target, sc.broken, sc.faultAt = phaseObserve, row.Node, true, time.Now()
	})
	if row.At, err = s.pair.Inject(ctx, fault, row.Node); err != nil {
		return err
	}
	s.stage.set(func(sc *scene) { sc.faultAt = row.At })
	s.audience.say(fmt.Sprintf("fault %d of %d, %v: %s", s.stage.look().index+1, len(s.faults), fault, describe(fault, row.Node)))
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	return s.traffic.Fault(ctx, row.At)
}

// observe waits until all flows echo again and the MASTER is where it should be, or
// the patience ends, and measures.
func (s *show) observe(ctx context.Context, fault lab.Fault, row *Row) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		snap := s.traffic.Latest()
		resumed := !snap.Fault.Before(row.At) && snap.Resumed() == snap.Alive()
		if resumed && row.Recovery == 0 {
			row.Recovery = time.Since(row.At)
		}
		passed := time.Since(began)
		master := s.stage.masterSince(row.At)
		moved := master != "" && (master != row.MasterBefore) == movesMaster(fault)
		if passed >= s.opts.Patience || passed >= s.opts.Observe && resumed && moved {
			break
		}
	}
	asking, cancel := context.WithTimeout(ctx, masterPatience)
	defer cancel()
	after, err := s.pair.Master(asking)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A pair without a MASTER is an outcome of the fault, not of the demo.
	row.MasterAfter = after
	if err != nil {
		row.Note = err.Error()
	}
	snap, err := s.report(ctx)
	if err != nil {
		return err
	}
	row.measure(snap)
	s.audience.observed(*row, snap)
	return nil
}

// heal undoes the fault, waits for the pair and counts what was lost since before.
func (s *show) heal(ctx context.Context, fault lab.Fault, row *Row, before traffic.Snapshot) error {
	if err := s.mark(ctx); err != nil {
		return err
	}
	s.stage.set(func(sc *scene) { sc.phase, sc.broken = phaseHeal, false })
	if err := s.pair.Heal(ctx, fault, row.Node); err != nil {
		return err
	}
	if err := s.waitReady(ctx, phaseHeal); err != nil {
		return fmt.Errorf("heal at %s: %w", row.Node, err)
	}
	healed, err := s.report(ctx)
	if err != nil {
		return err
	}
	row.HealSilence = healed.UDP.SilenceMax
	row.countLost(before, healed)
	asking, cancel := context.WithTimeout(ctx, masterPatience)
	defer cancel()
	row.MasterHealed, err = s.pair.Master(asking)
	return err
}

func (s *show) mark(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	return s.traffic.Mark(ctx)
}

func (s *show) report(ctx context.Context) (traffic.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	return s.traffic.Report(ctx)
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// movesMaster tells whether a fault of the MASTER must make the other node MASTER.
// A cut HA link must not: the adverts on the networks still arrive.
func movesMaster(fault lab.Fault) bool { return fault != lab.HALink }

// describe says in a sentence what a fault does to a node.
func describe(fault lab.Fault, node string) string {
	switch fault {
	case lab.Poweroff:
		return node + " loses power"
	case lab.Crash:
		return "every process of " + node + " is killed"
	case lab.Hang:
		return "every process of " + node + " freezes"
	case lab.LAN:
		return "the LAN cable of " + node + " is pulled"
	case lab.WAN:
		return "the WAN cable of " + node + " is pulled"
	case lab.HALink:
		return "the HA cable between the nodes is cut"
	case lab.Handover:
		return node + " hands over as planned"
	}
	return fault.String() + " at " + node
}

// condition says in a few words how a broken node is.
func condition(fault lab.Fault) string {
	switch fault {
	case lab.Poweroff:
		return "power is off"
	case lab.Crash:
		return "processes killed"
	case lab.Hang:
		return "processes frozen"
	case lab.LAN:
		return "LAN cable pulled"
	case lab.WAN:
		return "WAN cable pulled"
	case lab.HALink, lab.Handover:
	}
	return ""
}
