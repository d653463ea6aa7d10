package conntracksync

import (
	"encoding/binary"
	"net/netip"
)

// A frame is {version u8, type u8, term u64, seq u64} and records {type u8,
// length uvarint, body}. Fixed numbers are in network byte order.
const headerLength = 18

// Types of record on the wire; 1 to 8 are those of [RecordKind].
const (
	wireHello  = 16
	wireStatus = 17
	wireAck    = 18
	wireDigest = 19
	wireSums   = 20
	wireSet    = 21
)

// Flags of a flow record. They say which fields follow.
const (
	flowIPv6 = 1 << iota
	flowZone
	flowMark
	flowTCP
	// flowReply: the reply tuple is not the plain inverse; the parts that differ
	// follow.
	flowReply
	flowUnsure
	// flowNoPorts: both ports are zero and do not follow.
	flowNoPorts
)

// Parts of a reply tuple.
const (
	replySource = 1 << iota
	replyDestination
	replySourcePort
	replyDestinationPort
)

// Fields of an [Extra]; each is {tag u8, length uvarint, value} after the flow.
const (
	extraMaster = iota + 1
	extraHelper
	extraLabels
	extraAdjust
	extraSCTP
	extraSynproxy
)

// Flags of an expectation.
const (
	expectIPv6 = 1 << iota
	expectNAT
	expectNATReply
)

const (
	ackComplete = 1 << 0
	statusReady = 1 << 0
)

// AppendFrame appends the encoded frame to dst. Flows must be such as a [Sender]
// replicates; names are cut at [MaxName] bytes. Records beyond [MaxRecords] are
// left out.
func AppendFrame(dst []byte, f *Frame) []byte {
	dst = append(dst, f.Version, uint8(f.Type))
	dst = binary.BigEndian.AppendUint64(dst, f.Term)
	dst = binary.BigEndian.AppendUint64(dst, f.Seq)
	start := len(dst)
	switch f.Type {
	case FrameHello:
		return closeRecord(appendHello(openRecord(dst, wireHello), &f.Hello), start)
	case FrameStatus:
		return closeRecord(appendStatus(openRecord(dst, wireStatus), &f.Status), start)
	case FrameAck:
		dst = append(openRecord(dst, wireAck), boolBit(f.Complete, ackComplete))
		return closeRecord(binary.AppendUvarint(dst, f.Acked), start)
	case FrameDigest:
		dst = binary.BigEndian.AppendUint64(openRecord(dst, wireDigest), f.Digest.Sum)
		return closeRecord(binary.AppendUvarint(dst, f.Digest.Flows), start)
	case FrameDigests:
		return closeRecord(appendWords(openRecord(dst, wireSums), f.Digests), start)
	case FrameRepairRequest, FrameRepairBegin, FrameRepairEnd:
		dst = appendWords(openRecord(dst, wireSet), f.Set[:])
		return closeRecord(binary.AppendUvarint(dst, f.Count), start)
	case FrameFlows:
		n := min(len(f.Records), MaxRecords)
		for i := range f.Records[:n] {
			dst = appendRecord(dst, &f.Records[i], Features)
		}
		if n+f.EncodedRecords <= MaxRecords {
			dst = append(dst, f.Encoded...)
		}
	case FrameDigestRequest, FrameBarrier, FramePing:
	}
	return dst
}

func openRecord(dst []byte, kind uint8) []byte { return append(dst, kind, 0) }

// closeRecord fills in the length. Most records are so short that it has one byte.
func closeRecord(dst []byte, start int) []byte {
	n := len(dst) - start - 2
	if n < 0x80 {
		dst[start+1] = uint8(n)
		return dst
	}
	var length [binary.MaxVarintLen64]byte
	more := binary.PutUvarint(length[:], uint64(n)) - 1
	dst = append(dst, length[:more]...)
	copy(dst[start+2+more:], dst[start+2:start+2+n])
	copy(dst[start+1:], length[:more+1])
	return dst
}

func boolBit(b bool, bit uint8) uint8 {
	if b {
		return bit
	}
	return 0
}

func appendWords(dst []byte, words []uint64) []byte {
	for _, w := range words {
		dst = binary.BigEndian.AppendUint64(dst, w)
	}
	return dst
}

