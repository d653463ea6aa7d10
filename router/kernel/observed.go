package kernel

import (
	"net/netip"

	"tandem/router"
)

// protocol marks our addresses, routes and rules. It is the IP protocol number of
// VRRP; the kernel and iproute2 give 112 no meaning of their own.
const protocol = 112

// observed is the part of the kernel's state that a plan depends on.
type observed struct {
	// families are those that this kernel has.
	families []family
	links    []link
	// addresses stand in the kernel's order: of two link-local ones on one
	// interface, the kernel speaks in the name of the later one here.
	addresses []address
	routes    []route
	rules     []router.Rule // ours
	// sysctls holds the values of existing files, by path below /proc/sys.
	sysctls map[string]string
	// originals holds what sysctls were before our first change to them.
	originals map[string]string
	// tables tells which netfilter tables are as they should be.
	tables map[family]bool
	// raised holds the interface indexes of ports that were set up once.
	raised map[int]bool
	// allRPFilter is net.ipv4.conf.all.rp_filter.
	allRPFilter string
}

// family is an address family.
type family bool

const (
	ipv4 family = false
	ipv6 family = true
)

// table is the name of the family's netfilter tables.
func (f family) table() string {
	if f == ipv6 {
		return "ip6"
	}
	return "ip"
}

// familyOf returns the family of an address.
func familyOf(a netip.Addr) family { return family(a.Is6() && !a.Is4In6()) }

// link is an interface.
type link struct {
	name, alias string
	index       int
	// macvlan tells that it is one, in bridge mode.
	macvlan bool
	// parent is the name of the lower interface, empty if there is none here.
	parent string
	mac    [6]byte
	up     bool
}

// address is an address of an interface.
type address struct {
	link   string
	prefix netip.Prefix
	ours   bool
	form   addressForm
	// duplicate tells that another host of the segment has it (RFC 4862 §5.4.5).
	duplicate bool
}

// addressForm is how an address stands on its interface.
type addressForm struct {
	// nodad keeps the kernel from asking whether somebody else has the address, and
	// from waiting for an answer: somebody else has it, by design.
	nodad bool
	// deprecated keeps the kernel from taking the address as the source of what the
	// node sends of its own.
	deprecated bool
	// noPrefixRoute keeps the address out of the main table.
	noPrefixRoute bool
	// hostScope is for IPv4 what deprecated is for IPv6.
	hostScope bool
}

// route is a route that is ours or stands in a table of ours.
type route struct {
	router.Route
	ours bool
	// exact tells that Route says all there is to say about it.
	exact bool
}

// index finds links by name.
func (o observed) index() map[string]link {
	m := make(map[string]link, len(o.links))
	for _, l := range o.links {
		m[l.name] = l
	}
	return m
}
