package elector

import (
	"errors"
	"io"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

// carrier is one virtual router's way to a link: its port, and what came in for it.
type carrier struct {
	cfg  Carrier
	port *wire.Port
	// gone tells that an interface of the port was replaced or deleted.
	gone bool
	// channel signs the adverts; nil where they are not signed.
	channel *vrrp.AdvertChannel
	// buf is where adverts are encoded.
	buf       []byte
	sent      uint64
	received  uint64
	dropped   map[string]uint64
	checksums [2]uint64
	heardAt   time.Time
	echoAt    time.Time
	stranger  *Stranger
	mismatch  string
	err       string
	// complaint is what was last logged about an advert, at complainedAt.
	complaint    string
	complainedAt time.Time
}

// maxAdvert is room for the longest advert and its authenticator, in bytes.
const maxAdvert = 4608

func newCarrier(cfg Carrier) *carrier {
	return &carrier{cfg: cfg, dropped: make(map[string]uint64), buf: make([]byte, 0, maxAdvert)}
}

func (c *carrier) close() {
	if c.port != nil {
		_ = c.port.Close() // nothing can be done about it
		c.port = nil
	}
	c.gone = false
}

func (c *carrier) drop(reason string) { c.dropped[reason]++ }

// abandon closes a socket beside the loop: the kernel waits until every processor has let go of
// a packet socket, which takes as long as a lease.
func abandon(c io.Closer) {
	go func() { _ = c.Close() }() // nothing can be done about it
}

// fenced tells that the carrier's adverts open the fence: all but the HA links'.
func (c *carrier) fenced() bool { return c.cfg.VirtualLink != "" }

// replaceCarriers keeps every carrier that did not change, with its sockets.
func (e *elector) replaceCarriers(now time.Time, cfg Configuration) {
	old := make(map[string]*carrier, len(e.carriers))
	for _, c := range e.carriers {
		old[c.cfg.Name] = c
	}
	rekeyed := !slices.Equal(e.cfg.AdvertKey, cfg.AdvertKey)
	next := make([]*carrier, len(cfg.Carriers))
	for i, want := range cfg.Carriers {
		c, known := old[want.Name]
		delete(old, want.Name)
		if !known {
			c = newCarrier(want)
		} else if !reflect.DeepEqual(c.cfg, want) {
			c.close()
			c.cfg = want
		}
		switch {
		case !want.Authenticate:
			c.channel = nil
		case c.channel == nil || rekeyed:
			c.channel = vrrp.NewAdvertChannel(cfg.AdvertKey, e.nonce)
		}
		next[i] = c
	}
	for _, gone := range old {
		gone.close()
	}
	before := e.carriers
	e.carriers = next
	e.replaceReceivers()
	e.replaceAnnouncer(now, before, cfg.AnnounceRefresh)
	e.replaceHeartbeats(cfg.Heartbeat)
}

// open opens what is not open; what cannot be is tried again later.
func (e *elector) open(now time.Time) {
	opened := e.openReceivers()
	for _, c := range e.carriers {
		c.recheck()
		if c.gone {
			c.close()
		}
		if c.port != nil {
			continue
		}
		if err := e.openPort(c); err != nil {
			c.err = err.Error()
			continue
		}
		c.err = ""
		opened = true
	}
	if e.beats != nil {
		e.beats.open()
	}
	// A carrier that comes up while this node is MASTER must hear of it at once.
	if opened && e.group != nil && e.group.State() == vrrp.Master {
		e.advertise(now, e.group.Priority())
		e.announcer.Start(now)
	}
	e.reportAt = now
}

// recheck looks at a port that failed: a BACKUP may not send again for days.
func (c *carrier) recheck() {
	if c.port == nil || c.err == "" {
		return
	}
	err := c.port.Up()
	if err == nil {
		c.err = ""
	}
	c.gone = c.gone || errors.Is(err, wire.ErrLinkGone)
}

func (e *elector) openPort(c *carrier) error {
	var err error
	if e.sender == nil {
		if e.sender, err = wire.OpenSender(); err != nil {
			return err
		}
		e.sender.DiscardBy(func(descriptor int) {
			go func() { _ = unix.Close(descriptor) }() // as in abandon
		})
	}
	cfg := wire.Config{
		Carrier: c.cfg.Name, Interface: c.cfg.Interface, VirtualLink: c.cfg.VirtualLink, Source: c.cfg.Source,
	}
	if c.fenced() && !c.cfg.ownMAC() {
		cfg.VirtualMAC = vrrp.VirtualMAC4(c.cfg.VRID)
		if c.cfg.Source.Is6() {
			cfg.VirtualMAC = vrrp.VirtualMAC6(c.cfg.VRID)
		}
	}
	if c.cfg.Unicast {
		cfg.Unicast = c.cfg.Peer
	}
	c.port, err = wire.Open(e.sender, cfg)
	return err
}

// anyBroken tells that something waits for its interface.
func (e *elector) anyBroken() bool {
	return e.beats != nil && e.beats.broken() ||
		slices.ContainsFunc(e.carriers, func(c *carrier) bool { return c.port == nil || c.err != "" }) ||
		slices.ContainsFunc(e.receivers, func(r *receiver) bool { return r.socket == nil || r.gone })
}

// encode builds the advert of a carrier.
func (e *elector) encode(c *carrier, priority uint8) ([]byte, error) {
	a := vrrp.Advertisement{
		Version: c.cfg.version(), VRID: c.cfg.VRID, Priority: priority, Interval: e.cfg.Interval, Addresses: c.cfg.Addresses,
	}
	h := vrrp.Header{Source: c.cfg.Source, Destination: c.port.Destination(), TTL: vrrp.TTL}
	b, err := a.Append(c.buf[:0], h, c.cfg.Checksum)
	if err == nil && c.channel != nil {
		b = c.channel.Seal(b, 0, h)
	}
	return b, err
}

// advertise sends an advert on every carrier.
func (e *elector) advertise(now time.Time, priority uint8) {
	renewed := false
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
			renewed = renewed || c.fenced() && !c.cfg.Unicast
		}
	}
	// Unicast adverts leave by the kernel's own path and not through the fence.
	if !renewed && priority != vrrp.PriorityLeaving {
		e.renew(now)
	}
}

// renew renews the lease without an advert. Who could not send his adverts must not
// keep it: the others hear nothing of him.
func (e *elector) renew(now time.Time) {
	if now.Sub(e.advertisedAt) > 2*e.cfg.Interval {
		return
	}
	for _, c := range e.carriers {
		if c.port == nil || !c.fenced() {
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

// ask asks on every carrier but the HA links whether the MASTER lives, and there whether
// its kernel does.
func (e *elector) ask() {
	if e.beats != nil {
		e.beats.ask()
	}
	for _, c := range e.carriers {
		if c.port == nil || !c.fenced() {
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
	c.err = err.Error()
	c.gone = c.gone || errors.Is(err, wire.ErrLinkGone)
	if errors.Is(err, wire.ErrLinkDown) {
		c.drop("link-down")
	} else {
		c.drop("send-error")
	}
}

// revoke closes the lease. One carrier would do, but any of them may be down.
func (e *elector) revoke() {
	for _, c := range e.carriers {
		if c.port == nil || !c.fenced() {
			continue
		}
		b, err := e.encode(c, vrrp.PriorityLeaving)
		if err == nil {
			err = c.port.Revoke(b)
		}
		c.note(err)
	}
}
