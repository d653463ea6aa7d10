package doctor

import (
	"strings"
	"time"
)

// Pair is what the doctors of both members found out together. This node is Self.
type Pair struct {
	Self, Other string
	// Met tells that they found each other. If not, Problem says why, and Refused
	// that it was because of a key. Address is where the other one was expected.
	Met, Refused bool
	Problem      string
	Address      string
	Waited       time.Duration
	// Broken tells where the conversation ended too early; empty if it did not.
	Broken string

	// Version, Hash and Wall are this node's, the others the other's.
	Version, OtherVersion string
	Hash, OtherHash       string
	// Skew is how far the other wall clock is ahead.
	Skew time.Duration
	// OtherTrouble counts what the other doctor finds in trouble on its side.
	OtherTrouble int

	Links []Link
	Echo  Echo
}

// Link is one carrier between the two members.
type Link struct {
	Carrier string
	// Interface and OtherInterface are its ends, MTU and OtherMTU theirs.
	Interface, OtherInterface string
	MTU, OtherMTU             int
	// Problem says why nothing could be tested; empty if it was.
	Problem string
	// Out is what this node sent and the other one heard, In the other way round.
	Out, In Direction
	// Multicast tells that adverts go to a multicast group, IPv6 that some are IPv6.
	Multicast, IPv6 bool
	// Virtuals are the tests of virtual MAC addresses, if there are any.
	Virtuals []Virtual
	// OtherHears is how long ago the other node has heard this MASTER's advert here,
	// negative if never; nil if this node is not MASTER or one does not run.
	OtherHears *time.Duration
}

// Direction counts test frames.
type Direction struct {
	// Sent is how many of each kind were sent.
	Sent int `json:"sent"`
	// Multicast, Multicast6 and Unicast are those that were heard.
	Multicast  int `json:"multicast"`
	Multicast6 int `json:"multicast6"`
	Unicast    int `json:"unicast"`
	// Largest is the greatest IP packet that was heard, in bytes.
	Largest int `json:"largest"`
}

func (d Direction) silent() bool { return d.Multicast+d.Multicast6+d.Unicast+d.Largest == 0 }

// Virtual is the test of a virtual MAC address: one round per owner, in order.
type Virtual struct {
	MAC string
	// Untested says why there are no rounds.
	Untested string
	Rounds   []Round
}

// Round is one member's turn with the virtual MAC address.
type Round struct {
	// Owner has the address, Watcher is the other member.
	Owner, Watcher string
	// Problem says why the owner could not have it; empty if it could.
	Problem string
	// Accepted tells that frames from the address reached the watcher.
	Accepted bool
	// Delivered tells that frames to the address reached the owner.
	Delivered bool
	// Gateway tells that the uplink's gateway was asked from the address, Answered
	// that its answer reached the owner.
	Gateway, Answered bool
}

// Echo is the outcome of a burst of datagrams over the HA link.
type Echo struct {
	// Tested is false if there was no burst; Problem says why.
	Tested         bool
	Problem        string
	Sent, Received int
	// Median, High and Max are of the round trips; nine of ten took no longer than High.
	Median, High, Max time.Duration
	Port              uint16
}

// Bounds of the judgements on a pair.
const (
	maxSkew = time.Second
	// haCarrier is the name of the HA link among the carriers.
	haCarrier = "ha"
	// echoMargin is how many round trips a beat should hold.
	echoMargin = 4
)

// JudgePair says what is to say about the network between the members.
func JudgePair(p Pair, n Needs) []Finding {
	f := &findings{section: SectionPeer}
	if !p.Met {
		judgeAbsence(f, p)
		return f.list
	}
	judgeAgreement(f, p)
	if p.Broken != "" {
		f.trouble("conversation", haCarrier, "the conversation with the doctor on %s ended too early (%s): check the HA link and ask again", p.Other, p.Broken)
	}
	judgeEcho(f, p, n)
	for _, l := range p.Links {
		judgeConnection(f, p, l)
		judgeAdverts(f, p, l, n)
	}
	return f.list
}

func judgeAbsence(f *findings, p Pair) {
	switch {
	case p.Refused:
		f.trouble("meeting", haCarrier, "%s", p.Problem)
	case p.Problem != "":
		f.untested("meeting", haCarrier, "no doctor on %s was met at %s within %v (%s); run `tandem doctor` on %s at the same time, and let TCP and UDP to that port pass", p.Other, p.Address, p.Waited.Round(time.Second), p.Problem, p.Other)
	default:
		f.untested("meeting", haCarrier, "no doctor on %s was met at %s within %v; run `tandem doctor` on %s at the same time, and let TCP and UDP to that port pass", p.Other, p.Address, p.Waited.Round(time.Second), p.Other)
	}
}

