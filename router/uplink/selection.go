package uplink

import "net/netip"

// Path is what has a choice between uplinks: the default route of a network in one family, or one
// of its further routes.
type Path struct {
	// Network is the name of the network.
	Network string
	// Destination is 0.0.0.0/0, ::/0 or the destination of a route.
	Destination netip.Prefix
}

// IPv6 tells the family of a path.
func (p Path) IPv6() bool { return p.Destination.Addr().Is6() }

// Selection names the uplink of each path. A path that is missing has none: what takes it is unreachable.
type Selection map[Path]string
