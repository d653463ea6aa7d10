package probe

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

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	header6Length = 40
	// hopLimitND is the hop limit of all of neighbour discovery (RFC 4861 §7.1.2).
	hopLimitND = 255
	// frameSize is more than any message that is of use here.
	frameSize = 512
)

// neighbourKey is an interface and family.
type neighbourKey struct {
	name string
	ipv6 bool
}

// question is who is asked for its link-layer address, and by whom.
type question struct{ gateway, source netip.Addr }

// neighbours asks for link-layer addresses on one interface, by frames of its own: the kernel
// would answer out of its table, and ask by whichever interface its routes name.
type neighbours struct {
	conn    *packet.Conn
	link    net.Interface
	ipv6    bool
	waiting waiting[question]

	mu sync.Mutex
	// heard are the link-layer addresses of those that answered the last time. They are asked
	// directly, so that a probe is no burden to all others.
	heard map[netip.Addr]net.HardwareAddr
}

func (p *Prober) askGateway(ctx context.Context, r *Request) (answer, error) {
	gateway := r.Gateway.WithZone("")
	if !gateway.IsValid() || gateway.Is6() != r.Probe.IPv6 {
		return answer{}, local("cannot send: %s has no gateway of the probe's family", r.Interface)
	}
	n, err := p.neighboursOf(neighbourKey{r.Interface, r.Probe.IPv6})
	if err != nil {
		return answer{}, err
	}
	asked := question{gateway, r.Source.WithZone("")}
	heard, done := n.waiting.add(asked)
	defer done()
	sent := time.Now()
	if err := n.ask(asked); err != nil {
		p.dropNeighbours(n)
		return answer{}, local("cannot send by %s: %w", r.Interface, plain(err))
	}
	got, err := await(ctx, heard, sent)
	if err != nil {
		n.forget(gateway)
		if !p.current(n) {
			p.dropNeighbours(n)
		}
	}
	return got, err
}

// neighboursOf returns the shared socket, which it opens if there is none.
func (p *Prober) neighboursOf(k neighbourKey) (*neighbours, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if n, ok := p.neighbours[k]; ok {
		return n, nil
	}
	p.closeIdle()
	n := &neighbours{ipv6: k.ipv6, heard: make(map[netip.Addr]net.HardwareAddr)}
	if err := p.namespace.do(func() error { return n.open(k.name) }); err != nil {
		return nil, local("cannot send by %s: %w", k.name, err)
	}
	p.neighbours[k] = n
	go n.listen()
	return n, nil
}

// current tells whether the interface is still the one that the socket is bound to.
func (p *Prober) current(n *neighbours) (is bool) {
	_ = p.namespace.do(func() error {
		link, err := net.InterfaceByName(n.link.Name)
		is = err == nil && link.Index == n.link.Index && slices.Equal(link.HardwareAddr, n.link.HardwareAddr)
		return nil
	})
	return is
}

func (p *Prober) dropNeighbours(n *neighbours) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := (neighbourKey{n.link.Name, n.ipv6}); p.neighbours[k] == n {
		delete(p.neighbours, k)
	}
	_ = n.close() // it is of no use any more
}

// closeIdle closes shared sockets that nobody has used for a while. p.mu must be held.
func (p *Prober) closeIdle() {
	now := time.Now()
	for k, n := range p.neighbours {
		if n.waiting.idle(now) {
			_ = n.close()
			delete(p.neighbours, k)
		}
	}
	for k, e := range p.echoes {
		if e.waiting.idle(now) {
			_ = e.close()
			delete(p.echoes, k)
		}
	}
}

func (n *neighbours) open(name string) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	if len(link.HardwareAddr) != 6 {
		return errors.New("it has no MAC address, so no neighbours")
	}
	protocol, program := unix.ETH_P_ARP, onlyReplies()
	if n.ipv6 {
		protocol, program = unix.ETH_P_IPV6, onlyAdvertisements()
	}
	filter, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	n.link = *link
	n.conn, err = packet.Listen(link, packet.Datagram, protocol, &packet.Config{Filter: filter})
	return err
}

// onlyReplies lets replies of ARP pass.
func onlyReplies() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(arp.OperationReply), SkipFalse: 1},
		bpf.RetConstant{Val: frameSize},
		bpf.RetConstant{},
	}
}

// onlyAdvertisements lets neighbour advertisements pass.
func onlyAdvertisements() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2}, // next header and hop limit
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6<<8 | hopLimitND, SkipFalse: 3},
		bpf.LoadAbsolute{Off: header6Length, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 136, SkipFalse: 1},
		bpf.RetConstant{Val: frameSize},
		bpf.RetConstant{},
	}
}

