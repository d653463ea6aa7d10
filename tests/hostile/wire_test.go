package hostile

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// wire sends Ethernet frames through an interface.
type wire struct {
	s       *stand
	fd      int
	address unix.SockaddrLinklayer
	mac     net.HardwareAddr
}

// wire opens a socket in a namespace; it sends and receives whole frames.
func (s *stand) wire(namespace, link string, protocol uint16) *wire {
	s.t.Helper()
	w := &wire{s: s}
	s.must(s.Namespace(namespace).Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.mac = ifi.HardwareAddr
		network := protocol<<8 | protocol>>8
		w.address = unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: network}
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return unix.Bind(w.fd, &w.address)
	}))
	s.t.Cleanup(func() { _ = unix.Close(w.fd) }) // the namespace ends as well
	return w
}

func (w *wire) send(frame []byte) {
	w.s.t.Helper()
	// A full queue is the fate of floods.
	if err := unix.Sendto(w.fd, frame, 0, &w.address); err != nil && err != unix.ENOBUFS && err != unix.EAGAIN {
		w.s.t.Fatal(err)
	}
}

// receive returns the next frame for which want is true.
func (w *wire) receive(want func([]byte) bool) []byte {
	w.s.t.Helper()
	var found []byte
	w.s.eventually("a frame comes", func(context.Context) error {
		for {
			b := make([]byte, 2048)
			n, err := unix.Read(w.fd, b)
			if err != nil {
				return err
			}
			if want(b[:n]) {
				found = b[:n]
				return nil
			}
		}
	})
	return found
}

// flood sends frames in turn at a rate per second.
func (w *wire) flood(d time.Duration, rate int, frames [][]byte) (sent int) {
	w.s.t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	start := time.Now()
	for now := range ticker.C {
		passed := now.Sub(start)
		if passed > d {
			return sent
		}
		for due := int(passed.Seconds() * float64(rate)); sent < due; sent++ {
			w.send(frames[sent%len(frames)])
		}
	}
	return sent
}

// spoof is an advert as a stranger would forge it.
type spoof struct {
	source   string
	vrid     uint8
	priority uint8
	interval time.Duration
	address  string
	ttl      byte
	// damage changes the VRRP message, damageHeader the IP header after its checksum
	// was computed.
	damage, damageHeader func([]byte) []byte
}

// frame builds the advert as an Ethernet frame.
func (w *wire) frame(p spoof) []byte {
	w.s.t.Helper()
	header := vrrp.Header{Source: netip.MustParseAddr(p.source), Destination: vrrp.MulticastIPv4(), TTL: p.ttl}
	advert := vrrp.Advertisement{
		VRID: p.vrid, Priority: p.priority, Interval: p.interval, Addresses: []netip.Addr{netip.MustParseAddr(p.address)},
	}
	message, err := advert.Append(nil, header, vrrp.ChecksumPlain)
	w.s.must(err)
	if p.damage != nil {
		message = p.damage(message)
	}
	ip := ipHeader(header.Source, header.Destination, vrrp.Protocol, p.ttl, len(message))
	if p.damageHeader != nil {
		ip = p.damageHeader(ip)
	}
	frame := append([]byte{0x01, 0x00, 0x5e, 0x00, 0x00, 0x12}, w.mac...)
	frame = append(frame, 0x08, 0x00)
	return append(append(frame, ip...), message...)
}

// ipHeader is RFC 791 §3.1 without options.
func ipHeader(source, destination netip.Addr, protocol, ttl byte, payload int) []byte {
	b := make([]byte, 20)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+payload))
	b[8], b[9] = ttl, protocol
	copy(b[12:], source.AsSlice())
	copy(b[16:], destination.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return b
}

// checksum is RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// datagram is a UDP datagram over IPv4 as an Ethernet frame, without UDP checksum.
func datagram(to, from net.HardwareAddr, source, destination netip.AddrPort, payload []byte) []byte {
	frame := append(append([]byte{}, to...), from...)
	frame = append(frame, 0x08, 0x00)
	frame = append(frame, ipHeader(source.Addr(), destination.Addr(), unix.IPPROTO_UDP, 64, 8+len(payload))...)
	frame = binary.BigEndian.AppendUint16(frame, source.Port())
	frame = binary.BigEndian.AppendUint16(frame, destination.Port())
	frame = binary.BigEndian.AppendUint16(frame, uint16(8+len(payload)))
	frame = append(frame, 0, 0)
	return append(frame, payload...)
}
