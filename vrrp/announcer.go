package vrrp

import "time"

// The pace of announcements.
const (
	// announceBatch is how many frames leave at once.
	announceBatch = 64
	// firstPause lies between the batches of the first round: a thousand addresses are
	// announced within a tenth of a second, and adverts still leave in between.
	firstPause = 5 * time.Millisecond
	// repeatPause lies between those of a repetition, which must not fill the queues
	// of switches.
	repeatPause = 50 * time.Millisecond
	// repeatAfter is when the first repetition begins: Linux ignores a second change of
	// a neighbour within a second (locktime). settleAfter is when the second one does,
	// for hosts whose switch port was just coming up.
	repeatAfter = 1200 * time.Millisecond
	settleAfter = 5 * time.Second
	// againAfter is the least time between two first rounds, so that a storm of losing
	// adverts is not answered by a storm of announcements.
	againAfter = 100 * time.Millisecond
)

// Announcement names one virtual address of a carrier by their places in the
// configuration.
type Announcement struct{ Carrier, Address int }

// Announcer is the sequence in which a new MASTER announces its addresses: the first
// address of every carrier, the second of every carrier and so on, each once and
// fast, then twice more at a gentle pace, and then again whenever the refresh time has
// passed. The zero value announces nothing. It is pure, like [Group].
type Announcer struct {
	// Refresh is how often all is announced again; zero is never.
	refresh time.Duration
	// order holds what there is to announce, first things first.
	order []Announcement
	// next is the place in order of the next frame of the round, at its time. Zero
	// means that nothing is to be announced.
	next int
	at   time.Time
	// round counts from zero since started.
	round   int
	started time.Time
	// again asks for another first round.
	again bool
}

// NewAnnouncer returns an Announcer for carriers with that many addresses each.
func NewAnnouncer(addresses []int, refresh time.Duration) *Announcer {
	a := &Announcer{refresh: refresh}
	for i, found := 0, true; found; i++ {
		found = false
		for carrier, count := range addresses {
			if i < count {
				a.order = append(a.order, Announcement{carrier, i})
				found = true
			}
		}
	}
	return a
}

// Start begins with the first round. While one is under way, or was a moment ago,
// another one follows it.
func (a *Announcer) Start(now time.Time) {
	if len(a.order) == 0 {
		return
	}
	busy := !a.at.IsZero() && a.round == 0
	if busy || !a.started.IsZero() && now.Sub(a.started) < againAfter {
		a.again = true
		if !busy {
			a.at = a.started.Add(againAfter)
		}
		return
	}
	a.begin(now)
}

func (a *Announcer) begin(now time.Time) {
	a.started, a.at, a.round, a.next, a.again = now, now, 0, 0, false
}

// Stop ends it: a BACKUP announces nothing.
func (a *Announcer) Stop() { a.at, a.started, a.again = time.Time{}, time.Time{}, false }

// Deadline returns when [Announcer.Next] has something; zero if never.
func (a *Announcer) Deadline() time.Time { return a.at }

// Next returns what is to be announced now; it is empty before the deadline.
func (a *Announcer) Next(now time.Time) []Announcement {
	if !due(a.at, now) {
		return nil
	}
	if a.again && (a.round > 0 || a.next == 0) {
		a.begin(now)
	}
	end := min(a.next+announceBatch, len(a.order))
	batch := a.order[a.next:end]
	a.next = end
	if end < len(a.order) {
		a.at = now.Add(a.pause())
		return batch
	}
	a.finish(now)
	return batch
}

func (a *Announcer) pause() time.Duration {
	if a.round == 0 {
		return firstPause
	}
	return repeatPause
}

// finish ends a round and sets the time of the next one.
func (a *Announcer) finish(now time.Time) {
	a.next = 0
	a.round++
	switch {
	case a.again:
		a.at = a.started.Add(againAfter)
	case a.round == 1:
		a.at = a.started.Add(repeatAfter)
	case a.round == 2:
		a.at = a.started.Add(settleAfter)
	case a.refresh > 0:
		a.at = now.Add(a.refresh)
	default:
		a.at = time.Time{}
	}
	if !a.at.IsZero() && a.at.Before(now) {
		a.at = now
	}
}
