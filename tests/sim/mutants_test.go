package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutant is a rule of the election that is broken on purpose, in the product's own
// code: a copy of it is compiled in which every mutant is asleep until its name is in
// the environment.
type mutant struct {
	name  string
	edits []edit
	// test is the test that catches it; TestSeeds if it is empty.
	test string
}

// edit replaces a piece of a function. In the new text, MUTANT is true when the
// mutant is awake.
type edit struct {
	directory, function string
	old, new            string
}

func mutants() []mutant {
	one := func(name, directory, function, old, with string) mutant {
		return mutant{name: name, edits: []edit{{directory, function, old, with}}}
	}
	return []mutant{
		one("tie-break dropped", "vrrp", "wins", "return source.Compare", "return !MUTANT && source.Compare"),
		one("skew dropped", "vrrp", "SkewTime", "return time", "if MUTANT { return 0 }\nreturn time"),
		one("down interval of two adverts", "vrrp", "DownInterval", "return 3", "if MUTANT { return 2*g.activeInterval + g.SkewTime() }\nreturn 3"),
		one("yield dropped", "vrrp", "receiveMaster", "case g.wins(", "case !MUTANT && g.wins("),
		one("losing advert not answered", "vrrp", "receiveMaster", "case now.Sub(g.answeredAt)", "case !MUTANT && now.Sub(g.answeredAt)"),
		one("question not answered", "vrrp", "Receive", "g.answer(now, &out)", "if !MUTANT { g.answer(now, &out) }"),
		{name: "lease too long", edits: []edit{
			{"vrrp", "LeaseFor", "return interval", "if MUTANT { return 4*interval }\nreturn interval"},
			{"vrrp", "BeatLease", "return silent", "if MUTANT { return 2*silentBeats(beat) }\nreturn silent"},
			{"vrrp", "Validate", "if c.Lease <= 0 ||", "if !MUTANT && (c.Lease <= 0) || !MUTANT &&"},
			{"vrrp", "Validate", "|| c.Lease > silent", "|| !MUTANT && c.Lease > silent"},
		}},
		one("lease never expires", "tests/sim", "openFence", "lease := m.cfg.Lease", "lease := m.cfg.Lease\nif MUTANT { lease = time.Hour }"),
		one("lease not revoked", "vrrp", "becomeBackup", "Output{Revoke: true}", "Output{Revoke: !MUTANT}"),
		one("timers before sockets", "tests/sim", "round", "m.drain()", "if MUTANT { m.step(vrrp.Input{Tick: true}, cause{}) }\nm.drain()"),
		one("own stall not noticed", "vrrp", "stepDownIfStalled", "if g.state != Master ||", "if MUTANT || g.state != Master ||"),
		one("no grace after an own stall", "vrrp", "tickBackup", "&& !g.graced", "&& !MUTANT && !g.graced"),
		one("priority prevails after an own stall", "vrrp", "suspect", "return now", "return !MUTANT && now"),
		one("second opinion skipped", "vrrp", "tickQuestion", "out.Ask = true", "if MUTANT { return true }\nout.Ask = true"),
		one("echo of the kernel ignored", "vrrp", "ReceiveEcho", "!g.askUntil", "!MUTANT && !g.askUntil"),
		one("refusal taken for a proof", "vrrp", "ReceiveRefusal", "g.askAt = now", "g.askAt = now\nif MUTANT { g.askAt, g.askUntil = time.Time{}, now }"),
		{
			name: "stall waited for without end", test: "TestFailoverTime",
			edits: []edit{{"vrrp", "mayStall", "&& now.Sub(g.aliveAt) <", "&& MUTANT || g.kernelAlive && !g.refused && now.Sub(g.aliveAt) <"}},
		},
		one("heartbeat no sign of life", "vrrp", "ReceiveHeartbeat", "g.heardMasterBeat(now, h)", "if !MUTANT { g.heardMasterBeat(now, h) }"),
		{name: "goodbye ignored", edits: []edit{
			{"vrrp", "receiveBackup", "if a.Priority == 0", "if !MUTANT && a.Priority == 0"},
			{"vrrp", "heardGoodbye", "g.downReason", "if MUTANT { return }\ng.downReason"},
		}},
		{name: "no announcement after two MASTERs", edits: []edit{
			{"vrrp", "receiveMaster", "out.Announce = true", "out.Announce = !MUTANT"},
			{"vrrp", "ReceiveHeartbeat", "out.Announce = true", "out.Announce = !MUTANT"},
		}},
		one("unready member preempts", "vrrp", "preempts", "|| !g.fitness.Ready", "|| !MUTANT && !g.fitness.Ready"),
		one("no delay of preemption", "vrrp", "preempts", "return now.Sub(g.preemptSince)", "return MUTANT || now.Sub(g.preemptSince)"),
		one("no patience with a less fit MASTER", "vrrp", "preempts", "return g.fitness.Ready ||", "return MUTANT || g.fitness.Ready ||"),
		one("role offered to an equal", "vrrp", "considerHandover", "|| band(g.peer.Priority) <= band(g.Priority())", "|| !MUTANT && band(g.peer.Priority) <= band(g.Priority())"),
		one("fence left open by a handover", "vrrp", "endLinger", "|| g.lingering", "|| !MUTANT && g.lingering"),
		one("role given up before it is taken", "vrrp", "Handover", "g.offer(now, &out)", "g.offer(now, &out)\nif MUTANT { g.yield(now, true, &out) }"),
		one("preemption after a planned handover", "vrrp", "yield", "g.yielded = planned", "g.yielded = planned && !MUTANT"),
		one("isolated MASTER stays", "vrrp", "SetLinks", "|| g.state != Master", "|| MUTANT || g.state != Master"),
		{name: "replayed heartbeat trusted", edits: []edit{
			{"vrrp", "trust", "if count <= c.receivedBy[link]", "if !MUTANT && count <= c.receivedBy[link]"},
			{"vrrp", "trust", "if count <= c.received {", "if !MUTANT && count <= c.received {"},
		}},
		one("foreign MASTER disregarded", "vrrp", "ReceiveHeartbeat", "if h.TakeOver && h.State == Master && !stale && g.usable() && !g.overslept(now) && !g.outranked(now)",
			"if h.TakeOver && h.State == Master && !stale && g.usable() && !g.overslept(now) && (MUTANT || !g.outranked(now))"),
		one("no time to recover", "router", "Observe", "l.wellAt = now.Add(RecoveryTime)", "if !MUTANT { l.wellAt = now.Add(RecoveryTime) }"),
		{
			name: "switch of both moves the role", test: "TestFlappingLinks",
			edits: []edit{{"vrrp", "considerHandover", "if now.Before(g.offerAt)", "if !MUTANT && now.Before(g.offerAt)"}},
		},
	}
}

