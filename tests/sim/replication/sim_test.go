package replication

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/conntracksync"
)

//nolint:gochecknoglobals // flags of the test binary
var (
	seedsFlag = flag.Uint64("seeds", 1000, "how many seeds TestSeeds runs, from -from on")
	fromFlag  = flag.Uint64("from", 1, "the first seed that TestSeeds runs")
	firstFlag = flag.Bool("first", false, "end TestSeeds with the first seed that fails")
	seedFlag  = flag.Uint64("seed", 0, "the one seed that TestSeeds runs, with its trace")
)

// simulate runs a seed: the nodes start, faults come and go, then clients come and go
// for a while, and then nothing happens any more.
func simulate(seed uint64, verbose bool) *world {
	w := newWorld(seed, verbose)
	for _, n := range w.nodes {
		w.after(w.between(0, time.Second), n.start)
		w.localFlow(n)
	}
	w.after(0, w.elect)
	w.openSessions()
	end := w.between(10*time.Second, 25*time.Second)
	w.scheduleFaults(4*time.Second, end)
	w.run(end)
	for w.violation == "" && w.broken > 0 {
		w.run(w.now + 100*time.Millisecond)
	}
	w.calm()
	w.fallSilent()
	return w
}

// calm lets clients come and go while nothing goes wrong.
func (w *world) calm() {
	w.run(w.now + time.Second) // what a fault had planned
	w.phase, w.calmAt = phaseChurn, w.now
	w.disturb("calm", -1)
	for w.violation == "" && w.watch.completeAt == 0 {
		w.run(w.now + 100*time.Millisecond)
		if w.now-w.calmAt > max(2*w.boundCompletes()+4*w.passGap(), 2*time.Minute) {
			w.fail(ruleCompletes, "nobody is MASTER, or it says nothing")
		}
	}
	w.run(w.now + 6*time.Second)
}

// fallSilent lets no flow begin or change any more, until those without packets have
// ended and the nodes have nothing more to say; and then for as long again as flows live
// on the BACKUP by their longer time-out.
func (w *world) fallSilent() {
	w.clients.stopped = true
	for _, s := range w.clients.live {
		if !s.ended && s.at >= 0 && len(s.script) > 0 {
			if e := w.nodes[s.at].kernel.has(identity{s.key, s.reply}); e != nil {
				s.active = w.chance(0.7)
				w.nodes[s.at].kernel.packet(e)
			}
		}
	}
	w.phase, w.quietAt = phaseQuiet, w.now
	w.note("quiet", -1)
	w.run(w.now + w.boundSettled() + time.Second)
	if w.violation == "" {
		w.checkEqual()
	}
	w.run(w.now + w.tuning.receiver.TimeoutFloor)
	if w.violation == "" {
		w.checkEqual()
		w.phase = phaseFaults // a takeover after a long quiet time
		w.usurp(0)
	}
	w.run(w.now + time.Second)
}

func replay(t *testing.T, seed uint64, violation string) {
	t.Helper()
	w := simulate(seed, true)
	tail := w.trace[max(0, len(w.trace)-120):]
	t.Errorf("seed %d %s\nreplay: go test ./tests/sim/replication -run TestSeeds -seed=%d -v\n%s",
		seed, violation, seed, strings.Join(tail, "\n"))
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
	var sum totals
	start := time.Now()
	forEachSeed(*fromFlag, *seedsFlag, func(seed uint64) bool {
		w := simulate(seed, false)
		mu.Lock()
		defer mu.Unlock()
		sum.add(w)
		if w.violation != "" {
			failed[seed] = w
		}
		return len(failed) < 20 && (len(failed) == 0 || !*firstFlag)
	})
	t.Logf("%d seeds, %.0f a second\n%s", *seedsFlag, float64(*seedsFlag)/time.Since(start).Seconds(), sum)
	sum.check(t, len(failed) > 0 || *firstFlag)
	shown := 0
	for _, seed := range slices.Sorted(maps.Keys(failed)) {
		w := failed[seed]
		if shown++; shown > 1 {
			t.Errorf("seed %d %s", seed, w.violation)
			continue
		}
		fmt.Printf("violated %d %v\n", seed, w.rule)
		if !*firstFlag {
			replay(t, seed, w.violation)
		}
	}
}

