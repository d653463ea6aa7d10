package hold_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"tandem/conntracksync/hold"
)

var start = time.Unix(1000, 0)

func after(d time.Duration) time.Time { return start.Add(d) }

// expect checks that up to last may leave, or nothing if last is 0.
func expect(t *testing.T, h *hold.Hold, now time.Time, last uint32) {
	t.Helper()
	got, ok := h.Due(now)
	if ok != (last != 0) || ok && got != last {
		t.Fatalf("Due = %d, %t; want %d", got, ok, last)
	}
}

func connected(cfg hold.Config) *hold.Hold {
	h := hold.New(cfg)
	h.Connected()
	return h
}

func TestWithoutBackupNothingWaits(t *testing.T) {
	h := hold.New(hold.Config{})
	h.Packet(start, 7)
	expect(t, h, start, 7)
	expect(t, h, start, 0)
	if !h.Deadline().IsZero() {
		t.Error("a deadline without a packet")
	}
	if s := h.Stats(); s != (hold.Stats{Unprotected: 1}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestPacketLeavesWithTheAcknowledgement(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start, 1)
	h.Packet(start, 2)
	h.Acknowledged(after(1), 100)
	expect(t, h, after(1), 0) // whatever is acknowledged: the events were not read
	h.Read(after(2), 101)
	h.Packet(after(3), 3)
	h.Read(after(3), 105)
	expect(t, h, after(3), 0)
	h.Acknowledged(after(4), 101)
	expect(t, h, after(4), 2)
	h.Acknowledged(after(5), 99) // an old one changes nothing
	expect(t, h, after(5), 0)
	h.Acknowledged(after(6), 200)
	expect(t, h, after(6), 3)
	want := hold.Stats{Held: 3, Acknowledged: 3, Waited: 4 + 4 + 3, Longest: 4}
	if s := h.Stats(); s != want {
		t.Errorf("stats: %+v, want %+v", s, want)
	}
}

func TestPacketOfAcknowledgedEventsLeavesAtOnce(t *testing.T) {
	h := connected(hold.Config{})
	h.Acknowledged(start, 50)
	h.Packet(start, 1)
	expect(t, h, start, 0)
	h.Read(start, 50)
	expect(t, h, start, 1)
}

func TestTimeIsUp(t *testing.T) {
	h := connected(hold.Config{Time: 20 * time.Millisecond})
	h.Packet(start, 1)
	h.Packet(after(5*time.Millisecond), 2)
	h.Read(after(5*time.Millisecond), 9)
	if d := h.Deadline(); !d.Equal(after(20 * time.Millisecond)) {
		t.Errorf("deadline %v", d)
	}
	expect(t, h, after(20*time.Millisecond-1), 0)
	expect(t, h, after(20*time.Millisecond), 1)
	expect(t, h, after(25*time.Millisecond), 2)
	if s := h.Stats(); s != (hold.Stats{Held: 2, Expired: 2}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestTooManyDisplaceTheOldest(t *testing.T) {
	h := connected(hold.Config{Length: 2})
	for id := range uint32(5) {
		h.Packet(start, id+1)
	}
	expect(t, h, start, 3)
	h.Read(start, 1)
	h.Acknowledged(start, 1)
	expect(t, h, start, 5)
	if s := h.Stats(); s != (hold.Stats{Held: 5, Displaced: 3, Acknowledged: 2}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestLostEventsAreNotTakenForAcknowledged(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start, 1)
	h.Lost()
	h.Packet(start, 2)
	h.Read(start, 4)
	h.Acknowledged(start, 4)
	expect(t, h, start, 0)
	expect(t, h, after(hold.DefaultTime), 2)
	if s := h.Stats(); s.Expired != 2 {
		t.Errorf("stats: %+v", s)
	}
}

func TestEndOfTheStreamLetsAllLeave(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start, 1)
	h.Read(start, 4)
	h.Packet(start, 2)
	h.Disconnected()
	expect(t, h, start, 2)
	h.Connected()
	h.Packet(start, 3)
	h.Read(start, 1)
	h.Acknowledged(start, 0)
	expect(t, h, start, 0) // what the old stream acknowledged counts no more
	h.Acknowledged(start, 1)
	expect(t, h, start, 3)
	if s := h.Stats(); s != (hold.Stats{Held: 3, Acknowledged: 1, Abandoned: 2}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestNumbersOfPacketsWrap(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start, ^uint32(0))
	h.Packet(start, 0)
	h.Read(start, 1)
	h.Acknowledged(start, 1)
	if last, ok := h.Due(start); !ok || last != 0 {
		t.Errorf("Due = %d, %t", last, ok)
	}
}

// TestAnyOrderOfCalls checks against a slow model: a packet never leaves before its
// events are read and acknowledged, unless time or length say so; none is forgotten.
func TestAnyOrderOfCalls(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		cfg := hold.Config{Time: 20, Length: 1 + random.IntN(6)}
		h := connected(cfg)
		type waiting struct {
			id       uint32
			at       int
			position uint64
			known    bool
		}
		var model []waiting
		var next uint32
		var position, acked uint64
		for now := range 400 {
			at := after(time.Duration(now))
			position += random.Uint64N(2)
			switch random.IntN(4) {
			case 0:
				next++
				h.Packet(at, next)
				model = append(model, waiting{id: next, at: now})
			case 1:
				h.Read(at, position)
				for i := range model {
					if !model[i].known {
						model[i].position, model[i].known = position, true
					}
				}
			case 2:
				acked += random.Uint64N(position - acked + 1)
				h.Acknowledged(at, acked)
			}
			var want uint32
			for len(model) > 0 {
				first := model[0]
				if len(model) <= cfg.Length && now-first.at < 20 && (!first.known || first.position > acked) {
					break
				}
				want, model = first.id, model[1:]
			}
			expect(t, h, at, want)
		}
		s := h.Stats()
		if s.Waiting != len(model) || s.Held != uint64(s.Waiting)+s.Acknowledged+s.Expired+s.Displaced {
			t.Fatalf("seed %d: stats do not add up: %+v", seed, s)
		}
	}
}
