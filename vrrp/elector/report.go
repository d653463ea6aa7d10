package elector

import (
	"os"
	"time"

	"tandem/vrrp"
)

// report tells the node how things stand.
func (e *elector) report(now time.Time) {
	if e.node == nil {
		return
	}
	e.reportAt = now.Add(reportInterval)
	if err := e.node.send(e.snapshot(now)); err != nil {
		e.opts.Log.Warn("the node's connection is broken", "error", err)
		e.dropNode(now)
	}
}

// snapshot shares its maps with the elector: it is for sending at once. Hundreds of
// carriers make it long, so what is not there takes no room.
func (e *elector) snapshot(now time.Time) Report {
	r := Report{
		At: now, PID: os.Getpid(), Since: e.since, Scheduling: e.opts.Scheduling, Breaths: e.breaths,
		HandoverError: e.handoverError, Error: e.configError,
	}
	if e.group == nil {
		r.Reason = "waiting for a configuration"
		return r
	}
	peer := e.group.Peer()
	r.State, r.Reason = e.group.State(), e.reason.String()
	r.Priority, r.Term, r.Transitions = e.group.Priority(), e.group.Term(), e.group.Transitions()
	r.DownInterval = e.group.DownInterval()
	r.HandingOver, r.LeaseUntil = e.group.HandingOver(), e.group.LeaseUntil()
	r.Peer = PeerReport{
		Alive: e.group.PeerAlive(now), State: peer.State, Priority: peer.Priority, Ready: peer.Ready, HeardAt: peer.HeardAt,
		HeartbeatAt: peer.HeartbeatAt, Configuration: peer.Configuration, Hears: peer.Hears,
	}
	r.Hears = e.group.Hears(now)
	r.Carriers = make([]CarrierReport, 0, len(e.carriers))
	for _, c := range e.carriers {
		r.Carriers = append(r.Carriers, CarrierReport{
			Name: c.cfg.Name, Open: c.port != nil, Sent: c.sent, Received: c.received,
			Dropped: c.dropped, HeardAt: c.heardAt,
			Checksums: c.sums(), Stranger: c.stranger, EchoAt: c.echoAt, Mismatch: c.staleMismatch(e.group), Error: c.err,
		})
	}
	if e.beats != nil {
		r.Heartbeats = HeartbeatReport{
			IntroducedAt: e.beats.introducedAt, Sent: e.beats.sent, Received: e.beats.received, Dropped: e.beats.dropped,
		}
		for _, l := range e.beats.links {
			r.Heartbeats.Links = append(r.Heartbeats.Links, HeartbeatLinkReport{
				HeardAt: l.heardAt, IntroducedAt: l.introducedAt, Sent: l.sent, Received: l.received, Error: l.err,
			})
		}
	}
	return r
}

// staleMismatch hides the mismatch of a MASTER that has long been replaced.
func (c *carrier) staleMismatch(g *vrrp.Group) string {
	if g.State() == vrrp.Master {
		return ""
	}
	return c.mismatch
}

// sums names the counters of checksums that are not zero.
func (c *carrier) sums() map[string]uint64 {
	var sums map[string]uint64
	for kind, count := range c.checksums {
		if count > 0 {
			if sums == nil {
				sums = make(map[string]uint64, len(c.checksums))
			}
			sums[vrrp.Checksum(kind).String()] = count
		}
	}
	return sums
}
