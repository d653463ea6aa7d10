package vrrp

import (
	"testing"
	"time"
)

const testStranger = "192.0.2.77"

// TestQuestionComesBeforeTheTimer: who asks waits for the answer, also when
// Active_Down_Timer ends meanwhile, and a MASTER asks nothing.
func TestQuestionComesBeforeTheTimer(t *testing.T) {
	g, t0 := backupOf(t, beating())
	late := t0.Add(350 * millis) // past both, by less than an interval
	out := g.Tick(late)
	if !out.Ask || out.Transition != nil {
		t.Fatalf("after a stall: %+v, want a question alone", out)
	}
	advertsFrom(1, "198.51.100.200", 200, 100*millis)(t, g, late.Add(millis))
	if out := g.Tick(late.Add(testBeat)); out.Transition != nil {
		t.Errorf("MASTER in spite of the answer: %+v", out)
	}
	g, t0 = backupOf(t, beating())
	late = t0.Add(350 * millis)
	g.Tick(late)
	if _, promoted := runUntil(g, late.Add(time.Second)); !promoted.Equal(late.Add(testBeat)) {
		t.Errorf("MASTER %v after the question, want %v", promoted.Sub(late), testBeat)
	}
}

// TestStrangersGoodbyeIsNotBelieved: while the MASTER's heartbeats come in, nobody
// else can say goodbye in its place.
func TestStrangersGoodbyeIsNotBelieved(t *testing.T) {
	g, t0 := backupOf(t, beating())
	advertsFrom(0, testStranger, 0, 100*millis)(t, g, t0.Add(millis))
	if asked, promoted := runUntil(g, t0.Add(askAfter-1)); !asked.IsZero() || !promoted.IsZero() {
		t.Errorf("the goodbye of a stranger counts: asked at %v, MASTER at %v", asked, promoted)
	}
}

// TestOutrankedMemberTakesNoRole: whoever hears a better router that is MASTER would
// lose the role that it is offered at once.
func TestOutrankedMemberTakesNoRole(t *testing.T) {
	offer := Heartbeat{State: Master, Priority: 90, Term: 4, Beat: testBeat, TakeOver: true}
	for name, tt := range map[string]struct {
		priority uint8
		after    time.Duration
		want     State
	}{
		"better":            {250, millis, Backup},
		"worse":             {99, millis, Master},
		"better, long gone": {250, 300 * millis, Master},
	} {
		t.Run(name, func(t *testing.T) {
			g, t0 := backupOf(t, beating())
			advertsFrom(0, testStranger, tt.priority, 100*millis)(t, g, t0.Add(millis))
			now := t0.Add(millis + tt.after)
			for g.Deadline().Before(now) {
				g.ReceiveHeartbeat(g.Deadline(), Heartbeat{State: Master, Priority: 200, Term: 3, Beat: testBeat})
				g.Tick(g.Deadline())
			}
			g.ReceiveHeartbeat(now, offer)
			if g.State() != tt.want {
				t.Errorf("%v after the offer, want %v", g.State(), tt.want)
			}
		})
	}
}

// TestAssumptionIsAboutTheOldMaster: after a handover the old MASTER's adverts do not
// count for a while; those of others do.
func TestAssumptionIsAboutTheOldMaster(t *testing.T) {
	g, t0 := backupOf(t, beating())
	g.ReceiveHeartbeat(t0, Heartbeat{State: Master, Priority: 200, Term: 3, Beat: testBeat, TakeOver: true})
	advertsEvery(200, 100*millis)(t, g, t0.Add(millis))
	if g.State() != Master {
		t.Fatal("the old MASTER's advert counts")
	}
	advertsFrom(0, testStranger, 250, 100*millis)(t, g, t0.Add(millis))
	if g.State() != Backup {
		t.Error("a better router's advert does not count")
	}
}

// TestRegularAdvertIsNoAnswer: another MASTER may have become it just after the last
// regular advert.
func TestRegularAdvertIsNoAnswer(t *testing.T) {
	g := blind(t, func(*GroupConfig) {})
	now := g.LeaseUntil().Add(-1)
	g.Tick(now) // a regular advert
	if out := adverts(99)(t, g, now.Add(millis)); !out.Advertise || !out.Announce {
		t.Errorf("a losing advert is not answered: %+v", out)
	}
	if out := adverts(99)(t, g, now.Add(2*millis)); out.Advertise {
		t.Error("a flood of losing adverts is answered with a flood")
	}
}

