package interop

import (
	"slices"
	"testing"
	"time"
)

// start starts a router and waits until it listens.
func (s *stand) start(name string) (since, ready time.Time) {
	s.t.Helper()
	since = time.Now()
	s.must(s.routers[name].start())
	s.eventually(name, "starts", func() error {
		if words := s.routers[name].base().exit(); words != "" {
			s.t.Fatal(words)
		}
		return s.routers[name].listens()
	})
	ready = time.Now()
	s.must(s.routers[name].base().hurry())
	s.starts = append(s.starts, span{since, ready})
	return since, ready
}

// takesOver starts a router and waits until it is MASTER instead of another, or of
// nobody.
func (s *stand) startsAndTakesOver(name, from string) {
	s.t.Helper()
	since, ready := s.start(name)
	s.awaits(change{startup, from, name, since, ready})
}

// stops stops the MASTER in order and waits until the other has taken over.
func (s *stand) stops(name, to string) {
	s.t.Helper()
	since := time.Now()
	s.must(s.routers[name].stop())
	s.awaits(change{why: goodbye, from: name, to: to, since: since})
}

// dies kills the MASTER and waits until the other has taken over.
func (s *stand) dies(name, to string) {
	s.t.Helper()
	since := time.Now()
	s.must(s.routers[name].base().kill())
	s.awaits(change{why: silence, from: name, to: to, since: since})
}

// awaits waits until a router has spoken for all families since a moment, and long
// enough to hear who else still does.
func (s *stand) awaits(c change) {
	s.t.Helper()
	s.expected = append(s.expected, c)
	s.hears(c.to, c.since)
	s.pass(max(s.slowest()*3/2, settleTime))
}

// slowest is the longest interval on the LAN.
func (s *stand) slowest() time.Duration {
	slowest := s.interval
	for _, r := range s.routers {
		slowest = max(slowest, r.base().advertisement())
	}
	return slowest
}

// hears waits until a router has advertised for all families since a moment.
func (s *stand) hears(name string, since time.Time) {
	s.t.Helper()
	s.eventually(name, "advertises", func() error {
		heard := map[family]bool{}
		for _, g := range s.capture.sightings(since) {
			if g.advert != nil && g.from == name && g.advert.priority > 0 {
				heard[map[bool]family{false: ipv4, true: ipv6}[g.advert.source.Is6()]] = true
			}
		}
		if len(heard) < len(s.families()) {
			return errNotYet
		}
		return nil
	})
}

// stays waits longer than any timer of the election, on a machine that is not too busy. That nobody has taken over then,
// the judge sees.
func (s *stand) stays() { s.pass(5 * s.slowest()) }

// settleTime is how long a new role is left in peace. FRR loses its IPv6 addresses when
// roles change faster than zebra reads of links.
const settleTime = 400 * time.Millisecond

// scenario is what happens to Tandem and a peer on one LAN.
type scenario struct {
	name string
	// ours and theirs are what makes the scenario.
	ours, theirs settings
	play         func(s *stand, tandem, peer string)
}

const (
	tandemName = "tandem"
	peerName   = "peer"

	tandemHigher = "Tandem is higher"
	peerHigher   = "the peer is higher"
	tandemOwner  = "Tandem is the owner"
	// tandemAbove is about a peer whose priority would tell of an impairment if it were
	// the other member.
	tandemAbove = "Tandem is far higher and does not preempt"
)

func scenarios() []scenario {
	return []scenario{
		{tandemHigher, settings{priority: 200, preempt: true, last: 2}, settings{priority: 100, preempt: true, last: 3}, higherTandem},
		{peerHigher, settings{priority: 100, preempt: true, last: 2}, settings{priority: 200, preempt: true, last: 3}, higherPeer},
		{"Tandem is higher and does not preempt", settings{priority: 200, last: 2}, settings{priority: 150, last: 3}, tandemLeavesThePeer},
		{"the peer is higher and does not preempt", settings{priority: 150, last: 2}, settings{priority: 200, last: 3}, peerLeavesTandem},
		{"equal priority, Tandem has the higher address", settings{priority: 150, preempt: true, last: 4}, settings{priority: 150, preempt: true, last: 3}, tie},
		{"equal priority, the peer has the higher address", settings{priority: 150, preempt: true, last: 2}, settings{priority: 150, preempt: true, last: 3}, tie},
		{tandemAbove, settings{priority: 200, last: 2}, settings{priority: 50, last: 3}, tandemLeavesThePeer},
		{tandemOwner, settings{priority: 255, preempt: true, last: 2}, settings{priority: 100, preempt: true, last: 3}, higherTandem},
	}
}

// always are the scenarios that every world must bear, others are for some.
func always() []string {
	var names []string
	for _, c := range scenarios() {
		if c.name != tandemOwner && c.name != tandemAbove {
			names = append(names, c.name)
		}
	}
	return names
}

// higherTandem lets Tandem preempt the peer, and leave it in order and dying.
func higherTandem(s *stand, tandem, peer string) {
	s.startsAndTakesOver(peer, "")
	s.startsAndTakesOver(tandem, peer)
	s.stops(tandem, peer)
	s.startsAndTakesOver(tandem, peer)
	s.dies(tandem, peer)
}

