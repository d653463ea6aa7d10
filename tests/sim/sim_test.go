package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/vrrp"
)

//nolint:gochecknoglobals // flags of the test binary
var (
	seedsFlag = flag.Uint64("seeds", 1000, "how many seeds TestSeeds runs, from -from on")
	fromFlag  = flag.Uint64("from", 1, "the first seed that TestSeeds runs")
	firstFlag = flag.Bool("first", false, "end TestSeeds with the first seed that fails")
	seedFlag  = flag.Uint64("seed", 0, "the one seed that TestSeeds runs, with its trace")
)

// newWorld draws the machines and the links of a run: a pair, and sometimes a
// foreign router on one of the networks.
func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, hash: 14695981039346656037, watch: newWatch(), masterSlot: -1,
		rng: rand.New(rand.NewPCG(seed, 0x7461_6e64_656d)),
	}
	interval := []time.Duration{10, 20, 50, 100, 100, 200, 1000}[w.rng.IntN(7)] * time.Millisecond
	w.noBeats = w.chance(0.3)
	w.intervalMax, w.intervalMin = interval, max(interval/4, vrrp.MinInterval)
	w.networks = 1 + w.rng.IntN(maxNetworks)
	w.drawLinks()
	w.document = document{version: 1, interval: interval, preempt: w.chance(0.7), preemptDelay: w.drawPreemptDelay(), priorities: w.drawPriorities()}
	for c := range carrier(w.networks) {
		w.document.networks = append(w.document.networks, c)
	}
	for slot, name := range [...]string{"alpha", "bravo"} {
		w.members[slot] = w.newMachine(slot, name)
	}
	for _, m := range w.members {
		m.boot(w.document)
	}
	return w
}

// drawLinks gives every carrier its own speed and faults. An answer must come back
// within the shortest beat.
func (w *world) drawLinks() {
	fastest := vrrp.BeatFor(w.intervalMin) / 8
	clear := w.rng.IntN(w.networks + 1) // loses nothing by itself
	for c := range carriers {
		l := &w.links[c]
		l.delayMin = w.between(fastest/50, fastest/4)
		l.delayMax = w.between(l.delayMin, fastest)
		l.reorders = w.chance(0.3)
		if w.chance(0.3) {
			l.duplicates = 0.05
		}
		if w.chance(0.1) && int(c) != clear && (c != ha || clear != w.networks) {
			l.background = 0.02
		}
	}
}

// addForeign puts a router that knows of no pair on a network.
func (w *world) addForeign() {
	c := carrier(w.rng.IntN(w.networks))
	w.links[c].background = 0 // the only way to it must lose nothing by itself
	source := netip.AddrFrom4([4]byte{10, byte(c), 0, []byte{1, 9}[w.rng.IntN(2)]})
	priority := []uint8{100, 150, 190, 200, 250}[w.rng.IntN(5)]
	m := w.newMachine(-1, "foreign")
	m.adopt(foreignGroup(c, source, w.document.interval, priority, w.chance(0.5)))
	m.node.seesUp[c] = true
	w.foreign = m
	w.after(w.between(0, 10*w.intervalMax), m.start)
}

// simulate runs a seed: the machines start, faults come and go, and then all is
// well for long enough to see that it stays so.
func simulate(seed uint64, verbose bool) *world {
	w := newWorld(seed)
	w.verbose = verbose
	w.live()
	return w
}

// live lets a run take its course.
func (w *world) live() {
	w.powerOn()
	begin := 5 * w.intervalMax
	end := max(60*w.intervalMax, 5*time.Second)
	switch w.rng.IntN(4) {
	case 0:
		w.addForeign()
	case 1:
		w.inject(replaced, w.between(begin, end/2), w.between(0, 10*w.intervalMax))
	}
	w.scheduleFaults(begin, end)
	w.run(end)
	w.settle()
}

