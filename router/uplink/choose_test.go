package uplink

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/router/config"
)

// settle runs until everything has been asked and nothing is held.
func settle(t *testing.T, doc *config.Document) *world {
	t.Helper()
	w := newWorld(t, doc).up()
	w.run(10 * time.Second)
	w.switches = nil
	return w
}

func (w *world) carrier(uplink string, up bool) {
	reason := ""
	if !up {
		reason = "no carrier"
	}
	w.s.SetLink(w.now, uplink, up, reason)
	w.switches = append(w.switches, w.s.Switches()...)
}

func TestFirstChoice(t *testing.T) {
	t.Run("by cost before anything is known", func(t *testing.T) {
		w := newWorld(t, document(target))
		w.expect("lan", "fibre")
		if got := w.candidate("lan", "fibre").State; got != Unknown {
			t.Errorf("fibre is %v", got)
		}
		w.expectFailures()
	})
	t.Run("corrected by the first result, without a drain", func(t *testing.T) {
		w := newWorld(t, document(target))
		w.s.SetRole(w.now, true)
		w.s.SetPeer(w.now, true)
		w.lines["fibre"].beyond = false
		w.up()
		w.until("corrected", 1100*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" })
		if last := w.switches[len(w.switches)-1]; last.Planned || last.From != "fibre" || last.FailedAt != last.At {
			t.Errorf("%+v", last)
		}
		if got := w.path("lan").Draining; len(got) > 0 {
			t.Errorf("draining: %+v", got)
		}
		// What has never worked has nothing to make up for.
		w.lines["fibre"].beyond = true
		w.until("back", 1100*time.Millisecond, func() bool { return w.chosen("lan") == "fibre" })
	})
	t.Run("the dearer one answers first", func(t *testing.T) {
		w := newWorld(t, document(target))
		w.lines["fibre"].rtt = 400 * time.Millisecond
		w.up().run(5 * time.Second)
		w.expect("lan", "fibre")
		if len(w.switches) != 1 {
			t.Errorf("%+v", w.switches)
		}
	})
	t.Run("what the kernel routes stays until there is evidence", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].Failback = config.FailbackKeep
		w := newWorld(t, doc)
		w.s.Adopt(w.now, Selection{v4("lan"): "dsl", v4("other"): "fibre", v6("lan"): "dsl"})
		w.up()
		w.s.SetRole(w.now, true)
		w.run(10 * time.Second)
		w.expect("lan", "dsl")
		if len(w.switches) > 0 {
			t.Errorf("%+v", w.switches)
		}
	})
	t.Run("what the kernel routes and the document forbids is left", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].MaxCost = 10
		w := newWorld(t, doc)
		w.s.Adopt(w.now, Selection{v4("lan"): "lte"})
		w.expect("lan", "fibre")
	})
}

