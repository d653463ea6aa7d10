package rfc9568

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//nolint:gochecknoglobals // a flag of the test program
var update = flag.Bool("update", false, "write docs/rfc9568.md anew")

func TestEveryPointIsTested(t *testing.T) {
	all := readTree(t)
	if len(all) < 300 {
		t.Fatalf("found %d tests only: this looks at the wrong place", len(all))
	}
	for _, fault := range faults(all, clauses(), deviations()) {
		t.Error(fault)
	}
}

func TestDocumentIsCurrent(t *testing.T) {
	path := filepath.Join(root(t), "docs", "rfc9568.md")
	want := document(readTree(t), clauses(), deviations())
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/rfc9568.md is not what the table says: run `go test ./tests/rfc9568 -update`")
	}
}

// sound is a table without fault, and the tree that it is about.
func sound(t *testing.T) (tests, []clause, []deviation) {
	t.Helper()
	all := tests{}
	source := `package a
func TestRFC9568_5_2_Good(t *testing.T) { t.Run("in time", nil) }
func TestRFC9568_5_2_Bad(t *testing.T) {}
func TestRFC9568_5_2_8_Sum(t *testing.T) {}
func TestRFC9568_5_2_Helper(t *testing.T, more int) {}
func TestOther(t *testing.T) {}
`
	if err := all.add("a/b/c_test.go", "c_test.go", source); err != nil {
		t.Fatal(err)
	}
	var table []clause
	for i := range points {
		table = append(table, clause{
			number: i + 1, sections: []string{"5.2", "5.2.8"}, level: must, text: "Something is so.",
			positive: []string{"a/b/TestRFC9568_5_2_Good/in time"}, negative: []string{"a/b/TestRFC9568_5_2_Bad", "a/b/TestRFC9568_5_2_8_Sum"},
		})
	}
	return all, table, []deviation{{"More", []string{"5"}, "It does more.", "It must.", []string{"a/b/TestOther"}}}
}

func TestFaultsAreFound(t *testing.T) {
	all, table, more := sound(t)
	if list := faults(all, table, more); len(list) > 0 {
		t.Fatalf("a sound table has faults: %q", list)
	}
	for name, c := range map[string]struct {
		spoil func(all tests, table []clause, more []deviation) ([]clause, []deviation)
		want  string
	}{
		"a test is gone": {func(all tests, table []clause, more []deviation) ([]clause, []deviation) {
			delete(all, "a/b/TestRFC9568_5_2_Bad")
			return table, more
		}, "there is no test a/b/TestRFC9568_5_2_Bad"},
		"a test has moved": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].positive = []string{"a/TestRFC9568_5_2_Good"}
			return table, more
		}, "point 8: there is no test a/TestRFC9568_5_2_Good"},
		"a subtest is gone": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].positive = []string{"a/b/TestRFC9568_5_2_Good/late"}
			return table, more
		}, `point 8: a/b/c_test.go has no subtest "late"`},
		"a test of another section": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].sections = []string{"5.2"}
			return table, more
		}, "TestRFC9568_5_2_8_Sum is not named by one of the sections 5.2"},
		"a test without section": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].positive = []string{"a/b/TestOther"}
			return table, more
		}, "a/b/TestOther is not named"},
		"no positive test": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].positive = nil
			return table, more
		}, "point 8 has no positive test"},
		"no negative test": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].negative = nil
			return table, more
		}, "point 8 has no negative test"},
		"the same test on both sides": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].negative = table[7].positive
			return table, more
		}, "is on both sides"},
		"a forgotten test": {func(all tests, table []clause, more []deviation) ([]clause, []deviation) {
			all["a/b/TestRFC9568_9_New"] = found{file: "a/b/d_test.go"}
			return table, more
		}, "a/b/TestRFC9568_9_New in a/b/d_test.go stands in no line"},
		"a forgotten point": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			return slices.Delete(table, 7, 8), more
		}, "point 9 stands in the place of point 8"},
		"a point at the end": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			return table[:points-1], more
		}, "there are 60 points"},
		"a point that says nothing": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			table[7].text = ""
			return table, more
		}, "point 8 needs a text"},
		"a deviation without reason": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			more[0].reason = ""
			return table, more
		}, `deviation "More" needs`},
		"a deviation without test": {func(_ tests, table []clause, more []deviation) ([]clause, []deviation) {
			more[0].tests = []string{"a/b/TestGone"}
			return table, more
		}, `deviation "More": there is no test a/b/TestGone`},
	} {
		t.Run(name, func(t *testing.T) {
			all, table, more := sound(t)
			table, more = c.spoil(all, table, more)
			if list := faults(all, table, more); !strings.Contains(strings.Join(list, "\n"), c.want) {
				t.Errorf("faults %q, want one with %q", list, c.want)
			}
		})
	}
}

// document renders the table.
func document(all tests, clauses []clause, deviations []deviation) []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, `# RFC 9568, point by point

Every point of RFC 9568 (VRRP version 3) and the tests that hold Tandem to it: those that show that it is kept, and
those that show what must not happen or what is refused. "MASTER" is what the RFC calls Active. The words are ours, the
numbers are only for reference. Errata 8298 to 8301 count as part of the text.

The page is generated from the table in `+"`tests/rfc9568`"+`, which also checks that every test exists and none is
forgotten: `+"`go test ./tests/rfc9568 -update`"+`.

| | § | level | point | holds | must not be |
| --- | --- | --- | --- | --- | --- |
`)
	for _, c := range clauses {
		text := c.text
		if c.remark != "" {
			text += "<br>*" + c.remark + "*"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s |\n",
			c.number, strings.Join(c.sections, ", "), c.level, text, links(all, c.positive), links(all, c.negative))
	}
	fmt.Fprint(&b, `
## Deviations

Where Tandem does not do what the RFC says, or does more. Most come of the group: one election for many carriers and a
second member that is known. With a single carrier and no second member those about own stalls, the lease, fitness,
parameters and limits are left.

| deviation | § | what | why | tests |
| --- | --- | --- | --- | --- |
`)
	for _, d := range deviations {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", d.name, strings.Join(d.sections, ", "), d.what, d.reason, links(all, d.tests))
	}
	return b.Bytes()
}

// links leads from each test to its file.
func links(all tests, references []string) string {
	var list []string
	for _, r := range references {
		key, test, subtest := split(r)
		name := strings.TrimPrefix(test, "Test")
		if subtest != "" {
			name += "/" + subtest
		}
		list = append(list, fmt.Sprintf("[%s](../%s)", strings.ReplaceAll(name, "_", `\_`), all[key].file))
	}
	return strings.Join(list, "<br>")
}
