package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// ErrLinkDown says that the interface is down. The port works again as soon as
// the interface is up.
var ErrLinkDown = errors.New("the link is down")

// ErrLinkGone says that the interface was deleted. An interface of the same name
// that comes later is another one: open a new port. It is an [ErrLinkDown], too.
var ErrLinkGone = fmt.Errorf("the interface was deleted, open the port again: %w", ErrLinkDown)

// Config describes the port of one carrier.
type Config struct {
	// Carrier is the name of the network, the uplink or the HA link, for errors.
	Carrier string
	// Interface is the physical interface, where adverts are received.
	Interface string
	// VirtualLink is the macvlan through which adverts are sent. It is empty on the
	// HA link, whose adverts leave by Interface with its own MAC address.
	VirtualLink string
	// VirtualMAC is the address of VirtualLink; not used without one.
	VirtualMAC [6]byte
	// Source is the primary IPv4 address of Interface (RFC 9568 §5.1.1.1), never a
	// virtual one.
	Source netip.Addr
}

// Port is one carrier's sockets.
type Port struct {
	config Config
	// outgoing is the name of the link that frames are sent through.
	outgoing string
	mac      [6]byte
	// receiver, sender and asker are packet sockets; the last one sends from the
	// physical interface. member keeps the membership in the multicast group alive.
	receiver, sender, asker, member int
	// toGroup and toAll are the link-layer destinations of adverts and of ARP,
	// toGroupOwn that of messages from the physical interface, ownMAC its address.
	toGroup, toAll, toGroupOwn unix.SockaddrLinklayer
	ownMAC                     [6]byte
	// physical asks the kernel for the flags of the physical interface.
	physical *unix.Ifreq
	// frame is the buffer in which frames are built.
	frame []byte
}

// groupMAC is the Ethernet address of 224.0.0.18 (RFC 1112 §6.4).
func groupMAC() [6]byte { return [6]byte{0x01, 0x00, 0x5e, 0x00, 0x00, 0x12} }

func broadcastMAC() [6]byte { return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Open opens the sockets of a carrier. The interfaces must exist, but may be
// down. It needs CAP_NET_RAW and CAP_NET_ADMIN.
func Open(c Config) (*Port, error) {
	p := &Port{
		config: c, outgoing: c.VirtualLink,
		receiver: -1, sender: -1, asker: -1, member: -1,
		frame: make([]byte, 0, maxFrame),
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open port of carrier %s: %w", c.Carrier, err), p.Close())
	}
	return p, nil
}

func (p *Port) open() error {
	if !p.config.Source.Is4() {
		return fmt.Errorf("source %v is not an IPv4 address", p.config.Source)
	}
	physical, err := lookup(p.config.Interface)
	if err != nil {
		return err
	}
	outgoing := physical
	if p.config.VirtualLink == "" {
		p.outgoing = p.config.Interface
	} else if outgoing, err = lookup(p.config.VirtualLink); err != nil {
		return err
	}
	p.mac = [6]byte(outgoing.HardwareAddr)
	if p.config.VirtualLink != "" && p.mac != p.config.VirtualMAC {
		return fmt.Errorf("interface %s has MAC address %v, must have the virtual one %v",
			outgoing.Name, outgoing.HardwareAddr, net.HardwareAddr(p.config.VirtualMAC[:]))
	}
	if p.physical, err = unix.NewIfreq(physical.Name); err != nil {
		return fmt.Errorf("ask for the flags of %s: %w", physical.Name, err)
	}
	p.toGroup = linkLayer(outgoing, unix.ETH_P_IP, groupMAC())
	p.toAll = linkLayer(outgoing, unix.ETH_P_ARP, broadcastMAC())
	p.toGroupOwn = linkLayer(physical, unix.ETH_P_IP, groupMAC())
	p.ownMAC = [6]byte(physical.HardwareAddr)
	if p.receiver, err = openReceiver(physical); err != nil {
		return fmt.Errorf("receive on %s: %w", physical.Name, err)
	}
	if p.sender, err = openSender(outgoing); err != nil {
		return fmt.Errorf("send through %s: %w", outgoing.Name, err)
	}
	if p.asker, err = openSender(physical); err != nil {
		return fmt.Errorf("send through %s: %w", physical.Name, err)
	}
	if p.member, err = joinGroup(physical); err != nil {
		return fmt.Errorf("join %v on %s: %w", vrrp.MulticastIPv4(), physical.Name, err)
	}
	return nil
}

// Close closes the sockets. It takes some 10ms, since the kernel waits until no
// CPU uses them.
func (p *Port) Close() error {
	var errs []error
	for _, fd := range []*int{&p.receiver, &p.sender, &p.asker, &p.member} {
		if *fd < 0 {
			continue
		}
		if err := unix.Close(*fd); err != nil {
			errs = append(errs, fmt.Errorf("close socket of carrier %s: %w", p.config.Carrier, err))
		}
		*fd = -1
	}
	return errors.Join(errs...)
}

// FD is the descriptor that becomes readable when [Port.Receive] has something
// to return, an error included. It is -1 once the port is closed.
func (p *Port) FD() int { return p.receiver }

func lookup(name string) (*net.Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", name, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %q is not Ethernet", name)
	}
	return ifi, nil
}

