package vrrp

import (
	"math"
	"slices"
	"testing"
	"time"
)

const (
	testBeat = 20 * millis
	askAfter = 70 * millis // three and a half beats
)

// beating is a member of a pair that sends heartbeats between its adverts.
func beating() GroupConfig {
	c := member()
	c.Interval, c.Beat = 100*millis, testBeat
	c.Lease = BeatLease(testBeat)
	return c
}

// backupOf returns a BACKUP that has just heard a MASTER's beat and advert, and when.
func backupOf(t *testing.T, c GroupConfig) (*Group, time.Time) {
	t.Helper()
	g, err := NewGroup(c)
	if err != nil {
		t.Fatal(err)
	}
	now := epoch()
	g.Start(now)
	g.SetFitness(now, Fitness{Ready: true})
	advertsEvery(200, 100*millis)(t, g, now)
	g.ReceiveHeartbeat(now, Heartbeat{State: Master, Priority: 200, Term: 3, Beat: testBeat})
	return g, now
}

// run ticks at every deadline until a time and returns the outputs that say something
// beside heartbeats.
func runUntil(g *Group, until time.Time) (asked, promoted time.Time) {
	for !g.Deadline().IsZero() && !g.Deadline().After(until) {
		now := g.Deadline()
		out := g.Tick(now)
		if out.Ask && asked.IsZero() {
			asked = now
		}
		if out.Transition != nil && out.Transition.To == Master {
			return asked, now
		}
	}
	return asked, promoted
}

func TestSilentHeartbeatsAskThenTakeOver(t *testing.T) {
	g, t0 := backupOf(t, beating())
	asked, promoted := runUntil(g, t0.Add(time.Second))
	if want := t0.Add(askAfter); !asked.Equal(want) {
		t.Errorf("asked after %v, want %v", asked.Sub(t0), askAfter)
	}
	if want := t0.Add(askAfter + testBeat); !promoted.Equal(want) {
		t.Errorf("MASTER after %v, want %v", promoted.Sub(t0), askAfter+testBeat)
	}
	// The lease of the silent MASTER has ended by then.
	if lease := BeatLease(testBeat); promoted.Sub(t0) <= lease {
		t.Errorf("MASTER %v after the last renewal, within its lease of %v", promoted.Sub(t0), lease)
	}
}

func TestAnsweredQuestionKeepsTheBackup(t *testing.T) {
	g, t0 := backupOf(t, beating())
	now := t0.Add(askAfter)
	if out := g.Tick(now); !out.Ask {
		t.Fatalf("no question at %v: %+v", askAfter, out)
	}
	advertsFrom(1, "198.51.100.200", 200, 100*millis)(t, g, now.Add(millis))
	// From now on the adverts alone count.
	_, promoted := runUntil(g, now.Add(millis+3*100*millis))
	if !promoted.IsZero() {
		t.Errorf("took over from a MASTER that had answered, after %v", promoted.Sub(t0))
	}
	_, promoted = runUntil(g, t0.Add(time.Second))
	if want := now.Add(millis).Add(g.cfg.Interval * 3).Add(156 * 100 * millis / 256); !promoted.Equal(want) {
		t.Errorf("MASTER at %v, want the plain down interval after the answer, %v", promoted.Sub(t0), want.Sub(t0))
	}
}

// One question may be lost, so there are two, and the second one's answer counts as well.
func TestQuestionIsAskedTwice(t *testing.T) {
	g, t0 := backupOf(t, beating())
	var asked []time.Duration
	for g.State() == Backup {
		now := g.Deadline()
		if g.Tick(now).Ask {
			asked = append(asked, now.Sub(t0))
		}
	}
	if want := []time.Duration{askAfter, askAfter + testBeat/2}; !slices.Equal(asked, want) {
		t.Errorf("asked after %v, want %v", asked, want)
	}
	g, t0 = backupOf(t, beating())
	g.Tick(t0.Add(askAfter))
	g.Tick(t0.Add(askAfter + testBeat/2))
	advertsFrom(1, "198.51.100.200", 200, 100*millis)(t, g, t0.Add(askAfter+testBeat-1))
	if out := g.Tick(t0.Add(askAfter + testBeat)); out.Transition != nil {
		t.Error("took over although the second question was answered")
	}
}

