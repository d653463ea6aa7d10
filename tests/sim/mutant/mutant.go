package mutant

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

// Mutant is a rule that is broken.
type Mutant struct {
	Name  string
	Edits []Edit
	// Test is the test that catches it; TestSeeds if it is empty.
	Test string
}

// Edit replaces a piece of a function, which must be there once. In the new text, MUTANT
// is true when the mutant is awake.
type Edit struct {
	Directory, Function string
	Old, New            string
}

// One returns a mutant of one edit.
func One(name, directory, function, old, with string) Mutant {
	return Mutant{Name: name, Edits: []Edit{{directory, function, old, with}}}
}

// variable holds the name of the mutant that is awake.
const variable = "TANDEM_SIM_MUTANT"

// Run returns the first seed that fails and the rule that it violates, or the test that
// failed; empty if nothing was found.
func Run(t *testing.T, program string, m Mutant, seeds int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	test := cmp.Or(m.Test, "TestSeeds")
	cmd := exec.CommandContext(ctx, program, "-test.run=^"+test+"$", "-first", fmt.Sprint("-seeds=", seeds))
	cmd.Env = append(os.Environ(), variable+"="+m.Name)
	out, err := cmd.CombinedOutput()
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if found, violated := strings.CutPrefix(s.Text(), "violated "); violated {
			seed, rule, _ := strings.Cut(found, " ")
			return "seed " + seed + ": " + rule
		}
	}
	if m.Test != "" && bytes.Contains(out, []byte("--- FAIL: "+m.Test)) {
		return m.Test
	}
	if err != nil {
		t.Fatalf("the mutated simulation ended with %v:\n%s", err, out)
	}
	return ""
}

// Build compiles the tests of a package, named by its path from the root of the module,
// with all mutants in them.
func Build(t *testing.T, root, tests string, mutants []Mutant) (program string) {
	t.Helper()
	root, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	temporary := t.TempDir()
	replace := map[string]string{}
	for directory, edits := range byDirectory(mutants) {
		sources := mutate(t, filepath.Join(root, directory), edits)
		name := "mutant.go"
		if strings.HasPrefix(directory, "tests") {
			name = "mutant_test.go"
		}
		packageName := filepath.Base(directory)
		sources[filepath.Join(root, directory, name)] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar mutantAwake = os.Getenv(%q)\n", packageName, variable)
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
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", file, "-o", program, "./"+tests)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the mutants: %v\n%s", err, out)
	}
	return program
}

func byDirectory(mutants []Mutant) map[string][]Edit {
	all := map[string][]Edit{}
	for _, m := range mutants {
		for _, e := range m.Edits {
			e.New = strings.ReplaceAll(e.New, "MUTANT", fmt.Sprintf("(mutantAwake == %q)", m.Name))
			all[e.Directory] = append(all[e.Directory], e)
		}
	}
	return all
}

// mutate returns the changed sources of a directory by their paths.
func mutate(t *testing.T, directory string, edits []Edit) map[string]string {
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
			begin, end := find(t, file, source, e.Function)
			if begin == end || strings.Count(source[begin:end], e.Old) != 1 {
				continue
			}
			found++
			sources[file] = source[:begin] + strings.Replace(source[begin:end], e.Old, e.New, 1) + source[end:]
			changed[file] = sources[file]
		}
		if found != 1 {
			t.Errorf("%q is in %d functions %s of %s, but must be once in one: has the code changed?", e.Old, found, e.Function, directory)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return changed
}

// find returns where a function or method lies in a source; an empty range if it is not
// there.
func find(t *testing.T, file, source, name string) (begin, end int) {
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
