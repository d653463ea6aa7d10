package vrrp

import "testing"

func TestMasterAnnouncesOnALinkThatIsBack(t *testing.T) {
	g := newMaster(t, member())
	now := epoch().Add(down100 + millis)
	links := func(up ...bool) Output { return g.SetLinks(now, up) }
	if out := links(true, true, true); out.Advertise || out.Announce {
		t.Errorf("nothing happened: %v", out)
	}
	if out := links(false, true, true); out.Advertise || out.Announce {
		t.Errorf("a link went down: %v", out)
	}
	if out := links(true, true, true); !out.Advertise || !out.Announce || g.State() != Master {
		t.Errorf("it is back: %v in state %v", out, g.State())
	}
	g.Stop(now, ReasonShutdown)
	links(false, true, true)
	if out := links(true, true, true); out.Advertise || out.Announce {
		t.Errorf("after a shutdown: %v", out)
	}
}

func TestBackupIsSilentOnALinkThatIsBack(t *testing.T) {
	g, t0 := backupOf(t, beating())
	g.SetLinks(t0, []bool{false, true, true})
	if out := g.SetLinks(t0.Add(millis), []bool{true, true, true}); out.Advertise || out.Announce {
		t.Errorf("output %v", out)
	}
}

// What is known of a carrier outlives a new order of them.
func TestCarriersAreKnownByName(t *testing.T) {
	g := newMaster(t, member())
	now := epoch().Add(down100 + millis)
	g.SetLinks(now, []bool{false, true, true})
	next := member()
	next.Carriers[0], next.Carriers[1] = next.Carriers[1], next.Carriers[0]
	if _, err := g.Reconfigure(now, next); err != nil {
		t.Fatal(err)
	}
	if !g.up[0] || g.up[1] || !g.up[2] {
		t.Errorf("links %v, want the second one down", g.up)
	}
}
