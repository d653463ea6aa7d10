package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// judgeAnnouncements demands that a new MASTER announced every virtual address, after
// its first advert (§6.4.2). What others do is worth a note.
func (v *verdict) judgeAnnouncements(f family, c change, at time.Time) {
	name := c.to
	limit := at.Add(v.room(name, at, at.Add(schedulingRoom)))
	for _, address := range f.virtualAddresses() {
		var faults []string
		found := slices.ContainsFunc(v.seen, func(g sighting) bool {
			if g.from != name || g.at.Before(at) || g.at.After(limit) || !g.announces(address) {
				return false
			}
			fault := g.announcementFault(f)
			if fault != "" {
				faults = append(faults, fault)
			}
			return fault == ""
		})
		if found {
			continue
		}
		missing := fmt.Sprintf("%s has not announced %v within %v of its first advert: %s", name, address, limit.Sub(at), strings.Join(slices.Compact(faults), "; "))
		// What a node says soon after its start may be lost, since its links are still coming
		// up; it says it again.
		if v.routers[name].ours && c.why != startup {
			v.fail(name, "%s", missing)
		} else {
			v.note("%s", missing)
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
func (v *verdict) judgeSilence(name string) {
	lease := v.intervalOf(name)*5/2 + leaseTick
	var advert time.Time
	bye := map[family]bool{}
	count := 0
	for _, g := range v.seen {
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
			v.fail(name, "%s sent a frame from %v to %v at %s, when its last advert was %v old", name, g.source, g.destination, stamp(g.at), g.at.Sub(advert))
		case g.advert == nil && len(bye) == len(v.families()):
			v.fail(name, "%s sent a frame from %v to %v at %s, after its goodbye", name, g.source, g.destination, stamp(g.at))
		}
	}
	v.note("%s sent %d frames that are no adverts from its virtual MAC addresses", name, count)
}

// judgeAnswers demands that whoever takes over answers for the virtual addresses, and
// that Tandem never gives its own MAC address for them (§8.1.2, §8.2.2). (That it says
// nothing while it is BACKUP, judgeSilence sees.)
func (v *verdict) judgeAnswers() {
	answers, wrong := map[string]int{}, map[string]int{}
	for _, g := range v.seen {
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
		if v.routers[g.from].ours && wrong[g.from] == 1 {
			v.fail(g.from, "%s answered for %v with %v from %v", g.from, address, mac, g.source)
		}
	}
	for _, c := range v.expected {
		if answers[c.to] == 0 {
			// Nobody's fault at first: broadcasts wait in a queue that all namespaces share.
			v.fail("", "%s, which was MASTER, has never answered the host", c.to)
		}
	}
	v.note("answers: %v, with a wrong MAC address: %v", answers, wrong)
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
