package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/router"
)

//nolint:gochecknoglobals // constants of the tests
var (
	lanMAC6 = [6]byte{0, 0, 0x5e, 0, 2, 20}
	wanMAC6 = [6]byte{0, 0, 0x5e, 0, 2, 10}
	// portMACs are the node's own MAC addresses, lan0 and wan0.
	portMACs = []string{"02:00:00:00:00:01", "02:00:00:00:00:03"}
)

// dual is the office with IPv6 on both sides. The server's link-local address is
// the uplink's gateway.
func dual() router.Intent {
	in := office()
	for i := range in.VirtualLinks {
		in.VirtualLinks[i].VRID = in.VirtualLinks[i].MAC[5]
	}
	in.Ports = append(
		in.Ports,
		router.PortAddress{Interface: "wan0", Prefix: prefix("2001:db8:1::2/64")},
		router.PortAddress{Interface: "wan0", Prefix: prefix("fe80::5e:a:1/64")},
		router.PortAddress{Interface: "lan0", Prefix: prefix("fd00:20::2/64")},
		router.PortAddress{Interface: "lan0", Prefix: prefix("fe80::5e:14:1/64")},
	)
	in.VirtualLinks = append(
		in.VirtualLinks,
		router.VirtualLink{
			Name: "vmac10v6", Carrier: "wan/ipv6", Parent: "wan0", MAC: wanMAC6, VRID: 10, IPv6: true,
			Addresses: []netip.Addr{addr("fe80::5e:a"), addr("2001:db8:1::10")},
		},
		router.VirtualLink{
			Name: "vmac20v6", Carrier: "lan/ipv6", Parent: "lan0", MAC: lanMAC6, VRID: 20, IPv6: true,
			Addresses: []netip.Addr{addr("fe80::5e:14"), addr("fd00:20::1")},
		},
	)
	for i, v := range in.VirtualLinks {
		for _, p := range in.Ports {
			if p.Interface == v.Parent {
				in.VirtualLinks[i].Own = append(in.VirtualLinks[i].Own, p.Prefix.Addr())
			}
		}
	}
	in.Rules = append(
		in.Rules,
		router.Rule{Preference: 11000, From: prefix("2001:db8:1::2/128"), IPv6: true, Table: router.MainTable},
		router.Rule{Preference: 11000, From: prefix("fd00:20::2/128"), IPv6: true, Table: router.MainTable},
		router.Rule{Preference: 11100, Incoming: "vmac10v6", IPv6: true, Table: 1010},
		router.Rule{Preference: 11100, Incoming: "vmac20v6", IPv6: true, Table: 1020},
		router.Rule{Preference: 11200, From: prefix("fd00:20::/64"), IPv6: true, Table: 1020},
		router.Rule{Preference: 11300, From: prefix("2001:db8:1::10/128"), IPv6: true, Table: 1010},
	)
	for _, table := range []int{1010, 1020} {
		in.Routes = append(
			in.Routes,
			router.Route{Table: table, Destination: prefix("2001:db8:1::/64"), Link: "vmac10v6"},
			router.Route{Table: table, Destination: prefix("fd00:20::/64"), Link: "vmac20v6"},
			router.Route{Table: table, Destination: prefix("::/0"), Gateway: addr("fe80::1"), Link: "vmac10v6"},
			router.Route{Table: table, Destination: prefix("::/0"), Unreachable: true, Metric: router.UnreachableMetric},
		)
	}
	return in
}

// withoutMAC is an intent in the mode without virtual MAC addresses.
func withoutMAC(in router.Intent) router.Intent {
	parents := make(map[string]string)
	for i, v := range in.VirtualLinks {
		parents[v.Name] = v.Parent
		in.VirtualLinks[i].Name, in.VirtualLinks[i].OwnMAC, in.VirtualLinks[i].MAC = v.Parent, true, [6]byte{}
	}
	for i, r := range in.Routes {
		in.Routes[i].Link = parents[r.Link]
	}
	for i, r := range in.Rules {
		in.Rules[i].Incoming = parents[r.Incoming]
	}
	for i, n := range in.NAT {
		in.NAT[i].Link = parents[n.Link]
	}
	return in
}

