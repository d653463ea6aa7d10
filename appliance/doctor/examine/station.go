package examine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/appliance/doctor"
	"tandem/vrrp"
)

const (
	// maxHeard bounds what a station keeps; more is not kept.
	maxHeard = 4096
	// maxRouters bounds how many VRRP routers are told apart.
	maxRouters = 256
	// largestFrame is the buffer of a station in bytes.
	largestFrame = 1<<16 + ethernetHeader
)

// Station sends and hears on one interface. Its methods may be called concurrently.
type Station struct {
	ifi     *net.Interface
	sender  *packet.Conn
	ears    []*packet.Conn
	members []int
	readers sync.WaitGroup

	mu      sync.Mutex
	heard   []Heard
	routers []doctor.Router
	// news is closed and replaced when something was heard.
	news chan struct{}
}

// OpenStation opens the sockets on an interface of this thread's network namespace. It
// needs CAP_NET_RAW.
func OpenStation(name string, ipv6 bool) (*Station, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is not Ethernet", name)
	}
	s := &Station{ifi: ifi, news: make(chan struct{})}
	if err := s.open(ipv6); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", name, err), s.Close())
	}
	for _, ear := range s.ears {
		s.readers.Go(func() { s.read(ear) })
	}
	return s, nil
}

// open asks for three protocols and not for all: such a socket would see every frame
// that a router forwards.
func (s *Station) open(ipv6 bool) (err error) {
	if s.sender, err = packet.Listen(s.ifi, packet.Raw, 0, nil); err != nil {
		return err
	}
	filter, err := incoming()
	if err != nil {
		return err
	}
	protocols := []int{unix.ETH_P_IP, unix.ETH_P_ARP}
	if ipv6 {
		protocols = append(protocols, unix.ETH_P_IPV6)
	}
	for _, protocol := range protocols {
		ear, err := packet.Listen(s.ifi, packet.Raw, protocol, &packet.Config{Filter: filter})
		if err != nil {
			return err
		}
		s.ears = append(s.ears, ear)
	}
	if err := s.join(vrrp.MulticastIPv4(), s.ears[0]); err != nil {
		return err
	}
	if !ipv6 {
		return nil
	}
	nodes := GroupMAC(allNodes()) // the answer to a probe goes there (RFC 4861 §7.2.4)
	if err := s.ears[2].JoinGroup(nodes[:]); err != nil {
		return err
	}
	return s.join(vrrp.MulticastIPv6(), s.ears[2])
}

// join opens the card's filter, and has the kernel report the membership, without which
// a snooping switch withholds the group. Without IPv6 on the interface there is no such
// report.
func (s *Station) join(group netip.Addr, ear *packet.Conn) error {
	mac := GroupMAC(group)
	if err := ear.JoinGroup(mac[:]); err != nil {
		return err
	}
	family := unix.AF_INET
	if group.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if group.Is6() {
			return nil // no IPv6 in the kernel, and the frames are heard all the same
		}
		return err
	}
	s.members = append(s.members, fd)
	if group.Is6() {
		_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, // as above
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(s.ifi.Index)})
		return nil
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
		&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(s.ifi.Index)})
}

// incoming passes frames that came in and were meant for this interface.
func incoming() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 17},
		bpf.RetConstant{Val: 0},
	})
}

// Close closes the sockets and waits for the readers.
func (s *Station) Close() error {
	var errs []error
	if s.sender != nil {
		errs = append(errs, s.sender.Close())
	}
	for _, ear := range s.ears {
		errs = append(errs, ear.Close())
	}
	for _, fd := range s.members {
		errs = append(errs, unix.Close(fd))
	}
	s.readers.Wait()
	s.members = nil
	return errors.Join(errs...)
}

// read ends when its socket is closed. A link that goes down is an error that is
// reported once.
func (s *Station) read(ear *packet.Conn) {
	b := make([]byte, largestFrame)
	for {
		n, _, err := ear.ReadFrom(b)
		if err != nil {
			if errors.Is(err, unix.ENETDOWN) {
				continue
			}
			return
		}
		if h, ok := understand(b[:n]); ok {
			s.keep(h)
		}
	}
}

func (s *Station) keep(h Heard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case h.Router != nil:
		s.keepRouter(h)
	case len(s.heard) < maxHeard:
		s.heard = append(s.heard, h)
	}
	close(s.news)
	s.news = make(chan struct{})
}

func (s *Station) keepRouter(h Heard) {
	source := h.Router.Source.String()
	i := slices.IndexFunc(s.routers, func(r doctor.Router) bool { return r.VRID == h.Router.VRID && r.Source == source })
	if i < 0 {
		if len(s.routers) == maxRouters {
			return
		}
		i = len(s.routers)
		s.routers = append(s.routers, doctor.Router{VRID: h.Router.VRID, IPv6: h.Router.Source.Is6(), Source: source})
	}
	r := &s.routers[i]
	r.MAC, r.Version, r.Priority = net.HardwareAddr(h.From[:]).String(), h.Router.Version, h.Router.Priority
	r.Advertisement++
}

// MAC is the interface's own address.
func (s *Station) MAC() [6]byte { return [6]byte(s.ifi.HardwareAddr) }

// MTU is the interface's.
func (s *Station) MTU() int { return s.ifi.MTU }

// Routers lists the VRRP routers that were heard so far.
func (s *Station) Routers() []doctor.Router {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.routers)
}

// Heard lists what was heard so far and matches.
func (s *Station) Heard(match func(Heard) bool) []Heard {
	list, _ := s.look(match)
	return list
}

func (s *Station) look(match func(Heard) bool) ([]Heard, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Heard
	for _, h := range s.heard {
		if match(h) {
			list = append(list, h)
		}
	}
	return list, s.news
}

// Await waits until something that matches was heard, for at most d.
func (s *Station) Await(ctx context.Context, d time.Duration, match func(Heard) bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		list, news := s.look(match)
		if len(list) > 0 {
			return true
		}
		select {
		case <-news:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Send sends a test frame.
func (s *Station) Send(t Test, e Envelope) error { return s.send(t.Frame(e)) }

func (s *Station) send(frame []byte) error {
	// The protocol is named, because old kernels do not look for it in a frame that goes
	// through a macvlan, and the fence would not know it.
	to := &unix.SockaddrLinklayer{
		Ifindex: s.ifi.Index, Halen: 6,
		Protocol: binary.NativeEndian.Uint16(frame[12:14]), // in network byte order, as it stands there
	}
	copy(to.Addr[:], frame[:6])
	raw, err := s.sender.SyscallConn()
	if err != nil {
		return fmt.Errorf("send through %s: %w", s.ifi.Name, err)
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), frame, 0, to)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err := errors.Join(err, sent); err != nil {
		return fmt.Errorf("send through %s: %w", s.ifi.Name, err)
	}
	return nil
}

// Ask sends an ARP request, or over IPv6 a neighbour solicitation. An unspecified sender
// teaches nobody anything.
func (s *Station) Ask(sender, target netip.Addr) error {
	if target.Is6() {
		return s.send(solicitation(s.MAC(), sender, target))
	}
	frame, err := request(s.MAC(), sender, target)
	if err != nil {
		return fmt.Errorf("ask for %v: %w", target, err)
	}
	return s.send(frame)
}

// Answers lists the MAC addresses that have answered for an address.
func (s *Station) Answers(addr netip.Addr) [][6]byte {
	var macs [][6]byte
	for _, h := range s.Heard(func(h Heard) bool { return h.Answer == addr }) {
		if !slices.Contains(macs, h.From) {
			macs = append(macs, h.From)
		}
	}
	return macs
}
