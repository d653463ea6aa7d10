package uplink

import (
	"fmt"
	"testing"
	"time"

	"tandem/router/config"
)

const (
	target      = "198.51.100.1"
	otherTarget = "198.51.100.2"
)

// Whatever the moment of the failure, it is known in time, by default.
func TestFailuresAreKnownInTime(t *testing.T) {
	cut := map[string]func(*line){
		"gateway": func(l *line) { l.gateway, l.beyond = false, false },
		"beyond":  func(l *line) { l.beyond = false },
	}
	tests := []struct {
		what    string
		targets []string
		bound   time.Duration
	}{
		{"gateway", nil, 1200 * time.Millisecond},
		{"gateway", []string{target}, 1200 * time.Millisecond},
		{"gateway", []string{target, otherTarget}, 1200 * time.Millisecond},
		{"beyond", []string{target}, 3500 * time.Millisecond},
		{"beyond", []string{target, otherTarget}, 3500 * time.Millisecond},
	}
	for _, test := range tests {
		for _, rtt := range []time.Duration{time.Millisecond, 40 * time.Millisecond, 150 * time.Millisecond} {
			t.Run(fmt.Sprint(test.what, len(test.targets), rtt), func(t *testing.T) {
				worst := time.Duration(0)
				for phase := time.Duration(0); phase < time.Second; phase += 67 * time.Millisecond {
					w := newWorld(t, document(test.targets...))
					w.lines["fibre"].rtt = rtt
					w.up().run(20*time.Second + phase)
					w.expect("lan", "fibre")
					cut[test.what](w.lines["fibre"])
					worst = max(worst, w.until("switched", 10*time.Second, func() bool { return w.chosen("lan") == "dsl" }))
				}
				t.Logf("at worst %v", worst)
				if worst > test.bound {
					t.Errorf("known after %v, want %v", worst, test.bound)
				}
			})
		}
	}
}

