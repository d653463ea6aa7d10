package node

import (
	"net/netip"
	"testing"
	"time"

	"tandem/router/uplink"
)

// A duty is looked after at once, then less and less often, and at once again if it begins anew; one that
// does not stand any more is dropped.
func TestDutiesAreLookedAfter(t *testing.T) {
	e := newEnding(nil, nil)
	now := time.Now()
	duty := uplink.Duty{Path: uplink.Path{Network: "office", Destination: netip.MustParsePrefix("0.0.0.0/0")}, Uplink: "wan", Begun: now}
	look := func(at time.Time, want int) {
		t.Helper()
		if got := e.due(at); len(got) != want {
			t.Errorf("after %v %d duties are due, want %d", at.Sub(now), len(got), want)
		}
	}
	e.set([]uplink.Duty{duty})
	select {
	case <-e.kick:
	default:
		t.Error("nobody was woken")
	}
	look(now, 1)
	look(now.Add(firstPause-1), 0)
	look(now.Add(firstPause), 1)
	look(now.Add(2*firstPause), 0)
	e.set([]uplink.Duty{duty}) // it stands
	look(now.Add(3*firstPause-1), 0)
	look(now.Add(3*firstPause), 1)
	duty.Begun = now.Add(time.Second)
	e.set([]uplink.Duty{duty})
	look(now.Add(3*firstPause), 1)
	e.set(nil)
	look(now.Add(time.Hour), 0)
}
