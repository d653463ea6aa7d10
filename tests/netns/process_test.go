package netns

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/status"
)

// TestNodeProcess kills and suspends one process of a node at a time: the role
// hangs on the elector alone, and the elector's death costs no session.
func TestNodeProcess(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(lightLoad())
	for _, c := range []struct {
		name string
		run  func(s *stand, flows *load)
	}{
		{"the node of the MASTER is killed", func(s *stand, flows *load) {
			master, _ := s.roles()
			s.loseNode(flows, master)
		}},
		{"the node of the BACKUP is killed", func(s *stand, flows *load) {
			_, backup := s.roles()
			s.loseNode(flows, backup)
		}},
		{"the node of the MASTER is suspended", (*stand).suspendNode},
		{"the elector of the BACKUP is killed", (*stand).loseBackupElector},
		{"the elector of the BACKUP is suspended", (*stand).suspendBackupElector},
		{"the elector of the MASTER is killed", (*stand).loseMasterElector},
		{"the node of the MASTER hangs", (*stand).hangMaster},
		{"the node of the MASTER stays away", (*stand).abandonMaster},
	} {
		passed := t.Run(c.name, func(t *testing.T) {
			on := s.on(t)
			c.run(on, flows.on(on))
		})
		if !passed {
			return // what follows would fail for the same reason
		}
	}
}

// both is what both nodes say.
func (s *stand) both() map[string]status.Status {
	s.t.Helper()
	all := make(map[string]status.Status)
	for _, node := range nodes() {
		all[node] = s.status(node)
	}
	return all
}

// unchanged fails the test if a node has changed its role or has another elector.
func (s *stand) unchanged(before map[string]status.Status) {
	s.t.Helper()
	for _, node := range nodes() {
		s.same(node, before[node])
		if pid := s.electorPID(node); pid != before[node].Elector.PID {
			s.t.Errorf("%s has the elector %d, before %d", node, pid, before[node].Elector.PID)
		}
	}
}

// loseNode kills a node process and starts it again: nobody notices.
func (s *stand) loseNode(flows *load, victim string) {
	before := s.both()
	flows.mark()
	s.killNode(victim)
	s.pass(aWhile)
	s.same(other(victim), before[other(victim)])
	s.restart(victim)
	s.ready()
	s.unchanged(before)
	flows.undisturbed()
}

// suspendNode stops the MASTER's node process for longer than its peer waits for
// the replication stream.
func (s *stand) suspendNode(flows *load) {
	master, backup := s.roles()
	before := s.both()
	pid := s.nodePID(master)
	flows.mark()
	s.signal(pid, unix.SIGSTOP)
	s.pass(3 * time.Second)
	s.same(backup, before[backup])
	s.signal(pid, unix.SIGCONT)
	s.ready()
	s.unchanged(before)
	flows.undisturbed()
}

func (s *stand) loseBackupElector(flows *load) {
	master, backup := s.roles()
	before := s.both()
	flows.mark()
	s.killElector(backup)
	s.ready()
	s.same(master, before[master])
	flows.undisturbed()
}

// suspendBackupElector: an elector that hangs is ended by its node and replaced.
func (s *stand) suspendBackupElector(flows *load) {
	master, backup := s.roles()
	before := s.both()
	flows.mark()
	old := s.electorPID(backup)
	s.signal(old, unix.SIGSTOP)
	s.replaced(backup, old)
	s.ready()
	s.same(master, before[master])
	flows.undisturbed()
}

// hangMaster suspends the MASTER's node process for good: its elector leaves in order,
// and is there again when the node is.
func (s *stand) hangMaster(flows *load) {
	master, backup := s.roles()
	pid := s.nodePID(master)
	flows.mark()
	s.signal(pid, unix.SIGSTOP)
	s.becomes(backup, roleMaster)
	s.pass(aWhile)
	// Skew_Time is all that an orderly leave without a handover costs.
	flows.within(interval)
	s.signal(pid, unix.SIGCONT)
	s.ready()
	flows.report()
}

// loseMasterElector: whoever is MASTER afterwards, it is one of them, and the
// traffic waits no longer than for a takeover.
func (s *stand) loseMasterElector(flows *load) {
	master, backup := s.roles()
	priority := s.status(backup).Priority
	flows.mark()
	at := time.Now()
	s.killElector(master)
	s.ready()
	flows.resumes(at)
	flows.within(downInterval(priority) + takeoverTime)
}

// killElector waits until the node has another one.
func (s *stand) killElector(node string) {
	s.t.Helper()
	old := s.electorPID(node)
	s.signal(old, unix.SIGKILL)
	s.replaced(node, old)
}

// replaced waits until a node has another elector than the old one.
func (s *stand) replaced(node string, old int) {
	s.t.Helper()
	s.eventually(node+" starts another elector", func(ctx context.Context) error {
		answer, err := s.Status(ctx, node)
		switch e := answer.Elector; {
		case err != nil:
			return err
		case !e.Alive:
			return errors.New("it has none")
		case e.PID == old:
			return fmt.Errorf("it has still %d", old)
		}
		return nil
	})
}

// abandonMaster kills the MASTER's node process for good: its elector keeps the
// role for a while and then leaves in order.
func (s *stand) abandonMaster(flows *load) {
	master, backup := s.roles()
	flows.mark()
	s.killNode(master)
	s.becomes(backup, roleMaster)
	s.pass(aWhile)
	// Skew_Time is all that an orderly leave without a handover costs.
	flows.within(interval)
	s.restart(master)
	s.ready()
	flows.report()
}
