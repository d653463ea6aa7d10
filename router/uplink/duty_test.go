package uplink

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func master(t *testing.T, targets ...string) *world {
	t.Helper()
	w := settle(t, document(targets...))
	w.s.SetRole(w.now, true)
	return w
}

func TestDutiesOfAFailure(t *testing.T) {
	w := master(t, target)
	w.run(time.Minute)
	w.expectDuties()
	w.carrier("fibre", false)
	w.expectDuties("lan/fibre")
	d := w.s.Duties(w.now)[0]
	if d.VRID != 1 || d.Begun != w.now || !strings.Contains(d.Reason, "no carrier") {
		t.Errorf("%+v", d)
	}
	w.run(time.Hour)
	w.expectDuties("lan/fibre")
	// What is left on a port that comes back belongs to the other one.
	w.carrier("fibre", true)
	w.run(5 * time.Second)
	w.expect("lan", "dsl")
	w.expectDuties()
	w.run(10 * time.Second)
	w.expect("lan", "fibre")
	w.expectDuties() // those on dsl may stay
	w.run(10*time.Minute - 6*time.Second)
	w.expectDuties()
	w.run(10 * time.Second)
	w.expectDuties("out:lan/dsl")
	w.run(afterDrain)
	w.expectDuties()
}

// A port that comes back within a moment: what began there must go all the same, as the
// network's flows stay together.
func TestDutyOutlivesAShortFailure(t *testing.T) {
	w := master(t, target)
	w.carrier("fibre", false)
	w.run(300 * time.Millisecond)
	w.carrier("fibre", true)
	w.run(3 * time.Second)
	w.expect("lan", "dsl")
	w.expectDuties("out:lan/fibre")
	// Unless it is chosen again.
	w.carrier("lte", false)
	w.carrier("dsl", false)
	w.expect("lan", "fibre")
	w.expectDuties("lan/dsl", "lan/lte")
}

func TestNoDutyWithoutABetterPlace(t *testing.T) {
	w := master(t, target)
	w.carrier("fibre", false)
	w.carrier("dsl", false)
	w.expect("lan", "lte")
	w.expectDuties("lan/fibre", "lan/dsl")
	w.carrier("lte", false)
	w.run(time.Minute)
	w.expectDuties()
	w.carrier("lte", true)
	w.run(3 * time.Second)
	w.expectDuties("lan/fibre", "lan/dsl")
}

// A standby uplink that dies has no flows but those that it dragged along.
func TestDutiesOfOtherPaths(t *testing.T) {
	doc := document(target)
	doc.Networks = append(doc.Networks, network("dmz"))
	doc.Networks[1].RoutedNATAddress = netip.MustParseAddr("203.0.113.7")
	doc.Networks = append(doc.Networks, network("lab"))
	w := settle(t, doc)
	w.s.SetRole(w.now, true)
	w.lines["fibre"].dead[target] = true
	w.run(4 * time.Second)
	w.expectDuties("lan/fibre")
	// The address of dmz is reached by every uplink: its flows just go on.
	w.carrier("fibre", false)
	w.expect("dmz", "dsl")
	w.expectDuties("lan/fibre", "lab/fibre")
}

func TestDrain(t *testing.T) {
	t.Run("cost", func(t *testing.T) {
		w := master(t, target)
		w.s.SetCost(w.now, "fibre", 20)
		w.expect("lan", "dsl")
		w.run(10*time.Minute - time.Second)
		w.expectDuties()
		if got := w.path("lan").Draining; len(got) != 1 || got[0].Uplink != "fibre" {
			t.Errorf("%+v", got)
		}
		w.run(2 * time.Second)
		w.expectDuties("out:lan/fibre")
		if got := w.path("lan").Draining; len(got) > 0 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("chosen again", func(t *testing.T) {
		w := master(t, target)
		w.s.SetCost(w.now, "fibre", 20)
		w.run(5 * time.Minute)
		w.s.SetCost(w.now, "fibre", 0)
		w.expect("lan", "fibre")
		w.run(5*time.Minute - time.Second)
		w.expectDuties()
		w.run(2 * time.Second)
		w.expectDuties() // of dsl there are five more minutes
		w.run(5 * time.Minute)
		w.expectDuties("out:lan/dsl")
	})
	t.Run("the old one dies meanwhile", func(t *testing.T) {
		w := master(t, target)
		w.s.SetCost(w.now, "fibre", 20)
		w.run(time.Minute)
		w.carrier("fibre", false)
		w.expectDuties("lan/fibre")
		w.run(time.Hour)
		w.expectDuties("lan/fibre")
	})
	t.Run("the new one dies meanwhile", func(t *testing.T) {
		w := master(t, target)
		w.s.SetCost(w.now, "fibre", 20)
		w.run(time.Minute)
		w.carrier("dsl", false)
		w.expect("lan", "fibre")
		w.expectDuties("lan/dsl")
	})
	t.Run("at once", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].DrainTime = 0
		w := settle(t, doc)
		w.s.SetRole(w.now, true)
		w.s.SetCost(w.now, "fibre", 20)
		w.expectDuties("out:lan/fibre")
	})
	t.Run("of a degraded one", func(t *testing.T) {
		w := master(t)
		w.lines["fibre"].loss = 0.3
		w.until("switched", 30*time.Second, func() bool { return w.chosen("lan") == "dsl" })
		w.expectDuties()
		w.run(10 * time.Minute)
		w.expectDuties("out:lan/fibre")
	})
}

