package elector

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"time"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

// carrier is one link's socket and counters.
type carrier struct {
	cfg      Carrier
	port     *wire.Port
	receiver *wire.Receiver
	// index is the interface's index when the port was opened; a different one
	// means that the interface was replaced. broken asks for such a check.
	index  int
	broken bool
	// advert is the encoded message; only its priority ever changes.
	buf      []byte
	sent     uint64
	received uint64
	dropped  map[string]uint64
	heardAt  time.Time
	mismatch string
	err      string
}

func (c *carrier) close() {
	if c.port != nil {
		_ = c.port.Close() // nothing can be done about it
		_ = c.receiver.Close()
		c.port, c.receiver = nil, nil
	}
}

func (c *carrier) drop(reason string) { c.dropped[reason]++ }

// replaceCarriers keeps every carrier that did not change, with its socket.
func (e *elector) replaceCarriers(cfg Configuration) {
	next := make([]*carrier, len(cfg.Carriers))
	for i, want := range cfg.Carriers {
		at := slices.IndexFunc(e.carriers, func(c *carrier) bool { return c != nil && c.cfg.Name == want.Name })
		if at < 0 {
			next[i] = &carrier{cfg: want, dropped: make(map[string]uint64), buf: make([]byte, 0, 2048)}
			continue
		}
		next[i] = e.carriers[at]
		e.carriers[at] = nil
		if !reflect.DeepEqual(next[i].cfg, want) {
			next[i].close()
			next[i].cfg = want
		}
	}
	for _, gone := range e.carriers {
		if gone != nil {
			gone.close()
		}
	}
	e.carriers = next
	if e.beats != nil && !reflect.DeepEqual(e.cfg.Heartbeat, cfg.Heartbeat) {
		e.beats.close()
		e.beats = nil
	}
	if e.beats == nil && cfg.Heartbeat != nil {
		e.beats = newHeartbeats(*cfg.Heartbeat, e.nonce)
	}
}

// open opens what is not open; what cannot be is tried again later.
func (e *elector) open(now time.Time) {
	opened := false
	for _, c := range e.carriers {
		if c.broken && c.port != nil && interfaceIndex(c.cfg) != c.index {
			c.close()
		}
		if c.port != nil {
			// The port is still the right one; the next advert tells whether it works.
			if c.broken {
				c.broken, c.err = false, ""
			}
			continue
		}
		c.broken = false
		cfg := wire.Config{
			Carrier: c.cfg.Name, Interface: c.cfg.Interface, VirtualLink: c.cfg.VirtualLink,
			VirtualMAC: vrrp.VirtualMAC4(c.cfg.VRID), Source: c.cfg.Source,
		}
		receiver, err := wire.OpenReceiver(wire.ReceiverConfig{Interface: c.cfg.Interface})
		if err != nil {
			c.err = err.Error()
			continue
		}
		port, err := wire.Open(e.sender, cfg)
		if err != nil {
			c.err = errors.Join(err, receiver.Close()).Error()
			continue
		}
		c.port, c.receiver, c.err, c.index = port, receiver, "", interfaceIndex(c.cfg)
		opened = true
	}
	if e.beats != nil && e.beats.fd < 0 {
		e.beats.open()
	}
	// A carrier that comes up while this node is MASTER must hear of it at once.
	if opened && e.group != nil && e.group.State() == vrrp.Master {
		e.advertise(now, e.group.Priority())
		e.announce()
	}
	e.reportAt = now
}

// interfaceIndex identifies the interfaces that a carrier hangs on; 0 if one is
// missing.
func interfaceIndex(c Carrier) int {
	physical, err := net.InterfaceByName(c.Interface)
	if err != nil {
		return 0
	}
	if c.VirtualLink == "" {
		return physical.Index
	}
	virtual, err := net.InterfaceByName(c.VirtualLink)
	if err != nil {
		return 0
	}
	return physical.Index<<16 ^ virtual.Index
}

// encode builds the advert of a carrier.
func (e *elector) encode(c *carrier, priority uint8) ([]byte, error) {
	a := vrrp.Advertisement{
		VRID: c.cfg.VRID, Priority: priority, Interval: e.cfg.Interval, Addresses: c.cfg.Addresses,
	}
	h := vrrp.Header{Source: c.cfg.Source, Destination: vrrp.MulticastIPv4(), TTL: 255}
	return a.Append(c.buf[:0], h, vrrp.ChecksumPlain)
}

