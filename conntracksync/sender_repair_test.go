package conntracksync

import (
	"testing"
	"time"
)

// TestSenderRepairIsSoon: a peer that misses much waits neither for a pass that is for
// something else nor for the distance to the last one, however long that took.
func TestSenderRepairIsSoon(t *testing.T) {
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	s := newMaster(SenderConfig{})
	s.pass.trimAt = time.Time{}
	if !s.WantDump(at(30 * time.Second)) {
		t.Fatal("no regular pass")
	}
	s.DumpDone(at(50 * time.Second))
	s.Connected(at(51*time.Second), hello2(), hello2())
	if s.WantDump(at(52 * time.Second)) {
		t.Error("a pass before the peer could ask for a repair")
	}
	s.Receive(at(52*time.Second), &Frame{Type: FrameRepairRequest, Set: *allBuckets()})
	if !s.WantDump(at(52*time.Second)) || !s.pass.repairing {
		t.Fatal("the repair waits")
	}
	s.DumpDone(at(60 * time.Second))
	s.Receive(at(60*time.Second), &Frame{Type: FrameRepairRequest, Set: *allBuckets()})
	if s.WantDump(at(67*time.Second)) || !s.WantDump(at(68*time.Second)) {
		t.Error("the second of two repairs must keep twice the length of the first")
	}
}

// TestSenderLooksForWhatIsInNoDigest: a peer that has connected and misses nothing is
// looked after at once, one that says nothing a while later.
func TestSenderLooksForWhatIsInNoDigest(t *testing.T) {
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	for name, complete := range map[string]bool{"complete": true, "silent": false} {
		s := newMaster(SenderConfig{})
		s.pass.trimAt = time.Time{}
		if !s.WantDump(at(30 * time.Second)) {
			t.Fatal("no regular pass")
		}
		s.DumpDone(at(30 * time.Second))
		s.Connected(at(40*time.Second), hello2(), hello2())
		due := at(40*time.Second + askTime)
		if complete {
			due = at(41 * time.Second)
			s.Receive(due, &Frame{Type: FrameAck, Complete: true})
		}
		if s.WantDump(due.Add(-time.Millisecond)) || !s.WantDump(due) {
			t.Errorf("%s: not when it was due", name)
		}
	}
}