// higherPeer lets the peer preempt Tandem, and leave it in order and dying.
func higherPeer(s *stand, tandem, peer string) {
	s.startsAndTakesOver(tandem, "")
	s.startsAndTakesOver(peer, tandem)
	s.stops(peer, tandem)
	s.startsAndTakesOver(peer, tandem)
	s.dies(peer, tandem)
}

// tandemLeavesThePeer lets Tandem, which is higher, come second.
func tandemLeavesThePeer(s *stand, tandem, peer string) {
	s.startsAndTakesOver(peer, "")
	s.start(tandem)
	s.stays()
	s.stops(peer, tandem)
}

// peerLeavesTandem is the other way round.
func peerLeavesTandem(s *stand, tandem, peer string) {
	s.startsAndTakesOver(tandem, "")
	s.start(peer)
	s.stays()
	s.stops(tandem, peer)
}

// tie lets Tandem come second: of equal priority it leaves the MASTER in peace
// whatever the addresses (§6.4.2). Then a partition makes it MASTER as well, and when
// that ends the greater address stays (§6.4.3).
func tie(s *stand, tandem, peer string) {
	s.startsAndTakesOver(peer, "")
	s.start(tandem)
	s.stays()
	s.partition(tandem, peer)
	s.hears(tandem, s.partitions[0].from)
	s.pass(s.interval * 3 / 2)
	winner, loser := peer, tandem
	if s.routers[tandem].base().last > s.routers[peer].base().last {
		winner, loser = tandem, peer
	}
	at := s.heal(tandem, peer)
	s.expected = append(s.expected, change{why: tieBreak, from: loser, to: winner, since: at})
	s.pass(s.aftermath())
	s.stays()
}

// world is what Tandem meets.
type world struct {
	name string
	peer kind
	segment
	// ours and theirs tell who sends the checksum of RFC 9568 over IPv4; only Tandem can.
	ours, theirs bool
	// theirInterval is the peer's own advertisement interval; zero is the segment's.
	theirInterval time.Duration
	// plays are the scenarios.
	plays []string
}

// The worlds begin with those that take longest.
func worlds() []world {
	v2 := segment{version: 2, interval: time.Second}
	v3 := segment{version: 3, interval: 100 * time.Millisecond}
	dual := v3
	dual.ipv6 = true
	all := always()
	more := append(always(), tandemAbove, tandemOwner)
	return []world{
		{name: "keepalived, version 2", peer: makeKeepalived, segment: v2, plays: all},
		{name: "FRR, version 2", peer: makeFRR, segment: v2, plays: all},
		{name: "Tandem, version 2", peer: makeTandem, segment: v2, plays: []string{tandemHigher}},
		{name: "keepalived, version 3", peer: makeKeepalived, segment: v3, plays: more},
		{name: "FRR, version 3", peer: makeFRR, segment: v3, plays: more},
		{name: "keepalived, version 3, IPv4 and IPv6", peer: makeKeepalived, segment: dual, plays: all},
		{name: "FRR, version 3, IPv4 and IPv6", peer: makeFRR, segment: dual, plays: all},
		// A BACKUP learns the MASTER's interval (RFC 9568 §6.1).
		{
			name: "keepalived, another interval", peer: makeKeepalived, segment: v3, theirInterval: 300 * time.Millisecond,
			plays: []string{tandemHigher, peerHigher},
		},
		{
			name: "FRR, another interval", peer: makeFRR, segment: v3, theirInterval: 300 * time.Millisecond,
			plays: []string{tandemHigher, peerHigher},
		},
		// What Debian 12 has of both does not believe the checksum of RFC 9568, so that
		// Tandem must be the lower one: then only it has to believe anything.
		{name: "keepalived, RFC 9568 checksum", peer: makeKeepalived, segment: v3, ours: true, plays: []string{peerHigher}},
		{name: "FRR, RFC 9568 checksum", peer: makeFRR, segment: v3, ours: true, plays: []string{peerHigher}},
		// Two nodes that know nothing of each other.
		{name: "Tandem, RFC 9568 checksum", peer: makeTandem, segment: v3, ours: true, theirs: true, plays: all},
		{name: "Tandem, both checksums", peer: makeTandem, segment: v3, ours: true, plays: []string{tandemHigher, peerHigher}},
		{name: "Tandem, IPv4 and IPv6", peer: makeTandem, segment: dual, ours: true, theirs: true, plays: all},
	}
}

// TestPeers plays the scenarios in all worlds.
func TestPeers(t *testing.T) {
	on := newStage(t)
	for _, w := range worlds() {
		for _, c := range scenarios() {
			if !slices.Contains(w.plays, c.name) {
				continue
			}
			t.Run(w.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				on.perform(t, w.segment, func(s *stand) {
					ours, theirs := c.ours, c.theirs
					ours.name, ours.plain = tandemName, w.ours
					theirs.name, theirs.plain, theirs.interval = peerName, w.theirs, w.theirInterval
					peer, tandem := s.peer(w.peer, theirs), s.tandem(ours)
					c.play(s, tandem, peer)
				})
			})
		}
	}
}
