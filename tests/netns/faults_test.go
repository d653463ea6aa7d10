package netns

import (
	"context"
	"fmt"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/vrrp"
)

// TestFaults breaks the pair in every way there is, each way twice in a row, so
// that it hits both nodes and the second one takes the role back. Nothing may be
// lost, and whatever happens, one node at a time speaks for the virtual router.
func TestFaults(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(lightLoad())
	for _, fault := range lab.Faults() {
		for round := range 2 {
			passed := t.Run(fmt.Sprintf("%v/%d", fault, round+1), func(t *testing.T) {
				on := s.on(t)
				on.endure(fault, flows.on(on))
			})
			if !passed {
				return // what follows would fail for the same reason
			}
		}
	}
}

// endure breaks the MASTER and heals it.
func (s *stand) endure(fault lab.Fault, flows *load) {
	s.t.Helper()
	master, backup := s.roles()
	if fault == lab.Handover {
		// It is refused while the other node recovers from the fault before.
		s.healthy(backup)
	}
	before := s.status(backup)
	stays := s.status(master)
	expect := backup
	if fault == lab.HALink {
		expect = master
	}
	seen := s.watchAt(lab.TrunkName, nodes()...)
	seen.sees(s, master)
	flows.mark()
	at := s.inject(fault, master)
	s.becomes(expect, roleMaster)
	if fault == lab.HALink {
		s.parted()
	}
	flows.resumes(at)
	if fault != lab.HALink && fault != lab.Handover { // the others shall last a while
		s.pass(aWhile)
	}
	flows.within(faultSilence(fault, before.Priority))
	broken := s.status(expect)

	flows.mark()
	s.heal(fault, master)
	s.ready()
	flows.undisturbed()
	healed := s.status(expect)
	if healed.Role != roleMaster || healed.Term != broken.Term || healed.Transitions != broken.Transitions {
		s.t.Errorf("%s was %s of term %d after %d transitions; after the healing it is %s of term %d after %d",
			expect, broken.Role, broken.Term, broken.Transitions, healed.Role, healed.Term, healed.Transitions)
	}
	if fault == lab.HALink {
		if healed.Term != stays.Term || healed.Transitions != stays.Transitions {
			s.t.Errorf("the cut HA link moved the role: term %d after %d transitions, before %d after %d",
				healed.Term, healed.Transitions, stays.Term, stays.Transitions)
		}
	} else if term := max(before.Term, stays.Term); healed.Term != term+1 || healed.Transitions != before.Transitions+1 {
		s.t.Errorf("%s: term %d after %d transitions, want one more than term %d after %d",
			expect, healed.Term, healed.Transitions, term, before.Transitions)
	}
	checkOneSpeaker(s.t, fault, seen.end(), master, backup)
}

// healthy waits until a node has recovered from whatever it had.
func (s *stand) healthy(node string) {
	s.t.Helper()
	s.eventually(node+" is healthy", func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		if err == nil && answer.Priority < vrrp.HealthyPriority {
			err = fmt.Errorf("its priority is %d", answer.Priority)
		}
		return err
	})
}

// parted waits until both nodes have noticed that the HA link is cut.
func (s *stand) parted() {
	s.t.Helper()
	s.eventually("the nodes notice the cut HA link", func(ctx context.Context) error {
		for _, node := range nodes() {
			if answer, err := s.Status(ctx, node); err != nil || answer.Sync.Connected {
				return fmt.Errorf("%s is still connected (%w)", node, err)
			}
		}
		return nil
	})
}

// faultSilence is the longest silence that follows from the configuration.
func faultSilence(fault lab.Fault, backupPriority uint8) time.Duration {
	switch fault {
	case lab.Poweroff, lab.Crash, lab.Hang:
		return downInterval(backupPriority) + takeoverTime
	case lab.LAN, lab.WAN, lab.HALink, lab.Handover:
	}
	return handoverSilence
}

// overlapOf is for how long both nodes may speak: not at all, unless the role is
// handed over by one that lives to one that lives.
func overlapOf(fault lab.Fault) time.Duration {
	switch fault {
	case lab.LAN, lab.WAN, lab.Handover:
		return overlapLimit
	case lab.Poweroff, lab.Crash, lab.Hang, lab.HALink:
	}
	return 0
}

func checkOneSpeaker(t *testing.T, fault lab.Fault, seen sightings, from, to string) {
	t.Helper()
	for _, network := range []string{"lan", "wan"} {
		old, young := seen[port{network, from}], seen[port{network, to}]
		if len(old) == 0 {
			t.Errorf("%s, the MASTER before the fault, was not seen on %s", from, network)
		}
		if fault == lab.HALink {
			if len(young) > 0 {
				t.Errorf("%s, which stayed BACKUP, sent %d frames with a virtual MAC address on %s", to, len(young), network)
			}
			continue
		}
		if len(young) == 0 {
			t.Errorf("%s, the MASTER after the fault, was not seen on %s", to, network)
		}
		both, limit := seen.overlap(network, from, to), overlapOf(fault)
		if both > limit {
			t.Errorf("both nodes spoke on %s for %v, want at most %v", network, both, limit)
		}
		t.Logf("overlap on %s: %v", network, both)
	}
}
