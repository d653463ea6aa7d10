package interop

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// change is a change of the speaker that a scenario caused and expects.
type change struct {
	why      reason
	from, to string
	// since is when it was caused, ready when the one that takes over was ready to.
	since, ready time.Time
}

// reason is why a router takes over, which decides how long that takes.
type reason uint8

const (
	// startup: it waits Active_Down_Interval, whether it hears nobody or somebody whom
	// it preempts (RFC 9568 §6.4.1, §6.4.2).
	startup reason = iota + 1
	// goodbye: it has heard priority 0 and waits Skew_Time (§6.4.2).
	goodbye
	// silence: it has heard nothing for Active_Down_Interval (§6.4.2).
	silence
	// tieBreak: two routers were MASTER, and the greater address stays (§6.4.3).
	tieBreak
)

func (r reason) String() string {
	return map[reason]string{startup: "startup", goodbye: "goodbye", silence: "silence", tieBreak: "tie-break"}[r]
}

const (
	// schedulingRoom is for two processors that all routers, the test and the tests of
	// other packages share; by what the test itself was late comes on top.
	schedulingRoom = 150 * time.Millisecond
	// leaseTick is how late the kernel may be with the end of a lease.
	leaseTick = 20 * time.Millisecond
)

// skew is Skew_Time, RFC 9568 §6.1.
func (s *stand) skew(priority uint8) time.Duration {
	return s.interval * time.Duration(256-int(priority)) / 256
}

// down is Active_Down_Interval.
func (s *stand) down(priority uint8) time.Duration { return 3*s.interval + s.skew(priority) }

// room is how late a router may be at a time: the longer its timers, the later it may be.
func (s *stand) room(from, to time.Time) time.Duration {
	room := schedulingRoom + s.interval/10 + s.stalls.during(from, to)
	if s.stalls.during(from, to) > s.interval {
		// A BACKUP that woke up late gives the MASTER the time of one more advert.
		room += 2 * s.interval
	}
	return room
}

// imprecision is how early a router may be: FRR reckons in whole centiseconds.
func (s *stand) imprecision(name string) time.Duration {
	if _, ok := s.routers[name].(*tandem); ok {
		return time.Millisecond
	}
	return 10 * time.Millisecond
}

// judge looks at all that was sent.
func (s *stand) judge() {
	s.t.Helper()
	seen, malformed, err := s.capture.stop()
	s.must(err)
	slices.SortStableFunc(seen, func(a, b sighting) int { return a.at.Compare(b.at) })
	for _, fault := range malformed {
		s.t.Error(fault)
	}
	s.judgeAdverts(seen)
	for _, f := range s.families() {
		s.judgeSpeakers(f, seen)
	}
	for name, r := range s.routers {
		if _, ok := r.(*tandem); ok {
			s.judgeSilence(name, seen)
		}
	}
	s.judgeAnswers(seen)
}

// judgeAdverts looks at each advert field by field.
func (s *stand) judgeAdverts(seen []sighting) {
	s.t.Helper()
	type key struct{ from, fault string }
	faults, adverts := map[key]int{}, map[string]int{}
	for _, f := range seen {
		if f.advert == nil {
			continue
		}
		adverts[f.from]++
		for _, fault := range s.faults(f) {
			faults[key{f.from, fault}]++
		}
	}
	for k, n := range faults {
		s.t.Errorf("%s sent %d of %d adverts with a fault: %s", k.from, n, adverts[k.from], k.fault)
	}
	s.t.Logf("adverts: %v", adverts)
}