func (n *neighbours) close() error {
	n.waiting.close(errClosed)
	return n.conn.Close()
}

// ask sends the question, to the one who is asked if it answered the last time, else to all.
func (n *neighbours) ask(q question) error {
	n.mu.Lock()
	to, known := n.heard[q.gateway]
	n.mu.Unlock()
	encode := arpRequest
	if n.ipv6 {
		encode = solicitation
	}
	frame, all, err := encode(n.link.HardwareAddr, q, known)
	if err != nil {
		return err
	}
	if !known {
		to = all
	}
	_, err = n.conn.WriteTo(frame, &packet.Addr{HardwareAddr: to})
	return err
}

func (n *neighbours) forget(gateway netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.heard, gateway)
}

// arpRequest is a request, and where it goes if it goes to everybody.
func arpRequest(mac net.HardwareAddr, q question, _ bool) (frame []byte, all net.HardwareAddr, err error) {
	p, err := arp.NewPacket(arp.OperationRequest, mac, q.source, make(net.HardwareAddr, len(mac)), q.gateway)
	if err != nil {
		return nil, nil, fmt.Errorf("encode ARP request: %w", err)
	}
	frame, err = p.MarshalBinary()
	return frame, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, err
}

// solicitation is a neighbour solicitation (RFC 4861 §4.3), and where it goes if its receiver's
// link-layer address is not known.
func solicitation(mac net.HardwareAddr, q question, known bool) (frame []byte, all net.HardwareAddr, err error) {
	group, err := ndp.SolicitedNodeMulticast(q.gateway)
	if err != nil {
		return nil, nil, fmt.Errorf("encode neighbour solicitation: %w", err)
	}
	to := group
	if known {
		to = q.gateway
	}
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{
		TargetAddress: q.gateway,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
	}, q.source, to)
	if err != nil {
		return nil, nil, fmt.Errorf("encode neighbour solicitation: %w", err)
	}
	frame = append(make([]byte, 0, header6Length+len(message)), 6<<4, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(message)))
	frame = append(frame, unix.IPPROTO_ICMPV6, hopLimitND)
	frame = append(frame, q.source.AsSlice()...)
	frame = append(frame, to.AsSlice()...)
	last := group.As16()
	return append(frame, message...), net.HardwareAddr{0x33, 0x33, last[12], last[13], last[14], last[15]}, nil
}

// listen takes in answers until the socket is closed.
func (n *neighbours) listen() {
	parse := parseReply
	if n.ipv6 {
		parse = parseAdvertisement
	}
	b := make([]byte, frameSize)
	for {
		length, from, err := n.conn.ReadFrom(b)
		at := time.Now()
		switch {
		case errors.Is(err, unix.ENETDOWN):
			// It is said once, and the socket works again when the interface does.
			continue
		case err != nil:
			n.waiting.close(local("cannot receive by %s: %w", n.link.Name, err))
			return
		}
		q, ok := parse(b[:length])
		if !ok {
			continue
		}
		if a, isLink := from.(*packet.Addr); isLink && len(a.HardwareAddr) == 6 {
			n.learn(q, a.HardwareAddr)
		}
		n.waiting.wake(q, reply{at: at})
	}
}

// learn remembers who has answered, if it was asked.
func (n *neighbours) learn(q question, mac net.HardwareAddr) {
	n.waiting.mu.Lock()
	asked := len(n.waiting.all[q]) > 0
	n.waiting.mu.Unlock()
	if !asked {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard[q.gateway] = slices.Clone(mac)
}

// parseReply tells which question an ARP reply answers.
func parseReply(b []byte) (question, bool) {
	var p arp.Packet
	if err := p.UnmarshalBinary(b); err != nil || p.Operation != arp.OperationReply {
		return question{}, false
	}
	return question{p.SenderIP, p.TargetIP}, true
}

// parseAdvertisement tells which question a neighbour advertisement answers.
func parseAdvertisement(b []byte) (question, bool) {
	if len(b) < header6Length || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != hopLimitND {
		return question{}, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b)-header6Length {
		return question{}, false
	}
	m, err := ndp.ParseMessage(b[header6Length : header6Length+length])
	if err != nil {
		return question{}, false
	}
	advertisement, ok := m.(*ndp.NeighborAdvertisement)
	if !ok {
		return question{}, false
	}
	return question{advertisement.TargetAddress, netip.AddrFrom16([16]byte(b[24:40]))}, true
}
