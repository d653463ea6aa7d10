package hostile

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// oneMasterTime is many down intervals.
const oneMasterTime = 6 * interval

// oneMaster demands for a while that there is exactly one MASTER and that it is the
// same one.
func (s *stand) oneMaster(master string) {
	s.t.Helper()
	s.throughout(oneMasterTime, func() {
		if m, b := s.status(master).Role, s.status(other(master)).Role; m != roleMaster || b != roleBackup {
			s.t.Fatalf("%s is %s, %s is %s", master, m, other(master), b)
		}
	})
}

// TestWrongPeerKey replaces a node by one with another key.
func TestWrongPeerKey(t *testing.T) {
	s := newPair(t)
	s.stop(lab.Bravo)
	i := s.usual(lab.Bravo)
	i.key = filepath.Join(t.TempDir(), "bravo.key")
	right := s.tandem("keygen", "--show", "--out", s.KeyPath(lab.Bravo))
	wrong := s.tandem("keygen", "--out", i.key)
	i.config = s.replaceInDocument(right, wrong)
	calm := s.traffic(calmSilence)
	p := s.launch(i)
	s.answers(lab.Bravo)
	s.complains(lab.Alpha, "sessions are not replicated", "the node at 10.255.0.2 has the key "+wrong+" and not "+right,
		"correct its public_key in the document on both nodes")
	s.complains(lab.Alpha, "heartbeats on the HA link are not signed by the key of bravo", "`tandem keygen --show`")
	s.complains(lab.Bravo, "sessions are not replicated", "the node at 10.255.0.1 refuses this node's key",
		"make sure that its document gives this member the public_key "+wrong)
	s.complains(lab.Bravo, "heartbeats on the HA link are not signed by the key of alpha", "`tandem keygen --show`")
	s.becomes(lab.Bravo, roleBackup)
	s.oneMaster(lab.Alpha)
	for _, node := range nodes() {
		answer := s.status(node)
		if answer.Sync.Connected || answer.Sync.Applied > 0 && node == lab.Bravo {
			t.Errorf("%s replicates: %+v", node, answer.Sync)
		}
		if dropped := s.carrier(node, "ha").Dropped["heartbeat-forged"]; dropped == 0 {
			t.Errorf("%s counts no forged heartbeats", node)
		}
	}
	s.flowsOn()
	calm()
	for name, text := range map[string]string{lab.Alpha: s.log(lab.Alpha), lab.Bravo: quiet(p.output())} {
		if n := strings.Count(text, "key"); n == 0 || n > 4 {
			t.Errorf("%s logs %d times that keys do not fit:\n%s", name, n, text)
		}
	}
	s.ends(p)
	s.start(lab.Bravo)
	s.ready()
	s.flowsOn()
	s.expect("the problem is over", lab.Alpha, func(answer status.Status) error {
		if len(answer.Problems) > 0 {
			return fmt.Errorf("problems %q", answer.Problems)
		}
		return nil
	})
}

// quiet leaves the changes with which each start begins out.
func quiet(log string) string {
	lines := slices.Collect(strings.Lines(log))
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `msg="kernel changed"`) }), "")
}

func (s *stand) carrier(node, name string) status.Carrier {
	s.t.Helper()
	carriers := s.status(node).Carriers
	i := slices.IndexFunc(carriers, func(c status.Carrier) bool { return c.Name == name })
	if i < 0 {
		s.t.Fatalf("%s has no carrier %s", node, name)
	}
	return carriers[i]
}

// TestDifferentDocuments runs the BACKUP with another document than the MASTER.
func TestDifferentDocuments(t *testing.T) {
	pair := newPair(t)
	pair.stop(lab.Bravo)
	pair.change(lab.Bravo, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "guests0"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "guests1"}); err != nil {
			return err
		}
		far, err := h.LinkByName("guests1")
		if err != nil {
			return err
		}
		return h.LinkSetUp(far)
	})
	tests := []struct {
		name    string
		replace []string
		// mismatch is what the BACKUP says about the MASTER's adverts; nil for nothing.
		mismatch []string
		// toAndFro hands the role over and back: it moves when it is asked to, and at no
		// other time.
		toAndFro bool
	}{
		{"one network more", []string{"networks:\n", `networks:
  - name: guests
    vrid: 40
    prefix: 10.9.0.0/24
    gateway: 10.9.0.1
    ports:
      alpha: {interface: guests0, address: 10.9.0.2}
      bravo: {interface: guests0, address: 10.9.0.3}
    uplink: wan
`}, nil, false},
		{
			"another interval",
			[]string{"advertisement_interval: 100ms", "advertisement_interval: 200ms"},
			[]string{"advertises every 100ms, this node is configured for 200ms", "apply the same document on both nodes"},
			true,
		},
		{
			"another virtual address",
			[]string{"gateway: " + lab.ClientGateway, "gateway: 10.0.0.9"},
			[]string{"the MASTER on lan advertises [10.0.0.1], this node is configured for [10.0.0.9]", "apply the same document on both nodes"},
			false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := pair.on(t)
			calm := s.traffic(calmSilence)
			i := s.usual(lab.Bravo)
			i.config = s.replaceInDocument(tt.replace...)
			p := s.launch(i)
			s.answers(lab.Bravo)
			s.becomes(lab.Bravo, roleBackup)
			mine, theirs := s.status(lab.Alpha).Config.Hash, s.status(lab.Bravo).Config.Hash
			if mine == theirs {
				t.Fatal("the documents have the same hash")
			}
			s.complains(lab.Alpha, "the peer runs a different document", status.Short(theirs), status.Short(mine), "apply the same one on both nodes")
			s.complains(lab.Bravo, "the peer runs a different document", status.Short(mine), status.Short(theirs), "apply the same one on both nodes")
			if tt.mismatch != nil {
				s.complains(lab.Bravo, tt.mismatch...)
			}
			s.oneMaster(lab.Alpha)
			s.flowsOn()
			calm()
			if tt.toAndFro {
				s.toAndFro()
			}
			s.ends(p)
		})
	}
	pair.start(lab.Bravo)
	pair.ready()
	pair.flowsOn()
}

// toAndFro hands the role from alpha to bravo and back.
func (s *stand) toAndFro() {
	s.t.Helper()
	for _, master := range nodes() {
		s.expect(other(master)+" is ready", master, func(answer status.Status) error {
			if !answer.Peer.Ready || !answer.Sync.Complete {
				return fmt.Errorf("peer %+v", answer.Peer)
			}
			return nil
		})
		ctx, cancel := s.context()
		s.must(s.Failover(ctx, master))
		cancel()
		s.becomes(other(master), roleMaster)
		s.becomes(master, roleBackup)
		s.oneMaster(other(master))
		s.complains(master, "configured for", "apply the same document on both nodes")
		s.flowsOn()
	}
}