// faults compares an advert with what its sender must send.
func (s *stand) faults(f sighting) []string {
	var faults []string
	check := func(ok bool, clause, format string, values ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, values...)+" (RFC 9568 "+clause+")")
		}
	}
	a, c := f.advert, s.routers[f.from].base().settings
	fam, group, groupMAC := ipv4, "224.0.0.18", hardware{1, 0, 0x5e, 0, 0, 0x12}
	if a.source.Is6() {
		fam, group, groupMAC = ipv6, "ff02::12", hardware{0x33, 0x33, 0, 0, 0, 0x12}
	}
	version, interval := s.version, s.interval
	if fam == ipv6 {
		version = 3
	}
	check(f.source == fam.virtualMAC(), "§7.2", "the source MAC address is %v", f.source)
	check(f.destination == groupMAC, "§5.1.1.2", "the destination MAC address is %v", f.destination)
	check(a.destination == netip.MustParseAddr(group), "§5.1.1.2", "the destination is %v", a.destination)
	check(a.source == c.address(fam), "§5.1.1.1, §5.1.2.1", "the source is %v", a.source)
	check(a.ttl == 255, "§5.1.1.3", "TTL or hop limit are %d", a.ttl)
	check(a.version == version, "§5.2.1", "the version is %d", a.version)
	check(a.kind == 1, "§5.2.2", "the type is %d", a.kind)
	check(a.vrid == vrid, "§5.2.3", "the VRID is %d", a.vrid)
	check(a.priority == c.priority || a.priority == 0, "§5.2.4", "the priority is %d", a.priority)
	check(int(a.count) == len(fam.virtualAddresses()), "§5.2.5", "the count of addresses is %d", a.count)
	check(a.interval == interval, "§5.2.7", "the interval is %v", a.interval)
	check(a.reserved == 0, "§5.2.6", "the reserved bits are %x", a.reserved)
	check(slices.Equal(a.addresses, fam.virtualAddresses()), "§5.2.9", "the addresses are %v", a.addresses)
	check(fam == ipv4 || len(a.addresses) > 0 && a.addresses[0].IsLinkLocalUnicast(), "§5.2.9", "the first address is not link-local")
	switch {
	case version == 2:
		check(a.plain, "RFC 3768 §5.3.8", "the checksum is wrong, or over a pseudo-header (%v)", a.pseudo)
		check(a.authorisation == 0 && a.authorisationZero, "RFC 3768 §5.3.6", "there is authentication data")
	case fam == ipv6:
		check(a.pseudo, "§5.2.8", "the checksum is wrong")
	case c.plain:
		check(a.plain, "§5.2.8", "the checksum is wrong, or over a pseudo-header (%v)", a.pseudo)
	default:
		check(a.pseudo, "§5.2.8 and the knob", "the checksum is wrong, or not over a pseudo-header (%v)", a.plain)
	}
	return faults
}

// speech is one advert of one family.
type speech struct {
	from     string
	at       time.Time
	priority uint8
}

func speeches(f family, seen []sighting) []speech {
	var all []speech
	for _, g := range seen {
		if g.advert != nil && g.advert.source.Is6() == (f == ipv6) {
			all = append(all, speech{g.from, g.at, g.advert.priority})
		}
	}
	return all
}

// judgeSpeakers demands that the speaker changed as the scenario says and not
// otherwise, that nobody else spoke, and that each change took the time it must take.
func (s *stand) judgeSpeakers(f family, seen []sighting) {
	s.t.Helper()
	words := speeches(f, seen)
	var speaker, before string // before spoke before the newest change
	var since time.Time
	leftBehind, expected := 0, s.expected
	for _, w := range words {
		switch {
		case s.inPartition(w.at, s.interval+s.room(w.at.Add(-s.interval), w.at)):
			continue // see judgeTie
		case w.priority == 0:
			if w.from == speaker {
				speaker, before = "", w.from
			}
			continue
		case w.from == speaker:
			continue
		case speaker != "" && w.from == before && w.at.Sub(since) <= s.interval/2+s.room(since, w.at):
			leftBehind++ // it has not yet heard its successor
			continue
		}
		if len(expected) > 0 && expected[0].why == tieBreak && w.from == expected[0].to {
			before, speaker, since, expected = speaker, w.from, w.at, expected[1:]
			continue
		}
		if len(expected) == 0 || expected[0].to != w.from || w.at.Before(expected[0].since) {
			s.t.Errorf("%v: %s advertises priority %d at %s, though %s", f, w.from, w.priority, stamp(w.at), s.describe(speaker, before, expected))
			return
		}
		s.judgeChange(f, expected[0], w.at, words, seen)
		expected = expected[1:]
		if speaker != "" {
			before = speaker
		}
		speaker, since = w.from, w.at
	}
	for _, c := range expected {
		if c.why == tieBreak && speaker == c.to {
			continue
		}
		s.t.Errorf("%v: %s has not taken over from %s (%v)", f, c.to, c.from, c.why)
	}
	for _, p := range s.partitions {
		s.judgeTie(f, p, words)
	}
	s.t.Logf("%v: %d adverts of a MASTER that had not yet heard the next", f, leftBehind)
}

func stamp(at time.Time) string { return at.Format("15:04:05.000") }

func (s *stand) describe(speaker, before string, expected []change) string {
	now := speaker + " is MASTER"
	if speaker == "" {
		now = "nobody is MASTER"
		if before != "" {
			now += " since the goodbye of " + before
		}
	}
	if len(expected) > 0 {
		return fmt.Sprintf("%s, and next is %s from %s (%v, caused at %s)", now, expected[0].to, expected[0].from, expected[0].why, stamp(expected[0].since))
	}
	return now + ", and that should stay"
}

