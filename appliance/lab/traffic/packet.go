package traffic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Protocol numbers (IANA).
const (
	protocolICMP   = 1
	protocolGRE    = 47
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

const (
	// maxHeader bounds what a frame puts before a datagram.
	maxHeader = 64
	// identifierBase is the first identifier of echo requests.
	identifierBase = 0x5400
	// experimental is the Ethernet type that GRE carries here: one for local use (IEEE
	// 802).
	experimental = 0x88b5
)

// frame is how datagrams travel in the packets of an IP protocol.
type frame interface {
	// wrap appends to b a packet with the datagram.
	wrap(b, datagram []byte) []byte
	// unwrap returns the datagram of a packet, or false if it has none of this flow.
	unwrap(packet []byte) ([]byte, bool)
}

// packetConn is one flow of datagrams in packets of an IP protocol.
type packetConn struct {
	*net.IPConn

	frame   frame
	in, out []byte
}

// dialPackets opens a raw socket to a server. local may be invalid.
func dialPackets(protocol int, local, server netip.Addr, f frame) (*packetConn, error) {
	network := "ip4"
	if server.Is6() {
		network = "ip6"
	}
	var from *net.IPAddr
	if local.IsValid() {
		from = &net.IPAddr{IP: local.AsSlice()}
	}
	conn, err := net.DialIP(fmt.Sprintf("%s:%d", network, protocol), from, &net.IPAddr{IP: server.AsSlice()})
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadBuffer(udpBuffer) // it also gets what is for others; see echoUDP
	return &packetConn{IPConn: conn, frame: f, in: make([]byte, maxHeader+2*udpMessageSize)}, nil
}

// Read returns the next datagram of the flow.
func (p *packetConn) Read(b []byte) (int, error) {
	for {
		// Unlike Read, it takes the header of IPv4 away.
		n, _, err := p.ReadFromIP(p.in)
		if err != nil {
			return 0, err
		}
		if datagram, ok := p.frame.unwrap(p.in[:n]); ok {
			return copy(b, datagram), nil
		}
	}
}

// Write sends a datagram. It is for one goroutine at a time.
func (p *packetConn) Write(b []byte) (int, error) {
	p.out = p.frame.wrap(p.out[:0], b)
	if _, err := p.IPConn.Write(p.out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// plain is a constant header and then the datagram.
type plain struct{ header []byte }

// plainFor returns the frame of a protocol without ports.
func plainFor(protocol uint8) plain {
	if protocol == protocolGRE {
		// No checksum, no key, version 0 (RFC 2784 §2).
		return plain{binary.BigEndian.AppendUint16([]byte{0, 0}, experimental)}
	}
	return plain{}
}

func (p plain) wrap(b, datagram []byte) []byte { return append(append(b, p.header...), datagram...) }

func (p plain) unwrap(packet []byte) ([]byte, bool) { return bytes.CutPrefix(packet, p.header) }

// echoRequest is the frame of ping (RFC 792, RFC 4443 §4.1).
type echoRequest struct {
	ipv6       bool
	identifier uint16
	number     *uint16
}

func (e echoRequest) wrap(b, datagram []byte) []byte {
	kind := byte(8)
	if e.ipv6 {
		kind = 128
	}
	start := len(b)
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, e.identifier)
	b = binary.BigEndian.AppendUint16(b, *e.number)
	*e.number++
	b = append(b, datagram...)
	if !e.ipv6 { // else the kernel knows the pseudo-header
		binary.BigEndian.PutUint16(b[start+2:], internetChecksum(b[start:]))
	}
	return b
}

func (e echoRequest) unwrap(packet []byte) ([]byte, bool) {
	kind := byte(0)
	if e.ipv6 {
		kind = 129
	}
	if len(packet) < 8 || packet[0] != kind || binary.BigEndian.Uint16(packet[4:]) != e.identifier {
		return nil, false
	}
	return packet[8:], true
}

// internetChecksum is that of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
