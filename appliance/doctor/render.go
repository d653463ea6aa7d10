package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Widths of a report: that of a text that nobody wraps, and the least that sentences
// are wrapped to.
const (
	DefaultWidth = 100
	minSentence  = 30
)

// The ANSI colours in use.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// symbol is what marks a finding, with its colour.
func symbol(g Grade) (mark, colour string) {
	switch g {
	case OK:
		return "✓", green
	case Warning:
		return "!", yellow
	case Trouble:
		return "✗", red
	case NotTested:
		return "·", dim
	}
	return "?", red
}

func title(section string) string {
	switch section {
	case SectionMachine:
		return "This machine"
	case SectionInterfaces:
		return "Interfaces and addresses"
	case SectionSegments:
		return "What is on the segments"
	case SectionPeer:
		return "Between the members"
	case SectionNode:
		return "The running node"
	}
	return section
}

// Render returns the report as text of that many columns for people, 0 meaning
// [DefaultWidth]. With colour it uses ANSI colours and nothing else of a terminal's
// abilities.
func Render(r Report, colour bool, width int) string {
	if width <= 0 {
		width = DefaultWidth
	}
	p := page{colour: colour, width: width}
	p.head(r)
	for _, section := range []string{SectionMachine, SectionInterfaces, SectionSegments, SectionPeer, SectionNode} {
		p.section(section, slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Section != section }))
	}
	p.verdict(r)
	return p.b.String()
}

// page collects the text.
type page struct {
	b      strings.Builder
	colour bool
	width  int
}

func (p *page) paint(colour, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (p *page) head(r Report) {
	state := "not running"
	if r.Running {
		state = "running"
	}
	with := ""
	if r.Peer != "" {
		with = " · peer " + r.Peer
	}
	fmt.Fprintf(&p.b, "%s\n", p.paint(bold, fmt.Sprintf("Group %s · node %s, %s%s", r.Group, r.Node, state, with)))
}

// section writes its findings in two aligned columns of names and one of sentences.
func (p *page) section(name string, list []Finding) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(&p.b, "\n%s\n", p.paint(bold, title(name)))
	check, where := 0, 0
	for _, f := range list {
		check = max(check, utf8.RuneCountInString(f.Check))
		where = max(where, utf8.RuneCountInString(f.Where))
	}
	indent := 4 + check + 2
	if where > 0 {
		indent += where + 2
	}
	for _, f := range list {
		mark, colour := symbol(f.Grade)
		names := pad(f.Check, check+2)
		if where > 0 {
			names += pad(f.Where, where+2)
		}
		text := f.Text
		if f.Grade == NotTested {
			text = "not tested: " + text
		}
		lines := wrap(text, max(p.width-indent, minSentence))
		fmt.Fprintf(&p.b, "  %s %s%s\n", p.paint(colour, mark), names, lines[0])
		for _, line := range lines[1:] {
			fmt.Fprintf(&p.b, "%s%s\n", strings.Repeat(" ", indent), line)
		}
	}
}

func (p *page) verdict(r Report) {
	trouble, warnings, untested := r.Count(Trouble), r.Count(Warning), r.Count(NotTested)
	text, colour := "Tandem will run here.", green
	switch {
	case trouble > 0:
		text, colour = "Tandem will not run well here: mend what is marked ✗.", red
	case warnings > 0:
		text, colour = "Tandem will run here; what is marked ! could be better.", yellow
	case untested > 0:
		text, colour = "Nothing is wrong with what was tested.", yellow
	}
	fmt.Fprintf(&p.b, "\n%s\n%s\n", p.paint(colour, text), p.paint(dim, fmt.Sprintf(
		"%d in trouble, %s, %d ok, %d not tested; took %v.",
		trouble, plural(warnings, "warning"), r.Count(OK), untested, r.Took.Round(100*time.Millisecond))))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// pad fills s with blanks up to n characters.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(n-utf8.RuneCountInString(s), 0))
}

// wrap breaks a sentence at blanks into lines of at most width characters; a longer
// word stays whole. There is always one line.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
