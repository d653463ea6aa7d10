package traffic

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	// tcpMessageSize is the length of each message of a TCP session.
	tcpMessageSize = 32
	// udpMessageSize is the length of a datagram: the message, filler, and the
	// stamp in which the server returns the source address that it saw.
	udpMessageSize = 64
	stampOffset    = udpMessageSize - 18
	// messageMagic begins every message.
	messageMagic = 0x544e444d
)

var (
	errNotOurs = errors.New("wrong bytes: no message of this flow")
	errTag     = errors.New("wrong bytes: the tag does not match")
)

// message is the numbered content of one TCP message or one datagram.
type message struct {
	flow uint32
	// seq counts the messages of the flow from 0.
	seq uint64
	// sent is the sender's wall clock in nanoseconds since 1970.
	sent int64
}

// tag binds all fields to the run's key, so that an echo that was changed or that
// belongs to another run is found without keeping what was sent.
func (m message) tag(key uint64) uint64 {
	h := mix(key ^ uint64(m.flow))
	h = mix(h ^ m.seq)
	return mix(h ^ uint64(m.sent))
}

// encode writes m into b, which has the size of a message of its protocol, and
// fills the rest with zeros.
func (m message) encode(b []byte, key uint64) {
	binary.BigEndian.PutUint32(b[0:], messageMagic)
	binary.BigEndian.PutUint32(b[4:], m.flow)
	binary.BigEndian.PutUint64(b[8:], m.seq)
	binary.BigEndian.PutUint64(b[16:], uint64(m.sent))
	binary.BigEndian.PutUint64(b[24:], m.tag(key))
	clear(b[tcpMessageSize:])
}

// decode reads an echo of the given flow and checks every byte but the stamp.
func decode(b []byte, flow uint32, key uint64) (message, error) {
	if len(b) != tcpMessageSize && len(b) != udpMessageSize {
		return message{}, errNotOurs
	}
	m := message{
		flow: binary.BigEndian.Uint32(b[4:]),
		seq:  binary.BigEndian.Uint64(b[8:]),
		sent: int64(binary.BigEndian.Uint64(b[16:])),
	}
	if binary.BigEndian.Uint32(b) != messageMagic || m.flow != flow {
		return message{}, errNotOurs
	}
	if binary.BigEndian.Uint64(b[24:]) != m.tag(key) {
		return message{}, errTag
	}
	if len(b) == udpMessageSize {
		for _, c := range b[tcpMessageSize:stampOffset] {
			if c != 0 {
				return message{}, errTag
			}
		}
	}
	return m, nil
}

// putStamp writes the source address that the server saw into a datagram.
func putStamp(b []byte, from netip.AddrPort) {
	a := from.Addr().As16()
	copy(b[stampOffset:], a[:])
	binary.BigEndian.PutUint16(b[stampOffset+16:], from.Port())
}

// stamp reads what putStamp wrote.
func stamp(b []byte) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(b[stampOffset : stampOffset+16]))
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(b[stampOffset+16:]))
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const (
	// blockSize is the unit of a download: number, time of sending, pattern.
	blockSize   = 16 << 10
	blockHeader = 16
)

// newBlock returns a block with its pattern and an empty header.
func newBlock() []byte {
	b := make([]byte, blockSize)
	for i := blockHeader; i < blockSize; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], mix(uint64(i)))
	}
	return b
}

// putBlockHeader numbers a block and notes when it was sent, in nanoseconds since
// 1970.
func putBlockHeader(b []byte, number uint64, sent int64) {
	binary.BigEndian.PutUint64(b, number)
	binary.BigEndian.PutUint64(b[8:], uint64(sent))
}

func blockHeaderOf(b []byte) (number uint64, sent int64) {
	return binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))
}
