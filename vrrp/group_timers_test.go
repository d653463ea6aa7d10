package vrrp

import (
	"testing"
	"time"
)

// The tests in this file hold the group to clauses of RFC 9568 about time: the
// parameters of §6.1, the timers of §6.2 and what §2.5 says about small intervals.

// Skew_Time orders the BACKUPs at every interval; with whole centiseconds it would be
// zero for all of them at 10 ms.
func TestRFC9568_6_1_SkewIsNotRoundedAway(t *testing.T) {
	for _, interval := range []time.Duration{MinInterval, 100 * millis, second, MaxInterval} {
		longer := time.Duration(1 << 62)
		for priority := HealthyPriority; priority < int(PriorityOwner); priority++ {
			g, err := NewGroup(with(alone(), func(c *GroupConfig) {
				c.Interval, c.Lease, c.Priority = interval, LeaseFor(interval), uint8(priority)
			}))
			if err != nil {
				t.Fatal(err)
			}
			skew := g.SkewTime()
			if skew <= 0 || skew >= longer || skew >= interval {
				t.Fatalf("interval %v, priority %d: Skew_Time %v, that of the priority below %v", interval, priority, skew, longer)
			}
			longer = skew
		}
	}
}

// Two lost adverts never make a MASTER.
func TestRFC9568_6_1_TwoLostAdvertsMakeNoMaster(t *testing.T) {
	for _, interval := range []time.Duration{MinInterval, 100 * millis, second, MaxInterval} {
		for _, priority := range []uint8{100, 254} {
			g, err := NewGroup(with(alone(), func(c *GroupConfig) {
				c.Interval, c.Lease, c.Priority, c.Preempt = interval, LeaseFor(interval), priority, false
			}))
			if err != nil {
				t.Fatal(err)
			}
			g.Start(epoch())
			for at := epoch(); at.Before(epoch().Add(100 * interval)); at = at.Add(3 * interval) {
				quietly(t, "before the advert", g.Tick(at))
				quietly(t, "the advert", advertsEvery(200, interval)(t, g, at))
				quietly(t, "3 intervals later", g.Tick(at.Add(3*interval-1)))
			}
		}
	}
}

// The owner of the addresses preempts whatever Preempt_Mode says. It is BACKUP after
// a stall of its own, or after another owner has left.
func TestRFC9568_6_1_OwnerPreemptsInAnyCase(t *testing.T) {
	for _, tt := range []struct {
		priority uint8
		want     State
	}{{PriorityOwner, Master}, {254, Backup}} {
		g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority, c.Preempt = tt.priority, false }))
		if err != nil {
			t.Fatal(err)
		}
		g.SetFitness(epoch(), Fitness{Ready: true})
		g.Start(epoch())
		for g.State() != Master {
			g.Tick(g.Deadline())
		}
		now := g.LeaseUntil().Add(second) // it slept
		g.Tick(now)
		if g.State() != Backup {
			t.Fatalf("priority %d: %v after a stall", tt.priority, g.State())
		}
		for until := now.Add(time.Minute); now.Before(until); now = now.Add(second / 2) {
			if g.State() == Backup {
				adverts(200)(t, g, now)
			}
			g.Tick(now)
		}
		if g.State() != tt.want {
			t.Errorf("priority %d beside a MASTER of 200: %v, want %v", tt.priority, g.State(), tt.want)
		}
	}
}

