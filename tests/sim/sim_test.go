package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/vrrp"
)

//nolint:gochecknoglobals // flags of the test binary
var (
	seedsFlag = flag.Uint64("seeds", 1000, "how many seeds TestSeeds runs, from 1 on")
	seedFlag  = flag.Uint64("seed", 0, "the one seed that TestSeeds runs, with its trace")
)

// simulate runs a seed: both nodes start, faults come and go, and then all is
// well for long enough to see that it stays so.
func simulate(seed uint64, m mutation, verbose bool) *world {
	w := newWorld(seed, m)
	w.verbose = verbose
	w.boot()
	interval := w.intervalMax
	end := max(80*interval, 8*time.Second)
	w.scheduleFaults(5*interval, end)
	w.run(end)
	w.settle(end)
	return w
}

// boot starts both nodes, one a little after the other.
func (w *world) boot() {
	for _, n := range w.nodes {
		n.notReady++
		w.after(w.between(0, 2*w.intervalMax), n.start)
		w.after(w.between(2*w.intervalMax, 3*w.intervalMax+time.Second), n.synced)
	}
}

// settle lets the time pass after the last fault and checks that it ends well.
func (w *world) settle(end time.Duration) {
	if w.violation == "" {
		for id, n := range w.nodes {
			if !n.running() || n.stopped != 0 || !w.clear(id, lan) || !w.clear(id, wan) || !w.clear(id, ha) {
				w.fail("the simulation is wrong: a fault of node %d has not ended", id)
			}
		}
	}
	// The longest way: two that accept and offer each other a role, a silent peer
	// and a late wake-up.
	served := end + 2*w.downMax() + 2*w.intervalMax + 100*time.Millisecond
	w.watch.servedFrom = served
	// Then a session table, patience with an impaired peer, and a preemption.
	stable := served + syncMax + recovery + 2*time.Second + 3*w.downMax()
	w.run(stable)
	before := w.transitions()
	w.run(stable + 15*w.intervalMax)
	if w.violation != "" {
		return
	}
	if after := w.transitions(); after != before {
		w.fail("%d transitions, %v after the last fault", after-before, stable-end)
	}
	w.checkEnd()
}

func (w *world) transitions() int { return w.nodes[0].transitions + w.nodes[1].transitions }

// checkEnd demands one MASTER, the right one, with an open fence.
func (w *world) checkEnd() {
	masters := 0
	for _, n := range w.nodes {
		master := n.process.State() == vrrp.Master
		if master {
			masters++
		}
		if open := n.fenceUntil > w.now; open != master {
			w.fail("node %d is %v and open is %v", n.id, n.process.State(), open)
		}
	}
	if masters != 1 {
		w.fail("%d nodes are MASTER at the end", masters)
	}
	first, second := w.nodes[0], w.nodes[1]
	if !w.planned && first.cfg.Preempt && first.cfg.Priority > second.cfg.Priority && first.process.State() != vrrp.Master {
		w.fail("the node of lower priority is MASTER at the end, in spite of Preempt")
	}
}

func report(t *testing.T, seed uint64, violation string) {
	t.Helper()
	w := simulate(seed, noMutation, true)
	tail := w.trace[max(0, len(w.trace)-120):]
	t.Errorf("seed %d %s\nreplay: go test ./tests/sim -run TestSeeds -seed=%d -v\n%s", seed, violation, seed, strings.Join(tail, "\n"))
}

func TestSeeds(t *testing.T) {
	t.Parallel()
	if *seedFlag != 0 {
		w := simulate(*seedFlag, noMutation, true)
		t.Log("\n" + strings.Join(w.trace, "\n"))
		if w.violation != "" {
			t.Errorf("seed %d %s", *seedFlag, w.violation)
		}
		return
	}
	var mu sync.Mutex
	failed := map[uint64]string{}
	var transitions int
	forEachSeed(*seedsFlag, func(seed uint64) bool {
		w := simulate(seed, noMutation, false)
		mu.Lock()
		defer mu.Unlock()
		transitions += w.transitions()
		if w.violation != "" {
			failed[seed] = w.violation
		}
		return len(failed) < 20
	})
	t.Logf("%d seeds, %d transitions", *seedsFlag, transitions)
	shown := 0
	for seed, violation := range failed {
		if shown++; shown > 1 {
			t.Errorf("seed %d %s", seed, violation)
			continue
		}
		report(t, seed, violation)
	}
}

