package vrrp

import (
	"reflect"
	"testing"
	"time"
)

// fresh is a heartbeat of a BACKUP that could take over.
func fresh(priority uint8, ready bool) Heartbeat {
	return Heartbeat{State: Backup, Priority: priority, Ready: ready, Term: 1}
}

// offered is what a MASTER does when it offers its role.
func offered() Output { return Output{Heartbeat: true} }

// lingers is what an old MASTER does that has heard the new one: it says nothing more,
// and its fence stays open.
func lingers(out Output) Output {
	out.Revoke, out.Heartbeat = false, false
	return out
}

func TestHandoverIsRefused(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	tell(t, []story{
		{"by a BACKUP", member(), backup(true, step{at: 1, do: handover(ErrNotMaster), state: Backup})},
		{"when the peer was never heard", member(), master(true, step{at: at, do: handover(ErrPeerSilent), state: Master})},
		{"when only adverts of it were heard", member(), master(
			true,
			step{at: at, do: adverts(99), state: Master, want: answered(100)},
			step{at: at, do: handover(ErrPeerSilent), state: Master},
		)},
		{"when its heartbeats are old", member(), master(
			true,
			step{at: at, do: beats(fresh(180, true)), state: Master},
			step{at: at + 500*millis, do: tick, state: Master, want: beaten(advertised(100))},
			step{at: at + 2*second, do: tick, state: Master, want: beaten(advertised(100))},
			step{at: at + down100, do: handover(ErrPeerSilent), state: Master},
		)},
		{"when it has stopped", member(), master(
			true,
			step{at: at, do: beats(Heartbeat{State: Initialize, Priority: 180, Ready: true}), state: Master},
			step{at: at, do: handover(ErrPeerSilent), state: Master},
		)},
		{"when it is less fit", member(), master(
			true,
			step{at: at, do: beats(fresh(99, true)), state: Master},
			step{at: at, do: handover(ErrPeerLessFit), state: Master},
		)},
		{"when it is not ready", member(), master(
			true,
			step{at: at, do: beats(fresh(180, false)), state: Master},
			step{at: at, do: handover(ErrPeerNotReady), state: Master},
		)},
	})
}

func TestPlannedHandoverOfOldMaster(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	offer := []step{
		{at: at, do: beats(fresh(100, true)), state: Master},
		{at: at, do: handover(nil), state: Master, deadline: at + 250*millis, want: offered()},
	}
	story200 := func(rest ...step) []step { return master(true, append(append([]step(nil), offer...), rest...)...) }
	tell(t, []story{
		{"keeps advertising until the peer does, and repeats the offer", member(), story200(
			step{at: at + 250*millis, do: tick, state: Master, deadline: at + 500*millis, want: offered()},
			step{at: at + 500*millis, do: tick, state: Master, deadline: at + 750*millis, want: beaten(advertised(100))},
			step{at: at + 600*millis, do: adverts(0), state: Master, want: advertised(100)},
			// The peer's priority does not matter.
			step{at: at + 700*millis, do: advertsFrom(1, "198.51.100.200", 100, second), state: Backup, want: lingers(demoted(true, ReasonHandover, 1)), deadline: at + 700*millis + handoverLinger},
			step{at: at + 700*millis + handoverLinger, do: tick, state: Backup, want: Output{Revoke: true, Heartbeat: true}},
			step{at: at + 700*millis + handoverLinger + second, do: tick, state: Backup, want: Output{Heartbeat: true}},
		)},
		{"steps back on a heartbeat of the new MASTER", member(), story200(
			step{at: at + 1, do: beats(Heartbeat{State: Master, Priority: 100, Term: 2}), state: Backup, want: lingers(demoted(true, ReasonHandover, 2))},
			step{at: at + 2*millis, do: tick, state: Backup},
			// It says what has changed before, and with that its fence closes.
			step{at: at + 2*millis, do: func(_ *testing.T, g *Group, now time.Time) Output { return g.SetFitness(now, Fitness{Failed: 1}) }, state: Backup, want: Output{Revoke: true, Heartbeat: true}},
		)},
		{"steps back for a stranger and closes its fence", member(), story200(
			step{at: at + 1, do: advertsFrom(2, "169.254.0.1", 100, second), state: Backup, want: demoted(true, ReasonHandover, 1)},
		)},
		{"that stops at once closes its fence", member(), story200(
			step{at: at + 1, do: beats(Heartbeat{State: Master, Priority: 100, Term: 2}), state: Backup, want: lingers(demoted(true, ReasonHandover, 2))},
			step{at: at + 2, do: func(_ *testing.T, g *Group, now time.Time) Output {
				out := g.Stop(now, ReasonShutdown)
				out.Transition = nil
				return out
			}, state: Initialize, want: Output{Revoke: true, Heartbeat: true}},
		)},
		{"takes the role back at once", member(), story200(
			step{at: at + 1, do: beats(Heartbeat{State: Master, Priority: 100, Term: 2}), state: Backup, want: lingers(demoted(true, ReasonHandover, 2))},
			step{at: at + 2, do: beats(Heartbeat{State: Master, Priority: 100, Term: 2, TakeOver: true}), state: Master, want: promoted(true, 100, ReasonHandover, 3)},
		)},
		{"stays on another heartbeat of the BACKUP", member(), story200(
			step{at: at + 1, do: beats(fresh(100, true)), state: Master},
			step{at: at + 2, do: beats(Heartbeat{State: Initialize, Priority: 100, Term: 1}), state: Master},
		)},
		{"the offer lapses after two down intervals", member(), append(
			story200(keepAlive(at, at+2*down100)...),
			step{at: at + 2*down100, do: tick, state: Master, want: beaten(Output{})},
			// From now on the peer would have to be better.
			step{at: at + 2*down100 + 400*millis, do: adverts(99), state: Master, want: answered(100)},
		)},
	})
}

