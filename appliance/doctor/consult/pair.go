package consult

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"tandem/appliance/doctor"
	"tandem/appliance/doctor/examine"
	"tandem/router"
)

// hello is how a doctor introduces itself.
type hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
	Hash     string `json:"hash"`
	Running  bool   `json:"running"`
	// Secret is this side's share of the number that marks all test frames.
	Secret uint64 `json:"secret"`
	// Ends are the carriers that it has a working interface on.
	Ends map[string]end `json:"ends"`
	// Trouble counts its findings so far.
	Trouble int `json:"trouble"`
	// Hears is on a BACKUP the age of the newest advert per carrier, negative if none
	// was heard.
	Hears map[string]time.Duration `json:"hears,omitempty"`
}

// end is one side of a carrier.
type end struct {
	Interface string `json:"interface"`
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu"`
	// Occupied says why the virtual MAC may not be used there now; empty if it may.
	Occupied string `json:"occupied,omitempty"`
}

// consultation is the conversation and what came of it.
type consultation struct {
	*exam
	*conversation
	found   doctor.Pair
	theirs  hello
	mine    hello
	session uint64
	// links are in the order of the carriers; shared has those that can be tested.
	links  []*doctor.Link
	shared []sharedCarrier
}

// sharedCarrier is one on which both sides have a working interface.
type sharedCarrier struct {
	carrier
	station  *examine.Station
	otherMAC [6]byte
	link     *doctor.Link
}

// consult waits for the other doctor and tests with it.
func (e *exam) consult(ctx context.Context, m *meeting) doctor.Pair {
	p := doctor.Pair{Self: e.Node, Other: e.other.Name, Address: m.address.String(), Version: e.Version, Hash: e.Document.Hash()}
	e.say("waiting for the doctor on %s at %s, %v …", e.other.Name, p.Address, e.PeerWait)
	met := <-m.found
	p.Waited = time.Since(m.from)
	if met.err != nil {
		p.Problem, p.Refused = e.absence(ctx, met.err), final(met.err)
		return p
	}
	defer func() { _ = met.channel.Close() }() // all has been said
	p.Met = true
	c := &consultation{exam: e, conversation: &conversation{channel: met.channel}, found: p}
	if err := c.talk(ctx); err != nil {
		c.found.Broken = err.Error()
	}
	for _, link := range c.links {
		c.found.Links = append(c.found.Links, *link)
	}
	return c.found
}

// absence says why nobody was met, and whether the other machine is there at all.
func (e *exam) absence(ctx context.Context, err error) string {
	text := err.Error()
	s := e.stations[router.HACarrier]
	if s == nil || final(err) {
		return text
	}
	other := e.carriers[0].other
	if s.Ask(e.carriers[0].own.Addr(), other) != nil {
		return text
	}
	if s.Await(ctx, probeGap, func(h examine.Heard) bool { return h.Answer == other }) {
		return text + "; " + other.String() + " answers ARP, so the link works"
	}
	return text + "; " + other.String() + " does not even answer ARP on " + e.carriers[0].iface
}

// talk walks through all steps.
func (c *consultation) talk(ctx context.Context) error {
	c.mine = c.introduce()
	if err := c.exchange("hello", helloPatience, c.mine, &c.theirs); err != nil {
		return err
	}
	if c.theirs.Protocol != protocol {
		return errSpeech
	}
	c.say("testing with the doctor on %s …", c.other.Name)
	c.session = c.mine.Secret ^ c.theirs.Secret
	c.found.OtherVersion, c.found.OtherHash, c.found.OtherTrouble = c.theirs.Version, c.theirs.Hash, c.theirs.Trouble
	var wall time.Time
	if err := c.exchange("clock", stepPatience, time.Now(), &wall); err != nil {
		return err
	}
	c.found.Skew = time.Until(wall)
	c.share()
	for _, step := range []func(context.Context) error{c.burst, c.echo, c.moveVirtual} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	return c.step("farewell")
}

