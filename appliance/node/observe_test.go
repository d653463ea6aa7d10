package node

import (
	"testing"
	"time"

	"tandem/appliance/status"
)

func TestObserverRemembers(t *testing.T) {
	var o observer
	now := time.Unix(1000, 0)
	look := func(connected, complete bool) status.Sync {
		s := status.Sync{Connected: connected, Complete: complete}
		o.look(now, &s)
		return s
	}
	first := look(false, false)
	if !first.Since.IsZero() || !first.CompleteSince.Equal(now) {
		t.Errorf("at the first look: %+v", first)
	}
	up := now.Add(time.Second)
	now = up
	look(true, false)
	complete := up.Add(time.Second)
	now = complete
	look(true, true)
	now = complete.Add(time.Minute)
	if s := look(true, true); !s.Since.Equal(up) || !s.CompleteSince.Equal(complete) {
		t.Errorf("a minute later: %+v", s)
	}
	if s := look(false, false); !s.Since.Equal(now) || !s.CompleteSince.Equal(now) {
		t.Errorf("the break: %+v", s)
	}
}

func TestObserverSamples(t *testing.T) {
	var o observer
	now := time.Unix(1000, 0)
	sample := func(after time.Duration, s status.Sync, master bool) status.Sync {
		now = now.Add(after)
		o.sample(now, s, master, nil)
		o.look(now, &s)
		return s
	}
	s := status.Sync{Events: 1000, Sent: 500, Applied: 7, RefusedBy: map[string]uint64{}}
	if got := sample(0, s, true); got.EventRate != 0 || got.RecordRate != 0 {
		t.Errorf("rates after one sample: %+v", got)
	}
	s.Events, s.Sent = 3000, 1500
	if got := sample(2*time.Second, s, true); got.EventRate != 1000 || got.RecordRate != 500 {
		t.Errorf("%+v", got)
	}
	if got := sample(time.Second, s, false); got.EventRate != 0 || got.RecordRate != 0 {
		t.Errorf("after a change of role: %+v", got)
	}
	if !o.fullSince().IsZero() {
		t.Error("full, and nothing was refused")
	}
	s.RefusedBy["EINVAL"] = 1
	sample(time.Second, s, false)
	if !o.fullSince().IsZero() {
		t.Error("EINVAL is no full table")
	}
	s.RefusedBy[status.TableFull] = 1
	sample(time.Second, s, false)
	if full := o.fullSince(); !full.Equal(now) {
		t.Errorf("full at %v", full)
	}
	at := now
	sample(time.Second, s, false)
	if full := o.fullSince(); !full.Equal(at) {
		t.Errorf("full again at %v, and no further flow was refused", full)
	}
}

func TestSeePeer(t *testing.T) {
	var o observer
	now := time.Unix(1000, 0)
	if at := o.seePeer(now, false); !at.IsZero() {
		t.Errorf("%v", at)
	}
	o.seePeer(now, true)
	if at := o.seePeer(now.Add(time.Second), true); !at.Equal(now) {
		t.Errorf("%v", at)
	}
	o.seePeer(now.Add(2*time.Second), false)
	if at := o.seePeer(now.Add(3*time.Second), true); !at.Equal(now.Add(3 * time.Second)) {
		t.Errorf("%v", at)
	}
}
