package main

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
)

func TestPortsAreUnique(t *testing.T) {
	seen := make(map[[2]uint16]bool)
	for _, number := range []uint64{0, 1, sourcePorts - 1, sourcePorts, sourcePorts + 1, 30_000_000} {
		source, destination := ports(number)
		if source < firstSourcePort || destination < firstDestinationPort {
			t.Errorf("flow %d has the ports %d and %d", number, source, destination)
		}
		seen[[2]uint16{source, destination}] = true
	}
	if len(seen) != 6 {
		t.Errorf("6 flows have %d pairs of ports", len(seen))
	}
}

// The sum over an IP header with its checksum is all ones.
func TestFrameHasChecksum(t *testing.T) {
	f := frame(virtualMAC(lanVRID), virtualMAC(wanVRID), netip.MustParseAddr(loadClient), netip.MustParseAddr(lab.ServerAddress))
	var sum uint32
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[ethernetHeader+i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		t.Errorf("the sum is %#x", sum)
	}
	setPorts(f, 1025, 20001)
	if udp := f[ethernetHeader+ipHeader:]; udp[0] != 4 || udp[1] != 1 || binary.BigEndian.Uint16(udp[2:]) != 20001 {
		t.Errorf("the ports are % x", udp[:4])
	}
}

func TestBurstSurvivesTheCommandLine(t *testing.T) {
	want := burst{First: 1 << 40, Count: 7, Rate: 20000}
	if got, err := parseBurst(want.arguments()[1:]); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, arguments := range [][]string{nil, {"1", "2"}, {"1", "2", "x"}, {"-1", "2", "3"}} {
		if _, err := parseBurst(arguments); err == nil {
			t.Errorf("%q was taken", arguments)
		}
	}
}