// TestSurvivorAnnouncesAgain: whoever stays MASTER announces when it learns that the
// peer was one, too, though it has heard no advert of it.
func TestSurvivorAnnouncesAgain(t *testing.T) {
	tests := map[string]struct {
		term  uint64
		after time.Duration
		want  bool
	}{
		"nothing happened":                  {term: 3, after: second},
		"a newer term":                      {term: 4, after: second, want: true},
		"away for longer than it may be":    {term: 3, after: 2 * down100, want: true},
		"of a process that has just begun":  {term: 0, after: second},
		"a newer term after a long silence": {term: 9, after: time.Hour, want: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g, err := NewGroup(member())
			if err != nil {
				t.Fatal(err)
			}
			g.Start(epoch())
			g.ReceiveHeartbeat(epoch(), Heartbeat{State: Backup, Priority: 90, Term: 2})
			for g.State() != Master {
				g.Tick(g.Deadline())
			}
			now := g.LeaseUntil().Add(-millis)
			g.ReceiveHeartbeat(now, Heartbeat{State: Backup, Priority: 90, Term: 3})
			for until := now.Add(tt.after); g.Deadline().Before(until); {
				g.Tick(g.Deadline())
			}
			out := g.ReceiveHeartbeat(now.Add(tt.after), Heartbeat{State: Backup, Priority: 90, Term: tt.term})
			if out.Announce != tt.want || out.Advertise != tt.want {
				t.Errorf("output %+v, want an announcement: %v", out, tt.want)
			}
		})
	}
}

// TestStaleGoodbyeIsNotBelieved: who has just woken up may find a goodbye in its
// socket that was followed by a new MASTER long ago.
func TestStaleGoodbyeIsNotBelieved(t *testing.T) {
	g, t0 := backupOf(t, beating())
	woken := t0.Add(second)
	goodbye := Heartbeat{State: Initialize, Priority: 200, Term: 3}
	g.ReceiveHeartbeat(woken, goodbye)
	g.Tick(woken)
	if at := g.Deadline(); !at.After(woken.Add(g.SkewTime())) {
		t.Errorf("the stale goodbye counts: a deadline after %v", at.Sub(woken))
	}
	// A MASTER that finds that it slept is a BACKUP when it reads the rest.
	g, t0 = backupOf(t, beating())
	_, promoted := runUntil(g, t0.Add(second))
	woken = promoted.Add(10 * second)
	g.ReceiveHeartbeat(woken, Heartbeat{State: Master, Priority: 200, Term: 5, Beat: testBeat})
	g.ReceiveHeartbeat(woken, goodbye)
	if at := g.Deadline(); g.State() != Backup || !at.After(woken.Add(g.SkewTime())) {
		t.Errorf("the stale goodbye counts after a stall as MASTER: %v, a deadline after %v", g.State(), at.Sub(woken))
	}
	g, t0 = backupOf(t, beating())
	advertsFrom(0, testStranger, 250, 100*millis)(t, g, t0)
	g.ReceiveHeartbeat(t0.Add(millis), goodbye)
	if at := g.Deadline(); !at.After(t0.Add(millis + g.SkewTime())) {
		t.Errorf("the goodbye of a member that is outranked counts: a deadline after %v", at.Sub(t0))
	}
	g, t0 = backupOf(t, beating())
	g.ReceiveHeartbeat(t0.Add(millis), goodbye)
	if _, promoted = runUntil(g, t0.Add(second)); !promoted.Equal(t0.Add(millis + g.SkewTime())) {
		t.Errorf("MASTER %v after a fresh goodbye, want %v", promoted.Sub(t0), g.SkewTime())
	}
}

