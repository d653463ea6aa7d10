package status

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestChanges(t *testing.T) {
	now := time.Unix(1000, 0)
	connected := Sync{Connected: true, Complete: true, Link: "ha", Since: now.Add(-time.Minute), CompleteSince: now.Add(-2 * time.Second), Sessions: 7}
	down := Sync{Since: now.Add(-1500 * time.Millisecond), CompleteSince: now.Add(-1500 * time.Millisecond), Error: "reset"}
	repairing := connected
	repairing.Complete, repairing.Repair = false, &Repair{Buckets: 5, Of: Buckets}
	other := connected
	other.Link = "ha2"
	after := func(seconds float64, more ...any) map[string]float64 {
		m := map[string]float64{"after_seconds": seconds}
		for i := 0; i < len(more); i += 2 {
			m[more[i].(string)] = more[i+1].(float64)
		}
		return m
	}
	conditions := func(names ...string) Status {
		s := Status{Time: now, Sync: connected}
		for _, name := range names {
			s.Conditions = append(s.Conditions, Condition{Name: name, Text: "because of " + name})
		}
		return s
	}
	sync := func(s Sync) Status { return Status{Time: now, Sync: s} }
	for name, c := range map[string]struct {
		before, after Status
		want          []Event
	}{
		"nothing":             {sync(connected), sync(connected), nil},
		"a node that starts":  {Status{}, sync(Sync{}), nil},
		"a condition begins":  {conditions(), conditions("x"), []Event{{Kind: EventConditionBegun, Name: "x", Reason: "because of x"}}},
		"a condition goes on": {conditions("x"), conditions("x"), nil},
		"one for another": {conditions("x"), conditions("y"), []Event{
			{Kind: EventConditionBegun, Name: "y", Reason: "because of y"}, {Kind: EventConditionEnded, Name: "x"},
		}},
		"broken": {sync(connected), sync(down), []Event{{Kind: EventReplicationBroken, Reason: "reset", Numbers: after(60)}}},
		"restored and at once complete": {sync(down), sync(connected), []Event{
			{Kind: EventReplicationRestored, Reason: "by ha", Numbers: after(1.5)},
			{Kind: EventReplicationComplete, Numbers: after(1.5, "sessions", 7.0)},
		}},
		"incomplete":      {sync(connected), sync(repairing), []Event{{Kind: EventReplicationIncomplete, Reason: "5 of 4096 parts of the session tables are not equal yet", Numbers: after(2)}}},
		"complete":        {sync(repairing), sync(connected), []Event{{Kind: EventReplicationComplete, Numbers: after(2, "sessions", 7.0)}}},
		"by another link": {sync(connected), sync(other), []Event{{Kind: EventReplicationRestored, Reason: "by ha2 instead of ha"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Changes(c.before, c.after)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLosses(t *testing.T) {
	before := Sync{Overruns: 1, Refused: 2, RefusedBy: map[string]uint64{"EINVAL": 2}}
	if got := Losses(before, before); got != nil {
		t.Errorf("%+v", got)
	}
	if got := Losses(before, Sync{}); got != nil {
		t.Errorf("counters that began anew: %+v", got)
	}
	after := Sync{
		Overruns: 2, Overflows: 3, Refused: 7, RefusedBy: map[string]uint64{"EINVAL": 3, TableFull: 4}, VerificationFailed: 5,
	}
	want := []Event{
		{Kind: EventReplicationOverrun, Reason: "events were lost; the tables are compared and repaired", Numbers: map[string]float64{"overruns": 1, "overflows": 3}},
		{Kind: EventReplicationRefused, Reason: "the kernel's table of sessions is full: raise net.netfilter.nf_conntrack_max on both nodes", Numbers: map[string]float64{"refused": 5, "EINVAL": 1, TableFull: 4}},
		{Kind: EventReplicationUnverified, Reason: "flows in the kernel are not as they were written", Numbers: map[string]float64{"flows": 5}},
	}
	if diff := cmp.Diff(want, Losses(before, after)); diff != "" {
		t.Error(diff)
	}
}

func TestEventText(t *testing.T) {
	for want, e := range map[string]Event{
		"role BACKUP → MASTER: the MASTER is silent (priority 200, term 4)": {
			Kind: EventRole, From: "BACKUP", To: "MASTER", Reason: "the MASTER is silent", Numbers: map[string]float64{"term": 4, "priority": 200},
		},
		"condition-ended partitioned":                {Kind: EventConditionEnded, Name: Partitioned},
		"replication-restored (after_seconds 0.125)": {Kind: EventReplicationRestored, Numbers: map[string]float64{"after_seconds": 0.125}},
	} {
		if got := e.Text(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The document names every kind and every condition.
func TestEventsDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, file := range []string{"event.go", "event_uplinks.go"} {
		more, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, more...)
	}
	names := conditions()
	for _, match := range regexp.MustCompile(`(?m)^\tEvent\w+ += "([a-z-]+)"$`).FindAllStringSubmatch(string(source), -1) {
		names = append(names, match[1])
	}
	if len(names) < 13+21 {
		t.Errorf("only %d names: %q", len(names), names)
	}
	for _, name := range names {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/events.md does not name %s", name)
		}
	}
}
