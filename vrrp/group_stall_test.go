package vrrp

import (
	"testing"
	"time"
)

// fastBeat is the beat at the shortest interval, fastSilence how long a MASTER may be
// silent there before its BACKUP asks.
const (
	fastBeat    = 5 * millis
	fastSilence = fastBeat * 7 / 2
)

// fast is a member of a pair with the shortest interval.
func fast() GroupConfig {
	c := member()
	c.Interval, c.Beat = MinInterval, fastBeat
	c.Lease = BeatLease(fastBeat)
	return c
}

// fastBackup returns a BACKUP that has just heard a MASTER's beat and advert, and when.
func fastBackup(t *testing.T) (*Group, time.Time) {
	t.Helper()
	g, err := NewGroup(fast())
	if err != nil {
		t.Fatal(err)
	}
	now := epoch()
	g.Start(now)
	g.SetFitness(now, Fitness{Ready: true})
	advertsEvery(200, MinInterval)(t, g, now)
	g.ReceiveHeartbeat(now, Heartbeat{State: Master, Priority: 200, Term: 3, Beat: fastBeat})
	return g, now
}

// silence lets a BACKUP hear nothing of the MASTER until it becomes MASTER itself or the
// time is over. What is sent with its questions is handed to answer.
func silence(g *Group, until time.Time, answer func(now time.Time)) (promoted time.Time) {
	for !g.Deadline().After(until) {
		now := g.Deadline()
		out := g.Tick(now)
		if out.Transition != nil {
			return now
		}
		if out.Ask {
			answer(now)
		}
	}
	return time.Time{}
}

// The kernel of a MASTER without power says nothing, that of one whose elector stalls
// answers.
func TestEchoTellsAStallFromADeath(t *testing.T) {
	g, t0 := fastBackup(t)
	promoted := silence(g, t0.Add(second), func(time.Time) {})
	if want := fastSilence + fastBeat; promoted.Sub(t0) != want {
		t.Errorf("MASTER %v after the last beat of a silent kernel, want %v", promoted.Sub(t0), want)
	}
	g, t0 = fastBackup(t)
	asked := 0
	promoted = silence(g, t0.Add(second), func(now time.Time) { asked++; g.ReceiveEcho(now.Add(millis / 10)) })
	if least := maxStall + fastBeat; promoted.Sub(t0) < least || promoted.Sub(t0) > least+fastBeat {
		t.Errorf("MASTER %v after the last beat, while the kernel answers, want a beat at most after %v", promoted.Sub(t0), least)
	}
	if asked < 10 {
		t.Errorf("%d questions, want two in every beat", asked)
	}
	g, t0 = fastBackup(t)
	promoted = silence(g, t0.Add(second), func(now time.Time) {
		if now.Sub(t0) < 25*millis {
			g.ReceiveEcho(now)
		}
	})
	if want := fastSilence + 3*fastBeat; promoted.Sub(t0) != want {
		t.Errorf("MASTER %v after the last beat of a kernel that answers for 25ms, want %v", promoted.Sub(t0), want)
	}
}

func TestStallShorterThanMaxStallMovesNothing(t *testing.T) {
	g, t0 := fastBackup(t)
	back := t0.Add(fastBeat + maxStall - 1)
	if promoted := silence(g, back, func(now time.Time) { g.ReceiveEcho(now) }); !promoted.IsZero() {
		t.Fatalf("MASTER %v after the last beat", promoted.Sub(t0))
	}
	g.ReceiveHeartbeat(back, Heartbeat{State: Master, Priority: 200, Term: 3, Beat: fastBeat})
	if out := g.Tick(back.Add(millis)); out.Ask || out.Transition != nil {
		t.Errorf("after the stall: %v", out)
	}
	// An answer by a network does as well.
	g, t0 = fastBackup(t)
	silence(g, t0.Add(30*millis), func(now time.Time) { g.ReceiveEcho(now) })
	advertsFrom(1, "198.51.100.200", 200, MinInterval)(t, g, t0.Add(30*millis))
	if promoted := silence(g, t0.Add(60*millis), func(time.Time) {}); !promoted.IsZero() {
		t.Errorf("MASTER %v after an answer", promoted.Sub(t0.Add(30*millis)))
	}
}

