package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of the namespaces.
const (
	Client = "client"
	Server = "server"
	// Guest stands on the second network, if there is one.
	Guest = "guest"
	Alpha = "alpha"
	Bravo = "bravo"
	// Fabric holds the switches and the switch side of every cable.
	Fabric = "fabric"
)

// Addresses of the laboratory. They are what the document says, and what stands
// on the client and on the server.
const (
	// ClientGateway is the virtual address on the lan, VRID 10.
	ClientGateway = "10.0.0.1"
	// UplinkGateway is the server's address on the wan segment, VRID 20.
	UplinkGateway = "203.0.113.1"
	// NATAddress is the virtual address on the wan segment.
	NATAddress = "203.0.113.10"
	// ServerAddress is where the server listens. The server has no route to the
	// lan, so that only translated connections work.
	ServerAddress = "198.51.100.7"
	// ClientGatewayIPv6, UplinkGatewayIPv6 and ServerAddressIPv6 are the same over IPv6,
	// which is routed and not translated. The hosts' routes lead to the virtual routers'
	// link-local addresses.
	ClientGatewayIPv6 = "2001:db8:a::1"
	UplinkGatewayIPv6 = "2001:db8:14::1"
	ServerAddressIPv6 = "2001:db8:7::7"

	// SecondUplinkGateway is the server's address on the lte segment, VRID 40, the second
	// way outside; SecondNATAddress is the virtual address there.
	SecondUplinkGateway = "192.0.2.1"
	SecondNATAddress    = "192.0.2.10"
	// SecondUplinkGatewayIPv6 and SecondNATAddressIPv6 are the same over IPv6, which is
	// translated there.
	SecondUplinkGatewayIPv6 = "2001:db8:28::1"
	SecondNATAddressIPv6    = "2001:db8:28::10"
	// FirstClientAddress is the first of the client's.
	FirstClientAddress = "10.0.0.101"
	// GuestGateway is the virtual address on the dmz, VRID 50, and GuestAddress that of
	// the guest.
	GuestGateway = "10.1.0.1"
	GuestAddress = "10.1.0.101"

	// clientPrefixIPv6 is the lan's, and routerIPv6 and outsideIPv6 are the link-local
	// addresses that the document's defaults give the virtual routers 10 and 20.
	clientPrefixIPv6 = "2001:db8:a::/64"
	routerIPv6       = "fe80::5e:a"
	outsideIPv6      = "fe80::5e:14"
)

const (
	firstClient = 101
	maxClients  = 100
)

// segment is a layer 2 network: a core switch and one edge switch per node.
type segment struct {
	// name is "lan", "wan", "lte" or "dmz"; the router's port is the name with a 0.
	name string
	// octet marks the MAC addresses of the segment's ports.
	octet byte
	// host is the namespace that stands at the core switch, link its interface there.
	host, link string
}

func (l *Lab) segments() []segment {
	list := []segment{{"lan", 0x0a, Client, "eth0"}, {"wan", 0x14, Server, "eth0"}}
	if l.options.SecondUplink {
		list = append(list, segment{"lte", 0x28, Server, "eth1"})
	}
	if l.options.SecondNetwork {
		list = append(list, segment{"dmz", 0x32, Guest, "eth0"})
	}
	return list
}

func (l *Lab) namespaceNames() []string {
	list := []string{Fabric, Client, Server, Alpha, Bravo}
	if l.options.SecondNetwork {
		list = append(list, Guest)
	}
	return list
}

func nodeNames() []string { return []string{Alpha, Bravo} }

func isNode(name string) bool { return slices.Contains(nodeNames(), name) }

// nodeOctet is the last octet of a node's MAC and lan addresses.
func nodeOctet(node string) byte {
	if node == Alpha {
		return 2
	}
	return 3
}

// Links in the fabric. A cable has its other end in a node, host or switch.
const (
	haCable       = "ha-cable"
	secondHACable = "ha2-cable"
	linkMTU       = 1500
)

// PortName names the fabric's side of a node's cable: the port of the edge
// switch for the networks "lan", "wan", "lte" and "dmz", the node's end of the cable for "ha" and
// "ha2".
// It vanishes and comes back when a node that was powered off is healed.
func PortName(network, node string) string { return network + "-" + node }

// TrunkName names the core switch's port towards a node's edge switch, network
// being "lan", "wan", "lte" or "dmz". It is there as long as the laboratory.
func TrunkName(network, node string) string { return "dn-" + network + "-" + node }

// CoreName names the core switch of the network "lan", "wan", "lte" or "dmz".
func CoreName(network string) string { return "core-" + network }

func edgeName(network, node string) string { return "edge-" + network + "-" + node }

func uplinkName(network, node string) string { return "up-" + network + "-" + node }