func TestAdvertPostponesTheQuestion(t *testing.T) {
	g, t0 := backupOf(t, beating())
	advertsEvery(200, 100*millis)(t, g, t0.Add(60*millis))
	asked, _ := runUntil(g, t0.Add(time.Second))
	if want := t0.Add(60*millis + askAfter); !asked.Equal(want) {
		t.Errorf("asked after %v, want %v", asked.Sub(t0), want.Sub(t0))
	}
}

func TestNoQuestion(t *testing.T) {
	for name, change := range map[string]func(g *Group, now time.Time){
		"a BACKUP's heartbeat promises nothing": func(g *Group, now time.Time) {
			g.ReceiveHeartbeat(now, Heartbeat{State: Backup, Term: 3, Beat: testBeat})
		},
		"a MASTER without beats": func(g *Group, now time.Time) {
			g.ReceiveHeartbeat(now, Heartbeat{State: Master, Term: 3})
		},
		"no carrier but the HA link": func(g *Group, now time.Time) { g.SetLinks(now, []bool{false, false, true}) },
		"isolated":                   func(g *Group, now time.Time) { g.SetLinks(now, []bool{false, false, false, false}) },
		"stopped":                    func(g *Group, now time.Time) { g.Stop(now, ReasonShutdown) },
	} {
		t.Run(name, func(t *testing.T) {
			g, t0 := backupOf(t, beating())
			change(g, t0)
			asked, promoted := runUntil(g, t0.Add(300*millis))
			if !asked.IsZero() || !promoted.IsZero() {
				t.Errorf("asked %v, promoted %v, want neither", asked, promoted)
			}
		})
	}
}

// masterWithPeer returns a MASTER that has just renewed, and when.
func masterWithPeer(t *testing.T) (*Group, time.Time) {
	t.Helper()
	g, t0 := backupOf(t, beating())
	_, at := runUntil(g, t0.Add(time.Second))
	if g.State() != Master {
		t.Fatal("not MASTER")
	}
	return g, at
}

func TestMasterRenewsWithEveryBeat(t *testing.T) {
	g, t0 := masterWithPeer(t)
	var renewed, adverts int
	for now := g.Deadline(); now.Before(t0.Add(time.Second)); now = g.Deadline() {
		out := g.Tick(now)
		if out.Renew {
			renewed++
		}
		if out.Advertise {
			adverts++
		}
		if now.After(g.LeaseUntil()) {
			t.Fatalf("the lease ended at %v, before the deadline %v", g.LeaseUntil(), now)
		}
	}
	if renewed != 49 || adverts != 9 {
		t.Errorf("%d renewals and %d adverts in a second, want 49 and 9", renewed, adverts)
	}
}

func TestMasterAnswersQuestions(t *testing.T) {
	g, t0 := masterWithPeer(t)
	out := advertsEvery(PriorityQuestion, 100*millis)(t, g, t0.Add(50*millis))
	if !out.Advertise || out.Announce || out.Transition != nil {
		t.Errorf("answer %+v, want an advert and nothing else", out)
	}
	// A stranger with that priority is an ordinary loser.
	out = advertsFrom(0, "192.0.2.77", PriorityQuestion, 100*millis)(t, g, t0.Add(90*millis))
	if !out.Advertise || !out.Announce {
		t.Errorf("answer to a stranger %+v, want advert and announcements", out)
	}
}

func TestBackupIgnoresQuestions(t *testing.T) {
	g, t0 := backupOf(t, beating())
	before := g.Deadline()
	out := advertsEvery(PriorityQuestion, 100*millis)(t, g, t0.Add(millis))
	if (out != Output{}) || g.Deadline() != before {
		t.Errorf("a question moved a BACKUP: %+v", out)
	}
}

