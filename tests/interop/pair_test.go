package interop

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
)

const (
	alphaName = "alpha"
	bravoName = "bravo"
	thirdName = "third"
)

// pair adds two members of one document, joined by an HA link.
func (s *stand) pair(alpha, bravo settings) {
	s.t.Helper()
	var members []*tandem
	for _, c := range []settings{alpha, bravo} {
		c.pair = true
		s.tandem(c)
		members = append(members, s.routers[c.name].(*tandem))
	}
	for _, m := range members {
		m.document = func() string { return s.pairDocument(members) }
	}
	s.must(joinByCable(members[0].ns, members[1].ns, "ha0"))
}

// joinByCable joins two namespaces.
func joinByCable(one, other lab.Namespace, name string) error {
	file, err := os.Open("/run/netns/" + other.Name())
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for i, ns := range []lab.Namespace{one, other} {
		h, err := ns.Netlink()
		if err != nil {
			return err
		}
		defer h.Close()
		if i == 0 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(file.Fd())})
			if err != nil {
				return err
			}
		}
		if err := setUp(h, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *stand) pairDocument(members []*tandem) string {
	var b strings.Builder
	b.WriteString(s.electionOf(members...))
	for _, m := range members {
		fmt.Fprintf(&b, "  - {name: %s, priority: %d, public_key: %q}\n", m.name, m.priority, m.publicKey)
	}
	b.WriteString("ha_link:\n  vrid: 30\n  prefix: 10.255.0.0/30\n  ports:\n")
	for i, m := range members {
		fmt.Fprintf(&b, "    %s: {interface: ha0, address: 10.255.0.%d}\n", m.name, i+1)
	}
	b.WriteString(s.networkOf(members...))
	return b.String()
}

// meets waits until the members have found each other and would take over.
func (s *stand) meets() {
	s.t.Helper()
	s.eventually(alphaName, "and the other member find each other", func() error {
		for _, name := range []string{alphaName, bravoName} {
			answer, err := s.routers[name].(*tandem).status()
			switch {
			case err != nil:
				return err
			case answer.Peer == nil || !answer.Peer.Alive || !answer.Peer.Ready || !answer.Sync.Complete || len(answer.Recovering) > 0:
				return fmt.Errorf("%s is not ready: problems %q, recovering %q", name, answer.Problems, answer.Recovering)
			}
		}
		return nil
	})
}

// TestPair stands a pair beside a router of another make.
func TestPair(t *testing.T) {
	on := newStage(t)
	v3 := segment{version: 3, interval: 100 * time.Millisecond}
	dual := v3
	dual.ipv6 = true
	for _, c := range []struct {
		name string
		segment
		play func(s *stand, k kind)
	}{
		{"the third is lower", v3, pairAndLowerRouter},
		{"the third is lower, IPv4 and IPv6", dual, pairAndLowerRouter},
		{"the third is higher", v3, pairAndHigherRouter},
		{"the third is higher, IPv4 and IPv6", dual, pairAndHigherRouter},
	} {
		for _, k := range []kind{makeKeepalived, makeFRR} {
			t.Run(fmt.Sprintf("%s/%s", k, c.name), func(t *testing.T) {
				t.Parallel()
				on.perform(t, c.segment, func(s *stand) { c.play(s, k) })
			})
		}
	}
}

// pairAndLowerRouter lets the third serve when both members are dead, and not before.
func pairAndLowerRouter(s *stand, k kind) {
	third := s.peer(k, settings{name: thirdName, priority: 50, preempt: true, last: 9})
	s.pair(settings{name: alphaName, priority: 200, last: 2}, settings{name: bravoName, priority: 180, last: 3})
	s.startsAndTakesOver(alphaName, "")
	s.start(third)
	s.stays()
	s.start(bravoName)
	s.meets()

	since := time.Now()
	s.must(s.routers[alphaName].stop())
	s.awaits(change{why: handover, from: alphaName, to: bravoName, since: since, ready: time.Now()})
	s.start(alphaName)
	s.meets()

	since = time.Now()
	s.must(s.routers[bravoName].base().kill())
	s.awaits(change{why: beats, from: bravoName, to: alphaName, since: since})
	s.stays()
	s.dies(alphaName, third)
}

// pairAndHigherRouter lets the third take precedence, and the pair serve without it.
func pairAndHigherRouter(s *stand, k kind) {
	third := s.peer(k, settings{name: thirdName, priority: 250, preempt: true, last: 9})
	// Their Skew_Times lie so far apart that bravo hears alpha before it could act.
	s.pair(settings{name: alphaName, priority: 240, last: 2}, settings{name: bravoName, priority: 100, last: 3})
	s.startsAndTakesOver(alphaName, "")
	s.start(bravoName)
	s.meets()
	s.startsAndTakesOver(third, alphaName)
	s.stays()
	s.stops(third, alphaName)
	s.startsAndTakesOver(third, alphaName)
	s.dies(third, alphaName)
}
