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

// ReceiverConfig describes where a [Receiver] listens.
type ReceiverConfig struct {
	// Interface is the physical interface.
	Interface string
	// IPv6 is the family of the adverts: IPv6, or else IPv4.
	IPv6 bool
	// Own are the addresses of Interface to which the peers of unicast carriers send
	// their adverts. Those of the other family are not looked at.
	Own []netip.Addr
}

// Receiver hears the adverts of one family on one physical interface, whatever
// their VRID: those to the group and those to this node's own addresses.
type Receiver struct {
	config   ReceiverConfig
	physical device
	// socket is a packet socket. member keeps the membership in the multicast group
	// alive.
	socket, member int
	parse          func([]byte) Packet
}

// OpenReceiver opens a receiver and joins the group. The interface must exist, but
// may be down. It needs CAP_NET_RAW.
func OpenReceiver(c ReceiverConfig) (*Receiver, error) {
	r := &Receiver{config: c, socket: -1, member: -1, parse: parseIPv4}
	if c.IPv6 {
		r.parse = parseIPv6
	}
	if err := r.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("receive advertisements on %s: %w", c.Interface, err), r.Close())
	}
	return r, nil
}

func (r *Receiver) open() error {
	var err error
	if r.member, err = openRaw(r.config.IPv6, vrrp.Protocol); err != nil {
		return err
	}
	if r.physical, err = find(r.member, r.config.Interface); err != nil {
		return err
	}
	if r.socket, err = openReceiver(r.physical, r.config); err != nil {
		return err
	}
	if r.physical.mac, err = hardwareAddress(r.socket); err != nil {
		return err
	}
	return joinGroup(r.member, r.physical, r.config.IPv6)
}

// openReceiver asks for one EtherType and not for all protocols: an all-protocol
// socket would also run the filter on every frame that leaves.
func openReceiver(physical device, c ReceiverConfig) (int, error) {
	filter, err := advertFilter(physical.index, c.IPv6, c.Own)
	if err != nil {
		return -1, err
	}
	conn, err := packet.Listen(&net.Interface{Index: physical.index}, packet.Datagram,
		int(etherType(c.IPv6)), &packet.Config{Filter: filter})
	if err != nil {
		return -1, err
	}
	address := groupMAC(c.IPv6)
	if err := conn.JoinGroup(address[:]); err != nil {
		return -1, errors.Join(err, conn.Close())
	}
	fd, err := detach(conn)
	if err != nil {
		return -1, err
	}
	if err := setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// FD is the descriptor that becomes readable when [Receiver.Receive] has something
// to return, an error included. It is -1 once the receiver is closed.
func (r *Receiver) FD() int { return r.socket }

// Receive reads one packet into buf, which should have room for [MaxPacket]. It
// never blocks: false means that nothing waits. An error that is an [ErrLinkDown]
// is reported once, and the receiver goes on when the link is back unless it is an
// [ErrLinkGone].
func (r *Receiver) Receive(buf []byte) (Packet, bool, error) {
	for {
		n, err := unix.Read(r.socket, buf)
		switch {
		case err == nil:
			return r.parse(buf[:n]), true, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return Packet{}, false, nil
		case errors.Is(err, unix.ENETDOWN):
			// The kernel says the same of an interface that it has deleted.
			if gone := r.physical.requireSame(r.socket); gone != nil {
				err = gone
			}
		}
		return Packet{}, false, explain("receive advertisement on", r.config.Interface, err)
	}
}

// Up tells the state of the interface: nil, [ErrLinkDown] or [ErrLinkGone].
func (r *Receiver) Up() error {
	return linkState(&r.physical, r.socket)
}

// Close closes the sockets and leaves the group. It takes some 10ms, since the
// kernel waits until no CPU uses them.
func (r *Receiver) Close() error {
	if err := errors.Join(closeDescriptor(&r.socket), closeDescriptor(&r.member)); err != nil {
		return fmt.Errorf("close receiver on %s: %w", r.config.Interface, err)
	}
	return nil
}

func linkState(d *device, fd int) error {
	err := d.requireSame(fd)
	if err == nil {
		err = d.requireUp(fd)
	}
	if err != nil {
		return explain("look at", d.name, err)
	}
	return nil
}

func group(ipv6 bool) netip.Addr {
	if ipv6 {
		return vrrp.MulticastIPv6()
	}
	return vrrp.MulticastIPv4()
}