const goldenDual = golden + `
link vmac10v6 macvlan 00:00:5e:00:02:0a up on wan0 mode 3 alias tandem:lab:wan/ipv6
link vmac20v6 macvlan 00:00:5e:00:02:14 up on lan0 mode 3 alias tandem:lab:lan/ipv6
addr 2001:db8:1::2/64 dev wan0 -
addr fe80::5e:a:1/64 dev wan0 nodad
addr fd00:20::2/64 dev lan0 -
addr fe80::5e:14:1/64 dev lan0 nodad
addr fe80::5e:a/64 dev vmac10v6 nodad
addr 2001:db8:1::10/128 dev vmac10v6 nodad deprecated noprefixroute
addr fe80::5e:14/64 dev vmac20v6 nodad
addr fd00:20::1/128 dev vmac20v6 nodad deprecated noprefixroute
route table 254 type 1 2001:db8:1::/64 via <nil> dev wan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fd00:20::/64 via <nil> dev lan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev wan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev lan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev vmac10v6 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev vmac20v6 metric 256 proto 2 scope 0 -
route table 1010 type 1 2001:db8:1::/64 via <nil> dev vmac10v6 metric 1024 proto 112 scope 0 -
route table 1010 type 1 fd00:20::/64 via <nil> dev vmac20v6 metric 1024 proto 112 scope 0 -
route table 1010 type 1 ::/0 via fe80::1 dev vmac10v6 metric 1024 proto 112 scope 0 -
route table 1010 type 7 ::/0 via <nil> dev lo metric 2147483647 proto 112 scope 0 -
route table 1020 type 1 2001:db8:1::/64 via <nil> dev vmac10v6 metric 1024 proto 112 scope 0 -
route table 1020 type 1 fd00:20::/64 via <nil> dev vmac20v6 metric 1024 proto 112 scope 0 -
route table 1020 type 1 ::/0 via fe80::1 dev vmac10v6 metric 1024 proto 112 scope 0 -
route table 1020 type 7 ::/0 via <nil> dev lo metric 2147483647 proto 112 scope 0 -
rule 0 from <nil> iif "" table 255 proto 2
rule 11000 from 2001:db8:1::2/128 iif "" table 254 proto 112
rule 11000 from fd00:20::2/128 iif "" table 254 proto 112
rule 11100 from <nil> iif "vmac10v6" table 1010 proto 112
rule 11100 from <nil> iif "vmac20v6" table 1020 proto 112
rule 11200 from fd00:20::/64 iif "" table 1020 proto 112
rule 11300 from 2001:db8:1::10/128 iif "" table 1010 proto 112
rule 32766 from <nil> iif "" table 254 proto 2`

// newDualLab is a lab whose hosts speak IPv6 as well.
func newDualLab(t testing.TB, lease time.Duration) *lab {
	t.Helper()
	l := newLab(t, lease)
	for _, c := range []string{
		"ip -6 addr add fd00:20::50/64 dev c0 nodad", "ip -6 addr add fe80::50/64 dev c0 nodad",
		"ip -6 route add default via fe80::5e:14 dev c0",
	} {
		runIn(t, l.client, c)
	}
	for _, c := range []string{
		"ip -6 addr add 2001:db8:1::254/64 dev s0 nodad", "ip -6 addr add fe80::1/64 dev s0 nodad",
		"ip -6 route add fd00:20::/64 via fe80::5e:a dev s0",
	} {
		runIn(t, l.server, c)
	}
	// The router is a host at first, and has no addresses but those it is given.
	for _, s := range foreignSysctls6() {
		in(t, l.router, func() error { return writeSysctl(s.path, s.value) })
	}
	return l
}

func foreignSysctls6() []setting {
	return []setting{
		{"net/ipv6/conf/all/forwarding", "0"},
		{"net/ipv6/conf/lan0/addr_gen_mode", "1"},
		{"net/ipv6/conf/wan0/addr_gen_mode", "1"},
		{"net/ipv6/conf/lan0/accept_ra", "1"},
		{"net/ipv6/conf/wan0/accept_ra", "0"},
		{"net/ipv6/conf/default/accept_ra", "1"},
		{"net/ipv6/conf/lan0/forwarding", "0"},
		{"net/ipv6/conf/wan0/disable_ipv6", "1"},
		{"net/ipv6/conf/wan0/accept_untracked_na", "0"},
	}
}

func (l *lab) read(t *testing.T, path string) (value string) {
	t.Helper()
	in(t, l.router, func() (err error) { value, err = readSysctl(path); return err })
	return value
}

// dump6 writes down the router's addresses, routes and rules of IPv6.
func (l *lab) dump6(t *testing.T) string {
	t.Helper()
	list, err := l.links.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	names := map[int]string{}
	for _, n := range list {
		names[n.Attrs().Index] = n.Attrs().Name
		addresses, err := l.links.AddrList(n, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			lines = append(lines, "addr "+a.IPNet.String()+" dev "+n.Attrs().Name+" "+flags6(a.Flags))
		}
	}
	routes, err := l.links.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Table != unix.RT_TABLE_LOCAL {
			lines = append(lines, fmt.Sprintf("route table %d type %d %s via %s dev %s metric %d proto %d scope %d %v",
				r.Table, r.Type, r.Dst, r.Gw, names[r.LinkIndex], r.Priority, int(r.Protocol), int(r.Scope), onlink(r)))
		}
	}
	rules, err := l.links.RuleList(netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		lines = append(lines, fmt.Sprintf("rule %d from %v iif %q table %d proto %d", r.Priority, r.Src, r.IifName, r.Table, r.Protocol))
	}
	return strings.Join(lines, "\n")
}