func appendName(dst []byte, s string) []byte {
	s = s[:min(len(s), MaxName)]
	return append(append(dst, uint8(len(s))), s...)
}

func appendHello(dst []byte, h *Hello) []byte {
	dst = append(dst, h.ProtocolMin, h.ProtocolMax, uint8(h.Role))
	dst = binary.BigEndian.AppendUint64(dst, h.Features)
	dst = binary.BigEndian.AppendUint64(dst, h.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, h.Term)
	return appendName(appendName(dst, h.Node), h.ConfigHash)
}

func appendStatus(dst []byte, s *PeerStatus) []byte {
	dst = append(dst, uint8(s.Role), boolBit(s.Ready, statusReady))
	dst = binary.BigEndian.AppendUint64(dst, s.Term)
	return appendName(dst, s.ConfigHash)
}

// appendRecord encodes one record of a FrameFlows, with an [Extra] if the features
// have it.
func appendRecord(dst []byte, r *Record, features uint64) []byte {
	start := len(dst)
	dst = openRecord(dst, uint8(r.Kind))
	switch r.Kind {
	case RecordGone, RecordKeep:
		dst = binary.BigEndian.AppendUint64(dst, r.Hash)
	case RecordExpect, RecordExpectGone:
		dst = appendExpectation(dst, r.Expect)
	case RecordDestroy:
		dst, _ = appendIdentity(dst, r)
	case RecordNew, RecordUpdate, RecordRefresh:
		dst = appendFlow(dst, r)
		if r.Flow.Extra != nil && features&FeatureExtras != 0 {
			dst = appendExtra(dst, r.Flow.Extra, r.Flow.Original.Source.Is4())
		}
	}
	return closeRecord(dst, start)
}

// appendIdentity encodes {flags, protocol, original tuple, [zone], [reply parts]}.
func appendIdentity(dst []byte, r *Record) ([]byte, uint8) {
	f := &r.Flow
	plain := f.Original.inverse(f.Protocol)
	flags := boolBit(!f.Original.Source.Is4(), flowIPv6) | boolBit(f.Zone != 0, flowZone) |
		boolBit(f.Reply != plain, flowReply) |
		boolBit(f.Original.SourcePort|f.Original.DestinationPort == 0, flowNoPorts)
	if r.Kind == RecordDestroy {
		flags |= boolBit(r.Unsure, flowUnsure)
	} else {
		flags |= boolBit(f.HasTCP, flowTCP) | boolBit(f.Mark != 0, flowMark)
	}
	dst = append(dst, flags, f.Protocol)
	four := flags&flowIPv6 == 0
	dst = appendAddr(appendAddr(dst, f.Original.Source, four), f.Original.Destination, four)
	if flags&flowNoPorts == 0 {
		dst = binary.BigEndian.AppendUint16(dst, f.Original.SourcePort)
		dst = binary.BigEndian.AppendUint16(dst, f.Original.DestinationPort)
	}
	if flags&flowZone != 0 {
		dst = binary.AppendUvarint(dst, uint64(f.Zone))
	}
	if flags&flowReply != 0 {
		dst = appendReply(dst, &f.Reply, &plain, four)
	}
	return dst, flags
}

func appendReply(dst []byte, t, plain *Tuple, four bool) []byte {
	parts := boolBit(t.Source != plain.Source, replySource) |
		boolBit(t.Destination != plain.Destination, replyDestination) |
		boolBit(t.SourcePort != plain.SourcePort, replySourcePort) |
		boolBit(t.DestinationPort != plain.DestinationPort, replyDestinationPort)
	dst = append(dst, parts)
	if parts&replySource != 0 {
		dst = appendAddr(dst, t.Source, four)
	}
	if parts&replyDestination != 0 {
		dst = appendAddr(dst, t.Destination, four)
	}
	if parts&replySourcePort != 0 {
		dst = binary.BigEndian.AppendUint16(dst, t.SourcePort)
	}
	if parts&replyDestinationPort != 0 {
		dst = binary.BigEndian.AppendUint16(dst, t.DestinationPort)
	}
	return dst
}

