package netns

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/status"
	"tandem/vrrp"
)

// slowInterval makes the down interval of RFC 9568, which is more than three of them, much
// longer than what heartbeats need to tell of a death.
const slowInterval = time.Second

// beatTime is after how long a BACKUP that hears heartbeats is MASTER when they end.
func beatTime(interval time.Duration) time.Duration {
	beat := vrrp.BeatFor(interval)
	return vrrp.BeatLease(beat) + beat
}

// silentLink waits until both nodes name an HA link as the silent one, and nothing that
// would be felt.
func (s *stand) silentLink(link string) {
	s.t.Helper()
	s.eventually("both nodes name "+link+" as silent", func(ctx context.Context) error {
		for _, node := range nodes() {
			answer, err := s.Status(ctx, node)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(answer.Conditions, func(c status.Condition) bool { return c.Name == status.HALinkSilent })
			if at < 0 || !slices.Equal(answer.Conditions[at].Carriers, []string{link}) {
				return fmt.Errorf("%s names %+v", node, answer.Conditions)
			}
			if p := answer.Peer; !p.Alive || !p.Ready && answer.Role == roleMaster || status.Felt(answer) != "" {
				return fmt.Errorf("%s: peer %+v, felt %q", node, *p, status.Felt(answer))
			}
		}
		return nil
	})
}

// TestFailoverByTheSecondHALink cuts the first HA link for good. By the second the role is
// handed over, and a MASTER without power or processes is replaced as soon as with both.
func TestFailoverByTheSecondHALink(t *testing.T) {
	s := newPairOf(t, lab.Options{SecondHALink: true, Interval: slowInterval})
	flows := s.traffic(lightLoad())
	before := s.both()
	master, backup := s.roles()
	flows.mark()
	s.inject(lab.HALink, master)
	s.streams("ha2")
	s.silentLink("ha")
	for _, node := range nodes() {
		s.same(node, before[node])
	}
	flows.undisturbed()

	s.healthy(backup)
	flows.mark()
	at := s.inject(lab.Handover, master)
	s.becomes(backup, roleMaster)
	s.becomes(master, roleBackup)
	flows.resumes(at)
	flows.undisturbed()

	for _, fault := range []lab.Fault{lab.Poweroff, lab.Crash} {
		s.streams("ha2")
		master, backup := s.roles()
		s.healthy(backup)
		flows.mark()
		at := s.inject(fault, master)
		s.becomes(backup, roleMaster)
		took := s.status(backup).Since.Sub(at)
		t.Logf("%v: the other node is MASTER after %v", fault, took)
		if limit := beatTime(slowInterval) + 2*schedulingRoom; took < 0 || took > limit {
			t.Errorf("%v: the other node is MASTER after %v, want at most %v", fault, took, limit)
		}
		flows.resumes(at)
		flows.within(beatTime(slowInterval) + takeoverTime)
		s.heal(fault, master)
		s.becomes(master, roleBackup)
	}
	s.streams("ha2")
	s.heal(lab.HALink, master)
	s.streams("ha")
	s.ready()
	flows.report()
}

// TestSecondHALinkAlone breaks the second HA link, which the stream does not take, and then
// both: the role stays.
func TestSecondHALinkAlone(t *testing.T) {
	s := newPairOf(t, lab.Options{SecondHALink: true})
	s.streams("ha")
	flows := s.traffic(lightLoad())
	_, backup := s.roles()
	before := s.both()
	everywhere := []direction{fromNode, toNode}
	port := lab.PortName

	flows.mark()
	lift := s.impose(silence{port("ha2", backup): everywhere})
	s.silentLink("ha2")
	s.streams("ha")
	lift()
	s.ready()
	for _, node := range nodes() {
		s.named(node)
	}

	s.must(s.Unplug("ha2", backup))
	s.silentLink("ha2")
	ctx, cancel := s.context()
	defer cancel()
	s.must(s.Plug(ctx, "ha2", backup))
	s.ready()

	lift = s.impose(silence{port("ha", backup): everywhere, port("ha2", backup): everywhere})
	s.named(backup, status.CarrierSilent, status.HALinkSilent, status.ReplicationBroken)
	s.pass(aWhile)
	lift()
	s.ready()
	for _, node := range nodes() {
		s.named(node)
		s.same(node, before[node])
	}
	flows.undisturbed()
}
