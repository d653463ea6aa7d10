package status

import (
	"fmt"
	"strings"
	"time"

	"tandem/router/uplink"
)

// The kinds of events about uplinks.
const (
	// EventUplinkState is a change of the state of an uplink in one family.
	EventUplinkState = "uplink-state"
	// EventUplinkSwitched tells that a network's new flows take another uplink.
	EventUplinkSwitched = "uplink-switched"
	// EventUplinkNone tells that a network has no uplink that works, EventUplinkFound that it has
	// one again.
	EventUplinkNone  = "uplink-none"
	EventUplinkFound = "uplink-found"
	// EventUplinkDrained tells that the time is over for which flows could stay on an uplink that
	// their network had left.
	EventUplinkDrained = "uplink-drained"
	// EventFlowsEnded tells of flows that could not follow their network to another uplink.
	EventFlowsEnded = "flows-ended"
)

// Event tells of a switch; of a first choice there is nothing to tell.
func (s Switch) Event() (Event, bool) {
	if s.From == "" {
		return Event{}, false
	}
	e := Event{Kind: EventUplinkSwitched, Time: s.Time, Name: pathName(s.Network, s.Destination), From: s.From, To: s.To, Reason: s.Reason, Numbers: map[string]float64{"planned": truth(s.Planned)}}
	if s.To == "" {
		e.Kind = EventUplinkNone
	}
	if s.Took > 0 {
		e.Numbers["took_seconds"] = s.Took.Round(time.Microsecond).Seconds()
	}
	return e, true
}

// pathName is the network's name for its default route over IPv4.
func pathName(network, destination string) string {
	switch destination {
	case "0.0.0.0/0":
		return network
	case "::/0":
		return network + "/ipv6"
	}
	return network + "/" + destination
}

// EndedFlows counts flows that were ended because they could not follow their network.
type EndedFlows struct {
	TCP, UDP, Other int
	// Told are those whose host inside was told, Left those that were there again.
	Told, Left int
	Took       time.Duration
}

// Event tells of them. where names the networks and the uplink that they were on.
func (e EndedFlows) Event(where, reason string) Event {
	return Event{Kind: EventFlowsEnded, Name: where, Reason: reason, Numbers: map[string]float64{
		"tcp": float64(e.TCP), "udp": float64(e.UDP), "other": float64(e.Other), "told": float64(e.Told), "left": float64(e.Left),
		"took_seconds": e.Took.Round(time.Microsecond).Seconds(),
	}}
}

// uplinkChanges returns what happened to uplinks and networks between two looks, but for the
// switches: those are told of by who makes them.
func uplinkChanges(before, after Status) []Event {
	var list []Event
	states := map[string]uplink.State{}
	for _, u := range before.Uplinks {
		for _, f := range u.Families {
			states[familyName(u.Name, f.IPv6)] = f.State
		}
	}
	for _, u := range after.Uplinks {
		for _, f := range u.Families {
			name := familyName(u.Name, f.IPv6)
			was, known := states[name]
			// At the beginning everything is about to be tried; only trouble is news.
			if f.State == was || was == uplink.Unknown && f.State == uplink.Working || !known && f.State == uplink.Unknown {
				continue
			}
			list = append(list, Event{Kind: EventUplinkState, Name: name, From: was.String(), To: f.State.String(), Reason: f.Reason})
		}
	}
	paths := map[string]uplink.PathStatus{}
	for _, w := range before.Networks {
		for _, p := range w.Paths {
			paths[pathName(p.Network, p.Destination)] = p
		}
	}
	for _, w := range after.Networks {
		for _, p := range w.Paths {
			name := pathName(p.Network, p.Destination)
			list = append(list, pathChanges(name, paths[name], p, after.Time)...)
		}
	}
	return list
}

func pathChanges(name string, was, is uplink.PathStatus, now time.Time) []Event {
	var list []Event
	switch {
	case was.State != uplink.Dead && is.State == uplink.Dead && is.Uplink != "":
		list = append(list, Event{Kind: EventUplinkNone, Name: name, Reason: noneWorks(is)})
	case was.State == uplink.Dead && is.State.Works():
		list = append(list, Event{Kind: EventUplinkFound, Name: name, Reason: "by " + is.Uplink})
	}
	for _, d := range was.Draining {
		if still(is.Draining, d.Uplink) {
			continue
		}
		e := Event{Kind: EventUplinkDrained, Name: name, Reason: fmt.Sprintf("flows are ended that still take %s", d.Uplink)}
		if now.Before(d.Until) {
			e.Reason = d.Uplink + " is no longer left: flows stay there"
			if is.Uplink != d.Uplink {
				e.Reason = "flows are ended before their time, as " + d.Uplink + " does not work any more"
			}
		}
		list = append(list, e)
	}
	return list
}

func still(draining []uplink.DrainStatus, name string) bool {
	for _, d := range draining {
		if d.Uplink == name {
			return true
		}
	}
	return false
}

// noneWorks names the uplinks of a path that has none that works, each with its reason.
func noneWorks(p uplink.PathStatus) string {
	var reasons []string
	for _, c := range p.Candidates {
		if c.Allowed {
			reasons = append(reasons, c.Uplink+": "+c.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

func familyName(name string, ipv6 bool) string {
	if ipv6 {
		return name + "/ipv6"
	}
	return name
}
