package demo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

// testScene is 400 ms after alpha, the MASTER, lost power.
func testScene() scene {
	now := time.Unix(5000, 0)
	node := func(name, role string) nodeView {
		return nodeView{name: name, asked: now, status: status.Status{
			Role: role, Since: now.Add(-12 * time.Second),
			Sync: status.Sync{Connected: true, Complete: true, Sessions: 601, LagP99: 3100 * time.Microsecond},
		}}
	}
	rates := []uint64{0, 100_000_000, 200_000_000, 199_000_000, 0, 0, 30_000_000, 200_000_000}
	return scene{
		elapsed: 34 * time.Second, now: now, phase: phaseObserve, index: 1, total: 3,
		fault: lab.Poweroff, target: lab.Alpha, faultAt: now.Add(-400 * time.Millisecond), broken: true,
		nodes: [2]nodeView{node(lab.Alpha, roleMaster), node(lab.Bravo, roleMaster)},
		rates: rates,
		rows:  []Row{{Fault: "crash", Passed: true, UDP: Flows{SilenceMax: 212 * time.Millisecond}}},
		snap: traffic.Snapshot{
			Fault: now, BulkRate: 199_600_000,
			TCP:  traffic.Group{Total: 500, Alive: 499, Lost: 1, Resumed: 480, SilenceMax: 310 * time.Millisecond},
			UDP:  traffic.Group{Total: 100, Alive: 100, Resumed: 100, SilenceMax: 212 * time.Millisecond},
			Bulk: traffic.Group{Total: 1, Alive: 1, Resumed: 1},
		},
	}
}

func TestPicture(t *testing.T) {
	t.Parallel()
	want := ` Tandem what the traffic notices when a router dies                      00:34

                         ╭───────────────────────────╮
                         │ alpha         ✕ no answer │
 ╭─────────────╮    ╭──╳─┤ power is off              ├─╳──╮    ╭─────────────╮
 │ client LAN  │    │    ╰─────────────┬─────────────╯    │    │ upstream    │
 │ 500 TCP     ├━━━━┪                  ╳ HA link          ┢━━━━┤ echo server │
 │ 100 UDP     │    ┃    ╭─────────────┴─────────────╮    ┃    │ beyond NAT  │
 ╰─────────────╯    ┃    │ bravo            ● MASTER │    ┃    ╰─────────────╯
                    ┗━━━━┤ 601 sessions     for 12 s ├━━━━┛
                         ╰───────────────────────────╯

 TCP sessions      499 alive  1 lost      longest silence               310 ms
 UDP flows         100 alive  0 lost      longest silence               212 ms
 download         200 Mbit/s                                          ·▅██··▂█
 replication     lag p99 3.1 ms           sessions in the kernels    – and 601

 fault 2 of 3   poweroff: alpha loses power                              0.4 s
                581 of 600 flows echo what was sent after the fault

 ✓ crash 212 ms  ▸ poweroff  ·
`
	got := strings.Join(picture(testScene()).lines(false), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestColourChangesNoText(t *testing.T) {
	t.Parallel()
	c := picture(testScene())
	for y, line := range c.lines(true) {
		bare := line
		for {
			before, after, found := strings.Cut(bare, "\x1b[")
			if !found {
				break
			}
			_, after, _ = strings.Cut(after, "m")
			bare = before + after
		}
		if want := c.lines(false)[y]; bare != want {
			t.Errorf("line %d: %q, want %q", y, bare, want)
		}
		if last := strings.LastIndex(line, "\x1b"); last >= 0 && !strings.HasPrefix(line[last:], "\x1b[0m") {
			t.Errorf("line %d leaves its colour on: %q", y, line)
		}
	}
}

func TestPictureOfTrouble(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*scene)
		want   []string
	}{
		"nothing known": {func(sc *scene) { *sc = scene{nodes: newStage(1).scene.nodes, total: 1} }, []string{"· …", "waiting until the pair is ready"}},
		"two masters":   {func(sc *scene) { sc.broken = false }, []string{"├────┤", "● MASTER"}},
		"node dead": {func(sc *scene) { sc.broken, sc.phase = false, phaseHeal; sc.nodes[0].err = errors.New("x") }, []string{
			"✕ no answer", "healing alpha", "alpha does not answer yet",
		}},
		"not in step": {func(sc *scene) { sc.phase, sc.broken, sc.nodes[1].status.Sync.Complete = phaseReady, false, false }, []string{
			"bravo does not have all sessions yet",
		}},
		"problem": {func(sc *scene) {
			sc.phase, sc.nodes[0].status.Problems = phaseReady, []string{"the clock runs backwards"}
		}, []string{
			"alpha: the clock runs backwards",
		}},
		"alone":   {func(sc *scene) { sc.nodes[1].status.Sync.Connected = false }, []string{"the MASTER runs alone"}},
		"WAN cut": {func(sc *scene) { sc.fault, sc.nodes[0].status.Role = lab.WAN, roleBackup }, []string{"WAN cable pulled          ├─╳──╮", "○ BACKUP"}},
		"HA cut":  {func(sc *scene) { sc.fault, sc.nodes[0].status.Role = lab.HALink, roleBackup }, []string{"╳ HA link", "○ BACKUP"}},
		"failed":  {func(sc *scene) { sc.rows[0].Passed = false }, []string{"✕ crash"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc := testScene()
			c.change(&sc)
			got := strings.Join(picture(sc).lines(false), "\n")
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in\n%s", want, got)
				}
			}
		})
	}
}

