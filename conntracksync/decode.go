package conntracksync

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// ParseFrame decodes b into the given frame, whose memory it re-uses and of
// which nothing else stays. Records and frames of unknown types and bytes after
// the known fields of a record are skipped, so that newer versions can add them.
// The error is a *[ParseError]; the frame is empty then.
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
	case b[0] < ProtocolMin:
		return ParseVersion, 0
	case b[1] == 0:
		return ParseType, 1
	}
	f.Version, f.Type = b[0], FrameType(b[1])
	f.Term = binary.BigEndian.Uint64(b[2:])
	f.Seq = binary.BigEndian.Uint64(b[10:])
	missing := requires(f.Type) != 0
	for at := headerLength; at < len(b); {
		length, n := binary.Uvarint(b[at+1:])
		if n <= 0 || length > uint64(len(b)-at-1-n) {
			return ParseTruncated, at
		}
		body := b[at+1+n:][:length]
		known, reason := f.parseRecord(b[at], body)
		if reason != 0 {
			return reason, at
		}
		missing = missing && !known
		at += 1 + n + int(length)
	}
	if missing {
		return ParseMissing, len(b)
	}
	return 0, 0
}

// requires returns the type of the record that a frame must have.
func requires(t FrameType) uint8 {
	switch t {
	case FrameHello:
		return wireHello
	case FrameStatus:
		return wireStatus
	case FrameAck:
		return wireAck
	case FrameDigest:
		return wireDigest
	case FrameDigests:
		return wireSums
	case FrameRepairRequest, FrameRepairBegin, FrameRepairEnd:
		return wireSet
	case FrameFlows, FrameDigestRequest, FrameBarrier, FramePing:
	}
	return 0
}

// parseRecord reads one record and tells whether it is the one that this type of
// frame requires.
func (f *Frame) parseRecord(kind uint8, body []byte) (known bool, reason ParseReason) {
	c := cursor{b: body}
	switch {
	case f.Type == FrameFlows:
		if kind < uint8(RecordNew) || kind > uint8(RecordExpectGone) {
			return false, 0
		}
		if len(f.Records) == MaxRecords {
			return false, ParseRecords
		}
		f.Records = append(f.Records, Record{Kind: RecordKind(kind)})
		c.record(&f.Records[len(f.Records)-1])
	case kind != requires(f.Type):
		return false, 0
	default:
		c.single(f)
	}
	if c.bad {
		return true, ParseRecord
	}
	return true, 0
}

// single reads the one record of all types of frame but FrameFlows.
func (c *cursor) single(f *Frame) {
	switch f.Type {
	case FrameHello:
		c.hello(&f.Hello)
	case FrameStatus:
		c.status(&f.Status)
	case FrameAck:
		f.Complete = c.u8()&ackComplete != 0
		f.Acked = c.uvarint(math.MaxUint64)
	case FrameDigest:
		f.Digest = Digest{Sum: c.u64(), Flows: c.uvarint(math.MaxUint64)}
	case FrameDigests:
		f.Digests = f.Digests[:0]
		for i := 0; i < Buckets && !c.bad; i++ {
			f.Digests = append(f.Digests, c.u64())
		}
	case FrameRepairRequest, FrameRepairBegin, FrameRepairEnd:
		for i := range f.Set {
			f.Set[i] = c.u64()
		}
		f.Count = c.uvarint(math.MaxUint64)
	case FrameFlows, FrameDigestRequest, FrameBarrier, FramePing:
	}
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

func (c *cursor) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.bad = true
		c.b = nil
		return 0
	}
	c.b = c.b[n:]
	return v
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

func (c *cursor) record(r *Record) {
	switch r.Kind {
	case RecordGone, RecordKeep:
		r.Hash = c.u64()
	case RecordExpect, RecordExpectGone:
		r.Expect = new(Expectation)
		c.expectation(r.Expect)
	case RecordDestroy:
		flags := c.identity(&r.Flow)
		r.Unsure = flags&flowUnsure != 0
	case RecordNew, RecordUpdate, RecordRefresh:
		c.flow(&r.Flow)
	}
}

