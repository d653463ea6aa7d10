package node

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"tandem/appliance/status"
	"tandem/router"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

// settling is how long after a change of role nothing is said about who hears whom.
const settling = time.Second

// peerHash is the hash of the peer's document. Its heartbeats say at once when that changes, if only the
// beginning of the hash; the stream told all of it when it began.
func peerHash(p elector.PeerReport, stream, own string) string {
	if p.HeartbeatAt.IsZero() {
		return stream
	}
	told := hex.EncodeToString(p.Configuration[:])
	for _, known := range []string{own, stream} {
		if strings.HasPrefix(known, told) {
			return known
		}
	}
	return told
}

// conditions names all that is the case.
func (n *node) conditions(now time.Time, r elector.Report, s status.Status) []status.Condition {
	return slices.Concat(n.diagnose(now, r, s.Sync.Connected), n.diagnoseSync(now, r, s.Sync), status.DiagnoseUplinks(s.Uplinks, s.Networks))
}

// diagnose names what is the case between the members; replicated tells that there is a
// stream of sessions.
func (n *node) diagnose(now time.Time, r elector.Report, replicated bool) []status.Condition {
	if r.State == vrrp.Initialize || now.Sub(r.Since) < max(settling, 2*r.DownInterval) {
		return nil
	}
	v := status.View{
		Now: now, Master: r.State == vrrp.Master, PeerMaster: r.Peer.Alive && r.Peer.State == vrrp.Master,
		Priority: r.Priority, PeerAlive: r.Peer.Alive,
		// A report may be older than heartbeats may stay away: what counts is how things
		// were when it was made.
		HeartbeatAge: age(r.At, r.Peer.HeartbeatAt), IntroductionAge: age(r.At, r.Heartbeats.IntroducedAt),
		Beat: n.beat(), Down: r.DownInterval,
		Document: status.Short(n.hash()),
	}
	if !r.Peer.HeartbeatAt.IsZero() {
		v.PeerDocument = status.Short(hex.EncodeToString(r.Peer.Configuration[:]))
	}
	if v.Beat > 0 {
		v.DownByBeats = vrrp.BeatLease(v.Beat) + v.Beat
	}
	if other, ok := n.doc().Peer(n.opts.Name); ok {
		v.Peer = other.Name
	}
	v.Replicated = replicated
	v.HALinks = n.haLinks(r)
	n.mu.Lock()
	defer n.mu.Unlock()
	up := make(map[string]bool, len(n.carriers()))
	for _, mine := range n.carriers() {
		up[mine.Name] = n.state.links[mine.Segment]
	}
	for i, c := range r.Carriers {
		l := status.Link{
			Name: c.Name, HA: router.IsHA(c.Name), Up: up[c.Name], StrangerAge: -1, EchoAge: age(now, c.EchoAt),
		}
		l.Hears = i < len(r.Hears) && r.Hears[i]
		if l.HeardKnown = len(r.Peer.Hears) == len(r.Carriers); l.HeardKnown {
			l.Heard = r.Peer.Hears[i]
		}
		if s := c.Stranger; s != nil {
			l.Stranger, l.StrangerPriority, l.StrangerAge = s.Address.String(), s.Priority, age(now, s.HeardAt)
		}
		v.Links = append(v.Links, l)
	}
	return status.Diagnose(v)
}

// haLinks tells of the heartbeats on each HA link, as old as they were when the report was
// made. An elector of an earlier version, which was adopted, does not tell links apart.
func (n *node) haLinks(r elector.Report) []status.HALink {
	links, err := router.HALinks(n.doc(), n.opts.Name)
	if err != nil || len(links) == 0 {
		return nil
	}
	if len(r.Heartbeats.Links) != len(links) {
		return []status.HALink{{Name: links[0].Name, HeartbeatAge: age(r.At, r.Peer.HeartbeatAt)}}
	}
	var list []status.HALink
	for i, l := range links {
		list = append(list, status.HALink{Name: l.Name, HeartbeatAge: age(r.At, r.Heartbeats.Links[i].HeardAt)})
	}
	return list
}
