package conntracksync

import "testing"

func TestHoldSurvivesRemovals(t *testing.T) {
	h := newHold()
	for i := range uint64(5000) {
		h.add(i, epoch)
	}
	for i := range uint64(5000) {
		if i%7 != 0 {
			h.remove(i)
		}
	}
	for i := uint64(0); i < 5000; i += 7 {
		o := h.oldest()
		if o == nil || o.hash != i || h.get(i) != o {
			t.Fatalf("at %d: %+v", i, o)
		}
		h.remove(i)
		h.add(i+10_000, epoch)
		h.remove(i + 10_000)
	}
	if h.len() != 0 || h.oldest() != nil || h.span() != 0 {
		t.Errorf("left: %d, span %d", h.len(), h.span())
	}
}
