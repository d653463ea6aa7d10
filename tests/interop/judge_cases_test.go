package interop

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// play is made-up evidence: Tandem says goodbye after a second and the peer takes over,
// as it should be.
type play struct {
	evidence
	epoch time.Time
}

func newPlay() *play {
	p := &play{epoch: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), evidence: evidence{
		segment: segment{version: 3, interval: 100 * time.Millisecond},
		routers: map[string]settings{
			"tandem": {name: "tandem", priority: 200, last: 2, plain: true, ours: true, realTime: true},
			"peer":   {name: "peer", priority: 100, last: 3, realTime: true},
		},
		late: func(time.Time, time.Time) time.Duration { return 0 },
	}}
	p.expected = []change{
		{why: startup, to: "tandem", since: p.epoch, ready: p.epoch},
		{why: goodbye, from: "tandem", to: "peer", since: p.at(1350)},
	}
	for ms := 350; ms <= 1350; ms += 100 {
		p.says("tandem", ms, 200)
	}
	p.says("tandem", 1400, 0)
	for ms := 1465; ms <= 2500; ms += 100 {
		p.says("peer", ms, 100)
	}
	for _, name := range []string{"tandem", "peer"} {
		at := map[string]int{"tandem": 351, "peer": 1466}[name]
		p.sends(name, at, arpMessage{operation: 1, targetAddress: ipv4.virtualAddresses()[0]}, hardware{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		p.sends(name, at+1, arpMessage{operation: 2, targetAddress: netip.MustParseAddr(hostAddress)}, hardware{2})
	}
	return p
}

func (p *play) at(ms int) time.Time { return p.epoch.Add(time.Duration(ms) * time.Millisecond) }

// says adds an advert without a fault.
func (p *play) says(from string, ms int, priority uint8) {
	c := p.routers[from]
	p.seen = append(p.seen, sighting{at: p.at(ms), from: from, frame: frame{
		source: ipv4.virtualMAC(), destination: hardware{1, 0, 0x5e, 0, 0, 0x12},
		advert: &advert{
			source: c.address(ipv4), destination: netip.MustParseAddr("224.0.0.18"), ttl: 255,
			version: 3, kind: 1, vrid: vrid, priority: priority, count: 1, interval: p.interval,
			addresses: ipv4.virtualAddresses(), plain: c.plain, pseudo: !c.plain,
		},
	}})
}

// sends adds an ARP message about the virtual address from the virtual MAC address.
func (p *play) sends(from string, ms int, m arpMessage, to hardware) {
	m.senderHardware, m.senderAddress = ipv4.virtualMAC(), ipv4.virtualAddresses()[0]
	p.seen = append(p.seen, sighting{at: p.at(ms), from: from, frame: frame{source: ipv4.virtualMAC(), destination: to, arp: &m}})
}

// without removes what a router sent in a time.
func (p *play) without(from string, first, last int) {
	p.seen = slices.DeleteFunc(p.seen, func(g sighting) bool {
		return g.from == from && !g.at.Before(p.at(first)) && !g.at.After(p.at(last))
	})
}

// shift moves all that a router sent.
func (p *play) shift(from string, ms int) {
	for i := range p.seen {
		if p.seen[i].from == from {
			p.seen[i].at = p.seen[i].at.Add(time.Duration(ms) * time.Millisecond)
		}
	}
}

// handsOver makes Tandem's takeover one that is not its start.
func (p *play) handsOver() { p.expected[0].why, p.expected[0].ready = handover, p.at(350) }

// first is the first advert of a router.
func (p *play) first(from string) *advert {
	i := slices.IndexFunc(p.seen, func(g sighting) bool { return g.from == from && g.advert != nil })
	return p.seen[i].advert
}

func (p *play) judge() *verdict {
	slices.SortStableFunc(p.seen, func(a, b sighting) int { return a.at.Compare(b.at) })
	return judge(p.evidence)
}

// TestJudge shows that the judge acquits what is right and nothing else.
func TestJudge(t *testing.T) {
	for _, spoil := range []func(*play){func(*play) {}, (*play).handsOver} {
		p := newPlay()
		spoil(p)
		if v := p.judge(); len(v.faults) > 0 {
			t.Fatalf("the judge condemns what is right: %q", v.faults)
		}
	}
	for name, c := range map[string]struct {
		spoil func(p *play)
		want  string
	}{
		"two speakers for long":       {func(p *play) { p.says("tandem", 2400, 200) }, "tandem advertises priority 200"},
		"a speaker after its goodbye": {func(p *play) { p.says("tandem", 1420, 200) }, "nobody is MASTER since the goodbye of tandem"},
		"no goodbye":                  {func(p *play) { p.without("tandem", 1400, 1400) }, "has not said the last word"},
		"too early":                   {func(p *play) { p.shift("peer", -30) }, "took over from tandem (goodbye)"},
		"too late":                    {func(p *play) { p.shift("peer", 300) }, "took over from tandem (goodbye)"},
		"never":                       {func(p *play) { p.without("peer", 0, 9999) }, "peer has not taken over"},
		"nobody asked for it":         {func(p *play) { p.expected = p.expected[:1] }, "and that should stay"},
		"no announcement":             {func(p *play) { p.handsOver(); p.without("tandem", 351, 351) }, "tandem has not announced 10.0.0.1"},
		"announced before the advert": {func(p *play) {
			p.handsOver()
			p.without("tandem", 351, 351)
			p.sends("tandem", 340, arpMessage{operation: 1, targetAddress: ipv4.virtualAddresses()[0]}, hardware{})
		}, "tandem has not announced"},
		"no answer": {func(p *play) { p.without("peer", 1467, 1467) }, "never answered"},
		"a physical address in an answer": {func(p *play) {
			p.sends("tandem", 600, arpMessage{operation: 2, targetAddress: netip.MustParseAddr(hostAddress)}, hardware{2})
			p.seen[len(p.seen)-1].arp.senderHardware = hardware{2, 2}
		}, "answered for 10.0.0.1"},
		"a BACKUP that speaks":      {func(p *play) { p.sends("tandem", 1800, arpMessage{operation: 2}, hardware{2}) }, "when its last advert was"},
		"a frame after the goodbye": {func(p *play) { p.sends("tandem", 1401, arpMessage{operation: 2}, hardware{2}) }, "after its goodbye"},
		"malformed":                 {func(p *play) { p.malformed = []string{"half an advert"} }, "half an advert"},
		"version":                   {func(p *play) { p.first("tandem").version = 2 }, "§5.2.1"},
		"type":                      {func(p *play) { p.first("tandem").kind = 2 }, "§5.2.2"},
		"VRID":                      {func(p *play) { p.first("tandem").vrid = 11 }, "§5.2.3"},
		"priority":                  {func(p *play) { p.first("tandem").priority = 199 }, "§5.2.4"},
		"count":                     {func(p *play) { p.first("tandem").count = 2 }, "§5.2.5"},
		"reserved bits":             {func(p *play) { p.first("tandem").reserved = 1 }, "§5.2.6"},
		"interval":                  {func(p *play) { p.first("tandem").interval = time.Second }, "§5.2.7"},
		"checksum":                  {func(p *play) { p.first("tandem").plain = false }, "§5.2.8"},
		"checksum of the peer":      {func(p *play) { p.first("peer").pseudo = false }, "§5.2.8"},
		"addresses":                 {func(p *play) { p.first("tandem").addresses = nil }, "§5.2.9"},
		"TTL":                       {func(p *play) { p.first("tandem").ttl = 254 }, "§5.1.1.3"},
		"source":                    {func(p *play) { p.first("tandem").source = ipv4.virtualAddresses()[0] }, "§5.1.1.1"},
		"group":                     {func(p *play) { p.first("tandem").destination = netip.MustParseAddr("224.0.0.1") }, "§5.1.1.2"},
		"source MAC":                {func(p *play) { p.seen[0].source = hardware{2} }, "§7.2"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay()
			c.spoil(p)
			v := p.judge()
			if !slices.ContainsFunc(v.faults, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("the judge finds %q, want a fault with %q", v.faults, c.want)
			}
		})
	}
}

