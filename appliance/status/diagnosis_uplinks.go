package status

import (
	"fmt"
	"slices"
	"strings"

	"tandem/router/uplink"
)

// The names of conditions of the uplinks.
const (
	// NetworkWithoutUplink: a network may take no uplink that works.
	NetworkWithoutUplink = "network-without-uplink"
	// UplinkDead: an uplink does not work on this node.
	UplinkDead = "uplink-dead"
	// UplinkDegraded: an uplink works on this node, but loses more than it may.
	UplinkDegraded = "uplink-degraded"
)

// DiagnoseUplinks names what is the case with the uplinks and the networks behind them.
func DiagnoseUplinks(uplinks []Uplink, networks []Network) []Condition {
	var list []Condition
	if text := withoutUplink(networks); text != "" {
		list = append(list, Condition{Name: NetworkWithoutUplink, Text: text})
	}
	for _, c := range []struct {
		name  string
		state uplink.State
		words string
	}{
		{UplinkDead, uplink.Dead, "does not work"}, {UplinkDegraded, uplink.Degraded, "is degraded"},
	} {
		if names, text := inState(uplinks, c.state, c.words); len(names) > 0 {
			list = append(list, Condition{Name: c.name, Carriers: names, Text: text})
		}
	}
	return list
}

// withoutUplink names the networks of which a path has no uplink that works. Most share the
// reason, so it is given for the first.
func withoutUplink(networks []Network) string {
	var names []string
	reasons := ""
	for _, w := range networks {
		for _, p := range w.Paths {
			if p.State != uplink.Dead && p.Uplink != "" {
				continue
			}
			if len(names) == 0 {
				reasons = firstOf(noneWorks(p), p.Note)
			}
			names = append(names, pathName(p.Network, p.Destination))
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("the network %s has no uplink that works: %s", names[0], reasons)
	}
	return fmt.Sprintf("the networks %s have no uplink that works; of %s: %s", enumerate(names), names[0], reasons)
}

// mostNames is how many names a sentence can bear.
const mostNames = 6

func enumerate(names []string) string {
	if extra := len(names) - mostNames; extra > 0 {
		return strings.Join(names[:mostNames], ", ") + fmt.Sprintf(" and %d more", extra)
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// inState names the uplinks of which a family is in a state.
func inState(uplinks []Uplink, state uplink.State, words string) (names []string, text string) {
	var parts []string
	for _, u := range uplinks {
		all := !slices.ContainsFunc(u.Families, func(f uplink.FamilyStatus) bool { return f.State != state })
		for _, f := range u.Families {
			if f.State != state {
				continue
			}
			if !slices.Contains(names, u.Name) {
				names = append(names, u.Name)
			}
			name := u.Name
			if !all {
				name += " (" + familyText(f.IPv6) + ")"
			}
			part := fmt.Sprintf("the uplink %s %s: %s", name, words, f.Reason)
			if !slices.Contains(parts, part) {
				parts = append(parts, part)
			}
		}
	}
	return names, strings.Join(parts, "; ")
}
