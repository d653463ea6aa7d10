package hold_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"tandem/conntracksync/hold"
)

// start is when every test begins.
func start() time.Time { return time.Unix(1000, 0) }

func after(d time.Duration) time.Time { return start().Add(d) }

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

// read says that everything so far was read.
func read(h *hold.Hold, now time.Time, position uint64) {
	mark, _ := h.Mark()
	h.Read(now, mark, position)
}

func TestWithoutBackupNothingWaits(t *testing.T) {
	h := hold.New(hold.Config{})
	h.Packet(start(), 7)
	expect(t, h, start(), 7)
	expect(t, h, start(), 0)
	if !h.Deadline().IsZero() {
		t.Error("a deadline without a packet")
	}
	if s := h.Stats(); s != (hold.Stats{Unprotected: 1}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestPacketLeavesWithTheAcknowledgement(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start(), 1)
	h.Packet(start(), 2)
	h.Acknowledged(after(1), 100)
	expect(t, h, after(1), 0) // whatever is acknowledged: the events were not read
	read(h, after(2), 101)
	h.Packet(after(3), 3)
	read(h, after(3), 105)
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
	h.Acknowledged(start(), 50)
	h.Packet(start(), 1)
	expect(t, h, start(), 0)
	read(h, start(), 50)
	expect(t, h, start(), 1)
}

func TestPacketThatCameWhileReadingWaitsForTheNextReading(t *testing.T) {
	h := connected(hold.Config{})
	if _, unread := h.Mark(); unread {
		t.Error("unread without a packet")
	}
	h.Packet(start(), 1)
	mark, unread := h.Mark()
	if !unread {
		t.Error("the packet counts as read")
	}
	h.Packet(start(), 2)
	h.Acknowledged(start(), 10)
	h.Read(start(), mark, 5)
	expect(t, h, start(), 1)
	h.Read(start(), mark, 6) // of packets that have left
	expect(t, h, start(), 0)
	read(h, start(), 7)
	expect(t, h, start(), 2)
	if _, unread := h.Mark(); unread {
		t.Error("unread after all was read")
	}
}

func TestTimeIsUp(t *testing.T) {
	h := connected(hold.Config{Time: 20 * time.Millisecond})
	h.Packet(start(), 1)
	h.Packet(after(5*time.Millisecond), 2)
	read(h, after(5*time.Millisecond), 9)
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
		h.Packet(start(), id+1)
	}
	expect(t, h, start(), 3)
	read(h, start(), 1)
	h.Acknowledged(start(), 1)
	expect(t, h, start(), 5)
	if s := h.Stats(); s != (hold.Stats{Held: 5, Displaced: 3, Acknowledged: 2}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestLostEventsAreNotTakenForAcknowledged(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start(), 1)
	h.Lost()
	h.Packet(start(), 2)
	read(h, start(), 4)
	h.Acknowledged(start(), 4)
	expect(t, h, start(), 0)
	expect(t, h, after(hold.DefaultTime), 2)
	if s := h.Stats(); s.Expired != 2 {
		t.Errorf("stats: %+v", s)
	}
}

func TestEndOfTheStreamLetsAllLeave(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start(), 1)
	read(h, start(), 4)
	h.Packet(start(), 2)
	h.Disconnected()
	expect(t, h, start(), 2)
	h.Connected()
	h.Packet(start(), 3)
	read(h, start(), 1)
	h.Acknowledged(start(), 0)
	expect(t, h, start(), 0) // what the old stream acknowledged counts no more
	h.Acknowledged(start(), 1)
	expect(t, h, start(), 3)
	if s := h.Stats(); s != (hold.Stats{Held: 3, Acknowledged: 1, Abandoned: 2}) {
		t.Errorf("stats: %+v", s)
	}
}

func TestNumbersOfPacketsWrap(t *testing.T) {
	h := connected(hold.Config{})
	h.Packet(start(), ^uint32(0))
	h.Packet(start(), 0)
	read(h, start(), 1)
	h.Acknowledged(start(), 1)
	if last, ok := h.Due(start()); !ok || last != 0 {
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
		var position, acked, mark uint64
		marked := 0 // how many of the model's packets are before mark
		for now := range 400 {
			at := after(time.Duration(now))
			position += random.Uint64N(2)
			switch random.IntN(5) {
			case 0:
				next++
				h.Packet(at, next)
				model = append(model, waiting{id: next, at: now})
			case 1:
				h.Read(at, mark, position)
				for i := range marked {
					if !model[i].known {
						model[i].position, model[i].known = position, true
					}
				}
			case 3:
				mark, _ = h.Mark()
				marked = len(model)
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
				want, model, marked = first.id, model[1:], max(marked-1, 0)
			}
			expect(t, h, at, want)
		}
		s := h.Stats()
		if s.Waiting != len(model) || s.Held != uint64(s.Waiting)+s.Acknowledged+s.Expired+s.Displaced {
			t.Fatalf("seed %d: stats do not add up: %+v", seed, s)
		}
	}
}
