package kernel

import (
	"testing"
	"time"
)

// Carries must say what LinkState says, whatever happens to a link.
func TestCarriesIsLinkState(t *testing.T) {
	l := newLab(t, time.Minute)
	agree := func(name string, want bool) {
		t.Helper()
		s, err := l.kernel.LinkState(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.kernel.Carries(name)
		if err != nil {
			t.Fatal(err)
		}
		if got != s.Up || got != want {
			t.Errorf("%s: Carries %v, LinkState %v, want %v", name, got, s.Up, want)
		}
	}
	l.run(t, "ip link add left type veth peer name right")
	agree("left", false)
	l.run(t, "ip link set left up")
	agree("left", false) // nobody at the other end
	l.run(t, "ip link set right up")
	agree("left", true)
	l.run(t, "ip link set right down")
	agree("left", false)
	l.run(t, "ip link set right up")
	agree("left", true)
	l.run(t, "ip link delete left")
	agree("left", false)
}

func BenchmarkCarries(b *testing.B) {
	l := newLab(b, time.Minute)
	for b.Loop() {
		if _, err := l.kernel.Carries("lo"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLinkState(b *testing.B) {
	l := newLab(b, time.Minute)
	for b.Loop() {
		if _, err := l.kernel.LinkState("lo"); err != nil {
			b.Fatal(err)
		}
	}
}