// The cheapest uplink that works is used; what answers end to end counts for more than a gateway. A flaw
// of other selectors is that the cheap uplink stays, or is taken back, as soon as its gateway answers.
func TestEndToEndOutweighsGateway(t *testing.T) {
	t.Run("gateway answers, targets do not", func(t *testing.T) {
		w := settle(t, document(target))
		w.lines["fibre"].beyond = false
		w.run(4 * time.Second)
		w.expect("lan", "dsl")
		w.run(10 * time.Minute)
		w.expect("lan", "dsl")
		if len(w.switches) != 1 {
			t.Errorf("%+v", w.switches)
		}
	})
	t.Run("the gateway recovers alone", func(t *testing.T) {
		w := settle(t, document(target))
		w.lines["fibre"].beyond, w.lines["fibre"].gateway = false, false
		w.run(4 * time.Second)
		w.expect("lan", "dsl")
		w.lines["fibre"].gateway = true
		w.run(10 * time.Minute)
		w.expect("lan", "dsl")
	})
	t.Run("the gateway answers nobody", func(t *testing.T) {
		w := newWorld(t, document(target))
		w.lines["fibre"].gateway = false
		w.up().run(time.Minute)
		w.expect("lan", "fibre")
		w.lines["fibre"].gateway = true
		w.run(10 * time.Second)
		w.lines["fibre"].gateway = false
		w.run(time.Minute)
		w.expect("lan", "fibre")
		if len(w.switches) != 1 || w.candidate("lan", "fibre").State != Working {
			t.Errorf("%+v", w.switches)
		}
		// Later the targets die, in their own time.
		w.lines["fibre"].beyond = false
		w.until("switched", 3500*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" })
	})
	t.Run("nothing to ask beyond the gateway", func(t *testing.T) {
		w := settle(t, document())
		w.lines["fibre"].beyond = false
		w.run(time.Minute)
		w.expect("lan", "fibre")
		w.lines["fibre"].gateway = false
		w.run(1200 * time.Millisecond)
		w.expect("lan", "dsl")
	})
}

func TestNeed(t *testing.T) {
	for need, want := range map[int]State{1: Working, 2: Dead} {
		doc := document(target, otherTarget)
		doc.Networks[0].Probe.Need = need
		w := settle(t, doc)
		w.lines["fibre"].dead[otherTarget] = true
		w.run(4 * time.Second)
		c := w.candidate("lan", "fibre")
		if c.State != want || c.Answering != 1 || c.Targets != 2 || c.Need != need {
			t.Errorf("need %d: %+v", need, c)
		}
		if want == Dead && (!strings.Contains(c.Reason, "1 of 2 targets answer, 2 must") || !strings.Contains(c.Reason, otherTarget)) {
			t.Errorf("reason %q", c.Reason)
		}
	}
}

// Carrier and address count at once, whatever else was heard.
func TestCarrierAndAddress(t *testing.T) {
	w := settle(t, document(target))
	w.carrier("fibre", false)
	w.expect("lan", "dsl")
	if last := w.switches[0]; last.Planned || last.FailedAt != w.now || last.At != w.now || !strings.Contains(last.Reason, "no carrier") {
		t.Errorf("%+v", last)
	}
	w.s.SetAddress(w.now, "dsl", false, false)
	w.expect("lan", "lte")
	if got := w.candidate("lan", "dsl"); got.State != Dead || !strings.Contains(got.Reason, "no IPv4 address") {
		t.Errorf("%+v", got)
	}
	// The IPv6 address says nothing about IPv4, and the same news twice are none.
	w.s.SetAddress(w.now, "lte", true, false)
	w.s.SetAddress(w.now, "dsl", false, false)
	w.s.SetLink(w.now, "nobody", false, "")
	w.expect("lan", "lte")
	if got := w.path("lan").Switches; got != 2 {
		t.Errorf("%d switches", got)
	}
}

func TestDegradedLoses(t *testing.T) {
	doc := document()
	t.Run("against a dearer one that works", func(t *testing.T) {
		w := settle(t, doc)
		w.lines["fibre"].loss = 0.3
		w.until("switched", 30*time.Second, func() bool { return w.chosen("lan") == "dsl" })
		w.lines["dsl"].loss = 0.3
		w.until("switched", 30*time.Second, func() bool { return w.chosen("lan") == "lte" })
		if !w.switches[0].Planned || !w.switches[1].Planned {
			t.Errorf("%+v", w.switches)
		}
		// All are degraded: nothing is better.
		w.lines["lte"].loss = 0.3
		w.run(time.Minute)
		w.expect("lan", "lte")
		if got := w.path("lan"); got.State != Degraded || !strings.Contains(got.Note, "no other uplink works better") {
			t.Errorf("%+v", got)
		}
		// A degraded one is better than a dead one.
		w.carrier("lte", false)
		w.expect("lan", "fibre")
	})
	t.Run("not against one that is dead", func(t *testing.T) {
		w := settle(t, doc)
		w.carrier("dsl", false)
		w.carrier("lte", false)
		w.lines["fibre"].loss = 0.3
		w.run(time.Minute)
		w.expect("lan", "fibre")
	})
}

func TestAllDead(t *testing.T) {
	w := settle(t, document(target))
	w.run(time.Second)
	for _, l := range w.lines {
		l.beyond = false
	}
	w.run(10 * time.Minute)
	w.expect("lan", "fibre")
	if got := w.path("lan"); got.State != Dead || !strings.Contains(got.Note, "no other uplink that does") || len(w.switches) > 0 {
		t.Errorf("%+v, switches %+v", got, w.switches)
	}
	// The first that answers is taken.
	w.lines["lte"].beyond = true
	w.until("taken", slower*time.Second*4, func() bool { return w.chosen("lan") == "lte" })
}

// The only target goes away and comes back: no uplink is better, none is left, whatever
// is noticed first.
func TestTargetOutage(t *testing.T) {
	for phase := range 40 {
		w := newWorld(t, document(target))
		w.lines["dsl"].rtt = 180 * time.Millisecond
		for _, u := range []string{"dsl", "lte", "fibre"} {
			w.carrier(u, true)
			w.s.SetAddress(w.now, u, false, true)
			w.run(time.Duration(phase) * 32 * time.Millisecond)
		}
		w.run(20*time.Second + time.Duration(phase)*77*time.Millisecond)
		w.switches = nil
		for _, l := range w.lines {
			l.beyond = false
		}
		w.run(20 * time.Second)
		for _, l := range w.lines {
			l.beyond = true
		}
		w.run(20 * time.Second)
		if len(w.switches) > 0 {
			t.Errorf("phase %d: %+v", phase, w.switches)
		}
	}
}

// A standby uplink's trouble touches nothing.
func TestStandbyTroubleTouchesNothing(t *testing.T) {
	w := settle(t, document(target))
	w.s.SetRole(w.now, true)
	for range 50 {
		w.carrier("dsl", false)
		w.s.SetAddress(w.now, "lte", false, false)
		w.run(700 * time.Millisecond)
		w.expectFailures()
		w.carrier("dsl", true)
		w.lines["dsl"].beyond = !w.lines["dsl"].beyond
		w.s.SetAddress(w.now, "lte", false, true)
		w.run(1300 * time.Millisecond)
		w.expectFailures()
	}
	w.expect("lan", "fibre")
	if len(w.switches) > 0 {
		t.Errorf("%+v", w.switches)
	}
}

func TestFailback(t *testing.T) {
	for _, failback := range []string{config.FailbackDrain, config.FailbackKeep} {
		t.Run(failback, func(t *testing.T) {
			doc := document(target)
			doc.Networks[0].Failback = failback
			w := settle(t, doc)
			w.carrier("fibre", false)
			w.run(5 * time.Second)
			w.carrier("fibre", true)
			w.run(9 * time.Second)
			w.expect("lan", "dsl")
			if got := w.path("lan").Note; !strings.Contains(got, "not trusted yet") && failback == config.FailbackDrain {
				t.Errorf("note %q", got)
			}
			w.run(2 * time.Second)
			if failback == config.FailbackKeep {
				w.run(time.Hour)
				w.expect("lan", "dsl")
				if got := w.path("lan").Note; !strings.Contains(got, "keeps its uplink") {
					t.Errorf("note %q", got)
				}
				w.carrier("dsl", false)
				w.expect("lan", "fibre")
				return
			}
			w.expect("lan", "fibre")
			if last := w.switches[len(w.switches)-1]; !last.Planned || last.From != "dsl" || !last.FailedAt.IsZero() {
				t.Errorf("%+v", last)
			}
		})
	}
}

// A port that flaps is left once, and taken back when it has calmed down.
func TestFlapping(t *testing.T) {
	for _, period := range []time.Duration{50 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 9 * time.Second} {
		t.Run(period.String(), func(t *testing.T) {
			w := settle(t, document(target))
			for range 200 {
				w.carrier("fibre", false)
				w.run(period)
				w.carrier("fibre", true)
				w.run(period)
			}
			if len(w.switches) != 1 {
				t.Errorf("%d switches", len(w.switches))
			}
			w.run(11 * time.Second)
			w.expect("lan", "fibre")
		})
	}
}

// The hold-down doubles with each failure after a return, has an end, and is forgotten.
func TestHoldDownGrows(t *testing.T) {
	w := settle(t, document(target))
	fail := func() time.Duration {
		w.carrier("fibre", false)
		w.run(time.Second)
		w.carrier("fibre", true)
		return w.until("back", 11*time.Minute, func() bool { return w.chosen("lan") == "fibre" })
	}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600, 600} {
		want *= time.Second
		if got := fail(); got < want || got > want+time.Second {
			t.Errorf("failure %d: back after %v, want %v", i+1, got, want)
		}
	}
	w.run(5 * strikePause)
	if got := fail(); got > 50*time.Second {
		t.Errorf("after a long time: back after %v", got)
	}
	w.run(2 * time.Hour)
	if got := fail(); got > 11*time.Second {
		t.Errorf("after two hours: back after %v", got)
	}
}

