package uplink

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

//nolint:gochecknoglobals // flags of the test binary
var (
	seedsFlag = flag.Uint64("seeds", 120, "how many seeds TestSeeds runs, from -from on")
	fromFlag  = flag.Uint64("from", 1, "the first seed that TestSeeds runs")
	firstFlag = flag.Bool("first", false, "end TestSeeds with the first seed that fails")
	seedFlag  = flag.Uint64("seed", 0, "the one seed that TestSeeds runs, with its trace")
)

// simulate runs a seed: faults come and go, then nothing happens any more.
func simulate(seed uint64, verbose bool) *world {
	w := newWorld(seed, verbose)
	w.scheduleFaults(w.span(40*time.Second, 100*time.Second))
	w.run(100 * time.Second)
	w.run(w.now + 62*time.Second) // what a fault had planned
	w.note("calm")
	w.run(w.now + 100*time.Second)
	w.calm()
	return w
}

// calm: when nothing happens any more, each path is soon where it belongs.
func (w *world) calm() {
	for w.violation == "" && !w.atHome() {
		w.run(w.now + time.Second)
		if w.now > 30*time.Minute {
			w.fail("home", "%s", w.master.explain("n0"))
		}
	}
}

// atHome tells that all paths of all nodes take the cheapest uplink, or one that they keep, and that nothing
// speaks against anybody.
func (w *world) atHome() bool {
	for _, n := range w.nodes {
		for _, network := range w.doc.Networks {
			chosen, wanted := n.s.Selection()[pathOf(network.Name)], w.wanted(network.Name)
			if chosen == wanted || network.Failback == config.FailbackKeep && chosen != "" {
				continue
			}
			if chosen == "" || w.uplink(chosen).Cost != w.uplink(wanted).Cost {
				return false
			}
		}
		if len(n.s.Failures()) > 0 {
			return false
		}
	}
	return true
}

// simulateCommon lets one thing at a time fail, for both nodes and for long: the role never
// moves, whoever notices first.
func simulateCommon(seed uint64, verbose bool) *world {
	w := newWorld(seed, verbose)
	for w.common, w.tidy = true, true; len(w.nodes) < 2; {
		w.start("r2")
		w.nodes[1].work()
	}
	w.run(15 * time.Second)
	for range 6 {
		u := w.doc.Uplinks[w.random.IntN(len(w.doc.Uplinks))].Name
		d := w.span(10*time.Second, 15*time.Second)
		switch w.between(0, 3) {
		case 0:
			w.change("carrier", u, w.nodes, d, func(p *port) { p.link = false }, func(p *port) { p.link = true })
		case 1:
			w.change("gateway", u, w.nodes, d, func(p *port) { p.gateway.dead = true }, func(p *port) { p.gateway.dead = false })
		case 2:
			w.change("beyond", u, w.nodes, d, func(p *port) { p.beyond.dead = true }, func(p *port) { p.beyond.dead = false })
		default:
			w.change("all", u, w.nodes, d, func(p *port) { p.beyond.dead, p.gateway.dead = true, true }, func(p *port) { p.beyond.dead, p.gateway.dead = false, false })
		}
		w.run(w.now + d + w.span(25*time.Second, 30*time.Second))
	}
	return w
}

// simulateLoss lets what is in use lose much, where nothing but gateways is asked.
func simulateLoss(seed uint64, verbose bool) *world {
	w := newWorld(seed, verbose)
	for i := range w.doc.Networks {
		w.doc.Networks[i].Probe.Targets = nil
	}
	for _, n := range w.nodes {
		n.s.Reconfigure(n.time(), uplink.NewConfig(w.doc))
		n.work()
	}
	w.run(15 * time.Second)
	if used := w.master.s.Selection()[pathOf("n0")]; used != "" {
		w.change("loss", used, w.nodes, 50*time.Second, func(p *port) { p.loss = 0.4 }, func(p *port) { p.loss = 0 })
	}
	w.run(80 * time.Second)
	return w
}

func replay(t *testing.T, seed uint64, violation string, simulate func(uint64, bool) *world) {
	t.Helper()
	w := simulate(seed, true)
	tail := w.trace[max(0, len(w.trace)-80):]
	t.Errorf("seed %d %s\nreplay: go test ./tests/sim/uplink -run %s -seed=%d -v\n%s", seed, violation, t.Name(), seed, strings.Join(tail, "\n"))
}

// TestSeeds prints what a mutation test reads: a line that begins with "violated".
func TestSeeds(t *testing.T) { seeds(t, *seedsFlag, simulate) }

// TestCommon is about the role, when things fail for both nodes.
func TestCommon(t *testing.T) { seeds(t, *seedsFlag/4, simulateCommon) }

