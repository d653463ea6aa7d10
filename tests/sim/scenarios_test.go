package sim

import (
	"testing"
	"time"

	"tandem/router"
	"tandem/vrrp"
)

// calm returns a run without chance: both members start at once and are ready.
func calm(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(seed)
	for c := range carriers {
		w.links[c].background, w.links[c].duplicates = 0, 0
	}
	for _, m := range w.members {
		m.start()
	}
	w.run(10*w.intervalMax + w.document.preemptDelay)
	if w.violation != "" {
		t.Fatalf("seed %d %s", seed, w.violation)
	}
	return w
}

func TestQuietNetworkElectsOnce(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 100; seed++ {
		w := calm(t, seed)
		// An equal pair may both speak up at first; then the address decides.
		elected := w.transitions()
		w.run(w.now + 300*w.intervalMax)
		if w.violation != "" || w.transitions() != elected || elected > 5 {
			t.Errorf("seed %d: %d transitions, then %d %s", seed, elected, w.transitions()-elected, w.violation)
		}
	}
}

// TestPlannedHandoverIsSeamless: at every moment one fence is open, and both are only
// while the new MASTER's advert is on its way and a moment longer.
func TestPlannedHandoverIsSeamless(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 100; seed++ {
		w := calm(t, seed)
		before := w.transitions()
		w.watch.closedMax, w.watch.overlapMax = 0, 0
		for range 5 {
			w.after(w.between(0, w.intervalMax), func() { plannedHandover(w, 0) })
			w.run(w.now + 8*w.intervalMax)
		}
		if got := w.transitions() - before; w.violation != "" || got != 10 {
			t.Errorf("seed %d: %d transitions, want 10; %s", seed, got, w.violation)
		}
		if w.watch.closedMax != 0 {
			t.Errorf("seed %d: nobody was MASTER for %v", seed, w.watch.closedMax)
		}
		if bound := w.delayMax() + slack + w.lingering(); w.watch.overlapMax > bound {
			t.Errorf("seed %d: both were open for %v, longer than a packet takes and the old MASTER lingers (%v)", seed, w.watch.overlapMax, bound)
		}
	}
}

// master returns the member whose fence opened last, and the other one.
func (w *world) master() (master, backup *machine) {
	if w.members[0].leftAt > w.members[1].leftAt {
		return w.members[0], w.members[1]
	}
	return w.members[1], w.members[0]
}

// afterSilence is for how long no fence is open when the MASTER falls silent: with beats
// for the time after which the BACKUP is MASTER, without the lease.
func afterSilence(w *world, takeover func(beat time.Duration) time.Duration) time.Duration {
	_, b := w.master()
	silence := b.group.DownInterval()
	if b.cfg.Beat > 0 {
		silence = takeover(b.cfg.Beat)
	}
	return w.drifted(silence) - b.cfg.Lease + w.lag()
}

// The kernel of a dead process refuses heartbeats, so that half a beat after the lease
// is enough.
func afterDeath(w *world) time.Duration {
	return afterSilence(w, func(beat time.Duration) time.Duration { return silentBeats(beat) + beat/2 })
}

func afterHang(w *world) time.Duration { return afterSilence(w, silenceMax) }

func afterPowerOff(w *world) time.Duration {
	m, _ := w.master()
	answer := func(beat time.Duration) time.Duration { return silentBeats(beat) + beat }
	// The fence of a machine without power is closed at once.
	return afterSilence(w, answer) + w.drifted(m.cfg.Lease)
}

// TestFailoverTime bounds how long nobody is MASTER after a single fault.
func TestFailoverTime(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		what  func(w *world, m *machine)
		bound func(w *world) time.Duration
	}{
		{"stopped in order", func(_ *world, m *machine) { m.stopped++; m.stop() }, func(w *world) time.Duration {
			_, b := w.master()
			return w.drifted(b.group.SkewTime()) + w.lag()
		}},
		// The fence of the dead stays open for up to a lease of the silence.
		{"killed", func(_ *world, m *machine) { m.stopped++; m.die() }, afterDeath},
		{"paused", func(_ *world, m *machine) { m.paused++ }, afterHang},
		{"without power", func(w *world, _ *machine) { powerOffMaster(w) }, afterPowerOff},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 200; seed++ {
				w := calm(t, seed)
				w.run(w.now + w.between(0, w.intervalMax))
				old, _ := w.master()
				bound := tt.bound(w) + wakeJitter
				w.watch.closedMax, w.watch.overlapMax = 0, 0
				tt.what(w, old)
				w.run(w.now + 20*w.intervalMax)
				if now, _ := w.master(); w.violation != "" || now == old {
					t.Errorf("seed %d: no failover %s", seed, w.violation)
				}
				if w.watch.closedMax > bound || w.watch.overlapMax > 0 {
					t.Errorf("seed %d: nobody was MASTER for %v, bound %v; both for %v", seed, w.watch.closedMax, bound, w.watch.overlapMax)
				}
			}
		})
	}
}

// TestStallMovesNothing: whatever the interval, the MASTER's process may stall for a
// while, again and again.
func TestStallMovesNothing(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 200; seed++ {
		w := calm(t, seed)
		if w.noBeats {
			continue
		}
		before := w.transitions()
		for range 10 {
			m, _ := w.master()
			m.paused++
			since := m.local()
			w.run(w.now + w.between(0, maxStall-w.lag()-wakeJitter))
			m.resume(since)
			w.run(w.now + w.between(2*w.intervalMax, 3*w.intervalMax))
		}
		if w.violation != "" || w.transitions() != before {
			t.Errorf("seed %d, intervals of %v: %d transitions %s", seed, w.document.interval, w.transitions()-before, w.violation)
		}
	}
}

