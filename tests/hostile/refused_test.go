package hostile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
)

// TestRefused starts nodes that must not start, beside a pair that works: each says
// why in one sentence, and neither the kernel nor the pair feels anything.
func TestRefused(t *testing.T) {
	pair := newPair(t)
	tests := []struct {
		name string
		// start returns what is wrong with the invocation and the words of the sentence.
		start func(s *stand) (invocation, []string)
	}{
		{"no privileges", withoutPrivileges},
		{"same state directory", func(s *stand) (invocation, []string) {
			return s.usual(lab.Alpha), []string{"runs already", filepath.Join("alpha", "lock"), "stop it first"}
		}},
		{"second instance", func(s *stand) (invocation, []string) {
			i := s.usual(lab.Alpha)
			i.stateDir = s.t.TempDir()
			return i, []string{
				"group lab runs already in this network namespace", fmt.Sprintf("process %d of user %d", s.nodePID(lab.Alpha), os.Getuid()), "stop it first",
			}
		}},
		{"the other member in the same place", func(s *stand) (invocation, []string) {
			i := s.usual(lab.Bravo)
			i.namespace, i.stateDir = lab.Alpha, s.t.TempDir()
			return i, []string{"group lab runs already in this network namespace", "stop it first"}
		}},
		{"the key of the other member", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.key = s.KeyPath(lab.Bravo)
			own := s.tandem("keygen", "--show", "--out", i.key)
			return i, []string{i.key, "is not the one that the document gives alpha", "make the document's public_key " + own}
		}},
		{"a key that others may read", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			key, err := os.ReadFile(i.key)
			s.must(err)
			i.key = filepath.Join(s.t.TempDir(), "alpha.key")
			s.must(os.WriteFile(i.key, key, 0o600))
			s.must(os.Chmod(i.key, 0o640))
			return i, []string{i.key, "accessible to others (mode 0640)", "chmod 600"}
		}},
		{"no key", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.key = filepath.Join(s.t.TempDir(), "alpha.key")
			return i, []string{"no private key at " + i.key, "`tandem keygen --out " + i.key + "`"}
		}},
		{"a key file with something else", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.key = filepath.Join(s.t.TempDir(), "alpha.key")
			s.must(os.WriteFile(i.key, []byte("once upon a time\n"), 0o600))
			return i, []string{i.key, "holds no key that `tandem keygen` makes"}
		}},
		{"no document", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.config = filepath.Join(s.t.TempDir(), "pair.yaml")
			return i, []string{"no document at " + i.config, "--config"}
		}},
		{"a stranger to the document", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.node = "charlie"
			return i, []string{`no member "charlie"`, "alpha and bravo", "--node"}
		}},
		{"a state directory too deep for a socket", func(s *stand) (invocation, []string) {
			i := s.elsewhere(lab.Alpha)
			i.stateDir = filepath.Join(s.t.TempDir(), strings.Repeat("deep/", 20))
			return i, []string{"the kernel takes 107", "shorter --state-dir"}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := pair.on(t)
			i, words := tt.start(s)
			harmless, untouched := s.harmless(), s.untouched(i.namespace)
			s.refuses(i, words...)
			untouched()
			harmless()
		})
	}
}

// elsewhere is the invocation of a node in a place where it could start.
func (s *stand) elsewhere(node string) invocation {
	i := s.usual(node)
	i.namespace, i.stateDir = lab.Server, s.t.TempDir()
	return i
}

// withoutPrivileges is a user who may read everything and do nothing.
func withoutPrivileges(s *stand) (invocation, []string) {
	if !isRoot() {
		s.t.Skip("another user needs root to become")
	}
	const nobody = 65534
	i := s.elsewhere(lab.Alpha)
	dir := "/run/unprivileged"
	s.must(os.MkdirAll(dir, 0o755))
	for _, path := range []*string{&i.config, &i.key} {
		text, err := os.ReadFile(*path)
		s.must(err)
		*path = filepath.Join(dir, filepath.Base(*path))
		s.must(os.WriteFile(*path, text, 0o600))
		s.must(os.Chown(*path, nobody, nobody))
	}
	i.stateDir = filepath.Join(dir, "state")
	i.credential = &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}
	s.t.Cleanup(func() {
		if _, err := os.Stat(i.stateDir); !os.IsNotExist(err) {
			s.t.Errorf("the state directory was touched: %v", err)
		}
	})
	return i, []string{"a node needs CAP_NET_ADMIN and CAP_NET_RAW", "run it as root or grant the capabilities"}
}