// Probes that get lost anyway do not make it later than promised.
func TestDeathOfALossyPathIsKnownInTime(t *testing.T) {
	for seed := range 20 {
		w := newWorld(t, document(target))
		w.random.Float64()
		for range seed {
			w.random.Float64()
		}
		w.lines["fibre"].loss = 0.08
		w.up().run(time.Minute)
		if w.chosen("lan") != "fibre" {
			continue
		}
		w.lines["fibre"].beyond = false
		w.until("switched", 3500*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" })
	}
}

// Loss of 20 % is not death, neither of the gateway nor of a target: see the constants for
// how probable it is.
func TestLossIsNotDeath(t *testing.T) {
	for _, targets := range [][]string{nil, {target}} {
		w := newWorld(t, document(targets...))
		for _, l := range w.lines {
			l.loss = 0.2
		}
		w.up().run(10 * time.Second)
		deaths := 0
		for range 1800 {
			w.run(500 * time.Millisecond)
			for _, u := range []string{"fibre", "dsl"} {
				if w.candidate("lan", u).State == Dead {
					deaths++
				}
			}
		}
		if deaths > 0 {
			t.Errorf("with targets %q: dead in %d of 1800 looks", targets, deaths)
		}
	}
}

func TestLossIsDegraded(t *testing.T) {
	for _, targets := range [][]string{nil, {target}} {
		w := newWorld(t, document(targets...))
		w.up().run(2 * time.Minute)
		w.lines["fibre"].loss = 0.2
		took := w.until("switched", 2*time.Minute, func() bool { return w.chosen("lan") == "dsl" })
		t.Logf("with targets %q after %v", targets, took)
		if w.candidate("lan", "fibre").State != Degraded || !w.switches[len(w.switches)-1].Planned {
			t.Errorf("left as %v by %+v", w.candidate("lan", "fibre").State, w.switches)
		}
		// The way back needs less loss than the limit, and some time.
		w.lines["fibre"].loss = 0.01
		w.until("back", 3*time.Minute, func() bool { return w.chosen("lan") == "fibre" })
	}
}

func TestLittleLossIsNothing(t *testing.T) {
	w := newWorld(t, document(target))
	w.lines["fibre"].loss = 0.02
	w.up().run(time.Hour)
	w.expect("lan", "fibre")
	if len(w.switches) != 1 {
		t.Errorf("switches: %+v", w.switches)
	}
}

// A single outage that is too short for death is not taken for loss.
func TestShortOutageIsNothing(t *testing.T) {
	for _, targets := range [][]string{nil, {target}} {
		w := newWorld(t, document(targets...))
		w.up().run(time.Minute)
		w.lines["fibre"].gateway, w.lines["fibre"].beyond = false, false
		w.run(350 * time.Millisecond)
		w.lines["fibre"].gateway, w.lines["fibre"].beyond = true, true
		w.run(time.Minute)
		if len(w.switches) != 1 {
			t.Errorf("with targets %q: %+v", targets, w.switches)
		}
	}
}

func TestRiseAndFall(t *testing.T) {
	doc := document(target)
	doc.Networks[0].Probe = config.Probe{
		Targets: doc.Networks[0].Probe.Targets, Interval: 10 * time.Second, Timeout: time.Second, Rise: 4, Fall: 2,
	}
	w := newWorld(t, doc)
	w.up().run(25 * time.Second)
	w.lines["fibre"].beyond = false
	if took := w.until("dead", 12*time.Second, func() bool { return w.candidate("lan", "fibre").State == Dead }); took > 11600*time.Millisecond {
		t.Errorf("two failures took %v", took)
	}
	w.lines["fibre"].beyond = true
	if took := w.until("working", time.Minute, func() bool { return w.candidate("lan", "fibre").State == Working }); took < 30*time.Second || took > 41*time.Second {
		t.Errorf("four successes took %v", took)
	}
}

// How often things are asked, and that nothing is asked in vain.
func TestPace(t *testing.T) {
	doc := document(target)
	doc.Networks = append(doc.Networks, network("dmz", target), network("lab", target, otherTarget))
	w := newWorld(t, doc)
	w.up().run(10 * time.Second)
	w.sent = nil
	w.run(100 * time.Second)
	count := map[string]int{}
	for _, p := range w.sent {
		count[fmt.Sprint(p.Uplink, " ", p.Kind, " ", p.Target.Host)]++
	}
	for _, u := range []string{"fibre", "dsl", "lte"} {
		targets := 100
		if u == "lte" { // metered, and not in use
			targets /= slower
		}
		for what, want := range map[string]int{" gateway ": 400, " end-to-end " + target: targets, " end-to-end " + otherTarget: targets} {
			if got := count[u+what]; got < want-1 || got > want+1 {
				t.Errorf("%s: %d probes in 100 s, want %d", u+what, got, want)
			}
		}
	}
	// In use, it is asked as often as any other.
	w.s.SetLink(w.now, "fibre", false, "no carrier")
	w.s.SetLink(w.now, "dsl", false, "no carrier")
	w.run(2 * time.Second)
	w.expect("lan", "lte")
	w.sent = nil
	w.run(100 * time.Second)
	if n := len(w.sent); n < 595 || n > 605 {
		t.Errorf("%d probes of lte in 100 s, want 600", n)
	}
	for _, p := range w.sent {
		if p.Uplink != "lte" {
			t.Fatalf("%s is asked without a link", p.Uplink)
		}
	}
}

// Hundreds of targets do not start together, neither at first nor when all fail at once.
func TestProbesAreSpread(t *testing.T) {
	doc := document()
	for i := range 150 {
		doc.Networks = append(doc.Networks, network(fmt.Sprint("n", i), fmt.Sprint("198.51.100.", i)))
	}
	w := newWorld(t, doc)
	w.up().run(10 * time.Second)
	if w.mostAtOnce > 12 {
		t.Errorf("%d probes at once when nothing happens", w.mostAtOnce)
	}
	w.lines["fibre"].gateway, w.lines["fibre"].beyond = false, false
	w.until("switched", 1300*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" && w.chosen("n149") == "dsl" })
	if w.mostAtOnce > burst {
		t.Errorf("%d probes at once", w.mostAtOnce)
	}
}

// A failure to ask says nothing about the uplink.
func TestProberTroubleIsNotDeath(t *testing.T) {
	w := newWorld(t, document(target))
	w.up().run(10 * time.Second)
	w.lines["fibre"].local = true
	w.run(time.Minute)
	w.expect("lan", "fibre")
	probes := w.s.Status(w.now).Uplinks[0].Families[0].Probes
	for _, p := range probes {
		if p.Unhealthy == "" || p.State != Working {
			t.Errorf("%+v", p)
		}
	}
	w.lines["fibre"].local = false
	w.run(2 * time.Second)
	if p := w.s.Status(w.now).Uplinks[0].Families[0].Probes[0]; p.Unhealthy != "" {
		t.Errorf("%+v", p)
	}
}

// A stall of this node is not the death of an uplink: failures that come too late do not count.
func TestStallIsNotDeath(t *testing.T) {
	w := newWorld(t, document(target))
	w.lines["fibre"].loss = 1
	w.up()
	w.lines["fibre"].loss = 0
	w.run(10 * time.Second)
	for range 30 {
		due := w.s.Due(w.now)
		w.now = w.now.Add(5 * time.Second)
		for _, p := range due {
			w.s.Finish(w.now, Outcome{Probe: p, Reason: "no answer"})
		}
		w.s.Tick(w.now)
	}
	w.expect("lan", "fibre")
	if got := w.candidate("lan", "fibre").State; got != Working {
		t.Errorf("fibre is %v", got)
	}
}

// Outcomes that never come are given up, and outcomes of what was given up are ignored.
func TestLostAndStrangeOutcomes(t *testing.T) {
	w := newWorld(t, document(target))
	w.up()
	var lost []Probe
	for range 400 {
		lost = append(lost, w.s.Due(w.now)...)
		w.now = later(w.now, w.s.Deadline())
		w.s.Tick(w.now)
	}
	if got := w.candidate("lan", "fibre").State; got != Unknown {
		t.Errorf("fibre is %v though nothing was heard", got)
	}
	if p := w.s.Status(w.now).Uplinks[0].Families[0].Probes[0]; p.Unhealthy == "" {
		t.Errorf("%+v", p)
	}
	w.s.SetLink(w.now, "fibre", false, "no carrier")
	w.s.SetLink(w.now, "fibre", true, "")
	for _, p := range lost {
		w.s.Finish(w.now, Outcome{Probe: p, OK: true})
		w.s.Finish(w.now, Outcome{Probe: p})
	}
	w.s.Finish(w.now, Outcome{Probe: Probe{Attempt: 1 << 60}, OK: true})
	if got := len(w.s.waiting); got > 20 {
		t.Errorf("%d probes are waited for", got)
	}
}

func TestRoundTrips(t *testing.T) {
	var h history
	if h.mean() != 0 || h.jitter() != 0 || h.loss() != 0 {
		t.Errorf("empty: %v %v %v", h.mean(), h.jitter(), h.loss())
	}
	for i := range 3 * window {
		h.answered(time.Duration(10+2*(i%2)) * time.Millisecond)
		h.add(i%4 == 0)
	}
	if h.mean() != 11*time.Millisecond || h.jitter() != 2*time.Millisecond {
		t.Errorf("mean %v, jitter %v", h.mean(), h.jitter())
	}
	if got := h.loss(); got < 0.24 || got > 0.26 {
		t.Errorf("loss %v", got)
	}
	if h.size() != window || h.lost(4) != 1 {
		t.Errorf("size %d, lost %d", h.size(), h.lost(4))
	}
}
