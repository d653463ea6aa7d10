package router

import (
	"slices"
	"time"
)

// RecoveryTime is how long a link must stay up before it counts as well again.
// Failure counts at once: a dead link hurts now, a link that has just come back
// can wait, and one that flaps must not move the role with every flap.
const RecoveryTime = 2 * time.Second

// Health judges the links that a MASTER needs. The zero value knows of none.
type Health struct {
	links map[string]*linkHealth
}

type linkHealth struct {
	up bool
	// wellAt is when a link that came back counts as well; zero if it does, or if
	// the link is down.
	wellAt time.Time
}

// Observe takes the state of a link. A link that is seen for the first time
// counts as it is: a node that has just started has nothing to wait for.
func (h *Health) Observe(now time.Time, name string, up bool) {
	if h.links == nil {
		h.links = make(map[string]*linkHealth)
	}
	l, known := h.links[name]
	if !known {
		h.links[name] = &linkHealth{up: up}
		return
	}
	switch {
	case up && !l.up:
		l.wellAt = now.Add(RecoveryTime)
	case !up:
		l.wellAt = time.Time{}
	}
	l.up = up
}

// Forget drops every link that is not in keep.
func (h *Health) Forget(keep []string) {
	for name := range h.links {
		if !slices.Contains(keep, name) {
			delete(h.links, name)
		}
	}
}

// Failed returns the names of the links that are down, sorted.
func (h *Health) Failed() []string {
	return h.names(func(l *linkHealth) bool { return !l.up })
}

// Recovering returns the names of the links that are up, but have not been for
// long enough, sorted.
func (h *Health) Recovering(now time.Time) []string {
	return h.names(func(l *linkHealth) bool { return l.up && now.Before(l.wellAt) })
}

func (h *Health) names(match func(*linkHealth) bool) []string {
	var names []string
	for name, l := range h.links {
		if match(l) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Isolated tells that links are known and none is up.
func (h *Health) Isolated() bool {
	for _, l := range h.links {
		if l.up {
			return false
		}
	}
	return len(h.links) > 0
}

// Deadline returns when Recovering next changes by itself; zero if it does not.
func (h *Health) Deadline(now time.Time) time.Time {
	var at time.Time
	for _, l := range h.links {
		if l.up && now.Before(l.wellAt) && (at.IsZero() || l.wellAt.Before(at)) {
			at = l.wellAt
		}
	}
	return at
}
