package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"tandem/router"
)

// Reroute changes the kernel's routes from those of one intent to those of another, each
// by one replacement, and returns the changes. It is the quick part of [Reconciler.Apply]: it does not look at
// the kernel first, so that traffic is led elsewhere within a millisecond. An Apply of the new intent must
// follow, which also puts right what the error names.
func (r *Reconciler) Reroute(before, after router.Intent) (changed []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := make(map[router.Route]bool, len(before.Routes))
	for _, route := range before.Routes {
		old[routeForm(route)] = true
	}
	kept := make(map[slot]bool, len(after.Routes))
	var errs []error
	for _, route := range after.Routes {
		route = routeForm(route)
		kept[slotOf(route)] = true
		if old[route] {
			continue
		}
		errs = append(errs, r.reroute(op{kind: putRoute, link: route.Link, route: route}, &changed))
	}
	for _, route := range before.Routes {
		if route = routeForm(route); !kept[slotOf(route)] {
			errs = append(errs, r.reroute(op{kind: deleteRoute, route: route}, &changed))
		}
	}
	return changed, errors.Join(errs...)
}

func (r *Reconciler) reroute(o op, changed *[]string) error {
	if err := r.changeRoute(o); err != nil {
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
