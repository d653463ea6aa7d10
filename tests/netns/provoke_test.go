package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// provokeInterval is how often all provocations are sent.
const provokeInterval = 10 * time.Millisecond

const (
	ethernetHeader = 14
	ipv4Header     = 20
	icmpHeader     = 8
	echoRequest    = 8
	discardPort    = 9
)

// neighbour is a host on a network and what it sends to make a BACKUP speak.
type neighbour struct {
	// namespace of the host, its address, and the name of the nodes' port.
	namespace, port string
	address         netip.Addr
	// virtual is the pair's address on the network, beyond one that is only reached
	// through the pair.
	virtual, beyond netip.Addr
}

func neighbours() []neighbour {
	at := netip.MustParseAddr
	client := at("10.0.0.101")
	return []neighbour{
		{lab.Client, "lan0", client, at(lab.ClientGateway), at(lab.ServerAddress)},
		{lab.Server, "wan0", at(lab.UplinkGateway), at(lab.NATAddress), client},
	}
}

// provoke asks a node, on both networks, for everything that only the MASTER may
// answer, until the function that it returns is called: ARP for the virtual
// address, by broadcast and to the node's own MAC address; pings of the virtual
// address and datagrams to be forwarded, to the node's own MAC address. It pings
// the node's own address, too; the answers prove that the questions arrive. The node
// itself is made to speak meanwhile.
func (s *stand) provoke(node string) (stop func()) {
	s.t.Helper()
	silence := s.speak(node)
	run := s.background()
	for _, n := range neighbours() {
		frames, socket := s.provocations(n, node)
		run.start(func(ctx context.Context) error { return n.ask(ctx, socket, frames) })
	}
	return func() {
		s.t.Helper()
		silence()
		run.stop()
	}
}

// speak lets programs on a node send from the virtual addresses, by whatever way
// the kernel finds and by the port.
func (s *stand) speak(node string) (stop func()) {
	s.t.Helper()
	run := s.background()
	for _, n := range neighbours() {
		sockets := s.speakers(n, node)
		run.start(func(ctx context.Context) error { return n.speak(ctx, sockets) })
	}
	return run.stop
}

// background runs functions until it is stopped.
type background struct {
	s      *stand
	ctx    context.Context
	cancel context.CancelFunc
	ended  []chan error
}

func (s *stand) background() *background {
	ctx, cancel := context.WithCancel(s.t.Context())
	return &background{s: s, ctx: ctx, cancel: cancel}
}

func (b *background) start(f func(ctx context.Context) error) {
	ended := make(chan error, 1)
	b.ended = append(b.ended, ended)
	go func() { ended <- f(b.ctx) }()
}

// stop waits for their end and fails the test if one did.
func (b *background) stop() {
	b.s.t.Helper()
	b.cancel()
	for _, ended := range b.ended {
		b.s.must(<-ended)
	}
}

// speakers opens sockets on the node that send from the virtual address.
func (s *stand) speakers(n neighbour, node string) []int {
	s.t.Helper()
	var sockets []int
	s.must(s.Namespace(node).Do(func() error {
		for _, device := range []string{"", n.port} {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			sockets = append(sockets, fd)
			// The address need not be there yet.
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
				return err
			}
			if device != "" {
				if err := unix.BindToDevice(fd, device); err != nil {
					return err
				}
			}
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: n.virtual.As4()}); err != nil {
				return err
			}
		}
		return nil
	}))
	return sockets
}