func TestParseCache(t *testing.T) {
	const said = `udp      17 src=10.0.0.101 dst=198.51.100.7 sport=1024 dport=20000 [active since 3s]
tcp      6 ESTABLISHED src=10.0.0.101 dst=198.51.100.7 sport=1024 dport=20001 [ASSURED] [active since 3s]
udp      17 src=10.0.0.101 dst=198.51.100.9 sport=1024 dport=20002 [active since 3s]
udp      17 src=10.0.0.101 dst=198.51.100.7 sport=1025 dport=53 [active since 3s]

udp      17 src=10.0.0.101 dst=198.51.100.7 sport=1026 dport=20000 src=198.51.100.7 dst=203.0.113.10 sport=20000 dport=1026
`
	got := parseCache([]byte(said))
	if want := map[[2]uint16]bool{{1024, 20000}: true, {1026, 20000}: true}; len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, ports := range [][2]uint16{{1024, 20000}, {1026, 20000}} {
		if _, ok := got[ports]; !ok {
			t.Errorf("%v is missing in %v", ports, got)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b, c, d := [2]uint16{1, 1}, [2]uint16{2, 1}, [2]uint16{3, 1}, [2]uint16{4, 1}
	master := sessionTable{a: 5, b: 6, c: 7}
	backup := sessionTable{a: 5, b: 9, d: 1}
	if got := compare(master, backup); got != (difference{Missing: 1, Extra: 1, Wrong: 1}) || got.none() {
		t.Errorf("got %+v", got)
	}
	// An external cache does not say how flows are translated.
	if got := compare(master, sessionTable{a: 0, b: 0, c: 0}); !got.none() {
		t.Errorf("without translation: got %+v", got)
	}
}

func TestCommitNoted(t *testing.T) {
	for notes, want := range map[string]time.Duration{
		"": 0, "1000 4000\n": 3000, "1000 4000\n5000 5001\n": 1, "1000": 0, "x y\n": 0,
	} {
		if got := commitNoted(notes); got != want {
			t.Errorf("%q: got %v, want %v", notes, got, want)
		}
	}
}

func TestMemoryOf(t *testing.T) {
	now, peak := memoryOf("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n")
	if now != 1<<20 || peak != 2<<20 {
		t.Errorf("got %d and %d", now, peak)
	}
}

// use of 1 000 flows that cost the MASTER and the BACKUP so many milliseconds and as
// many for idling in the same time.
func use(system string, rate int, step bool, master, backup time.Duration) *loadUse {
	return &loadUse{
		System: system, Rate: rate, Step: step, Flows: 1000, Answered: 1000, Over: time.Duration(1000 * float64(time.Second) / float64(rate)),
		Master: map[string]time.Duration{"a": master, "b": time.Millisecond}, Backup: map[string]time.Duration{"a": backup},
		Elapsed: 2 * time.Second, Wire: 102_000,
		IdleMaster: map[string]time.Duration{"b": time.Millisecond}, IdleBackup: map[string]time.Duration{},
		IdleElapsed: 2 * time.Second, IdleWire: 2_000, Kept: 10,
	}
}

func TestRenderReplication(t *testing.T) {
	own := use(systemTandem, 20000, false, 10*time.Millisecond, 5*time.Millisecond)
	own.Lag = lagUse{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond}
	theirs := use(systemConntrackd, 20000, false, 40*time.Millisecond, 20*time.Millisecond)
	theirs.Difference.Missing = 3
	diverged := use(systemTandem, 30000, true, 1, 1)
	diverged.Difference = difference{1, 2, 3}
	slow := use(systemDirect, 10000, true, 1, 1)
	slow.Answered = 500
	var all []entry
	for _, u := range []*loadUse{
		own,
		theirs,
		{System: systemDirect, Rate: 20000, Error: "no"},
		use(systemTandem, 10000, true, 1, 1),
		diverged,
		use(systemConntrackd, 10000, true, 1, 1),
		slow,
	} {
		all = append(all, entry{Session: "s", Load: u})
	}
	all = append(all, entry{Session: "s", Sessions: &sessionsUse{
		System: systemConntrackd, Wanted: 100_000, Sessions: 100_004, Replicated: 100_002, Difference: difference{2, 3, 4}, Resync: 1500 * time.Millisecond,
		MasterMemory: 90 << 20, BackupMemory: 80 << 20, MasterPeak: 91 << 20, BackupPeak: 81 << 20,
		First: time.Second, Last: 2 * time.Second, Sampled: 50, Lost: 1, Commit: 900 * time.Millisecond,
	}})
	got := render(all)
	for _, line := range []string{
		"| 20000 | tandem | 20000 | 10.0 | – | 5.0 | – | 100 | 1.0 | 2.0 | 3.0 | 10 | 0 | 0 | 0 | 0.0 |\n",
		"| 20000 | conntrackd | 20000 | 40.0 | 0.25 | 20.0 | 0.25 | 100 | not measured | – | – | 10 | 3 | 0 | 0 | 0.0 |\n",
		"| 20000 | conntrackd-direct | failed | – ",
		"| tandem | 20000 | 30000: of 10 flows 1 are missing, 2 extra, 3 wrong |\n",
		"| conntrackd | 10000 | 20000: of 10 flows 3 are missing, 0 extra, 0 wrong |\n",
		"| conntrackd-direct | 0 | 10000: only 5000 were reached, the tables are equal |\n",
		"| 100000 | conntrackd | 100002 | 2 | 3 | 4 | 1.50 | – | – | – | 90 | 91 | 80 | 81 | 1.00 | 2.00 | 1 of 50 | 0.90 |\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	// Every row has as many cells as its head.
	columns := 0
	for line := range strings.Lines(got) {
		switch cells := strings.Count(line, "|"); {
		case cells == 0:
			columns = 0
		case columns == 0:
			columns = cells
		case cells != columns:
			t.Errorf("%d cells instead of %d: %s", cells, columns, line)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestProgram(t *testing.T) {
	t.Setenv("BENCH_QUICK", "1")
	p, err := parsePlan([]string{"-parts", "replication", "-replicators", "tandem"}, io.Discard)
	if err != nil || !p.quick || !slices.Equal(p.replicators, []string{systemTandem}) {
		t.Fatalf("got %+v, %v", p, err)
	}
	quick := p.program()
	p.quick = false
	whole := p.program()
	if len(quick.sessions) >= len(whole.sessions) || !slices.Contains(whole.sessions, 1_000_000) {
		t.Errorf("got %v sessions quickly and %v in whole", quick.sessions, whole.sessions)
	}
	for _, l := range slices.Concat(quick.loads, whole.loads) {
		if l.over <= 0 || l.rate <= 0 {
			t.Errorf("got %+v", l)
		}
	}
	if !slices.IsSortedFunc(whole.loads, func(a, b loadPlan) int { return a.rate - b.rate }) {
		t.Error("the search for the highest rate needs them in order")
	}
}
