package conntracksync

import (
	"testing"
	"time"
)

var epoch = time.Unix(1_700_000_000, 0) //nolint:gochecknoglobals // a constant

func TestLagPercentiles(t *testing.T) {
	var l lag
	for i := range 1000 {
		at := epoch.Add(time.Duration(i) * time.Millisecond)
		l.sent(uint64(i), []run{{at, 1}})
		l.acked(at.Add(time.Duration(i+1)*time.Microsecond), uint64(i))
	}
	p50, p99, greatest := l.summary(epoch.Add(time.Second))
	within := func(name string, got, want time.Duration) {
		t.Helper()
		if got < want || got > want*5/4+time.Microsecond {
			t.Errorf("%s is %v, want %v to a quarter more", name, got, want)
		}
	}
	within("p50", p50, 500*time.Microsecond)
	within("p99", p99, 990*time.Microsecond)
	if greatest != time.Millisecond || p99 > greatest {
		t.Errorf("max %v, p99 %v", greatest, p99)
	}
}

func TestLagForgetsAfterAMinute(t *testing.T) {
	var l lag
	l.add(epoch, time.Second, 1)
	if _, _, m := l.summary(epoch.Add(59 * time.Second)); m != time.Second {
		t.Errorf("after 59 s: %v", m)
	}
	if p50, p99, m := l.summary(epoch.Add(60 * time.Second)); p50+p99+m != 0 {
		t.Errorf("after 60 s: %v %v %v", p50, p99, m)
	}
	l.add(epoch.Add(60*time.Second), time.Millisecond, 1)
	if _, _, m := l.summary(epoch.Add(60 * time.Second)); m != time.Millisecond {
		t.Errorf("the slot is not used anew: %v", m)
	}
}

func TestLagOfASilentPeerGrows(t *testing.T) {
	var l lag
	l.sent(1, []run{{epoch, 1}})
	if p50, p99, m := l.summary(epoch.Add(3 * time.Second)); p50 != m || p99 != m || m != 3*time.Second {
		t.Errorf("%v %v %v", p50, p99, m)
	}
	l.forget()
	if _, _, m := l.summary(epoch.Add(3 * time.Second)); m != 0 {
		t.Errorf("of an ended connection: %v", m)
	}
}

func TestLagIsBoundedAndClockSafe(t *testing.T) {
	var l lag
	for i := range uint64(3 * lagInFlight) {
		l.sent(i, []run{{epoch, 1}})
		if i%2 == 1 && i < lagInFlight {
			l.acked(epoch.Add(-time.Hour), i-1)
		}
	}
	if n := len(l.inFlight); n > 2*lagInFlight+1 {
		t.Errorf("%d frames remembered", n)
	}
	if _, _, m := l.summary(epoch.Add(-time.Hour)); m != 0 {
		t.Errorf("negative time gives %v", m)
	}
	l.summary(time.Time{})
	l.add(time.Time{}, time.Hour*24*365, 1)
}

func TestLagClasses(t *testing.T) {
	for us := range 100_000 {
		d := time.Duration(us) * time.Microsecond
		c := lagClass(d)
		if bound := lagBound(c); bound <= d || (us >= 4 && bound > d*5/4+time.Microsecond) {
			t.Fatalf("%v is in class %d below %v", d, c, bound)
		}
	}
}

// TestLagWeighsRecords: one frame with many records counts as many.
func TestLagWeighsRecords(t *testing.T) {
	var l lag
	l.sent(1, []run{{epoch, 1}, {epoch.Add(90 * time.Millisecond), 1000}})
	l.acked(epoch.Add(100*time.Millisecond), 1)
	p50, p99, greatest := l.summary(epoch.Add(time.Second))
	if p50 > 13*time.Millisecond || p99 > 13*time.Millisecond || greatest != 100*time.Millisecond {
		t.Errorf("%v %v %v", p50, p99, greatest)
	}
}
