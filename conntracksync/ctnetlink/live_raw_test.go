package ctnetlink

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"testing"
	"time"
)

// rawConn is an exchange of IP packets of any protocol, in the shape of a stream: a
// header of the protocol's is put before what is written and taken from what is read.
type rawConn struct {
	net.Conn
	v6   bool
	seal func(data []byte) []byte
	// open returns nil for a packet that is not for this one.
	open func(packet []byte) []byte
}

func (c rawConn) Write(b []byte) (int, error) {
	_, err := c.Conn.Write(c.seal(b))
	return len(b), err
}

func (c rawConn) Read(b []byte) (int, error) {
	m := make([]byte, 2048)
	for {
		n, err := c.Conn.Read(m)
		if err != nil {
			return 0, err
		}
		packet := m[:n]
		if !c.v6 { // a raw socket of IPv4 delivers the IP header, too
			packet = packet[20:]
		}
		if data := c.open(packet); data != nil {
			return copy(b, data), nil
		}
	}
}

// serveRaw answers every packet of network that comes to listen with what answer
// makes of it.
func serveRaw(t *testing.T, p *pair, network, listen string, answer func([]byte) []byte) {
	t.Helper()
	inside(t, p.server, func() error {
		l, err := net.ListenPacket(network, listen)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := l.ReadFrom(b)
				if err != nil {
					return
				}
				if reply := answer(b[:n]); reply != nil {
					_, _ = l.WriteTo(reply, from) // a lost answer fails the client
				}
			}
		}()
		return nil
	})
}

// plainSession exchanges packets of a protocol whose first bytes are header.
func plainSession(
	network string, header ...byte,
) func(t *testing.T, p *pair, local, to, listen string) session {
	return func(t *testing.T, p *pair, local, to, listen string) session {
		t.Helper()
		serveRaw(t, p, network, listen, func(b []byte) []byte { return b })
		s := dial(t, p, network, &net.IPAddr{IP: net.ParseIP(local)}, to)
		return session{rawConn{
			Conn: s.Conn,
			seal: func(data []byte) []byte { return append(append([]byte(nil), header...), data...) },
			open: func(packet []byte) []byte { return packet[len(header):] },
		}}
	}
}

// icmp6Session is answered by the server's kernel.
func icmp6Session(t *testing.T, p *pair, local, to, _ string) session {
	t.Helper()
	s := dial(t, p, "ip6:ipv6-icmp", &net.IPAddr{IP: net.ParseIP(local)}, to)
	const id = 77
	return session{rawConn{
		Conn: s.Conn, v6: true,
		// The kernel fills in the checksum.
		seal: func(data []byte) []byte { return append([]byte{128, 0, 0, 0, 0, id, 0, 1}, data...) },
		open: func(packet []byte) []byte {
			if packet[0] != 129 || binary.BigEndian.Uint16(packet[4:]) != id {
				return nil
			}
			return packet[8:]
		},
	}}
}

// The chunks of SCTP (RFC 9260 §3.2) that an association needs.
const (
	chunkData       = 0
	chunkInit       = 1
	chunkInitAck    = 2
	chunkCookieEcho = 10
	chunkCookieAck  = 11
)

// sctpPacket is a packet with one chunk (RFC 9260 §3).
func sctpPacket(source, dest uint16, tag uint32, kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, source)
	b = binary.BigEndian.AppendUint16(b, dest)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0)
	flags := byte(0)
	if kind == chunkData {
		flags = 3 // a whole message
	}
	b = append(b, kind, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(body)))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// initBody is the content of INIT and INIT ACK: a tag, window, streams and number.
func initBody(tag uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, tag)
	return append(b, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9)
}

const sctpHeader = 12 // ports, tag and checksum

// sctpSession is an association, made by hand: not every kernel has the protocol.
// Conntrack judges its packets by their tags all the same.
func sctpSession(t *testing.T, p *pair, local, to, listen string) session {
	t.Helper()
	const clientTag, serverTag, clientPort, port = 0xc11e0001, 0x5e7e0002, 40132, 36412
	serveRaw(t, p, "ip4:132", listen, func(b []byte) []byte {
		from, at := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		switch kind := b[sctpHeader]; kind {
		case chunkInit:
			return sctpPacket(at, from, binary.BigEndian.Uint32(b[sctpHeader+4:]), chunkInitAck, initBody(serverTag))
		case chunkCookieEcho:
			return sctpPacket(at, from, clientTag, chunkCookieAck, nil)
		case chunkData:
			return sctpPacket(at, from, clientTag, chunkData, b[sctpHeader+4:])
		}
		return nil
	})
	s := dial(t, p, "ip4:132", &net.IPAddr{IP: net.ParseIP(local)}, to)
	c := rawConn{Conn: s.Conn}
	c.open = func(packet []byte) []byte { return packet[sctpHeader:] }
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		kind, answer byte
		tag          uint32
		body         []byte
	}{
		{chunkInit, chunkInitAck, 0, initBody(clientTag)},
		{chunkCookieEcho, chunkCookieAck, serverTag, []byte("1234")},
	} {
		c.seal = func(body []byte) []byte { return sctpPacket(clientPort, port, step.tag, step.kind, body) }
		answer := make([]byte, 64)
		_, err := c.Write(step.body)
		if err == nil {
			_, err = c.Read(answer)
		}
		if err == nil && answer[0] != step.answer {
			err = errors.New("wrong answer")
		}
		if err != nil {
			t.Fatalf("chunk %d of the association: %v", step.kind, err)
		}
	}
	const dataHeader = 12 // number, stream, protocol identifier
	c.seal = func(data []byte) []byte {
		return sctpPacket(clientPort, port, serverTag, chunkData, append(make([]byte, dataHeader), data...))
	}
	c.open = func(packet []byte) []byte {
		if packet[sctpHeader] != chunkData {
			return nil
		}
		return packet[sctpHeader+4+dataHeader:]
	}
	return session{c}
}
