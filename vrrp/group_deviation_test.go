package vrrp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests in this file hold the group to the deviations from RFC 9568 that
// [Group] documents.

func TestAnyCarrierCounts(t *testing.T) {
	t.Parallel()
	for carrier, source := range []string{"192.0.2.200", "198.51.100.200", "169.254.0.200"} {
		tell(t, []story{
			{"BACKUP hears one of three", member(), backup(
				true,
				step{at: 3 * second, do: advertsFrom(carrier, source, 200, 2*second), state: Backup},
				step{at: 3*second + 2*down100 - 1, do: tick, state: Backup, want: Output{Heartbeat: true}},
				step{
					at: 3*second + 2*down100, do: tick, state: Master,
					want: promoted(true, 100, ReasonPeerSilent, 1),
				},
			)},
			{"MASTER hears one of three", member(), master(
				true,
				step{at: 4 * second, do: advertsFrom(carrier, source, 101, second), state: Backup, want: demoted(true, ReasonBetterPeer, 1)},
			)},
			{"the tie is broken by the addresses of that carrier", member(), master(
				true,
				step{at: 4 * second, do: advertsFrom(carrier, source, 100, second), state: Backup, want: demoted(true, ReasonBetterPeer, 1)},
			)},
		})
	}
	tell(t, []story{
		{"a tie on a carrier that is no more is not lost", member(), master(
			true,
			step{at: 4 * second, do: advertsFrom(3, "203.0.113.200", 100, second), state: Master, want: answered(100)},
			step{at: 4*second + 100*millis, do: advertsFrom(-1, "203.0.113.200", 100, second), state: Master, want: answered(100)},
		)},
	})
}