// appendFlow encodes {identity, status, timeout, [mark], [TCP]}.
func appendFlow(dst []byte, r *Record) []byte {
	dst, flags := appendIdentity(dst, r)
	f := &r.Flow
	dst = binary.AppendUvarint(dst, uint64(f.Status))
	dst = binary.AppendUvarint(dst, uint64(f.Timeout))
	if flags&flowMark != 0 {
		dst = binary.BigEndian.AppendUint32(dst, f.Mark)
	}
	if flags&flowTCP != 0 {
		t := &f.TCP
		dst = append(dst, uint8(t.State)<<4|t.ScaleOriginal&maxScale, t.ScaleReply&maxScale, t.FlagsOriginal, t.FlagsReply)
	}
	return dst
}

func appendExtra(dst []byte, x *Extra, four bool) []byte {
	if x.HasMaster {
		start := len(dst)
		dst = closeRecord(appendKey(openRecord(dst, extraMaster), &x.Master, four), start)
	}
	if x.Helper != "" {
		dst = appendName(append(dst, extraHelper), x.Helper)
	}
	if x.HasLabels {
		dst = append(append(dst, extraLabels, uint8(len(x.Labels))), x.Labels[:]...)
	}
	if x.HasAdjust {
		dst = append(dst, extraAdjust, 24)
		for _, a := range [...]*SequenceAdjustment{&x.AdjustOriginal, &x.AdjustReply} {
			dst = binary.BigEndian.AppendUint32(dst, a.CorrectionPosition)
			dst = binary.BigEndian.AppendUint32(dst, uint32(a.OffsetBefore))
			dst = binary.BigEndian.AppendUint32(dst, uint32(a.OffsetAfter))
		}
	}
	if x.HasSCTP {
		dst = append(dst, extraSCTP, 9, x.SCTP.State)
		dst = binary.BigEndian.AppendUint32(dst, x.SCTP.TagOriginal)
		dst = binary.BigEndian.AppendUint32(dst, x.SCTP.TagReply)
	}
	if x.HasSynproxy {
		dst = append(dst, extraSynproxy, 12)
		dst = binary.BigEndian.AppendUint32(dst, x.Synproxy.InitialSequence)
		dst = binary.BigEndian.AppendUint32(dst, x.Synproxy.InitialTimestamp)
		dst = binary.BigEndian.AppendUint32(dst, x.Synproxy.TimestampOffset)
	}
	return dst
}

// appendExpectation encodes {flags, master, key, mask, [NAT], names, timeout,
// class, flags of the kernel}.
func appendExpectation(dst []byte, e *Expectation) []byte {
	four := e.Master.Original.Source.Is4()
	dst = append(dst, boolBit(!four, expectIPv6)|boolBit(e.HasNAT, expectNAT)|boolBit(e.HasNAT && e.NATReply, expectNATReply))
	dst = appendKey(appendKey(dst, &e.Master, four), &e.Key, four)
	dst = appendTuple(dst, &e.Mask, four)
	if e.HasNAT {
		dst = appendTuple(dst, &e.NAT, four)
	}
	dst = appendName(appendName(dst, e.Helper), e.Function)
	dst = binary.AppendUvarint(dst, uint64(e.Timeout))
	dst = binary.AppendUvarint(dst, uint64(e.Class))
	return binary.AppendUvarint(dst, uint64(e.Flags))
}

func appendKey(dst []byte, k *Key, four bool) []byte {
	return binary.AppendUvarint(appendTuple(append(dst, k.Protocol), &k.Original, four), uint64(k.Zone))
}

func appendTuple(dst []byte, t *Tuple, four bool) []byte {
	dst = appendAddr(appendAddr(dst, t.Source, four), t.Destination, four)
	dst = binary.BigEndian.AppendUint16(dst, t.SourcePort)
	return binary.BigEndian.AppendUint16(dst, t.DestinationPort)
}

// appendAddr keeps the frame well formed even for an address that breaks
// AppendFrame's contract.
func appendAddr(dst []byte, a netip.Addr, four bool) []byte {
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	if four {
		if a.Is4() {
			b := a.As4()
			return append(dst, b[:]...)
		}
		b := a.As16()
		return append(dst, b[12:]...)
	}
	b := a.As16()
	return append(dst, b[:]...)
}
