package vrrp

import (
	"testing"
	"time"
)

// The tests in this file are named by the section of RFC 9568 that they hold the
// group to. They use a single carrier and no second member.

func TestRFC9568_6_1_Timers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		priority uint8
		learned  time.Duration
		skew     time.Duration
		down     time.Duration
	}{
		// Active_Adver_Interval starts as the router's own interval.
		{100, 0, 609375 * time.Microsecond, 3609375 * time.Microsecond},
		{254, 0, 7812500 * time.Nanosecond, 3007812500 * time.Nanosecond},
		// It is then learned from the MASTER.
		{100, 100 * millis, 60937500 * time.Nanosecond, 360937500 * time.Nanosecond},
		{200, 100 * millis, 21875 * time.Microsecond, 321875 * time.Microsecond},
		{254, 10 * millis, 78125 * time.Nanosecond, 30078125 * time.Nanosecond},
		{100, 40950 * millis, 156 * 40950 * millis / 256, 3*40950*millis + 156*40950*millis/256},
	}
	for _, tt := range tests {
		g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority = tt.priority }))
		if err != nil {
			t.Fatal(err)
		}
		g.Start(epoch())
		if tt.learned != 0 {
			advertsEvery(tt.priority, tt.learned)(t, g, epoch())
		}
		if g.SkewTime() != tt.skew || g.DownInterval() != tt.down {
			t.Errorf("priority %d, learned %v: Skew_Time %v and Active_Down_Interval %v, want %v and %v",
				tt.priority, tt.learned, g.SkewTime(), g.DownInterval(), tt.skew, tt.down)
		}
		if got := g.Deadline().Sub(epoch()); got != tt.down {
			t.Errorf("priority %d, learned %v: Active_Down_Timer ends after %v, want %v", tt.priority, tt.learned, got, tt.down)
		}
	}
}

func TestRFC9568_6_4_1_Initialize(t *testing.T) {
	t.Parallel()
	owner := with(alone(), func(c *GroupConfig) { c.Priority = PriorityOwner })
	tell(t, []story{
		{"nothing happens before Startup", alone(), []step{
			{do: tick, state: Initialize, deadline: forever},
			{do: adverts(200), state: Initialize, deadline: forever},
			{do: adverts(0), state: Initialize, deadline: forever},
			{do: stop, state: Initialize, deadline: forever},
			{do: usable(false), state: Initialize, deadline: forever},
			{do: fit(1, true), state: Initialize, deadline: forever},
			{do: reconfigured(alone()), state: Initialize, deadline: forever},
			{do: handover(ErrNotMaster), state: Initialize, deadline: forever},
			{at: time.Hour, do: tick, state: Initialize, deadline: forever},
		}},
		{"the owner sends at once and is MASTER", owner, []step{
			{do: start, state: Master, deadline: second, want: Output{
				Advertise: true, Priority: 255, Announce: true,
				Transition: &Transition{From: Initialize, To: Master, Reason: ReasonOwner, Term: 1},
			}},
		}},
		{"everybody else is BACKUP and silent", alone(), []step{
			{do: start, state: Backup, deadline: down100, want: began(false)},
		}},
		{"a second Startup is nothing", alone(), backup(
			false,
			step{at: second, do: start, state: Backup, deadline: down100},
		)},
	})
}

