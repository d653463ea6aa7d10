package elector

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tandem/vrrp"
)

// What an elector recorded must make the same decisions again.
func TestRecordingReplays(t *testing.T) {
	path, ended := start(t)
	c := dial(t, path)
	cfg := single()
	cfg.Record = filepath.Join(t.TempDir(), "election.jsonl")
	if err := c.Send(Command{Configure: &cfg, Fitness: &Fitness{Fitness: vrrp.Fitness{Ready: true}}}); err != nil {
		t.Fatal(err)
	}
	r := await(t, c, "a MASTER", func(r Report) bool { return r.State == vrrp.Master })
	if err := c.Send(Command{Stop: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(cfg.Record)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var replay vrrp.Replay
	var roles []vrrp.State
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var record vrrp.Record
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			t.Fatal(err)
		}
		s, err := replay.Take(record)
		if err != nil {
			t.Fatal(err)
		}
		if tr := s.Output.Transition; tr != nil {
			roles = append(roles, tr.To)
			if tr.To == vrrp.Master && tr.Term != r.Term {
				t.Errorf("MASTER of term %d, the elector was it of %d", tr.Term, r.Term)
			}
		}
	}
	if len(roles) != 3 || roles[0] != vrrp.Backup || roles[1] != vrrp.Master || roles[2] != vrrp.Initialize {
		t.Errorf("replayed roles %v, want BACKUP, MASTER, INITIALIZE", roles)
	}
	info, err := os.Stat(cfg.Record)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}
