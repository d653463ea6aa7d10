package conntracksync

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSenderExpectations(t *testing.T) {
	for _, features := range []uint64{Features, FeatureDigests} {
		s := newMaster(SenderConfig{})
		h := hello2()
		h.Features = features
		s.Connected(epoch, hello2(), h)
		s.Event(epoch, &Event{Kind: EventExpect, Expect: expectation()})
		s.Event(epoch, &Event{Kind: EventExpectGone, Expect: expectation()})
		want := []Record{{Kind: RecordExpect, Expect: expectation()}, {Kind: RecordExpectGone, Expect: expectation()}}
		if features&FeatureExpectations == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, records(s, epoch), compareFrames); diff != "" {
			t.Error(diff)
		}
	}
}

// TestSenderMastersGoFirst: an assured child, and an expectation, do not overtake
// their master in the hold.
func TestSenderMastersGoFirst(t *testing.T) {
	s := newMaster(SenderConfig{})
	master := unassured(natFlow(20))
	child := natFlow(21)
	child.Extra = &Extra{Master: master.Key, HasMaster: true}
	s.feed(epoch, EventNew, master, child)
	s.feed(epoch, EventNew, unassured(natFlow(30)))
	s.Event(epoch, &Event{Kind: EventExpect, Expect: expectation()})
	want := []Record{
		{Kind: RecordNew, Flow: master},
		{Kind: RecordNew, Flow: child},
		{Kind: RecordNew, Flow: unassured(natFlow(30))},
		{Kind: RecordExpect, Expect: expectation()},
	}
	if diff := cmp.Diff(want, records(s, epoch), compareFrames); diff != "" {
		t.Error(diff)
	}
}
