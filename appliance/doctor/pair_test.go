package doctor

import (
	"slices"
	"testing"
	"time"
)

func goodLink() Link {
	all := Direction{Sent: 5, Multicast: 5, Multicast6: 5, Unicast: 5, Largest: 1500}
	return Link{
		Carrier: "lan", Interface: "eth1", OtherInterface: "eth2", MTU: 1500, OtherMTU: 1500, Out: all, In: all,
		Multicast: true, IPv6: true,
		Virtuals: []Virtual{{MAC: "00:00:5e:00:01:0a", Rounds: []Round{
			{Owner: "alpha", Watcher: "bravo", Accepted: true, Delivered: true, Gateway: true, Answered: true},
			{Owner: "bravo", Watcher: "alpha", Accepted: true, Delivered: true, Gateway: true, Answered: true},
		}}},
	}
}

func goodPair() Pair {
	return Pair{
		Self: "alpha", Other: "bravo", Met: true, Address: "10.255.0.2:3113", Version: "1", OtherVersion: "1", Hash: "aa", OtherHash: "aa",
		Links: []Link{goodLink()},
		Echo:  Echo{Tested: true, Sent: 50, Received: 50, Median: time.Millisecond, High: time.Millisecond, Max: 2 * time.Millisecond, Port: 3112},
	}
}

func ms(n int) *time.Duration {
	d := time.Duration(n) * time.Millisecond
	return &d
}

