package vrrp

import (
	"testing"
	"time"
)

// blind is a member of a pair that has become MASTER without ever having met its peer.
func blind(t *testing.T, change func(*GroupConfig)) *Group {
	t.Helper()
	g, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority, c.Rank = 200, 1; change(c) }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	g.SetFitness(epoch(), Fitness{Ready: true})
	if out := g.Tick(g.Deadline()); out.Transition != nil {
		t.Fatalf("at the first deadline %+v", out)
	}
	for g.State() != Master {
		g.Tick(g.Deadline())
	}
	return g
}

// A node that boots behind ports that do not forward yet must lose against the MASTER
// that it could not hear, though its configured priority is higher.
func TestMasterThatNeverMetItsPeerIsModest(t *testing.T) {
	g := blind(t, func(*GroupConfig) {})
	if got := g.Priority(); got != HealthyPriority+1 {
		t.Fatalf("priority %d, want the lowest healthy one and the rank", got)
	}
	now := g.LeaseUntil().Add(-1)
	out := adverts(180)(t, g, now)
	if g.State() != Backup || out.Transition == nil || out.Transition.Reason != ReasonBetterPeer {
		t.Errorf("state %v after the advert of the MASTER in office, output %+v", g.State(), out)
	}
	if got := g.Priority(); got != 200 {
		t.Errorf("priority %d as BACKUP, want 200", got)
	}
}

func TestMasterIsProven(t *testing.T) {
	for name, prove := range map[string]func(t *testing.T, g *Group, now time.Time) time.Time{
		"by time": func(_ *testing.T, g *Group, now time.Time) time.Time {
			for !now.Before(g.Deadline()) || g.Deadline().Before(epoch().Add(provenAfter+4*second)) {
				g.Tick(g.Deadline())
			}
			return epoch().Add(provenAfter + 4*second)
		},
		"by a peer that is BACKUP": func(t *testing.T, g *Group, now time.Time) time.Time {
			out := beats(Heartbeat{State: Backup, Priority: 180})(t, g, now)
			if !out.Advertise || out.Priority != 200 {
				t.Errorf("output %+v, want an advert that says so", out)
			}
			return now
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := blind(t, func(*GroupConfig) {})
			now := prove(t, g, epoch().Add(4*second))
			if got := g.Priority(); got != 200 {
				t.Fatalf("priority %d, want 200", got)
			}
			if adverts(180)(t, g, now); g.State() != Master {
				t.Error("yielded to a lower priority")
			}
		})
	}
}

func TestModestyEndsWhereItMust(t *testing.T) {
	if got := blind(t, func(c *GroupConfig) { c.Priority = 100 }).Priority(); got != 100 {
		t.Errorf("priority %d, must not be raised above the configured one", got)
	}
	single, err := NewGroup(with(alone(), func(c *GroupConfig) { c.Priority = 200 }))
	if err != nil {
		t.Fatal(err)
	}
	single.Start(epoch())
	single.Tick(single.Deadline())
	if got := single.Priority(); single.State() != Master || got != 200 {
		t.Errorf("a single router is %v with priority %d", single.State(), got)
	}
	owner, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority = PriorityOwner }))
	if err != nil {
		t.Fatal(err)
	}
	owner.Start(epoch())
	if got := owner.Priority(); got != PriorityOwner {
		t.Errorf("an owner has priority %d", got)
	}
}

// Anybody on a network can send a goodbye in the MASTER's name; while its
// authenticated heartbeats come in, only these say goodbye.
func TestForgedGoodbyeIsNotBelieved(t *testing.T) {
	g, t0 := backupOf(t, beating())
	advertsEvery(PriorityLeaving, 100*millis)(t, g, t0.Add(millis))
	for at := t0; at.Before(t0.Add(second)); at = at.Add(testBeat) {
		g.ReceiveHeartbeat(at, Heartbeat{State: Master, Priority: 200, Term: 3, Beat: testBeat})
		if out := g.Tick(at); out.Transition != nil {
			t.Fatalf("%+v after %v", out.Transition, at.Sub(t0))
		}
	}
	now := t0.Add(second)
	g.ReceiveHeartbeat(now, Heartbeat{State: Initialize, Priority: 200, Term: 3})
	if out := g.Tick(now.Add(g.SkewTime())); out.Transition == nil || out.Transition.Reason != ReasonPeerStopped {
		t.Errorf("output %+v, want a takeover after Skew_Time when the heartbeat says goodbye", out)
	}
}

