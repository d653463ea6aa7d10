package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

const (
	// fillPatience, resyncPatience and takeoverPatience bound the experiments.
	fillPatience     = 90 * time.Second
	resyncPatience   = 90 * time.Second
	takeoverPatience = time.Minute
	// sampled is how many sessions are looked at.
	sampled = 50
)

// sessions fills the MASTER's table, starts a BACKUP, and lets the MASTER die.
func (l *loader) sessions(ctx context.Context, count int) (*sessionsUse, error) {
	use := &sessionsUse{Wanted: count}
	master, err := l.prepare(ctx)
	if err != nil {
		return use, err
	}
	backup := other(master)
	if err := l.setTimeouts(keepTimeout); err != nil {
		return use, err
	}
	if _, err := l.Inject(ctx, lab.Poweroff, backup); err != nil {
		return use, err
	}
	first := l.next
	if err := l.fill(ctx, master, count, use); err != nil {
		return use, err
	}
	if err := l.resync(ctx, master, use); err != nil {
		return use, err
	}
	use.MasterMemory, use.MasterPeak = memory(l.Processes(master))
	use.BackupMemory, use.BackupPeak = memory(l.Processes(backup))
	own, err := kernelTable(l.Namespace(master))
	if err != nil {
		return use, err
	}
	theirs, err := l.replicaTable(ctx, backup)
	if err != nil {
		return use, err
	}
	use.Replicated, use.Difference = len(theirs), compare(own, theirs)
	return use, l.takeOver(ctx, master, first, use)
}

// fill begins flows until there are enough.
func (l *loader) fill(ctx context.Context, master string, count int, use *sessionsUse) error {
	ctx, cancel := context.WithTimeout(ctx, fillPatience)
	defer cancel()
	if err := l.quiesce(ctx, master); err != nil {
		return err
	}
	// Some flows are of the nodes themselves, and are not replicated.
	for use.Sessions < count+fewFlows {
		if ctx.Err() != nil {
			return fmt.Errorf("the table took %d of %d flows in %v", use.Sessions, count, fillPatience)
		}
		if _, err := l.generate(uint64(count+fewFlows-use.Sessions), fillRate); err != nil {
			return err
		}
		var err error
		if use.Sessions, err = kernelFlows(l.Namespace(master)); err != nil {
			return err
		}
	}
	if err := l.resume(ctx, master, count); err != nil {
		return fmt.Errorf("the MASTER's daemons did not get to rest: %w", err)
	}
	return nil
}

// fillRate is what the path takes without loss.
const fillRate = 80_000

// resync switches the BACKUP on and waits until it has all sessions.
func (l *loader) resync(ctx context.Context, master string, use *sessionsUse) error {
	backup := other(master)
	ctx, cancel := context.WithTimeout(ctx, resyncPatience)
	defer cancel()
	before, err := processorTime(l.Processes(master))
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := l.Heal(ctx, lab.Poweroff, backup); err != nil {
		return err
	}
	if err := setTimeouts(l.Namespace(backup), keepTimeout); err != nil {
		return err
	}
	var linked time.Time
	err = poll(ctx, func(ctx context.Context) error {
		if linked.IsZero() && l.linked(ctx, backup) {
			linked = time.Now()
		}
		n, err := l.replicaCount(ctx, backup)
		if err != nil {
			return err
		}
		use.Replicated = n
		if n < use.Wanted || !l.equal(ctx, backup) {
			return errors.Join(fmt.Errorf("%d of %d sessions were replicated", n, use.Sessions), pause(ctx, 2*look))
		}
		return nil
	})
	if err != nil {
		return err
	}
	use.Resync = time.Since(begin)
	if !linked.IsZero() {
		use.ResyncLinked = time.Since(linked)
	}
	after, err := processorTime(l.Processes(master))
	if err != nil {
		return err
	}
	use.MasterCPU = total(after) - total(before)
	theirs, err := processorTime(l.Processes(backup))
	use.BackupCPU = total(theirs)
	return err
}

// takeOver kills the MASTER and waits until sampled sessions pass by the other node.
func (l *loader) takeOver(ctx context.Context, master string, first uint64, use *sessionsUse) (err error) {
	var numbers []uint64
	for i := range uint64(sampled) {
		numbers = append(numbers, first+i*(l.next-first)/sampled)
	}
	p, err := l.startProbe(numbers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	within, cancel := context.WithTimeout(ctx, time.Second)
	_ = p.untilHeard(within) // flows that were lost while filling are not in the sample
	cancel()
	if use.Sampled, err = p.count(); err != nil {
		return err
	}
	if use.Sampled < sampled/2 {
		return fmt.Errorf("only %d of %d sampled sessions passed before the fault", use.Sampled, sampled)
	}
	at, err := l.Inject(ctx, lab.Poweroff, master)
	if err != nil {
		return err
	}
	p.restart()
	within, cancel = context.WithTimeout(ctx, takeoverPatience)
	defer cancel()
	err = poll(within, func(context.Context) error {
		n, err := p.count()
		if err == nil && n < use.Sampled {
			err = fmt.Errorf("%d of %d old sessions pass", n, use.Sampled)
		}
		return err
	})
	times := p.times(at)
	use.Lost = use.Sampled - len(times)
	if len(times) == 0 {
		return fmt.Errorf("no session passed by the new MASTER: %w", err)
	}
	use.First, use.Median, use.Last = times[0], quantile(times, 50), times[len(times)-1]
	for use.Commit = l.commit(other(master)); use.Commit == 0 && l.commits() && within.Err() == nil; use.Commit = l.commit(other(master)) {
		_ = pause(within, look)
	}
	return nil
}

// commits tells whether the product commits at a takeover.
func (l *loader) commits() bool {
	k, ok := l.product.(*keepalived)
	return ok && k.mode != direct
}

// memory is the resident memory of processes, now and at most, in bytes.
func memory(pids []int) (now, peak uint64) {
	for _, pid := range pids {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has ended
		}
		a, b := memoryOf(string(content))
		now, peak = now+a, peak+b
	}
	return now, peak
}

// memoryOf reads VmRSS and VmHWM of a process's status.
func memoryOf(status string) (now, peak uint64) {
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, peak
}

// flowOf names a flow of the load to the kernel.
func flowOf(ports [2]uint16) conntrack.Flow {
	return conntrack.NewFlow(unix.IPPROTO_UDP, 0, loadClientAddress(), serverAddress(), ports[0], ports[1], 1, 0)
}

// isGone tells that a flow was not there any more.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) }
