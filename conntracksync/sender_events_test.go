package conntracksync

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEventsAreTakenInOrder has several flows begin, change and end within one call, and
// compares with one call for each event.
func TestEventsAreTakenInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	single, batch := newMaster(SenderConfig{}), newMaster(SenderConfig{})
	now := epoch
	for range 50 {
		now = now.Add(time.Duration(rng.IntN(4)) * time.Millisecond)
		events := make([]Event, rng.IntN(3*warmFlows))
		for i := range events {
			events[i] = randomEvent(rng)
		}
		for i := range events {
			single.Event(now, &events[i])
		}
		batch.Events(now, events)
		if diff := cmp.Diff(drain(single, now), drain(batch, now), compareFrames); diff != "" {
			t.Fatalf("one by one to all at once:\n%s", diff)
		}
		if single.Stats() != batch.Stats() || single.ix.Digest() != batch.ix.Digest() {
			t.Fatalf("one by one: %+v %+v, all at once: %+v %+v", single.Stats(), single.ix.Digest(), batch.Stats(), batch.ix.Digest())
		}
	}
	if s := batch.Stats(); s.Coalesced == 0 || s.Unsent == 0 || s.Records == 0 || s.Skipped[SkipInvalid] == 0 {
		t.Errorf("not everything happened: %+v", s)
	}
}

func randomEvent(rng *rand.Rand) Event {
	f := udpFlow(uint16(1 + rng.IntN(100)))
	e := Event{Kind: EventKind(1 + rng.IntN(3)), Flow: f}
	switch rng.IntN(10) {
	case 0:
		e.Flow.Reply.Source = addr("2001:db8::1") // no kernel says so
	case 1:
		e.Flow.Status |= StatusSeenReply | StatusAssured
	case 2:
		e = Event{Kind: EventExpect, Expect: &Expectation{Master: f.Key, Key: f.Key, Mask: f.Original}}
	}
	return e
}