// powerOn starts both members, one a little after the other.
func (w *world) powerOn() {
	for _, m := range w.members {
		m.node.notReady++
		w.after(w.between(0, 2*w.intervalMax), m.start)
		w.after(w.between(2*w.intervalMax, 3*w.intervalMax+time.Second), m.synced)
	}
}

// settle lets the time pass after the last fault and checks that it ends well. The
// last session table may still have to come, and a link that came back to prove itself.
func (w *world) settle() {
	w.run(w.now + w.lag())
	w.checkFaultsEnded()
	for w.violation == "" && w.now-w.disturbedAt <= w.settleTime() {
		w.run(w.disturbedAt + w.settleTime() + time.Millisecond)
	}
	w.run(w.now + 15*w.intervalMax)
	if w.violation == "" {
		w.checkEnd()
	}
}

func (w *world) checkFaultsEnded() {
	if w.violation != "" {
		return
	}
	for _, m := range w.machines {
		if m.retired {
			continue
		}
		wrong := !m.running() || m.frozen != 0 || m.off != 0
		for _, c := range m.carriers {
			wrong = wrong || !w.up(m, c) || len(w.links[c].loss[m.id]) > 0 || w.links[c].cut != [maxMachines][maxMachines]int{}
		}
		if wrong || w.broken != 0 {
			w.fail(ruleWorld, "a fault of %s has not ended", m.name())
		}
	}
}

// checkEnd demands one MASTER, the right one, with an open fence.
func (w *world) checkEnd() {
	masters := w.masters()
	if f := w.foreign; f != nil && !w.share(f, w.members[0]) {
		masters = slices.DeleteFunc(masters, func(m *machine) bool { return m == f }) // it is alone on its network
	}
	for _, m := range w.machines {
		if open := m.open(); open != m.is(vrrp.Master) {
			w.fail(ruleEnd, "%s is MASTER: %v, and open: %v", m.name(), m.is(vrrp.Master), open)
		}
	}
	if len(masters) != 1 {
		w.fail(ruleEnd, "%d machines are MASTER", len(masters))
		return
	}
	if w.foreign != nil || w.planned || !w.document.preempt {
		return
	}
	better := w.members[0]
	if w.document.priorities[1] > w.document.priorities[0] {
		better = w.members[1]
	}
	if w.document.priorities[0] != w.document.priorities[1] && masters[0] != better {
		w.fail(ruleEnd, "%s is MASTER in spite of its priority and Preempt", masters[0].name())
	}
}

func report(t *testing.T, seed uint64, violation string) {
	t.Helper()
	w := simulate(seed, true)
	tail := w.trace[max(0, len(w.trace)-120):]
	t.Errorf("seed %d %s\nreplay: go test ./tests/sim -run TestSeeds -seed=%d -v\n%s", seed, violation, seed, strings.Join(tail, "\n"))
}

// TestSeeds prints what a mutation test reads: a line that begins with "violated".
func TestSeeds(t *testing.T) {
	t.Parallel()
	if *seedFlag != 0 {
		w := simulate(*seedFlag, true)
		t.Log("\n" + strings.Join(w.trace, "\n"))
		if w.violation != "" {
			t.Errorf("seed %d %s", *seedFlag, w.violation)
		}
		return
	}
	var mu sync.Mutex
	failed := map[uint64]*world{}
	transitions := 0
	var dwells []dwell
	var seen [reasons]int
	start := time.Now()
	forEachSeed(*fromFlag, *seedsFlag, func(seed uint64) bool {
		w := simulate(seed, false)
		mu.Lock()
		defer mu.Unlock()
		transitions += w.transitions()
		dwells = append(dwells, w.dwells...)
		for reason, count := range w.reasons {
			seen[reason] += count
		}
		if w.violation != "" {
			failed[seed] = w
		}
		return len(failed) < 20 && (len(failed) == 0 || !*firstFlag)
	})
	t.Logf("%d seeds, %.0f a second, %d transitions; between two changes of the MASTER: %s",
		*seedsFlag, float64(*seedsFlag)/time.Since(start).Seconds(), transitions, distribution(dwells))
	checkSeen(t, seen, len(failed) > 0)
	shown := 0
	for _, seed := range slices.Sorted(seedsOf(failed)) {
		w := failed[seed]
		if shown++; shown > 1 {
			t.Errorf("seed %d %s", seed, w.violation)
			continue
		}
		fmt.Printf("violated %d %v\n", seed, w.rule)
		if !*firstFlag {
			report(t, seed, w.violation)
		}
	}
}

