package node

import (
	"time"

	"tandem/conntracksync"
)

const (
	// masterDelay is how long after an expectation its master is read: the helper has
	// rewritten the packet by then. masterLimit bounds how many wait.
	masterDelay = 5 * time.Millisecond
	masterLimit = 4096
)

// masters are flows whose helper has just expected another. What it has added to their
// sequence numbers is in no event, so they are read from the table.
type masters struct {
	keys map[conntracksync.Key]struct{}
	at   time.Time
}

// note remembers whom events are about.
func (m *masters) note(now time.Time, events []conntracksync.Event) {
	for i := range events {
		if events[i].Expect != nil || events[i].Flow.Extra != nil {
			m.noteOne(now, &events[i])
		}
	}
}

func (m *masters) noteOne(now time.Time, e *conntracksync.Event) {
	var key conntracksync.Key
	switch {
	case e.Kind == conntracksync.EventExpect && e.Expect != nil:
		key = e.Expect.Master
	case e.Kind == conntracksync.EventNew && e.Flow.Extra != nil && e.Flow.Extra.HasMaster:
		key = e.Flow.Extra.Master
	default:
		return
	}
	if len(m.keys) >= masterLimit {
		return // a repair brings them
	}
	if len(m.keys) == 0 {
		m.keys, m.at = make(map[conntracksync.Key]struct{}), now.Add(masterDelay)
	}
	m.keys[key] = struct{}{}
}

// deadline is when masters are to be read; zero if there are none.
func (m *masters) deadline() time.Time {
	if len(m.keys) == 0 {
		return time.Time{}
	}
	return m.at
}

// readMasters tells the peer of masters as the kernel has them now.
func (r *replication) readMasters(now time.Time) {
	m := &r.masters
	if len(m.keys) == 0 || now.Before(m.at) {
		return
	}
	keys := make([]conntracksync.Key, 0, len(m.keys))
	for key := range m.keys {
		keys = append(keys, key)
	}
	m.keys = nil
	if !r.role.master {
		return
	}
	flows, err := r.table.Lookup(keys)
	if err != nil {
		r.node.log.Warn("flows with a helper could not be read", "error", err)
	}
	for i := range flows {
		r.sender.Event(now, &conntracksync.Event{Kind: conntracksync.EventUpdate, Flow: flows[i]})
	}
}