func TestBackupTakesOverFromLowerBand(t *testing.T) {
	t.Parallel()
	noPreempt := with(alone(), func(c *GroupConfig) {
		c.Preempt, c.Priority, c.Carriers[0].Peer = false, 200, netip.MustParseAddr(testPeer)
	})
	const down200 = 3*second + 56*second/256
	tell(t, []story{
		{"without Preempt the low priority of a stranger is its own affair", noPreempt, backup(
			false,
			step{at: second, do: advertsFrom(0, "192.0.2.66", 20, second), state: Backup, deadline: second + down200},
		)},
		{"without Preempt a lower band is discarded", noPreempt, backup(
			false,
			step{at: second, do: adverts(99), state: Backup, deadline: down200},
			step{at: 2 * second, do: adverts(99), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Master, want: promoted(false, 200, ReasonPeerImpaired, 1)},
		)},
		{"without Preempt the same band is not", noPreempt, backup(
			false,
			step{at: second, do: adverts(100), state: Backup, deadline: second + down200},
		)},
		{"an impaired BACKUP leaves its equal alone", noPreempt, []step{
			{do: fit(1, true), state: Initialize},
			{do: start, state: Backup, want: began(false)},
			// Ranks inside a band are not worth a change, another failure is.
			{at: second, do: adverts(81), state: Backup, deadline: second + 3*second + 176*second/256},
			{at: second, do: adverts(80), state: Backup, deadline: second + 3*second + 176*second/256},
			{at: 2 * second, do: adverts(79), state: Backup, deadline: second + 3*second + 176*second/256},
		}},
		{"patience: not ready, not before two seconds", noPreempt, []step{
			{do: start, state: Backup, want: began(false)},
			{at: second, do: adverts(99), state: Backup, deadline: second + down200},
			{at: 2 * second, do: adverts(99), state: Backup, deadline: 2*second + down200},
			{at: second + patience, do: adverts(99), state: Backup, deadline: 2*second + down200},
			{at: 2*second + down200, do: tick, state: Master, want: promoted(false, 200, ReasonPeerImpaired, 1)},
		}},
		{"patience starts anew when the MASTER recovers", noPreempt, []step{
			{do: start, state: Backup, want: began(false)},
			{at: second, do: adverts(99), state: Backup, deadline: second + down200},
			{at: 2 * second, do: adverts(150), state: Backup, deadline: 2*second + down200},
			{at: second + patience, do: adverts(99), state: Backup, deadline: second + patience + down200},
		}},
		{"not ready does not hinder against silence", noPreempt, []step{
			{do: start, state: Backup, want: began(false)},
			{at: down200, do: tick, state: Master, want: promoted(false, 200, ReasonPeerSilent, 1)},
		}},
		{"not ready does not preempt", with(noPreempt, func(c *GroupConfig) { c.Preempt = true }), []step{
			{do: start, state: Backup, want: began(false)},
			{at: second, do: adverts(150), state: Backup, deadline: second + down200},
			{at: time.Hour, do: adverts(150), state: Backup, deadline: time.Hour + down200},
			{at: time.Hour, do: fit(0, true), state: Backup, deadline: time.Hour + down200},
			{at: time.Hour + second, do: adverts(150), state: Backup, deadline: time.Hour + down200},
		}},
		{"an impairment on the way ends the wish", noPreempt, backup(
			false,
			step{at: 3 * second, do: adverts(99), state: Backup, deadline: down200},
			step{at: 3*second + 1, do: fit(5, true), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Backup, deadline: 6*second + 216*second/256},
			step{at: 6*second + 216*second/256, do: tick, state: Master, want: promoted(false, 40, ReasonPeerSilent, 1)},
		)},
		{"so does a loss of the session table", with(noPreempt, func(c *GroupConfig) { c.Preempt = true }), backup(
			false,
			step{at: 3 * second, do: adverts(150), state: Backup, deadline: down200},
			step{at: 3*second + 1, do: fit(0, false), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Backup, deadline: 3*second + down200},
			step{at: 3*second + down200, do: tick, state: Master, want: promoted(false, 200, ReasonPeerSilent, 1)},
		)},
		{"the interval of the discarded advert counts then", noPreempt, backup(
			false,
			step{at: 3 * second, do: advertsEvery(99, 2*second), state: Backup, deadline: down200},
			step{at: 3*second + 1, do: fit(5, true), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Backup, deadline: 3*second + 2*(3*second+216*second/256)},
		)},
		{"and the end of Preempt", with(noPreempt, func(c *GroupConfig) { c.Preempt = true }), backup(
			false,
			step{at: 3 * second, do: adverts(150), state: Backup, deadline: down200},
			step{at: 3*second + 1, do: reconfigured(noPreempt), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Backup, deadline: 3*second + down200},
		)},
		{"unless the MASTER has gone silent meanwhile", with(noPreempt, func(c *GroupConfig) { c.Preempt = true }), backup(
			false,
			step{do: adverts(150), state: Backup, deadline: down200},
			step{at: 1, do: fit(0, false), state: Backup, deadline: down200},
			step{at: down200 + second + 1, do: tick, state: Backup, deadline: down200 + second + 1 + second + 56*second/256},
			step{at: down200 + 3*second, do: tick, state: Master, want: promoted(false, 200, ReasonPeerSilent, 1)},
		)},
		{"who cannot be heard takes nothing over", noPreempt, backup(
			false,
			step{do: usable(false), state: Backup},
			step{at: second, do: adverts(peerLow), state: Backup, deadline: second + down200},
		)},
	})
}

