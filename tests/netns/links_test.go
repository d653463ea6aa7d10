package netns

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

const (
	// silenceTime is after what a silent stream counts as broken, and callTime what the
	// call by the other link takes.
	silenceTime = 800 * time.Millisecond
	callTime    = 500 * time.Millisecond
)

// streams waits until both nodes have equal tables by a link.
func (s *stand) streams(link string) {
	s.t.Helper()
	s.eventually("the stream is complete by "+link, func(ctx context.Context) error {
		for _, node := range nodes() {
			answer, err := s.Status(ctx, node)
			if err != nil {
				return err
			}
			if y := answer.Sync; !y.Connected || !y.Complete || y.Link != link {
				return fmt.Errorf("%s: connected %v by %q, complete %v, %s", node, y.Connected, y.Link, y.Complete, y.Error)
			}
		}
		return nil
	})
}

// by tells that an event is of a stream that came up by a link.
func by(link string) func(heard) bool {
	return func(e heard) bool {
		return e.Kind == status.EventReplicationRestored && (e.Reason == "by "+link || len(e.Reason) > 0 && e.Reason[:min(len(e.Reason), len(link)+4)] == "by "+link+" ")
	}
}

// TestSecondHALink breaks the HA links one after the other under load.
func TestSecondHALink(t *testing.T) {
	s := newPairOf(t, lab.Options{SecondHALink: true})
	s.streams("ha")
	flows := s.traffic(lightLoad())
	master, backup := s.roles()
	before := s.both()
	subs := map[string]*subscriber{}
	for _, node := range nodes() {
		subs[node] = s.follow(node)
	}
	everywhere := []direction{fromNode, toNode}
	port := lab.PortName

	// Silent, with its carrier up: only the missing answers tell.
	flows.mark()
	at := time.Now()
	lift := s.impose(silence{port("ha", backup): everywhere})
	s.movesTo("ha2", at, subs, silenceTime+callTime)
	s.streams("ha2")
	s.named(backup, status.CarrierSilent, status.HALinkSilent)
	// The MASTER hears neither heartbeats nor adverts, but the stream.
	s.eventually("the MASTER knows that its peer lives", func(ctx context.Context) error {
		answer, err := s.Status(ctx, master)
		if err == nil && (!status.HasCondition(answer.Conditions, status.HALinkSilent) || status.HasCondition(answer.Conditions, status.PeerSilent) ||
			!answer.Peer.Alive || !answer.Peer.Ready || status.Felt(answer) != "") {
			err = fmt.Errorf("peer %+v, conditions %+v, felt %q", *answer.Peer, answer.Conditions, status.Felt(answer))
		}
		return err
	})
	more := s.traffic(calmLoad(50)) // begins while the first link is silent
	s.streams("ha2")
	lift()
	s.streams("ha") // returns by itself
	s.ready()
	s.named(backup)

	// A cut cable, which both nodes see.
	at = s.inject(lab.HALink, master)
	s.movesTo("ha2", at, subs, callTime)
	s.streams("ha2")
	flows.undisturbed()

	// Both.
	at = time.Now()
	lift = s.impose(silence{port("ha2", backup): everywhere})
	e := subs[backup].await("the alarm", at, begins(status.ReplicationBroken))
	t.Logf("the BACKUP's alarm came %v after the last link was cut", e.at.Sub(at).Round(time.Millisecond))
	if took := e.at.Sub(at); took > alarmTime+schedulingRoom {
		t.Errorf("the alarm took %v, want at most %v and %v room", took, alarmTime, schedulingRoom)
	}
	e = subs[master].await("the end of the stream", at, ofKind(status.EventReplicationBroken))
	if took := e.at.Sub(at); took > alarmTime+schedulingRoom {
		t.Errorf("the MASTER's event took %v, want at most %v and %v room", took, alarmTime, schedulingRoom)
	}
	subs[master].await("the alarm", at, func(e heard) bool { return begins(status.PeerSilent)(e) || begins(status.ReplicationBroken)(e) })
	if felt := status.Felt(s.status(backup)); felt == "" {
		t.Error("the status says that a failover would not be felt")
	}
	lift()
	s.streams("ha2")
	s.heal(lab.HALink, master)
	s.streams("ha")
	s.ready()
	for _, node := range nodes() {
		s.same(node, before[node])
	}
	flows.undisturbed()

	// What the tables say the packets must say too.
	at = s.inject(lab.Crash, master)
	s.becomes(backup, roleMaster)
	flows.resumes(at)
	more.resumes(at)
	more.report()
}

// movesTo waits until both nodes tell of the stream by another link, and compares the
// time with what it may take.
func (s *stand) movesTo(link string, at time.Time, subs map[string]*subscriber, bound time.Duration) {
	s.t.Helper()
	names := nodes()
	slices.Sort(names)
	for _, node := range names {
		e := subs[node].await("the stream by "+link, at, by(link))
		took := e.at.Sub(at)
		s.t.Logf("%s: the stream took %s %v after the other link broke", node, link, took.Round(time.Millisecond))
		if limit := bound + 2*schedulingRoom; took > limit {
			s.t.Errorf("%s: it took %v, want at most %v", node, took, limit)
		}
	}
}

// TestDoctorOfTwoHALinks lets the doctor look at a running pair with two HA links: it
// examines the second like the first and finds no fault.
func TestDoctorOfTwoHALinks(t *testing.T) {
	s := newPairOf(t, lab.Options{SecondHALink: true})
	for _, d := range s.doctors() {
		d.troubles()
		seen := false
		for _, f := range d.Findings {
			seen = seen || f.Where == "ha2"
		}
		if !seen {
			t.Errorf("%s says nothing about the second link", d.Node)
		}
	}
}