// advertise sends an advert on every carrier.
func (e *elector) advertise(now time.Time, priority uint8) {
	for _, c := range e.carriers {
		if c.port == nil {
			continue
		}
		b, err := e.encode(c, priority)
		if err == nil {
			err = c.port.Advertise(b)
		}
		c.note(err)
		if err == nil {
			c.sent++
			e.advertisedAt = now
		}
	}
}

// renew renews the lease without an advert. Who could not send his adverts must not
// keep it: the others hear nothing of him.
func (e *elector) renew(now time.Time) {
	if now.Sub(e.advertisedAt) > 2*e.cfg.Interval {
		return
	}
	for _, c := range e.carriers {
		if c.port == nil || c.cfg.VirtualLink == "" {
			continue
		}
		b, err := e.encode(c, e.group.Priority())
		if err == nil {
			err = c.port.Renew(b)
		}
		if err == nil {
			return // the lease is the whole group's
		}
		c.note(err)
	}
}

// ask asks on every carrier but the HA link whether the MASTER lives.
func (e *elector) ask() {
	for _, c := range e.carriers {
		if c.port == nil || c.cfg.VirtualLink == "" {
			continue
		}
		b, err := e.encode(c, vrrp.PriorityQuestion)
		if err == nil {
			err = c.port.Ask(b)
		}
		c.note(err)
	}
}

// note remembers the newest error of a carrier.
func (c *carrier) note(err error) {
	if err == nil {
		c.err = ""
		return
	}
	c.err, c.broken = err.Error(), true
	if errors.Is(err, wire.ErrLinkDown) {
		c.drop("link-down")
	} else {
		c.drop("send-error")
	}
}

// revoke closes the lease. One carrier would do, but any of them may be down.
func (e *elector) revoke() {
	for _, c := range e.carriers {
		if c.port == nil || c.cfg.VirtualLink == "" {
			continue
		}
		b, err := e.encode(c, vrrp.PriorityLeaving)
		if err == nil {
			err = c.port.Revoke(b)
		}
		c.note(err)
	}
}

// announce sends gratuitous ARP for every virtual address.
func (e *elector) announce() {
	for _, c := range e.carriers {
		if c.port == nil || c.cfg.VirtualLink == "" {
			continue
		}
		for _, a := range c.cfg.Addresses {
			if err := c.port.Announce(a); err != nil {
				c.note(err)
				break
			}
		}
	}
}

// drain reads what waits on a carrier and gives it to the group.
func (e *elector) drain(now time.Time, index int, c *carrier) {
	if c.port == nil || e.group == nil {
		return
	}
	var buf [wire.MaxPacket]byte
	for range maxDrain {
		p, ok, err := c.receiver.Receive(buf[:])
		if err != nil {
			c.note(err)
			return
		}
		if !ok {
			return
		}
		if p.Dropped != vrrp.DropNone {
			c.drop(p.Dropped.String())
			continue
		}
		a, _, why := vrrp.ParseAdvertisement(p.Payload, p.Header)
		if why == vrrp.DropNone && a.VRID != c.cfg.VRID {
			why = vrrp.DropVRID
		}
		if why != vrrp.DropNone {
			c.drop(why.String())
			continue
		}
		if p.Header.Source == c.cfg.Source {
			c.drop("own-address")
			continue
		}
		c.received++
		c.heardAt = now
		c.compare(e.cfg.Interval, a)
		e.apply(now, e.group.Receive(now, index, p.Header.Source, a))
	}
}

// compare notes a difference between an advert and the configuration. RFC 9568
// §7.1: log it, never drop the advert for it.
func (c *carrier) compare(interval time.Duration, a vrrp.Advertisement) {
	c.mismatch = ""
	if a.Interval != interval {
		c.mismatch = fmt.Sprintf("the MASTER on %s advertises every %v, this node is configured for %v", c.cfg.Name, a.Interval, interval)
	} else if !slices.Equal(a.Addresses, c.cfg.Addresses) {
		c.mismatch = fmt.Sprintf("the MASTER on %s advertises %v, this node is configured for %v", c.cfg.Name, a.Addresses, c.cfg.Addresses)
	}
}
