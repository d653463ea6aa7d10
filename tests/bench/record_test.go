package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
)

func TestParsePlan(t *testing.T) {
	t.Setenv("BENCH_RUNS", "3")
	t.Setenv("BENCH_STRESS", "2m")
	t.Setenv("BENCH_STRESS_INTERVAL", "20ms")
	t.Setenv("BENCH_FAULTS", "hang, poweroff")
	p, err := parsePlan([]string{"-runs", "4", "-systems", "keepalived", "-intervals", "default,1s"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p.runs != 4 || p.stress != 2*time.Minute || p.stressAdvert != "20ms" {
		t.Errorf("got %d runs, %v of stress at %s; want the flag's 4, the environment's 2m and 20ms", p.runs, p.stress, p.stressAdvert)
	}
	if !slices.Equal(p.faults, []string{"hang", "poweroff"}) || !slices.Equal(p.systems, []string{systemKeepalived}) ||
		!slices.Equal(p.adverts, []setting{defaultSetting, "1s"}) {
		t.Errorf("got faults %v, systems %v, adverts %v", p.faults, p.systems, p.adverts)
	}
	if !p.has(partCPU) || !filepath.IsAbs(p.binary) {
		t.Errorf("got parts %v and binary %s", p.parts, p.binary)
	}
}

func TestParsePlanRefuses(t *testing.T) {
	for _, arguments := range [][]string{
		{"-runs", "0"},
		{"-systems", "other"},
		{"-faults", "halink"}, // it is no failover
		{"-intervals", "15ms"},
		{"-intervals", ""},
		{"-parts", "all"},
		{"-stress", "-1s"},
		{"more"},
	} {
		if _, err := parsePlan(arguments, io.Discard); err == nil {
			t.Errorf("%q was taken", arguments)
		}
	}
	t.Setenv("BENCH_CPU", "soon")
	if _, err := parsePlan(nil, io.Discard); err == nil || !strings.Contains(err.Error(), "BENCH_CPU") {
		t.Errorf("a wrong variable: got %v", err)
	}
}

func TestParsePlanForTablesOnly(t *testing.T) {
	p, err := parsePlan([]string{"-parts", ""}, io.Discard)
	if err != nil || len(p.parts) != 0 {
		t.Errorf("got parts %v, %v", p.parts, err)
	}
}

func TestSettingInterval(t *testing.T) {
	s, err := parseSetting("0.1s")
	if err != nil || s != "100ms" || s.interval() != 100*time.Millisecond {
		t.Errorf("0.1s: got %s of %v, %v", s, s.interval(), err)
	}
	if d := defaultSetting.interval(); d != 0 {
		t.Errorf("the default is %v, want 0", d)
	}
}

func TestEntriesSurviveTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results")
	want := []entry{
		{Session: "s", Machine: &machine{Cores: 2, Kernel: "6.1", Software: []string{"a 1"}}},
		{Session: "s", Trial: &trial{System: systemTandem, Advert: "10ms", Fault: "hang", felt: felt{
			UDP: silence{time.Millisecond, time.Second}, Lost: 1, Reasons: map[string]int{"TCP reset": 1}, Speakers: 1,
		}}},
		{Session: "s", Trial: &trial{Error: "no"}},
		{Session: "s", CPU: &cpuUse{Role: roleMaster, Used: map[string]time.Duration{"x": 1}}},
		{Session: "s", Stress: &endurance{Failovers: 3}},
		{Session: "s", Load: &loadUse{Rate: 1, Step: true, Master: map[string]time.Duration{"x": 1}, Lag: lagUse{1, 2, 3}, Difference: difference{1, 2, 3}}},
		{Session: "s", Sessions: &sessionsUse{Wanted: 1, Lost: 2, Commit: 3}},
	}
	for _, e := range want {
		if err := appendEntry(path, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readEntries(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if err := os.WriteFile(path, []byte("{}\nbroken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEntries(path); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a broken file: got %v, want the line", err)
	}
}

func TestSoftwareOf(t *testing.T) {
	for said, want := range map[string]string{
		"Keepalived v2.2.7 (01/16,2022)\n\nCopyright":  "p 2.2.7",
		"Connection tracking daemon v1.4.7. Copyright": "p 1.4.7",
		"tandem version 1a2b3c4-dirty\n":               "p 1a2b3c4-dirty",
		"":                                             "p",
	} {
		if got := softwareOf("p", said); got != want {
			t.Errorf("%q: got %q, want %q", said, got, want)
		}
	}
}

func TestCachedFlows(t *testing.T) {
	const said = "cache:internal\tactive objects:\t\t1\n\tactive/total entries:\t\t   7/   9\n" +
		"cache:external\tactive objects:\t\t2\n\tactive/total entries:\t\t   25/   26\n"
	if n, err := cachedFlows(said, "external"); n != 25 || err != nil {
		t.Errorf("got %d, %v, want 25", n, err)
	}
	if n, err := cachedFlows(said, "internal"); n != 7 || err != nil {
		t.Errorf("got %d, %v, want 7", n, err)
	}
	if _, err := cachedFlows("cache:internal\n\tactive/total entries: 1/1\n", "external"); err == nil {
		t.Error("no external cache was no error")
	}
}

// The default settings are those that nobody wrote.
func TestKeepalivedConfiguration(t *testing.T) {
	read := func(advert setting, node, name string) string {
		t.Helper()
		k := &keepalived{advert: advert, dir: t.TempDir()}
		if err := os.Mkdir(k.path(node, ""), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := k.writeFiles(node); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(k.path(node, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	fast := read("10ms", lab.Bravo, "keepalived.conf")
	for _, line := range []string{"advert_int 0.01\n", "priority 180\n", "use_vmac vrrp20\n", "203.0.113.10/32\n"} {
		if strings.Count(fast, line) == 0 {
			t.Errorf("at 10ms, the configuration of %s lacks %q:\n%s", lab.Bravo, line, fast)
		}
	}
	plain := read(defaultSetting, lab.Bravo, "keepalived.conf")
	if strings.Contains(plain, "advert_int") || strings.Contains(plain, "  priority") {
		t.Errorf("the default settings are set:\n%s", plain)
	}
	if replication := read("10ms", lab.Bravo, "conntrackd.conf"); !strings.Contains(replication, "IPv4_Destination_Address 10.255.0.1\n") {
		t.Errorf("%s does not replicate to its peer:\n%s", lab.Bravo, replication)
	}
}

func TestRoleNoted(t *testing.T) {
	for notes, want := range map[string]string{
		"": "", "boot\n": "", "boot\nbackup\n": roleBackup, "boot\nbackup\nprimary\n": roleMaster,
		"boot\nprimary\nback": roleMaster, "primary\nboot\n": "", "primary\nfault\n": "", "primary\nstop\n": "",
	} {
		if got := roleNoted(notes); got != want {
			t.Errorf("%q: got %q, want %q", notes, got, want)
		}
	}
}