func TestGoodbyeCountsWithoutHeartbeats(t *testing.T) {
	g, t0 := backupOf(t, beating())
	now := t0.Add(askAfter) // they stay away
	g.Tick(now)
	advertsEvery(PriorityLeaving, 100*millis)(t, g, now)
	if out := g.Tick(now.Add(g.SkewTime())); out.Transition == nil || out.Transition.Reason != ReasonPeerStopped {
		t.Errorf("output %+v, want a takeover after Skew_Time", out)
	}
}

// A router outside of the pair is obeyed, but a single advert of it cannot keep both
// members waiting for as long as it says.
func TestStrangersIntervalNeedsConfirmation(t *testing.T) {
	const long = 40 * second
	forged := advertsFrom(0, "192.0.2.66", 254, long)
	g, t0 := backupOf(t, with(beating(), func(c *GroupConfig) { c.HasPeer = true }))
	forged(t, g, t0)
	if got, most := g.DownInterval(), 4*second; got > most {
		t.Errorf("down interval %v after one advert of a stranger, want at most %v", got, most)
	}
	forged(t, g, t0.Add(long))
	if got := g.activeInterval; got != long {
		t.Errorf("learned %v from the second advert, want %v", got, long)
	}
	forged(t, g, t0.Add(2*long))
	if got := g.activeInterval; got != long {
		t.Errorf("learned %v from the third advert, want %v", got, long)
	}
	advertsFrom(0, "192.0.2.67", 254, long)(t, g, t0.Add(2*long))
	if got := g.activeInterval; got >= long {
		t.Errorf("learned %v from the first advert of another stranger", got)
	}
	single, err := NewGroup(alone())
	if err != nil {
		t.Fatal(err)
	}
	single.Start(t0)
	forged(t, single, t0)
	if got := single.activeInterval; got != long {
		t.Errorf("a single router learned %v, want what RFC 9568 §6.4.2 says, %v", got, long)
	}
}

func TestPreemptDelay(t *testing.T) {
	g, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority, c.PreemptDelay = 200, 10*second }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	g.SetFitness(epoch(), Fitness{Ready: true})
	promoted := time.Time{}
	for at := epoch(); at.Before(epoch().Add(20*second)) && promoted.IsZero(); at = at.Add(second / 4) {
		if at.Sub(epoch())%second == 0 {
			adverts(180)(t, g, at)
		}
		if out := g.Tick(at); out.Transition != nil && out.Transition.To == Master {
			promoted = at
			if out.Transition.Reason != ReasonPreempted {
				t.Errorf("reason %v", out.Transition.Reason)
			}
		}
	}
	if after := promoted.Sub(epoch()); after < 10*second || after > 15*second {
		t.Errorf("preempted after %v, want the delay of 10s and at most one down interval more", after)
	}
}

func TestPreemptDelayBeginsWhenReady(t *testing.T) {
	g, err := NewGroup(with(member(), func(c *GroupConfig) { c.Priority, c.PreemptDelay = 200, 5*second }))
	if err != nil {
		t.Fatal(err)
	}
	g.Start(epoch())
	for at := epoch(); at.Before(epoch().Add(20 * second)); at = at.Add(second / 2) {
		adverts(180)(t, g, at)
		if at.Equal(epoch().Add(10 * second)) {
			g.SetFitness(at, Fitness{Ready: true})
		}
		out := g.Tick(at)
		if out.Transition != nil && at.Before(epoch().Add(15*second)) {
			t.Fatalf("%+v after %v", out.Transition, at.Sub(epoch()))
		}
	}
	if g.State() != Master {
		t.Errorf("state %v, want MASTER in the end", g.State())
	}
}

