package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"time"
)

// Chunks of SCTP (RFC 9260 §3.2) and the parameter that holds the cookie.
const (
	chunkData       = 0
	chunkInit       = 1
	chunkInitAck    = 2
	chunkCookieEcho = 10
	chunkCookieAck  = 11
	parameterCookie = 7
)

const (
	// tagMask turns the client's verification tag into the server's, so that the server
	// need not remember any.
	tagMask = 0x5a5a5a5a
	// sctpRetry is how often a step of the handshake is repeated.
	sctpRetry = 200 * time.Millisecond
	// dataHeader is the length of the chunk before its data.
	dataHeader = 16
	sctpHeader = 12
	// sctpPortBase is the first source port where the configuration has none.
	sctpPortBase = 30000
)

// association is the frame of one SCTP association, as far as a router looks: the
// handshake of four messages, and then one datagram in each packet, never
// acknowledged.
type association struct {
	local, remote uint16
	// tag is the verification tag that the peer expects, own the one that it sends.
	tag, own uint32
	number   *uint32
}

// sctpPacket appends a packet with one chunk.
func (a association) sctpPacket(b []byte, tag uint32, kind, flags byte, value []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, a.local)
	b = binary.BigEndian.AppendUint16(b, a.remote)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0, kind, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(value)))
	b = append(b, value...)
	for len(b[start:])%4 != 0 {
		b = append(b, 0)
	}
	sum := crc32.Checksum(b[start:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[start+8:], sum) // RFC 9260 appendix A
	return b
}

// setup is the value of INIT and INIT ACK.
func setup(tag uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, tag)
	b = binary.BigEndian.AppendUint32(b, 1<<16) // a_rwnd
	return append(b, 0, 1, 0, 1, 0, 0, 0, 1)    // one stream each way, TSN 1
}

func (a association) wrap(b, datagram []byte) []byte {
	value := binary.BigEndian.AppendUint32(nil, *a.number)
	*a.number++
	value = append(value, 0, 0, 0, 0, 0, 0, 0, 0) // stream 0, sequence number 0, no protocol identifier
	return a.sctpPacket(b, a.tag, chunkData, 3, append(value, datagram...))
}

func (a association) unwrap(packet []byte) ([]byte, bool) {
	kind, value, ok := a.chunk(packet)
	if !ok || kind != chunkData || len(value) < dataHeader-4 {
		return nil, false
	}
	return value[dataHeader-4:], true
}

// chunk returns the first chunk of a packet of this association.
func (a association) chunk(packet []byte) (kind byte, value []byte, ok bool) {
	if len(packet) < sctpHeader+4 || binary.BigEndian.Uint16(packet) != a.remote ||
		binary.BigEndian.Uint16(packet[2:]) != a.local || binary.BigEndian.Uint32(packet[4:]) != a.own {
		return 0, nil, false
	}
	length := int(binary.BigEndian.Uint16(packet[sctpHeader+2:]))
	if length < 4 || sctpHeader+length > len(packet) {
		return 0, nil, false
	}
	return packet[sctpHeader], packet[sctpHeader+4 : sctpHeader+length], true
}

// dialSCTP sets an association up.
func dialSCTP(ctx context.Context, local, server netip.AddrPort, tag uint32) (*packetConn, error) {
	a := association{local: local.Port(), remote: server.Port(), tag: tag ^ tagMask, own: tag, number: new(uint32)}
	conn, err := dialPackets(protocolSCTP, local.Addr(), server.Addr(), a)
	if err != nil {
		return nil, err
	}
	cookie, err := conn.step(ctx, a, a.sctpPacket(nil, 0, chunkInit, 0, setup(tag)), chunkInitAck)
	if err == nil {
		_, err = conn.step(ctx, a, a.sctpPacket(nil, a.tag, chunkCookieEcho, 0, cookie), chunkCookieAck)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up SCTP association: %w", err), conn.Close())
	}
	return conn, nil
}