// Active_Down_Timer runs as BACKUP, Adver_Timer as MASTER, and none in Initialize,
// whatever happens.
func TestRFC9568_6_2_TimersNeverRunTogether(t *testing.T) {
	events := []event{
		start, tick, stop, adverts(0), adverts(99), adverts(100), adverts(200), fit(1, true), fit(0, true),
		usable(false), usable(true), reconfigured(alone()),
	}
	gaps := []time.Duration{0, millis, second, down100, time.Hour}
	// Every sequence of four events, each with a gap that its place decides.
	seen := map[State]bool{}
	for sequence := range len(events) * len(events) * len(events) * len(events) {
		g, err := NewGroup(alone())
		if err != nil {
			t.Fatal(err)
		}
		now := epoch()
		g.Start(now)
		for rest, i := sequence, 0; i < 4; i++ {
			now = now.Add(gaps[(sequence/7+i)%len(gaps)])
			events[rest%len(events)](t, g, now)
			rest /= len(events)
			seen[g.State()] = true
			if down, advert := !g.downAt.IsZero(), !g.advertAt.IsZero(); down != (g.State() == Backup) || advert != (g.State() == Master) {
				t.Fatalf("sequence %d, event %d: %v with Active_Down_Timer %v and Adver_Timer %v", sequence, i, g.State(), down, advert)
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("only the states %v were met", seen)
	}
}

// A discarded advert moves no timer and teaches nothing, however many come.
func TestRFC9568_6_4_2_DiscardedAdvertsTeachNothing(t *testing.T) {
	g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority = 200 }))
	if err != nil {
		t.Fatal(err)
	}
	g.SetFitness(epoch(), Fitness{Ready: true})
	g.Start(epoch())
	before := g.Deadline()
	for at := epoch(); at.Before(before); at = at.Add(100 * millis) {
		quietly(t, "an advert of lower priority", advertsEvery(150, 40*second)(t, g, at))
		if !g.Deadline().Equal(before) || g.SkewTime() != 56*second/256 {
			t.Fatalf("deadline %v, Skew_Time %v after %v", g.Deadline().Sub(epoch()), g.SkewTime(), at.Sub(epoch()))
		}
	}
	if g.Tick(before); g.State() != Master {
		t.Errorf("state %v at the end of Active_Down_Timer", g.State())
	}
}

// Where a router itself is too slow for its interval, it says so: the change of state
// that comes of it has that reason, which stands in the log and in the status.
func TestRFC9568_2_5_OwnStallIsNamed(t *testing.T) {
	for name, cfg := range map[string]GroupConfig{
		"10ms": with(alone(), func(c *GroupConfig) { c.Interval, c.Lease = MinInterval, LeaseFor(MinInterval) }),
		"1s":   alone(),
	} {
		t.Run(name, func(t *testing.T) {
			g, err := NewGroup(cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.Start(epoch())
			for g.State() != Master {
				g.Tick(g.Deadline())
			}
			out := g.Tick(g.LeaseUntil().Add(cfg.Interval))
			if out.Transition == nil || out.Transition.Reason != ReasonOwnStall {
				t.Errorf("output %+v, want a transition for the own stall", out)
			}
		})
	}
}

// Delays of its own do not make a router flap: whatever it oversleeps, adverts that
// wait in its sockets and come first keep a BACKUP where it is.
func TestRFC9568_2_5_OwnStallsDoNotFlap(t *testing.T) {
	const interval = MinInterval
	g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Interval, c.Lease = interval, LeaseFor(interval) }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	now := epoch()
	for _, stall := range []time.Duration{0, interval, 2 * interval, 3 * interval, 4 * interval, 10 * interval, 100 * interval, second} {
		for range 10 {
			now = now.Add(stall)
			// The timer first, as if the sockets were empty for one more moment.
			if stall > 3*interval+interval {
				quietly(t, "late by "+stall.String(), g.Tick(now))
			}
			quietly(t, "the advert", advertsEvery(200, interval)(t, g, now))
			quietly(t, "on time", g.Tick(now))
		}
	}
	if g.Transitions() != 1 {
		t.Errorf("%d changes of state, want the first one alone", g.Transitions())
	}
}

// Only another owner moves an owner.
func TestRFC9568_7_1_OwnerYieldsToNoBackup(t *testing.T) {
	g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority = PriorityOwner }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	for priority := 1; priority < int(PriorityOwner); priority++ {
		now := epoch().Add(time.Duration(priority) * second / 2)
		out := adverts(uint8(priority))(t, g, now)
		if g.State() != Master || !out.Advertise || out.Priority != PriorityOwner {
			t.Fatalf("priority %d: %v, output %+v", priority, g.State(), out)
		}
		g.Tick(now)
	}
}

// Whoever has the same priority and the same address neither wins nor loses.
func TestRFC9568_6_4_3_EqualInEverythingMovesNothing(t *testing.T) {
	g := newMaster(t, alone())
	for i := range 10 {
		now := epoch().Add(down100 + time.Duration(i+1)*second/2)
		out := advertsFrom(0, testSource, 100, 7*second)(t, g, now)
		if g.State() != Master || out.Transition != nil || !out.Advertise || g.activeInterval != second {
			t.Fatalf("%v with interval %v, output %+v", g.State(), g.activeInterval, out)
		}
		g.Tick(now)
	}
}
