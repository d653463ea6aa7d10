package rfc9568

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// points is how many points the RFC has in our counting.
const points = 61

const prefix = "TestRFC9568_"

// faults are what is wrong with the table, one sentence each.
func faults(all tests, clauses []clause, deviations []deviation) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	used := map[string]bool{}
	look := func(who, reference string) {
		key, _, subtest := split(reference)
		used[key] = true
		switch f, ok := all[key]; {
		case !ok:
			add("%s: there is no test %s: write it, or correct the table", who, reference)
		case subtest != "" && !f.strings[subtest]:
			add("%s: %s has no subtest %q: correct the table", who, f.file, subtest)
		}
	}
	for i, c := range clauses {
		who := fmt.Sprintf("point %d", c.number)
		if c.number != i+1 {
			add("%s stands in the place of point %d", who, i+1)
		}
		if c.text == "" || c.level == "" || len(c.sections) == 0 {
			add("%s needs a text, a level and a section", who)
		}
		for kind, references := range map[string][]string{"positive": c.positive, "negative": c.negative} {
			if len(references) == 0 {
				add("%s has no %s test: write one", who, kind)
			}
			for _, r := range references {
				look(who, r)
				if !named(r, c.sections) {
					add("%s: %s is not named by one of the sections %s", who, r, strings.Join(c.sections, ", "))
				}
				if kind == "positive" && slices.Contains(c.negative, r) {
					add("%s: %s is on both sides", who, r)
				}
			}
		}
	}
	if len(clauses) != points {
		add("there are %d points, want %d", len(clauses), points)
	}
	for _, d := range deviations {
		if d.what == "" || d.reason == "" || len(d.sections) == 0 || len(d.tests) == 0 {
			add("deviation %q needs a section, a text, a reason and a test", d.name)
		}
		for _, r := range d.tests {
			look(fmt.Sprintf("deviation %q", d.name), r)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if _, test, _ := split(key); strings.HasPrefix(test, prefix) && !used[key] {
			add("%s in %s stands in no line of the table: add it to its point", key, all[key].file)
		}
	}
	slices.Sort(list)
	return list
}

// named tells whether a test's name begins with one of the sections.
func named(reference string, sections []string) bool {
	_, test, _ := split(reference)
	return slices.ContainsFunc(sections, func(s string) bool {
		rest, ok := strings.CutPrefix(test, prefix+strings.ReplaceAll(s, ".", "_")+"_")
		// What follows a section is a word: 5_2 is not 5_2_8.
		return ok && rest != "" && (rest[0] < '0' || rest[0] > '9')
	})
}
