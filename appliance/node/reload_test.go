package node

import (
	"strings"
	"testing"
	"time"

	"tandem/vrrp/elector"
)

func TestPeerHash(t *testing.T) {
	old, fresh := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	heard := func(first byte) elector.PeerReport {
		p := elector.PeerReport{HeartbeatAt: time.Unix(1, 0)}
		for i := range p.Configuration {
			p.Configuration[i] = first
		}
		return p
	}
	for _, test := range []struct {
		name              string
		peer              elector.PeerReport
		stream, own, want string
	}{
		{"only the stream is heard", elector.PeerReport{}, old, fresh, old},
		{"it has changed to this node's since the stream began", heard(0xb2), old, fresh, fresh},
		{"it has not changed", heard(0xa1), old, fresh, old},
		{"it has changed to another", heard(0xc3), old, fresh, strings.Repeat("c3", 8)},
	} {
		if got := peerHash(test.peer, test.stream, test.own); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// What a running node cannot change is named; all else may.
func TestLasting(t *testing.T) {
	n := pairOf(t)["alpha"]
	same, other := n.doc(), *n.doc()
	other.Networks = other.Networks[:1]
	if err := lasting(same, &other); err != nil {
		t.Errorf("a network less: %v", err)
	}
	other.HALink = nil
	if err := lasting(same, &other); err == nil || !strings.Contains(err.Error(), "ha_link cannot change") {
		t.Errorf("another HA link: %v", err)
	}
	other = *n.doc()
	other.Group = "other"
	if err := lasting(same, &other); err == nil || !strings.Contains(err.Error(), "group cannot change") {
		t.Errorf("another group: %v", err)
	}
}
