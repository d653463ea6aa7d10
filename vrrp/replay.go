package vrrp

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Step is an input of a recording and what the group made of it.
type Step struct {
	Record
	Output Output
	// Refused says why a configuration or a handover was refused; nil if it was not.
	Refused error
	// State is the group's afterwards, Deadline when it wants a tick, counted like At;
	// zero if never.
	State    State
	Deadline time.Duration
}

// Replay lets a new group take the inputs of a recording. The zero value is ready.
type Replay struct{ group *Group }

// Take takes the next input. The error says that no elector would have recorded it.
func (r *Replay) Take(record Record) (Step, error) {
	base := time.Time{}.Add(time.Hour) // any will do: only differences count
	s := Step{Record: record}
	switch {
	case r.group == nil && record.Configure == nil:
		return s, errors.New("a recording begins with a configuration")
	case r.group == nil:
		var err error
		if r.group, err = NewGroup(*record.Configure); err != nil {
			return s, err
		}
	default:
		if err := s.check(r.group); err != nil {
			return s, err
		}
		s.Output, s.Refused = r.group.Step(base.Add(record.At), record.Input)
	}
	s.State = r.group.State()
	if at := r.group.Deadline(); !at.IsZero() {
		s.Deadline = at.Sub(base)
	}
	return s, nil
}

// check refuses what no elector would have recorded.
func (s Step) check(g *Group) error {
	if a := s.Advert; a != nil && (a.Carrier < 0 || a.Carrier >= len(g.cfg.Carriers)) {
		return fmt.Errorf("an advert came by carrier %d of %d", a.Carrier, len(g.cfg.Carriers))
	}
	return nil
}

// String describes the input in a few words.
func (in Input) String() string {
	if in.Link == 0 {
		return in.what()
	}
	return fmt.Sprintf("%s, by HA link %d", in.what(), in.Link+1)
}

func (in Input) what() string {
	switch {
	case in.Configure != nil:
		return fmt.Sprintf("configure    %d carriers, interval %v, beat %v, priority %d", len(in.Configure.Carriers), in.Configure.Interval, in.Configure.Beat, in.Configure.Priority)
	case in.Start:
		return "start"
	case in.Stop != nil:
		return fmt.Sprintf("stop         %v", *in.Stop)
	case in.Tick:
		return "tick"
	case in.Advert != nil:
		a := in.Advert
		return fmt.Sprintf("advert       priority %d from %v on carrier %d, interval %v", a.Advertisement.Priority, a.Source, a.Carrier, a.Advertisement.Interval)
	case in.Heartbeat != nil:
		h := in.Heartbeat
		return fmt.Sprintf("heartbeat    %v, priority %d, term %d%s%s", h.State, h.Priority, h.Term, said(h.Ready, ", ready"), said(h.TakeOver, ", take over"))
	case in.Fitness != nil:
		f := in.Fitness
		return fmt.Sprintf("fitness      %d failed%s%s", f.Failed, said(f.Recovering, ", recovering"), said(f.Ready, ", ready"))
	case in.Links != nil:
		return fmt.Sprintf("links        up: %v", in.Links)
	case in.Handover:
		return "handover"
	case in.Echo:
		return "echo         the peer's kernel lives"
	case in.Refusal:
		return "refusal      nobody listens for heartbeats at the peer"
	}
	return "nothing"
}

func said(truth bool, words string) string {
	if truth {
		return words
	}
	return ""
}

// String describes what is to be done, in the order in which it is done; empty if
// nothing is.
func (o Output) String() string {
	var parts []string
	add := func(truth bool, words string) {
		if truth {
			parts = append(parts, words)
		}
	}
	add(o.Revoke, "revoke the lease")
	add(o.Advertise, fmt.Sprintf("advertise %d", o.Priority))
	add(o.Renew && !o.Advertise, "renew the lease")
	add(o.Ask, "ask")
	add(o.Heartbeat, "heartbeat")
	add(o.Announce, "announce")
	if t := o.Transition; t != nil {
		parts = append(parts, fmt.Sprintf("%v → %v (%v), term %d", t.From, t.To, t.Reason, t.Term))
	}
	return strings.Join(parts, ", ")
}
