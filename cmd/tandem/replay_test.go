package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tandem/vrrp"
)

// recording is a single router that becomes MASTER, hears a better one and stops.
func recording(t *testing.T) []byte {
	t.Helper()
	cfg := vrrp.GroupConfig{
		Interval: time.Second, Lease: vrrp.LeaseFor(time.Second), Priority: 100, Preempt: true,
		Carriers: []vrrp.Carrier{{
			Name: "lan", VRID: 10, Source: netip.MustParseAddr("192.0.2.2"),
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		}},
	}
	why := vrrp.ReasonShutdown
	better := vrrp.Advertisement{Version: vrrp.Version3, VRID: 10, Priority: 200, Interval: time.Second, Addresses: cfg.Carriers[0].Addresses}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, r := range []vrrp.Record{
		{At: 0, Input: vrrp.Input{Configure: &cfg}},
		{At: 0, Input: vrrp.Input{Start: true}},
		{At: 4 * time.Second, Input: vrrp.Input{Tick: true}},
		{At: 5 * time.Second, Input: vrrp.Input{Tick: true}},
		{At: 5500 * time.Millisecond, Input: vrrp.Input{Advert: &vrrp.ReceivedAdvert{Source: netip.MustParseAddr("192.0.2.3"), Advertisement: better}}},
		{At: 6 * time.Second, Input: vrrp.Input{Handover: true}},
		{At: 7 * time.Second, Input: vrrp.Input{Stop: &why}},
	} {
		if err := encoder.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestReplay(t *testing.T) {
	const want = `     1      0.000000s  INITIALIZE  configure    1 carriers, interval 1s, beat 0s, priority 100
     2      0.000000s  BACKUP      start
                                      → revoke the lease, INITIALIZE → BACKUP (started), term 0
     3      4.000000s  MASTER      tick
                                      → advertise 100, announce, BACKUP → MASTER (no advert from a MASTER within the down interval), term 1
     5      5.500000s  BACKUP      advert       priority 200 from 192.0.2.3 on carrier 0, interval 1s
                                      → revoke the lease, MASTER → BACKUP (heard an advert of higher priority), term 1
     6      6.000000s  BACKUP      handover
                                      refused: this node is not MASTER
     7      7.000000s  INITIALIZE  stop         stopped in order
                                      → BACKUP → INITIALIZE (stopped in order), term 1

7 inputs, 4 changes of role, 1 refusals
`
	var out strings.Builder
	if err := replay(bytes.NewReader(recording(t)), nil, &out, replayOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want {
		t.Errorf("replay:\n%s\nwant:\n%s", got, want)
	}
	var again strings.Builder
	if err := replay(bytes.NewReader(recording(t)), nil, &again, replayOptions{}); err != nil || again.String() != out.String() {
		t.Errorf("the same recording made something else (%v):\n%s", err, again.String())
	}
}

func TestReplayShowsWhatWasAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		opts replayOptions
		keys string
		want int // lines that begin with a number
	}{
		"all":      {replayOptions{all: true}, "", 7},
		"from":     {replayOptions{from: 5 * time.Second}, "", 3},
		"to":       {replayOptions{to: 5 * time.Second}, "", 3},
		"one step": {replayOptions{}, "\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			var err error
			if c.keys != "" {
				err = replay(bytes.NewReader(recording(t)), strings.NewReader(c.keys), &out, c.opts)
			} else {
				err = replay(bytes.NewReader(recording(t)), nil, &out, c.opts)
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := 0
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "     ") && !strings.HasPrefix(line, "       ") {
					lines++
				}
			}
			if lines != c.want {
				t.Errorf("%d inputs are shown, want %d:\n%s", lines, c.want, out.String())
			}
		})
	}
}

func TestReplayRefuses(t *testing.T) {
	whole := string(recording(t))
	first, rest, _ := strings.Cut(whole, "\n")
	for name, c := range map[string]struct{ text, want string }{
		"nothing":             {"", "there is nothing in it"},
		"garbage":             {"hello\n", "line 1 is no record"},
		"an unknown field":    {first + "\n" + `{"at":1,"tock":true}` + "\n", "line 2 is no record"},
		"the middle":          {rest, "line 1: a recording begins with a configuration"},
		"a bad configuration": {`{"at":0,"configure":{}}` + "\n", "line 1: "},
		"a carrier too many":  {first + "\n" + `{"at":1,"advert":{"carrier":7}}` + "\n", "line 2: an advert came by carrier 7 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := replay(strings.NewReader(c.text), nil, new(strings.Builder), replayOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"at":0,"configure":{"Interval":1000000000,"Lease":2500000000,"Priority":100,"Carriers":[{"Name":"lan","VRID":10,"Addresses":["192.0.2.1"]}]}}` + "\n" + `{"at":1,"start":true}` + "\n" + `{"at":4000000000,"tick":true}` + "\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = replay(bytes.NewReader(b), nil, new(strings.Builder), replayOptions{all: true}) // must not panic
	})
}
