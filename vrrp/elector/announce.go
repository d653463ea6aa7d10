package elector

import (
	"slices"
	"time"

	"tandem/vrrp"
)

// replaceAnnouncer makes an announcer for the carriers. If addresses came or changed
// while this node is MASTER, it begins at once.
func (e *elector) replaceAnnouncer(now time.Time, before []*carrier, refresh time.Duration) {
	counts := make([]int, len(e.carriers))
	for i, c := range e.carriers {
		if c.fenced() {
			counts[i] = len(c.cfg.Addresses)
		}
	}
	if e.announcer != nil && refresh == e.cfg.AnnounceRefresh && slices.Equal(counts, e.announced) && slices.Equal(before, e.carriers) {
		return
	}
	e.announced = counts
	e.announcer = vrrp.NewAnnouncer(counts, refresh)
	if e.group != nil && e.group.State() == vrrp.Master {
		e.announcer.Start(now)
	}
}

// announce sends the gratuitous ARP and unsolicited neighbour advertisements that
// are due.
func (e *elector) announce(now time.Time) {
	if e.announcer == nil {
		return
	}
	for _, a := range e.announcer.Next(now) {
		c := e.carriers[a.Carrier]
		if c.port == nil {
			continue
		}
		if err := c.port.Announce(c.cfg.Addresses[a.Address]); err != nil {
			c.note(err)
		}
	}
}