// Two ports that flap in turn, none of which can be trusted.
func TestBothFlap(t *testing.T) {
	doc := document(target)
	doc.Networks[0].MaxCost = 10
	w := settle(t, doc)
	for range 100 {
		w.carrier("fibre", false)
		w.carrier("dsl", true)
		w.run(300 * time.Millisecond)
		w.carrier("fibre", true)
		w.carrier("dsl", false)
		w.run(300 * time.Millisecond)
	}
	if len(w.switches) > 3 {
		t.Errorf("%d switches in a minute", len(w.switches))
	}
	// One that stays up is taken soon.
	w.carrier("dsl", true)
	w.carrier("fibre", false)
	w.until("taken", settling+10*time.Millisecond, func() bool { return w.chosen("lan") == "dsl" })
}

func TestCosts(t *testing.T) {
	t.Run("a cheaper one", func(t *testing.T) {
		w := settle(t, document(target))
		w.s.SetCost(w.now, "lte", 0)
		w.run(time.Minute)
		w.expect("lan", "fibre") // as good, and in use
		w.s.SetCost(w.now, "fibre", 20)
		w.expect("lan", "fibre") // lte is asked seldom, and has to prove that it works
		w.run(100 * time.Millisecond)
		w.expect("lan", "lte")
		w.s.SetCost(w.now, "lte", 0)
		w.s.SetCost(w.now, "nobody", 0)
		w.run(time.Second)
		if len(w.switches) != 1 || !w.switches[0].Planned {
			t.Errorf("%+v", w.switches)
		}
	})
	t.Run("too dear", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].MaxCost = 20
		w := settle(t, doc)
		w.s.SetCost(w.now, "fibre", 21)
		w.expect("lan", "dsl")
		if got := w.path("lan").Draining; len(got) != 1 || got[0].Uplink != "fibre" {
			t.Errorf("draining %+v", got)
		}
		if got := w.candidate("lan", "fibre"); got.Allowed || got.Wanted || !strings.Contains(got.Reason, "its cost is 21") {
			t.Errorf("%+v", got)
		}
		// Even if there is no other one that works, and if there is none at all.
		w.carrier("dsl", false)
		w.run(time.Second)
		w.expect("lan", "dsl")
		w.s.SetCost(w.now, "dsl", 30)
		w.expect("lan", "")
		if got := w.path("lan").Note; !strings.Contains(got, "may use none") {
			t.Errorf("note %q", got)
		}
		w.s.SetCost(w.now, "fibre", 20)
		w.expect("lan", "fibre")
	})
	t.Run("of the document, until it changes", func(t *testing.T) {
		doc := document(target)
		w := settle(t, doc)
		w.s.SetCost(w.now, "fibre", 20)
		w.expect("lan", "dsl")
		doc.Uplinks[1].DNS = nil
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.run(time.Second)
		w.expect("lan", "dsl")
		doc.Uplinks[0].Cost = 5
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.expect("lan", "fibre")
	})
	t.Run("forbidden ones are not chosen", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].MaxCost = 0
		w := settle(t, doc)
		w.carrier("fibre", false)
		w.run(time.Minute)
		w.expect("lan", "fibre")
	})
}

