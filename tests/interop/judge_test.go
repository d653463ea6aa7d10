package interop

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
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
	// beats: the other member of the pair has sent no heartbeat and given no answer.
	beats
	// handover: the other member of the pair has offered the role.
	handover
)

func (r reason) String() string {
	return map[reason]string{startup: "startup", goodbye: "goodbye", silence: "silence", tieBreak: "tie-break", beats: "beats", handover: "handover"}[r]
}

const (
	// schedulingRoom is for two processors that all routers, the test and the tests of
	// other packages share; by what the test itself was late comes on top.
	schedulingRoom = 150 * time.Millisecond
	// unscheduledRoom is what a router needs that competes with all of them as an equal,
	// as the peers do and Tandem where it may not have real-time priority.
	unscheduledRoom = 500 * time.Millisecond
	// leaseTick is how late the kernel may be with the end of a lease.
	leaseTick = 20 * time.Millisecond
	// linkTime is how late the kernel may tell of a link that came up: it looks at most
	// once a second when links change often, as they do here.
	linkTime = 2 * time.Second
)

// evidence is what a scenario leaves for judgement.
type evidence struct {
	segment
	routers map[string]settings
	// expected are the changes of the speaker that the scenario has caused.
	expected []change
	// partitions are the times in which there were two LANs.
	partitions []span
	// starts are the times in which routers were started.
	starts []span
	// late is by how much the test itself was late at a time.
	late func(from, to time.Time) time.Duration
	// seen is everything that was sent, oldest first; malformed is what the decoder
	// could not read.
	seen      []sighting
	malformed []string
}

// verdict collects what is wrong with the evidence, and what is worth a note.
type verdict struct {
	evidence
	faults, notes []string
	// ours tells that a fault is Tandem's.
	ours bool
}

// fail notes a fault of a router.
func (v *verdict) fail(culprit, format string, values ...any) {
	v.faults = append(v.faults, fmt.Sprintf(format, values...))
	v.ours = v.ours || v.routers[culprit].ours
}

func (v *verdict) note(format string, values ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, values...))
}

// judge looks at all that was sent.
func judge(e evidence) *verdict {
	v := &verdict{evidence: e, faults: slices.Clone(e.malformed), ours: len(e.malformed) > 0}
	v.judgeAdverts()
	for _, f := range v.families() {
		v.judgeSpeakers(f)
	}
	for _, name := range slices.Sorted(maps.Keys(v.routers)) {
		if v.routers[name].ours {
			v.judgeSilence(name)
		}
	}
	v.judgeAnswers()
	return v
}

// prompt tells that Tandem had real-time priority.
func (e *evidence) prompt() bool {
	for _, r := range e.routers {
		if r.ours && !r.realTime {
			return false
		}
	}
	return true
}

// intervalOf is a router's Advertisement_Interval.
func (e *evidence) intervalOf(name string) time.Duration {
	if own := e.routers[name].interval; own > 0 {
		return own
	}
	return e.interval
}

// skew is Skew_Time (RFC 9568 §6.1) of a router that has learned another's interval.
func (e *evidence) skew(name, of string) time.Duration {
	return e.intervalOf(of) * time.Duration(256-int(e.routers[name].priority)) / 256
}

// down is Active_Down_Interval of a router that has learned another's interval.
func (e *evidence) down(name, of string) time.Duration {
	return 3*e.intervalOf(of) + e.skew(name, of)
}

// room is how late a router may be at a time: the longer its timers, the later it may be.
func (e *evidence) room(name string, from, to time.Time) time.Duration {
	interval, stall := e.intervalOf(name), e.late(from, to)
	room := schedulingRoom + interval/10 + stall
	if !e.routers[name].realTime {
		room += unscheduledRoom
	}
	if stall > interval {
		// A BACKUP that woke up late gives the MASTER the time of one more advert.
		room += 2 * interval
	}
	return room
}

// imprecision is how early a router may be: FRR reckons in whole centiseconds.
func (e *evidence) imprecision(name string) time.Duration {
	if e.routers[name].ours {
		return time.Millisecond
	}
	return 10 * time.Millisecond
}

// judgeAdverts looks at each advert field by field.
func (v *verdict) judgeAdverts() {
	type key struct{ from, fault string }
	faults, adverts := map[key]int{}, map[string]int{}
	for _, f := range v.seen {
		if f.advert == nil {
			continue
		}
		adverts[f.from]++
		for _, fault := range v.advertFaults(f) {
			faults[key{f.from, fault}]++
		}
	}
	for k, n := range faults { // in any order
		v.fail(k.from, "%s sent %d of %d adverts with a fault: %s", k.from, n, adverts[k.from], k.fault)
	}
	v.note("adverts: %v", adverts)
}

// faults compares an advert with what its sender must send.
func (e *evidence) advertFaults(f sighting) []string {
	var faults []string
	check := func(ok bool, clause, format string, values ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, values...)+" (RFC 9568 "+clause+")")
		}
	}
	a, c := f.advert, e.routers[f.from]
	fam, group, groupMAC := ipv4, "224.0.0.18", hardware{1, 0, 0x5e, 0, 0, 0x12}
	if a.source.Is6() {
		fam, group, groupMAC = ipv6, "ff02::12", hardware{0x33, 0x33, 0, 0, 0, 0x12}
	}
	version, interval := e.version, e.intervalOf(f.from)
	if fam == ipv6 {
		version = 3
	}
	// Of a pair, a BACKUP asks whether the MASTER lives, and a member that has not met the
	// other is modest.
	question := c.pair && a.priority == 1 && f.source == c.mac()
	modest := c.pair && a.priority >= 100 && a.priority < 110
	// A node that has just started counts links as dead that are not up yet.
	impaired := c.ours && a.priority > 9 && a.priority < 100 && e.justStarted(f.at)
	check(f.source == fam.virtualMAC() || question, "§7.2", "the source MAC address is %v", f.source)
	check(f.destination == groupMAC, "§5.1.1.2", "the destination MAC address is %v", f.destination)
	check(a.destination == netip.MustParseAddr(group), "§5.1.1.2", "the destination is %v", a.destination)
	check(a.source == c.address(fam), "§5.1.1.1, §5.1.2.1", "the source is %v", a.source)
	check(a.ttl == 255, "§5.1.1.3", "TTL or hop limit are %d", a.ttl)
	check(a.version == version, "§5.2.1", "the version is %d", a.version)
	check(a.kind == 1, "§5.2.2", "the type is %d", a.kind)
	check(a.vrid == vrid, "§5.2.3", "the VRID is %d", a.vrid)
	check(a.priority == c.priority || a.priority == 0 || question || modest || impaired, "§5.2.4", "the priority is %d", a.priority)
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

// justStarted tells whether links may still be coming up at a moment.
func (e *evidence) justStarted(at time.Time) bool {
	return slices.ContainsFunc(e.starts, func(s span) bool { return at.After(s.from) && at.Before(s.to.Add(linkTime)) })
}
