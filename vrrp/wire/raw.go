package wire

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// openPackets opens a raw IP socket whose user writes the IP header. That is what
// protocol 255 stands for, and no router sends packets of it, so that the socket
// has nothing to receive.
func openPackets(physical device, source netip.Addr) (int, error) {
	fd, err := openRaw(source.Is6(), unix.IPPROTO_RAW)
	if err != nil {
		return -1, err
	}
	if err := bindTo(fd, physical, source); err != nil {
		return -1, errors.Join(fmt.Errorf("send from %v through %s: %w", source, physical.name, err), unix.Close(fd))
	}
	return fd, nil
}

// bindTo gives the routing decision its source. The address may come later than
// the socket; IPv6 addresses go away whenever the link is down.
func bindTo(fd int, physical device, source netip.Addr) error {
	if err := unix.BindToDevice(fd, physical.name); err != nil {
		return fmt.Errorf("bind to interface: %w", err)
	}
	level, freebind := unix.IPPROTO_IP, unix.IP_FREEBIND
	if source.Is6() {
		level, freebind = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	if err := unix.SetsockoptInt(fd, level, freebind, 1); err != nil {
		return fmt.Errorf("set FREEBIND: %w", err)
	}
	if err := unix.Bind(fd, socketAddress(source, physical.index)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return prioritise(fd)
}

// joinGroup joins with an IP socket as well, since the packet socket's membership
// only opens the network card's filter: it is this one that makes the kernel send
// IGMP and MLD reports, without which a snooping switch withholds the adverts.
//
// The socket is a raw one of VRRP's protocol, because the kernel answers packets of
// a protocol that nobody listens to with an ICMP error, adverts to this node's own
// address among them.
func joinGroup(fd int, physical device, ipv6 bool) error {
	if err := unix.BindToDevice(fd, physical.name); err != nil {
		return fmt.Errorf("bind to interface: %w", err)
	}
	var err error
	if ipv6 {
		request := &unix.IPv6Mreq{Multiaddr: vrrp.MulticastIPv6().As16(), Interface: uint32(physical.index)}
		err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, request)
	} else {
		request := &unix.IPMreqn{Multiaddr: vrrp.MulticastIPv4().As4(), Ifindex: int32(physical.index)}
		err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, request)
	}
	if err != nil {
		return fmt.Errorf("join %v: %w", group(ipv6), err)
	}
	return nil
}

// openRaw opens a raw IP socket that never receives: nobody would read what fills
// its queue.
func openRaw(ipv6 bool, protocol int) (int, error) {
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, fmt.Errorf("open raw socket of protocol %d: %w", protocol, err)
	}
	if err := deafen(fd); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// deafen makes the kernel drop everything that a socket could receive.
func deafen(fd int) error {
	nothing, err := bpf.RetConstant{Val: 0}.Assemble()
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	program := unix.SockFprog{
		Len:    1,
		Filter: &unix.SockFilter{Code: nothing.Op, Jt: nothing.Jt, Jf: nothing.Jf, K: nothing.K},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// socketAddress is an address as bind and sendto take it.
func socketAddress(a netip.Addr, index int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	address := &unix.SockaddrInet6{Addr: a.As16()}
	if a.IsLinkLocalUnicast() {
		address.ZoneId = uint32(index)
	}
	return address
}