// judgeChange demands that a change took the time that follows from the timers, and
// that the addresses were announced after it.
func (s *stand) judgeChange(f family, c change, at time.Time, words []speech, seen []sighting) {
	s.t.Helper()
	priority := s.routers[c.to].base().priority
	var from, to time.Time // bounds
	switch c.why {
	case startup:
		from, to = c.since.Add(s.down(priority)), c.ready.Add(s.down(priority))
	case goodbye:
		said := s.lastWord(f, c, at, words, seen, func(w speech) bool { return w.priority == 0 })
		from, to = said.Add(s.skew(priority)), said.Add(s.skew(priority))
	case silence:
		said := s.lastWord(f, c, at, words, seen, func(w speech) bool { return w.priority > 0 })
		from, to = said.Add(s.down(priority)), said.Add(s.down(priority))
	}
	if to.IsZero() {
		return
	}
	from, to = from.Add(-s.imprecision(c.to)), to.Add(s.room(from, at))
	if at.Before(from) || at.After(to) {
		s.t.Errorf("%v: %s took over from %s (%v) at %s, want %s to %s", f, c.to, c.from, c.why, stamp(at), stamp(from), stamp(to))
	}
	s.t.Logf("%v: %s took over from %q (%v) %v after the earliest moment, %v before the latest", f, c.to, c.from, c.why, at.Sub(from), to.Sub(at))
	s.judgeAnnouncements(f, c.to, at, seen)
}

// lastWord is when the old MASTER last said such a thing before the new one took over.
// For Tandem an advert of either family counts: both carry one group.
func (s *stand) lastWord(f family, c change, at time.Time, words []speech, seen []sighting, such func(speech) bool) time.Time {
	s.t.Helper()
	if _, ok := s.routers[c.to].(*tandem); ok && s.ipv6 {
		words = append(speeches(ipv4, seen), speeches(ipv6, seen)...)
	}
	var last time.Time
	for _, w := range words {
		if w.from == c.from && such(w) && !w.at.After(at) && !w.at.Before(c.since.Add(-2*s.interval)) && w.at.After(last) {
			last = w.at
		}
	}
	if last.IsZero() {
		s.t.Errorf("%v: %s has not said the last word that %v needs", f, c.from, c.why)
	}
	return last
}

// judgeTie demands that after a partition the loser fell silent as soon as it had heard
// the winner, and that Tandem answered a losing advert at once (§6.4.3).
func (s *stand) judgeTie(f family, p span, words []speech) {
	s.t.Helper()
	i := slices.IndexFunc(s.expected, func(c change) bool { return c.why == tieBreak })
	winner, loser := s.expected[i].to, s.expected[i].from
	spoke := map[string]int{}
	var last, answered time.Time
	for _, w := range words {
		if w.at.After(p.from) && w.at.Before(p.to) {
			spoke[w.from]++
		}
		if w.at.Before(p.to) {
			continue
		}
		if w.from == loser {
			last = w.at
		} else if answered.IsZero() && !last.IsZero() {
			answered = w.at
		}
	}
	if spoke[winner] == 0 || spoke[loser] == 0 {
		s.t.Errorf("%v: in the partition there were not two MASTERs: %v", f, spoke)
	}
	if limit := s.interval + s.room(p.to, p.to.Add(s.interval)); last.Sub(p.to) > limit {
		s.t.Errorf("%v: %s, which had to yield to %s, spoke until %v after the partition, want at most %v", f, loser, winner, last.Sub(p.to), limit)
	}
	_, ours := s.routers[winner].(*tandem)
	if ours && !last.IsZero() {
		if took, limit := answered.Sub(last), s.room(last, answered); took < 0 || took > limit {
			s.t.Errorf("%v: %s answered a losing advert after %v, want at most %v", f, winner, took, limit)
		}
	}
	s.t.Logf("%v: %s fell silent %v after the partition", f, loser, last.Sub(p.to))
}

// judgeAnnouncements demands that a new MASTER announced every virtual address, after
// its first advert (§6.4.2).
func (s *stand) judgeAnnouncements(f family, name string, at time.Time, seen []sighting) {
	s.t.Helper()
	limit := at.Add(s.room(at, at.Add(schedulingRoom)))
	for _, address := range f.virtualAddresses() {
		var faults []string
		found := slices.ContainsFunc(seen, func(g sighting) bool {
			if g.from != name || g.at.Before(at) || g.at.After(limit) || !g.announces(address) {
				return false
			}
			fault := g.announcementFault(f)
			if fault != "" {
				faults = append(faults, fault)
			}
			return fault == ""
		})
		if !found {
			s.t.Errorf("%s has not announced %v within %v of its first advert: %s", name, address, limit.Sub(at), strings.Join(slices.Compact(faults), "; "))
		}
	}
}