// Networks that share an uplink are judged each by its own targets.
func TestPathsAreIndependent(t *testing.T) {
	doc := document(target)
	doc.Networks = append(doc.Networks, network("dmz", otherTarget), network("lab"))
	w := settle(t, doc)
	w.lines["fibre"].dead[target] = true
	w.run(4 * time.Second)
	w.expect("lan", "dsl")
	w.expect("dmz", "fibre")
	w.expect("lab", "fibre")
	w.carrier("fibre", false)
	for _, n := range []string{"lan", "dmz", "lab"} {
		w.expect(n, "dsl")
	}
}

func TestNobodyMoves(t *testing.T) {
	w := settle(t, document(target))
	w.run(time.Hour)
	if len(w.switches) > 0 {
		t.Error(fmt.Sprint(w.switches))
	}
}

// One after the other is trusted again, and nothing else happens: the path goes home in two steps.
func TestWayHomeInSteps(t *testing.T) {
	w := settle(t, document(target))
	w.carrier("fibre", false)
	w.run(time.Second)
	w.carrier("fibre", true)
	w.until("back", time.Minute, func() bool { return w.chosen("lan") == "fibre" })
	w.carrier("fibre", false)
	w.carrier("dsl", false)
	w.expect("lan", "lte")
	w.run(time.Second)
	w.carrier("fibre", true)
	w.carrier("dsl", true)
	w.run(11 * time.Second)
	w.expect("lan", "dsl")
	w.run(10 * time.Second)
	w.expect("lan", "fibre")
}