// buildTopology makes namespaces, switches and cables.
func (l *Lab) buildTopology() error {
	for _, name := range l.namespaceNames() {
		if _, err := createNamespace(name); err != nil {
			return err
		}
	}
	if err := l.Namespace(Fabric).Do(plainSwitches); err != nil {
		return err
	}
	handle, err := l.Namespace(Fabric).Netlink()
	if err != nil {
		return err
	}
	l.fabric = handle
	for _, s := range l.segments() {
		if err := l.buildSegment(s); err != nil {
			return err
		}
	}
	if err := l.addBridge(haCable); err != nil {
		return err
	}
	if l.options.SecondHALink {
		if err := l.addBridge(secondHACable); err != nil {
			return err
		}
	}
	for _, node := range nodeNames() {
		if err := l.plugNode(node); err != nil {
			return err
		}
	}
	return l.configureHosts()
}

func (l *Lab) buildSegment(s segment) error {
	if err := l.addBridge(CoreName(s.name)); err != nil {
		return err
	}
	for _, node := range nodeNames() {
		edge := edgeName(s.name, node)
		if err := l.addBridge(edge); err != nil {
			return err
		}
		trunk, up := TrunkName(s.name, node), uplinkName(s.name, node)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = trunk, linkMTU
		if err := l.fabric.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: up}); err != nil {
			return fmt.Errorf("create cable %s to %s: %w", trunk, up, err)
		}
		if err := l.plug(trunk, CoreName(s.name)); err != nil {
			return err
		}
		if err := l.plug(up, edge); err != nil {
			return err
		}
	}
	mac := net.HardwareAddr{0x02, 0x54, 0, s.octet, 0, 0x65}
	port := s.host
	if s.link != "eth0" {
		port += "-" + s.name
	}
	return l.addCable(cable{port: port, bridge: CoreName(s.name), namespace: s.host, link: s.link, mac: mac})
}

// plugNode connects a node's ports to the fabric.
func (l *Lab) plugNode(node string) error {
	last := nodeOctet(node)
	cables := []cable{{
		port: PortName("ha", node), bridge: haCable,
		namespace: node, link: "ha0", mac: net.HardwareAddr{0x02, 0x54, 0, 0xff, 0, last},
	}}
	if l.options.SecondHALink {
		cables = append(cables, cable{
			port: PortName("ha2", node), bridge: secondHACable,
			namespace: node, link: "ha1", mac: net.HardwareAddr{0x02, 0x54, 0, 0xfe, 0, last},
		})
	}
	for _, s := range l.segments() {
		cables = append(cables, cable{
			port: PortName(s.name, node), bridge: edgeName(s.name, node),
			namespace: node, link: s.name + "0", mac: net.HardwareAddr{0x02, 0x54, 0, s.octet, 0, last},
		})
	}
	for _, c := range cables {
		if err := l.addCable(c); err != nil {
			return err
		}
	}
	return nil
}

// cable joins a port of a switch to a link in another namespace. The MAC
// address is the link's; it is fixed so that a rebooted node keeps its own.
type cable struct {
	port, bridge    string
	namespace, link string
	mac             net.HardwareAddr
}

func (l *Lab) addCable(c cable) error {
	err := l.Namespace(c.namespace).with(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = c.link, linkMTU, c.mac
		fabric, err := openNamespace(Fabric)
		if err != nil {
			return err
		}
		defer func() { _ = fabric.Close() }()
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: c.port, PeerNamespace: netlink.NsFd(fabric.Fd())}
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		return setUp(h, c.link)
	})
	if err != nil {
		return fmt.Errorf("create cable %s to %s in namespace %s: %w", c.port, c.link, c.namespace, err)
	}
	return l.plug(c.port, c.bridge)
}

// addBridge makes a switch that learns and floods but speaks no protocol.
func (l *Lab) addBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	if err := l.fabric.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("create switch %s: %w", name, err)
	}
	return setUp(l.fabric, name)
}

// plug makes a link in the fabric a port of a switch.
func (l *Lab) plug(port, bridge string) error {
	link, err := l.fabric.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", port, err)
	}
	master, err := l.fabric.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find switch %s: %w", bridge, err)
	}
	if err := l.fabric.LinkSetMasterByIndex(link, master.Attrs().Index); err != nil {
		return fmt.Errorf("plug %s into switch %s: %w", port, bridge, err)
	}
	return setUp(l.fabric, port)
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

func setDown(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set link %s down: %w", name, err)
	}
	return nil
}

// ClientAddresses are the addresses of the client, one per simulated host.
func (l *Lab) ClientAddresses() []string {
	addresses := make([]string, 0, l.options.Clients)
	for i := range l.options.Clients {
		addresses = append(addresses, fmt.Sprintf("10.0.0.%d", firstClient+i))
	}
	return addresses
}

