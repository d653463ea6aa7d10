package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Path leads to the value, e.g. "networks[0].ports.alpha.address". It is empty
	// when the document as a whole is meant.
	Path string
	// Line is counted from 1. For a missing key it is the line of the mapping that
	// lacks it.
	Line int
	// Message says what is wrong and what to do.
	Message string
}

// Faults is the error of [Parse]: everything that is wrong with one document,
// in the order of lines.
type Faults struct {
	// Name is the name of the document's file.
	Name string
	// List is never empty.
	List []Fault
}

// Error returns one line per fault, "FILE:LINE: path: message".
func (f *Faults) Error() string {
	var b strings.Builder
	for i, fault := range f.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d: ", f.Name, fault.Line)
		if fault.Path != "" {
			b.WriteString(fault.Path + ": ")
		}
		b.WriteString(fault.Message)
	}
	return b.String()
}

// report collects faults while a document is read, and remembers on which line
// each path stands, so that contradictions found later have a line too.
type report struct {
	lines  map[string]int
	faults []Fault
	paths  map[string]bool
}

func newReport() *report {
	return &report{lines: map[string]int{"": 1}, paths: map[string]bool{}}
}

// stand notes the line of a path.
func (r *report) stand(path string, line int) {
	r.lines[path] = line
}

// stands tells whether a path stands in the document.
func (r *report) stands(path string) bool {
	_, ok := r.lines[path]
	return ok
}

// add reports a fault at a path. A path that does not stand in the document
// gets the line of the nearest one above it.
func (r *report) add(path, message string) {
	above := path
	line, ok := r.lines[above]
	for !ok {
		above = above[:max(0, strings.LastIndexAny(above, ".["))]
		line, ok = r.lines[above]
	}
	r.addAt(path, line, message)
}

func (r *report) addAt(path string, line int, message string) {
	r.paths[path] = true
	r.faults = append(r.faults, Fault{Path: path, Line: line, Message: message})
}

// faulty says whether a fault was reported at exactly one of these paths.
func (r *report) faulty(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return r.paths[path] })
}

// failure returns what was collected as an error, or nil if there was nothing.
func (r *report) failure(name string) error {
	if len(r.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(r.faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return &Faults{Name: name, List: r.faults}
}
