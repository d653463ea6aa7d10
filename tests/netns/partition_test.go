package netns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// direction is a way through a node's port of a switch.
type direction string

const (
	fromNode direction = "ingress"
	toNode   direction = "egress"
)

// silence lets the switches drop everything on ports of nodes in some directions, while
// the links stay up, until the function that it returns is called.
type silence map[string][]direction

func (s *stand) impose(what silence) (lift func()) {
	s.t.Helper()
	const table = "netdev silence"
	rules := "table " + table + " {\n"
	for port, directions := range what {
		for _, d := range directions {
			rules += fmt.Sprintf("chain %s-%s { type filter hook %s device %q priority 0; policy drop; }\n", port, d, d, port)
		}
	}
	s.nft(lab.Fabric, "%s}\n", rules)
	return func() { s.nft(lab.Fabric, "delete table %s\n", table) }
}

// named waits until a node's status names exactly these conditions.
func (s *stand) named(node string, want ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s names %v", node, want), func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		var names []string
		for _, c := range answer.Conditions {
			if !strings.HasPrefix(c.Name, "uplink-") && c.Name != status.NetworkWithoutUplink { // what lies beyond the members
				names = append(names, c.Name)
			}
		}
		slices.Sort(names)
		if err == nil && !slices.Equal(names, want) {
			err = fmt.Errorf("it names %v", answer.Conditions)
		}
		return err
	})
}

// cut is a way to part the members of which each has an outcome.
type cut struct {
	name string
	// what is silenced, given the MASTER and the BACKUP.
	what func(master, backup string) silence
	// onMaster and onBackup are the conditions that the statuses name, sorted.
	onMaster, onBackup []string
	// moves tells that the BACKUP becomes MASTER, and both that the other one stays it.
	moves, both bool
}

func cuts() []cut {
	everywhere := []direction{fromNode, toNode}
	port := lab.PortName
	return []cut{
		{
			name:     "the HA link is silent",
			what:     func(_, b string) silence { return silence{port("ha", b): everywhere} },
			onMaster: []string{status.PeerSilent}, onBackup: []string{status.CarrierSilent, status.HALinkSilent, status.ReplicationBroken},
		},
		{
			name:     "the HA link carries nothing to the BACKUP",
			what:     func(_, b string) silence { return silence{port("ha", b): {toNode}} },
			onMaster: []string{status.CarrierSilent, status.ReplicationBroken}, onBackup: []string{status.CarrierSilent, status.HALinkSilent, status.ReplicationBroken},
		},
		{
			name:     "the HA link carries nothing to the MASTER",
			what:     func(_, b string) silence { return silence{port("ha", b): {fromNode}} },
			onMaster: []string{status.PeerSilent}, onBackup: []string{status.ReplicationBroken},
		},
		{
			name:     "the LAN is cut between the members",
			what:     func(_, b string) silence { return silence{port("lan", b): everywhere} },
			onMaster: []string{status.CarrierSilent}, onBackup: []string{status.CarrierSilent},
		},
		{
			name:     "the LAN carries nothing to the BACKUP",
			what:     func(_, b string) silence { return silence{port("lan", b): {toNode}} },
			onMaster: []string{status.CarrierSilent}, onBackup: []string{status.CarrierSilent},
		},
		{
			name: "all but the WAN is cut",
			what: func(_, b string) silence {
				return silence{port("lan", b): everywhere, port("ha", b): everywhere}
			},
			onMaster: []string{status.PeerSilent},
			onBackup: []string{status.CarrierSilent, status.HALinkSilent, status.Partitioned, status.ReplicationBroken},
		},
		{
			name: "all but the HA link is cut",
			what: func(_, b string) silence {
				return silence{port("lan", b): everywhere, port("wan", b): everywhere}
			},
			onMaster: []string{status.CarrierSilent, status.Partitioned},
			onBackup: []string{status.CarrierSilent, status.Partitioned},
		},
		{
			name: "the MASTER is mute",
			what: func(m, _ string) silence {
				return silence{port("lan", m): {fromNode}, port("wan", m): {fromNode}, port("ha", m): {fromNode}}
			},
			moves: true, onBackup: []string{status.PeerSilent},
		},
		{
			name: "everything is cut",
			what: func(_, b string) silence {
				return silence{port("lan", b): everywhere, port("wan", b): everywhere, port("ha", b): everywhere}
			},
			moves: true, both: true,
			onMaster: []string{status.PeerSilent}, onBackup: []string{status.PeerSilent},
		},
	}
}

// TestPartitions silences links without taking their carrier: each way to part the
// members has one outcome, the status names it, and it heals without a lost session.
func TestPartitions(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(lightLoad())
	for _, c := range cuts() {
		passed := t.Run(c.name, func(t *testing.T) {
			on := s.on(t)
			on.part(c, flows.on(on))
		})
		if !passed {
			return // what follows would fail for the same reason
		}
	}
}

func (s *stand) part(c cut, flows *load) {
	s.t.Helper()
	master, backup := s.roles()
	before := s.both()
	flows.mark()
	lift := s.impose(c.what(master, backup))
	lifted := false
	defer func() {
		if !lifted {
			lift()
		}
	}()
	switch {
	case c.both:
		s.becomes(backup, roleMaster)
	case c.moves:
		s.becomes(backup, roleMaster)
		s.becomes(master, roleBackup)
	}
	s.named(backup, c.onBackup...)
	if c.onMaster != nil {
		s.named(master, c.onMaster...)
	}
	if !c.moves {
		s.same(master, before[master])
		s.same(backup, before[backup])
		flows.undisturbed()
	}
	lifted = true
	lift()
	s.ready()
	s.named(master)
	s.named(backup)
	flows.report()
	if !c.moves {
		s.same(master, before[master])
		s.same(backup, before[backup])
	}
}

// TestRebootBehindClosedPorts restarts the member of higher priority behind switch ports
// that do not forward yet, as spanning trees have them: it must believe to be alone, and
// when they open, the one in office stays, for there is no preemption.
func TestRebootBehindClosedPorts(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(lightLoad())
	if master, _ := s.roles(); master != lab.Alpha { // alpha has the higher priority
		s.inject(lab.Handover, master)
		s.becomes(lab.Alpha, roleMaster)
		s.ready()
	}
	s.inject(lab.Poweroff, lab.Alpha)
	s.becomes(lab.Bravo, roleMaster)
	before := s.status(lab.Bravo)
	both := []direction{fromNode, toNode}
	lift := s.impose(silence{lab.TrunkName("lan", lab.Alpha): both, lab.TrunkName("wan", lab.Alpha): both, lab.PortName("ha", lab.Bravo): both})
	s.heal(lab.Poweroff, lab.Alpha)
	s.becomes(lab.Alpha, roleMaster)
	s.pass(aWhile)
	flows.mark()
	lift()
	s.becomes(lab.Alpha, roleBackup)
	s.ready()
	s.same(lab.Bravo, before)
	flows.undisturbed()
}