// TestLoss is about loss that is too much.
func TestLoss(t *testing.T) { seeds(t, *seedsFlag/4, simulateLoss) }

func seeds(t *testing.T, count uint64, simulate func(uint64, bool) *world) {
	t.Helper()
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
	sum := newTotals()
	start := time.Now()
	forEachSeed(*fromFlag, count, func(seed uint64) bool {
		w := simulate(seed, false)
		mu.Lock()
		defer mu.Unlock()
		sum.add(w)
		if w.violation != "" {
			failed[seed] = w
		}
		return len(failed) < 20 && (len(failed) == 0 || !*firstFlag)
	})
	t.Logf("%d seeds, %.0f a second\n%v", count, float64(count)/time.Since(start).Seconds(), sum)
	if t.Name() == "TestSeeds" && len(failed) == 0 && !*firstFlag {
		sum.check(t)
	}
	shown := 0
	for _, seed := range slices.Sorted(maps.Keys(failed)) {
		w := failed[seed]
		fmt.Printf("violated %d %v\n", seed, w.rule)
		if shown++; shown > 1 {
			t.Errorf("seed %d %s", seed, w.violation)
		} else if !*firstFlag {
			replay(t, seed, w.violation, simulate)
		} else {
			t.Fail()
		}
	}
}

// totals count what the runs have put to the test: a rule that is never put to the test is worth nothing.
type totals struct {
	probes, switches, planned, unplanned, judged, duties, ended, moves int
	length                                                             time.Duration
	faults                                                             map[string]int
}

func newTotals() totals { return totals{faults: map[string]int{}} }

func (s *totals) add(w *world) {
	s.length += w.now
	s.probes += w.totals.probes
	s.switches += w.totals.switches
	s.planned += w.totals.planned
	s.unplanned += w.totals.unplanned
	s.judged += w.totals.judged
	s.duties += w.totals.duties
	s.ended += w.totals.ended
	s.moves += w.totals.moves
	for what, n := range w.totals.faults {
		s.faults[what] += n
	}
}

func (s totals) counts() map[string]int {
	counts := map[string]int{
		"switches": s.switches, "planned ones": s.planned, "unplanned ones": s.unplanned, "looks at a dead one in use": s.judged,
		"duties": s.duties, "flows ended": s.ended, "moves of the role": s.moves, "probes": s.probes,
	}
	for what, n := range s.faults {
		counts["fault "+what] = n
	}
	return counts
}

func (s totals) String() string {
	var text strings.Builder
	counts := s.counts()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%10d %s\n", counts[name], name)
	}
	return fmt.Sprintf("%s%10v simulated", text.String(), s.length.Round(time.Minute))
}

func (s totals) check(t *testing.T) {
	t.Helper()
	if *seedsFlag < 120 {
		return
	}
	for _, what := range []string{"carrier", "address", "gateway", "beyond", "gateway and beyond", "flap", "loss", "blip", "target", "cost", "document", "role", "stall", "prober"} {
		if s.faults[what] == 0 {
			t.Errorf("the runs have met no fault %q", what)
		}
	}
	for what, n := range s.counts() {
		if n == 0 {
			t.Errorf("the runs have met no %s", what)
		}
	}
}

// forEachSeed runs do on every processor until it returns false. The runs share nothing.
func forEachSeed(from, count uint64, do func(seed uint64) bool) {
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

// TestSameSeedSameTrace: a run is a function of its seed.
func TestSameSeedSameTrace(t *testing.T) {
	t.Parallel()
	hashes := map[uint64]bool{}
	for seed := uint64(1); seed <= 5; seed++ {
		first, second := simulate(seed, false), simulate(seed, true)
		if first.hash != second.hash {
			t.Errorf("seed %d: trace hash %x, then %x", seed, first.hash, second.hash)
		}
		if hashes[first.hash] {
			t.Errorf("seed %d has the trace of another one", seed)
		}
		hashes[first.hash] = true
	}
}

func show(p uplink.PathStatus) string {
	text := fmt.Sprintf("  %s takes %q (%v) because %s; %s\n", p.Network, p.Uplink, p.State, p.Why, p.Note)
	for _, c := range p.Candidates {
		text += fmt.Sprintf("  %s: cost %d allowed %v %v: %s since %.3f held until %.3f\n", c.Uplink, c.Cost, c.Allowed, c.State, c.Reason,
			seconds(c.Since), seconds(c.HeldUntil))
	}
	return text
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return t.Sub(at(0)).Seconds()
}

func (t *truth) String() string {
	return fmt.Sprintf("%v since %.3f, cut since %.3f, silent since %.3f, last vague %.3f", [...]string{"good", "vague", "bad"}[t.quality],
		t.since.Seconds(), t.cut.Seconds(), t.silent.Seconds(), t.last[vague].Seconds())
}