func judgeAgreement(f *findings, p Pair) {
	f.ok("meeting", haCarrier, "the doctor on %s was met at %s and both proved their keys", p.Other, p.Address)
	if p.Hash == p.OtherHash {
		f.ok("document", "", "both members have the same document")
	} else {
		f.trouble("document", "", "the documents differ, %s here and %s on %s: copy one to the other member", short(p.Hash), short(p.OtherHash), p.Other)
	}
	if p.Version == p.OtherVersion {
		f.ok("version", "", "both members run %s", p.Version)
	} else {
		f.warn("version", "", "this member has version %s and %s has %s: run the same on both", p.Version, p.Other, p.OtherVersion)
	}
	if p.Skew.Abs() > maxSkew {
		f.warn("wall-clocks", "", "the wall clocks differ by %s; the election does not depend on them, but the logs are hard to compare: run an NTP client on both", span(p.Skew.Abs()))
	} else {
		f.ok("wall-clocks", "", "the wall clocks differ by less than %v", maxSkew)
	}
	if p.OtherTrouble > 0 {
		f.warn("other-side", "", "the doctor on %s finds trouble there (%d): see what it says", p.Other, p.OtherTrouble)
	}
}

// short is the beginning of a hash, enough to tell two apart.
func short(hash string) string { return hash[:min(len(hash), 12)] }

func judgeEcho(f *findings, p Pair, n Needs) {
	e := p.Echo
	if !e.Tested {
		f.untested("round-trip", haCarrier, "there was no burst of datagrams (%s); mend that and ask again", e.Problem)
		return
	}
	lost := e.Sent - e.Received
	limit := n.patience() * 2 / echoMargin
	switch {
	case e.Received == 0:
		f.trouble("round-trip", haCarrier, "none of %d UDP datagrams to port %d of %s came back, though TCP passes: open UDP between the members on the HA link, heartbeats need it", e.Sent, e.Port, p.Other)
	case lost*10 > e.Sent:
		f.trouble("round-trip", haCarrier, "%d of %d datagrams were lost, which heartbeats do not bear: check cable, duplex and load of the HA link", lost, e.Sent)
	case lost > 0:
		f.warn("round-trip", haCarrier, "%d of %d datagrams were lost: check cable, duplex and load of the HA link", lost, e.Sent)
	case e.High > limit:
		f.warn("round-trip", haCarrier, "one round trip of ten took %s or more (median %s, max %s), and at an advertisement_interval of %v not more than %s is good: take a faster link, or an interval of %v",
			span(e.High), span(e.Median), span(e.Max), n.Interval, span(limit), advisable(e.High))
	default:
		f.ok("round-trip", haCarrier, "%d of %d datagrams came back, median %s, max %s; good for an advertisement_interval of %v", e.Received, e.Sent, span(e.Median), span(e.Max), n.Interval)
	}
}

// advisable is the interval, a multiple of 50 ms, at which a round trip is no matter.
func advisable(roundTrip time.Duration) time.Duration {
	const step = 50 * time.Millisecond
	need := roundTrip * echoMargin * beatsPerAdvert
	return max((need+step-1)/step*step, 2*step)
}

func judgeConnection(f *findings, p Pair, l Link) {
	switch {
	case l.Problem != "":
		f.untested("frames", l.Carrier, "%s; mend that and ask again", l.Problem)
		return
	case l.Out.silent() && l.In.silent():
		f.trouble("frames", l.Carrier, "nothing passes between %s (%s) and %s (%s): check cables, and that both ports are in the same VLAN", p.Self, l.Interface, p.Other, l.OtherInterface)
		return
	case l.Out.silent() || l.In.silent():
		from, to, ends := p.Self, p.Other, [2]string{l.Interface, l.OtherInterface}
		if l.In.silent() {
			from, to, ends = p.Other, p.Self, [2]string{l.OtherInterface, l.Interface}
		}
		f.trouble("frames", l.Carrier, "%s is a one-way link: nothing from %s (%s) reaches %s (%s), while the other direction works: look for a filter, a broken fibre or a one-way VLAN between them", l.Carrier, from, ends[0], to, ends[1])
		return
	}
	good := judgeDirection(f, l, p.Self, p.Other, l.Out)
	good = judgeDirection(f, l, p.Other, p.Self, l.In) && good
	if good {
		f.ok("frames", l.Carrier, "%s pass both ways between %s (%s) and %s (%s)", kinds(l), p.Self, l.Interface, p.Other, l.OtherInterface)
	}
	judgeMTU(f, p, l)
	for _, v := range l.Virtuals {
		judgeVirtual(f, l, v)
	}
}

// judgeAdverts says whether the other node hears this MASTER.
func judgeAdverts(f *findings, p Pair, l Link, n Needs) {
	switch {
	case l.OtherHears == nil:
	case *l.OtherHears < 0:
		f.trouble("adverts", l.Carrier, "%s has never heard the adverts of this MASTER on %s: see above what stops them", p.Other, l.Carrier)
	case *l.OtherHears > n.silence():
		f.trouble("adverts", l.Carrier, "%s has not heard the adverts of this MASTER on %s for %s: see above what stops them", p.Other, l.Carrier, span(*l.OtherHears))
	default:
		f.ok("adverts", l.Carrier, "%s hears the adverts of this MASTER on %s", p.Other, l.Carrier)
	}
}

func kinds(l Link) string {
	switch {
	case l.Multicast && l.IPv6:
		return "unicast and multicast (IPv4, IPv6)"
	case l.Multicast:
		return "unicast and multicast"
	}
	return "unicast frames"
}

