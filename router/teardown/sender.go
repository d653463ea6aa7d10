package teardown

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// PacketMark is on our own packets, for the rule that keeps them out of connection
	// tracking. No rule of routing has a use for it.
	PacketMark uint32 = 0x02000000

	// sendBatch is how many packets go to the kernel in one call.
	sendBatch = 128
	// maxPacket holds the largest of our packets, an ICMPv6 message.
	maxPacket = header6Length + icmpLength + header6Length + udpLength
	// sendBuffer holds a batch with what the kernel adds to each packet.
	sendBuffer = 1 << 20
	// halfway is as far away as a sequence number can be.
	halfway = 1 << 31
)

// sender sends packets of others into a network.
type sender struct {
	conn4, conn6 net.PacketConn
	batch4       *batch
	batch6       *batch
}

// batch collects packets of one family. Messages of both families are the same type.
type batch struct {
	write    func([]ipv4.Message, int) (int, error)
	control  func(host net.IP) []byte
	messages []ipv4.Message
	memory   []byte
}

func newSender() (*sender, error) {
	s := &sender{}
	var err error
	if s.conn4, err = openRaw("ip4:255", unix.IPPROTO_IP, unix.IP_TRANSPARENT); err != nil {
		return nil, err
	}
	if s.conn6, err = openRaw("ip6:255", unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT); err != nil {
		return nil, errors.Join(err, s.conn4.Close())
	}
	four, six := ipv4.NewPacketConn(s.conn4), ipv6.NewPacketConn(s.conn6)
	// Routed as what comes from the host itself, a packet takes the way that the network's
	// rules name, by its virtual link. What the packet bears as its source is another thing.
	s.batch4 = newBatch(four.WriteBatch, func(host net.IP) []byte {
		return (&ipv4.ControlMessage{Src: host}).Marshal()
	})
	s.batch6 = newBatch(six.WriteBatch, func(host net.IP) []byte {
		return (&ipv6.ControlMessage{Src: host}).Marshal()
	})
	return s, nil
}

func newBatch(write func([]ipv4.Message, int) (int, error), control func(net.IP) []byte) *batch {
	b := &batch{write: write, control: control, memory: make([]byte, 0, sendBatch*maxPacket)}
	b.messages = make([]ipv4.Message, 0, sendBatch)
	return b
}

// openRaw opens a socket for packets with their headers (IPPROTO_RAW) in the current network
// namespace.
func openRaw(network string, level, transparent int) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, "")
	if err != nil {
		return nil, fmt.Errorf("open raw socket to tell clients: %w", err)
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open raw socket to tell clients: %w", err), conn.Close())
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(PacketMark)),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer),
			// Nothing is ever read from it.
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 0),
			unix.SetsockoptInt(int(fd), level, transparent, 1),
		)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, errors.Join(fmt.Errorf("set up raw socket to tell clients: %w", err), conn.Close())
	}
	return conn, nil
}

func (s *sender) close() error { return errors.Join(s.conn4.Close(), s.conn6.Close()) }

// wake tells the hosts of flows, those of TCP with both segments or with one. The number is of
// those that were told; the error is of the last one that was not.
func (s *sender) wake(flows []flow, both bool) (told int, err error) {
	for i := range flows {
		f := &flows[i]
		if !f.wake {
			continue
		}
		b := s.batch4
		if f.inner.Addr().Is6() {
			b = s.batch6
		}
		if failed := b.add(f, both); failed != nil {
			err = failed
			continue
		}
		told++
	}
	return told, lastError(err, s.batch4.flush(), s.batch6.flush())
}

func lastError(all ...error) (last error) {
	for _, err := range all {
		if err != nil {
			last = err
		}
	}
	return last
}

// add puts the packets for one flow into the batch, which it sends if it is full.
func (b *batch) add(f *flow, both bool) error {
	var failed error
	if len(b.messages)+2 > sendBatch {
		failed = b.flush()
	}
	to := &net.IPAddr{IP: f.inner.Addr().AsSlice()}
	control := b.control(to.IP)
	if f.entry.Key.Protocol != unix.IPPROTO_TCP {
		b.packet(to, control, appendUnreachable(b.room(), f))
		return failed
	}
	sequence, acknowledgement := rand.Uint32(), rand.Uint32()
	b.packet(to, control, appendSegment(b.room(), f, sequence, acknowledgement))
	if both {
		b.packet(to, control, appendSegment(b.room(), f, sequence+halfway, acknowledgement))
	}
	return failed
}

// room returns where the next packet goes.
func (b *batch) room() []byte {
	at := len(b.messages) * maxPacket
	return b.memory[at:at:cap(b.memory)]
}

func (b *batch) packet(to net.Addr, control, data []byte) {
	b.messages = append(b.messages, ipv4.Message{Buffers: [][]byte{data}, OOB: control, Addr: to})
}

// flush sends what is in the batch. A packet that the kernel refuses, because a host cannot be
// reached, say, does not keep back those behind it.
func (b *batch) flush() (failed error) {
	for left := b.messages; len(left) > 0; {
		n, err := b.write(left, 0)
		if err != nil {
			failed = fmt.Errorf("tell client %v: %w", left[0].Addr, err)
			n = 1
		}
		left = left[max(n, 1):]
	}
	b.messages = b.messages[:0]
	return failed
}