// Half a beat more than the lease is waited for when nobody listens for heartbeats at
// the peer: clocks differ.
func TestRefusalHastensTheQuestion(t *testing.T) {
	for name, after := range map[string]time.Duration{"at once": millis, "by the probe": fastBeat * 5 / 2, "after the question": fastSilence + millis} {
		t.Run(name, func(t *testing.T) {
			g, t0 := fastBackup(t)
			echo := func(now time.Time) { g.ReceiveEcho(now) }
			if promoted := silence(g, t0.Add(after), echo); !promoted.IsZero() {
				t.Fatalf("MASTER after %v", promoted.Sub(t0))
			}
			g.ReceiveRefusal(t0.Add(after))
			asked := g.Deadline()
			promoted := silence(g, t0.Add(second), echo)
			want := fastSilence + fastBeat/2
			if after > fastSilence {
				want = fastSilence + fastBeat
			} else if asked != t0.Add(after) {
				t.Errorf("the question is due %v after the beat, want %v", asked.Sub(t0), after)
			}
			if promoted.Sub(t0) != want || want <= g.cfg.Lease {
				t.Errorf("MASTER %v after the last beat, want %v; the lease is %v", promoted.Sub(t0), want, g.cfg.Lease)
			}
		})
	}
}

// A MASTER may have lost its socket alone.
func TestRefusalIsNoProof(t *testing.T) {
	g, t0 := fastBackup(t)
	g.ReceiveRefusal(t0.Add(millis))
	if out := g.Tick(g.Deadline()); !out.Ask {
		t.Fatalf("no question after a refusal: %v", out)
	}
	advertsFrom(1, "198.51.100.200", 200, MinInterval)(t, g, t0.Add(2*millis))
	if promoted := silence(g, t0.Add(30*millis), func(time.Time) {}); !promoted.IsZero() {
		t.Errorf("took over from a MASTER that had answered, after %v", promoted.Sub(t0))
	}
	g, t0 = fastBackup(t)
	g.ReceiveRefusal(t0.Add(millis))
	g.ReceiveHeartbeat(t0.Add(2*millis), Heartbeat{State: Master, Priority: 200, Term: 3, Beat: fastBeat})
	promoted := silence(g, t0.Add(second), func(now time.Time) { g.ReceiveEcho(now) })
	if promoted.Sub(t0) < maxStall {
		t.Errorf("an old refusal still counts: MASTER after %v", promoted.Sub(t0))
	}
}

// The probe finds out whether anybody listens while there is still time: at slow
// intervals a BACKUP's own heartbeats are far apart.
func TestMissingBeatsAreProbed(t *testing.T) {
	g, t0 := backupOf(t, beating())
	var probed []time.Duration
	for g.State() == Backup {
		now := g.Deadline()
		if out := g.Tick(now); out.Heartbeat && out.Transition == nil {
			probed = append(probed, now.Sub(t0))
		}
	}
	if len(probed) != 1 || probed[0] != testBeat*5/2 {
		t.Errorf("heartbeats after %v, want one after %v", probed, testBeat*5/2)
	}
}

// At the default interval a stall is over before anybody is asked twice.
func TestEchoChangesNothingAtSlowerIntervals(t *testing.T) {
	g, t0 := backupOf(t, beating())
	promoted := silence(g, t0.Add(second), func(now time.Time) { g.ReceiveEcho(now) })
	if want := askAfter + testBeat; promoted.Sub(t0) != want {
		t.Errorf("MASTER after %v, want %v", promoted.Sub(t0), want)
	}
}

// What nobody has asked for means nothing.
func TestUnaskedEchoesAndRefusals(t *testing.T) {
	g, t0 := fastBackup(t)
	g.ReceiveEcho(t0.Add(millis))
	promoted := silence(g, t0.Add(second), func(time.Time) {})
	if want := fastSilence + fastBeat; promoted.Sub(t0) != want {
		t.Errorf("MASTER after %v, want %v", promoted.Sub(t0), want)
	}
	before := g.Deadline()
	g.ReceiveEcho(promoted)
	g.ReceiveRefusal(promoted)
	if g.State() != Master || g.Deadline() != before {
		t.Error("a MASTER is moved by what the peer's kernel says")
	}
	g, err := NewGroup(fast())
	if err != nil {
		t.Fatal(err)
	}
	g.Start(t0)
	before = g.Deadline()
	if g.ReceiveRefusal(t0); g.Deadline() != before {
		t.Error("a BACKUP that has heard no beat asks")
	}
}

// TestStalledMasterGoesOn: a stall that the BACKUP waits for is no reason to step down.
func TestStalledMasterGoesOn(t *testing.T) {
	g, t0 := fastBackup(t)
	sent := silence(g, t0.Add(second), func(time.Time) {})
	out := g.Tick(sent.Add(MinInterval + maxStall - 1))
	if g.State() != Master || !out.Advertise {
		t.Errorf("after a stall of %v: %v, %v", maxStall, g.State(), out)
	}
	g, t0 = fastBackup(t)
	sent = silence(g, t0.Add(second), func(time.Time) {})
	if g.Tick(sent.Add(MinInterval + maxStall)); g.State() != Backup {
		t.Error("after a longer stall it is still MASTER")
	}
}
