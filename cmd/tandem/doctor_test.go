package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/appliance/doctor"
)

func TestDoctorTellsMistakesFromTrouble(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "pair.yaml")
	if err := os.WriteFile(broken, []byte("version: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const reference = "../../docs/reference.yaml"
	tests := []struct {
		name   string
		args   []string
		stderr string
	}{
		{"argument", []string{"alpha"}, `leave out "alpha"`},
		{"flag", []string{"--no-such-flag"}, "--no-such-flag"},
		{"no duration", []string{"--peer-wait", "long"}, "long"},
		{"negative", []string{"--config", reference, "--node", "alpha", "--peer-wait", "-1s"}, "--peer-wait"},
		{"no document", []string{"--config", broken + "x"}, "read the document"},
		{"bad document", []string{"--config", broken}, "version"},
		{"stranger", []string{"--config", reference, "--node", "charlie"}, `no member "charlie"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := tandem(t, append([]string{"doctor"}, tt.args...)...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, want %d; it printed %q", code, exitUsage, stdout)
			}
			if !strings.HasPrefix(stderr, "tandem: ") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("said %q, want %q in it", stderr, tt.stderr)
			}
		})
	}
}

// lonely is a single router whose interfaces are nowhere, so that a test sends nothing.
const lonely = `version: 1
group: lonely
members:
  - name: alpha
networks:
  - name: lan
    vrid: 9
    prefix: 10.99.0.0/24
    gateway: 10.99.0.1
    ports: {alpha: {interface: nowhere0, address: 10.99.0.2}}
`

func TestDoctorOfASingleRouter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "single.yaml")
	if err := os.WriteFile(path, []byte(lonely), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"doctor", "--config", path, "--node", "alpha", "--state-dir", t.TempDir(), "--listen", "0"}
	code, stdout, stderr := tandem(t, append(args, "--json")...)
	var r doctor.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v in %q (%s)", err, stdout, stderr)
	}
	if code != exitTrouble || r.Count(doctor.Trouble) == 0 || r.Peer != "" || r.Running {
		t.Errorf("exit code %d, report %+v", code, r)
	}
	for _, f := range r.Findings {
		if f.Section == doctor.SectionPeer || f.Check == "key" {
			t.Errorf("a single router has no peer: %+v", f)
		}
	}
	code, stdout, _ = tandem(t, args...)
	if code != exitTrouble || !strings.Contains(stdout, "there is no interface nowhere0 here") || strings.Contains(stdout, "\x1b[") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}
