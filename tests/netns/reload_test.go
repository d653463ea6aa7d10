package netns

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

// change writes another document and puts it into force on the nodes, one after the other.
func (s *stand) change(document string, names ...string) {
	s.t.Helper()
	s.must(os.WriteFile(s.ConfigPath(), []byte(document), 0o600))
	for _, name := range names {
		ctx, cancel := s.context()
		s.must(s.Reload(ctx, name))
		cancel()
	}
}

// without returns a document without the last network, which begins with that line.
func without(t *testing.T, document, line string) string {
	t.Helper()
	before, _, found := strings.Cut(document, line)
	if !found {
		t.Fatalf("the document has no line %q", line)
	}
	return before
}

// TestReload takes a network away and gives it back while traffic flows on another: no advert is
// missed, nothing is felt there, and the network that came back works at once.
func TestReload(t *testing.T) {
	s := newPairOf(t, lab.Options{SecondNetwork: true})
	text, err := os.ReadFile(s.ConfigPath())
	s.must(err)
	whole := string(text)
	small := without(t, whole, "  - name: dmz")
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 40, UDPFlows: 20, UDPInterval: udpInterval})
	master, backup := s.roles()
	before := s.status(master)

	for _, order := range [][]string{{master, backup}, {backup, master}} {
		guest := s.guestTraffic(traffic.ClientConfig{TCPSessions: 5, UDPFlows: 5, UDPInterval: udpInterval})
		s.must(guest.Stop())
		flows.mark()
		s.change(small, order...)
		if n := len(s.status(master).Carriers); n != len(before.Carriers)-1 {
			t.Errorf("with a network less there are %d carriers, before %d", n, len(before.Carriers))
		}
		s.change(whole, order...)
		s.ready()
		s.guestTraffic(traffic.ClientConfig{TCPSessions: 5, UDPFlows: 5, UDPInterval: udpInterval}).report()
		flows.missed("another network")
		flows.undisturbed()
	}
	after := s.status(master)
	if after.Role != roleMaster || after.Term != before.Term || after.Transitions != before.Transitions {
		t.Errorf("the role moved: %s of term %d after %d transitions, before term %d after %d",
			after.Role, after.Term, after.Transitions, before.Term, before.Transitions)
	}
	if after.Config.Hash != before.Config.Hash {
		t.Errorf("the document is %s, before it was %s", after.Config.Hash, before.Config.Hash)
	}
	s.refuses(whole, master)
}

// refuses sees that a document with a fault, and one that would need a restart, change nothing.
func (s *stand) refuses(whole, node string) {
	s.t.Helper()
	before := s.status(node).Config.Hash
	for _, d := range []struct{ text, says string }{
		{strings.Replace(whole, "gateway: "+lab.ClientGateway, "gateway: 10.9.9.9", 1), "gateway"},
		{strings.Replace(whole, "vrid: 30", "vrid: 33", 1), "ha_link cannot change"},
		{"", "empty"},
	} {
		s.must(os.WriteFile(s.ConfigPath(), []byte(d.text), 0o600))
		err := s.Reload(s.t.Context(), node)
		if err == nil || !strings.Contains(err.Error(), d.says) {
			s.t.Errorf("the answer is %v, want something about %q", err, d.says)
		}
	}
	s.must(os.WriteFile(s.ConfigPath(), []byte(whole), 0o600))
	s.pass(time.Second)
	if is := s.status(node).Config.Hash; is != before {
		s.t.Error(errors.New("a refused document is in force: " + is))
	}
}