func TestStalledMasterYieldsToWhoTookOver(t *testing.T) {
	claims := map[string]event{
		"advert": advertsEvery(90, 100*millis), // of lower priority
		"heartbeat": func(_ *testing.T, g *Group, now time.Time) Output {
			return g.ReceiveHeartbeat(now, Heartbeat{State: Master, Priority: 90, Term: g.Term() + 1, Beat: testBeat})
		},
	}
	for name, claim := range claims {
		t.Run(name, func(t *testing.T) {
			g, t0 := masterWithPeer(t)
			out := claim(t, g, t0.Add(120*millis)) // asleep for longer than the lease
			if g.State() != Backup || !out.Revoke || out.Transition == nil || out.Transition.Reason != ReasonOwnStall {
				t.Errorf("state %v, output %+v, want BACKUP for the own stall", g.State(), out)
			}
			g, t0 = masterWithPeer(t)
			claim(t, g, t0.Add(30*millis)) // awake
			if g.State() != Master {
				t.Error("a MASTER that was awake gave up to a lower priority")
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		g, t0 := masterWithPeer(t)
		out := g.Tick(t0.Add(120 * millis))
		if g.State() != Master || !out.Renew && !out.Advertise {
			t.Errorf("state %v, output %+v, want a MASTER that goes on", g.State(), out)
		}
		// The suspicion ends.
		at := t0.Add(240 * millis)
		g.Tick(t0.Add(140 * millis))
		g.Tick(t0.Add(180 * millis))
		g.Tick(t0.Add(230 * millis))
		if advertsEvery(90, 100*millis)(t, g, at); g.State() != Master {
			t.Error("an old stall still counts")
		}
	})
}

func TestBeatFor(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{
		10 * millis: 5 * millis, 20 * millis: 5 * millis, 30 * millis: 6 * millis, 50 * millis: 10 * millis, 100 * millis: 20 * millis,
		second: 100 * millis, 40 * second: 100 * millis,
	} {
		if got := BeatFor(interval); got != want {
			t.Errorf("BeatFor(%v) = %v, want %v", interval, got, want)
		}
	}
}

// The kernel takes leases of whole milliseconds, and none may last until a peer takes
// over, which waits one beat longer than it ends.
func TestBeatLease(t *testing.T) {
	for interval := MinInterval; interval <= MaxInterval; interval += IntervalUnit {
		beat := BeatFor(interval)
		lease := BeatLease(beat)
		if lease%millis != 0 || lease > silentBeats(beat) || lease < 3*beat || beat%millis != 0 || 2*beat > interval {
			t.Fatalf("interval %v: beat %v, lease %v", interval, beat, lease)
		}
	}
}

func TestBeatValidation(t *testing.T) {
	for name, change := range map[string]func(*GroupConfig){
		"too short":      func(c *GroupConfig) { c.Beat = 4 * millis },
		"too long":       func(c *GroupConfig) { c.Beat = 101 * millis },
		"lease too long": func(c *GroupConfig) { c.Lease += millis },
		"without a peer": func(c *GroupConfig) { c.HasPeer = false },
		"negative":       func(c *GroupConfig) { c.Beat = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := beating()
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			change(&c)
			if c.Validate() == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestYieldedPeerMakesTheMasterAnnounceAgain(t *testing.T) {
	g, t0 := backupOf(t, beating())
	out := g.ReceiveHeartbeat(t0.Add(millis), Heartbeat{State: Master, Priority: 200, Term: 3, Beat: testBeat, TakeOver: true})
	if g.State() != Master || !out.Advertise || !out.Announce {
		t.Fatalf("state %v, output %+v after an offer", g.State(), out)
	}
	out = g.ReceiveHeartbeat(t0.Add(2*millis), Heartbeat{State: Backup, Priority: 200, Term: 4, Beat: testBeat})
	if !out.Advertise || !out.Announce {
		t.Errorf("output %+v when the peer has yielded, want advert and announcements", out)
	}
	out = g.ReceiveHeartbeat(t0.Add(3*millis), Heartbeat{State: Backup, Priority: 200, Term: 4, Beat: testBeat})
	if out.Advertise || out.Announce {
		t.Errorf("output %+v for the next heartbeat, want nothing", out)
	}
}

// TestGreatestTerm: after a peer's absurd term the next mastership is not one of an
// earlier term, which everybody would ignore.
func TestGreatestTerm(t *testing.T) {
	g, t0 := backupOf(t, beating())
	g.ReceiveHeartbeat(t0, Heartbeat{State: Master, Priority: 200, Term: math.MaxUint64, Beat: testBeat})
	if _, promoted := runUntil(g, t0.Add(time.Second)); promoted.IsZero() || g.Term() != math.MaxUint64 {
		t.Errorf("promoted at %v, term %d", promoted, g.Term())
	}
}
