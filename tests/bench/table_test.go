package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab/traffic"
)

func TestQuantileIsTheNearestRank(t *testing.T) {
	var list []time.Duration
	for i := range 20 {
		list = append(list, time.Duration(i+1))
	}
	for percent, want := range map[int]time.Duration{1: 1, 5: 1, 50: 10, 95: 19, 96: 20, 100: 20} {
		if got := quantile(list, percent); got != want {
			t.Errorf("%d%%: got %d, want %d", percent, got, want)
		}
	}
	if got := quantile(list[:1], 50); got != 1 {
		t.Errorf("of one: got %d", got)
	}
}

// trialAt is an experiment in which both kinds of flow were silent for so long.
func trialAt(session, system string, ms int) entry {
	s := silence{Max: time.Duration(ms) * time.Millisecond}
	return entry{Session: session, Trial: &trial{System: system, Advert: "10ms", Fault: "crash", felt: felt{
		UDP: s, TCP: s, Sessions: 25, Missing: uint64(ms), Speakers: 1,
	}}}
}

func TestRender(t *testing.T) {
	all := []entry{
		{Session: "2026-01-01T00:00:00Z", Machine: &machine{Cores: 64, Kernel: "5.0"}},
		trialAt("2026-01-01T00:00:00Z", systemTandem, 9999),
		{Session: "2026-01-02T00:00:00Z", Machine: &machine{Cores: 2, Kernel: "6.18.1", Software: []string{"keepalived 2.2.7"}}},
		trialAt("2026-01-02T00:00:00Z", systemTandem, 10),
		trialAt("2026-01-02T00:00:00Z", systemTandem, 20),
		trialAt("2026-01-02T00:00:00Z", systemTandem, 30),
		trialAt("2026-01-02T00:00:00Z", systemKeepalived, 40),
		{Session: "2026-01-02T00:00:00Z", Trial: &trial{System: systemKeepalived, Advert: "10ms", Fault: "crash", Error: "it did not move"}},
		{Session: "2026-01-02T00:00:00Z", CPU: &cpuUse{
			System: systemTandem, Advert: "10ms", Role: roleMaster, Over: 2 * time.Second,
			Used: map[string]time.Duration{"tandem elect": 8 * time.Millisecond, "tandem run": 2 * time.Millisecond},
		}},
		{Session: "2026-01-02T00:00:00Z", CPU: &cpuUse{
			System: systemKeepalived, Advert: "10ms", Role: roleMaster, Over: time.Second,
			Used: map[string]time.Duration{"keepalived": 4 * time.Millisecond},
		}},
		{Session: "2026-01-02T00:00:00Z", Stress: &endurance{System: systemTandem, Advert: "10ms", Loops: 4, Over: time.Minute, Failovers: 2}},
	}
	all[7].Trial.Speakers, all[6].Trial.Speakers, all[6].Trial.Lost = 2, 2, 3
	got := render(all)
	for _, line := range []string{
		"Measured on 2026-01-02, on 2 cores, Linux 6.18.1: keepalived 2.2.7.\n",
		"| 10ms | crash | 20.0 | 30.0 | 30.0 | 3 | 40.0 | 40.0 | 40.0 | 2 (1 failed) | 0.50 |\n",
		"| 10ms | crash | 0 of 75 | 20 | 30 | 0 of 3 | 3 of 25 | 40 | 40 | 1 of 1 |\n",
		"| 10ms | MASTER | 5.0 (tandem elect 4.0, tandem run 1.0) | 4.0 (keepalived 4.0) | 1.25 |\n",
		"| 10ms | 4 | 1m0s | tandem | 2 |",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if strings.Contains(got, "9999") || strings.Contains(got, "64 cores") {
		t.Error("an older session of the row counts, too")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestRenderNothing(t *testing.T) {
	if got := render([]entry{{Session: "s", Machine: &machine{}}}); !strings.Contains(got, "Nothing has been measured") {
		t.Errorf("got %q", got)
	}
}

func TestInsert(t *testing.T) {
	document := []byte("before\n" + beginMarker + "\nold\n" + endMarker + "\nafter\n")
	got, err := insert(document, "new\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "before\n" + beginMarker + "\n\nnew\n\n" + endMarker + "\nafter\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := insert([]byte(endMarker+beginMarker), "new"); err == nil {
		t.Error("a document without markers was taken")
	}
}

func TestFeltBetween(t *testing.T) {
	before := traffic.Snapshot{UDP: traffic.Group{Missing: 2}}
	after := traffic.Snapshot{
		UDP: traffic.Group{Total: 5, Missing: 12, SilenceMax: 3, Lost: 1, Reasons: map[string]int{"remapped": 1}},
		TCP: traffic.Group{Total: 20, SilenceP50: 4, Lost: 2, Reasons: map[string]int{"reset": 2}},
	}
	f := feltBetween(before, after, time.Second)
	if f.Missing != 10 || f.Lost != 3 || f.Sessions != 25 || f.UDP.Max != 3 || f.TCP.Median != 4 || f.MasterAfter != time.Second ||
		f.Reasons["UDP remapped"] != 1 || f.Reasons["TCP reset"] != 2 {
		t.Errorf("got %+v", f)
	}
}

// The table in the documentation is the one that the results give.
func TestDocumentIsUpToDate(t *testing.T) {
	docs := filepath.Join("..", "..", "docs")
	text, err := os.ReadFile(filepath.Join(docs, "benchmark.md"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := readEntries(filepath.Join(docs, "benchmark.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := insert(text, render(all))
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(text) {
		t.Error("docs/benchmark.md differs from its results: run `make bench BENCH_PARTS=`")
	}
}
