package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tandem/appliance/status"
	"tandem/router"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

// status answers "how are you".
func (n *node) status(now time.Time) status.Status {
	r, alive, _ := n.elector.latest()
	s := status.Status{
		Time: now, Group: n.doc().Group, Node: n.opts.Name, Version: n.opts.Version,
		Role: r.State.String(), Since: r.Since, Reason: r.Reason, Priority: r.Priority,
		Term: r.Term, Transitions: r.Transitions,
		Carriers: n.carrierStatus(now, r),
		Config:   status.Config{Hash: n.hash()},
		Elector: status.Elector{
			PID: r.PID, Alive: alive, RealTime: r.Scheduling.RealTime,
			RealTimeError: r.Scheduling.RealTimeError, MemoryLocked: r.Scheduling.MemoryLocked,
		},
	}
	s.Uplinks, s.Networks = n.uplinks.outside(now)
	if other, ok := n.doc().Peer(n.opts.Name); ok {
		s.Peer = &status.Peer{
			Name: other.Name, Alive: r.Peer.Alive, Role: r.Peer.State.String(), Priority: r.Peer.Priority,
			Ready: r.Peer.Ready, LastHeard: age(now, r.Peer.HeardAt),
		}
		if !r.Peer.Alive {
			s.Peer.Role = "UNKNOWN"
		}
		s.Heartbeats = &status.Heartbeats{
			Sent: r.Heartbeats.Sent, Received: r.Heartbeats.Received, Dropped: maps.Clone(r.Heartbeats.Dropped), Age: age(now, r.Peer.HeartbeatAt),
		}
	}
	s.BecameMaster, s.ReleasedMaster = n.elector.masterships()
	s.Lease, s.Recovering = n.leaseStatus(), n.recovering(now, r)
	s.Sync, s.Config.PeerHash = n.syncStatus(now)
	s.Config.PeerHash = peerHash(r.Peer, s.Config.PeerHash, n.hash())
	if n.table != nil {
		if count, err := n.table.Count(); err == nil { // else the last sample's will do
			s.Sync.Sessions = int(count)
		}
	}
	s.Conditions = n.conditions(now, r, s)
	s.Problems = n.problems(s, r, alive)
	return s
}

// age returns how long ago something was; negative if it never was. The moment came
// from another process as wall-clock time, so a clock that was set back must not make
// it look as if it never was.
func age(now, at time.Time) time.Duration {
	if at.IsZero() {
		return -1
	}
	return max(now.Sub(at), 0)
}

func (n *node) carrierStatus(now time.Time, r elector.Report) []status.Carrier {
	n.mu.Lock()
	defer n.mu.Unlock()
	places := make(map[string]int, len(r.Carriers))
	for i, cr := range r.Carriers {
		places[cr.Name] = i
	}
	out := make([]status.Carrier, 0, len(n.carriers()))
	for _, c := range n.carriers() {
		s := status.Carrier{
			Name: c.Name, Kind: n.kind(c.Segment), Interface: c.Interface, VRID: c.VRID, IPv6: c.IPv6,
			Up: n.state.links[c.Segment], PeerHeard: -1,
		}
		if !router.IsHA(c.Segment) { // whose address is a stand-in
			s.Addresses = texts(c.Addresses)
		}
		if i, ok := places[c.Name]; ok {
			cr := r.Carriers[i]
			s.Sent, s.Received, s.Dropped, s.PeerHeard = cr.Sent, cr.Received, maps.Clone(cr.Dropped), age(now, cr.HeardAt)
			s.Checksums = maps.Clone(cr.Checksums)
			if len(r.Peer.Hears) == len(r.Carriers) {
				s.HeardByPeer = &r.Peer.Hears[i]
			}
		}
		if c.Segment == router.HACarrier {
			s.Dropped = withDropped(s.Dropped, r.Heartbeats.Dropped)
		}
		out = append(out, s)
	}
	return out
}

// withDropped adds the heartbeats that the HA link dropped to its adverts; the reasons
// have names of their own.
func withDropped(adverts, heartbeats map[string]uint64) map[string]uint64 {
	if len(heartbeats) == 0 {
		return adverts
	}
	all := maps.Clone(heartbeats)
	maps.Copy(all, adverts)
	return all
}

func texts(addresses []netip.Addr) []string {
	var list []string
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return list
}

