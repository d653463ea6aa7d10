package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tandem/router"
)

// Reroute changes the kernel's routes from those of one intent to those of another, each
// by one replacement, and returns the changes. It is the quick part of [Reconciler.Apply]: it does not look at
// the kernel first, so that traffic is led elsewhere within a millisecond. An Apply of the new intent must
// follow, which also puts right what the error names.
func (r *Reconciler) Reroute(before, after router.Intent) (changed []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone, come := differing(before.Routes, after.Routes)
	old := make(map[router.Route]bool, len(gone))
	for _, route := range gone {
		old[routeForm(route)] = true
	}
	var errs []error
	indexes := make(map[string]int)
	taken := make(map[slot]bool, len(come))
	for _, route := range come {
		route = routeForm(route)
		taken[slotOf(route)] = true
		if !old[route] {
			errs = append(errs, r.reroute(op{kind: putRoute, link: route.Link, route: route}, indexes, &changed))
		}
	}
	for _, route := range gone {
		route = routeForm(route)
		kept := taken[slotOf(route)] || slices.ContainsFunc(after.Routes, func(other router.Route) bool { return slotOf(routeForm(other)) == slotOf(route) })
		if !kept {
			errs = append(errs, r.reroute(op{kind: deleteRoute, route: route}, indexes, &changed))
		}
	}
	return changed, errors.Join(errs...)
}

// differing returns what two lists do not have in common, and perhaps a little more. They
// are long and differ in few places, so that maps of them would take most of the time of a switch.
func differing(before, after []router.Route) (gone, come []router.Route) {
	i, j := 0, 0
	for i < len(before) && j < len(after) {
		switch {
		case before[i] == after[j]:
			i, j = i+1, j+1
		case i+1 < len(before) && before[i+1] == after[j]:
			gone, i = append(gone, before[i]), i+1
		case j+1 < len(after) && before[i] == after[j+1]:
			come, j = append(come, after[j]), j+1
		default:
			gone, come, i, j = append(gone, before[i]), append(come, after[j]), i+1, j+1
		}
	}
	return append(gone, before[i:]...), append(come, after[j:]...)
}

// reroute looks for each link only once: many routes change to the same.
func (r *Reconciler) reroute(o op, indexes map[string]int, changed *[]string) error {
	index, known := indexes[o.route.Link]
	if o.route.Link != "" && !known {
		l, err := r.links.LinkByName(o.route.Link)
		if err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
		index = l.Attrs().Index
		indexes[o.route.Link] = index
	}
	if err := r.changeRouteBy(o, index); err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	r.logger.Info("kernel changed", "group", r.group, "change", o.String())
	*changed = append(*changed, o.String())
	return nil
}

// routeForm gives the one form to routes that mean the same.
func routeForm(route router.Route) router.Route {
	route.Destination = netip.PrefixFrom(route.Destination.Masked().Addr(), route.Destination.Bits())
	if route.Metric == 0 && familyOf(route.Destination.Addr()) == ipv6 {
		route.Metric = defaultMetric6
	}
	return route
}