// powerOffMaster takes the power of the MASTER, for good.
func powerOffMaster(w *world) {
	m, _ := w.master()
	m.stopped++
	m.off++
	m.die()
	m.fenceUntil = 0
	for c := range ha {
		w.setDown(m, c, 1)
	}
}

// flapping lets a network's link of a machine go down and up, for times drawn from the
// bounds, until the end of the run.
func (w *world) flapping(machines []*machine, low, high time.Duration, downs *int) {
	var toggle func(by int)
	toggle = func(by int) {
		for _, m := range machines {
			w.setDown(m, 0, by)
		}
		if by > 0 {
			*downs += len(machines)
		}
		w.after(w.between(low, high), func() { toggle(-by) })
	}
	toggle(1)
}

// TestFlappingLinks measures for how long a member is MASTER while links flap, and
// bounds how often the role moves:
//
//   - a member whose own link flaps gets the role back only after its link was up for
//     [router.RecoveryTime], so the other one keeps it for as long at least, and the role
//     moves twice with every such recovery at most;
//   - where both flap, the role moves with a failure of the MASTER, with the return of
//     the other one's link while the MASTER's is down, and with a recovery;
//   - where the switch of both flaps, the role does not move: both are equally bad, though
//     they notice one after the other.
func TestFlappingLinks(t *testing.T) {
	t.Parallel()
	const length = 2 * time.Minute
	tests := []struct {
		name      string
		who       func(w *world) [][]*machine
		low, high time.Duration
		// alone tells that one member does not flap, common that both do at once.
		alone, common bool
	}{
		{"one member, fast", func(w *world) [][]*machine { return [][]*machine{{w.members[0]}} }, 20 * time.Millisecond, time.Second, true, false},
		{"one member, slow", func(w *world) [][]*machine { return [][]*machine{{w.members[0]}} }, 100 * time.Millisecond, 6 * time.Second, true, false},
		{"each on its own, fast", func(w *world) [][]*machine { return [][]*machine{{w.members[0]}, {w.members[1]}} }, 20 * time.Millisecond, time.Second, false, false},
		{"each on its own, slow", func(w *world) [][]*machine { return [][]*machine{{w.members[0]}, {w.members[1]}} }, 100 * time.Millisecond, 6 * time.Second, false, false},
		{"the switch of both", func(w *world) [][]*machine { return [][]*machine{w.members[:]} }, 100 * time.Millisecond, 6 * time.Second, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var dwells []dwell
			changes, failures := 0, 0
			for seed := uint64(1); seed <= 20; seed++ {
				w := calm(t, seed)
				w.broken++ // it flaps until the end
				w.dwells, w.masterSlot, w.recoveries = nil, -1, 0
				downs := 0
				for _, machines := range tt.who(w) {
					w.flapping(machines, tt.low, tt.high, &downs)
				}
				w.run(w.now + length)
				if w.violation != "" {
					t.Errorf("seed %d %s", seed, w.violation)
					continue
				}
				dwells = append(dwells, w.dwells...)
				changes, failures = changes+len(w.dwells), failures+downs
				if tt.common && 3*w.intervalMax > judgeDelayMax {
					// With shorter intervals a BACKUP does not wait until it knows.
					if len(w.dwells) > 0 {
						t.Errorf("seed %d: %d changes, though both are equally bad", seed, len(w.dwells))
					}
					continue
				}
				checkFlaps(t, w, tt.alone, downs)
			}
			t.Logf("%d failures of a link in %v, %d changes of the MASTER; between two of them: %s", failures, 20*length, changes, distribution(dwells))
		})
	}
}

// checkFlaps bounds the number of changes of the MASTER, and for how long at least
// a member that does not flap is MASTER.
func checkFlaps(t *testing.T, w *world, alone bool, downs int) {
	t.Helper()
	bound := 2*downs + w.recoveries
	if alone {
		bound = 2*w.recoveries + 1
	}
	if len(w.dwells) > bound {
		t.Errorf("seed %d: %d changes, with %d failures and %d recoveries, bound %d", w.seed, len(w.dwells), downs, w.recoveries, bound)
	}
	shortest := router.RecoveryTime - router.RecoveryTime*2*driftMax/1_000_000
	for _, d := range w.dwells {
		if alone && d.slot == 1 && d.length < shortest {
			t.Errorf("seed %d: the member that does not flap was MASTER for %v only, bound %v", w.seed, d.length, shortest)
		}
	}
}

// TestForeignRouterKeepsItsPlace: beside a foreign router that outranks it, a pair
// settles; beside one that it outranks, it serves.
func TestForeignRouterKeepsItsPlace(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 60; seed++ {
		for _, priority := range []uint8{100, 250} {
			w := calm(t, seed)
			w.addForeign()
			cfg := w.foreign.cfg
			cfg.Priority, cfg.Preempt = priority, true
			w.foreign.adopt(cfg, w.foreign.carriers)
			w.run(w.now + 30*w.intervalMax)
			before := w.transitions()
			w.run(w.now + 30*w.intervalMax)
			if w.violation != "" || w.transitions() != before {
				t.Errorf("seed %d: %d transitions beside a foreign router with %d %s", seed, w.transitions()-before, priority, w.violation)
			}
			if got := w.foreign.is(vrrp.Master); got != (priority == 250) {
				t.Errorf("seed %d: the foreign router with priority %d is MASTER: %v", seed, priority, got)
			}
		}
	}
}
