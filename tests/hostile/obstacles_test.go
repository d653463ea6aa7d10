package hostile

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// healthyAgain waits until a node says that nothing keeps it from being MASTER.
func (s *stand) healthyAgain(node string) {
	s.t.Helper()
	s.expect(node+" is healthy", node, func(answer status.Status) error {
		if answer.Priority < 100 || len(answer.Problems) > 0 {
			return fmt.Errorf("its priority is %d, its problems are %q", answer.Priority, answer.Problems)
		}
		return nil
	})
}

// TestMissingInterface starts a node without an interface, and takes another node's
// interface away while it is MASTER. Both wait and recover by themselves.
func TestMissingInterface(t *testing.T) {
	s := newStand(t)
	s.deleteLink(lab.Alpha, "lan0")
	s.start(nodes()...)
	s.becomes(lab.Bravo, roleMaster)
	s.complains(lab.Alpha, "the interface lan0 of lan is missing; waiting for it")
	s.said(lab.Alpha, "level=WARN", "waiting for interfaces that are missing", "lan0")
	s.expect("alpha is degraded", lab.Alpha, func(answer status.Status) error {
		if answer.Role != roleBackup || answer.Priority >= 100 {
			return fmt.Errorf("it is %s with priority %d", answer.Role, answer.Priority)
		}
		return nil
	})
	s.startTraffic()

	unmoved, calm := s.unmoved(), s.traffic(calmSilence)
	s.replaceLink(lab.Alpha, "lan")
	s.healthyAgain(lab.Alpha)
	s.ready()
	s.flowsOn()
	unmoved()
	calm()

	calm = s.traffic(switchSilence)
	s.deleteLink(lab.Bravo, "lan0")
	s.becomes(lab.Alpha, roleMaster)
	s.becomes(lab.Bravo, roleBackup)
	s.complains(lab.Bravo, "the interface lan0 of lan is missing; waiting for it")
	s.flowsOn()
	calm()

	unmoved, calm = s.unmoved(), s.traffic(calmSilence)
	s.replaceLink(lab.Bravo, "lan")
	s.healthyAgain(lab.Bravo)
	s.ready()
	s.flowsOn()
	unmoved()
	calm()
}

// TestMissingHALink starts a node without the cable between the nodes.
func TestMissingHALink(t *testing.T) {
	s := newStand(t)
	s.deleteLink(lab.Bravo, "ha0")
	s.startAlpha()
	s.start(lab.Bravo)
	s.answers(lab.Bravo)
	s.becomes(lab.Bravo, roleBackup)
	s.complains(lab.Bravo, "the interface ha0 of ha is missing; waiting for it")
	s.complains(lab.Bravo, "sessions are not replicated")
	unmoved := s.unmoved()
	s.change(lab.Bravo, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "ha0"
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "elsewhere"})
	})
	s.complains(lab.Bravo, "the link of ha (ha0) is down: check the cable or the switch port")
	unmoved()
}

// TestReplacedHALink takes the interfaces of the cable between running nodes away and
// gives them back: whatever was bound to the old ones must find the new ones.
func TestReplacedHALink(t *testing.T) {
	s := newPair(t)
	for _, node := range nodes() {
		unmoved := s.unmoved()
		s.deleteLink(node, "ha0")
		s.complains(node, "the interface ha0 of ha is missing; waiting for it")
		s.expect("the stream is broken", node, func(answer status.Status) error {
			if answer.Sync.Connected {
				return errors.New("it is connected")
			}
			return nil
		})
		s.replaceLink(node, "ha")
		s.ready()
		unmoved()
	}
}

// TestAddressTaken configures virtual addresses where they do not belong. The node
// says so, leaves them alone and lets the other one be MASTER.
func TestAddressTaken(t *testing.T) {
	s := newPair(t)
	const taken = lab.ClientGateway + "/24"

	unmoved, calm := s.unmoved(), s.traffic(calmSilence)
	s.address(lab.Bravo, "lan0", taken, true)
	sentence := []string{"carrier lan is left out", "its virtual address 10.0.0.1 is configured on lan0", "remove it there"}
	s.complains(lab.Bravo, sentence...)
	s.said(lab.Bravo, append(sentence, "level=WARN")...)
	s.unfit(lab.Bravo)
	if !s.hasAddress(lab.Bravo, "lan0", taken) {
		t.Error("the address is gone")
	}
	if s.has(lab.Bravo, "vmac10") || !s.has(lab.Bravo, "vmac20") {
		t.Error("bravo must leave out vmac10 and nothing else")
	}
	s.flowsOn()
	unmoved()
	calm()
	s.address(lab.Bravo, "lan0", taken, false)
	s.healthyAgain(lab.Bravo)
	s.ready()

	calm = s.traffic(switchSilence)
	s.address(lab.Alpha, "lan0", taken, true)
	s.becomes(lab.Bravo, roleMaster)
	s.becomes(lab.Alpha, roleBackup)
	s.complains(lab.Alpha, sentence...)
	s.flowsOn()
	calm()
	if !s.hasAddress(lab.Alpha, "lan0", taken) {
		t.Error("the address is gone")
	}
	s.onlyVirtualAnswers(lab.ClientGateway)

	unmoved, calm = s.unmoved(), s.traffic(calmSilence)
	s.address(lab.Alpha, "lan0", taken, false)
	s.healthyAgain(lab.Alpha)
	s.ready()
	s.flowsOn()
	unmoved()
	calm()
	bothTaken(s)
}