func TestJudgePair(t *testing.T) {
	list := JudgePair(goodPair(), pairNeeds())
	worst(t, list)
	expect(t, list, verdict{"frames", "lan", OK, []string{"IPv4, IPv6", "alpha (eth1) and bravo (eth2)"}})
	expect(t, list, verdict{"gratuitous-arp", "lan", OK, []string{"alpha and then from bravo"}})
	type damage func(p *Pair, l *Link)
	tests := []struct {
		name   string
		damage damage
		want   verdict
	}{
		{
			"nobody there", func(p *Pair, _ *Link) {
				*p = Pair{Other: "bravo", Address: "10.255.0.2:3113", Waited: 30 * time.Second, Problem: "refused"}
			},
			verdict{"meeting", "ha", NotTested, []string{"bravo", "10.255.0.2:3113", "30s", "refused", "tandem doctor"}},
		},
		{
			"wrong key", func(p *Pair, _ *Link) {
				*p = Pair{Other: "bravo", Refused: true, Problem: "the node has another key: correct it"}
			},
			verdict{"meeting", "ha", Trouble, []string{"another key"}},
		},
		{"document", func(p *Pair, _ *Link) { p.OtherHash = "bbbbbbbbbbbbbbbb" }, verdict{"document", "", Trouble, []string{"aa", "bbbbbbbbbbbb on bravo"}}},
		{"version", func(p *Pair, _ *Link) { p.OtherVersion = "2" }, verdict{"version", "", Warning, []string{"version 1", "bravo has 2"}}},
		{"clocks", func(p *Pair, _ *Link) { p.Skew = -3 * time.Second }, verdict{"wall-clocks", "", Warning, []string{"3.0 s"}}},
		{"other side", func(p *Pair, _ *Link) { p.OtherTrouble = 2 }, verdict{"other-side", "", Warning, []string{"bravo", "2"}}},
		{"broken off", func(p *Pair, _ *Link) { p.Broken = "the peer closed the connection" }, verdict{"conversation", "ha", Trouble, []string{"bravo", "closed"}}},
		{"no echo", func(p *Pair, _ *Link) { p.Echo.Received = 0 }, verdict{"round-trip", "ha", Trouble, []string{"50", "3112", "UDP"}}},
		{"echo not tried", func(p *Pair, _ *Link) { p.Echo = Echo{Problem: "port in use"} }, verdict{"round-trip", "ha", NotTested, []string{"port in use"}}},
		{"a tenth and more lost", func(p *Pair, _ *Link) { p.Echo.Received = 44 }, verdict{"round-trip", "ha", Trouble, []string{"6 of 50"}}},
		{"one lost", func(p *Pair, _ *Link) { p.Echo.Received = 49 }, verdict{"round-trip", "ha", Warning, []string{"1 of 50"}}},
		{
			"slow", func(p *Pair, _ *Link) { p.Echo.High = 20 * time.Millisecond },
			verdict{"round-trip", "ha", Warning, []string{"20 ms", "100ms", "5.0 ms", "400ms"}},
		},
		{"one outlier", func(p *Pair, _ *Link) { p.Echo.Max = 90 * time.Millisecond }, verdict{"round-trip", "ha", OK, []string{"max 90 ms"}}},
		{"not testable", func(_ *Pair, l *Link) { *l = Link{Carrier: "lan", Problem: "eth1 is down"} }, verdict{"frames", "lan", NotTested, []string{"eth1 is down"}}},
		{
			"cut", func(_ *Pair, l *Link) { l.Out, l.In = Direction{Sent: 5}, Direction{Sent: 5} },
			verdict{"frames", "lan", Trouble, []string{"nothing passes", "alpha (eth1)", "bravo (eth2)", "VLAN"}},
		},
		{
			"one way out", func(_ *Pair, l *Link) { l.In = Direction{Sent: 5} },
			verdict{"frames", "lan", Trouble, []string{"one-way", "nothing from bravo (eth2) reaches alpha (eth1)"}},
		},
		{
			"one way in", func(_ *Pair, l *Link) { l.Out = Direction{Sent: 5} },
			verdict{"frames", "lan", Trouble, []string{"one-way", "nothing from alpha (eth1) reaches bravo (eth2)"}},
		},
		{
			"multicast", func(_ *Pair, l *Link) { l.Out.Multicast = 0 },
			verdict{"multicast", "lan", Trouble, []string{"224.0.0.18", "from alpha to bravo", "snooping"}},
		},
		{
			"IPv6 multicast", func(_ *Pair, l *Link) { l.In.Multicast6 = 0 },
			verdict{"multicast", "lan", Trouble, []string{"ff02::12", "from bravo to alpha"}},
		},
		{
			"multicast that nobody needs", func(_ *Pair, l *Link) { l.Multicast, l.Out.Multicast, l.In.Multicast6 = false, 0, 0 },
			verdict{"frames", "lan", OK, []string{"unicast frames"}},
		},
		{
			"IPv6 that nobody needs", func(_ *Pair, l *Link) { l.IPv6, l.Out.Multicast6 = false, 0 },
			verdict{"frames", "lan", OK, []string{"unicast and multicast pass"}},
		},
		{"unicast", func(_ *Pair, l *Link) { l.In.Unicast = 0 }, verdict{"unicast", "lan", Trouble, []string{"from bravo to alpha", "112"}}},
		{"loss", func(_ *Pair, l *Link) { l.Out.Multicast = 3 }, verdict{"loss", "lan", Warning, []string{"2 of 5", "from alpha to bravo"}}},
		{"heard twice", func(_ *Pair, l *Link) { l.Out.Unicast = 10 }, verdict{"frames", "lan", OK, nil}},
		{
			"MTU of the ports", func(_ *Pair, l *Link) { l.OtherMTU, l.In.Largest, l.Out.Largest = 1400, 1400, 1400 },
			verdict{"mtu", "lan", Trouble, []string{"alpha has MTU 1500 on eth1", "bravo has 1400 on eth2"}},
		},
		{
			"MTU between", func(_ *Pair, l *Link) { l.In.Largest = 1400 },
			verdict{"mtu", "lan", Trouble, []string{"1500 bytes", "from bravo to alpha", "1400 do"}},
		},
		{
			"virtual MAC in use", func(_ *Pair, l *Link) { l.Virtuals[0] = Virtual{MAC: "m", Untested: "a node runs; stop it"} },
			verdict{"virtual-mac", "lan", NotTested, []string{"a node runs"}},
		},
		{
			"virtual MAC not made", func(_ *Pair, l *Link) { l.Virtuals[0].Rounds[0] = Round{Owner: "alpha", Problem: "address in use"} },
			verdict{"virtual-mac", "lan", NotTested, []string{"alpha", "address in use"}},
		},
		{
			"virtual MAC refused", func(_ *Pair, l *Link) { l.Virtuals[0].Rounds[1].Accepted = false },
			verdict{"virtual-mac", "lan", Trouble, []string{"00:00:5e:00:01:0a", "bravo sends", "alpha", "forged transmits", "virtual_mac: false"}},
		},
		{
			"virtual MAC not delivered", func(_ *Pair, l *Link) { l.Virtuals[0].Rounds[0].Delivered = false },
			verdict{"virtual-mac", "lan", Trouble, []string{"do not reach alpha", "promiscuous"}},
		},
		{
			"virtual MAC sticks", func(_ *Pair, l *Link) { l.Virtuals[0].Rounds[1].Delivered = false },
			verdict{"virtual-mac-moves", "lan", Trouble, []string{"does not move", "bravo has sent", "sticky"}},
		},
		{
			"ARP inspection", func(_ *Pair, l *Link) { l.Virtuals[0].Rounds[1].Answered = false },
			verdict{"gratuitous-arp", "lan", Warning, []string{"bravo", "ARP inspection"}},
		},
		{"adverts heard", func(_ *Pair, l *Link) { l.OtherHears = ms(40) }, verdict{"adverts", "lan", OK, []string{"bravo hears"}}},
		{"adverts never heard", func(_ *Pair, l *Link) { l.OtherHears = ms(-1) }, verdict{"adverts", "lan", Trouble, []string{"bravo has never heard"}}},
		{"adverts no longer heard", func(_ *Pair, l *Link) { l.OtherHears = ms(9000) }, verdict{"adverts", "lan", Trouble, []string{"9.0 s"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := goodPair()
			tt.damage(&p, &p.Links[0])
			list := JudgePair(p, pairNeeds())
			expect(t, list, tt.want)
			but := []string{tt.want.check}
			worst(t, list, but...)
			sentences(t, list)
			oks := slices.ContainsFunc(list, func(f Finding) bool { return f.Check == "virtual-mac" && f.Grade == OK })
			if wrong := tt.want.check == "virtual-mac" || tt.want.check == "virtual-mac-moves"; wrong && oks {
				t.Error("the virtual MAC is said to be well as well")
			}
		})
	}
}

func goodRunning() Running {
	return Running{
		Role: "BACKUP", Pair: true, Peer: "bravo", PeerRole: "MASTER", Alive: true, Since: time.Hour,
		Carriers: []Hearing{{Carrier: "lan", Up: true, Heard: 50 * time.Millisecond}}, LeaseTime: 70 * time.Millisecond,
		Connected: true, Complete: true, Sessions: 7, ElectorAlive: true, RealTime: true, MemoryLocked: true,
		Hash: "aa", PeerHash: "aa", FileHash: "aa",
	}
}

func TestJudgeRunning(t *testing.T) {
	worst(t, JudgeRunning(goodRunning(), pairNeeds()))
	master := goodRunning()
	master.Role, master.PeerRole, master.LeaseOpen, master.Carriers[0].Heard = "MASTER", "BACKUP", true, -1
	worst(t, JudgeRunning(master, pairNeeds()))
	tests := []struct {
		name   string
		damage func(r *Running)
		want   verdict
	}{
		{"mute", func(r *Running) { *r = Running{Problem: "connection refused"} }, verdict{"answer", "", Trouble, []string{"connection refused"}}},
		{"no part", func(r *Running) { r.Role = "INITIALIZE" }, verdict{"role", "", Trouble, []string{"INITIALIZE"}}},
		{"link down", func(r *Running) { r.Carriers[0].Up = false }, verdict{"hears", "lan", Trouble, []string{"down"}}},
		{"never heard", func(r *Running) { r.Carriers[0].Heard = -1 }, verdict{"hears", "lan", Trouble, []string{"bravo", "never"}}},
		{"silent", func(r *Running) { r.Carriers[0].Heard = 9 * time.Second }, verdict{"hears", "lan", Trouble, []string{"bravo", "9s ago"}}},
		{"MASTER with a closed lease", func(r *Running) { r.Role, r.PeerRole = "MASTER", "BACKUP" }, verdict{"lease", "", Trouble, []string{"closed"}}},
		{"BACKUP with an open lease", func(r *Running) { r.LeaseOpen = true }, verdict{"lease", "", Trouble, []string{"open"}}},
		{"peer gone", func(r *Running) { r.Alive = false }, verdict{"peer", "", Trouble, []string{"bravo is not heard"}}},
		{"two MASTERs", func(r *Running) { r.Role, r.LeaseOpen = "MASTER", true }, verdict{"peer", "", Trouble, []string{"bravo is MASTER like"}}},
		{"replication", func(r *Running) { r.Connected, r.SyncError = false, "wrong key: correct it" }, verdict{"sessions", "", Trouble, []string{"wrong key"}}},
		{"first transfer", func(r *Running) { r.Complete = false }, verdict{"sessions", "", Warning, []string{"first transfer"}}},
		{"no elector", func(r *Running) { r.ElectorAlive = false }, verdict{"elector", "", Trouble, nil}},
		{"ordinary elector", func(r *Running) { r.RealTime, r.RealTimeError = false, "not permitted" }, verdict{"elector", "", Warning, []string{"not permitted"}}},
		{"unlocked", func(r *Running) { r.MemoryLocked = false }, verdict{"elector", "", Warning, []string{"memory"}}},
		{"old document", func(r *Running) { r.FileHash = "bb" }, verdict{"document-in-force", "", Warning, []string{"aa", "bb"}}},
		{"other document", func(r *Running) { r.PeerHash = "bb" }, verdict{"document-in-force", "", Trouble, []string{"bravo", "bb instead of aa"}}},
		{"drops", func(r *Running) { r.Carriers[0].Dropped = map[string]uint64{"ttl": 2, "vrid": 1} }, verdict{"ignored", "", OK, []string{"3 adverts on lan"}}},
		{"own words", func(r *Running) { r.Problems = []string{"something is wrong: mend it"} }, verdict{"problem", "", Trouble, []string{"mend it"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := goodRunning()
			tt.damage(&r)
			list := JudgeRunning(r, pairNeeds())
			expect(t, list, tt.want)
			worst(t, list, tt.want.check)
			sentences(t, list)
		})
	}
}