// leaseStatus asks the kernel, not the elector: what counts is the fence.
func (n *node) leaseStatus() status.Lease {
	l := status.Lease{Duration: n.lease()}
	open, remaining, err := n.fence.Lease(n.doc().Group)
	if err == nil {
		l.Open, l.Remaining = open, remaining
	}
	if protected, err := n.guard.Protected(); err == nil {
		l.Protected = protected
	}
	n.mu.Lock()
	l.Tampered = n.state.tampered
	n.mu.Unlock()
	return l
}

// problems lists what is wrong, each with what to do about it.
func (n *node) problems(s status.Status, r elector.Report, alive bool) []string {
	problems := n.ownProblems(s)
	switch {
	case !alive && r.PID == 0:
		problems = append(problems, "the elector process is starting")
	case !alive:
		problems = append(problems, "the elector process is not running; it is being restarted")
	}
	if r.Error != "" {
		problems = append(problems, "the elector refused the configuration: "+r.Error)
	}
	n.mu.Lock()
	looked := n.state.links != nil
	n.mu.Unlock()
	for _, c := range r.Carriers {
		if !looked {
			break // the virtual links are yet to be made
		}
		if c.Mismatch != "" {
			problems = append(problems, c.Mismatch+": apply the same document on both nodes")
		}
		up := func(sc status.Carrier) bool { return sc.Name == c.Name && sc.Up }
		if c.Error != "" && slices.ContainsFunc(s.Carriers, up) {
			problems = append(problems, fmt.Sprintf("adverts on %s: %s", c.Name, c.Error))
		}
	}
	for _, c := range s.Conditions {
		problems = append(problems, c.Text)
	}
	return append(problems, n.peerProblems(s)...)
}

func (n *node) ownProblems(s status.Status) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	problems := []string{}
	if n.state.kernelErr != "" {
		problems = append(problems, "the kernel is not in the intended state, so this node gives up mastership: "+n.state.kernelErr)
	}
	if at := n.state.tamperedAt; !at.IsZero() && s.Time.Sub(at) < tamperMemory {
		problems = append(problems, fmt.Sprintf("another program changed the fence %d times, last %s ago by %s; it was put up again at once: find out who runs nft on this machine",
			n.state.tampered, s.Time.Sub(at).Round(time.Second), n.state.tampering))
	}
	problems = append(problems, n.state.conflicts...)
	if n.state.links == nil {
		return append(problems, "this node has just started and has not looked at its links yet")
	}
	told := make(map[string]bool) // one port, several carriers
	for _, c := range s.Carriers {
		switch {
		case told[c.Interface]:
		case slices.Contains(n.state.missing, c.Interface):
			problems = append(problems, fmt.Sprintf("the interface %s of %s is missing; waiting for it", c.Interface, c.Name))
		case !c.Up:
			problems = append(problems, fmt.Sprintf("the link of %s (%s) is down: check the cable or the switch port", c.Name, c.Interface))
		}
		told[c.Interface] = true
	}
	return problems
}

func (n *node) peerProblems(s status.Status) []string {
	if s.Peer == nil {
		return nil
	}
	var problems []string
	if !s.Peer.Alive && !status.HasCondition(s.Conditions, status.PeerSilent) {
		problems = append(problems, fmt.Sprintf("the peer %s is not heard: if it dies unnoticed there is no second node", s.Peer.Name))
	}
	if s.Config.PeerHash != "" && s.Config.PeerHash != s.Config.Hash && !status.HasCondition(s.Conditions, status.DifferentDocument) {
		problems = append(problems, fmt.Sprintf("the peer runs a different document (%s, here %s): apply the same one on both nodes", status.Short(s.Config.PeerHash), status.Short(s.Config.Hash)))
	}
	if count := n.elector.forgedLately(); count > 0 {
		problems = append(problems, fmt.Sprintf("heartbeats on the HA link are not signed by the key of %s (%d so far): compare public_key in the document with `tandem keygen --show` there", s.Peer.Name, count))
	}
	return problems
}

// recovering names the carriers that do not count as well yet; a MASTER's always do.
func (n *node) recovering(now time.Time, r elector.Report) []string {
	if r.State == vrrp.Master {
		return nil
	}
	n.mu.Lock()
	list := n.state.health.Recovering(now)
	n.mu.Unlock()
	list = append(list, n.uplinks.recovering()...)
	slices.Sort(list)
	return list
}
