package conntracksync

import (
	"encoding/binary"
	"net/netip"
)

// ParseFrame decodes b into the given frame, whose memory it re-uses and of
// which nothing else stays. Records of unknown types and bytes after the known
// fields of a record are skipped, so that newer versions can add both. The error
// is a *[ParseError]; the frame is empty then.
func ParseFrame(b []byte, into *Frame) error {
	into.reset()
	if reason, offset := parseFrame(b, into); reason != 0 {
		into.reset()
		return &ParseError{Reason: reason, Offset: offset}
	}
	return nil
}

func parseFrame(b []byte, f *Frame) (ParseReason, int) {
	switch {
	case len(b) > MaxFrame:
		return ParseOversize, MaxFrame
	case len(b) < headerLength:
		return ParseShort, len(b)
	case b[0] == 0:
		return ParseVersion, 0
	case b[1] == 0:
		return ParseType, 1
	}
	f.Version, f.Type = b[0], FrameType(b[1])
	f.Term = binary.BigEndian.Uint64(b[2:])
	f.Seq = binary.BigEndian.Uint64(b[10:])
	missing := f.Type == FrameHello || f.Type == FrameStatus || f.Type == FrameAck ||
		f.Type == FrameDumpBegin || f.Type == FrameDumpEnd
	for at := headerLength; at < len(b); {
		if len(b)-at < recordHeaderLength {
			return ParseTruncated, at
		}
		body := b[at+recordHeaderLength:]
		length := int(binary.BigEndian.Uint16(b[at+1:]))
		if length > len(body) {
			return ParseTruncated, at
		}
		known, reason := f.parseRecord(b[at], body[:length])
		if reason != 0 {
			return reason, at
		}
		missing = missing && !known
		at += recordHeaderLength + length
	}
	if missing {
		return ParseMissing, len(b)
	}
	return 0, 0
}

// parseRecord reads one record and tells whether its type belongs into this type
// of frame.
func (f *Frame) parseRecord(kind uint8, body []byte) (known bool, reason ParseReason) {
	c := cursor{b: body}
	switch f.Type {
	case FrameFlows:
		if kind < uint8(RecordNew) || kind > uint8(RecordRefresh) {
			return false, 0
		}
		if len(f.Records) == MaxRecords {
			return false, ParseRecords
		}
		f.Records = append(f.Records, Record{Kind: RecordKind(kind)})
		c.flow(&f.Records[len(f.Records)-1])
	case FrameHello:
		if known = kind == wireHello; known {
			c.hello(&f.Hello)
		}
	case FrameStatus:
		if known = kind == wireStatus; known {
			c.status(&f.Status)
		}
	case FrameAck:
		if known = kind == wireAck; known {
			f.Acked = c.u64()
		}
	case FrameDumpBegin, FrameDumpEnd:
		if known = kind == wireDump; known {
			f.Lost = c.u8()&dumpLost != 0
			f.Count = c.u64()
		}
	case FrameDumpRequest, FrameBarrier, FramePing:
	}
	if c.bad {
		return known, ParseRecord
	}
	return known, 0
}

// cursor reads a record's body. A read past the end, or an impossible value,
// sets bad and yields zeros.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if len(c.b) < n {
		c.bad = true
		c.b = nil
		return nil
	}
	taken := c.b[:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) name() string {
	length := int(c.u8())
	if length > MaxName {
		c.bad = true
		return ""
	}
	return string(c.take(length))
}

func (c *cursor) hello(h *Hello) {
	h.ProtocolMin, h.ProtocolMax, h.Role = c.u8(), c.u8(), Role(c.u8())
	h.Features, h.Epoch, h.Term = c.u64(), c.u64(), c.u64()
	h.Node, h.ConfigHash = c.name(), c.name()
}

func (c *cursor) status(s *PeerStatus) {
	s.Role, s.Ready, s.Term = Role(c.u8()), c.u8()&statusReady != 0, c.u64()
	s.ConfigHash = c.name()
}

func (c *cursor) flow(r *Record) {
	flags := c.u8()
	f := &r.Flow
	f.Protocol = c.u8()
	f.Original = c.tuple(flags)
	if flags&flowZone != 0 {
		f.Zone = c.u16()
	}
	if r.Kind == RecordDestroy {
		return
	}
	f.Status, f.Timeout = Status(c.u32()), c.u32()
	switch {
	case flags&flowReply != 0:
		f.Reply = c.tuple(flags)
	case flags&flowInverse != 0:
		f.Reply = f.Original.inverse()
	}
	if flags&flowMark != 0 {
		f.Mark = c.u32()
	}
	if flags&flowTCP != 0 {
		f.HasTCP = true
		f.TCP = TCPInfo{
			State:         TCPState(c.u8()),
			FlagsOriginal: c.u8(), FlagsReply: c.u8(),
			ScaleOriginal: c.u8(), ScaleReply: c.u8(),
		}
		c.bad = c.bad || f.TCP.State > TCPSynSent2
	}
}

func (c *cursor) tuple(flags uint8) Tuple {
	return Tuple{
		Source: c.addr(flags), Destination: c.addr(flags),
		SourcePort: c.u16(), DestinationPort: c.u16(),
	}
}

func (c *cursor) addr(flags uint8) netip.Addr {
	if flags&flowIPv6 == 0 {
		if b := c.take(4); b != nil {
			return netip.AddrFrom4([4]byte(b))
		}
		return netip.Addr{}
	}
	if b := c.take(16); b != nil {
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.Addr{}
}
