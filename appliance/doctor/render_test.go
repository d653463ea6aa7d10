package doctor

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "write the golden files anew")

// sample has every grade and sentences long enough to be wrapped.
func sample() Report {
	m := goodMachine()
	m.RealTime, m.Sysctls["net/ipv4/ip_forward"] = Failed("operation not permitted"), "0"
	missing := goodPort()
	missing.Carrier, missing.Interface, missing.Found = "wan", "eth2", false
	p := goodPair()
	p.Links[0].Out.Multicast = 0
	p.Links[0].Virtuals[0].Rounds[1].Delivered = false
	r := Report{Group: "edge", Node: "alpha", Version: "1", Peer: "bravo", Running: true, Took: 4321 * time.Millisecond}
	r.Findings = append(r.Findings, JudgeMachine(m, pairNeeds())...)
	r.Findings = append(r.Findings, JudgePorts([]Port{goodPort(), missing}, true)...)
	r.Findings = append(r.Findings, JudgeSegments([]Segment{{Carrier: "wan", Interface: "eth2", Problem: "there is no interface eth2"}})...)
	r.Findings = append(r.Findings, JudgePair(p, pairNeeds())...)
	r.Findings = append(r.Findings, JudgeRunning(goodRunning(), pairNeeds())...)
	return r
}

func TestRender(t *testing.T) {
	for _, tt := range []struct {
		name   string
		colour bool
		width  int
	}{{"plain", false, 0}, {"narrow", false, 60}, {"colour", true, 120}} {
		t.Run(tt.name, func(t *testing.T) {
			got := Render(sample(), tt.colour, tt.width)
			path := filepath.Join("testdata", tt.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with -update if this is meant (-want +got):\n%s", diff)
			}
			if tt.colour != strings.Contains(got, "\x1b[") {
				t.Error("colours where there should be none, or none where there should be")
			}
		})
	}
}

func TestRenderKeepsToTheWidth(t *testing.T) {
	const width = 72
	for line := range strings.Lines(Render(sample(), false, width)) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

func TestVerdictFollowsTheWorst(t *testing.T) {
	tests := []struct {
		grade Grade
		want  string
	}{
		{OK, "Tandem will run here."},
		{NotTested, "Nothing is wrong with what was tested."},
		{Warning, "could be better"},
		{Trouble, "will not run well"},
	}
	for _, tt := range tests {
		r := Report{Findings: []Finding{{Section: SectionMachine, Check: "a", Text: "b"}, {Section: SectionMachine, Check: "c", Grade: tt.grade, Text: "d"}}}
		if text := Render(r, false, 0); !strings.Contains(text, tt.want) {
			t.Errorf("%v gives %q", tt.grade, text)
		}
	}
}

func TestWrap(t *testing.T) {
	tests := []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two three", 7, []string{"one two", "three"}},
		{"interminable word", 4, []string{"interminable", "word"}},
		{"äöü äöü", 7, []string{"äöü äöü"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, wrap(tt.text, tt.width)); diff != "" {
			t.Errorf("wrap(%q, %d) (-want +got):\n%s", tt.text, tt.width, diff)
		}
	}
}