func TestRFC9568_6_4_2_Backup(t *testing.T) {
	t.Parallel()
	noPreempt := with(alone(), func(c *GroupConfig) { c.Preempt = false })
	tell(t, []story{
		{"Shutdown cancels the timer", alone(), backup(
			false,
			step{
				at: second, do: stop, state: Initialize, deadline: forever,
				want: Output{Transition: &Transition{From: Backup, To: Initialize, Reason: ReasonShutdown}},
			},
		)},
		{"Active_Down_Timer makes a MASTER", alone(), backup(
			false,
			step{at: down100 - 1, do: tick, state: Backup, deadline: down100},
			step{at: down100, do: tick, state: Master, deadline: down100 + second, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
		{"priority 0 sets the timer to Skew_Time", alone(), backup(
			false,
			step{at: second, do: adverts(0), state: Backup, deadline: second + skew100},
			step{at: second + skew100 - 1, do: tick, state: Backup},
			step{at: second + skew100, do: tick, state: Master, want: promoted(false, 100, ReasonPeerStopped, 1)},
		)},
		{"priority 0 does so without Preempt too", noPreempt, backup(
			false,
			step{at: second, do: adverts(0), state: Backup, deadline: second + skew100},
		)},
		{"a living MASTER after a priority 0 counts", alone(), backup(
			false,
			step{at: second, do: adverts(0), state: Backup, deadline: second + skew100},
			step{at: second + 1, do: adverts(200), state: Backup, deadline: second + 1 + down100},
			step{at: second + 1 + down100, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
		{"a higher priority re-arms the timer", alone(), backup(
			false,
			step{at: 3 * second, do: adverts(101), state: Backup, deadline: 3*second + down100},
			step{at: down100, do: tick, state: Backup, deadline: 3*second + down100},
		)},
		{"an equal priority re-arms the timer", alone(), backup(
			false,
			step{at: 3 * second, do: adverts(100), state: Backup, deadline: 3*second + down100},
		)},
		{"an equal priority from a lower address does so too", alone(), backup(
			false,
			step{at: 3 * second, do: advertsFrom(0, "192.0.2.2", 100, second), state: Backup, deadline: 3*second + down100},
		)},
		{"a lower priority is discarded with Preempt", with(alone(), func(c *GroupConfig) { c.Priority = 200 }), backup(
			false,
			step{at: 3 * second, do: advertsEvery(199, 5*second), state: Backup, deadline: 3*second + 56*second/256},
			step{at: 3*second + 56*second/256, do: tick, state: Master, want: promoted(false, 200, ReasonPreempted, 1)},
		)},
		{"a lower priority re-arms the timer without Preempt", with(noPreempt, func(c *GroupConfig) { c.Priority = 200 }), backup(
			false,
			step{at: 3 * second, do: adverts(150), state: Backup, deadline: 6*second + 56*second/256},
		)},
		{"the interval is learned", alone(), backup(
			false,
			step{at: second, do: advertsEvery(200, 100*millis), state: Backup, deadline: second + down100/10},
			step{at: second + 50*millis, do: advertsEvery(200, 2*second), state: Backup, deadline: second + 50*millis + 2*down100},
		)},
		{"the own interval counts again as MASTER", alone(), backup(
			false,
			step{at: second, do: advertsEvery(200, 100*millis), state: Backup},
			step{
				at: second + down100/10, do: tick, state: Master, deadline: 2*second + down100/10,
				want: promoted(false, 100, ReasonPeerSilent, 1),
			},
		)},
	})
}

func TestRFC9568_6_4_3_Master(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	tell(t, []story{
		{"Shutdown sends priority 0 and closes the lease", alone(), master(
			false,
			step{at: at, do: stop, state: Initialize, deadline: forever, want: Output{
				Revoke: true, Advertise: true, Priority: 0,
				Transition: &Transition{From: Master, To: Initialize, Reason: ReasonShutdown, Term: 1},
			}},
			step{at: at, do: stop, state: Initialize, deadline: forever},
			step{at: at + time.Minute, do: tick, state: Initialize, deadline: forever},
		)},
		{"Adver_Timer sends and re-arms", alone(), master(
			false,
			step{at: down100 + second - 1, do: tick, state: Master, deadline: down100 + second},
			step{at: down100 + second, do: tick, state: Master, deadline: down100 + 2*second, want: advertised(100)},
			step{at: down100 + 2*second, do: tick, state: Master, deadline: down100 + 3*second, want: advertised(100)},
		)},
		{"priority 0 is answered with an advert", alone(), master(
			false,
			step{at: at, do: adverts(0), state: Master, deadline: at + second, want: advertised(100)},
		)},
		{"a higher priority wins", alone(), master(
			false,
			step{
				at: at, do: advertsEvery(101, 100*millis), state: Backup, deadline: at + down100/10,
				want: demoted(false, ReasonBetterPeer, 1),
			},
		)},
		{"a higher priority wins from a lower address", alone(), master(
			false,
			step{
				at: at, do: advertsFrom(0, "192.0.2.2", 101, second), state: Backup,
				want: demoted(false, ReasonBetterPeer, 1),
			},
		)},
		{"an equal priority and a greater address wins", alone(), master(
			false,
			step{at: at, do: advertsFrom(0, "192.0.2.101", 100, second), state: Backup, want: demoted(false, ReasonBetterPeer, 1)},
		)},
		{"addresses compare as unsigned numbers", alone(), master(
			false,
			step{at: at, do: advertsFrom(0, "200.0.0.1", 100, second), state: Backup, want: demoted(false, ReasonBetterPeer, 1)},
		)},
		{"an equal priority and a smaller address is answered at once", alone(), master(
			false,
			step{at: at, do: advertsFrom(0, "192.0.2.99", 100, second), state: Master, deadline: at + second, want: answered(100)},
		)},
		// RFC 9568 is silent on this one: a duplicate address, where nobody may win.
		{"an equal priority and an equal address is answered", alone(), master(
			false,
			step{at: at, do: advertsFrom(0, testSource, 100, second), state: Master, deadline: at + second, want: answered(100)},
		)},
		{"a lower priority is answered at once", alone(), master(
			false,
			step{at: at, do: adverts(99), state: Master, deadline: at + second, want: answered(100)},
		)},
		{"the loser's interval is not learned", alone(), master(
			false,
			step{at: at, do: advertsEvery(99, 10*millis), state: Master, want: answered(100)},
			step{at: at + 1*second, do: adverts(101), state: Backup, deadline: at + second + down100, want: demoted(false, ReasonBetterPeer, 1)},
		)},
		{"the owner wins against everybody", with(alone(), func(c *GroupConfig) { c.Priority = PriorityOwner }), []step{
			{do: start, state: Master, want: Output{
				Advertise: true, Priority: 255, Announce: true,
				Transition: &Transition{From: Initialize, To: Master, Reason: ReasonOwner, Term: 1},
			}},
			{at: 500 * millis, do: adverts(254), state: Master, want: answered(255)},
			// Erratum 8298: two owners elect one.
			{at: second, do: advertsFrom(0, "192.0.2.101", 255, second), state: Backup, want: demoted(false, ReasonBetterPeer, 1)},
		}},
	})
}

// TestRFC9568_6_4_3_LosingAdvertsAreBounded: a flood of losing adverts is
// answered twenty times per interval, not once each.
func TestRFC9568_6_4_3_LosingAdvertsAreBounded(t *testing.T) {
	t.Parallel()
	g := newMaster(t, alone())
	var answers int
	var lastAnswer time.Time
	now := epoch().Add(down100)
	for range 10_000 {
		now = now.Add(100 * time.Microsecond)
		if adverts(99)(t, g, now).Advertise {
			answers++
			lastAnswer = now
		}
		if g.Tick(now).Advertise {
			t.Fatal("the timer sent, although the answers re-arm it")
		}
		if !lastAnswer.IsZero() && now.Sub(lastAnswer) > second/20 {
			t.Fatalf("a losing advert was not answered for %v", now.Sub(lastAnswer))
		}
	}
	if answers < 19 || answers > 20 {
		t.Errorf("%d answers to 10000 losing adverts in one interval, want 20", answers)
	}
}

// newMaster returns a group that became MASTER at down100.
func newMaster(t testing.TB, cfg GroupConfig) *Group {
	t.Helper()
	g, err := NewGroup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.SetFitness(epoch(), Fitness{Ready: true})
	g.Start(epoch())
	g.Tick(epoch().Add(down100))
	if g.State() != Master {
		t.Fatalf("state %v, want MASTER", g.State())
	}
	return g
}