// checkSeen demands that the runs have met every reason to change the role: a rule
// that is never put to the test is worth nothing.
func checkSeen(t *testing.T, seen [reasons]int, failed bool) {
	t.Helper()
	var text strings.Builder
	for reason := vrrp.ReasonStartup; reason <= vrrp.ReasonUnheard; reason++ {
		fmt.Fprintf(&text, "\n%8d %v", seen[reason], reason)
		elsewhere := reason == vrrp.ReasonOwner || reason == vrrp.ReasonNodeLost
		if seen[reason] == 0 && !elsewhere && !failed && *seedsFlag >= 1000 {
			t.Errorf("no role has changed because %q", reason)
		}
	}
	t.Log(text.String())
}

func seedsOf(failed map[uint64]*world) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for seed := range failed {
			if !yield(seed) {
				return
			}
		}
	}
}

// distribution describes times by their quantiles.
func distribution(dwells []dwell) string {
	if len(dwells) == 0 {
		return "none"
	}
	times := make([]time.Duration, len(dwells))
	for i, d := range dwells {
		times[i] = d.length
	}
	slices.Sort(times)
	at := func(q float64) time.Duration { return times[int(q*float64(len(times)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("n %d, least %v, p5 %v, p50 %v, p95 %v, most %v", len(times), at(0), at(0.05), at(0.5), at(0.95), at(1))
}

// forEachSeed runs do on every processor until it returns false. The runs share
// nothing.
func forEachSeed(from, count uint64, do func(seed uint64) bool) {
	// A run makes much garbage and keeps little.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	var wg sync.WaitGroup
	workers := uint64(runtime.GOMAXPROCS(0))
	for first := range workers {
		wg.Go(func() {
			for seed := from + first; seed < from+count; seed += workers {
				if !do(seed) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestRecordingReplays: what a group took in, written down and read again, makes
// another group do the same.
func TestRecordingReplays(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 30; seed++ {
		w := newWorld(seed)
		w.records = true
		w.live()
		for _, m := range w.machines {
			var r vrrp.Replay
			for i, want := range m.recording {
				var in vrrp.Input
				if b, err := json.Marshal(want.in); err != nil {
					t.Fatal(err)
				} else if err := json.Unmarshal(b, &in); err != nil {
					t.Fatal(err)
				}
				got, err := r.Take(vrrp.Record{At: want.at.Sub(epoch()), Input: in})
				if err != nil {
					t.Fatalf("seed %d, %s, input %d: %v", seed, m.name(), i, err)
				}
				if !reflect.DeepEqual(got.Output, want.out) {
					t.Fatalf("seed %d, %s, input %d (%v): output %v, recorded %v", seed, m.name(), i, in, got.Output, want.out)
				}
			}
		}
	}
}

// TestSameSeedSameTrace: a run is a function of its seed.
func TestSameSeedSameTrace(t *testing.T) {
	t.Parallel()
	hashes := map[uint64]uint64{}
	for seed := uint64(1); seed <= 50; seed++ {
		first, second := simulate(seed, false), simulate(seed, true)
		if first.hash != second.hash {
			t.Errorf("seed %d: trace hash %x, then %x", seed, first.hash, second.hash)
		}
		if other, ok := hashes[first.hash]; ok {
			t.Errorf("seeds %d and %d have the same trace", other, seed)
		}
		hashes[first.hash] = seed
	}
}
