package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Event is something that happened on a node. The names of its fields and kinds are
// stable.
type Event struct {
	// ID names the event; a subscriber that has seen it can go on from there.
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Node string    `json:"node"`
	// Kind is one of the Event constants.
	Kind string `json:"kind"`
	// Name is the condition that has begun or ended, or the uplink or network that is meant.
	Name string `json:"name,omitempty"`
	// From and To are the roles of a transition, the states of an uplink or the uplinks of a
	// network.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Reason is a sentence, or part of one.
	Reason string `json:"reason,omitempty"`
	// Numbers go with it, by name. Durations are in seconds.
	Numbers map[string]float64 `json:"numbers,omitempty"`
}

// The kinds of events.
const (
	// EventRole is a change of the role, with the term and the priority.
	EventRole = "role"
	// EventConditionBegun and EventConditionEnded tell of a [Condition].
	EventConditionBegun = "condition-begun"
	EventConditionEnded = "condition-ended"
	// EventReplicationBroken and EventReplicationRestored tell of the stream,
	// EventReplicationComplete and EventReplicationIncomplete of the tables.
	EventReplicationBroken     = "replication-broken"
	EventReplicationRestored   = "replication-restored"
	EventReplicationComplete   = "replication-complete"
	EventReplicationIncomplete = "replication-incomplete"
	// EventReplicationOverrun tells that events were lost, EventReplicationRefused that
	// the kernel refused flows, EventReplicationUnverified that flows were not as
	// written. They are counted since the last event of the kind.
	EventReplicationOverrun    = "replication-overrun"
	EventReplicationRefused    = "replication-refused"
	EventReplicationUnverified = "replication-unverified"
	// EventElector, EventFence and EventKernel tell of the parts of a node.
	EventElector = "elector"
	EventFence   = "fence"
	EventKernel  = "kernel"
	// EventDocument tells that a changed document is in force.
	EventDocument = "document"
	// EventNode tells that the node starts or stops.
	EventNode = "node"
	// EventMissed tells that older events are not remembered any more; EventDropped is
	// the last one of a subscriber that was too slow.
	EventMissed  = "missed"
	EventDropped = "dropped"
)

// Text returns the event as one line for people, without its time.
func (e Event) Text() string {
	text := e.Kind
	if e.Name != "" {
		text += " " + e.Name
	}
	if e.To != "" {
		text += " " + e.From + " → " + e.To
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	numbers := make([]string, 0, len(e.Numbers))
	for _, name := range slices.Sorted(maps.Keys(e.Numbers)) {
		numbers = append(numbers, fmt.Sprintf("%s %g", name, e.Numbers[name]))
	}
	if len(numbers) > 0 {
		text += " (" + strings.Join(numbers, ", ") + ")"
	}
	return text
}

// Changes returns what happened between two looks at a node; roles are told of by who
// learns of them first. The zero Status is a node that has not begun.
func Changes(before, after Status) []Event {
	var list []Event
	for _, c := range after.Conditions {
		if !HasCondition(before.Conditions, c.Name) {
			list = append(list, Event{Kind: EventConditionBegun, Name: c.Name, Reason: c.Text})
		}
	}
	for _, c := range before.Conditions {
		if !HasCondition(after.Conditions, c.Name) {
			list = append(list, Event{Kind: EventConditionEnded, Name: c.Name})
		}
	}
	return slices.Concat(list, syncChanges(before, after), uplinkChanges(before, after))
}

func syncChanges(before, after Status) []Event {
	var list []Event
	was, is := before.Sync, after.Sync
	switch {
	case was.Connected && !is.Connected:
		list = append(list, Event{Kind: EventReplicationBroken, Reason: is.Error, Numbers: lasted(after.Time, was.Since)})
	case !was.Connected && is.Connected:
		e := Event{Kind: EventReplicationRestored, Numbers: lasted(after.Time, was.Since)}
		if is.Link != "" {
			e.Reason = "by " + is.Link
		}
		list = append(list, e)
	case was.Link != is.Link && is.Link != "": // so fast that nobody saw it break
		list = append(list, Event{Kind: EventReplicationRestored, Reason: "by " + is.Link + " instead of " + was.Link})
	}
	switch {
	case !was.Complete && is.Complete:
		numbers := lasted(after.Time, was.CompleteSince)
		numbers["sessions"] = float64(is.Sessions)
		list = append(list, Event{Kind: EventReplicationComplete, Numbers: numbers})
	case was.Complete && !is.Complete && is.Connected:
		list = append(list, Event{Kind: EventReplicationIncomplete, Reason: is.lacks(), Numbers: lasted(after.Time, was.CompleteSince)})
	}
	return list
}

// lasted is the number of seconds for which something was the case.
func lasted(now, since time.Time) map[string]float64 {
	numbers := make(map[string]float64, 2)
	if !since.IsZero() {
		numbers["after_seconds"] = now.Sub(since).Round(time.Millisecond).Seconds()
	}
	return numbers
}

// Losses returns what was lost between two looks: what may come in storms, so that it is
// told of as a sum.
func Losses(before, after Sync) []Event {
	var list []Event
	if n := grown(before.Overruns, after.Overruns) + grown(before.Overflows, after.Overflows); n > 0 {
		list = append(list, Event{
			Kind: EventReplicationOverrun, Reason: "events were lost; the tables are compared and repaired",
			Numbers: map[string]float64{"overruns": float64(grown(before.Overruns, after.Overruns)), "overflows": float64(grown(before.Overflows, after.Overflows))},
		})
	}
	if grown(before.Refused, after.Refused) > 0 {
		e := Event{Kind: EventReplicationRefused, Numbers: map[string]float64{"refused": float64(after.Refused - before.Refused)}}
		for reason, count := range after.RefusedBy {
			if more := grown(before.RefusedBy[reason], count); more > 0 {
				e.Numbers[reason] = float64(more)
			}
		}
		if _, full := e.Numbers[TableFull]; full {
			e.Reason = "the kernel's table of sessions is full: " + raiseLimit
		}
		list = append(list, e)
	}
	if n := grown(before.VerificationFailed, after.VerificationFailed); n > 0 {
		list = append(list, Event{
			Kind: EventReplicationUnverified, Reason: "flows in the kernel are not as they were written",
			Numbers: map[string]float64{"flows": float64(n)},
		})
	}
	return list
}

// grown is how much a counter has grown; nothing if it began anew.
func grown(before, after uint64) uint64 {
	if after < before {
		return 0
	}
	return after - before
}