// unfit waits until a node would not become MASTER while the other one can be.
func (s *stand) unfit(node string) {
	s.t.Helper()
	s.expect(node+" is not fit", node, func(answer status.Status) error {
		if answer.Priority >= 100 {
			return fmt.Errorf("its priority is %d", answer.Priority)
		}
		return nil
	})
}

func (s *stand) has(namespace, link string) bool {
	s.t.Helper()
	found := false
	s.change(namespace, func(h *netlink.Handle) error {
		_, err := h.LinkByName(link)
		var gone netlink.LinkNotFoundError
		found = err == nil
		if errors.As(err, &gone) {
			return nil
		}
		return err
	})
	return found
}

// bothTaken gives both nodes the same obstacle, the BACKUP alpha first: both equally
// bad changes nothing.
func bothTaken(s *stand) {
	const taken = lab.NATAddress + "/24"
	unmoved := s.unmoved()
	for _, node := range nodes() {
		s.address(node, "wan0", taken, true)
		s.complains(node, "carrier wan is left out", "remove it there")
		s.unfit(node)
	}
	unmoved()
	for _, node := range []string{lab.Bravo, lab.Alpha} { // the MASTER first, or it would hand over
		s.address(node, "wan0", taken, false)
		s.healthyAgain(node)
	}
	s.ready()
	s.flowsOn()
	unmoved()
}

// refusesToBeSeized: a fence that belongs to the node is nobody else's.
func (s *stand) refusesToBeSeized(node string) {
	s.t.Helper()
	unmoved, calm := s.unmoved(), s.traffic(calmSilence)
	if _, err := s.tryToSeizeTable(node, unix.NFPROTO_NETDEV, "tandem-lab"); !errors.Is(err, unix.EPERM) {
		s.t.Errorf("another program takes the fence away: %v, want %v", err, unix.EPERM)
	}
	s.flowsOn()
	s.ready()
	unmoved()
	calm()
}

// TestTableSeized makes the kernel refuse a change on the MASTER: another program
// owns the table that holds NAT and forwarding, then the one that holds the fence.
func TestTableSeized(t *testing.T) {
	pair := newPair(t)
	tests := []struct {
		name   string
		family byte
		words  []string
	}{
		{"NAT", unix.NFPROTO_IPV4, []string{"replace table ip tandem-lab", "another program owns a table of this name", "`nft list table ip tandem-lab`"}},
		{"fence", unix.NFPROTO_NETDEV, []string{"the fence of group lab"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := pair.on(t)
			master := lab.Alpha
			if s.status(lab.Bravo).Role == roleMaster {
				master = lab.Bravo
			}
			if tt.family == unix.NFPROTO_NETDEV && s.status(master).Lease.Protected {
				s.refusesToBeSeized(master)
				return
			}
			// Until the role has moved, the MASTER's own stack answers what comes
			// from outside, with a reset.
			*s.forgiven = 35
			calm := s.traffic(switchSilence)
			owner := s.seizeTable(master, tt.family, "tandem-lab")
			s.becomes(other(master), roleMaster)
			s.becomes(master, roleBackup)
			s.complains(master, append(tt.words, "so this node gives up mastership")...)
			s.said(master, append(tt.words, "level=ERROR", "the kernel is not in the intended state")...)
			s.flowsOn()
			calm()
			if tt.family == unix.NFPROTO_NETDEV && (s.isUp(master, "vmac10") || s.isUp(master, "vmac20")) {
				t.Error("a virtual link is up without a fence")
			}

			unmoved, calm := s.unmoved(), s.traffic(calmSilence)
			s.must(owner.Close())
			s.healthyAgain(master)
			s.ready()
			s.flowsOn()
			unmoved()
			calm()
			if n := strings.Count(s.log(master), "the kernel is not in the intended state"); n > 6 {
				t.Errorf("the log says it %d times", n)
			}
		})
	}
}

func (s *stand) isUp(namespace, link string) bool {
	s.t.Helper()
	up := false
	s.change(namespace, func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err == nil {
			up = l.Attrs().Flags&net.FlagUp != 0
		}
		return err
	})
	return up
}

// TestReadOnlySysctls runs a node as an unprivileged container would.
func TestReadOnlySysctls(t *testing.T) {
	s := newStand(t)
	s.startAlpha()
	i := s.usual(lab.Bravo)
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	s.must(err)
	i.wrapper = []string{self, readOnlySysctls}
	p := s.launch(i)
	s.answers(lab.Bravo)
	s.complains(lab.Bravo, "the kernel is not in the intended state", "net/ipv4/ip_forward", "/proc/sys is read-only here", "--privileged")
	s.becomes(lab.Bravo, roleBackup)
	if role := s.status(lab.Alpha).Role; role != roleMaster {
		t.Errorf("alpha is %s", role)
	}
	if p := s.status(lab.Bravo).Priority; p >= 100 {
		t.Errorf("bravo has priority %d", p)
	}
	s.ends(p)
	if left := s.ours(lab.Bravo); len(left) > 0 {
		t.Errorf("bravo left %q", left)
	}
}

// ours lists what is Tandem's in a kernel.
func (s *stand) ours(namespace string) []string {
	s.t.Helper()
	return slices.DeleteFunc(s.kernelOf(namespace), func(line string) bool {
		return !strings.Contains(line, "tandem") && !strings.Contains(line, "vmac")
	})
}