func (c *cursor) identity(f *Flow) (flags uint8) {
	flags, f.Protocol = c.u8(), c.u8()
	four := flags&flowIPv6 == 0
	f.Original.Source, f.Original.Destination = c.addr(four), c.addr(four)
	if flags&flowNoPorts == 0 {
		f.Original.SourcePort, f.Original.DestinationPort = c.u16(), c.u16()
	}
	if flags&flowZone != 0 {
		f.Zone = uint16(c.uvarint(math.MaxUint16))
	}
	f.Reply = f.Original.inverse(f.Protocol)
	if flags&flowReply != 0 {
		parts := c.u8()
		if parts&replySource != 0 {
			f.Reply.Source = c.addr(four)
		}
		if parts&replyDestination != 0 {
			f.Reply.Destination = c.addr(four)
		}
		if parts&replySourcePort != 0 {
			f.Reply.SourcePort = c.u16()
		}
		if parts&replyDestinationPort != 0 {
			f.Reply.DestinationPort = c.u16()
		}
	}
	return flags
}

func (c *cursor) flow(f *Flow) {
	flags := c.identity(f)
	f.Status = Status(c.uvarint(math.MaxUint32))
	f.Timeout = uint32(c.uvarint(math.MaxUint32))
	if flags&flowMark != 0 {
		f.Mark = c.u32()
	}
	if b := c.takeIf(flags&flowTCP != 0, 4); b != nil {
		f.HasTCP = true
		f.TCP = TCPInfo{
			State: TCPState(b[0] >> 4), ScaleOriginal: b[0] & maxScale, ScaleReply: b[1] & maxScale,
			FlagsOriginal: b[2], FlagsReply: b[3],
		}
		c.bad = c.bad || f.TCP.State > TCPSynSent2
	}
	if len(c.b) > 0 {
		c.extra(f)
	}
}

func (c *cursor) takeIf(present bool, n int) []byte {
	if !present {
		return nil
	}
	return c.take(n)
}

// extra reads the fields that few flows have. Those with an unknown tag are
// skipped.
func (c *cursor) extra(f *Flow) {
	var x Extra
	four := f.Original.Source.Is4()
	for len(c.b) > 0 && !c.bad {
		tag := c.u8()
		field := cursor{b: c.take(int(c.uvarint(MaxFrame)))}
		switch tag {
		case extraMaster:
			x.Master, x.HasMaster = field.key(four), true
		case extraHelper:
			x.Helper = string(field.b[:min(len(field.b), MaxName)])
		case extraLabels:
			x.HasLabels = true
			copy(x.Labels[:], field.take(len(x.Labels)))
		case extraAdjust:
			x.HasAdjust = true
			for _, a := range [...]*SequenceAdjustment{&x.AdjustOriginal, &x.AdjustReply} {
				*a = SequenceAdjustment{CorrectionPosition: field.u32(), OffsetBefore: int32(field.u32()), OffsetAfter: int32(field.u32())}
			}
		case extraSCTP:
			x.HasSCTP = true
			x.SCTP = SCTPInfo{State: field.u8(), TagOriginal: field.u32(), TagReply: field.u32()}
		case extraSynproxy:
			x.HasSynproxy = true
			x.Synproxy = Synproxy{InitialSequence: field.u32(), InitialTimestamp: field.u32(), TimestampOffset: field.u32()}
		}
		c.bad = c.bad || field.bad
	}
	if x != (Extra{}) {
		f.Extra = &x
	}
}

func (c *cursor) expectation(e *Expectation) {
	flags := c.u8()
	four := flags&expectIPv6 == 0
	e.Master, e.Key, e.Mask = c.key(four), c.key(four), c.tuple(four)
	if flags&expectNAT != 0 {
		e.HasNAT, e.NATReply, e.NAT = true, flags&expectNATReply != 0, c.tuple(four)
	}
	e.Helper, e.Function = c.name(), c.name()
	e.Timeout, e.Class, e.Flags = uint32(c.uvarint(math.MaxUint32)), uint32(c.uvarint(math.MaxUint32)), uint32(c.uvarint(math.MaxUint32))
}

func (c *cursor) key(four bool) Key {
	protocol := c.u8()
	return Key{Protocol: protocol, Original: c.tuple(four), Zone: uint16(c.uvarint(math.MaxUint16))}
}

func (c *cursor) tuple(four bool) Tuple {
	return Tuple{Source: c.addr(four), Destination: c.addr(four), SourcePort: c.u16(), DestinationPort: c.u16()}
}

func (c *cursor) addr(four bool) netip.Addr {
	if four {
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
