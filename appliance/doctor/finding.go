package doctor

import (
	"fmt"
	"time"
)

// Grade says how a check ended.
type Grade uint8

// The grades.
const (
	// OK tells that nothing is wrong.
	OK Grade = iota
	// Warning tells of something that Tandem works with, but not at its best.
	Warning
	// Trouble tells of something that Tandem does not work with.
	Trouble
	// NotTested tells that there was no way to know.
	NotTested
)

// gradeNames is in the order of the constants.
func gradeNames() []string { return []string{"ok", "warning", "trouble", "not tested"} }

// String is the grade as people and programs read it.
func (g Grade) String() string {
	if names := gradeNames(); int(g) < len(names) {
		return names[g]
	}
	return fmt.Sprintf("Grade(%d)", int(g))
}

// MarshalText writes the grade's name.
func (g Grade) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (g *Grade) UnmarshalText(text []byte) error {
	for i, name := range gradeNames() {
		if name == string(text) {
			*g = Grade(i)
			return nil
		}
	}
	return fmt.Errorf("%q is no grade of a finding", text)
}

// The sections of a report, in its order.
const (
	SectionMachine    = "machine"
	SectionInterfaces = "interfaces"
	SectionSegments   = "segments"
	SectionPeer       = "peer"
	SectionNode       = "node"
)

// Finding is the outcome of one check.
type Finding struct {
	// Section is one of the Section constants, Check a name that does not change
	// from release to release.
	Section string `json:"section"`
	Check   string `json:"check"`
	// Where is the carrier or the part of the machine; empty for the whole.
	Where string `json:"where,omitempty"`
	Grade Grade  `json:"grade"`
	// Text is one sentence: what, where, and what to do about it.
	Text string `json:"text"`
}

// Report is all that the doctor has to say.
type Report struct {
	Group   string `json:"group"`
	Node    string `json:"node"`
	Version string `json:"version"`
	// Peer is the other member's name; empty for a single router.
	Peer string `json:"peer,omitempty"`
	// Running tells that the node runs meanwhile.
	Running  bool          `json:"running"`
	Took     time.Duration `json:"took_ns"`
	Findings []Finding     `json:"findings"`
}

// Count returns how many findings have a grade.
func (r Report) Count(g Grade) int {
	n := 0
	for _, f := range r.Findings {
		if f.Grade == g {
			n++
		}
	}
	return n
}

// findings collects what one judge has to say.
type findings struct {
	section string
	list    []Finding
}

func (f *findings) add(g Grade, check, where, format string, args ...any) {
	f.list = append(f.list, Finding{
		Section: f.section, Check: check, Where: where, Grade: g, Text: fmt.Sprintf(format, args...),
	})
}

func (f *findings) ok(check, where, format string, args ...any) {
	f.add(OK, check, where, format, args...)
}

func (f *findings) warn(check, where, format string, args ...any) {
	f.add(Warning, check, where, format, args...)
}

func (f *findings) trouble(check, where, format string, args ...any) {
	f.add(Trouble, check, where, format, args...)
}

func (f *findings) untested(check, where, format string, args ...any) {
	f.add(NotTested, check, where, format, args...)
}

// Trial is the outcome of something that was really tried.
type Trial struct {
	// Tried is false if there was no way to; Problem then says why.
	Tried   bool   `json:"tried"`
	Problem string `json:"problem,omitempty"`
}

// Passed is the outcome of a trial that went well.
func Passed() Trial { return Trial{Tried: true} }

// Failed is the outcome of a trial that did not.
func Failed(problem string) Trial { return Trial{Tried: true, Problem: problem} }

// Untried is a trial for which there was no way.
func Untried(why string) Trial { return Trial{Problem: why} }

// OK tells that it was tried and went well.
func (t Trial) OK() bool { return t.Tried && t.Problem == "" }

// trial adds the finding of a trial: passed says what works, remedy what to do if it
// does not.
func (f *findings) trial(bad Grade, t Trial, check, passed, failed, remedy string) {
	switch {
	case t.OK():
		f.ok(check, "", "%s", passed)
	case t.Tried:
		f.add(bad, check, "", "%s (%s): %s", failed, t.Problem, remedy)
	default:
		f.untested(check, "", "%s; %s", t.Problem, remedy)
	}
}
