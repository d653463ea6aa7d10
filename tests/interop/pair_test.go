package interop

import (
	"fmt"
	"net/netip"
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
	var b, lan, ha strings.Builder
	fmt.Fprintf(&b, "version: 1\ngroup: interop\nelection: {advertisement_interval: %v, preempt: %v}\nmembers:\n", s.interval, members[0].preempt)
	for i, m := range members {
		fmt.Fprintf(&b, "  - {name: %s, priority: %d, public_key: %q}\n", m.name, m.priority, m.publicKey)
		fmt.Fprintf(&lan, "      %s: {interface: eth0, address: %s}\n", m.name, m.address(ipv4))
		fmt.Fprintf(&ha, "    %s: {interface: ha0, address: %s}\n", m.name, netip.AddrFrom4([4]byte{10, 255, 0, byte(i + 1)}))
	}
	fmt.Fprintf(&b, "ha_link:\n  vrid: 30\n  prefix: 10.255.0.0/30\n  ports:\n%s", ha.String())
	fmt.Fprintf(&b, "networks:\n  - name: lan\n    vrid: %d\n    prefix: 10.0.0.0/24\n    gateway: %s\n    ports:\n%s", vrid, ipv4.virtualAddresses()[0], lan.String())
	b.WriteString("    vrrp: {checksum: pseudo-header}\n")
	return b.String()
}

// meets waits until the members have found each other and would take over.
func (s *stand) meets() {
	s.t.Helper()
	s.eventually("the members find each other", func() error {
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

// TestPairAndLowerRouter stands a pair beside a router that is to serve when both
// members are dead, and not before.
func TestPairAndLowerRouter(t *testing.T) {
	for _, k := range []kind{makeKeepalived, makeFRR} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, segment{version: 3, interval: 100 * time.Millisecond})
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
			s.judge()
		})
	}
}

// TestPairAndHigherRouter stands a pair beside a router that takes precedence.
func TestPairAndHigherRouter(t *testing.T) {
	for _, k := range []kind{makeKeepalived, makeFRR} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, segment{version: 3, interval: 100 * time.Millisecond})
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
			s.judge()
		})
	}
}