// mutantVariable holds the name of the mutant that is awake.
const mutantVariable = "TANDEM_SIM_MUTANT"

// mutantSeeds is how many seeds may pass before a mutant must be caught.
const mutantSeeds = 1500

// TestMutants: a simulation that does not notice a broken rule is worth nothing.
func TestMutants(t *testing.T) {
	t.Parallel()
	program := buildMutants(t)
	for _, m := range append([]mutant{{name: "none"}}, mutants()...) {
		t.Run(m.name, func(t *testing.T) {
			seeds := mutantSeeds
			if len(m.edits) == 0 {
				seeds = 50
			}
			what := runMutant(t, program, m, seeds)
			switch caught := what != ""; {
			case caught && len(m.edits) == 0:
				t.Errorf("fails without a mutant: %s", what)
			case caught:
				t.Logf("caught by %s", what)
			case len(m.edits) > 0:
				t.Errorf("%d seeds found nothing wrong", mutantSeeds)
			}
		})
	}
}

// runMutant returns the first seed that fails and the rule that it violates, or the test
// that failed; empty if nothing was found.
func runMutant(t *testing.T, program string, m mutant, seeds int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	test := cmp.Or(m.test, "TestSeeds")
	cmd := exec.CommandContext(ctx, program, "-test.run=^"+test+"$", "-first", fmt.Sprint("-seeds=", seeds))
	cmd.Env = append(os.Environ(), mutantVariable+"="+m.name)
	out, err := cmd.CombinedOutput()
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if found, violated := strings.CutPrefix(s.Text(), "violated "); violated {
			seed, violatedRule, _ := strings.Cut(found, " ")
			return "seed " + seed + ": " + violatedRule
		}
	}
	if m.test != "" && bytes.Contains(out, []byte("--- FAIL: "+m.test)) {
		return m.test
	}
	if err != nil {
		t.Fatalf("the mutated simulation ended with %v:\n%s", err, out)
	}
	return ""
}

// buildMutants compiles this package's tests with all mutants in them.
func buildMutants(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	temporary := t.TempDir()
	replace := map[string]string{}
	for directory, edits := range editsByDirectory() {
		sources := mutate(t, filepath.Join(root, directory), edits)
		name := "mutant.go"
		if strings.HasPrefix(directory, "tests") {
			name = "mutant_test.go"
		}
		packageName := filepath.Base(directory)
		sources[filepath.Join(root, directory, name)] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar mutantAwake = os.Getenv(%q)\n", packageName, mutantVariable)
		for file, source := range sources {
			changed := filepath.Join(temporary, packageName+"-"+filepath.Base(file))
			if err := os.WriteFile(changed, []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[file] = changed
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file, program := filepath.Join(temporary, "overlay.json"), filepath.Join(temporary, "sim.test")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", file, "-o", program, "./tests/sim")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the mutants: %v\n%s", err, out)
	}
	return program
}

func editsByDirectory() map[string][]edit {
	all := map[string][]edit{}
	for _, m := range mutants() {
		for _, e := range m.edits {
			e.new = strings.ReplaceAll(e.new, "MUTANT", fmt.Sprintf("(mutantAwake == %q)", m.name))
			all[e.directory] = append(all[e.directory], e)
		}
	}
	return all
}

// mutate returns the changed sources of a directory by their paths.
func mutate(t *testing.T, directory string, edits []edit) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	sources, changed := map[string]string{}, map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sources[file] = string(b)
	}
	for _, e := range edits {
		found := 0
		for file, source := range sources {
			begin, end := findFunction(t, file, source, e.function)
			if begin == end || strings.Count(source[begin:end], e.old) != 1 {
				continue
			}
			found++
			sources[file] = source[:begin] + strings.Replace(source[begin:end], e.old, e.new, 1) + source[end:]
			changed[file] = sources[file]
		}
		if found != 1 {
			t.Fatalf("%q is in %d functions %s of %s, but must be once in one: has the code changed?", e.old, found, e.function, directory)
		}
	}
	return changed
}

// findFunction returns where a function or method lies in a source; an empty range if it
// is not there.
func findFunction(t *testing.T, file, source, name string) (begin, end int) {
	t.Helper()
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, declaration := range syntax.Decls {
		if f, ok := declaration.(*ast.FuncDecl); ok && f.Name.Name == name {
			return set.Position(f.Pos()).Offset, set.Position(f.End()).Offset
		}
	}
	return 0, 0
}