// writes keeps each write apart.
type writes []string

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, string(b))
	return len(b), nil
}

func TestScreenRepaintsInPlace(t *testing.T) {
	t.Parallel()
	var got writes
	columns := 100
	s := &screen{out: &got, size: func() (int, int) { return columns, 40 }}
	s.paint([]string{"a", "b"})
	s.paint([]string{"c", "d"})
	columns = 120
	s.paint([]string{"e", "f"})
	columns = 20
	s.paint([]string{"g", "h"})
	columns = 120
	s.paint([]string{"i", "j"})
	s.restore()
	want := writes{
		"\x1b[?2026h\x1b[?25la\x1b[K\r\nb\x1b[K\r\n\x1b[?2026l",
		"\x1b[?2026h\x1b[?25l\r\x1b[2Ac\x1b[K\r\nd\x1b[K\r\n\x1b[?2026l",
		"\x1b[?2026h\x1b[?25l\x1b[H\x1b[2Je\x1b[K\r\nf\x1b[K\r\n\x1b[?2026l",
		"\x1b[?2026h\x1b[?25l\x1b[H\x1b[2Ji\x1b[K\r\nj\x1b[K\r\n\x1b[?2026l",
		"\x1b[0m\x1b[?25h\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTerminalTooSmallGetsLines(t *testing.T) {
	out, r, err := play(t, Options{
		Faults: []string{"lan"}, Terminal: true, Colour: true, Size: func() (int, int) { return 79, 50 },
	}, nil)
	if err != nil || !r.OK() {
		t.Fatal(err)
	}
	if strings.Contains(out, "\x1b") || !strings.Contains(out, "fault 1 of 1, lan") {
		t.Errorf("got\n%s", out)
	}
}

func TestTerminalIsColouredOnlyOnRequest(t *testing.T) {
	for _, colour := range []bool{false, true} {
		out, _, err := play(t, Options{Faults: []string{"lan"}, Terminal: true, Colour: colour}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out, "\x1b[0;1;32m"); got != colour {
			t.Errorf("colour %v: green %v", colour, got)
		}
		if strings.Contains(out, "[00:") {
			t.Error("plain lines in the live view")
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		span(0):                               "0 ms",
		span(450 * time.Microsecond):          "450 µs",
		span(3100 * time.Microsecond):         "3.1 ms",
		span(1499 * time.Millisecond):         "1499 ms",
		span(12 * time.Second):                "12.0 s",
		spans(time.Second, 11*time.Second):    "1.0 / 11.0 s",
		bits(1_250_000_000):                   "1.25 Gbit/s",
		bits(999):                             "1 kbit/s",
		clock(125 * time.Second):              "02:05",
		count(1, "fault"):                     "1 fault",
		age(3 * time.Minute):                  "3 min",
		age(-time.Second):                     "0 s",
		sparkline(nil, 5):                     "",
		sparkline([]uint64{1, 0, 50, 100}, 3): "·▅█",
		reasons(Flows{}, Flows{Reasons: map[string]int{"reset": 2, "closed": 1}}): "1 closed, 2 reset",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
