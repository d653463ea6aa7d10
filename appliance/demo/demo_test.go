package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/appliance/lab"
)

// play runs a demo in fake time and returns what it printed.
func play(t *testing.T, opts Options, spoil func(*world)) (out string, r Result, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out, r, err = playIn(ctx, opts, spoil)
	})
	return out, r, err
}

func playIn(ctx context.Context, opts Options, spoil func(*world)) (string, Result, error) {
	w := newWorld()
	if spoil != nil {
		spoil(w)
	}
	var out bytes.Buffer
	opts.Out, opts.Sessions, opts.Flows = &out, 500, 100
	r, err := Run(ctx, opts, w, w)
	return out.String(), r, err
}

func TestPlainLinesAndTable(t *testing.T) {
	out, r, err := play(t, Options{Faults: []string{"poweroff", "halink"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || !r.Passed {
		t.Errorf("not OK: %+v", r)
	}
	want := `[00:00] waiting until the pair is ready
[00:00] opening 500 TCP sessions and 100 UDP flows
[00:00] 500 TCP sessions, 100 UDP flows and 1 download cross the pair
[00:01] fault 1 of 2, poweroff: alpha loses power
[00:04]     all 601 flows echoed again within 250 ms; silence UDP 260 / 269 ms, TCP 580 / 630 ms; MASTER is bravo
[00:04]     healed, nothing lost
[00:05] fault 2 of 2, halink: the HA cable between the nodes is cut
[00:08]     all 601 flows echoed again within 250 ms; silence UDP 260 / 269 ms, TCP 580 / 630 ms; MASTER is bravo
[00:08]     healed, nothing lost

                   UDP silence    TCP silence  download  MASTER
fault      lost      p50 / max      p50 / max     pause  before → after  verdict
───────────────────────────────────────────────────────────────────────────────
poweroff      0   260 / 269 ms   580 / 630 ms    580 ms  alpha → bravo   ok
halink        0   260 / 269 ms   580 / 630 ms    580 ms  bravo → bravo   ok

Silence is the longest time in which a flow received nothing, from before the
fault until all flows echoed again; p50 and max over all flows. It contains the
interval at which a flow sends (UDP 20 ms, TCP 100 ms) and TCP's retransmissions.
A UDP flow whose NAT mapping changed counts as lost, even if it echoes.
While faults were healed, no UDP flow was silent for longer than 29 ms.

0 of 500 TCP sessions, 0 of 100 UDP flows and 0 downloads were lost over 2 faults.
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

func TestAllFaultsInTime(t *testing.T) {
	_, r, err := play(t, Options{}, nil)
	if err != nil || !r.OK() || len(r.Rows) != len(lab.Faults()) {
		t.Fatalf("%v; %+v", err, r)
	}
	if r.Took > time.Minute {
		t.Errorf("took %v without counting the healing", r.Took)
	}
	for _, row := range r.Rows {
		if row.Recovery < 240*time.Millisecond || row.Recovery > 400*time.Millisecond {
			t.Errorf("%s: recovered after %v, the outage was 240 ms", row.Fault, row.Recovery)
		}
	}
}

func TestNotOK(t *testing.T) {
	for name, c := range map[string]struct {
		faults []string
		spoil  func(*world)
		want   []string
	}{
		"session lost": {
			[]string{"crash"},
			func(w *world) { w.loses = 2 },
			[]string{"NOT OK", "2 flows lost (2 reset)", "2 of 500 TCP sessions", "Lost: flow 17, reset after 4 s: connection reset by peer"},
		},
		"flows stay silent": {
			[]string{"hang"},
			func(w *world) { w.never = true },
			[]string{"NOT OK", "601 flows not heard again", "601 of 601 flows were not heard again", "1 fault did NOT end as expected"},
		},
		"MASTER stays": {
			[]string{"wan"},
			func(w *world) { w.stays = true },
			[]string{"NOT OK", "alpha → alpha", "did not move away from alpha"},
		},
		"MASTER moves for nothing": {
			[]string{"halink"},
			func(w *world) { w.moves = true },
			[]string{"NOT OK", "alpha → bravo", "the MASTER moved, which this fault gives no reason for"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, r, err := play(t, Options{Faults: c.faults}, c.spoil)
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() || r.Passed {
				t.Error("OK")
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
		})
	}
}

func TestJSON(t *testing.T) {
	out, _, err := play(t, Options{JSON: true, Terminal: true, Faults: []string{"lan", "handover"}}, func(w *world) { w.loses = 1 })
	if err != nil {
		t.Fatal(err)
	}
	var got Result
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	if dec.More() {
		t.Error("more than one document")
	}
	if got.Passed || got.SessionsLost != 2 || len(got.Rows) != 2 || got.Rows[1].TCP.Lost != 1 || got.Rows[1].TCP.Reasons["reset"] != 1 {
		t.Errorf("%+v", got)
	}
	out, _, err = play(t, Options{JSON: true}, func(w *world) { w.failing = "inject" })
	if err == nil || json.Unmarshal([]byte(out), &got) != nil || !strings.Contains(got.Error, errFake.Error()) {
		t.Errorf("an error is not in the document: %v\n%s", err, out)
	}
}

func TestFailuresSayWhatWasHappening(t *testing.T) {
	for call, want := range map[string]string{
		"ready":   "the cable tester is on fire",
		"traffic": "establish the traffic: the cable tester",
		"mark":    "fault 1 of 1 (hang): the cable tester",
		"master":  "fault 1 of 1 (hang): the cable tester",
		"inject":  "fault 1 of 1 (hang): the cable tester",
		"fault":   "fault 1 of 1 (hang): the cable tester",
		"report":  "fault 1 of 1 (hang): the cable tester",
		"heal":    "fault 1 of 1 (hang): the cable tester",
	} {
		t.Run(call, func(t *testing.T) {
			out, r, err := play(t, Options{Faults: []string{"hang"}}, func(w *world) { w.failing = call })
			if !errors.Is(err, errFake) || !strings.Contains(err.Error(), want) || r.OK() {
				t.Errorf("got %v, %+v", err, r)
			}
			if !strings.Contains(out, "The demo failed ") {
				t.Errorf("not said in\n%s", out)
			}
		})
	}
}

func TestWaitsAreBounded(t *testing.T) {
	for _, call := range []string{"ready", "traffic", "mark", "report", "fault"} {
		t.Run(call, func(t *testing.T) {
			_, r, err := play(t, Options{Faults: []string{"hang"}}, func(w *world) { w.hanging = call })
			if !errors.Is(err, context.DeadlineExceeded) || r.Took > 2*time.Minute {
				t.Errorf("got %v after %v", err, r.Took)
			}
		})
	}
}

func TestUnknownFaultsChangeNothing(t *testing.T) {
	_, _, err := play(t, Options{Faults: []string{"lan", "meteor", "flood"}}, func(w *world) { w.failing = "ready" })
	if err == nil || !strings.Contains(err.Error(), "meteor") || !strings.Contains(err.Error(), "flood") || errors.Is(err, errFake) {
		t.Errorf("got %v", err)
	}
}

func TestStopOnRequest(t *testing.T) {
	for _, opts := range []Options{{}, {Terminal: true}, {JSON: true}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 6500*time.Millisecond)
			defer cancel()
			began := time.Now()
			out, r, err := playIn(ctx, opts, nil)
			if err != nil || !r.Interrupted || r.OK() || len(r.Rows) != 1 {
				t.Errorf("%v, %+v", err, r)
			}
			if late := time.Since(began) - 6500*time.Millisecond; late > 100*time.Millisecond {
				t.Errorf("stopped %v late", late)
			}
			want := "Stopped on request during fault 2 of 7 (crash), after 6 s."
			if opts.JSON {
				want = `"interrupted": true`
			}
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
			if opts.Terminal && strings.LastIndex(out, "\x1b[?25h") < strings.LastIndex(out, "\x1b[?25l") {
				t.Error("the cursor is not shown again")
			}
		})
	}
}

func TestKeepRunsUntilItIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		out, r, err := playIn(ctx, Options{Faults: []string{"lan"}, Keep: true}, nil)
		if err != nil || !r.OK() || r.Interrupted || time.Since(began) != time.Hour {
			t.Errorf("%v, %+v after %v", err, r, time.Since(began))
		}
		if !strings.HasSuffix(out, "until Ctrl-C.\n") {
			t.Errorf("not said in\n%s", out)
		}
	})
}
