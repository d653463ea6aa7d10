package consult

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"tandem/appliance/doctor"
	"tandem/appliance/doctor/examine"
	"tandem/vrrp"
)

const (
	// frames is how many test frames of each kind are sent, frameGap apart.
	frames   = 5
	frameGap = 20 * time.Millisecond
	// settleTime is for how long frames may be under way or wait for a busy machine.
	settleTime = 500 * time.Millisecond
)

// sizes are lengths of IP packets that tunnels and VLANs commonly leave, up to the MTU.
func sizes(mtu, otherMTU int) []int {
	list := []int{576, 1280, 1400, 1420, 1440, 1450, 1460, 1472, 1480, 1488, 1492, 1496, 1500, 4000, 8000, 8900, 8950, 9000, otherMTU, mtu}
	list = slices.DeleteFunc(list, func(size int) bool { return size > mtu })
	slices.Sort(list)
	return slices.Compact(list)
}

// burst sends every kind of test frame on every carrier, both sides at the same time.
// All come from the physical MAC addresses, so that it does not disturb a running node.
func (c *consultation) burst(ctx context.Context) error {
	if err := c.step("burst"); err != nil {
		return err
	}
	for range frames {
		for _, s := range c.shared {
			c.sendKinds(s)
		}
		wait(ctx, frameGap)
	}
	for range 2 {
		for _, s := range c.shared {
			for _, size := range sizes(s.link.MTU, s.link.OtherMTU) {
				_ = s.station.Send(examine.Test{Session: c.session, Kind: examine.OfSize, Size: size}, c.toPeer(s)) // what is not sent is not heard
			}
		}
		wait(ctx, frameGap)
	}
	if err := c.step("sent"); err != nil {
		return err
	}
	wait(ctx, settleTime)
	heard := map[string]doctor.Direction{}
	for _, s := range c.shared {
		s.link.In = c.count(s.station)
		heard[s.name] = s.link.In
	}
	var theirs map[string]doctor.Direction
	if err := c.exchange("heard", stepPatience, heard, &theirs); err != nil {
		return err
	}
	for _, s := range c.shared {
		s.link.Out = theirs[s.name]
	}
	return nil
}

func (c *consultation) toPeer(s sharedCarrier) examine.Envelope {
	return examine.Envelope{From: s.station.MAC(), To: s.otherMAC, Source: s.own.Addr(), Destination: s.other}
}

// sendKinds sends one frame of each kind. What is not sent is not heard, which says
// enough.
func (c *consultation) sendKinds(s sharedCarrier) {
	group := vrrp.MulticastIPv4()
	_ = s.station.Send(examine.Test{Session: c.session, Kind: examine.ToGroup4}, examine.Envelope{
		From: s.station.MAC(), To: examine.GroupMAC(group), Source: s.own.Addr(), Destination: group,
	})
	_ = s.station.Send(examine.Test{Session: c.session, Kind: examine.ToPeer}, c.toPeer(s))
	if s.ipv6 {
		group = vrrp.MulticastIPv6()
		_ = s.station.Send(examine.Test{Session: c.session, Kind: examine.ToGroup6}, examine.Envelope{
			From: s.station.MAC(), To: examine.GroupMAC(group), Source: s.source(group), Destination: group,
		})
	}
}

// count sums up what a station heard of the other side.
func (c *consultation) count(s *examine.Station) doctor.Direction {
	d := doctor.Direction{Sent: frames}
	for _, h := range s.Heard(func(h examine.Heard) bool { return h.Test != nil && h.Test.Session == c.session }) {
		switch h.Test.Kind {
		case examine.ToGroup4:
			d.Multicast++
		case examine.ToGroup6:
			d.Multicast6++
		case examine.ToPeer:
			d.Unicast++
		case examine.OfSize:
			d.Largest = max(d.Largest, h.Size)
		case examine.FromVirtual, examine.ToVirtual: // another step
		}
	}
	return d
}

// attempt is one virtual MAC address on one carrier during a round.
type attempt struct {
	sharedCarrier
	target virtualLink
	// test is where the outcome goes, key how the two sides name it.
	test *doctor.Virtual
	key  string
	// link is the owner's, while it has it.
	link *examine.VirtualLink
}

// outcome is what one side saw of an attempt.
type outcome struct {
	Problem   string `json:"problem,omitempty"`
	Accepted  bool   `json:"accepted"`
	Delivered bool   `json:"delivered"`
	Asked     bool   `json:"asked"`
	Answered  bool   `json:"answered"`
}

// moveVirtual gives the virtual MAC addresses to one member and then to the other.
func (c *consultation) moveVirtual(ctx context.Context) error {
	attempts := c.attempts()
	owners := []string{c.Node, c.other.Name}
	slices.Sort(owners)
	for i, owner := range owners {
		if err := c.round(ctx, uint8(i+1), owner == c.Node, attempts); err != nil {
			return err
		}
	}
	for _, s := range c.shared {
		for _, a := range attempts {
			if a.name == s.name {
				s.link.Virtuals = append(s.link.Virtuals, *a.test)
			}
		}
	}
	return nil
}

// attempts lists what can be tested. Both sides come to the same list.
func (c *consultation) attempts() []*attempt {
	var list []*attempt
	for _, s := range c.shared {
		why := c.theirs.Ends[s.name].Occupied
		if own := c.mine.Ends[s.name].Occupied; own != "" {
			why = own
		}
		for _, target := range s.tested() {
			mac := macText(target.mac)
			if why != "" {
				s.link.Virtuals = append(s.link.Virtuals, doctor.Virtual{MAC: mac, Untested: untested(mac, why)})
				continue
			}
			list = append(list, &attempt{sharedCarrier: s, target: target, test: &doctor.Virtual{MAC: mac}, key: s.name + " " + mac})
		}
	}
	return list
}