func flags6(flags int) string {
	words := []string{}
	for _, f := range []struct {
		bit  int
		word string
	}{
		{unix.IFA_F_NODAD, "nodad"}, {unix.IFA_F_DEPRECATED, "deprecated"}, {unix.IFA_F_NOPREFIXROUTE, "noprefixroute"},
	} {
		if flags&f.bit != 0 {
			words = append(words, f.word)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, " ")
}

func (l *lab) checkDual(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(sortedLines(want), sortedLines(l.dump(t)+"\n"+l.dump6(t))); diff != "" {
		t.Error(diff)
	}
}

func TestDualStackGolden(t *testing.T) {
	l := newDualLab(t, time.Second)
	before := l.dump(t) + "\n" + l.dump6(t)
	if report := l.apply(t, dual()); len(report.Missing)+len(report.Conflicts) > 0 {
		t.Errorf("%+v", report)
	}
	l.checkDual(t, goldenDual)
	if again := l.apply(t, dual()); len(again.Changed) > 0 {
		t.Errorf("second Apply changed %q", again.Changed)
	}
	l.kernel = l.newReconciler(t)
	if again := l.apply(t, dual()); len(again.Changed) > 0 {
		t.Errorf("the successor changed %q", again.Changed)
	}
	for range 2 {
		if err := l.kernel.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out := l.run(t, "nft list ruleset"); out != "" {
		t.Errorf("after Remove: %s", out)
	}
	for _, s := range slices.Concat(foreignSysctls(), foreignSysctls6()) {
		if got := l.read(t, s.path); got != s.value {
			t.Errorf("after Remove: %s is %s, was %s", s.path, got, s.value)
		}
	}
	want := strings.NewReplacer("00:01 down", "00:01 up", "00:03 down", "00:03 up").Replace(before)
	if diff := cmp.Diff(sortedLines(want), sortedLines(l.dump(t)+"\n"+l.dump6(t))); diff != "" {
		t.Errorf("after Remove: %s", diff)
	}
}

func TestDualStackRepairs(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.apply(t, dual())
	for _, command := range []string{
		"ip link set vmac20v6 down", "ip link del vmac10v6",
		"ip -6 addr flush dev vmac20v6", "ip -6 addr del fe80::5e:14/64 dev vmac20v6",
		"ip -6 addr del fe80::5e:14:1/64 dev lan0", "ip -6 addr del fd00:20::2/64 dev lan0",
		"ip -6 addr add fd00:20::77/128 dev vmac20v6",
		"ip -6 addr change fd00:20::1/128 dev vmac20v6 preferred_lft forever",
		"ip -6 route flush table 1020", "ip -6 route replace fd00:20::/64 dev vmac10v6 table 1020 proto 112",
		"ip -6 route del default via fe80::1 dev vmac10v6 table 1010",
		"ip -6 route del unreachable default table 1010", "ip -6 rule del pref 11200",
		"ip -6 rule add pref 11250 from fd00:66::/64 lookup 1020 protocol 112",
		"nft delete table ip6 tandem-lab", "nft flush ruleset", "nft flush chain ip6 tandem-lab forward",
		"sysctl -w net.ipv6.conf.all.forwarding=0", "sysctl -w net.ipv6.conf.vmac20v6.forwarding=0",
		"sysctl -w net.ipv6.conf.vmac20v6.disable_ipv6=1", "sysctl -w net.ipv6.conf.vmac20v6.addr_gen_mode=0",
		"sysctl -w net.ipv6.conf.vmac20v6.accept_dad=1", "sysctl -w net.ipv6.conf.lan0.disable_ipv6=1",
		"sysctl -w net.ipv6.conf.vmac20.disable_ipv6=0", "sysctl -w net.ipv6.conf.vmac20v6.keep_addr_on_down=0",
	} {
		t.Run(command, func(t *testing.T) {
			l.run(t, command)
			if report := l.apply(t, dual()); len(report.Changed) == 0 {
				t.Error("nothing repaired")
			}
			l.checkDual(t, goldenDual)
			if again := l.apply(t, dual()); len(again.Changed) > 0 {
				t.Errorf("changed again %q", again.Changed)
			}
		})
	}
}

// A link that goes down loses its addresses of IPv6. They are back with the next
// Apply, those of the port as well.
func TestDualStackLinkFlap(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.apply(t, dual())
	l.run(t, "ip link set lan0 down")
	l.apply(t, dual())
	if again := l.apply(t, dual()); len(again.Changed) > 0 {
		t.Errorf("changed again while down %q", again.Changed)
	}
	l.run(t, "ip link set lan0 up")
	l.apply(t, dual())
	l.checkDual(t, goldenDual)
	runIn(t, l.client, "ip link set c0 down")
	l.apply(t, dual())
	runIn(t, l.client, "ip link set c0 up")
	l.apply(t, dual())
	l.checkDual(t, goldenDual)
}

// IPv6 goes and comes with the document.
func TestDualStackChange(t *testing.T) {
	l := newDualLab(t, time.Second)
	for range 2 {
		l.apply(t, dual())
		l.checkDual(t, goldenDual)
		l.apply(t, office())
		if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
			t.Error(diff)
		}
		if out := l.run(t, "nft list tables"); strings.Contains(out, "ip6") {
			t.Errorf("tables: %s", out)
		}
		if got := l.read(t, "net/ipv6/conf/all/forwarding"); got != "0" {
			t.Errorf("forwarding of IPv6 is %s without IPv6", got)
		}
	}
}

func TestDualStackConflicts(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.run(t, "ip link set lan0 up")
	l.run(t, "ip -6 addr add fd00:20::1/64 dev lan0 nodad")
	// A link-local address means something only on its own link.
	l.run(t, "ip link add other0 type veth peer name other1")
	l.run(t, "ip link set other0 up")
	l.run(t, "ip -6 addr add fe80::5e:a/64 dev other0 nodad")
	report := l.apply(t, dual())
	if len(report.Conflicts) != 1 || !strings.Contains(report.Conflicts[0], "lan/ipv6 is left out: its virtual address fd00:20::1 is configured on lan0") {
		t.Errorf("conflicts %q", report.Conflicts)
	}
	if d := l.dump(t) + l.dump6(t); strings.Contains(d, "dev vmac20v6") || !strings.Contains(d, "type 7 fd00:20::/64") || !strings.Contains(d, "addr 2001:db8:1::10/128 dev vmac10v6") {
		t.Errorf("not left out:\n%s", d)
	}
	l.run(t, "ip -6 addr del fd00:20::1/64 dev lan0")
	if report := l.apply(t, dual()); len(report.Conflicts) > 0 {
		t.Errorf("conflicts %q", report.Conflicts)
	}
	// Another host has the node's own address.
	runIn(t, l.client, "ip -6 addr add fd00:20::2/64 dev c0 nodad")
	l.run(t, "ip -6 addr del fd00:20::2/64 dev lan0")
	waitFor(t, 10*time.Second, func() bool {
		report = l.apply(t, dual())
		return len(report.Conflicts) == 1
	})
	if !strings.Contains(report.Conflicts[0], "fd00:20::2/64 of interface lan0 cannot be used: another host") {
		t.Errorf("conflicts %q", report.Conflicts)
	}
}

// Whoever learned its default route from a router keeps it.
func TestRouterAdvertisementsAreStillHeard(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.run(t, "ip link add mgmt0 type veth peer name mgmt1")
	l.run(t, "ip link set mgmt0 up")
	l.run(t, "ip link set mgmt1 up")
	l.run(t, "sysctl -w net.ipv6.conf.mgmt0.accept_ra=1")
	l.run(t, "ip -6 route add default via fe80::77 dev mgmt0 proto ra expires 1000")
	l.apply(t, dual())
	for name, want := range map[string]string{"mgmt0": "2", "lan0": "2", "wan0": "0", "default": "2", "vmac20v6": "0"} {
		if got := l.read(t, "net/ipv6/conf/"+name+"/accept_ra"); got != want {
			t.Errorf("accept_ra of %s is %s, want %s", name, got, want)
		}
	}
	if out := l.run(t, "ip -6 route show default"); !strings.Contains(out, "fe80::77") {
		t.Errorf("the learned default route is gone: %q", out)
	}
	l.apply(t, office())
	if got := l.read(t, "net/ipv6/conf/mgmt0/accept_ra"); got != "1" {
		t.Errorf("accept_ra of mgmt0 is %s after IPv6 went, was 1", got)
	}
}

// ping6 sends an echo request and waits for its reply.
func ping6(t *testing.T, ns netns.NsHandle, to string) (result error) {
	t.Helper()
	in(t, ns, func() error {
		target, err := net.ResolveIPAddr("ip6", to)
		if err != nil {
			return err
		}
		c, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte{128, 0, 0, 0, 0, 7, 0, 1}, target); err != nil {
			return errors.Join(err, c.Close())
		}
		if err := c.SetReadDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
			return err
		}
		buf := make([]byte, 128)
		for {
			n, peer, err := c.ReadFrom(buf)
			if err != nil || n >= 8 && buf[0] == 129 && peer.String() == to {
				result = err
				return c.Close()
			}
		}
	})
	return result
}