// speak sends until ctx ends. That the kernel refuses is what is hoped for.
func (n neighbour) speak(ctx context.Context, sockets []int) error {
	ticker := time.NewTicker(provokeInterval)
	defer ticker.Stop()
	to := &unix.SockaddrInet4{Addr: n.address.As4(), Port: discardPort}
	for ctx.Err() == nil {
		for _, fd := range sockets {
			_ = unix.Sendto(fd, []byte("speak"), 0, to)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	var errs []error
	for _, fd := range sockets {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// provocations builds the frames and opens the socket of a neighbour.
func (s *stand) provocations(n neighbour, node string) ([][]byte, *packet.Conn) {
	s.t.Helper()
	var own *net.Interface
	var socket *packet.Conn
	s.must(s.Namespace(n.namespace).Do(func() (err error) {
		if own, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		// Protocol 0 receives nothing.
		socket, err = packet.Listen(own, packet.Raw, 0, nil)
		return err
	}))
	port, address := s.portOf(node, n.port)
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	from := own.HardwareAddr
	return [][]byte{
		s.question(from, broadcast, n.address, n.virtual),
		s.question(from, port, n.address, n.virtual),
		ethernet(from, port, unix.ETH_P_IP, ping(n.address, n.virtual)),
		ethernet(from, port, unix.ETH_P_IP, datagram(n.address, n.beyond)),
		ethernet(from, port, unix.ETH_P_IP, datagram(n.address, n.virtual)),
		ethernet(from, port, unix.ETH_P_IP, ping(n.address, address)),
	}, socket
}

// portOf returns the MAC and IP addresses of a node's port.
func (s *stand) portOf(node, name string) (net.HardwareAddr, netip.Addr) {
	s.t.Helper()
	var mac net.HardwareAddr
	var address netip.Addr
	s.must(s.Namespace(node).Do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		mac = ifi.HardwareAddr
		return nil
	}))
	last := map[string]map[string]string{
		"lan0": {lab.Alpha: "10.0.0.2", lab.Bravo: "10.0.0.3"},
		"wan0": {lab.Alpha: "203.0.113.11", lab.Bravo: "203.0.113.12"},
	}
	address = netip.MustParseAddr(last[name][node])
	return mac, address
}

// ask sends all the frames again and again until ctx ends.
func (n neighbour) ask(ctx context.Context, socket *packet.Conn, frames [][]byte) error {
	ticker := time.NewTicker(provokeInterval)
	defer ticker.Stop()
	for {
		for _, frame := range frames {
			to := &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}
			if _, err := socket.WriteTo(frame, to); err != nil {
				return errors.Join(fmt.Errorf("provoke from %s: %w", n.namespace, err), socket.Close())
			}
		}
		select {
		case <-ctx.Done():
			return socket.Close()
		case <-ticker.C:
		}
	}
}

// question is an ARP request.
func (s *stand) question(from, to net.HardwareAddr, sender, target netip.Addr) []byte {
	s.t.Helper()
	request, err := arp.NewPacket(arp.OperationRequest, from, sender, make(net.HardwareAddr, 6), target)
	s.must(err)
	body, err := request.MarshalBinary()
	s.must(err)
	return ethernet(from, to, unix.ETH_P_ARP, body)
}

func ethernet(from, to net.HardwareAddr, etherType uint16, body []byte) []byte {
	frame := append(append([]byte(nil), to...), from...)
	return append(binary.BigEndian.AppendUint16(frame, etherType), body...)
}

// ping is an ICMP echo request.
func ping(from, to netip.Addr) []byte {
	message := make([]byte, icmpHeader)
	message[0] = echoRequest
	binary.BigEndian.PutUint16(message[4:], 0x7461)
	binary.BigEndian.PutUint16(message[2:], internetSum(message))
	return ipv4(unix.IPPROTO_ICMP, from, to, message)
}

// datagram is UDP to the discard port, without a checksum.
func datagram(from, to netip.Addr) []byte {
	return ipv4(unix.IPPROTO_UDP, from, to, []byte{0x74, 0x61, 0, discardPort, 0, 8, 0, 0})
}

func ipv4(protocol byte, from, to netip.Addr, body []byte) []byte {
	b := []byte{0x45, 0, 0, byte(ipv4Header + len(body)), 0, 0, 0, 0, 64, protocol, 0, 0}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], internetSum(b))
	return append(b, body...)
}

// internetSum is the checksum of RFC 1071 over an even number of bytes.
func internetSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// answersOf counts a node's answers to the pings of its own addresses.
func (s *stand) answersOf(node string) *watch {
	s.t.Helper()
	w := &watch{t: s.t, captures: make(map[port]*lab.Capture)}
	for _, p := range ports(node) {
		c, err := s.Capture(s.t.Context(), lab.PortName(p.network, p.node), isPong)
		s.must(err)
		w.captures[p] = c
	}
	return w
}

// isPong tells an ICMP echo reply.
func isPong(frame []byte) bool {
	return len(frame) > ethernetHeader+ipv4Header && frame[12] == 0x08 && frame[13] == 0x00 &&
		frame[ethernetHeader+9] == unix.IPPROTO_ICMP && frame[ethernetHeader+ipv4Header] == 0
}