// keepAlive ticks through the heartbeats and adverts of a MASTER that has offered
// its role at the time from, and shortly before until.
func keepAlive(from, until time.Duration) []step {
	var steps []step
	advert := down100 + second
	for at := from + 250*millis; at < until; at += 250 * millis {
		s := step{at: at, do: tick, state: Master, want: offered()}
		if at >= advert {
			s.want = beaten(advertised(100))
			advert = at + second
		}
		steps = append(steps, s)
	}
	return steps
}

func TestPlannedHandoverOfNewMaster(t *testing.T) {
	t.Parallel()
	const at = 2 * second
	cfg := member()
	takeOver := Heartbeat{State: Master, Priority: 200, Ready: true, TakeOver: true, Term: 5}
	withdrawn := takeOver
	withdrawn.TakeOver = false
	// The heartbeats are on time until the offer comes.
	listening := func(rest ...step) []step {
		return backup(true, append([]step{
			{at: second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			{at: at - 1, do: adverts(200), state: Backup},
		}, rest...)...)
	}
	tookOver := step{at: at, do: beats(takeOver), state: Master, want: promoted(true, 100, ReasonHandover, 6)}
	tell(t, []story{
		{"takes the role at once", cfg, listening(tookOver)},
		{"does not mind better adverts of the old MASTER", cfg, listening(
			tookOver,
			step{at: at + 10*millis, do: adverts(200), state: Master},
			step{at: at + 100*millis, do: adverts(200), state: Master, want: answered(100)},
			step{at: at + 200*millis, do: beats(takeOver), state: Master},
			step{at: at + 200*millis, do: adverts(200), state: Master, want: answered(100)},
		)},
		{"until two down intervals have passed", cfg, listening(append(
			append([]step{tookOver}, masterTicks(at, at+2*down100)...),
			step{at: at + 2*down100, do: adverts(200), state: Master, want: answered(100)},
			step{at: at + 2*down100 + 100*millis, do: adverts(200), state: Backup, want: demoted(true, ReasonBetterPeer, 6)},
		)...)},
		{"until the old MASTER has withdrawn the offer", cfg, listening(
			tookOver,
			step{at: at + 100*millis, do: beats(withdrawn), state: Master},
			step{at: at + 200*millis, do: adverts(200), state: Backup, want: demoted(true, ReasonBetterPeer, 6)},
		)},
		{"until an interval after the old MASTER has yielded", cfg, listening(
			tookOver,
			step{at: at + 100*millis, do: beats(Heartbeat{State: Backup, Priority: 200, Ready: true, Term: 6}), state: Master, want: beaten(answered(100))},
			step{at: at + 1100*millis, do: adverts(200), state: Master, want: answered(100)},
			step{at: at + 1100*millis + 1, do: adverts(200), state: Backup, want: demoted(true, ReasonBetterPeer, 6)},
		)},
		{"an old term's offer is not taken", cfg, listening(
			step{at: at, do: beats(Heartbeat{State: Backup, Priority: 200, Term: 7}), state: Backup},
			step{at: at, do: beats(takeOver), state: Backup},
		)},
		{"nor that of somebody who is not MASTER", cfg, listening(
			step{at: at, do: beats(Heartbeat{State: Backup, TakeOver: true, Term: 7}), state: Backup},
		)},
		// Who knows how long it waited in the socket? It comes again if it stands.
		{"nor one that comes with an own stall", cfg, backup(
			true,
			step{at: second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 3*second + 1, do: beats(takeOver), state: Backup},
			step{at: 3*second + 1, do: tick, state: Backup, want: Output{Heartbeat: true}},
			step{at: 3*second + 250*millis, do: beats(takeOver), state: Master, want: promoted(true, 100, ReasonHandover, 6)},
		)},
	})
}

// masterTicks are the ticks of a MASTER that last sent at from.
func masterTicks(from, until time.Duration) []step {
	var steps []step
	for at := from + second; at < until; at += second {
		steps = append(steps, step{at: at, do: tick, state: Master, want: beaten(advertised(100))})
	}
	return steps
}

// TestPlannedHandoverSuspendsPreempt: who handed over on demand does not take the
// role back, though its priority is higher; who handed over because it was
// impaired does, once it is well.
func TestPlannedHandoverSuspendsPreempt(t *testing.T) {
	t.Parallel()
	cfg := with(member(), func(c *GroupConfig) { c.Priority = 200 })
	const down200 = 3*second + 56*second/256
	const at = down200 + 500*millis
	yielded := lingers(demoted(true, ReasonHandover, 1))
	// It has not met its peer yet, so it is modest.
	up := backup(true, step{at: down200, do: tick, state: Master, want: promoted(true, HealthyPriority, ReasonPeerSilent, 1)})
	planned := append(
		up[:len(up):len(up)],
		step{at: at, do: beats(fresh(180, true)), state: Master, want: answered(200)},
		step{at: at, do: handover(nil), state: Master, want: offered()},
		step{at: at, do: adverts(180), state: Backup, want: yielded},
	)
	impaired := append(
		up[:len(up):len(up)],
		step{at: at, do: beats(fresh(180, true)), state: Master, want: answered(200)},
		step{at: at, do: fit(1, true), state: Master, want: beaten(advertised(80))},
		step{at: at + commonCause, do: tick, state: Master, want: offered()},
		step{at: at + commonCause + 1, do: adverts(180), state: Backup, want: yielded},
		step{at: at + commonCause + 2, do: fit(0, true), state: Backup, want: Output{Revoke: true, Heartbeat: true}},
	)
	tell(t, []story{
		{"planned", cfg, append(
			planned[:len(planned):len(planned)],
			step{at: at + handoverLinger, do: tick, state: Backup, want: Output{Revoke: true, Heartbeat: true}},
			step{at: at + second, do: adverts(180), state: Backup},
			step{at: at + 4*second, do: adverts(180), state: Backup, want: Output{}},
			step{at: at + 4*second, do: tick, state: Backup, want: Output{Heartbeat: true}},
			// An impairment of the new MASTER is another matter.
			step{at: at + 5*second, do: adverts(90), state: Backup},
			step{at: at + 4*second + down200, do: tick, state: Master, want: promoted(true, 200, ReasonPeerImpaired, 2)},
		)},
		{"planned, until it was MASTER again", cfg, append(
			planned[:len(planned):len(planned)],
			step{at: at + second, do: adverts(0), state: Backup},
			step{at: at + second + 56*second/256, do: tick, state: Master, want: promoted(true, 200, ReasonPeerStopped, 2)},
			step{at: at + 2*second, do: adverts(201), state: Backup, want: demoted(true, ReasonBetterPeer, 2)},
			step{at: at + 3*second, do: adverts(180), state: Backup},
			step{at: at + 2*second + down200, do: tick, state: Master, want: promoted(true, 200, ReasonPreempted, 3)},
		)},
		{"impaired", cfg, append(
			impaired[:len(impaired):len(impaired)],
			step{at: at + second, do: adverts(180), state: Backup},
			step{at: at + commonCause + 1 + 3*second + 176*second/256, do: tick, state: Master, want: promoted(true, 200, ReasonPreempted, 2)},
		)},
	})
}

func TestImpairedMasterOffers(t *testing.T) {
	t.Parallel()
	const at = down100 + 500*millis
	tell(t, []story{
		{"to a fitter peer", member(), master(
			true,
			step{at: at, do: beats(fresh(100, true)), state: Master},
			step{at: at, do: fit(1, true), state: Master, deadline: at + commonCause, want: beaten(advertised(80))},
			step{at: at + commonCause, do: tick, state: Master, deadline: at + commonCause + 250*millis, want: offered()},
			step{at: at + commonCause + 250*millis, do: tick, state: Master, deadline: at + commonCause + 500*millis, want: offered()},
		)},
		{"not to one that the same switch has failed", member(), master(
			true,
			step{at: at, do: beats(fresh(100, true)), state: Master},
			step{at: at, do: fit(1, true), state: Master, deadline: at + commonCause, want: beaten(advertised(80))},
			step{at: at + commonCause - 1, do: beats(fresh(80, true)), state: Master, deadline: at + second},
			step{at: at + commonCause, do: tick, state: Master, deadline: at + second},
		)},
		{"not to an equal one", member(), master(
			true,
			step{at: at, do: beats(fresh(89, true)), state: Master},
			step{at: at, do: fit(1, true), state: Master, deadline: at + second, want: beaten(advertised(80))},
		)},
		{"when the peer recovers", member(), master(
			true,
			step{at: at, do: fit(1, true), state: Master, want: beaten(advertised(80))},
			step{at: at, do: beats(fresh(70, true)), state: Master, deadline: at + second},
			step{at: at + 1, do: beats(fresh(100, true)), state: Master, deadline: at + 1 + commonCause},
			step{at: at + 1 + commonCause, do: tick, state: Master, deadline: at + 1 + commonCause + 250*millis, want: offered()},
		)},
		{"to a peer that is not ready, after two seconds", member(), master(
			true,
			step{at: at, do: fit(1, true), state: Master, want: beaten(advertised(80))},
			step{at: at, do: beats(fresh(100, false)), state: Master, deadline: at + commonCause},
			step{at: at + commonCause, do: tick, state: Master, deadline: at + second},
			step{at: at + second, do: tick, state: Master, want: beaten(advertised(80))},
			step{at: at + second, do: beats(fresh(100, false)), state: Master},
			step{at: at + patience - 1, do: beats(fresh(100, false)), state: Master},
			step{
				at: at + patience, do: tick, state: Master, deadline: at + patience + 250*millis,
				want: beaten(advertised(80)),
			},
		)},
		{"never to a silent one", member(), master(
			true,
			step{at: at, do: fit(1, true), state: Master, deadline: at + second, want: beaten(advertised(80))},
			step{at: at + second, do: tick, state: Master, deadline: at + 2*second, want: beaten(advertised(80))},
		)},
	})
}

func TestPeerState(t *testing.T) {
	t.Parallel()
	g := newMaster(t, member())
	now := epoch().Add(down100)
	if g.PeerAlive(now) {
		t.Error("a peer that was never heard is alive")
	}
	g.ReceiveHeartbeat(now, Heartbeat{State: Backup, Priority: 80, Ready: true, Term: 1})
	want := PeerState{HeardAt: now, State: Backup, Priority: 80, Ready: true, HeartbeatAt: now}
	if !reflect.DeepEqual(g.Peer(), want) {
		t.Errorf("peer %+v, want %+v", g.Peer(), want)
	}
	if !g.PeerAlive(now.Add(down100-1)) || g.PeerAlive(now.Add(down100)) {
		t.Error("a peer is alive for one down interval")
	}
	later := now.Add(second)
	advertsFrom(0, "192.0.2.77", 98, second)(t, g, later)
	if !reflect.DeepEqual(g.Peer(), want) {
		t.Errorf("a third router's advert made %+v of the peer", g.Peer())
	}
	later = later.Add(second)
	adverts(99)(t, g, later)
	if p := g.Peer(); p.State != Master || p.Priority != 99 || !p.HeardAt.Equal(later) || !p.HeartbeatAt.Equal(now) {
		t.Errorf("peer after an advert: %+v", p)
	}
	if g.Term() != 1 || g.Transitions() != 2 {
		t.Errorf("term %d and %d transitions, want 1 and 2", g.Term(), g.Transitions())
	}
	g.ReceiveHeartbeat(later, Heartbeat{State: Backup, Term: 9})
	if g.Term() != 9 {
		t.Errorf("term %d, want that of the peer, 9", g.Term())
	}
	want9 := Heartbeat{State: Master, Priority: 100, Ready: true, Term: 9, Hears: g.Hears(later)}
	if beat := g.Heartbeat(later); !reflect.DeepEqual(beat, want9) {
		t.Errorf("heartbeat %+v, want %+v", beat, want9)
	}
}