func (c *consultation) introduce() hello {
	var secret [8]byte
	_, _ = rand.Read(secret[:]) // it never fails
	h := hello{
		Protocol: protocol, Version: c.Version, Hash: c.Document.Hash(), Running: c.running,
		Secret: binary.BigEndian.Uint64(secret[:]), Ends: map[string]end{}, Trouble: c.report.Count(doctor.Trouble),
	}
	for i, carrier := range c.carriers {
		if s := c.stations[carrier.name]; s != nil {
			h.Ends[carrier.name] = end{
				Interface: carrier.iface, MAC: macText(s.MAC()), MTU: s.MTU(), Occupied: c.occupied(carrier, c.segments[i]),
			}
		}
	}
	if c.state != nil && c.state.Role == "BACKUP" {
		h.Hears = map[string]time.Duration{}
		for _, carrier := range c.state.Carriers {
			h.Hears[carrier.Name] = carrier.PeerHeard
		}
	}
	return h
}

// occupied says why the virtual MAC of a carrier must be left alone.
func (c *consultation) occupied(carrier carrier, heard doctor.Segment) string {
	if c.running {
		return "a node runs on " + c.Node
	}
	for _, r := range heard.Routers {
		if r.Clashes(heard.Own) {
			return "another VRRP router has it"
		}
	}
	for _, claim := range c.ports[carrier.name].Claims {
		return claim.Address + " is in use"
	}
	return ""
}

// share pairs the ends of both sides.
func (c *consultation) share() {
	for _, carrier := range c.carriers {
		link := &doctor.Link{Carrier: carrier.name, Interface: carrier.iface, Multicast: carrier.multicast, IPv6: carrier.ipv6}
		c.links = append(c.links, link)
		own, here := c.mine.Ends[carrier.name]
		other, there := c.theirs.Ends[carrier.name]
		mac, err := net.ParseMAC(other.MAC)
		switch {
		case !here:
			link.Problem = c.deaf[carrier.name]
			continue
		case !there || err != nil || len(mac) != 6:
			link.Problem = c.other.Name + " has no working interface on " + carrier.name
			continue
		}
		link.MTU, link.OtherMTU, link.OtherInterface = own.MTU, other.MTU, other.Interface
		c.shared = append(c.shared, sharedCarrier{carrier: carrier, station: c.stations[carrier.name], otherMAC: [6]byte(mac), link: link})
		if age, ok := c.theirs.Hears[carrier.name]; ok && c.state != nil && c.state.Role == "MASTER" {
			link.OtherHears = &age
		}
	}
}

// echo sends a burst of datagrams over the HA link. It takes the document's port where
// no node has it, since that is the one a firewall must let pass.
func (c *consultation) echo(ctx context.Context) error {
	ha := c.carriers[0]
	port := c.Document.HALink.Port
	if c.running || c.theirs.Running {
		port = doctorPort(port)
	}
	const datagrams, gap, patience = 50, 10 * time.Millisecond, 500 * time.Millisecond
	echo, err := examine.OpenEcho(ctx, ha.iface, netip.AddrPortFrom(ha.own.Addr(), port), ha.other, c.session)
	problem := ""
	if err != nil {
		problem = err.Error()
	} else {
		defer func() { _ = echo.Close() }() // it was measured
	}
	var otherProblem string
	if err := c.exchange("echo", stepPatience, problem, &otherProblem); err != nil {
		return err
	}
	switch {
	case problem != "":
		c.found.Echo = doctor.Echo{Problem: problem}
	case otherProblem != "":
		c.found.Echo = doctor.Echo{Problem: "on " + c.other.Name + ": " + otherProblem}
	default:
		c.found.Echo = echo.Burst(ctx, datagrams, gap, patience)
	}
	// The other side's questions are answered until it has asked them all.
	return c.step("echoed")
}

// macText writes a MAC address.
func macText(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }
