package ctnetlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	attrHeaderLength    = 4
	nfgenLength         = 4
	messageHeaderLength = unix.NLMSG_HDRLEN
	// sequenceOffset is where the header of a message holds its sequence number.
	sequenceOffset = 8
	// attrTypeMask strips NLA_F_NESTED and NLA_F_NET_BYTEORDER.
	attrTypeMask = 0x3fff
	attrNested   = unix.NLA_F_NESTED
)

func align(n int) int { return (n + 3) &^ 3 }

// attribute is one netlink attribute within a message.
type attribute struct {
	kind uint16
	data []byte
}

// attributes walks the attributes of b. A type occurs at most once: the kernel
// sends none twice, and a second one would leave open which of them counts.
type attributes struct {
	rest []byte
	seen uint64
}

// next returns the next attribute; ok is false at the end and on an error.
func (a *attributes) next() (at attribute, ok bool, err error) {
	if len(a.rest) == 0 {
		return attribute{}, false, nil
	}
	if len(a.rest) < attrHeaderLength {
		return attribute{}, false, ReasonTruncated
	}
	length := int(binary.NativeEndian.Uint16(a.rest))
	kind := binary.NativeEndian.Uint16(a.rest[2:]) & attrTypeMask
	if length < attrHeaderLength || length > len(a.rest) {
		return attribute{}, false, ReasonTruncated
	}
	if kind < 64 {
		bit := uint64(1) << kind
		if a.seen&bit != 0 {
			return attribute{}, false, ReasonDuplicate
		}
		a.seen |= bit
	}
	at = attribute{kind: kind, data: a.rest[attrHeaderLength:length]}
	a.rest = a.rest[min(align(length), len(a.rest)):]
	return at, true, nil
}

func (at attribute) uint8(v *uint8) error {
	if len(at.data) != 1 {
		return ReasonLength
	}
	*v = at.data[0]
	return nil
}

func (at attribute) uint16(v *uint16) error {
	if len(at.data) != 2 {
		return ReasonLength
	}
	*v = binary.BigEndian.Uint16(at.data)
	return nil
}

func (at attribute) uint32(v *uint32) error {
	if len(at.data) != 4 {
		return ReasonLength
	}
	*v = binary.BigEndian.Uint32(at.data)
	return nil
}

// message is one netlink message within a datagram.
type message struct {
	kind     uint16
	flags    uint16
	sequence uint32
	payload  []byte
}

// nextMessage splits the first message off b. ok is false when b holds none.
func nextMessage(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < messageHeaderLength {
		return message{}, nil, false
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < messageHeaderLength || length > len(b) {
		return message{}, nil, false
	}
	m = message{
		kind:     binary.NativeEndian.Uint16(b[4:]),
		flags:    binary.NativeEndian.Uint16(b[6:]),
		sequence: binary.NativeEndian.Uint32(b[8:]),
		payload:  b[messageHeaderLength:length],
	}
	return m, b[min(align(length), len(b)):], true
}

// appendRequest appends a request that has no attributes.
func appendRequest(b []byte, kind, flags uint16, sequence uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, messageHeaderLength+nfgenLength)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	return append(b, 0, 0, 0, 0, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0)
}

// errno returns the error number that an NLMSG_ERROR or NLMSG_DONE message
// carries; 0 is success.
func (m message) errno() unix.Errno {
	if len(m.payload) < 4 {
		return 0
	}
	code := int32(binary.NativeEndian.Uint32(m.payload))
	return unix.Errno(-code)
}
