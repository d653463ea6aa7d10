package status

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// backupView is what a BACKUP of a healthy pair sees, masterView its MASTER.
func backupView() View {
	return View{
		Now: time.Unix(0, 0), PeerMaster: true, Peer: "bravo", Priority: 180, PeerAlive: true,
		HeartbeatAge: 10 * time.Millisecond, IntroductionAge: -1,
		Beat: 20 * time.Millisecond, Down: 330 * time.Millisecond, DownByBeats: 90 * time.Millisecond, Document: "0123", PeerDocument: "0123",
		Links: []Link{
			{Name: "lan", Up: true, Hears: true, StrangerAge: -1, EchoAge: -1},
			{Name: "wan", Up: true, Hears: true, StrangerAge: -1, EchoAge: -1},
			{Name: "ha", HA: true, Up: true, Hears: true, StrangerAge: -1, EchoAge: -1},
		},
		HALinks: []HALink{{Name: "ha", HeartbeatAge: 10 * time.Millisecond}}, Replicated: true,
	}
}

// twice is a view of a pair with two HA links.
func twice(view func() View) func() View {
	return func() View {
		v := view()
		second := v.Links[2]
		second.Name = "ha2"
		v.Links = append(v.Links, second)
		v.HALinks = append(v.HALinks, HALink{Name: "ha2", HeartbeatAge: 12 * time.Millisecond})
		return v
	}
}

func masterView() View {
	v := backupView()
	v.Master, v.PeerMaster, v.Priority = true, false, 200
	for i := range v.Links {
		v.Links[i].Hears, v.Links[i].Heard, v.Links[i].HeardKnown = false, true, true
	}
	return v
}

func TestDiagnose(t *testing.T) {
	stranger := func(v *View, priority uint8) {
		v.Links[0].Stranger, v.Links[0].StrangerPriority, v.Links[0].StrangerAge = "10.0.0.66", priority, time.Second
	}
	for name, c := range map[string]struct {
		view   func() View
		change func(v *View)
		want   []string
		says   string
	}{
		"a healthy BACKUP": {backupView, func(*View) {}, nil, ""},
		"a healthy MASTER": {masterView, func(*View) {}, nil, ""},
		"a dead peer":      {masterView, func(v *View) { v.PeerAlive = false }, []string{PeerSilent}, "bravo"},
		"the HA cable cut, seen by the BACKUP": {backupView, func(v *View) {
			v.HeartbeatAge, v.Links[2].Hears, v.Links[2].Up = time.Second, false, false
			v.HALinks[0].HeartbeatAge, v.Replicated = time.Second, false
		}, []string{HALinkSilent}, "sessions are not replicated, and the election goes on by adverts on lan, wan, so that a dead MASTER is noticed after 330 ms instead of 90 ms"},
		"two HA links, seen by the BACKUP": {twice(backupView), func(*View) {}, nil, ""},
		"two HA links, seen by the MASTER": {twice(masterView), func(*View) {}, nil, ""},
		"the first of two HA cables cut": {twice(backupView), func(v *View) {
			v.HALinks[0].HeartbeatAge, v.Links[2].Hears, v.Links[2].Up = time.Second, false, false
		}, []string{HALinkSilent}, "the HA link ha is silent: heartbeats of bravo come by ha2 alone"},
		"the second of two HA cables cut, seen by the MASTER": {twice(masterView), func(v *View) {
			v.HALinks[1].HeartbeatAge, v.Links[3].Heard, v.Links[3].Up = time.Minute, false, false
		}, []string{HALinkSilent}, "the HA link ha2 is silent: heartbeats of bravo come by ha alone"},
		"nothing has ever come by the second HA link": {twice(backupView), func(v *View) { v.HALinks[1].HeartbeatAge = -1 }, []string{HALinkSilent}, "check the cable of ha2"},
		"both HA cables cut": {twice(backupView), func(v *View) {
			v.HeartbeatAge, v.HALinks[0].HeartbeatAge, v.HALinks[1].HeartbeatAge, v.Replicated = time.Second, time.Second, time.Minute, false
			v.Links[2].Up, v.Links[3].Up, v.Links[2].Hears, v.Links[3].Hears = false, false, false, false
		}, []string{HALinkSilent}, "the HA links ha and ha2 are silent, though bravo is alive; sessions are not replicated, and the election goes on by adverts on lan, wan"},
		"the HA link one way": {backupView, func(v *View) {
			v.HeartbeatAge, v.IntroductionAge = time.Minute, 5*time.Millisecond
		}, []string{HALinkOneWay}, "does not hear this node's"},
		"the LAN cut, seen by the BACKUP": {backupView, func(v *View) { v.Links[0].Hears = false }, []string{CarrierSilent}, "adverts of bravo do not reach this node by lan"},
		"the LAN cut, seen by the MASTER": {masterView, func(v *View) { v.Links[0].Heard = false }, []string{CarrierSilent}, "adverts of this node do not reach bravo by lan"},
		"an own link that is down":        {backupView, func(v *View) { v.Links[0].Hears, v.Links[0].Up = false, false }, nil, ""},
		"a peer that has not said what it hears": {masterView, func(v *View) {
			for i := range v.Links {
				v.Links[i].Heard, v.Links[i].HeardKnown = false, false
			}
		}, nil, ""},
		"all but the WAN": {backupView, func(v *View) {
			v.HeartbeatAge = time.Minute
			v.Links[0].Hears, v.Links[2].Hears = false, false
		}, []string{HALinkSilent, CarrierSilent, Partitioned}, "wan is all that is left"},
		"two MASTERs":        {masterView, func(v *View) { v.PeerMaster = true }, []string{BothMaster}, "bravo says"},
		"another document":   {backupView, func(v *View) { v.PeerDocument = "4567" }, []string{DifferentDocument}, "4567, here 0123"},
		"a stranger above":   {masterView, func(v *View) { stranger(v, 201) }, []string{StrangerAbove}, "10.0.0.66"},
		"a stranger below":   {masterView, func(v *View) { stranger(v, 100) }, nil, ""},
		"a stranger rules":   {backupView, func(v *View) { stranger(v, 254); v.PeerMaster = false }, []string{StrangerMaster}, "no member is MASTER"},
		"a stranger of late": {masterView, func(v *View) { stranger(v, 201); v.Links[0].StrangerAge = time.Hour }, nil, ""},
		"an echo":            {masterView, func(v *View) { v.Links[1].EchoAge = 0 }, []string{OwnAddressHeard}, "by wan"},
		"a single router":    {masterView, func(v *View) { v.Peer, v.PeerAlive = "", false; stranger(v, 254) }, []string{StrangerAbove}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.view()
			c.change(&v)
			var names []string
			text := ""
			for _, got := range Diagnose(v) {
				names = append(names, got.Name)
				text += got.Text + "\n"
			}
			if !slices.Equal(names, c.want) {
				t.Errorf("conditions %v, want %v", names, c.want)
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("%q does not say %q", text, c.says)
			}
		})
	}
}
