package hostile

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// kernelOf lists what a node can change in its kernel.
func (s *stand) kernelOf(namespace string) []string {
	s.t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	h, err := s.Namespace(namespace).Netlink()
	s.must(err)
	defer h.Close()
	links, err := h.LinkList()
	s.must(err)
	for _, l := range links {
		a := l.Attrs()
		add("link %d %s %s %s alias %q flags %s", a.Index, a.Name, l.Type(), a.HardwareAddr, a.Alias, a.Flags)
		addresses, err := h.AddrList(l, netlink.FAMILY_V4)
		s.must(err)
		for _, address := range addresses {
			add("address %s on %s", address.IPNet, a.Name)
		}
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	s.must(err)
	for _, r := range routes {
		add("route %s", r)
	}
	rules, err := h.RuleList(netlink.FAMILY_V4)
	s.must(err)
	for _, r := range rules {
		add("rule %s", r)
	}
	s.must(s.Namespace(namespace).Do(func() error {
		for _, path := range []string{"ip_forward", "conf/all/arp_ignore", "conf/lan0/rp_filter", "conf/wan0/arp_announce"} {
			value, err := os.ReadFile("/proc/sys/net/ipv4/" + path)
			if err != nil && !os.IsNotExist(err) {
				return err
			}
			add("sysctl %s %s", path, strings.TrimSpace(string(value)))
		}
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := nft.ListChains()
		if err != nil {
			return err
		}
		for _, c := range chains {
			rules, err := nft.GetRules(c.Table, c)
			if err != nil {
				return err
			}
			add("chain %s %s", c.Table.Name, c.Name)
			for _, r := range rules {
				add("nft rule %s %s handle %d", c.Table.Name, c.Name, r.Handle)
			}
		}
		return nil
	}))
	slices.Sort(lines)
	return lines
}

// untouched returns the check that the kernel of a namespace is as it is now.
func (s *stand) untouched(namespace string) func() {
	s.t.Helper()
	before := s.kernelOf(namespace)
	return func() {
		s.t.Helper()
		if d := cmp.Diff(before, s.kernelOf(namespace)); d != "" {
			s.t.Errorf("the kernel of %s changed (-before +now):\n%s", namespace, d)
		}
	}
}

// deleteLink takes an interface of a node away, cable and all.
func (s *stand) deleteLink(node, name string) {
	s.t.Helper()
	s.change(node, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// replaceLink makes an interface of a node anew and plugs it into its switch.
func (s *stand) replaceLink(node, network string) {
	s.t.Helper()
	fabric, err := os.Open("/run/netns/" + lab.Fabric)
	s.must(err)
	defer func() { _ = fabric.Close() }() // it was only named
	port := lab.PortName(network, node)
	s.change(node, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = network + "0"
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(fabric.Fd())})
	})
	s.change(lab.Fabric, func(h *netlink.Handle) error {
		l, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		bridge := "edge-" + network + "-" + node
		if network == "ha" {
			bridge = "ha-cable"
		}
		edge, err := h.LinkByName(bridge)
		if err != nil {
			return err
		}
		if err := h.LinkSetMasterByIndex(l, edge.Attrs().Index); err != nil {
			return err
		}
		return h.LinkSetUp(l)
	})
}

// change does something in a namespace's kernel.
func (s *stand) change(namespace string, do func(h *netlink.Handle) error) {
	s.t.Helper()
	h, err := s.Namespace(namespace).Netlink()
	s.must(err)
	defer h.Close()
	s.must(do(h))
}

// address adds an address to an interface or deletes it.
func (s *stand) address(namespace, link, prefix string, present bool) {
	s.t.Helper()
	s.change(namespace, func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		if present {
			return h.AddrAdd(l, address)
		}
		return h.AddrDel(l, address)
	})
}

func (s *stand) hasAddress(namespace, link, prefix string) bool {
	return slices.Contains(s.kernelOf(namespace), fmt.Sprintf("address %s on %s", prefix, link))
}

// seizeTable replaces an nftables table by one that only the returned socket may
// change (NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h). The kernel deletes it
// when that is closed.
func (s *stand) seizeTable(namespace string, family byte, name string) *mdnetlink.Conn {
	s.t.Helper()
	conn, err := s.tryToSeizeTable(namespace, family, name)
	s.must(err)
	return conn
}

func (s *stand) tryToSeizeTable(namespace string, family byte, name string) (*mdnetlink.Conn, error) {
	s.t.Helper()
	var conn *mdnetlink.Conn
	s.must(s.Namespace(namespace).Do(func() (err error) {
		conn, err = mdnetlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	s.t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	const owner = 2
	attributes := func(flags uint32) []byte {
		list := []mdnetlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(name), 0)}}
		if flags != 0 {
			list = append(list, mdnetlink.Attribute{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags)})
		}
		b, err := mdnetlink.MarshalAttributes(list)
		s.must(err)
		return b
	}
	message := func(kind int, family byte, resource uint16, flags mdnetlink.HeaderFlags, attributes []byte) mdnetlink.Message {
		header := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
		return mdnetlink.Message{
			Header: mdnetlink.Header{Type: mdnetlink.HeaderType(kind), Flags: mdnetlink.Request | flags},
			Data:   append(header, attributes...),
		}
	}
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	_, err := conn.SendMessages([]mdnetlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil),
		message(subsystem|unix.NFT_MSG_DELTABLE, family, 0, 0, attributes(0)),
		message(subsystem|unix.NFT_MSG_NEWTABLE, family, 0, mdnetlink.Create|mdnetlink.Acknowledge, attributes(owner)),
		message(unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, nil),
	})
	s.must(err)
	_, err = conn.Receive()
	return conn, err
}