// configureHosts gives client and server their addresses and routes.
func (l *Lab) configureHosts() error {
	for _, host := range []string{Client, Server} {
		if err := l.Namespace(host).Do(plainHost); err != nil {
			return err
		}
	}
	err := l.Namespace(Client).with(func(h *netlink.Handle) error {
		for _, address := range l.ClientAddresses() {
			if err := addAddress(h, "eth0", address+"/24"); err != nil {
				return err
			}
		}
		route := &netlink.Route{Gw: net.ParseIP(ClientGateway)}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route via %s: %w", ClientGateway, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("configure client: %w", err)
	}
	err = l.Namespace(Server).with(func(h *netlink.Handle) error {
		if err := addAddress(h, "lo", ServerAddress+"/32"); err != nil {
			return err
		}
		return addAddress(h, "eth0", UplinkGateway+"/24")
	})
	if err != nil {
		return fmt.Errorf("configure server: %w", err)
	}
	if err := l.configureSeconds(); err != nil {
		return err
	}
	if !l.options.IPv6 {
		return nil
	}
	return l.configureIPv6()
}

// configureSeconds gives the server its end of the second uplink, and the guest all.
func (l *Lab) configureSeconds() error {
	if l.options.SecondUplink {
		err := l.Namespace(Server).with(func(h *netlink.Handle) error {
			return addAddress(h, "eth1", SecondUplinkGateway+"/24")
		})
		if err != nil {
			return fmt.Errorf("configure server: %w", err)
		}
	}
	if !l.options.SecondNetwork {
		return nil
	}
	if err := l.Namespace(Guest).Do(plainHost); err != nil {
		return err
	}
	err := l.Namespace(Guest).with(func(h *netlink.Handle) error {
		if err := addAddress(h, "eth0", GuestAddress+"/24"); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Gw: net.ParseIP(GuestGateway)})
	})
	if err != nil {
		return fmt.Errorf("configure guest: %w", err)
	}
	return nil
}

// ClientAddressesIPv6 are the client's IPv6 addresses, as many as the others.
func (l *Lab) ClientAddressesIPv6() []string {
	addresses := make([]string, 0, l.options.Clients)
	for i := range l.options.Clients {
		addresses = append(addresses, fmt.Sprintf("2001:db8:a::%d", firstClient+i))
	}
	return addresses
}

// configureIPv6 gives client and server their IPv6 addresses and routes.
func (l *Lab) configureIPv6() error {
	for _, host := range []string{Client, Server} {
		if err := l.Namespace(host).Do(allowIPv6); err != nil {
			return err
		}
	}
	err := l.Namespace(Client).with(func(h *netlink.Handle) error {
		for _, address := range l.ClientAddressesIPv6() {
			if err := addAddress(h, "eth0", address+"/64"); err != nil {
				return err
			}
		}
		return addRoute(h, "::/0", routerIPv6)
	})
	if err != nil {
		return fmt.Errorf("configure client: %w", err)
	}
	err = l.Namespace(Server).with(func(h *netlink.Handle) error {
		if err := addAddress(h, "lo", ServerAddressIPv6+"/128"); err != nil {
			return err
		}
		if err := addAddress(h, "eth0", UplinkGatewayIPv6+"/64"); err != nil {
			return err
		}
		if l.options.SecondUplink {
			if err := addAddress(h, "eth1", SecondUplinkGatewayIPv6+"/64"); err != nil {
				return err
			}
		}
		return addRoute(h, clientPrefixIPv6, outsideIPv6)
	})
	if err != nil {
		return fmt.Errorf("configure server: %w", err)
	}
	return nil
}

// addRoute leads a destination to a link-local gateway.
func addRoute(h *netlink.Handle, destination, gateway string) error {
	link, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find link eth0: %w", err)
	}
	_, prefix, err := net.ParseCIDR(destination)
	if err != nil {
		return fmt.Errorf("parse destination %s: %w", destination, err)
	}
	route := &netlink.Route{Dst: prefix, Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s by %s: %w", destination, gateway, err)
	}
	return nil
}

// plainHost undoes what a host's own settings may have put on a new namespace.
func plainHost() error {
	for _, variable := range []string{"ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter"} {
		if err := writeSysctl(variable, "0"); err != nil {
			return err
		}
	}
	return nil
}

// plainSwitches keeps netfilter off the switches, where the kernel has that: it
// would drop what it takes for bad IP and slow the rest.
func plainSwitches() error {
	for _, family := range []string{"arptables", "iptables", "ip6tables"} {
		err := writeSysctl("bridge/bridge-nf-call-"+family, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func addAddress(h *netlink.Handle, link, prefix string) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", link, err)
	}
	address, err := netlink.ParseAddr(prefix)
	if err != nil {
		return fmt.Errorf("parse address %s: %w", prefix, err)
	}
	if address.IP.To4() == nil {
		address.Flags |= unix.IFA_F_NODAD // it is there at once
	}
	if err := h.AddrAdd(l, address); err != nil {
		return fmt.Errorf("add address %s to link %s: %w", prefix, link, err)
	}
	return nil
}
