package uplink

import (
	"testing"

	"tandem/tests/sim/mutant"
)

func mutants() []mutant.Mutant {
	one := func(name, function, old, with string) mutant.Mutant {
		return mutant.One(name, "router/uplink", function, old, with)
	}
	other := func(test, name, function, old, with string) mutant.Mutant {
		m := one(name, function, old, with)
		m.Test = test
		return m
	}
	return []mutant.Mutant{
		one("carrier does not count", "judge", `case c.down() != "":`, `case !MUTANT && c.down() != "":`),
		one("gateway outweighs targets", "judge", "case len(c.targets) > 0:", "case !MUTANT && len(c.targets) > 0:"),
		one("silence of the gateway ignored", "silentWithGateway", "return count >=", "return !MUTANT && count >="),
		one("no further attempts", "due", "if m.state == Dead ||", "if MUTANT || m.state == Dead ||"),
		one("no hold-down", "hold", "return min(", "if MUTANT { return 0 }\nreturn min("),
		one("no drain", "lingering", "if s.find(c.uplink.name) == nil {", "if MUTANT || s.find(c.uplink.name) == nil {"),
		one("drain without an end", "drained", "if now.Before(l.until) ||", "if MUTANT || now.Before(l.until) ||"),
		one("duty of a BACKUP", "Duties", "if !s.master {", "if !MUTANT && !s.master {"),
		one("chosen again and still left", "forgive", "return l.uplink == c.uplink.name", "return !MUTANT && l.uplink == c.uplink.name"),
		one("no duty for dead ones", "mustEnd", "return c != p.chosen", "return !MUTANT && c != p.chosen"),
		one("leaves for nothing", "refuge", "if c.standing(now) >= untested {", "if !MUTANT && c.standing(now) >= untested {"),
		one("costs do not matter", "standing", "case !c.allowed:", "case !MUTANT && !c.allowed:"),
		one("no way back", "failBack", "cheaper := best != nil &&", "cheaper := !MUTANT && best != nil &&"),
		one("duty for free networks", "Duties", "if p.free {", "if !MUTANT && p.free {"),
		other("TestLoss", "loss does not matter", "weigh", "m.lossy = true", "m.lossy = !MUTANT"),
		one("dead standby is taken by plan", "move", "if to.proven(now) {", "if MUTANT || to.proven(now) {"),
		one("failures forgotten", "sumUp", "if failed && (c == wanted", "if !MUTANT && failed && (c == wanted"),
		other("TestCommon", "BACKUP without doubts", "doubted", "if !c.state.Works() || !c.up() {", "if MUTANT || !c.state.Works() || !c.up() {"),
		other("TestCommon", "BACKUP recovers at once", "failed", "c.returned && now.Before(ends)", "!MUTANT && c.returned && now.Before(ends)"),
		other("TestCommon", "BACKUP forgets what it has left", "sumUp", "c.allowed && now.Before(c.missedUntil)", "!MUTANT && c.allowed && now.Before(c.missedUntil)"),
	}
}

// mutantSeeds is how many seeds may pass before a mutant must be caught.
const mutantSeeds = 300

// TestMutants: a simulation that does not notice a broken rule is worth nothing.
func TestMutants(t *testing.T) {
	t.Parallel()
	program := mutant.Build(t, "../../..", "tests/sim/uplink", mutants())
	for _, m := range append([]mutant.Mutant{{Name: "none"}}, mutants()...) {
		t.Run(m.Name, func(t *testing.T) {
			seeds := mutantSeeds
			if len(m.Edits) == 0 {
				seeds = 20
			}
			what := mutant.Run(t, program, m, seeds)
			switch caught := what != ""; {
			case caught && len(m.Edits) == 0:
				t.Errorf("fails without a mutant: %s", what)
			case caught:
				t.Logf("caught by %s", what)
			case len(m.Edits) > 0:
				t.Errorf("%d seeds found nothing wrong", seeds)
			}
		})
	}
}