// announces tells whether a frame tells everybody unasked where an address is.
func (g sighting) announces(address netip.Addr) bool {
	switch {
	case g.arp != nil:
		return g.arp.senderAddress == address && g.arp.targetAddress == address
	case g.neighbour != nil:
		return g.neighbour.target == address && g.neighbour.destination.IsMulticast()
	}
	return false
}

// announcementFault says what is wrong with an announcement; empty if nothing is.
func (g sighting) announcementFault(f family) string {
	broadcast := hardware{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	switch n := g.neighbour; {
	case g.source != f.virtualMAC():
		return fmt.Sprintf("one came from %v", g.source)
	case g.arp != nil && (g.destination != broadcast || g.arp.senderHardware != f.virtualMAC()):
		return fmt.Sprintf("a gratuitous ARP to %v said %v", g.destination, g.arp.senderHardware)
	case n != nil && (n.destination != netip.MustParseAddr("ff02::1") || n.hopLimit != 255 || !n.intact):
		return fmt.Sprintf("a neighbour advertisement to %v has hop limit %d, its checksum is right: %v", n.destination, n.hopLimit, n.intact)
	case n != nil && (!n.router || n.solicited || !n.override || n.linkLayer != f.virtualMAC()):
		return fmt.Sprintf("a neighbour advertisement has R=%v S=%v O=%v and the address %v", n.router, n.solicited, n.override, n.linkLayer)
	}
	return ""
}

// judgeSilence demands that Tandem's virtual MAC addresses said nothing but while its
// adverts held the lease.
func (s *stand) judgeSilence(name string, seen []sighting) {
	s.t.Helper()
	lease := s.interval*5/2 + leaseTick
	var advert time.Time
	bye := map[family]bool{}
	count := 0
	for _, g := range seen {
		if g.from != name || g.source != ipv4.virtualMAC() && g.source != ipv6.virtualMAC() {
			continue
		}
		if a := g.advert; a != nil {
			f := ipv4
			if a.source.Is6() {
				f = ipv6
			}
			if a.priority > 0 {
				advert = g.at
				clear(bye)
				continue
			}
			bye[f] = true
		}
		count++
		switch {
		case advert.IsZero() || g.at.Sub(advert) > lease:
			s.t.Errorf("%s sent a frame from %v to %v at %s, when its last advert was %v old", name, g.source, g.destination, stamp(g.at), g.at.Sub(advert))
		case g.advert == nil && len(bye) == len(s.families()):
			s.t.Errorf("%s sent a frame from %v to %v at %s, after its goodbye", name, g.source, g.destination, stamp(g.at))
		}
	}
	s.t.Logf("%s sent %d frames that are no adverts from its virtual MAC addresses", name, count)
}

// judgeAnswers demands that whoever takes over answers for the virtual addresses, and
// that Tandem never gives its own MAC address for them (§8.1.2, §8.2.2). (That it says
// nothing while it is BACKUP, judgeSilence sees.)
func (s *stand) judgeAnswers(seen []sighting) {
	s.t.Helper()
	answers, wrong := map[string]int{}, map[string]int{}
	for _, g := range seen {
		address, mac, ok := g.answer()
		if !ok {
			continue
		}
		f := ipv4
		if address.Is6() {
			f = ipv6
		}
		if !slices.Contains(f.virtualAddresses(), address) {
			continue
		}
		answers[g.from]++
		if mac == f.virtualMAC() && g.source == mac {
			continue
		}
		wrong[g.from]++
		if _, ours := s.routers[g.from].(*tandem); ours && wrong[g.from] == 1 {
			s.t.Errorf("%s answered for %v with %v from %v", g.from, address, mac, g.source)
		}
	}
	for _, c := range s.expected {
		if answers[c.to] == 0 {
			s.t.Errorf("%s, which was MASTER, has never answered the host", c.to)
		}
	}
	s.t.Logf("answers: %v, with a wrong MAC address: %v", answers, wrong)
	if n := slices.Sorted(maps.Keys(wrong)); len(n) > 0 {
		s.t.Logf("deviation: %v answered for a virtual address with another MAC address", n)
	}
}

// answer is an answer to the host's question: for what address, with what MAC.
func (g sighting) answer() (netip.Addr, hardware, bool) {
	switch {
	case g.arp != nil && g.arp.operation == 2 && g.arp.targetAddress == netip.MustParseAddr(hostAddress):
		return g.arp.senderAddress, g.arp.senderHardware, true
	case g.neighbour != nil && g.neighbour.destination == netip.MustParseAddr(hostAddress6):
		return g.neighbour.target, g.neighbour.linkLayer, true
	}
	return netip.Addr{}, hardware{}, false
}
