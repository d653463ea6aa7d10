package netns

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

const (
	// pushTime is within what a transition must be with a subscriber.
	pushTime = 100 * time.Millisecond
	// alarmTime is within what a broken stream must be an alarm, from the last byte on.
	alarmTime = time.Second
)

// heard is an event and when it came.
type heard struct {
	status.Event
	at time.Time
}

// subscriber follows a node's events by the command line.
type subscriber struct {
	s    *stand
	node string

	mu   sync.Mutex
	list []heard
}

// follow subscribes to a node's events from now on.
func (s *stand) follow(node string) *subscriber {
	s.t.Helper()
	sub := &subscriber{s: s, node: node}
	ctx, cancel := context.WithCancel(s.t.Context())
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVariable), "events", "--follow", "--json", "--state-dir", filepath.Dir(s.SocketPath(node)))
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			e := heard{at: time.Now()}
			if json.Unmarshal(lines.Bytes(), &e.Event) == nil {
				sub.mu.Lock()
				sub.list = append(sub.list, e)
				sub.mu.Unlock()
			}
		}
	}()
	s.t.Cleanup(func() {
		cancel()
		<-read
		_ = cmd.Wait() // it was killed
	})
	sub.await("the start", time.Time{}, func(e heard) bool { return e.Kind == status.EventNode })
	return sub
}

// await waits for an event that began after a moment.
func (sub *subscriber) await(what string, after time.Time, is func(heard) bool) heard {
	sub.s.t.Helper()
	var found heard
	sub.s.eventually(sub.node+" tells of "+what, func(context.Context) error {
		sub.mu.Lock()
		defer sub.mu.Unlock()
		var kinds []string
		for _, e := range sub.list {
			if !e.Time.Before(after) && is(e) {
				found = e
				return nil
			}
			kinds = append(kinds, e.Text())
		}
		return errors.New("it told of " + strings.Join(kinds[max(0, len(kinds)-10):], "; "))
	})
	return found
}

func ofKind(kind string) func(heard) bool { return func(e heard) bool { return e.Kind == kind } }

func begins(condition string) func(heard) bool {
	return func(e heard) bool { return e.Kind == status.EventConditionBegun && e.Name == condition }
}

func turns(role string) func(heard) bool {
	return func(e heard) bool { return e.Kind == status.EventRole && e.To == role }
}

// TestEvents follows a pair through handovers and a restart of a node.
func TestEvents(t *testing.T) {
	s := newPair(t)
	subs := map[string]*subscriber{}
	for _, node := range nodes() {
		subs[node] = s.follow(node)
	}
	var quickest time.Duration
	for i := range 4 {
		master, backup := s.roles()
		at := s.inject(lab.Handover, master)
		for node, role := range map[string]string{master: roleBackup, backup: roleMaster} {
			e := subs[node].await("its role", at, turns(role))
			since := s.status(node).Since
			took := e.at.Sub(since)
			t.Logf("%s became %s: %v after the transition an event had arrived", node, role, took.Round(100*time.Microsecond))
			if quickest = min(took, quickest); i == 0 {
				quickest = took
			}
			if e.Reason == "" || e.Numbers["term"] == 0 || e.Node != node {
				t.Errorf("the event says too little: %+v", e)
			}
		}
		s.ready()
	}
	if quickest > pushTime {
		t.Errorf("the quickest event took %v, want at most %v", quickest, pushTime)
	}

	// The subscriber survives a restart of the node.
	_, backup := s.roles()
	at := time.Now()
	s.stop(backup)
	subs[backup].await("its stop", at, ofKind(status.EventNode))
	subs[other(backup)].await("the peer's end", at, begins(status.PeerSilent))
	s.start(backup)
	subs[backup].await("the restart", at, ofKind(status.EventMissed))
	subs[backup].await("complete tables", at, ofKind(status.EventReplicationComplete))
	s.ready()
	s.tellOnce(subs[backup])
}

// tellOnce checks that no event came twice.
func (s *stand) tellOnce(sub *subscriber) {
	s.t.Helper()
	sub.mu.Lock()
	defer sub.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range sub.list {
		if e.ID != "" && seen[e.ID] {
			s.t.Errorf("%s told twice of %+v", sub.node, e)
		}
		seen[e.ID] = true
	}
}

// TestMetrics compares the metrics of a running pair with its status, and has
// Prometheus's own checker look at them.
func TestMetrics(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(lightLoad())
	master, backup := s.roles()
	s.eventually("the numbers of the sessions", func(ctx context.Context) error {
		text := s.metrics(ctx, master)
		for _, name := range []string{"tandem_replication_records_sent_total", "node_nf_conntrack_entries", "tandem_replication_sent_bytes_total"} {
			if value := metric(text, name); value < 60 {
				return fmt.Errorf("%s is %v", name, value)
			}
		}
		if value := metric(s.metrics(ctx, backup), "tandem_replication_records_applied_total"); value < 60 {
			return fmt.Errorf("%v records were applied", value)
		}
		return nil
	})
	for _, node := range nodes() {
		text := s.metrics(t.Context(), node)
		is := s.status(node)
		for name, want := range map[string]float64{
			`tandem_role{role="` + is.Role + `"}`:                               1,
			"tandem_term":                                                       float64(is.Term),
			"tandem_replication_complete":                                       1,
			"tandem_config_in_sync":                                             1,
			`tandem_condition{condition="replication-broken"}`:                  0,
			"tandem_failover_felt":                                              0,
			"node_nf_conntrack_entries_limit":                                   float64(is.Sync.Limit),
			`keepalived_become_master_total{iname="lan",intf="lan0",vrid="10"}`: float64(is.BecameMaster),
		} {
			if got := metric(text, name); got != want {
				t.Errorf("%s: %s is %v, want %v", node, name, got, want)
			}
		}
		promtool, err := exec.LookPath("promtool")
		if err != nil {
			t.Log("promtool is missing: install Debian's package prometheus")
			continue
		}
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool on %s: %v\n%s", node, err, out)
		}
	}
	flows.report()
}

// metrics returns what a node exports.
func (s *stand) metrics(ctx context.Context, node string) string {
	s.t.Helper()
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVariable), "metrics", "--state-dir", filepath.Dir(s.SocketPath(node)))
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("tandem metrics: %v: %s", err, complaint.String())
	}
	return string(out)
}

// metric returns a sample's value; -1 if there is none.
func metric(text, name string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest, &value); err == nil {
			return value
		}
	}
	return -1
}