// forEachSeed runs do on every processor until it returns false. The runs share
// nothing.
func forEachSeed(seeds uint64, do func(seed uint64) bool) {
	var wg sync.WaitGroup
	workers := uint64(runtime.GOMAXPROCS(0))
	for first := range workers {
		wg.Go(func() {
			for seed := first + 1; seed <= seeds; seed += workers {
				if !do(seed) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSameSeedSameTrace(t *testing.T) {
	t.Parallel()
	hashes := map[uint64]uint64{}
	for seed := uint64(1); seed <= 50; seed++ {
		first, second := simulate(seed, noMutation, false), simulate(seed, noMutation, true)
		if first.hash != second.hash {
			t.Errorf("seed %d: trace hash %x, then %x", seed, first.hash, second.hash)
		}
		if other, ok := hashes[first.hash]; ok {
			t.Errorf("seeds %d and %d have the same trace", other, seed)
		}
		hashes[first.hash] = seed
	}
}

// TestMutations: a simulation that does not notice a broken rule is worth nothing.
func TestMutations(t *testing.T) {
	t.Parallel()
	const seeds = 300
	for m := noMutation + 1; m < mutations; m++ {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= seeds; seed++ {
				if w := simulate(seed, m, false); w.violation != "" {
					t.Logf("seed %d %s", seed, w.violation)
					return
				}
			}
			t.Errorf("%d seeds found nothing wrong", seeds)
		})
	}
}

// calm returns a run without chance: both nodes start at once and are ready.
func calm(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(seed, noMutation)
	for _, n := range w.nodes {
		n.start()
	}
	w.run(10 * w.intervalMax)
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
		w.run(1000 * w.intervalMax)
		if w.violation != "" || w.transitions() != elected || elected > 5 {
			t.Errorf("seed %d: %d transitions, then %d %s", seed, elected, w.transitions()-elected, w.violation)
		}
	}
}

// TestPlannedHandoverIsSeamless: at every moment one fence is open, and both are
// only while the new MASTER's advert is on its way.
func TestPlannedHandoverIsSeamless(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 200; seed++ {
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
		if w.watch.overlapMax > w.delayMax {
			t.Errorf("seed %d: both were open for %v, longer than a packet takes (%v)", seed, w.watch.overlapMax, w.delayMax)
		}
	}
}

// afterDeath is for how long no fence is open when the MASTER dies without a word.
func afterDeath(w *world) time.Duration {
	n := w.nodes[1]
	if w.beats {
		// A question, and the wait for its answer.
		return n.cfg.Beat + w.delayMax + wakeJitter
	}
	return n.process.DownInterval() - n.cfg.Lease + w.delayMax
}

// TestFailoverTime bounds how long nobody is MASTER after a single fault.
func TestFailoverTime(t *testing.T) {
	t.Parallel()
	skew := func(w *world) time.Duration {
		return w.nodes[1].process.DownInterval() - 3*w.nodes[1].cfg.Interval
	}
	tests := []struct {
		name  string
		what  func(w *world)
		bound func(w *world) time.Duration
	}{
		{"stopped in order", func(w *world) { w.master().stopped++; w.master().stop() }, func(w *world) time.Duration {
			return skew(w) + w.delayMax
		}},
		// The fence of the dead stays open for up to a lease of the silence.
		{"killed", func(w *world) { n := w.master(); n.stopped++; n.die() }, afterDeath},
		{"paused", func(w *world) { w.master().paused++ }, afterDeath},
		{"frozen", func(w *world) { w.master().paused++; w.master().frozen++ }, afterDeath},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 200; seed++ {
				w := calm(t, seed)
				w.run(w.now + w.between(0, w.intervalMax))
				old := w.master()
				bound := tt.bound(w) + wakeJitter
				w.watch.closedMax, w.watch.overlapMax = 0, 0
				tt.what(w)
				w.run(w.now + 20*w.intervalMax)
				if w.violation != "" || w.master() == old {
					t.Errorf("seed %d: no failover %s", seed, w.violation)
				}
				if w.watch.closedMax > bound || w.watch.overlapMax > 0 {
					t.Errorf("seed %d: nobody was MASTER for %v, bound %v; both for %v", seed, w.watch.closedMax, bound, w.watch.overlapMax)
				}
			}
		})
	}
}

// master returns the node whose fence opened last.
func (w *world) master() *node {
	if w.nodes[0].leftAt > w.nodes[1].leftAt {
		return w.nodes[0]
	}
	return w.nodes[1]
}

func TestHeapOrdersByTimeAndSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(1, noMutation)
	var h heap
	for i := range uint64(500) {
		h.push(event{at: w.between(0, 20), seq: i})
	}
	last := event{at: -1}
	for len(h) > 0 {
		e := h.pop()
		if e.at < last.at || e.at == last.at && e.seq < last.seq {
			t.Fatalf("%v after %v", fmt.Sprint(e.at, e.seq), fmt.Sprint(last.at, last.seq))
		}
		last = e
	}
}
