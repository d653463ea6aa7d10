package uplink

import (
	"slices"
	"testing"
	"time"
)

// pair returns a MASTER whose peer could take over.
func pair(t *testing.T, targets ...string) *world {
	t.Helper()
	w := master(t, targets...)
	w.s.SetPeer(w.now, true)
	return w
}

func TestDwell(t *testing.T) {
	t.Run("the peer does not take over", func(t *testing.T) {
		w := pair(t, target)
		w.carrier("fibre", false)
		w.expect("lan", "fibre")
		w.expectFailures("fibre")
		w.expectDuties()
		w.run(dwell - time.Millisecond)
		w.expect("lan", "fibre")
		w.run(time.Millisecond)
		w.expect("lan", "dsl")
		w.expectDuties("lan/fibre")
		w.expectFailures("fibre")
		if last := w.switches[0]; last.At.Sub(last.FailedAt) != dwell {
			t.Errorf("%+v", last)
		}
	})
	t.Run("it does", func(t *testing.T) {
		w := pair(t, target)
		w.carrier("fibre", false)
		w.run(20 * time.Millisecond)
		w.s.SetRole(w.now, false)
		w.expect("lan", "dsl")
		w.expectDuties()
	})
	t.Run("it fails meanwhile", func(t *testing.T) {
		w := pair(t, target)
		w.carrier("fibre", false)
		w.run(20 * time.Millisecond)
		w.s.SetPeer(w.now, false)
		w.expect("lan", "dsl")
	})
	t.Run("the port comes back meanwhile", func(t *testing.T) {
		w := pair(t, target)
		w.carrier("fibre", false)
		w.run(20 * time.Millisecond)
		w.carrier("fibre", true)
		w.run(time.Minute)
		w.expect("lan", "fibre")
		if len(w.switches) > 0 {
			t.Errorf("%+v", w.switches)
		}
	})
	t.Run("no peer", func(t *testing.T) {
		w := master(t, target)
		w.carrier("fibre", false)
		w.expect("lan", "dsl")
	})
	t.Run("not before a planned switch", func(t *testing.T) {
		w := pair(t, target)
		w.s.SetCost(w.now, "fibre", 20)
		w.expect("lan", "dsl")
	})
	t.Run("not when another uplink comes later", func(t *testing.T) {
		w := pair(t, target)
		for _, u := range []string{"lte", "dsl", "fibre"} {
			w.carrier(u, false)
		}
		w.run(time.Minute)
		w.carrier("dsl", true)
		w.until("taken", settling+100*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" })
		if last := w.switches[len(w.switches)-1]; last.At.Sub(w.s.paths[0].chosen.aliveSince) > settling {
			t.Errorf("%+v", last)
		}
	})
}

func TestFailures(t *testing.T) {
	doc := document(target)
	doc.Networks = append(doc.Networks, network("dmz", otherTarget))
	doc.Networks[1].Uplinks = []string{"dsl"}
	w := settle(t, doc)
	w.s.SetRole(w.now, true)
	w.expectFailures()
	// Nobody wants lte.
	w.carrier("lte", false)
	w.expectFailures()
	// dmz has nothing but dsl.
	w.carrier("dsl", false)
	w.expectFailures("dsl", "network dmz")
	w.carrier("fibre", false)
	w.expectFailures("dsl", "fibre", "network dmz")
	// A recovery counts at once for a MASTER.
	w.carrier("dsl", true)
	w.run(time.Second)
	w.expectFailures("fibre")
	// One is in use that is not wanted: its failure counts as long as there is no other.
	w.run(5 * time.Second)
	w.s.SetPeer(w.now, true)
	w.lines["dsl"].dead[target] = true
	w.until("dead", 3500*time.Millisecond, func() bool { return w.candidate("lan", "dsl").State == Dead })
	w.expectFailures("dsl", "fibre", "network lan") // dmz asks something else
}

// What recovers counts against a BACKUP for a while, for longer if it flaps.
func TestRecoveryOfABackup(t *testing.T) {
	w := settle(t, document(target))
	for _, want := range []time.Duration{2, 4, 8} {
		w.carrier("fibre", false)
		w.expectFailures("fibre")
		w.run(time.Second)
		w.carrier("fibre", true)
		if took := w.until("well", 20*time.Second, func() bool { return len(w.s.Failures()) == 0 }); took < want*time.Second || took > want*time.Second+1300*time.Millisecond {
			t.Errorf("well after %v, want %v s", took, want)
		}
		w.until("back", time.Minute, func() bool { return w.chosen("lan") == "fibre" })
		w.run(time.Second)
	}
}

// Something dies for both nodes at once. Whichever notices first, the BACKUP does not look better
// at the moment at which the MASTER knows, so the role does not move; nor when both recover.
func TestCommonFailureMovesNoRole(t *testing.T) {
	for _, what := range []string{"gateway", "beyond"} {
		for phase := range 13 {
			nodes := [2]*world{settle(t, document(target)), settle(t, document(target))}
			nodes[0].s.SetRole(nodes[0].now, true)
			nodes[0].s.SetPeer(nodes[0].now, true)
			nodes[1].s.SetRole(nodes[1].now, false)
			nodes[0].run(time.Duration(phase) * 79 * time.Millisecond)
			worse := func(what string) {
				for range 8000 {
					for _, w := range nodes {
						w.run(time.Millisecond)
					}
					if m, b := nodes[0].s.Failures(), nodes[1].s.Failures(); len(m) > len(b) {
						t.Fatalf("%s, phase %d: MASTER %q, BACKUP %q", what, phase, m, b)
					}
				}
			}
			for _, w := range nodes {
				w.lines["fibre"].beyond = false
				w.lines["fibre"].gateway = what == "beyond"
			}
			worse(what + " dies")
			for _, w := range nodes {
				w.lines["fibre"].beyond, w.lines["fibre"].gateway = true, true
			}
			worse(what + " recovers")
			if got := nodes[0].s.Failures(); len(got) > 0 {
				t.Fatalf("%q", got)
			}
		}
	}
}

// When only the MASTER's way is dead, the BACKUP is the better one at once.
func TestOwnFailureMovesTheRole(t *testing.T) {
	m, b := pair(t, target), settle(t, document(target))
	m.lines["fibre"].gateway, m.lines["fibre"].beyond = false, false
	m.until("known", 1200*time.Millisecond, func() bool { return slices.Equal(m.s.Failures(), []string{"fibre"}) })
	m.expect("lan", "fibre")
	b.run(5 * time.Second)
	b.expectFailures()
}
