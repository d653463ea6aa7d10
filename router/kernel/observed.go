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
	links     []link
	addresses []address
	routes    []route
	rules     []router.Rule // ours
	// sysctls holds the values of existing files, by path below /proc/sys.
	sysctls map[string]string
	// table tells that the netfilter table is as it should be.
	table bool
	// raised holds the interface indexes of ports that were set up once.
	raised map[int]bool
	// allRPFilter is net.ipv4.conf.all.rp_filter.
	allRPFilter string
}

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
}

// route is a route that is ours or stands in a table of ours.
type route struct {
	router.Route
	ours bool
	// exact tells that Route says all there is to say about it.
	exact bool
}

func (o observed) link(name string) (link, bool) {
	for _, l := range o.links {
		if l.name == name {
			return l, true
		}
	}
	return link{}, false
}
