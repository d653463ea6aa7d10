package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dump is the configuration of a namespace's kernel as sorted lines: links,
// addresses, routes, rules, netfilter and sysctls. Counters, neighbours and
// tracked connections are no configuration.
func (s *stand) dump(node string) []string {
	s.t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	s.inNetlink(node, func(h *netlink.Handle) error { return dumpNetwork(h, add) })
	s.must(s.Namespace(node).Do(func() error {
		return errors.Join(dumpFilter(add), dumpSysctls(add))
	}))
	slices.Sort(lines)
	return lines
}

func dumpNetwork(h *netlink.Handle, add func(string, ...any)) error {
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	names := make(map[int]string)
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		add("link %s %s up=%t promiscuous=%d mac=%v mtu=%d alias=%q", a.Name, l.Type(), a.RawFlags&unix.IFF_UP != 0,
			a.Promisc, a.HardwareAddr, a.MTU, a.Alias)
	}
	addresses, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		add("address %v on %s scope=%d flags=%#x", a.IPNet, names[a.LinkIndex], a.Scope, a.Flags)
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, r := range routes {
		add("route %v via %v dev %s table=%d type=%d protocol=%d metric=%d", r.Dst, r.Gw, names[r.LinkIndex], r.Table, r.Type, r.Protocol, r.Priority)
	}
	rules, err := h.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range rules {
		add("rule %d from %v to %v iif %q lookup %d protocol=%d", r.Priority, r.Src, r.Dst, r.IifName, r.Table, r.Protocol)
	}
	return nil
}

func dumpFilter(add func(string, ...any)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		add("table %d %s", t.Family, t.Name)
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	for _, chain := range chains {
		add("chain %d %s %s", chain.Table.Family, chain.Table.Name, chain.Name)
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return err
		}
		for i, r := range rules {
			add("rule %d of chain %d %s %s: %s", i, chain.Table.Family, chain.Table.Name, chain.Name, expressions(r.Exprs))
		}
	}
	return nil
}

func expressions(list []expr.Any) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, " %+v", e)
	}
	return b.String()
}

// dumpSysctls reads what the calling thread's network namespace has. Counters
// lie among the settings, and settings that only a write makes readable.
func dumpSysctls(add func(string, ...any)) error {
	const root = "/proc/sys/net"
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := filepath.Base(path); name == "nf_conntrack_count" || name == "stat_refresh" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil // not readable here, before as after
		}
		add("sysctl %s = %s", strings.TrimPrefix(path, root+"/"), bytes.TrimSpace(content))
		return nil
	})
}

// restored fails the test unless a namespace is as it was.
func (s *stand) restored(node string, before []string) {
	s.t.Helper()
	if diff := cmp.Diff(before, s.dump(node)); diff != "" {
		s.t.Errorf("%s is not as it was before the node (-before +after):\n%s", node, diff)
	}
	if left := s.Processes(node); len(left) > 0 {
		s.t.Errorf("the processes %v are left in %s", left, node)
	}
}

// keeps fails the test if something of want has gone.
func (s *stand) keeps(node string, want []string) {
	s.t.Helper()
	have := s.dump(node)
	for _, line := range want {
		if !slices.Contains(have, line) {
			s.t.Errorf("%s has lost what is not Tandem's: %s", node, line)
		}
	}
}

// Names and numbers of what somebody else has made.
const (
	foreignTable   = "foreign"
	foreignLink    = "foreign0"
	foreignRouting = 77
	foreignSysctl  = "ipv4/conf/lan0/log_martians"
)

// addForeign makes, in a node's namespace, objects of somebody else's of every
// kind that Tandem makes too, and returns their lines in a dump.
func (s *stand) addForeign(node string) []string {
	s.t.Helper()
	before := s.dump(node)
	s.inNetlink(node, makeForeignNetwork)
	s.must(s.Namespace(node).Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/"+foreignSysctl, []byte("1"), 0),
			makeForeignTable(),
		)
	}))
	var added []string
	for _, line := range s.dump(node) {
		// Its forwarding follows that of the host, which a router must switch on.
		if !slices.Contains(before, line) && !strings.Contains(line, foreignLink+"/forwarding") {
			added = append(added, line)
		}
	}
	return added
}

func makeForeignNetwork(h *netlink.Handle) error {
	parent, err := h.LinkByName("lan0")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = foreignLink, parent.Attrs().Index
	if err := h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		return err
	}
	own, err := h.LinkByName(foreignLink)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(own); err != nil {
		return err
	}
	for link, prefix := range map[netlink.Link]string{parent: "192.0.2.9/32", own: "192.0.2.129/25"} {
		address, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(link, address); err != nil {
			return err
		}
	}
	destination, err := netlink.ParseIPNet("192.0.2.200/32")
	if err != nil {
		return err
	}
	if err := h.RouteAdd(&netlink.Route{Table: foreignRouting, Dst: destination, LinkIndex: own.Attrs().Index}); err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Src = 5000, foreignRouting, destination
	return h.RuleAdd(rule)
}

func makeForeignTable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: foreignTable})
	chain := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	return c.Flush()
}
