package vrrp

import (
	"testing"
	"time"
)

// TestMasterHeartbeatIsASignOfLife: a heartbeat re-arms Active_Down_Timer like an
// advert, where an advert of that priority would.
func TestMasterHeartbeatIsASignOfLife(t *testing.T) {
	t.Parallel()
	alive := func(priority uint8) event { return beats(Heartbeat{State: Master, Priority: priority, Term: 1}) }
	low := with(member(), func(c *GroupConfig) { c.Priority = 200 })
	const down200 = 3*second + 56*second/256
	// The heartbeats of this node are on time, so that the deadline is the timer's.
	own := step{at: 3 * second, do: tick, state: Backup, want: Output{Heartbeat: true}}
	tell(t, []story{
		{"of a MASTER", member(), backup(
			true, own,
			step{at: 3500 * millis, do: alive(200), state: Backup},
			step{at: 4 * second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 5 * second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 6 * second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 7 * second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 3500*millis + down100 - 1, do: tick, state: Backup},
			step{at: 3500*millis + down100, do: tick, state: Master, want: promoted(true, 100, ReasonPeerSilent, 2)},
		)},
		{"not of a BACKUP", member(), backup(
			true, own,
			step{at: 3500 * millis, do: beats(fresh(200, true)), state: Backup, deadline: down100},
		)},
		{"not of a MASTER that is preempted", low, backup(
			true, own,
			step{at: 3100 * millis, do: alive(180), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Master, want: promoted(true, 200, ReasonPreempted, 2)},
		)},
		{"not of a MASTER that is less fit", low, backup(
			true, own,
			step{at: 3100 * millis, do: alive(80), state: Backup, deadline: down200},
			step{at: down200, do: tick, state: Master, want: promoted(true, 200, ReasonPeerImpaired, 2)},
		)},
		{"of a MASTER that was to be preempted, without an advert ever", low, backup(
			true, own,
			step{at: 3100 * millis, do: alive(180), state: Backup, deadline: down200},
			step{at: 3200 * millis, do: fit(0, false), state: Backup, deadline: down200, want: Output{Heartbeat: true}},
			step{at: down200, do: tick, state: Backup, deadline: 4200 * millis},
		)},
		{"it takes no goodbye back", member(), backup(
			true, own,
			step{at: 3100 * millis, do: adverts(0), state: Backup},
			step{at: 3101 * millis, do: alive(200), state: Backup, deadline: 3100*millis + skew100},
		)},
	})
}

// TestLateAnswerIsAskedForAgain: who slept between its question and the end of the
// wait for the answer has proof of its own stall, not of the MASTER's death.
func TestLateAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	g, t0 := backupOf(t, beating())
	asked := t0.Add(askAfter)
	if out := g.Tick(asked); !out.Ask {
		t.Fatal("no question")
	}
	late := asked.Add(2*testBeat + 1)
	if out := g.Tick(late); !out.Ask || out.Transition != nil {
		t.Fatalf("after a stall: %+v, want another question", out)
	}
	if out := g.Tick(late.Add(testBeat - 1)); out.Transition != nil {
		t.Fatal("the second answer was not waited for")
	}
	if out := g.Tick(late.Add(testBeat)); out.Transition == nil {
		t.Fatal("no answer, and no MASTER")
	}
}

// TestStallIsNoticedFirst: whatever a MASTER that slept through its lease does
// first, it must not forget that the peer may have taken over by right.
func TestStallIsNoticedFirst(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]event{
		"tick": tick, "fitness": fit(0, false), "links": usable(true), "configuration": reconfigured(beating()),
		"faster configuration": reconfigured(with(beating(), func(c *GroupConfig) { c.Interval = 50 * millis })),
		"handover":             handover(ErrPeerSilent), "question": adverts(PriorityQuestion),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, t0 := masterWithPeer(t)
			now := t0.Add(BeatLease(testBeat))
			do(t, g, now)
			advertsEvery(99, 100*millis)(t, g, now.Add(millis))
			if g.State() != Backup {
				t.Error("still MASTER against the peer that has taken over")
			}
		})
	}
	t.Run("but only by the peer, and only for an interval", func(t *testing.T) {
		t.Parallel()
		g, t0 := masterWithPeer(t)
		now := t0.Add(BeatLease(testBeat))
		g.Tick(now)
		advertsFrom(0, "192.0.2.77", 99, 100*millis)(t, g, now.Add(millis))
		for at := now; at.Before(now.Add(100 * millis)); at = at.Add(testBeat) {
			g.Tick(at)
		}
		advertsEvery(99, 100*millis)(t, g, now.Add(100*millis))
		if g.State() != Master {
			t.Error("yielded to a losing advert")
		}
	})
}

// TestBeatingDeadline: no shell can spin around a question.
func TestBeatingDeadline(t *testing.T) {
	t.Parallel()
	gaps := []time.Duration{0, 1, testBeat, askAfter, 100 * millis, second, time.Hour}
	events := []event{
		tick, fit(0, true), fit(2, true), usable(false), usable(true), adverts(0), adverts(PriorityQuestion), adverts(99), adverts(200),
		beats(Heartbeat{State: Master, Priority: 200, Term: 9, Beat: testBeat}), beats(Heartbeat{State: Backup, Priority: 200, Ready: true}),
		stop, reconfigured(member()), reconfigured(beating()),
	}
	for i, one := range events {
		for j, two := range events {
			for _, gap := range gaps {
				for k, first := range []func(*testing.T, GroupConfig) (*Group, time.Time){backupOf, func(t *testing.T, _ GroupConfig) (*Group, time.Time) { return masterWithPeer(t) }} {
					g, now := first(t, beating())
					for _, do := range []event{one, two} {
						now = now.Add(gap)
						do(t, g, now)
						g.Tick(now)
						if at := g.Deadline(); !at.IsZero() && !at.After(now) {
							t.Fatalf("case %d, events %d and %d with gap %v: the deadline is %v ago", k, i, j, gap, now.Sub(at))
						}
					}
				}
			}
		}
	}
}