func TestOwnStall(t *testing.T) {
	t.Parallel()
	// The lease ends after 2.5 intervals, somebody else can be MASTER after 3.
	const awake = down100 + 2750*millis
	stalled := func(o Output) Output { o.Revoke = true; return o }
	down := demoted(true, ReasonOwnStall, 1)
	tell(t, []story{
		{"late, but nobody can have taken over", member(), master(
			true,
			step{at: awake - 1, do: tick, state: Master, want: beaten(advertised(100))},
		)},
		{"a tick", member(), master(
			true,
			step{at: awake, do: tick, state: Backup, deadline: awake + second, want: down},
			step{at: awake + down100, do: tick, state: Master, want: promoted(true, 100, ReasonPeerSilent, 2)},
		)},
		{"an advert of the new MASTER, although it loses", member(), master(
			true,
			step{at: awake, do: adverts(99), state: Backup, want: down},
		)},
		{"a better advert is heard and obeyed", alone(), master(
			false,
			step{at: awake, do: advertsEvery(200, 100*millis), state: Backup, deadline: awake + down100/10, want: demoted(false, ReasonOwnStall, 1)},
		)},
		{"a priority 0 shortens the wait", alone(), master(
			false,
			step{at: awake, do: adverts(0), state: Backup, deadline: awake + skew100, want: demoted(false, ReasonOwnStall, 1)},
		)},
		{"a heartbeat", member(), master(
			true,
			step{at: awake, do: beats(Heartbeat{State: Backup, Priority: 90, Ready: true}), state: Backup, want: down},
		)},
		{"an offer that waited meanwhile", member(), master(
			true,
			step{at: awake, do: beats(Heartbeat{State: Master, TakeOver: true, Term: 9}), state: Backup, want: demoted(true, ReasonOwnStall, 9)},
		)},
		{"a change of fitness", member(), master(
			true,
			step{at: awake, do: fit(1, true), state: Backup, want: down},
		)},
		{"a change of the links", member(), master(
			true,
			step{at: awake, do: usable(false), state: Backup, want: down},
		)},
		{"a wish to hand over", member(), master(
			true,
			step{at: awake, do: handover(ErrNotMaster), state: Backup, want: down},
		)},
		{"a new configuration", member(), master(
			true,
			step{at: awake, do: reconfigured(member()), state: Backup, want: down},
		)},
		{"a stop: no goodbye, for another may be MASTER", member(), master(
			true,
			step{at: awake, do: stop, state: Initialize, deadline: forever, want: stalled(Output{
				Heartbeat: true, Transition: &Transition{From: Backup, To: Initialize, Reason: ReasonShutdown, Term: 1},
			})},
		)},
	})
}

