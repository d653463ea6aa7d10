package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Condition is something about the links between the members, or about who else is
// there, that has a defined outcome. Its name is stable, for alarms and metrics.
type Condition struct {
	Name string `json:"name"`
	// Carriers are concerned; empty if it is about none in particular.
	Carriers []string `json:"carriers,omitempty"`
	// Text says what is the case, what follows from it and what to do.
	Text string `json:"text"`
}

// The names of conditions.
const (
	// HALinkSilent: the peer lives, but its heartbeats do not come, or by one of two HA links
	// only.
	HALinkSilent = "ha-link-silent"
	// HALinkOneWay: the peer's heartbeats come, but it does not hear this node's.
	HALinkOneWay = "ha-link-one-way"
	// CarrierSilent: the MASTER's adverts come by some carriers and not by others.
	CarrierSilent = "carrier-silent"
	// Partitioned: a single carrier is left between the members.
	Partitioned = "partitioned"
	// PeerSilent: nothing of the peer comes by any carrier.
	PeerSilent = "peer-silent"
	// BothMaster: the peer says that it is MASTER, as this node is.
	BothMaster = "both-master"
	// StrangerAbove: a router that is no member advertises a higher priority.
	StrangerAbove = "stranger-above"
	// StrangerMaster: it does, and no member is MASTER for that reason.
	StrangerMaster = "stranger-master"
	// OwnAddressHeard: adverts with this node's own address come in.
	OwnAddressHeard = "own-address-heard"
	// DifferentDocument: the members run different documents.
	DifferentDocument = "different-document"
)

// View is what a node knows about its links to the peer.
type View struct {
	Now time.Time
	// Master and PeerMaster tell who says that it is MASTER.
	Master, PeerMaster bool
	Peer               string
	// Priority is the node's own.
	Priority uint8
	// PeerAlive tells that anything of the peer was heard within the down interval.
	PeerAlive bool
	// HeartbeatAge is the age of the newest authenticated heartbeat, IntroductionAge
	// that of the newest one from a peer that does not hear this node; negative if none
	// came.
	HeartbeatAge, IntroductionAge time.Duration
	// Beat is the time between heartbeats, Down the down interval, DownByBeats the time
	// in which heartbeats tell of a dead MASTER; zero if they do not.
	Beat, Down, DownByBeats time.Duration
	// Document and PeerDocument are the beginnings of the hashes of the documents, the
	// peer's as its heartbeats name it; empty if unknown.
	Document, PeerDocument string
	Links                  []Link
	// HALinks tell of the heartbeats on each HA link.
	HALinks []HALink
	// Replicated tells that there is a stream of sessions.
	Replicated bool
}

// HALink is an HA link in a [View].
type HALink struct {
	Name string
	// HeartbeatAge is the age of the newest authenticated heartbeat that came by it; negative
	// if none did.
	HeartbeatAge time.Duration
}

// Link is a carrier in a [View].
type Link struct {
	Name string
	// HA tells that it is an HA link.
	HA bool
	// Up tells that the node's own port has a link.
	Up bool
	// Hears tells that the peer's adverts come in, Heard that the peer hears this
	// node's; HeardKnown is false if it has not said so.
	Hears, Heard, HeardKnown bool
	// Stranger is a router outside the group: its address, priority and the age of its
	// newest advert; negative if there was none.
	Stranger         string
	StrangerPriority uint8
	StrangerAge      time.Duration
	// EchoAge is the age of the newest advert with the node's own address; negative if
	// none came.
	EchoAge time.Duration
}

// patience is how long heartbeats may stay away before anything is said about it, however
// often they come.
const patience = 300 * time.Millisecond

// memory is how long a single packet is shown as a condition.
const memory = 10 * time.Second

// Diagnose names what is the case. It is for a pair; a single router has no
// conditions but those about strangers.
func Diagnose(v View) []Condition {
	list := append(v.strangers(), v.echoes()...)
	if v.Peer == "" {
		return list
	}
	if !v.PeerAlive {
		return append(list, Condition{Name: PeerSilent, Text: fmt.Sprintf(
			"nothing of %s comes by any carrier: it is down, or cut off from this node; this node serves alone, and if it dies there is no second one", v.Peer)})
	}
	if v.Master && v.PeerMaster {
		list = append(list, Condition{Name: BothMaster, Text: fmt.Sprintf(
			"%s says that it is MASTER, too: it has not heard this node's adverts; the one of lower priority yields as soon as one comes through, so check multicast on the networks", v.Peer)})
	}
	if v.PeerDocument != "" && v.PeerDocument != v.Document {
		list = append(list, Condition{Name: DifferentDocument, Text: fmt.Sprintf(
			"the peer runs a different document (%s, here %s): the election goes on, but apply the same one on both nodes", v.PeerDocument, v.Document)})
	}
	list = append(list, v.haLink()...)
	return append(list, v.silence()...)
}

// fresh tells that a heartbeat of that age says that more of them come.
func (v View) fresh(age time.Duration) bool {
	return age >= 0 && age < max(v.Down, 10*v.Beat, patience)
}

