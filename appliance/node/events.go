package node

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"tandem/appliance/status"
	"tandem/vrrp/elector"
)

// eventMemory is how many events are remembered. Who falls behind by more is dropped.
const eventMemory = 1024

// eventLog remembers the newest events. Adding never waits: readers have a position of
// their own in it.
type eventLog struct {
	node string
	// run tells the IDs of this process from those of another.
	run string

	mu sync.Mutex
	// events are the newest; the last one has the number last, the numbers begin at 1.
	events []status.Event
	last   uint64
	// changed is closed and replaced with every addition.
	changed chan struct{}
}

func newEventLog(node string) *eventLog {
	var run [4]byte
	_, _ = rand.Read(run[:]) // never fails
	return &eventLog{node: node, run: hex.EncodeToString(run[:]), changed: make(chan struct{})}
}

// add remembers events and wakes the readers.
func (l *eventLog) add(events ...status.Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		l.last++
		e.ID, e.Node = l.id(l.last), l.node
		if e.Time.IsZero() {
			e.Time = now
		}
		l.events = append(l.events, e)
	}
	if extra := len(l.events) - eventMemory; extra > 0 {
		l.events = append(l.events[:0], l.events[extra:]...)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *eventLog) id(number uint64) string { return fmt.Sprintf("%s-%d", l.run, number) }

// after copies the events that come after a number, at most limit of them. missed is how
// many of them are not remembered any more; changed is closed when there are further
// ones.
func (l *eventLog) after(number uint64, limit int) (events []status.Event, missed uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.last - uint64(len(l.events)) // the number before the oldest's
	if number < oldest {
		missed, number = oldest-number, oldest
	}
	rest := l.events[number-oldest:]
	return append(events, rest[:min(len(rest), limit)]...), missed, l.changed
}

// position returns the number of the event of that ID. An ID of another process, or
// none, is before all that is remembered.
func (l *eventLog) position(id string) (number uint64, known bool) {
	run, text, _ := strings.Cut(id, "-")
	number, err := strconv.ParseUint(text, 10, 64)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || run != l.run || number > l.last {
		return l.last - uint64(len(l.events)), false
	}
	return number, true
}

// newest returns the number after which the newest events begin, at most count of them.
func (l *eventLog) newest(count uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last - min(count, uint64(len(l.events)))
}

// roleEvent tells of a transition.
func roleEvent(before, after elector.Report) status.Event {
	return status.Event{
		Kind: status.EventRole, From: before.State.String(), To: after.State.String(), Reason: after.Reason,
		Numbers: map[string]float64{"term": float64(after.Term), "priority": float64(after.Priority)},
	}
}