func TestGraceOfLateBackup(t *testing.T) {
	t.Parallel()
	const late = down100 + second + 1
	const grace = second + skew100
	tell(t, []story{
		{"late by an interval is not a stall", alone(), backup(
			false,
			step{at: late - 1, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
		{"late by more waits for one more advert", alone(), backup(
			false,
			step{at: late, do: tick, state: Backup, deadline: late + grace},
			step{at: late, do: tick, state: Backup, deadline: late + grace},
			step{at: late + grace, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
		{"the advert comes in the grace", alone(), backup(
			false,
			step{at: late, do: tick, state: Backup, deadline: late + grace},
			step{at: late + second, do: adverts(200), state: Backup, deadline: late + second + down100},
		)},
		{"there is one grace per silence", alone(), backup(
			false,
			step{at: late, do: tick, state: Backup, deadline: late + grace},
			step{at: 2*late + grace, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
		{"every advert renews it", alone(), backup(
			false,
			step{at: late, do: tick, state: Backup, deadline: late + grace},
			step{at: late + second, do: adverts(200), state: Backup},
			step{at: 2*late + second, do: tick, state: Backup, deadline: 2*late + second + grace},
		)},
	})
}

func TestIsolatedNode(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	tell(t, []story{
		{"steps down", member(), master(
			true,
			step{at: at, do: usable(false), state: Backup, deadline: at + second, want: demoted(true, ReasonIsolated, 1)},
			step{at: at, do: usable(false), state: Backup},
		)},
		{"does not become MASTER", member(), backup(
			true,
			step{at: second, do: usable(false), state: Backup},
			step{at: down100, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 2*down100 - 1, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 2 * down100, do: tick, state: Backup},
		)},
		{"hears the peer out before it returns", member(), backup(
			true,
			step{at: second, do: usable(false), state: Backup},
			step{at: down100 - 1, do: usable(true), state: Backup},
			step{at: down100, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: down100 + second, do: usable(true), state: Backup}, // no change: the timer runs on
			step{at: 2*down100 - 1, do: tick, state: Master, want: promoted(true, 100, ReasonPeerSilent, 1)},
		)},
		{"does not take an offer", member(), backup(
			true,
			step{at: second, do: usable(false), state: Backup},
			step{at: second, do: beats(Heartbeat{State: Master, Priority: 90, TakeOver: true, Term: 1}), state: Backup},
		)},
		{"without a peer stays MASTER", alone(), master(
			false,
			step{at: at, do: usable(false), state: Master, deadline: down100 + second},
			step{at: down100 + second, do: tick, state: Master, want: advertised(100)},
		)},
		{"without a peer becomes MASTER", alone(), backup(
			false,
			step{do: usable(false), state: Backup},
			step{at: down100, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
		)},
	})
}

func TestFitnessOfMasterIsAdvertisedAtOnce(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	tell(t, []story{
		{"a lower band", member(), master(
			true,
			step{at: at, do: fit(1, true), state: Master, deadline: at + second, want: beaten(advertised(80))},
			step{at: at + 1, do: fit(1, true), state: Master},
			step{at: at + 2, do: fit(0, true), state: Master, want: beaten(advertised(100))},
		)},
		{"readiness is not in an advert", member(), master(
			true,
			step{at: at, do: fit(0, false), state: Master, want: Output{Heartbeat: true}},
		)},
		{"a BACKUP only tells the peer", member(), backup(
			true,
			step{at: 500 * millis, do: fit(3, true), state: Backup, want: Output{Heartbeat: true}},
		)},
	})
}

func TestReconfigureKeepsState(t *testing.T) {
	t.Parallel()
	every := func(interval time.Duration) GroupConfig {
		return with(alone(), func(c *GroupConfig) { c.Interval, c.Lease = interval, LeaseFor(interval) })
	}
	const at = down100 + 900*millis
	tell(t, []story{
		{"a MASTER of a faster group sends at once", alone(), master(
			false,
			step{at: at, do: reconfigured(every(100 * millis)), state: Master, deadline: at + 100*millis, want: advertised(100)},
			step{at: at + 100*millis, do: tick, state: Master, deadline: at + 200*millis, want: advertised(100)},
			step{at: at + 375*millis, do: tick, state: Backup, want: demoted(false, ReasonOwnStall, 1)},
		)},
		{"a MASTER of a slower group keeps the pace for three adverts", every(100 * millis), append(
			[]step{
				{do: start, want: began(false), state: Backup},
				{at: down100 / 10, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
			},
			step{at: 400 * millis, do: reconfigured(every(second)), state: Master, deadline: down100/10 + 100*millis},
			step{at: 500 * millis, do: tick, state: Master, deadline: 600 * millis, want: advertised(100)},
			step{at: 600 * millis, do: tick, state: Master, deadline: 700 * millis, want: advertised(100)},
			step{at: 700 * millis, do: tick, state: Master, deadline: 800 * millis, want: advertised(100)},
			step{at: 800 * millis, do: tick, state: Master, deadline: 1800 * millis, want: advertised(100)},
		)},
		// The BACKUP has not heard of the new interval and has taken over long ago.
		{"a stall counts by the interval that was advertised", every(100 * millis), []step{
			{do: start, want: began(false), state: Backup},
			{at: down100 / 10, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
			{at: 400 * millis, do: reconfigured(every(second)), state: Master},
			{at: 1400 * millis, do: tick, state: Backup, deadline: 1400*millis + down100, want: demoted(false, ReasonOwnStall, 1)},
		}},
		{"a stall that a configuration ends waits as that says", every(100 * millis), []step{
			{do: start, want: began(false), state: Backup},
			{at: down100 / 10, do: tick, state: Master, want: promoted(false, 100, ReasonPeerSilent, 1)},
			{at: second, do: reconfigured(every(second)), state: Backup, deadline: second + down100, want: demoted(false, ReasonOwnStall, 1)},
		}},
		{"a BACKUP keeps its timer", alone(), backup(
			false,
			step{at: second, do: adverts(200), state: Backup, deadline: second + down100},
			step{at: 2 * second, do: reconfigured(every(100 * millis)), state: Backup, deadline: second + down100},
			step{at: 2 * second, do: adverts(200), state: Backup, deadline: 2*second + down100},
		)},
		{"a new member hears of this one", alone(), master(
			false,
			step{at: at, do: reconfigured(member()), state: Master, want: Output{Heartbeat: true}},
			step{at: at + second, do: tick, state: Master, want: beaten(advertised(100))},
		)},
		{"a member that is gone hears no more", member(), master(
			true,
			step{at: at, do: reconfigured(alone()), state: Master, deadline: down100 + second},
		)},
		{"a carrier is added", alone(), master(
			false,
			step{at: at, do: reconfigured(with(member(), func(c *GroupConfig) { c.HasPeer = false })), state: Master},
			step{at: at, do: advertsFrom(1, "198.51.100.101", 100, second), state: Backup, want: demoted(false, ReasonBetterPeer, 1)},
		)},
	})
}

func TestReconfigureRefusesWhole(t *testing.T) {
	t.Parallel()
	g := newMaster(t, alone())
	before, deadline := *g, g.Deadline()
	out, err := g.Reconfigure(epoch().Add(down100+1), with(alone(), func(c *GroupConfig) { c.Interval = 0 }))
	if err == nil {
		t.Fatal("a configuration without an interval was taken")
	}
	if diff := cmp.Diff(Output{}, out); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if g.cfg.Interval != before.cfg.Interval || g.Deadline() != deadline || g.State() != Master {
		t.Error("a refused configuration changed the group")
	}
}

func TestLeaseUntil(t *testing.T) {
	t.Parallel()
	g := newMaster(t, alone())
	at := epoch().Add(down100)
	if got := g.LeaseUntil(); !got.Equal(at.Add(2500 * millis)) {
		t.Errorf("the lease ends at %v, want 2.5 intervals after the advert", got.Sub(epoch()))
	}
	slower := with(alone(), func(c *GroupConfig) { c.Interval, c.Lease = 2*second, LeaseFor(2*second) })
	if _, err := g.Reconfigure(at.Add(1), slower); err != nil {
		t.Fatal(err)
	}
	if got := g.LeaseUntil(); !got.Equal(at.Add(2500 * millis)) {
		t.Errorf("the lease ends at %v: a configuration does not lengthen what the kernel holds", got.Sub(epoch()))
	}
	g.Stop(at.Add(2), ReasonShutdown)
	if got := g.LeaseUntil(); !got.IsZero() {
		t.Errorf("a stopped group has a lease until %v", got)
	}
}

// TestDeadlineIsNeverInThePastTwice drives a group through sequences of late
// events: after every Tick the deadline lies ahead, so that no shell can spin.
func TestDeadlineIsNeverInThePastTwice(t *testing.T) {
	t.Parallel()
	events := map[string]event{
		"start": start, "stop": stop, "better": adverts(200), "worse": adverts(99), "leaving": adverts(0),
		"fast": advertsEvery(200, 10*millis), "fit": fit(0, true), "unfit": fit(3, false), "up": usable(true), "down": usable(false),
		"peer":   beats(Heartbeat{State: Backup, Priority: 100, Ready: true}),
		"offer":  beats(Heartbeat{State: Master, Priority: 99, TakeOver: true, Term: 1 << 40}),
		"handed": beats(Heartbeat{State: Master, Priority: 100, Ready: true, Term: 1 << 41}),
	}
	gaps := []time.Duration{0, 1, 250 * millis, second, 2800 * millis, down100, 9 * second, time.Hour}
	for first, one := range events {
		for second2, two := range events {
			for _, gap := range gaps {
				for _, next := range gaps {
					g := newMaster(t, member())
					now := epoch().Add(down100)
					for i, do := range []event{one, two, one} {
						now = now.Add([]time.Duration{gap, next, gap}[i])
						do(t, g, now)
						g.Tick(now)
						if at := g.Deadline(); !at.IsZero() && !at.After(now) {
							t.Fatalf("%s, %s, %s with gaps %v and %v: after event %d and Tick the deadline is %v ago",
								first, second2, first, gap, next, i, now.Sub(at))
						}
					}
				}
			}
		}
	}
}