// TestDocumentFaults demands that a node lists all that is wrong with its document.
func TestDocumentFaults(t *testing.T) {
	s := newStand(t)
	i := s.usual(lab.Alpha)
	i.config = s.replaceInDocument("vrid: 20", "vrid: 256", "group: lab", "group: Not A Name", "preempt: false", "preempt: perhaps")
	untouched := s.untouched(lab.Alpha)
	p := s.launch(i)
	<-p.ended
	for _, want := range []string{"256", "Not A Name", "perhaps"} {
		if !strings.Contains(p.output(), want) {
			t.Errorf("the output lacks %q:\n%s", want, p.output())
		}
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	untouched()
}

// TestOrphanedElector starts a node with a new state directory while the elector of
// its crashed predecessor still speaks for the old one: there must not be two.
func TestOrphanedElector(t *testing.T) {
	s := newPair(t)
	before, calm := s.standing(lab.Bravo), s.traffic(calmSilence)
	elector, node := s.electorOf(lab.Alpha), s.nodePID(lab.Alpha)
	s.must(syscall.Kill(node, syscall.SIGKILL))
	s.eventually("the node is dead", func(context.Context) error {
		if err := syscall.Kill(node, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there (%w)", node, err)
		}
		return nil
	})
	i := s.usual(lab.Alpha)
	i.stateDir = t.TempDir()
	s.refuses(i, "the elector of an earlier node of group lab still runs in this network namespace", "start the node with the one of before", "wait a minute")
	s.start(lab.Alpha)
	s.ready()
	calm()
	if now := s.standing(lab.Bravo); now != before {
		t.Errorf("bravo was %+v and is %+v", before, now)
	}
	if now := s.electorOf(lab.Alpha); now != elector {
		t.Errorf("alpha has elector %d, had %d", now, elector)
	}
}

// TestStart demands that nothing that a node says while it starts stays, and that it
// names nothing that is not so.
func TestStart(t *testing.T) {
	s := newStand(t)
	s.start(nodes()...)
	seen := map[string]bool{}
	for _, node := range nodes() {
		s.answers(node)
	}
	s.eventually("the pair is ready", func(ctx context.Context) error {
		complete := true
		for _, node := range nodes() {
			answer, err := s.Status(ctx, node)
			if err != nil {
				return err
			}
			for _, problem := range answer.Problems {
				seen[problem] = true
			}
			complete = complete && len(answer.Problems) == 0 && answer.Sync.Complete
		}
		if !complete {
			return fmt.Errorf("problems so far: %v", seen)
		}
		return nil
	})
	for problem := range seen {
		allowed := slices.ContainsFunc([]string{
			"the elector process is starting", "this node has just started", "is not heard", "sessions are not replicated", "adverts on",
			"is down: check the cable", // it was set up a moment ago
		}, func(words string) bool { return strings.Contains(problem, words) })
		if !allowed {
			t.Errorf("while it started a node said: %s", problem)
		} else {
			t.Logf("said for a moment: %s", problem)
		}
	}
	s.throughout(time.Second, func() {
		for _, node := range nodes() {
			if problems := s.status(node).Problems; len(problems) > 0 {
				t.Fatalf("%s says %q", node, problems)
			}
		}
	})
}

// TestBridgePort gives a node an interface that is in somebody else's bridge.
func TestBridgePort(t *testing.T) {
	s := newStand(t)
	s.change(lab.Bravo, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "foreign"
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		port, err := h.LinkByName("lan0")
		if err != nil {
			return err
		}
		bridge, err := h.LinkByName("foreign")
		if err != nil {
			return err
		}
		return h.LinkSetMasterByIndex(port, bridge.Attrs().Index)
	})
	s.startAlpha()
	s.start(lab.Bravo)
	s.answers(lab.Bravo)
	s.complains(lab.Bravo, "the kernel is not in the intended state", "lan0 is the port of a bridge or a bond, take it out")
	s.change(lab.Bravo, func(h *netlink.Handle) error {
		port, err := h.LinkByName("lan0")
		if err != nil {
			return err
		}
		return h.LinkSetNoMaster(port)
	})
	s.ready()
	if role := s.status(lab.Alpha).Role; role != roleMaster {
		t.Errorf("alpha is %s", role)
	}
}
