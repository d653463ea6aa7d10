package examine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/conntracksync/peer"
)

func TestStateDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		ok         bool
	}{
		{"there", dir, true},
		{"not made yet", filepath.Join(dir, "a", "b"), true},
		{"a file", file, false},
		{"below a file", filepath.Join(file, "a"), false},
		{"nowhere to be made", "/proc/self/tandem", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := stateDirectory(tt.path)
			if s.Directory != tt.path || s.Writable.OK() != tt.ok {
				t.Errorf("got %+v", s)
			}
			if tt.ok && s.Free == 0 {
				t.Error("there is no space")
			}
		})
	}
}

func TestKey(t *testing.T) {
	id, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := id.Save(path); err != nil {
		t.Fatal(err)
	}
	if got := key(path, id.PublicKey()); !got.OK() {
		t.Errorf("got %+v", got)
	}
	if got := key(path, "tandem-p256:another"); got.OK() || !strings.Contains(got.Problem, id.PublicKey()) {
		t.Errorf("another key: %+v", got)
	}
	if err := os.Chmod(path, 0o644); err != nil { // the fault that is to be found
		t.Fatal(err)
	}
	if got := key(path, id.PublicKey()); got.OK() || !strings.Contains(got.Problem, "chmod 600") {
		t.Errorf("a key that all can read: %+v", got)
	}
	if got := key(path+"x", id.PublicKey()); got.OK() || !strings.Contains(got.Problem, "keygen") {
		t.Errorf("no key: %+v", got)
	}
}

// What was tried must be undone: this thread and this process go on as before.
func TestTimelinessLeavesNothingBehind(t *testing.T) {
	trial, clock := timeliness()
	if trial.OK() != clock.RealTime || !trial.Tried {
		t.Errorf("%+v and %+v do not agree", trial, clock)
	}
	if clock.Lateness <= 0 {
		t.Errorf("sleeps ended %v late", clock.Lateness)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil || len(tasks) == 0 {
		t.Fatal("the threads cannot be listed", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		const policy = 41 - 3 // proc_pid_stat(5), counted after the name
		if fields[policy] != "0" {
			t.Errorf("thread %s has scheduling policy %s", task, fields[policy])
		}
	}
}

func TestMemoryLockIsUndone(t *testing.T) {
	trial := memoryLock()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok && strings.TrimSpace(rest) != "0 kB" {
			t.Errorf("after %+v the process has locked %s", trial, strings.TrimSpace(rest))
		}
	}
}

func TestRunsReadsNamesOnly(t *testing.T) {
	if Runs("no-such-group") {
		t.Error("a node runs that nobody started")
	}
}

func TestSysctls(t *testing.T) {
	values, _ := sysctls([]string{"kernel/ostype", "kernel/no-such-thing"})
	if len(values) != 1 || values["kernel/ostype"] != "Linux" {
		t.Errorf("got %v", values)
	}
}
