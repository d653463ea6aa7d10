package uplink

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tandem/router/config"
)

// Use tells whether an operation may use an uplink now.
type Use struct {
	Uplink string `json:"uplink"`
	Cost   uint8  `json:"cost"`
	Usable bool   `json:"usable"`
	// Reason says why it is not usable, or what is known of it.
	Reason string `json:"reason"`
}

// Usable returns all uplinks, the best one for the operation first: those that it may use, then the others, each by
// state, cost and the order of the document.
func (s *Selector) Usable(o config.Operation) []Use {
	var uses []Use
	states := make(map[string]State, len(s.uplinks))
	for _, u := range s.uplinks {
		state, reason := u.overall(s.now)
		states[u.name] = state
		use := Use{Uplink: u.name, Cost: u.cost, Usable: state.Works(), Reason: reason}
		if why := u.forbids(o); why != "" {
			use.Usable, use.Reason = false, why
		}
		uses = append(uses, use)
	}
	slices.SortStableFunc(uses, func(a, b Use) int {
		if a.Usable != b.Usable {
			if a.Usable {
				return -1
			}
			return 1
		}
		if a.Usable {
			if byState := cmp.Compare(states[b.Uplink], states[a.Uplink]); byState != 0 {
				return byState
			}
		}
		return cmp.Compare(a.Cost, b.Cost)
	})
	return uses
}

// forbids says why an operation may not use an uplink, whatever its state; empty if it may.
func (u *uplink) forbids(o config.Operation) string {
	switch {
	case len(o.Uplinks) > 0 && !u.called(o.Uplinks):
		return "the operation may not use it"
	case u.cost > o.MaxCost:
		return fmt.Sprintf("its cost is %d, the operation takes up to %d", u.cost, o.MaxCost)
	case u.metered && !o.Metered:
		return "it is metered, and the operation may use no metered uplink"
	}
	return ""
}

// overall is the state of an uplink as a whole: the best of its families.
func (u *uplink) overall(now time.Time) (State, string) {
	state, reason := Unknown, "it has no addresses"
	for _, f := range u.families {
		if f == nil {
			continue
		}
		if s, why := f.overall(now); reason == "it has no addresses" || s > state {
			state, reason = s, why
		}
	}
	return state, reason
}

// overall is the state of an uplink in a family, whatever a single path asks for: targets count for more
// than the gateway, and one that answers is enough.
func (f *family) overall(now time.Time) (State, string) {
	switch {
	case f.down() != "":
		return Dead, f.down()
	case !f.up():
		return Unknown, "nothing is known of its port yet"
	}
	monitors := f.targets
	if len(monitors) == 0 {
		if f.gateway == nil {
			return Working, "the link is up; there is nothing to ask"
		}
		monitors = []*monitor{f.gateway}
	}
	state, reason := Unknown, ""
	for i, m := range monitors {
		s, why := m.verdict()
		if silent, _ := f.silentWithGateway(now, m); silent {
			s, why = Dead, "neither the gateway nor "+m.target.Host+" answers"
		}
		if i == 0 || s > state {
			state, reason = s, why
		}
	}
	return state, reason
}