// haLink tells of heartbeats that stay away although the peer lives.
func (v View) haLink() []Condition {
	var names, silent []string
	for _, l := range v.HALinks {
		names = append(names, l.Name)
		if !v.fresh(l.HeartbeatAge) {
			silent = append(silent, l.Name)
		}
	}
	if v.fresh(v.HeartbeatAge) {
		return v.oneSilent(names, silent)
	}
	if v.HeartbeatAge < 0 && v.IntroductionAge < 0 && v.Beat == 0 {
		return nil
	}
	links, work, are := "the HA link", "works", "is"
	if len(names) > 1 {
		links, work, are = "the HA links "+strings.Join(names, " and "), "work", "are"
	}
	if v.fresh(v.IntroductionAge) {
		return []Condition{{Name: HALinkOneWay, Carriers: names, Text: fmt.Sprintf(
			"%s %s in one direction only: heartbeats of %s come in, but it does not hear this node's; %s", links, work, v.Peer, v.withoutBeats())}}
	}
	return []Condition{{Name: HALinkSilent, Carriers: names, Text: fmt.Sprintf(
		"%s %s silent, though %s is alive; %s", links, are, v.Peer, v.withoutBeats())}}
}

// oneSilent tells of an HA link without heartbeats beside one that brings them.
func (v View) oneSilent(names, silent []string) []Condition {
	if len(silent) == 0 || len(silent) == len(names) {
		return nil
	}
	others := slices.DeleteFunc(names, func(name string) bool { return slices.Contains(silent, name) })
	return []Condition{{Name: HALinkSilent, Carriers: silent, Text: fmt.Sprintf(
		"the HA link %s is silent: heartbeats of %s come by %s alone, and so do sessions; this costs nothing while that works, so check the cable of %s",
		silent[0], v.Peer, others[0], silent[0])}}
}

func (v View) withoutBeats() string {
	var others []string
	for _, l := range v.Links {
		if !l.HA && l.Up {
			others = append(others, l.Name)
		}
	}
	text := ""
	if !v.Replicated {
		text = "sessions are not replicated, and "
	}
	text += "the election goes on by adverts on " + strings.Join(others, ", ")
	if v.DownByBeats > 0 {
		text += fmt.Sprintf(", so that a dead MASTER is noticed after %s instead of %s", span(v.Down), span(v.DownByBeats))
	}
	return text + ": check the cable"
}

// silence tells of carriers by which the MASTER's adverts do not get through while
// others let them pass.
func (v View) silence() []Condition {
	var silent, through []string
	for _, l := range v.Links {
		hears := l.Hears
		if v.Master {
			if !l.HeardKnown {
				return nil
			}
			hears = l.Heard
		}
		switch {
		case hears:
			through = append(through, l.Name)
		case l.Up:
			silent = append(silent, l.Name)
		}
	}
	if v.Master == v.PeerMaster || len(silent) == 0 {
		return nil
	}
	from, to := v.Peer, "this node"
	if v.Master {
		from, to = "this node", v.Peer
	}
	text := fmt.Sprintf("adverts of %s do not reach %s by %s, although the link is up: the segment is cut between the members, works in one direction only, or filters multicast", from, to, strings.Join(silent, ", "))
	list := []Condition{{Name: CarrierSilent, Carriers: silent, Text: text + "; the role does not move for it"}}
	if len(through) == 1 && len(v.Links) > 2 {
		list = append(list, Condition{Name: Partitioned, Carriers: through, Text: fmt.Sprintf(
			"%s is all that is left between the members: if it fails, too, both become MASTER", through[0])})
	}
	return list
}

func (v View) strangers() []Condition {
	var list []Condition
	for _, l := range v.Links {
		if l.StrangerAge < 0 || l.StrangerAge > memory || l.StrangerPriority < v.Priority {
			continue
		}
		c := Condition{Name: StrangerAbove, Carriers: []string{l.Name}, Text: fmt.Sprintf(
			"%s advertises the VRID of %s with priority %d and is no member of this group: give the group another VRID there, or sign the adverts (vrrp: authentication)", l.Stranger, l.Name, l.StrangerPriority)}
		if !v.Master && !v.PeerMaster {
			c.Name, c.Text = StrangerMaster, c.Text+"; no member is MASTER because of it"
		}
		list = append(list, c)
	}
	return list
}

func (v View) echoes() []Condition {
	var names []string
	for _, l := range v.Links {
		if l.EchoAge >= 0 && l.EchoAge <= memory {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Condition{{Name: OwnAddressHeard, Carriers: names, Text: fmt.Sprintf(
		"adverts with this node's own address come in by %s and are ignored: the network has a loop, or another router has the same address", strings.Join(names, ", "))}}
}

// HasCondition tells whether one of that name is among them.
func HasCondition(list []Condition, name string) bool {
	return slices.ContainsFunc(list, func(c Condition) bool { return c.Name == name })
}
