package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	// priorityControl is TC_PRIO_CONTROL of linux/pkt_sched.h: a queue with
	// priorities lets adverts pass the bulk.
	priorityControl = 7
	// sendBuffer holds some 1 300 short frames that a network card has not sent
	// yet, at 768 octets of kernel memory for each: the announcements of a takeover
	// and the adverts of 255 virtual routers in both families. The kernel doubles it.
	sendBuffer = 1 << 19
	// receiveBuffer holds some 3 000 adverts at 2 304 octets for each, which is more
	// than 255 virtual routers send in a second at the default interval.
	receiveBuffer = 4 << 20
)

// Sender holds the sockets that the ports of a process send with. A socket's
// buffer is used up when frames wait in the queue of an interface that is stuck;
// so each physical interface has a socket of its own, shared by all its carriers.
type Sender struct {
	// control is a packet socket that neither sends nor receives. It is for questions
	// about interfaces.
	control int
	sockets map[socketKey]*sendSocket
	// packet is the buffer in which packets are built.
	packet []byte
	// discard closes the descriptor of a socket that no port uses any more; nil closes it at
	// once.
	discard func(descriptor int)
}

// socketKey tells sockets apart: packet sockets by the physical interface, raw IP
// sockets by the source address as well.
type socketKey struct {
	index  int
	source netip.Addr
}

type sendSocket struct {
	key   socketKey
	fd    int
	users int
}

// OpenSender opens a sender for the network namespace of the calling thread. It
// needs CAP_NET_RAW.
func OpenSender() (*Sender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open sender of advertisements: %w", err)
	}
	return &Sender{
		control: fd, sockets: make(map[socketKey]*sendSocket), packet: make([]byte, 0, MaxPacket),
	}, nil
}

// DiscardBy has f close the descriptors of sockets that no port uses any more. Since closing one
// takes long, f may do it elsewhere.
func (s *Sender) DiscardBy(f func(descriptor int)) { s.discard = f }

// Close closes all sockets; ports that are still open cannot send any more. It
// takes some 10ms for each interface, since the kernel waits until no CPU uses
// the socket.
func (s *Sender) Close() error {
	var errs []error
	for _, socket := range s.sockets {
		errs = append(errs, s.destroy(socket))
	}
	errs = append(errs, closeDescriptor(&s.control))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close sender of advertisements: %w", err)
	}
	return nil
}

// frames returns the packet socket of a physical interface.
func (s *Sender) frames(physical device) (*sendSocket, error) {
	return s.share(socketKey{index: physical.index}, func() (int, error) { return openFrames(physical) })
}

// packets returns the socket that sends IP packets by a physical interface and
// leaves it to the kernel to find the peer's MAC address.
func (s *Sender) packets(physical device, source netip.Addr) (*sendSocket, error) {
	return s.share(socketKey{physical.index, source}, func() (int, error) { return openPackets(physical, source) })
}

func (s *Sender) share(key socketKey, open func() (int, error)) (*sendSocket, error) {
	socket := s.sockets[key]
	if socket == nil {
		fd, err := open()
		if err != nil {
			return nil, err
		}
		socket = &sendSocket{key: key, fd: fd}
		s.sockets[key] = socket
	}
	socket.users++
	return socket, nil
}

func (s *Sender) release(socket *sendSocket) error {
	if socket == nil {
		return nil
	}
	socket.users--
	if socket.users > 0 || socket.fd < 0 {
		return nil
	}
	if s.discard != nil {
		delete(s.sockets, socket.key)
		s.discard(socket.fd)
		socket.fd = -1
		return nil
	}
	return s.destroy(socket)
}

func (s *Sender) destroy(socket *sendSocket) error {
	delete(s.sockets, socket.key)
	return closeDescriptor(&socket.fd)
}

// openFrames binds to protocol 0, which receives nothing. The kernel writes the
// Ethernet header: the source is the MAC address that the outgoing interface has
// at that moment.
func openFrames(physical device) (int, error) {
	c, err := packet.Listen(&net.Interface{Index: physical.index}, packet.Datagram, 0, nil)
	if err != nil {
		return -1, fmt.Errorf("send through %s: %w", physical.name, err)
	}
	fd, err := detach(c)
	if err != nil {
		return -1, fmt.Errorf("send through %s: %w", physical.name, err)
	}
	if err := prioritise(fd); err != nil {
		return -1, errors.Join(fmt.Errorf("send through %s: %w", physical.name, err), unix.Close(fd))
	}
	return fd, nil
}

func prioritise(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priorityControl); err != nil {
		return fmt.Errorf("set SO_PRIORITY: %w", err)
	}
	return setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer)
}

// setBuffer goes beyond the system's limit if it may (CAP_NET_ADMIN).
func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size); err != nil {
		return fmt.Errorf("set the size of the socket's buffer: %w", err)
	}
	return nil
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
		return -1, errors.Join(err, closeDescriptor(&fd))
	}
	return fd, nil
}

// closeDescriptor closes a descriptor once.
func closeDescriptor(fd *int) error {
	if *fd < 0 {
		return nil
	}
	err := unix.Close(*fd)
	*fd = -1
	return err
}
