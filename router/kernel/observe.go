package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// maxDumps bounds the repetition of a dump that a change interrupted.
const maxDumps = 5

// observe reads the kernel.
func (r *Reconciler) observe(intent router.Intent) (observed, error) {
	seen := observed{raised: r.raised, originals: make(map[string]string, len(r.memory.Sysctls))}
	for path, o := range r.memory.Sysctls {
		seen.originals[path] = o.Original
	}
	var names map[int]string
	err := dump("list interfaces", func() (err error) { names, err = r.observeLinks(&seen); return err })
	if err != nil {
		return seen, err
	}
	seen.families = familiesOf(seen.sysctls)
	err = errors.Join(
		dump("list addresses", func() (err error) { seen.addresses, err = r.observeAddresses(seen.families, names); return err }),
		dump("list routes", func() (err error) { seen.routes, err = r.observeRoutes(seen.families, intent, names); return err }),
		dump("list rules", func() (err error) { seen.rules, err = r.observeRules(seen.families); return err }),
	)
	if err != nil {
		return seen, err
	}
	if seen.tables, err = r.observeTables(withFamilies(intent, seen.families)); err != nil {
		return seen, err
	}
	return seen, r.inNamespace(func() (err error) {
		if seen.allRPFilter, err = readSysctl("net/ipv4/conf/all/rp_filter"); err != nil {
			return fmt.Errorf("read sysctls: %w", err)
		}
		paths := []string{conf6("default") + "accept_ra", conf6("default") + "forwarding"}
		for _, s := range baseSysctls(intent) {
			paths = append(paths, s.path)
		}
		return readSysctls(paths, seen.sysctls)
	})
}

// familiesOf returns the families that a kernel has whose interfaces have these
// sysctls. Where it has no IPv6, its answers to questions about it are errors or, worse,
// about IPv4.
func familiesOf(sysctls map[string]string) []family {
	if _, ok := sysctls[conf6("lo")+"forwarding"]; ok {
		return []family{ipv4, ipv6}
	}
	return []family{ipv4}
}

// dump repeats a listing that the kernel says was torn by a change.
func dump(what string, f func() error) error {
	var err error
	for range maxDumps {
		if err = f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// number is the family's number for the kernel.
func (f family) number() int {
	if f == ipv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (r *Reconciler) observeRoutes(families []family, intent router.Intent, names map[int]string) ([]route, error) {
	tables := make(map[int]bool)
	for _, want := range intent.Routes {
		tables[want.Table] = true
	}
	var routes []route
	for _, f := range families {
		list, err := r.links.RouteListFiltered(f.number(), &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			mine := n.Protocol == protocol
			if !mine && !tables[n.Table] || n.Type == unix.RTN_LOCAL || n.Type == unix.RTN_BROADCAST {
				continue
			}
			routes = append(routes, convertRoute(n, f, mine, names))
		}
	}
	return routes, nil
}

func convertRoute(n netlink.Route, f family, mine bool, names map[int]string) route {
	seen := route{ours: mine, Route: router.Route{
		Table: n.Table, Destination: prefixOf(n.Dst, f), Metric: n.Priority,
		Link: names[n.LinkIndex], Unreachable: n.Type == unix.RTN_UNREACHABLE,
	}}
	index := n.LinkIndex
	if seen.Unreachable {
		// IPv6 says that it goes to the loopback interface.
		seen.Link, index = "", 0
	}
	if gateway, ok := netip.AddrFromSlice(n.Gw); ok {
		seen.Gateway = gateway.Unmap()
	}
	want := requestRoute(seen.Route, index)
	seen.exact = n.Type == want.Type && n.Scope == want.Scope && len(n.MultiPath) == 0 && n.Src == nil &&
		n.Flags&unix.RTNH_F_ONLINK == want.Flags && n.Tos == 0 && n.Via == nil && n.Encap == nil
	return seen
}

// everywhere is the prefix of all addresses of a family.
func everywhere(f family) netip.Prefix {
	if f == ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func prefixOf(n *net.IPNet, f family) netip.Prefix {
	if n == nil {
		return everywhere(f)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if f == ipv4 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (r *Reconciler) observeRules(families []family) ([]router.Rule, error) {
	var rules []router.Rule
	for _, f := range families {
		list, err := r.links.RuleList(f.number())
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if n.Protocol != protocol {
				continue
			}
			seen := router.Rule{Preference: n.Priority, Incoming: n.IifName, IPv6: bool(f), Table: n.Table}
			if n.Src != nil {
				seen.From = prefixOf(n.Src, f)
			}
			if n.Mask != nil {
				seen.Mark, seen.Mask = n.Mark, *n.Mask
			}
			rules = append(rules, seen)
		}
	}
	return rules, nil
}

// requestRoute is the form in which a route is asked of the kernel.
func requestRoute(want router.Route, linkIndex int) netlink.Route {
	n := netlink.Route{
		Table: want.Table, Dst: ipNet(want.Destination), Priority: want.Metric,
		LinkIndex: linkIndex, Protocol: protocol, Type: unix.RTN_UNICAST, Scope: netlink.SCOPE_UNIVERSE,
	}
	version := familyOf(want.Destination.Addr())
	switch {
	case want.Unreachable:
		n.Type = unix.RTN_UNREACHABLE
	case want.Gateway.IsValid():
		n.Gw = want.Gateway.AsSlice()
		if version == ipv4 {
			// The virtual link has no subnet from which the kernel could conclude that
			// the gateway is on it. IPv6 looks into the table of the route itself, and
			// takes no such hint where the parent has the subnet.
			n.Flags = unix.RTNH_F_ONLINK
		}
	case version == ipv4:
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}

func requestRule(want router.Rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.IifName, n.Protocol = family(want.IPv6).number(), want.Preference, want.Table, want.Incoming, protocol
	if want.From.IsValid() {
		n.Src = ipNet(want.From)
	}
	if want.Mask != 0 {
		n.Mark, n.Mask = want.Mark, &want.Mask
	}
	return n
}