// judgeDirection is true if there was nothing to say.
func judgeDirection(f *findings, l Link, from, to string, d Direction) bool {
	before := len(f.list)
	const remedy = "allow it on the switch; IGMP or MLD snooping without a querier and storm control are the usual causes"
	if l.Multicast && d.Multicast == 0 {
		f.trouble("multicast", l.Carrier, "multicast to 224.0.0.18 (VRRP) does not pass from %s to %s on %s: %s", from, to, l.Carrier, remedy)
	}
	if l.Multicast && l.IPv6 && d.Multicast6 == 0 {
		f.trouble("multicast", l.Carrier, "multicast to ff02::12 (VRRP over IPv6) does not pass from %s to %s on %s: %s", from, to, l.Carrier, remedy)
	}
	if d.Unicast == 0 {
		f.trouble("unicast", l.Carrier, "unicast does not pass from %s to %s on %s, though other frames do: look for a filter on IP protocol 112, or private VLANs", from, to, l.Carrier)
	}
	heard := min(d.Unicast, d.Sent)
	if l.Multicast {
		heard = min(heard, d.Multicast)
	}
	if heard > 0 && heard < d.Sent {
		f.warn("loss", l.Carrier, "%d of %d frames from %s to %s were lost on %s: check cable, duplex and load", d.Sent-heard, d.Sent, from, to, l.Carrier)
	}
	return len(f.list) == before
}

func judgeMTU(f *findings, p Pair, l Link) {
	if l.MTU != l.OtherMTU {
		f.trouble("mtu", l.Carrier, "%s has MTU %d on %s and %s has %d on %s: make them equal, or large packets vanish after a failover", p.Self, l.MTU, l.Interface, p.Other, l.OtherMTU, l.OtherInterface)
		return
	}
	before := len(f.list)
	for _, way := range []struct {
		from, to string
		d        Direction
	}{{p.Self, p.Other, l.Out}, {p.Other, p.Self, l.In}} {
		if way.d.Largest > 0 && way.d.Largest < l.MTU {
			f.trouble("mtu", l.Carrier, "packets of %d bytes do not pass from %s to %s on %s although its MTU says so, %d do: raise the MTU of what is between, or lower that of both ports to %d",
				l.MTU, way.from, way.to, l.Carrier, way.d.Largest, way.d.Largest)
		}
	}
	if len(f.list) == before && l.Out.Largest == l.MTU && l.In.Largest == l.MTU {
		f.ok("mtu", l.Carrier, "packets of %d bytes pass both ways", l.MTU)
	}
}

func judgeVirtual(f *findings, l Link, v Virtual) {
	if v.Untested != "" {
		f.untested("virtual-mac", l.Carrier, "%s", v.Untested)
		return
	}
	good, delivered := len(v.Rounds) > 0, false
	var taught []string
	for _, r := range v.Rounds {
		good = judgeRound(f, l, v, r, delivered) && good
		delivered = delivered || r.Delivered
		if r.Gateway && r.Answered {
			taught = append(taught, r.Owner)
		}
	}
	if good {
		f.ok("virtual-mac", l.Carrier, "frames from and to %s pass, and it moves from member to member", v.MAC)
	}
	if len(taught) > 0 {
		f.ok("gratuitous-arp", l.Carrier, "the gateway learnt %s from %s and its answers arrived there", v.MAC, strings.Join(taught, " and then from "))
	}
}

// judgeRound is true if the virtual MAC address worked for its owner. elsewhere tells
// that it did before for the other one.
func judgeRound(f *findings, l Link, v Virtual, r Round, elsewhere bool) bool {
	switch {
	case r.Problem != "":
		f.untested("virtual-mac", l.Carrier, "%s could not take the virtual MAC %s (%s); mend that and ask again", r.Owner, v.MAC, r.Problem)
	case !r.Accepted:
		f.trouble("virtual-mac", l.Carrier, "frames from the virtual MAC %s that %s sends on %s do not reach %s: allow other source addresses on its port (VMware: forged transmits and MAC changes; else port security, MAC spoofing protection), or set virtual_mac: false", v.MAC, r.Owner, l.Carrier, r.Watcher)
	case !r.Delivered && elsewhere:
		f.trouble("virtual-mac-moves", l.Carrier, "the virtual MAC %s does not move on %s: %s has sent from it, and frames to it still do not arrive there: turn off sticky addresses, port security and MAC-move protection on the switch", v.MAC, l.Carrier, r.Owner)
	case !r.Delivered:
		f.trouble("virtual-mac", l.Carrier, "frames to the virtual MAC %s on %s do not reach %s: let its port receive other addresses than its own (VMware: promiscuous mode or MAC learning), or set virtual_mac: false", v.MAC, l.Carrier, r.Owner)
	default:
		if r.Gateway && !r.Answered {
			f.warn("gratuitous-arp", l.Carrier, "the gateway of %s answers %s itself, but not when asked from the virtual MAC %s: look for ARP inspection or a static entry on the gateway or the switch", l.Carrier, r.Owner, v.MAC)
		}
		return true
	}
	return false
}