// step sends a packet until a chunk of the wanted kind comes, and returns its cookie if
// it has one.
func (p *packetConn) step(ctx context.Context, a association, packet []byte, want byte) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := p.IPConn.Write(packet); err != nil {
			return nil, err
		}
		if err := p.SetReadDeadline(time.Now().Add(sctpRetry)); err != nil {
			return nil, err
		}
		for {
			n, _, err := p.ReadFromIP(p.in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err
			}
			kind, value, ok := a.chunk(p.in[:n])
			if !ok || kind != want {
				continue
			}
			cookie := []byte(nil)
			if at := len(setup(0)) + 4; len(value) > at {
				cookie = append(cookie, value[at:]...)
			}
			return cookie, p.SetReadDeadline(time.Time{})
		}
	}
}

// answerSCTP returns the server's answer to a packet, nil if it has none, and the
// datagram in the answer, if there is one.
func answerSCTP(packet []byte) (answer, datagram []byte) {
	if len(packet) < sctpHeader+4 {
		return nil, nil
	}
	a := association{remote: binary.BigEndian.Uint16(packet), local: binary.BigEndian.Uint16(packet[2:]), own: binary.BigEndian.Uint32(packet[4:])}
	kind, value, ok := a.chunk(packet)
	a.tag = a.own ^ tagMask
	switch {
	case !ok:
	case kind == chunkInit && a.own == 0 && len(value) >= 4:
		tag := binary.BigEndian.Uint32(value)
		cookie := []byte{0, parameterCookie, 0, 8, 0, 0, 0, 0}
		return a.sctpPacket(nil, tag, chunkInitAck, 0, append(setup(tag^tagMask), cookie...)), nil
	case kind == chunkCookieEcho:
		return a.sctpPacket(nil, a.tag, chunkCookieAck, 0, nil), nil
	case kind == chunkData && len(value) == dataHeader-4+udpMessageSize:
		answer = a.sctpPacket(nil, a.tag, chunkData, 3, value)
		return answer, answer[sctpHeader+dataHeader:]
	}
	return nil, nil
}

// echoPackets returns each datagram that came in a packet of a protocol, with the stamp
// of its source.
func (s *server) echoPackets(ctx context.Context, protocol uint8, conn *net.IPConn) error {
	buf := make([]byte, maxHeader+2*udpMessageSize)
	f := plainFor(protocol)
	for {
		n, from, err := conn.ReadFromIP(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("receive packets of protocol %d: %w", protocol, err)
		}
		if err != nil {
			continue
		}
		source, _ := netip.AddrFromSlice(from.IP)
		at := netip.AddrPortFrom(source.Unmap(), 0)
		var answer []byte
		if protocol == protocolSCTP {
			answer = stampSCTP(buf[:n], at)
		} else if datagram, ok := f.unwrap(buf[:n]); ok && isMessage(datagram) {
			putStamp(datagram, at)
			answer = buf[:n]
		}
		if answer != nil {
			_, _ = conn.WriteToIP(answer, from) // a lost echo is the client's to count
		}
	}
}

// stampSCTP answers a packet and stamps the datagram in it, before it is summed up.
func stampSCTP(packet []byte, from netip.AddrPort) []byte {
	answer, datagram := answerSCTP(packet)
	if datagram == nil {
		return answer
	}
	if !isMessage(datagram) {
		return nil
	}
	putStamp(datagram, netip.AddrPortFrom(from.Addr(), binary.BigEndian.Uint16(packet)))
	clear(answer[8:12])
	binary.LittleEndian.PutUint32(answer[8:], crc32.Checksum(answer, crc32.MakeTable(crc32.Castagnoli)))
	return answer
}

func isMessage(datagram []byte) bool {
	return len(datagram) == udpMessageSize && binary.BigEndian.Uint32(datagram) == messageMagic
}
