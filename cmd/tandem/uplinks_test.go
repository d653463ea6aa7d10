package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem/appliance/status"
	"tandem/router/uplink"
)

// withUplinks is a node with two uplinks, of which office takes the first.
func withUplinks() status.Status {
	s := healthy()
	family := uplink.FamilyStatus{State: uplink.Working, Address: true, Probes: []uplink.ProbeStatus{{
		Kind: "gateway", State: uplink.Working, LastOK: s.Time, RTT: 3 * time.Millisecond, Window: 10, Sent: 10,
	}}}
	s.Uplinks = []status.Uplink{
		{Name: "wan", Interface: "eth1", Gateway: "198.51.100.1", Up: true, UsedBy: []string{"office"}, Families: []uplink.FamilyStatus{family}},
		{Name: "lte", Interface: "eth5", Gateway: "203.0.113.1", Cost: 100, Metered: true, LinkReason: "eth5 has no carrier"},
	}
	s.Networks = []status.Network{
		{Name: "office", Prefix: "10.20.0.0/24", Gateway: "10.20.0.1", Interface: "eth2", Uplinks: []string{"wan", "lte"}, Paths: []uplink.PathStatus{{
			Network: "office", Destination: "0.0.0.0/0", Uplink: "wan", State: uplink.Working, Since: s.Time.Add(-time.Minute), Why: "it is the cheapest that works",
			Candidates: []uplink.CandidateStatus{{Uplink: "wan", Allowed: true, Chosen: true, Wanted: true, State: uplink.Working}},
		}}},
		{Name: "guests", Prefix: "10.30.0.0/24", Gateway: "10.30.0.1", Interface: "eth3"},
	}
	return s
}

func TestStatusUplinks(t *testing.T) {
	dir := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, withUplinks()))
	code, stdout, stderr := tandem(t, "status", "uplinks", "--state-dir", dir)
	if code != 0 || stderr != "" || strings.Contains(stdout, "\x1b") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	contains(t, stdout, []string{"gateway 198.51.100.1", "3.0 ms", "100 metered", "✗ lte: eth5 has no carrier", "office"})
	code, stdout, _ = tandem(t, "status", "uplinks", "--json", "--state-dir", dir)
	var got []status.Uplink
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || len(got) != 2 || got[0].State() != uplink.Working {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
}

func TestNetwork(t *testing.T) {
	dir := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, withUplinks()))
	tests := []struct {
		args           []string
		code           int
		stdout, stderr []string
	}{
		{nil, 0, []string{"office   wan    working  1 min 0 s  it is the cheapest that works", "guests"}, nil},
		{[]string{"office"}, 0, []string{"● office  10.20.0.0/24  gateway 10.20.0.1  on eth2", "by wan for 1 min 0 s  working", "wan ←"}, nil},
		{[]string{"van"}, 1, nil, []string{`there is no network "van"; name one of office, guests`}},
		{[]string{"office", "guests"}, 1, nil, []string{"accepts at most 1 arg"}},
	}
	for _, tt := range tests {
		code, stdout, stderr := tandem(t, append([]string{"network", "--state-dir", dir}, tt.args...)...)
		if code != tt.code {
			t.Errorf("%v: exit code %d, want %d", tt.args, code, tt.code)
		}
		contains(t, stdout, tt.stdout)
		contains(t, stderr, tt.stderr)
	}
	_, stdout, _ := tandem(t, "network", "office", "--json", "--state-dir", dir)
	var one status.Network
	if err := json.Unmarshal([]byte(stdout), &one); err != nil || one.Paths[0].Uplink != "wan" {
		t.Errorf("%v: %s", err, stdout)
	}
	_, stdout, _ = tandem(t, "network", "--json", "--state-dir", dir)
	var all []status.Network
	if err := json.Unmarshal([]byte(stdout), &all); err != nil || len(all) != 2 {
		t.Errorf("%v: %s", err, stdout)
	}
	empty := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, healthy()))
	code, _, stderr := tandem(t, "network", "office", "--state-dir", empty)
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	contains(t, stderr, []string{`there is no network "office", nor any other, in the document of alpha`})
}

func TestUplinksOfAnOperation(t *testing.T) {
	usable := status.OperationUplinks{Operation: "updates", Uplinks: []uplink.Use{
		{Uplink: "wan", Usable: true, Reason: "it answers"}, {Uplink: "lte", Cost: 100, Reason: "it is metered"},
	}}
	none := status.OperationUplinks{Operation: "updates", Uplinks: usable.Uplinks[1:]}
	tests := []struct {
		name           string
		code           int
		body           any
		exit           int
		stdout, stderr []string
	}{
		{"usable", http.StatusOK, usable, 0, []string{"FOR UPDATES", "wan     0     yes", "lte     100   no", "it is metered"}, nil},
		{"none", http.StatusOK, none, 1, []string{"lte     100   no"}, []string{"tandem: there is no uplink now that updates may use\n"}},
		{"unknown", http.StatusNotFound, status.Failure{Error: `the document has no operation "updates"`}, 1, nil, []string{`the document has no operation "updates"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := fakeNode(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/v1/operations/updates/uplinks" {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				answer(t, tt.code, tt.body)(w, r)
			})
			code, stdout, stderr := tandem(t, "uplinks", "--operation", "updates", "--state-dir", dir)
			if code != tt.exit {
				t.Errorf("exit code %d, want %d", code, tt.exit)
			}
			contains(t, stdout, tt.stdout)
			contains(t, stderr, tt.stderr)
		})
	}
	dir := fakeNode(t, t.TempDir(), answer(t, http.StatusOK, none))
	code, stdout, _ := tandem(t, "uplinks", "--operation", "updates", "--json", "--state-dir", dir)
	var got status.OperationUplinks
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 1 || len(got.Uplinks) != 1 {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	code, _, stderr := tandem(t, "uplinks", "--state-dir", dir)
	if code != 1 {
		t.Errorf("without an operation: exit code %d", code)
	}
	contains(t, stderr, []string{"which operation?"})
}
