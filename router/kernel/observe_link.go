package kernel

import (
	"fmt"
	"net"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the kernel tells about an interface in numbers; see linux/if_link.h,
// linux/rtnetlink.h.
const (
	afSpec         = 26     // IFLA_AF_SPEC
	inetConf       = 1      // IFLA_INET_CONF
	inet6Conf      = 2      // IFLA_INET6_CONF
	skipStatistics = 8      // RTEXT_FILTER_SKIP_STATS
	typeMask       = 0x3fff // NLA_TYPE_MASK
)

// conf is a sysctl of an interface and its place among the numbers that the kernel
// tells with the interface: IPV4_DEVCONF_* of linux/ip.h less one, DEVCONF_* of
// linux/ipv6.h.
type conf struct {
	name  string
	place int
}

func confs4() []conf {
	return []conf{
		{"forwarding", 0},
		{"proxy_arp", 2},
		{"send_redirects", 5},
		{"rp_filter", 7},
		{"arp_announce", 17},
		{"arp_ignore", 18},
		{"promote_secondaries", 19},
		{"accept_local", 22},
		{"src_valid_mark", 23},
	}
}

func confs6() []conf {
	return []conf{
		{"forwarding", 0},
		{"accept_ra", 3},
		{"autoconf", 5},
		{"dad_transmits", 6},
		{"router_solicitations", 7},
		{"disable_ipv6", 26},
		{"accept_dad", 27},
		{"ndisc_notify", 29},
		{"keep_addr_on_down", 42},
		{"addr_gen_mode", 47},
		{"accept_untracked_na", 57},
	}
}

// observeLinks lists the interfaces with their sysctls. One listing is a tenth of
// the cost of the files, of which there are a dozen for every link.
func (r *Reconciler) observeLinks(seen *observed) (map[int]string, error) {
	req := r.request(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(messages))
	list := make([]netlink.Link, 0, len(messages))
	for _, m := range messages {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, err
		}
		names[l.Attrs().Index] = l.Attrs().Name
		list = append(list, l)
	}
	seen.links, seen.sysctls = make([]link, 0, len(list)), make(map[string]string)
	for i, l := range list {
		a := l.Attrs()
		have := link{
			name: a.Name, alias: a.Alias, index: a.Index,
			mac: hardwareAddress(a.HardwareAddr), up: a.RawFlags&unix.IFF_UP != 0,
		}
		m, ok := l.(*netlink.Macvlan)
		have.macvlan = ok && m.Mode == netlink.MACVLAN_MODE_BRIDGE
		// The index of a parent in another namespace means nothing here.
		if a.NetNsID < 0 {
			have.parent = names[a.ParentIndex]
		}
		seen.links = append(seen.links, have)
		if err := readConfs(messages[i], a.Name, seen.sysctls); err != nil {
			return nil, fmt.Errorf("sysctls of %s: %w", a.Name, err)
		}
	}
	return names, nil
}

func hardwareAddress(a net.HardwareAddr) [6]byte {
	if len(a) != 6 {
		return [6]byte{}
	}
	return [6]byte(a)
}

// readConfs reads the sysctls that came with an interface.
func readConfs(message []byte, name string, values map[string]string) error {
	families, err := nested(message[unix.SizeofIfInfomsg:], afSpec)
	if err != nil {
		return err
	}
	for _, of := range []struct {
		family, kind uint16
		prefix       string
		confs        []conf
	}{
		{unix.AF_INET, inetConf, conf4(name), confs4()},
		{unix.AF_INET6, inet6Conf, conf6(name), confs6()},
	} {
		attributes, err := nested(families, of.family)
		if err != nil {
			return err
		}
		numbers, err := nested(attributes, of.kind)
		if err != nil {
			return err
		}
		for _, c := range of.confs {
			// An older kernel has fewer of them.
			if at := c.place * 4; at+4 <= len(numbers) {
				values[of.prefix+c.name] = strconv.Itoa(int(int32(nl.NativeEndian().Uint32(numbers[at:]))))
			}
		}
	}
	return nil
}

// nested returns the content of the attribute of a kind, nothing if there is none.
func nested(attributes []byte, kind uint16) ([]byte, error) {
	list, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if a.Attr.Type&typeMask == kind {
			return a.Value, nil
		}
	}
	return nil, nil
}
