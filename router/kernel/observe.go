package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// maxDumps bounds the repetition of a dump that a change interrupted.
const maxDumps = 5

// observe reads the kernel.
func (r *Reconciler) observe(intent router.Intent) (observed, error) {
	seen := observed{raised: r.raised}
	var names map[int]string
	err := errors.Join(
		dump("list interfaces", func() (err error) { seen.links, names, err = r.observeLinks(); return err }),
		dump("list addresses", func() (err error) { seen.addresses, err = r.observeAddresses(names); return err }),
		dump("list routes", func() (err error) { seen.routes, err = r.observeRoutes(intent, names); return err }),
		dump("list rules", func() (err error) { seen.rules, err = r.observeRules(); return err }),
	)
	if err != nil {
		return seen, err
	}
	if seen.table, err = r.tableStands(desiredRules(intent)); err != nil {
		return seen, err
	}
	return seen, r.inNamespace(func() (err error) {
		if seen.allRPFilter, err = readSysctl("net/ipv4/conf/all/rp_filter"); err != nil {
			return fmt.Errorf("read sysctls: %w", err)
		}
		seen.sysctls, err = readSysctls(sysctlPaths(intent))
		return err
	})
}

func sysctlPaths(intent router.Intent) []string {
	list := baseSysctls()
	for _, v := range intent.VirtualLinks {
		list = append(list, virtualSettings(v.Name, "")...)
		list = append(list, parentSettings(v.Parent, "")...)
	}
	var paths []string
	for _, s := range list {
		paths = append(paths, s.path)
	}
	return paths
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

func (r *Reconciler) observeLinks() ([]link, map[int]string, error) {
	list, err := r.links.LinkList()
	if err != nil {
		return nil, nil, err
	}
	names := make(map[int]string, len(list))
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var links []link
	for _, l := range list {
		a := l.Attrs()
		seen := link{
			name: a.Name, alias: a.Alias, index: a.Index,
			mac: hardwareAddress(a.HardwareAddr), up: a.RawFlags&unix.IFF_UP != 0,
		}
		m, ok := l.(*netlink.Macvlan)
		seen.macvlan = ok && m.Mode == netlink.MACVLAN_MODE_BRIDGE
		// The index of a parent in another namespace means nothing here.
		if a.NetNsID < 0 {
			seen.parent = names[a.ParentIndex]
		}
		links = append(links, seen)
	}
	return links, names, nil
}

func hardwareAddress(a net.HardwareAddr) [6]byte {
	if len(a) != 6 {
		return [6]byte{}
	}
	return [6]byte(a)
}

func (r *Reconciler) observeRoutes(intent router.Intent, names map[int]string) ([]route, error) {
	list, err := r.links.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	var routes []route
	for _, n := range list {
		mine := n.Protocol == protocol
		inTable := slices.ContainsFunc(intent.Routes, func(want router.Route) bool { return want.Table == n.Table })
		if !mine && !inTable || n.Type == unix.RTN_LOCAL || n.Type == unix.RTN_BROADCAST {
			continue
		}
		routes = append(routes, convertRoute(n, mine, names))
	}
	return routes, nil
}

func convertRoute(n netlink.Route, mine bool, names map[int]string) route {
	seen := route{ours: mine, Route: router.Route{
		Table: n.Table, Destination: prefixOf(n.Dst), Metric: n.Priority,
		Link: names[n.LinkIndex], Unreachable: n.Type == unix.RTN_UNREACHABLE,
	}}
	if gateway, ok := netip.AddrFromSlice(n.Gw); ok {
		seen.Gateway = gateway.Unmap()
	}
	want := requestRoute(seen.Route, n.LinkIndex)
	seen.exact = n.Type == want.Type && n.Scope == want.Scope && len(n.MultiPath) == 0 && n.Src == nil &&
		n.Flags&unix.RTNH_F_ONLINK == want.Flags && n.Tos == 0 && n.Via == nil && n.Encap == nil
	return seen
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (r *Reconciler) observeRules() ([]router.Rule, error) {
	list, err := r.links.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	var rules []router.Rule
	for _, n := range list {
		if n.Protocol != protocol {
			continue
		}
		rule := router.Rule{Preference: n.Priority, Incoming: n.IifName, Table: n.Table}
		if n.Src != nil {
			rule.From = prefixOf(n.Src)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// requestRoute is the form in which a route is asked of the kernel.
func requestRoute(want router.Route, linkIndex int) netlink.Route {
	n := netlink.Route{
		Table: want.Table, Dst: ipNet(want.Destination), Priority: want.Metric,
		LinkIndex: linkIndex, Protocol: protocol, Type: unix.RTN_UNICAST, Scope: netlink.SCOPE_UNIVERSE,
	}
	switch {
	case want.Unreachable:
		n.Type = unix.RTN_UNREACHABLE
	case want.Gateway.IsValid():
		n.Gw = want.Gateway.AsSlice()
		// The virtual link has no subnet from which the kernel could conclude that
		// the gateway is on it.
		n.Flags = unix.RTNH_F_ONLINK
	default:
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}

func requestRule(want router.Rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.IifName, n.Protocol = netlink.FAMILY_V4, want.Preference, want.Table, want.Incoming, protocol
	if want.From.IsValid() {
		n.Src = ipNet(want.From)
	}
	return n
}
