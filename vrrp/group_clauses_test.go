package vrrp

import (
	"testing"
	"time"
)

// The tests in this file are the other side of clauses that the stories of
// group_rfc_test.go tell in the positive: what must not happen.

// quietly fails if an output says anything on the wire.
func quietly(t *testing.T, what string, out Output) {
	t.Helper()
	if out.Advertise || out.Announce || out.Renew || out.Transition != nil {
		t.Errorf("%s: %v", what, out)
	}
}

func TestRFC9568_6_1_IntervalOfALosingAdvertIsNotLearned(t *testing.T) {
	g := newMaster(t, alone())
	advertsEvery(50, 5*second)(t, g, epoch().Add(down100+millis))
	if got := g.DownInterval(); got != down100 {
		t.Errorf("down interval %v, want %v", got, down100)
	}
}

func TestRFC9568_6_1_WithoutPreemptNobodyIsPreempted(t *testing.T) {
	g, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority, c.Preempt = 200, false }))
	if err != nil {
		t.Fatal(err)
	}
	g.SetFitness(epoch(), Fitness{Ready: true})
	g.Start(epoch())
	for at := epoch(); at.Before(epoch().Add(time.Minute)); at = at.Add(second) {
		adverts(150)(t, g, at)
		quietly(t, at.Sub(epoch()).String(), g.Tick(at))
	}
}

func TestRFC9568_6_1_TwoTimers(t *testing.T) {
	g := newMaster(t, alone())
	if !g.downAt.IsZero() || g.advertAt.IsZero() {
		t.Errorf("as MASTER Active_Down_Timer is %v and Adver_Timer %v", g.downAt, g.advertAt)
	}
	adverts(200)(t, g, epoch().Add(down100+millis))
	if g.downAt.IsZero() || !g.advertAt.IsZero() {
		t.Errorf("as BACKUP Active_Down_Timer is %v and Adver_Timer %v", g.downAt, g.advertAt)
	}
}

func TestRFC9568_6_4_2_BackupIsSilent(t *testing.T) {
	g, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	if out := g.Start(epoch()); out.Advertise || out.Announce || out.Renew {
		t.Errorf("start: %v", out)
	}
	for at := epoch().Add(millis); at.Before(epoch().Add(10 * second)); at = at.Add(second / 2) {
		quietly(t, "an advert", adverts(200)(t, g, at))
		quietly(t, "a tick", g.Tick(at))
	}
}

func TestRFC9568_6_4_2_NoMasterBeforeTheDownInterval(t *testing.T) {
	g, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	for at := epoch(); at.Before(epoch().Add(down100)); at = at.Add(10 * millis) {
		quietly(t, at.Sub(epoch()).String(), g.Tick(at))
	}
}

func TestRFC9568_6_4_2_AdvertComesBeforeAnnouncements(t *testing.T) {
	g, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	out := g.Tick(epoch().Add(down100))
	// The fields of an Output are obeyed in their order: Advertise stands before Announce.
	if !out.Advertise || !out.Announce || out.Revoke {
		t.Errorf("output %v", out)
	}
}

func TestRFC9568_6_4_2_ShutdownOfABackupIsSilent(t *testing.T) {
	g, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	out := g.Stop(epoch().Add(second), ReasonShutdown)
	if out.Advertise || out.Announce || out.Revoke {
		t.Errorf("output %v", out)
	}
	quietly(t, "a tick after the shutdown", g.Tick(epoch().Add(time.Hour)))
}

func TestRFC9568_6_4_2_HigherPriorityIsNotPreempted(t *testing.T) {
	g, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	g.SetFitness(epoch(), Fitness{Ready: true})
	g.Start(epoch())
	for at := epoch(); at.Before(epoch().Add(time.Minute)); at = at.Add(second) {
		adverts(101)(t, g, at)
		quietly(t, at.Sub(epoch()).String(), g.Tick(at))
	}
}

func TestRFC9568_6_4_3_NoAdvertBeforeTheTimer(t *testing.T) {
	g := newMaster(t, alone())
	for at := epoch().Add(down100 + millis); at.Before(epoch().Add(down100 + second)); at = at.Add(10 * millis) {
		quietly(t, at.Sub(epoch()).String(), g.Tick(at))
	}
}

func TestRFC9568_6_4_3_NothingAfterTheGoodbye(t *testing.T) {
	g := newMaster(t, alone())
	g.Stop(epoch().Add(down100+millis), ReasonShutdown)
	quietly(t, "a tick", g.Tick(epoch().Add(time.Hour)))
	quietly(t, "a losing advert", adverts(1)(t, g, epoch().Add(time.Hour)))
}

func TestRFC9568_6_4_3_GoodbyeOfAnotherMovesNothing(t *testing.T) {
	g := newMaster(t, alone())
	out := adverts(0)(t, g, epoch().Add(down100+millis))
	if !out.Advertise || out.Transition != nil || g.State() != Master {
		t.Errorf("state %v, output %v", g.State(), out)
	}
}

func TestRFC9568_6_4_3_WinningAdvertIsNotAnswered(t *testing.T) {
	g := newMaster(t, alone())
	out := adverts(200)(t, g, epoch().Add(down100+millis))
	if out.Advertise || out.Announce || !out.Revoke {
		t.Errorf("output %v", out)
	}
}

// Erratum 8298: an owner that hears another one must not be deaf to it.
func TestRFC9568_7_1_OwnerHearsAnotherOwner(t *testing.T) {
	owner := with(alone(), func(c *GroupConfig) { c.Priority = PriorityOwner })
	for source, want := range map[string]State{"192.0.2.101": Backup, "192.0.2.99": Master} {
		g, err := NewGroup(owner)
		if err != nil {
			t.Fatal(err)
		}
		g.Start(epoch())
		advertsFrom(0, source, PriorityOwner, second)(t, g, epoch().Add(500*millis))
		if g.State() != want {
			t.Errorf("after an owner at %s: %v, want %v", source, g.State(), want)
		}
	}
}