func TestStepIsTheMethods(t *testing.T) {
	a, t0 := backupOf(t, beating())
	b, _ := backupOf(t, beating())
	why := ReasonShutdown
	cfg := beating()
	for i, in := range []Input{
		{Tick: true},
		{Advert: &ReceivedAdvert{0, cfg.Carriers[0].Peer, Advertisement{Priority: 200, Interval: 100 * millis}}},
		{Heartbeat: &Heartbeat{State: Master, Term: 4, Beat: testBeat}},
		{Fitness: &Fitness{Failed: 1}},
		{Links: []bool{true, false, true}},
		{Configure: &cfg},
		{Handover: true},
		{Stop: &why},
		{Start: true},
	} {
		now := t0.Add(time.Duration(i) * millis)
		got, _ := a.Step(now, in)
		var want Output
		switch {
		case in.Tick:
			want = b.Tick(now)
		case in.Advert != nil:
			want = b.Receive(now, 0, in.Advert.Source, in.Advert.Advertisement)
		case in.Heartbeat != nil:
			want = b.ReceiveHeartbeat(now, *in.Heartbeat)
		case in.Fitness != nil:
			want = b.SetFitness(now, *in.Fitness)
		case in.Links != nil:
			want = b.SetLinks(now, in.Links)
		case in.Configure != nil:
			want, _ = b.Reconfigure(now, cfg)
		case in.Handover:
			want, _ = b.Handover(now)
		case in.Stop != nil:
			want = b.Stop(now, why)
		case in.Start:
			want = b.Start(now)
		}
		if got.Heartbeat != want.Heartbeat || got.Revoke != want.Revoke || (got.Transition == nil) != (want.Transition == nil) {
			t.Errorf("input %d: %+v, want %+v", i, got, want)
		}
		if a.State() != b.State() || !a.Deadline().Equal(b.Deadline()) {
			t.Errorf("input %d: %v until %v, want %v until %v", i, a.State(), a.Deadline(), b.State(), b.Deadline())
		}
	}
}

// A MASTER that can hear but not speak must yield to the peer that took over, though
// its priority is higher: only the peer can be heard.
func TestMuteMasterYields(t *testing.T) {
	cfg := with(beating(), func(c *GroupConfig) { c.Priority = 200 })
	deaf := Heartbeat{State: Master, Priority: 180, Term: 2, Beat: testBeat, Hears: []bool{false, false, false}}
	hears := deaf
	hears.Hears = []bool{false, false, true}
	for name, c := range map[string]struct {
		says func(after time.Duration) Heartbeat
		want State
	}{
		"a peer that hears nothing":   {func(time.Duration) Heartbeat { return deaf }, Backup},
		"a peer that hears something": {func(time.Duration) Heartbeat { return hears }, Master},
		"a peer that did not hear at first": {func(after time.Duration) Heartbeat {
			return map[bool]Heartbeat{true: deaf, false: hears}[after < 200*millis]
		}, Master},
		"a peer that says nothing about that": {func(time.Duration) Heartbeat { return Heartbeat{State: Master, Priority: 180, Term: 2} }, Master},
		"a BACKUP that hears nothing":         {func(time.Duration) Heartbeat { h := deaf; h.State = Backup; return h }, Master},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := NewGroup(cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.Start(epoch())
			g.SetFitness(epoch(), Fitness{Ready: true})
			for g.State() != Master {
				g.Tick(g.Deadline())
			}
			t0 := epoch().Add(second)
			for after := time.Duration(0); after < second; after += 10 * millis {
				g.Tick(t0.Add(after - millis)) // the lease is renewed all the time
				g.ReceiveHeartbeat(t0.Add(after), c.says(after))
			}
			if g.State() != c.want {
				t.Errorf("state %v, want %v", g.State(), c.want)
			}
		})
	}
}
