package examine

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
)

// PortConfig says what the document has on one interface.
type PortConfig struct {
	Group, Carrier, Interface string
	// Own are the node's own addresses, IPv4 first.
	Own []netip.Addr
	// Virtual are the segment's virtual addresses.
	Virtual []netip.Addr
	// VirtualLinks are the names of the macvlans.
	VirtualLinks []string
}

// Links is the state of all links of this network namespace.
type Links struct {
	links     []netlink.Link
	addresses []placed
	chains    []*nftables.Chain
	home      bool
}

type placed struct {
	address netip.Addr
	index   int
}

// ReadLinks reads links, addresses and filters.
func ReadLinks() (*Links, error) {
	l := &Links{home: atHome()}
	var err error
	if l.links, err = netlink.LinkList(); err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	addresses, err := netlink.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	for _, a := range addresses {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			l.addresses = append(l.addresses, placed{addr.Unmap(), a.LinkIndex})
		}
	}
	if c, err := nftables.New(); err == nil { // without nf_tables there are no chains
		l.chains, _ = c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	}
	return l, nil
}

func (l *Links) name(index int) string {
	for _, link := range l.links {
		if link.Attrs().Index == index {
			return link.Attrs().Name
		}
	}
	return fmt.Sprintf("interface %d", index)
}

func (l *Links) find(name string) netlink.Link {
	for _, link := range l.links {
		if link.Attrs().Name == name {
			return link
		}
	}
	return nil
}

// ours tells whether Tandem made a link for the group.
func ours(link netlink.Link, group string) bool {
	return strings.HasPrefix(link.Attrs().Alias, "tandem:"+group+":")
}

// Port says what there is on one interface.
func (l *Links) Port(c PortConfig) doctor.Port {
	p := doctor.Port{Carrier: c.Carrier, Interface: c.Interface, Address: c.Own[0].String()}
	l.misplaced(&p, c)
	for _, name := range c.VirtualLinks {
		if link := l.find(name); link != nil && !ours(link, c.Group) {
			p.Taken = append(p.Taken, name)
		}
	}
	link := l.find(c.Interface)
	if link == nil {
		return p
	}
	attrs := link.Attrs()
	p.Found, p.Ethernet = true, len(attrs.HardwareAddr) == 6 && attrs.Flags&net.FlagLoopback == 0
	p.Up, p.HasCarrier = attrs.Flags&net.FlagUp != 0, attrs.RawFlags&unix.IFF_LOWER_UP != 0
	p.LinkKind, p.MTU, p.MAC = link.Type(), attrs.MTU, attrs.HardwareAddr.String()
	p.Promiscuous = attrs.Promisc != 0
	if attrs.MasterIndex != 0 {
		p.Master = l.name(attrs.MasterIndex)
	}
	p.Present = true
	for _, a := range c.Own {
		if !slices.Contains(l.addresses, placed{a, attrs.Index}) {
			p.Present, p.Address = false, a.String()
			break
		}
	}
	p.Programs = l.programs(link)
	if l.home {
		p.Managers = managers(attrs.Index)
	}
	return p
}

// misplaced finds the port's address elsewhere and virtual ones on links of others.
func (l *Links) misplaced(p *doctor.Port, c PortConfig) {
	for _, a := range l.addresses {
		name := l.name(a.index)
		link := l.find(name)
		wrong := slices.Contains(c.Own, a.address) && name != c.Interface ||
			slices.Contains(c.Virtual, a.address) && (link == nil || !ours(link, c.Group))
		if wrong {
			p.Misplaced = append(p.Misplaced, doctor.Placed{Address: a.address.String(), Interface: name})
		}
	}
}

// programs lists what sees the frames of a link before packet sockets and macvlans.
func (l *Links) programs(link netlink.Link) []string {
	var list []string
	attrs := link.Attrs()
	if attrs.Xdp != nil && attrs.Xdp.Attached {
		list = append(list, "an XDP program")
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if filters, err := netlink.FilterList(link, parent); err == nil && len(filters) > 0 {
			list = append(list, "tc filters")
			break
		}
	}
	for _, chain := range l.chains {
		if chain.Device == attrs.Name && !strings.HasPrefix(chain.Table.Name, "tandem-") {
			list = append(list, fmt.Sprintf("the chain %s of the table netdev %s", chain.Name, chain.Table.Name))
		}
	}
	return list
}

// managers reads what systemd-networkd and NetworkManager say of an interface.
func managers(index int) []string {
	var list []string
	if b, err := os.ReadFile(fmt.Sprintf("/run/systemd/netif/links/%d", index)); err == nil && !strings.Contains(string(b), "ADMIN_STATE=unmanaged") {
		list = append(list, "systemd-networkd")
	}
	if b, err := os.ReadFile(fmt.Sprintf("/run/NetworkManager/devices/%d", index)); err == nil && strings.Contains(string(b), "managed=true") {
		list = append(list, "NetworkManager")
	}
	return list
}

// Borrow sets an address for at most two minutes, after which the kernel removes it by
// itself, and returns how to remove it. One that stands already stays.
func Borrow(name string, prefix netip.Prefix) (giveBack func() error, err error) {
	nothing := func() error { return nil }
	const lifetime = 120
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nothing, fmt.Errorf("find interface %s: %w", name, err)
	}
	list, err := netlink.AddrList(link, unix.AF_INET)
	if err != nil {
		return nothing, fmt.Errorf("read the addresses of %s: %w", name, err)
	}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.Unmap() == prefix.Addr() {
			return nothing, nil
		}
	}
	address := &netlink.Addr{
		IPNet:    &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
		ValidLft: lifetime, PreferedLft: lifetime,
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return nothing, fmt.Errorf("set %v on %s for the time of the test: %w", prefix, name, err)
	}
	return func() error {
		if err := netlink.AddrDel(link, address); err != nil {
			return fmt.Errorf("remove %v from %s: %w", prefix, name, err)
		}
		return nil
	}, nil
}