func untested(mac, why string) string {
	return "the virtual MAC " + mac + " was left alone because " + why + "; ask again when nothing uses it, before both nodes run"
}

// round is one owner's turn. Every step is for both sides to say that they have done
// their part.
func (c *consultation) round(ctx context.Context, number uint8, owner bool, attempts []*attempt) error {
	seen := map[string]*outcome{}
	for _, a := range attempts {
		seen[a.key] = &outcome{}
	}
	defer func() { release(attempts) }()
	if owner {
		c.take(ctx, number, attempts, seen)
	}
	if err := c.step("virtual-sent"); err != nil {
		return err
	}
	if !owner {
		c.watch(ctx, number, attempts, seen)
	}
	if err := c.step("virtual-returned"); err != nil {
		return err
	}
	if owner {
		c.receive(ctx, number, attempts, seen)
		release(attempts)
	}
	var theirs map[string]*outcome
	if err := c.exchange("virtual-seen", stepPatience, seen, &theirs); err != nil {
		return err
	}
	names := [2]string{c.Node, c.other.Name}
	for _, a := range attempts {
		owners, watchers := seen[a.key], theirs[a.key]
		r := doctor.Round{Owner: names[0], Watcher: names[1]}
		if !owner {
			r.Owner, r.Watcher = names[1], names[0]
			owners, watchers = watchers, owners
		}
		if owners == nil || watchers == nil {
			return errSpeech
		}
		r.Problem, r.Accepted, r.Delivered = owners.Problem, watchers.Accepted, owners.Delivered
		r.Gateway, r.Answered = owners.Asked && c.gatewayAnswers(a), owners.Answered
		a.test.Rounds = append(a.test.Rounds, r)
	}
	return nil
}

// gatewayAnswers tells whether the gateway answers this node's own address: one that
// is off says nothing about the virtual MAC.
func (c *consultation) gatewayAnswers(a *attempt) bool {
	gateway, ok := a.gateway()
	return ok && len(a.station.Answers(gateway)) > 0
}

// gateway is the next hop of the virtual link's family.
func (a *attempt) gateway() (netip.Addr, bool) {
	for _, gateway := range a.gateways {
		if gateway.Is4() == a.target.addresses[0].Is4() {
			return gateway, true
		}
	}
	return netip.Addr{}, false
}

// take makes the virtual links, speaks from them and asks the gateways.
func (c *consultation) take(ctx context.Context, number uint8, attempts []*attempt, seen map[string]*outcome) {
	for _, a := range attempts {
		link, err := examine.OpenVirtualLink(a.iface, a.target.mac)
		if err != nil {
			seen[a.key].Problem = err.Error()
			continue
		}
		a.link = link
	}
	for range frames {
		for _, a := range attempts {
			if a.link != nil {
				c.speak(number, a, seen[a.key])
			}
		}
		wait(ctx, frameGap)
	}
}

// speak sends what is not heard if it is not sent, so errors say nothing more.
func (c *consultation) speak(number uint8, a *attempt, seen *outcome) {
	group := vrrp.MulticastIPv4()
	test := examine.Test{Session: c.session, Kind: examine.FromVirtual, Round: number}
	_ = a.link.Send(test, examine.Envelope{
		From: a.target.mac, To: examine.GroupMAC(group), Source: a.own.Addr(), Destination: group,
	})
	// Where multicast is filtered, that must not be blamed on the virtual MAC.
	_ = a.link.Send(test, examine.Envelope{From: a.target.mac, To: a.otherMAC, Source: a.own.Addr(), Destination: a.other})
	if gateway, ok := a.gateway(); ok {
		seen.Asked = a.link.Ask(a.target.addresses[0], gateway) == nil
	}
}

// watch listens for the owner and then calls it at its virtual MAC.
func (c *consultation) watch(ctx context.Context, number uint8, attempts []*attempt, seen map[string]*outcome) {
	for _, a := range attempts {
		seen[a.key].Accepted = a.station.Await(ctx, settleTime, c.is(examine.FromVirtual, number, a.target.mac, true))
	}
	for range frames {
		for _, a := range attempts {
			_ = a.station.Send(examine.Test{Session: c.session, Kind: examine.ToVirtual, Round: number}, examine.Envelope{
				From: a.station.MAC(), To: a.target.mac, Source: a.own.Addr(), Destination: a.other,
			}) // as in speak
		}
		wait(ctx, frameGap)
	}
}

func (c *consultation) receive(ctx context.Context, number uint8, attempts []*attempt, seen map[string]*outcome) {
	for _, a := range attempts {
		if a.link == nil {
			continue
		}
		seen[a.key].Delivered = a.link.Await(ctx, settleTime, c.is(examine.ToVirtual, number, a.target.mac, false))
		if gateway, ok := a.gateway(); ok && seen[a.key].Asked {
			seen[a.key].Answered = a.link.Await(ctx, settleTime, func(h examine.Heard) bool { return h.Answer == gateway })
		}
	}
}

// is matches test frames of this session from or to a virtual MAC.
func (c *consultation) is(kind examine.Kind, number uint8, mac [6]byte, from bool) func(examine.Heard) bool {
	return func(h examine.Heard) bool {
		if h.Test == nil || h.Test.Session != c.session || h.Test.Kind != kind || h.Test.Round != number {
			return false
		}
		return from && h.From == mac || !from && h.To == mac
	}
}

func release(attempts []*attempt) {
	for _, a := range attempts {
		if a.link != nil {
			_ = a.link.Close() // it vanishes with the process in any case
			a.link = nil
		}
	}
}
