package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// program is what is measured of the replication.
type program struct {
	loads []loadPlan
	// sessions are how many are transferred and taken over.
	sessions []int
}

// loadPlan is a rate of flows for so long. A step is only looked at on the way to the
// highest rate, and left out when a lower one was too much.
type loadPlan struct {
	rate int
	over time.Duration
	step bool
}

func (p plan) program() program {
	if p.quick {
		return program{
			loads: []loadPlan{
				{10_000, 6 * time.Second, false},
				{20_000, 6 * time.Second, false},
			},
			sessions: []int{100_000},
		}
	}
	return program{
		loads: []loadPlan{
			{10_000, 30 * time.Second, false},
			{20_000, time.Minute, false},
			{30_000, 10 * time.Second, true},
			{50_000, 30 * time.Second, false},
			{70_000, 10 * time.Second, true},
			{100_000, 10 * time.Second, true},
		},
		sessions: []int{100_000, 1_000_000},
	}
}

// replicationAdvert is the interval of adverts of all pairs. It is not what is compared, and
// with a long one no election comes between on a machine that is overloaded on purpose.
const replicationAdvert setting = "1s"

// measureReplication measures the products in turn: a pair has the machine for itself.
func (c *coordinator) measureReplication(ctx context.Context) error {
	restore := c.raiseLimits()
	defer restore()
	for _, system := range c.replicators {
		if err := c.measureReplicator(ctx, system, c.program()); err != nil {
			return err
		}
	}
	return nil
}

func (c *coordinator) measureReplicator(ctx context.Context, system string, p program) error {
	tooMuch := false
	for _, l := range p.loads {
		if tooMuch && l.step {
			continue
		}
		steady, err := c.tryLoad(ctx, system, l)
		if err != nil {
			return err
		}
		tooMuch = tooMuch || !steady
	}
	for _, count := range p.sessions {
		c.dismiss() // of the last experiment, a node is without power
		if err := c.trySessions(ctx, system, count); err != nil {
			return err
		}
	}
	c.dismiss()
	return nil
}

// loadPatience is more than a load takes beside its own time.
const loadPatience = 4 * time.Minute

// tryLoad tells whether the replication kept up.
func (c *coordinator) tryLoad(ctx context.Context, system string, l loadPlan) (steady bool, err error) {
	said, err := c.tell(ctx, system, replicationAdvert, order{Do: doLoad, Rate: l.rate, Over: l.over}, l.over+loadPatience)
	if ctx.Err() != nil {
		return false, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	use := said.Load
	if use == nil {
		use = &loadUse{Rate: l.rate}
	}
	use.System, use.Step, use.Error = system, l.step, sentence(err)
	what := fmt.Sprintf("replication of %s at %d flows/s", system, l.rate)
	if err != nil {
		c.fail(what, err)
	} else {
		c.say("%s: %.0f reached, MASTER %.1f µs, BACKUP %.1f µs and %.0f bytes a flow, lag p50 %s p99 %s max %s ms; after %v %+v of %d differ %s", what,
			use.reached(), microseconds(use.perFlow(roleMaster)), microseconds(use.perFlow(roleBackup)), use.wirePerFlow(),
			milliseconds(use.Lag.P50), milliseconds(use.Lag.P99), milliseconds(use.Lag.Max),
			use.EqualAfter.Round(time.Millisecond), use.Difference, use.Kept, use.Note)
	}
	return use.steady(), c.note(entry{Load: use})
}

func (c *coordinator) trySessions(ctx context.Context, system string, count int) error {
	said, err := c.tell(ctx, system, replicationAdvert, order{Do: doSessions, Sessions: count},
		fillPatience+resyncPatience+takeoverPatience+2*time.Minute)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	use := said.Sessions
	if use == nil {
		use = &sessionsUse{Wanted: count}
	}
	use.System, use.Error = system, sentence(err)
	what := fmt.Sprintf("%d sessions of %s", count, system)
	if err != nil {
		c.fail(what, err)
	}
	c.say("%s: %+v differ, resync %v (%v since linked), CPU %v and %v, memory %d and %d MB, taken over after %v to %v, commit %v, %d of %d lost", what,
		use.Difference, use.Resync.Round(time.Millisecond), use.ResyncLinked.Round(time.Millisecond), use.MasterCPU, use.BackupCPU,
		use.MasterMemory>>20, use.BackupMemory>>20, use.First, use.Last, use.Commit, use.Lost, use.Sampled)
	return c.note(entry{Sessions: use})
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// The kernel's limits are the machine's, not a namespace's.
const (
	netfilterDir = "/proc/sys/net/netfilter"
	wantFlows    = 2 << 20
	wantBuckets  = 2 << 20
)

// raiseLimits lets the kernel hold a million sessions at both nodes, if it permits,
// and returns how to undo that.
func (c *coordinator) raiseLimits() (restore func()) {
	var undo []func() error
	for _, limit := range []struct {
		name string
		want int
	}{{"nf_conntrack_buckets", wantBuckets}, {"nf_conntrack_max", wantFlows}} {
		path := filepath.Join(netfilterDir, limit.name)
		was, err := os.ReadFile(path)
		if err != nil {
			c.say("%s cannot be read: %v", limit.name, err)
			continue
		}
		have, err := strconv.Atoi(strings.TrimSpace(string(was)))
		if err != nil || have >= limit.want {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(limit.want)), 0); err != nil {
			c.say("%s stays at %d, which limits the tables: %v", limit.name, have, err)
			continue
		}
		c.say("%s is raised from %d to %d until the end", limit.name, have, limit.want)
		undo = append(undo, func() error { return os.WriteFile(path, was, 0) })
	}
	return func() {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		if err := errors.Join(errs...); err != nil {
			c.say("the limits of connection tracking stay raised: %v", err)
		}
	}
}
