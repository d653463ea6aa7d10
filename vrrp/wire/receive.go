package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/vrrp"
)

// Offsets and lengths of the IPv4 header, RFC 791 §3.1.
const (
	ipv4Header      = 20 // without options
	offsetLength    = 2
	offsetFragment  = 6
	offsetTTL       = 8
	offsetProtocol  = 9
	offsetHeaderSum = 10
	offsetSource    = 12
	offsetDest      = 16

	dontFragment = 0x4000
	// fragmented are the bits that are set in any fragment: more fragments, and the
	// offset.
	fragmented = 0x3fff
)

// MaxPacket is the size of a buffer for [Port.Receive] that holds the longest
// advert with the longest IP header and some padding.
const MaxPacket = 2048

// Packet is one received IP packet of protocol 112.
type Packet struct {
	// Header is valid unless Dropped says DropHeader or DropTruncated.
	Header vrrp.Header
	// Payload is the VRRP message, without what pads the frame. It aliases the
	// buffer and is nil when the packet is to be dropped.
	Payload []byte
	// Dropped is a fault of the IP packet itself, DropNone if it has none. TTL and
	// payload are left to [vrrp.ParseAdvertisement].
	Dropped vrrp.DropReason
}

// Receive reads one packet into buf, which should have room for [MaxPacket]. It
// never blocks: false means that nothing waits. An error that is an [ErrLinkDown]
// is reported once, and the port goes on when the link is back.
func (p *Port) Receive(buf []byte) (Packet, bool, error) {
	for {
		n, err := unix.Read(p.receiver, buf)
		switch {
		case err == nil:
			return parse(buf[:n]), true, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return Packet{}, false, nil
		}
		return Packet{}, false, explain("receive advertisement on", p.config.Interface, err)
	}
}

// parse looks at the packet as the network card delivered it: the kernel's own
// checks come after packet sockets. The header's checksum matters, since VRRP's
// does not cover the source address that breaks ties.
func parse(b []byte) Packet {
	if len(b) < ipv4Header {
		return Packet{Dropped: vrrp.DropTruncated}
	}
	headerLength := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[offsetLength:]))
	switch {
	case b[0]>>4 != 4 || headerLength < ipv4Header || total < headerLength:
		return Packet{Dropped: vrrp.DropHeader}
	case len(b) < total:
		return Packet{Dropped: vrrp.DropTruncated}
	case headerSum(b[:headerLength]) != 0xffff || b[offsetProtocol] != vrrp.Protocol:
		return Packet{Dropped: vrrp.DropHeader}
	}
	packet := Packet{Header: vrrp.Header{
		Source:      netip.AddrFrom4([4]byte(b[offsetSource:])),
		Destination: netip.AddrFrom4([4]byte(b[offsetDest:])),
		TTL:         b[offsetTTL],
	}}
	if binary.BigEndian.Uint16(b[offsetFragment:])&fragmented != 0 {
		packet.Dropped = vrrp.DropFragment
		return packet
	}
	packet.Payload = b[headerLength:total:total]
	return packet
}

// headerSum is the one's complement sum (RFC 1071) over an IPv4 header: 0xffff if
// its checksum is right.
func headerSum(header []byte) uint16 {
	var sum uint32
	for ; len(header) >= 2; header = header[2:] {
		sum += uint32(binary.BigEndian.Uint16(header))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// advertFilter lets IPv4 packets of protocol 112 through that came in and were
// meant for this host, so that no other packet wakes the event loop.
func advertFilter() ([]bpf.RawInstruction, error) {
	const pass, drop = 1 << 16, 0
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 3},
		bpf.LoadAbsolute{Off: offsetProtocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: vrrp.Protocol, SkipTrue: 1},
		bpf.RetConstant{Val: pass},
		bpf.RetConstant{Val: drop},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return filter, nil
}