// totals count what the runs have put to the test.
type totals struct {
	begun, lost, takeovers, kept, complete, barriers int
	sender                                           conntracksync.SenderStats
	receiver                                         conntracksync.ReceiverStats
	length                                           time.Duration
}

func (s *totals) add(w *world) {
	s.length += w.now
	s.begun += w.clients.begun
	s.lost += w.clients.lost
	s.takeovers += w.watch.takeovers
	s.kept += w.watch.kept
	s.complete += w.watch.complete
	s.barriers += w.watch.barriers
	for _, n := range w.nodes {
		if n.sender == nil {
			continue
		}
		c := n.counters()
		s.sender.Overruns += c.sender.Overruns
		s.sender.Overflows += c.sender.Overflows
		s.sender.Repairs += c.sender.Repairs
		s.sender.Gone += c.sender.Gone
		s.sender.Found += c.sender.Found
		s.sender.Trimmed += c.sender.Trimmed
		s.sender.Unsent += c.sender.Unsent
		s.sender.PassesFailed += c.sender.PassesFailed
		s.receiver.KernelRefused += c.receiver.KernelRefused
		s.receiver.Swept += c.receiver.Swept
		s.receiver.Replaced += c.receiver.Replaced
		s.receiver.Extended += c.receiver.Extended
		s.receiver.Adopted += c.receiver.Adopted
		s.receiver.Expired += c.receiver.Expired
		s.receiver.Missing += c.receiver.Missing
		s.receiver.IgnoredTerm += c.receiver.IgnoredTerm
		s.receiver.IgnoredMaster += c.receiver.IgnoredMaster
		s.receiver.Dropped += c.receiver.Dropped
	}
}

// counts are what the runs must have met: a rule that is never put to the test is
// worth nothing.
func (s *totals) counts() map[string]int {
	return map[string]int{
		"sessions": s.begun, "lost sessions": s.lost, "takeovers": s.takeovers, "flows that survived": s.kept,
		"looks at a complete table": s.complete, "barriers": s.barriers,
		"overruns": int(s.sender.Overruns), "overflows": int(s.sender.Overflows), "repairs": int(s.sender.Repairs),
		"gone": int(s.sender.Gone), "found": int(s.sender.Found), "trimmed": int(s.sender.Trimmed),
		"unsent": int(s.sender.Unsent), "failed passes": int(s.sender.PassesFailed),
		"refused": int(s.receiver.KernelRefused), "swept": int(s.receiver.Swept), "replaced": int(s.receiver.Replaced),
		"extended": int(s.receiver.Extended), "adopted": int(s.receiver.Adopted), "expired": int(s.receiver.Expired),
		"missing": int(s.receiver.Missing), "of an old term": int(s.receiver.IgnoredTerm),
		"told to a MASTER": int(s.receiver.IgnoredMaster), "dropped": int(s.receiver.Dropped),
	}
}

// String lists the counts.
func (s totals) String() string {
	var text strings.Builder
	counts := s.counts()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%10d %s\n", counts[name], name)
	}
	return text.String()
}

func (s *totals) check(t *testing.T, failed bool) {
	t.Helper()
	for name, n := range s.counts() {
		if n == 0 && !failed && *seedsFlag >= 1000 {
			t.Errorf("the runs have met no %s", name)
		}
	}
}

// forEachSeed runs do on every processor until it returns false. The runs share
// nothing.
func forEachSeed(from, count uint64, do func(seed uint64) bool) {
	// A run makes much garbage and keeps little.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
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
	hashes := map[uint64]uint64{}
	for seed := uint64(1); seed <= 20; seed++ {
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