// TestPreemptingMemberIsNotModest: who has heard a MASTER and preempts it is MASTER
// with the priority that it preempted with, or it would lose the role at once.
func TestPreemptingMemberIsNotModest(t *testing.T) {
	g, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority, c.Rank = 200, 1 }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	g.SetFitness(epoch(), Fitness{Ready: true})
	for now := epoch(); g.State() != Master; now = g.Deadline() {
		advertsFrom(0, testStranger, 150, second)(t, g, now)
		g.Tick(now)
	}
	if got := g.Priority(); got != 200 {
		t.Errorf("priority %d after a preemption, want 200", got)
	}
}

// TestSlowerBetterMasterIsWaitedFor: the last adverts of a member that has yielded to a
// better foreign MASTER may come in after that one's, and must not teach the member's
// shorter interval again: the pair would take over between two of its adverts, for ever.
func TestSlowerBetterMasterIsWaitedFor(t *testing.T) {
	g, t0 := backupOf(t, beating())
	advertsFrom(0, testStranger, 250, 200*millis)(t, g, t0.Add(millis))
	advertsEvery(200, 100*millis)(t, g, t0.Add(2*millis))
	g.ReceiveHeartbeat(t0.Add(3*millis), Heartbeat{State: Backup, Priority: 200, Term: 3})
	if _, promoted := runUntil(g, t0.Add(2*second)); promoted.Before(t0.Add(600 * millis)) {
		t.Errorf("MASTER %v after the advert of a MASTER with an interval of 200ms", promoted.Sub(t0))
	}
	// When it is gone, the member's interval counts again.
	g, t0 = backupOf(t, beating())
	advertsFrom(0, testStranger, 250, 200*millis)(t, g, t0.Add(millis))
	now := t0.Add(601 * millis)
	advertsEvery(200, 100*millis)(t, g, now)
	if got, want := g.DownInterval(), 300*millis+g.SkewTime(); got != want {
		t.Errorf("down interval %v, want %v", got, want)
	}
}

// TestReturnedLinkWaitsByTheMastersInterval: who meant to preempt learned no interval
// from the adverts that it discarded; when it must wait after all, theirs counts.
func TestReturnedLinkWaitsByTheMastersInterval(t *testing.T) {
	c := with(beating(), func(c *GroupConfig) { c.Priority, c.Beat, c.Lease = 200, 0, LeaseFor(100*millis) })
	g, err := NewGroup(c)
	if err != nil {
		t.Fatal(err)
	}
	now := epoch()
	g.Start(now)
	g.SetFitness(now, Fitness{Ready: true})
	advertsEvery(180, 400*millis)(t, g, now) // discarded
	g.SetFitness(now, Fitness{Failed: 1, Ready: true})
	usable(false)(t, g, now)
	now = now.Add(50 * millis)
	usable(true)(t, g, now)
	if got, want := g.DownInterval(), 1200*millis+g.SkewTime(); got != want {
		t.Errorf("down interval %v, want %v", got, want)
	}
	if _, promoted := runUntil(g, now.Add(10*second)); promoted.Sub(now) < 1200*millis {
		t.Errorf("MASTER %v after the link has come back", promoted.Sub(now))
	}
}

// TestPreemptDelayBeginsAnewWithReadiness: also when readiness was lost and found
// between two adverts.
func TestPreemptDelayBeginsAnewWithReadiness(t *testing.T) {
	g, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority, c.PreemptDelay = 200, 2*second }))
	if err != nil {
		t.Fatal(err)
	}
	now := epoch()
	g.Start(now)
	g.SetFitness(now, Fitness{Ready: true})
	for at := now; at.Before(now.Add(1500 * millis)); at = at.Add(500 * millis) {
		adverts(180)(t, g, at)
	}
	lost := now.Add(1600 * millis)
	g.SetFitness(lost, Fitness{})
	g.SetFitness(lost.Add(millis), Fitness{Ready: true})
	for at := lost.Add(2 * millis); g.State() != Master && at.Before(lost.Add(time.Minute)); at = at.Add(100 * millis) {
		adverts(180)(t, g, at)
		g.Tick(at)
		// Active_Down_Timer runs when the delay has passed.
		if g.State() == Master && at.Sub(lost) < 5*second {
			t.Errorf("preempted %v after it was ready again", at.Sub(lost))
		}
	}
	if g.State() != Master {
		t.Error("never preempted")
	}
}