func TestDutiesOfForbiddenUplinks(t *testing.T) {
	t.Run("too dear", func(t *testing.T) {
		doc := document(target)
		doc.Networks[0].MaxCost = 50
		w := settle(t, doc)
		w.s.SetRole(w.now, true)
		w.s.SetCost(w.now, "fibre", 60)
		w.s.SetCost(w.now, "lte", 60) // was not in use, but may have been before
		w.run(10*time.Minute - time.Second)
		w.expectDuties()
		w.run(2 * time.Second)
		w.expectDuties("lan/fibre", "lan/lte")
		w.run(time.Hour)
		w.expectDuties("lan/fibre", "lan/lte")
		w.s.SetCost(w.now, "lte", 20)
		w.run(time.Minute)
		w.expectDuties("lan/fibre")
		// It holds even if nothing is left.
		w.s.SetCost(w.now, "lte", 60)
		w.s.SetCost(w.now, "dsl", 60)
		w.run(11 * time.Minute)
		w.expect("lan", "")
		w.expectDuties("lan/fibre", "lan/lte", "lan/dsl")
	})
	t.Run("not the network's any more", func(t *testing.T) {
		doc := document(target)
		w := settle(t, doc)
		w.s.SetRole(w.now, true)
		doc.Networks[0].Uplinks = []string{"dsl", "lte"}
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.expect("lan", "dsl")
		w.run(10*time.Minute - time.Second)
		w.expectDuties()
		w.run(2 * time.Second)
		w.expectDuties("lan/fibre")
		doc.Networks[0].Uplinks = []string{"dsl"}
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.run(11 * time.Minute)
		w.expectDuties("lan/fibre", "lan/lte")
	})
	t.Run("gone from the document", func(t *testing.T) {
		doc := document(target)
		w := settle(t, doc)
		w.s.SetRole(w.now, true)
		gone := doc.Uplinks[0]
		doc.Uplinks = doc.Uplinks[1:]
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.expect("lan", "dsl")
		w.expectDuties("lan/fibre")
		if d := w.s.Duties(w.now)[0]; d.VRID != 1 {
			t.Errorf("%+v", d)
		}
		// Another uplink gets its number.
		gone.Name = "cable"
		doc.Uplinks = append(doc.Uplinks, gone)
		w.s.Reconfigure(w.now, NewConfig(doc))
		w.expectDuties()
	})
}

// A BACKUP chooses and has no duty; when it becomes MASTER it has those that hold by its own
// evidence.
func TestDutiesAfterFailover(t *testing.T) {
	w := settle(t, document(target))
	w.carrier("fibre", false)
	w.expect("lan", "dsl")
	w.run(time.Minute)
	w.expectDuties()
	w.s.SetRole(w.now, true)
	w.expectDuties("lan/fibre")
	if d := w.s.Duties(w.now)[0]; d.Begun != w.now {
		t.Errorf("%+v", d)
	}
	w.s.SetRole(w.now, false)
	w.expectDuties()

	// What only this node has left is no reason to end what another node had there.
	w = settle(t, document(target))
	w.carrier("fibre", false)
	w.run(200 * time.Millisecond)
	w.carrier("fibre", true)
	w.run(5 * time.Second)
	w.expect("lan", "dsl")
	w.s.SetRole(w.now, true)
	w.run(5 * time.Second)
	w.expectDuties()

	// What both have left is over when its time is.
	w = settle(t, document(target))
	w.s.SetCost(w.now, "fibre", 20)
	w.run(9 * time.Minute)
	w.s.SetRole(w.now, true)
	w.run(2 * time.Minute)
	w.expectDuties()
	w.run(8*time.Minute + 30*time.Second)
	w.expectDuties("out:lan/fibre")
}