// TestJudgeBlames shows whose fault the judge finds a fault to be.
func TestJudgeBlames(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(p *play)
		ours  bool
	}{
		"a late peer":           {func(p *play) { p.shift("peer", 300) }, false},
		"an advert of the peer": {func(p *play) { p.first("peer").ttl = 1 }, false},
		"an advert of Tandem":   {func(p *play) { p.first("tandem").ttl = 1 }, true},
		"Tandem does not yield": {func(p *play) { p.says("tandem", 2400, 200) }, true},
		"Tandem fell silent": {func(p *play) {
			p.without("tandem", 900, 1400)
			p.expected[1].since = p.at(2000)
		}, true},
		"the peer fell silent": {func(p *play) {
			p.without("peer", 1700, 9999)
			p.says("tandem", 2100, 200)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay()
			c.spoil(p)
			if v := p.judge(); len(v.faults) == 0 || v.ours != c.ours {
				t.Errorf("Tandem's fault: %v, want %v: %q", v.ours, c.ours, v.faults)
			}
		})
	}
}

// TestJudgeKnowsTies lets a partition make two MASTERs.
func TestJudgeKnowsTies(t *testing.T) {
	tie := func(loserUntil, answer int) *verdict {
		p := newPlay()
		p.expected = append(p.expected[:1], change{why: tieBreak, from: "peer", to: "tandem", since: p.at(2000)})
		p.partitions = []span{{p.at(1401), p.at(2000)}}
		p.without("tandem", 1400, 9999)
		p.without("peer", 2000, 9999)
		for ms := 1450; ms < 2000; ms += 100 {
			p.says("tandem", ms, 200)
		}
		for ms := 2010; ms <= loserUntil; ms += 100 {
			p.says("peer", ms, 100)
		}
		for ms := loserUntil + answer; ms < 3500; ms += 100 {
			p.says("tandem", ms, 200)
		}
		return p.judge()
	}
	if v := tie(2010, 1); len(v.faults) > 0 {
		t.Errorf("the judge condemns what is right: %q", v.faults)
	}
	for want, v := range map[string]*verdict{
		"which had to yield":       tie(2910, 1),
		"answered a losing advert": tie(2010, 400),
	} {
		if !slices.ContainsFunc(v.faults, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("the judge finds %q, want a fault with %q", v.faults, want)
		}
	}
}
