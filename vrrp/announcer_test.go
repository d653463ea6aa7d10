package vrrp

import (
	"testing"
	"time"
)

// play runs an announcer by its deadlines until a time and returns when each frame
// left.
func play(t *testing.T, a *Announcer, until time.Time) (what []Announcement, when []time.Time) {
	t.Helper()
	for range 100_000 {
		at := a.Deadline()
		if at.IsZero() || at.After(until) {
			return what, when
		}
		if early := a.Next(at.Add(-1)); len(early) > 0 {
			t.Fatalf("%d frames before the deadline", len(early))
		}
		for _, n := range a.Next(at) {
			what, when = append(what, n), append(when, at)
		}
		if after := a.Deadline(); !after.IsZero() && !after.After(at) {
			t.Fatalf("deadline %v is not after %v", after, at)
		}
	}
	t.Fatal("the announcer does not end")
	return nil, nil
}

func TestAnnouncerFirstThingsFirst(t *testing.T) {
	a := NewAnnouncer([]int{3, 0, 1, 2}, 0)
	a.Start(epoch())
	what, when := play(t, a, epoch().Add(time.Hour))
	round := []Announcement{{0, 0}, {2, 0}, {3, 0}, {0, 1}, {3, 1}, {0, 2}}
	if len(what) != 3*len(round) {
		t.Fatalf("%d frames, want three rounds of %d: %v", len(what), len(round), what)
	}
	for i, n := range what {
		if n != round[i%len(round)] {
			t.Errorf("frame %d is %v, want %v", i, n, round[i%len(round)])
		}
	}
	for i, after := range []time.Duration{0, repeatAfter, settleAfter} {
		if got := when[i*len(round)].Sub(epoch()); got != after {
			t.Errorf("round %d began after %v, want %v", i, got, after)
		}
	}
}

func TestAnnouncerPace(t *testing.T) {
	a := NewAnnouncer([]int{1000}, 0)
	a.Start(epoch())
	what, when := play(t, a, epoch().Add(repeatAfter-1))
	if len(what) != 1000 {
		t.Fatalf("%d addresses announced in the first round, want 1000", len(what))
	}
	if took := when[999].Sub(when[0]); took > 500*time.Millisecond {
		t.Errorf("1000 addresses took %v", took)
	}
	_, when = play(t, a, epoch().Add(settleAfter-1))
	seconds := when[len(when)-1].Sub(when[0]).Seconds()
	if rate := 1000 / seconds; rate > 1500 {
		t.Errorf("repetitions at %.0f frames a second", rate)
	}
}

func TestAnnouncerRefreshesUntilStopped(t *testing.T) {
	a := NewAnnouncer([]int{1}, time.Minute)
	a.Start(epoch())
	what, _ := play(t, a, epoch().Add(10*time.Minute+settleAfter))
	if len(what) != 3+10 {
		t.Errorf("%d frames in ten minutes, want 13", len(what))
	}
	a.Stop()
	if at := a.Deadline(); !at.IsZero() {
		t.Errorf("deadline %v after Stop", at)
	}
	if got := a.Next(epoch().Add(time.Hour)); len(got) > 0 {
		t.Errorf("%v after Stop", got)
	}
}

func TestAnnouncerStorm(t *testing.T) {
	a := NewAnnouncer([]int{10}, 0)
	frames := 0
	for at := epoch(); at.Before(epoch().Add(time.Second)); at = at.Add(time.Millisecond) {
		a.Start(at)
		frames += len(a.Next(at))
	}
	if most := 10 * int(time.Second/againAfter+1); frames > most {
		t.Errorf("%d frames in a second of losing adverts, want at most %d", frames, most)
	}
	if frames < 50 {
		t.Errorf("only %d frames", frames)
	}
	// What was asked for last is done, too.
	last := epoch().Add(time.Second)
	a.Start(last)
	what, _ := play(t, a, last.Add(againAfter))
	if len(what) < 10 {
		t.Errorf("%d frames after the last request, want a whole round", len(what))
	}
}

func TestAnnouncerNothing(t *testing.T) {
	a := NewAnnouncer(nil, time.Minute)
	a.Start(epoch())
	if at := a.Deadline(); !at.IsZero() {
		t.Errorf("deadline %v with nothing to announce", at)
	}
}