// openReceiver asks for IPv4 and not for all protocols: an all-protocol socket
// would also run the filter on every frame that leaves and on every frame that a
// macvlan takes, which on a router is all the traffic.
func openReceiver(ifi *net.Interface) (int, error) {
	filter, err := advertFilter()
	if err != nil {
		return -1, err
	}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return -1, err
	}
	group := groupMAC()
	if err := c.JoinGroup(group[:]); err != nil {
		return -1, errors.Join(err, c.Close())
	}
	return detach(c)
}

// openSender binds to protocol 0, which receives nothing.
func openSender(ifi *net.Interface) (int, error) {
	c, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return -1, err
	}
	fd, err := detach(c)
	if err != nil {
		return -1, err
	}
	// TC_PRIO_CONTROL: a queue with priorities lets adverts pass the bulk.
	const control = 7
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, control); err != nil {
		return -1, errors.Join(fmt.Errorf("set SO_PRIORITY: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// detach takes the socket out of the Go runtime's poller: the event loop polls by
// itself, and every advert would wake two threads otherwise. The socket stays in
// non-blocking mode.
func detach(c *packet.Conn) (int, error) {
	fd := -1
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, errors.Join(err, c.Close())
	}
	var duplicate error
	control := raw.Control(func(original uintptr) {
		fd, duplicate = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(control, duplicate, c.Close()); err != nil {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
		return -1, err
	}
	return fd, nil
}

// joinGroup joins with an ordinary socket as well, since the packet socket's
// membership only opens the network card's filter: it is this one that makes the
// kernel send IGMP reports, without which a snooping switch withholds the adverts.
func joinGroup(ifi *net.Interface) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	request := &unix.IPMreqn{Multiaddr: vrrp.MulticastIPv4().As4(), Ifindex: int32(ifi.Index)}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, request); err != nil {
		return -1, errors.Join(fmt.Errorf("set IP_ADD_MEMBERSHIP: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func linkLayer(ifi *net.Interface, protocol uint16, destination [6]byte) unix.SockaddrLinklayer {
	address := unix.SockaddrLinklayer{
		Protocol: protocol<<8 | protocol>>8, // network byte order; both values are below 0x10000
		Ifindex:  ifi.Index,
		Halen:    6,
	}
	copy(address.Addr[:], destination[:])
	return address
}

// explain turns what the kernel says about a vanished link into an error of this
// package.
func explain(verb, link string, err error) error {
	switch {
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%s %s: %w", verb, link, ErrLinkDown)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s %s: %w", verb, link, ErrLinkGone)
	}
	return fmt.Errorf("%s %s: %w", verb, link, err)
}
