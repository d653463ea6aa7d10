package elector

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

// receiver hears the adverts of one family on one physical interface, for all the
// carriers there.
type receiver struct {
	cfg    wire.ReceiverConfig
	socket *wire.Receiver
	gone   bool
	// carriers are the places in elector.carriers by VRID.
	carriers map[uint8]int
	// first is the carrier that counts what belongs to none.
	first int
}

func (r *receiver) close() {
	if r.socket != nil {
		abandon(r.socket)
		r.socket = nil
	}
	r.gone = false
}

// replaceReceivers keeps every receiver that did not change, with its sockets.
func (e *elector) replaceReceivers() {
	old := e.receivers
	e.receivers = nil
	for i, c := range e.carriers {
		family := c.cfg.Source.Is6()
		at := slices.IndexFunc(e.receivers, func(r *receiver) bool {
			return r.cfg.Interface == c.cfg.Interface && r.cfg.IPv6 == family
		})
		if at < 0 {
			at = len(e.receivers)
			e.receivers = append(e.receivers, &receiver{
				cfg: wire.ReceiverConfig{Interface: c.cfg.Interface, IPv6: family}, carriers: make(map[uint8]int), first: i,
			})
		}
		r := e.receivers[at]
		r.carriers[c.cfg.VRID] = i
		if c.cfg.Unicast && !slices.Contains(r.cfg.Own, c.cfg.Source) {
			r.cfg.Own = append(r.cfg.Own, c.cfg.Source)
		}
	}
	for _, r := range e.receivers {
		at := slices.IndexFunc(old, func(o *receiver) bool {
			return o.cfg.Interface == r.cfg.Interface && o.cfg.IPv6 == r.cfg.IPv6 && slices.Equal(o.cfg.Own, r.cfg.Own)
		})
		if at >= 0 {
			r.socket, r.gone = old[at].socket, old[at].gone
			old = slices.Delete(old, at, at+1)
		}
	}
	for _, r := range old {
		r.close()
	}
}

// openReceivers reports whether it opened any.
func (e *elector) openReceivers() bool {
	opened := false
	for _, r := range e.receivers {
		// The kernel may have told of a link that went down, and not of its end.
		if r.socket != nil && errors.Is(r.socket.Up(), wire.ErrLinkGone) {
			r.gone = true
		}
		if r.gone {
			r.close()
		}
		if r.socket != nil {
			continue
		}
		socket, err := wire.OpenReceiver(r.cfg)
		if err != nil {
			e.carriers[r.first].err = err.Error()
			continue
		}
		r.socket, opened = socket, true
	}
	return opened
}

// drain reads what waits on an interface and gives it to the group.
func (e *elector) drain(now time.Time, r *receiver) {
	if r.socket == nil || e.group == nil {
		return
	}
	for range maxDrain {
		p, ok, err := r.socket.Receive(e.packetBuf)
		if err != nil {
			e.carriers[r.first].note(err)
			r.gone = r.gone || errors.Is(err, wire.ErrLinkGone)
			return
		}
		if !ok {
			return
		}
		e.receive(now, r, p)
	}
}

// receive gives an advert to the group unless it fails a check.
func (e *elector) receive(now time.Time, r *receiver, p wire.Packet) {
	if p.Dropped != vrrp.DropNone {
		e.discard(now, e.carriers[r.first], p.Dropped.String())
		return
	}
	a, sum, why := vrrp.ParseAdvertisement(p.Payload, p.Header)
	index, known := r.carriers[a.VRID]
	if !known {
		index = r.first
	}
	if why == vrrp.DropNone && !known {
		why = vrrp.DropVRID
	}
	c := e.carriers[index]
	if why == vrrp.DropNone && a.Version != c.cfg.version() {
		why = vrrp.DropVersion
	}
	if why != vrrp.DropNone {
		e.discard(now, c, why.String())
		return
	}
	if reason := e.refuse(now, c, a, p); reason != "" {
		e.discard(now, c, reason)
		return
	}
	c.received++
	c.heardAt = now
	c.checksums[sum]++
	c.compare(e.cfg.Interval, a)
	e.complain(now, c, "an advert counts, but differs from the configuration: apply the same document on both nodes", c.mismatch)
	if p.Header.Source != c.cfg.Peer && a.Priority > vrrp.PriorityLeaving {
		c.stranger = &Stranger{Address: p.Header.Source, Priority: a.Priority, HeardAt: now}
	}
	if a.Priority == vrrp.PriorityOwner && e.cfg.Priority == vrrp.PriorityOwner {
		e.complain(now, c, "another router owns the addresses, too: give one of them a lower priority", "priority 255")
	}
	e.step(now, vrrp.Input{Advert: &vrrp.ReceivedAdvert{Carrier: index, Source: p.Header.Source, Advertisement: a}})
}

// discard counts a packet that failed a check (RFC 9568 §7.1).
func (e *elector) discard(now time.Time, c *carrier, reason string) {
	c.drop(reason)
	e.complain(now, c, "an advert was discarded", reason)
}

// refuse says why a valid advert does not count on its carrier; empty if it does.
func (e *elector) refuse(now time.Time, c *carrier, a vrrp.Advertisement, p wire.Packet) string {
	if p.Header.Source == c.cfg.Source {
		c.echoAt = now
		return "own-address"
	}
	// RFC 9568 §5.1.1.2: to the group; in unicast mode from the peer to this node.
	if c.cfg.Unicast != (p.Header.Destination == c.cfg.Source) || c.cfg.Unicast && p.Header.Source != c.cfg.Peer {
		return "foreign"
	}
	if c.channel == nil {
		return ""
	}
	var alive uint64
	quiet := e.group.DownInterval()
	if e.beats != nil {
		alive = e.beats.channel.Alive(now, quiet)
	}
	if verdict := c.channel.Open(now, p.Payload, a, p.Header, alive, quiet); verdict != vrrp.AdvertTrusted {
		return verdict.String()
	}
	return ""
}

// compare notes a difference between an advert and the configuration. RFC 9568
// §7.1: log it, never drop the advert for it.
func (c *carrier) compare(interval time.Duration, a vrrp.Advertisement) {
	c.mismatch = ""
	if a.Interval != interval {
		c.mismatch = fmt.Sprintf("the MASTER on %s advertises every %v, this node is configured for %v", c.cfg.Name, a.Interval, interval)
	} else if !sameAddresses(a.Addresses, c.cfg.Addresses) {
		c.mismatch = fmt.Sprintf("the MASTER on %s advertises %s, this node is configured for %s", c.cfg.Name, some(a.Addresses), some(c.cfg.Addresses))
	}
}

// some lists a few addresses: an advert may have 255, a report 510 such sentences.
func some(addresses []netip.Addr) string {
	const few = 8
	if len(addresses) <= few {
		return fmt.Sprint(addresses)
	}
	return fmt.Sprintf("%v and %d more", addresses[:few], len(addresses)-few)
}

// sameAddresses compares as sets: RFC 9568 §5.2.9 only recommends the same order.
func sameAddresses(a, b []netip.Addr) bool {
	if slices.Equal(a, b) {
		return true
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}
