package conntracksync

import (
	"encoding/binary"
	"net/netip"
)

// A frame is {version u8, type u8, term u64, seq u64} and records {type u8,
// length u16, body}, all in network byte order.
const (
	headerLength       = 18
	recordHeaderLength = 3
)

// Types of record on the wire; 1 to 4 are those of [RecordKind].
const (
	wireHello  = 16
	wireStatus = 17
	wireAck    = 18
	wireDump   = 19
)

// Flags of a flow record. They say which fields follow.
const (
	flowIPv6 = 1 << iota
	// flowReply: the reply tuple follows.
	flowReply
	// flowInverse: the reply tuple is the plain inverse and does not follow.
	flowInverse
	flowTCP
	flowMark
	flowZone
)

const (
	dumpLost    = 1 << 0
	statusReady = 1 << 0
)

// AppendFrame appends the encoded frame to dst. Flows must have valid addresses
// of one family, as those of a [Sender] have; names are cut at [MaxName] bytes.
// Records beyond [MaxRecords] are left out.
func AppendFrame(dst []byte, f *Frame) []byte {
	dst = append(dst, f.Version, uint8(f.Type))
	dst = binary.BigEndian.AppendUint64(dst, f.Term)
	dst = binary.BigEndian.AppendUint64(dst, f.Seq)
	switch f.Type {
	case FrameHello:
		return appendHello(dst, &f.Hello)
	case FrameStatus:
		return appendStatus(dst, &f.Status)
	case FrameAck:
		dst, start := openRecord(dst, wireAck)
		return closeRecord(binary.BigEndian.AppendUint64(dst, f.Acked), start)
	case FrameDumpBegin, FrameDumpEnd:
		dst, start := openRecord(dst, wireDump)
		dst = append(dst, boolBit(f.Lost, dumpLost))
		return closeRecord(binary.BigEndian.AppendUint64(dst, f.Count), start)
	case FrameFlows:
		for i := range f.Records[:min(len(f.Records), MaxRecords)] {
			dst = appendFlow(dst, &f.Records[i])
		}
	case FrameDumpRequest, FrameBarrier, FramePing:
	}
	return dst
}

func openRecord(dst []byte, kind uint8) ([]byte, int) {
	return append(dst, kind, 0, 0), len(dst)
}

func closeRecord(dst []byte, start int) []byte {
	binary.BigEndian.PutUint16(dst[start+1:], uint16(len(dst)-start-recordHeaderLength))
	return dst
}

func boolBit(b bool, bit uint8) uint8 {
	if b {
		return bit
	}
	return 0
}

func appendName(dst []byte, s string) []byte {
	s = s[:min(len(s), MaxName)]
	return append(append(dst, uint8(len(s))), s...)
}

func appendHello(dst []byte, h *Hello) []byte {
	dst, start := openRecord(dst, wireHello)
	dst = append(dst, h.ProtocolMin, h.ProtocolMax, uint8(h.Role))
	dst = binary.BigEndian.AppendUint64(dst, h.Features)
	dst = binary.BigEndian.AppendUint64(dst, h.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, h.Term)
	return closeRecord(appendName(appendName(dst, h.Node), h.ConfigHash), start)
}

func appendStatus(dst []byte, s *PeerStatus) []byte {
	dst, start := openRecord(dst, wireStatus)
	dst = append(dst, uint8(s.Role), boolBit(s.Ready, statusReady))
	dst = binary.BigEndian.AppendUint64(dst, s.Term)
	return closeRecord(appendName(dst, s.ConfigHash), start)
}

// appendFlow encodes {flags, protocol, original tuple, [zone]} and, unless the
// flow is gone, {status, timeout, [reply], [mark], [TCP]}.
func appendFlow(dst []byte, r *Record) []byte {
	f := &r.Flow
	flags := flowFlags(r)
	dst, start := openRecord(dst, uint8(r.Kind))
	dst = append(dst, flags, f.Protocol)
	dst = appendTuple(dst, f.Original, flags)
	if flags&flowZone != 0 {
		dst = binary.BigEndian.AppendUint16(dst, f.Zone)
	}
	if r.Kind == RecordDestroy {
		return closeRecord(dst, start)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(f.Status))
	dst = binary.BigEndian.AppendUint32(dst, f.Timeout)
	if flags&flowReply != 0 {
		dst = appendTuple(dst, f.Reply, flags)
	}
	if flags&flowMark != 0 {
		dst = binary.BigEndian.AppendUint32(dst, f.Mark)
	}
	if flags&flowTCP != 0 {
		t := f.TCP
		dst = append(dst, uint8(t.State), t.FlagsOriginal, t.FlagsReply, t.ScaleOriginal, t.ScaleReply)
	}
	return closeRecord(dst, start)
}

func flowFlags(r *Record) uint8 {
	f := &r.Flow
	flags := boolBit(!f.Original.Source.Is4(), flowIPv6) | boolBit(f.Zone != 0, flowZone)
	if r.Kind == RecordDestroy {
		return flags
	}
	switch f.Reply {
	case f.Original.inverse():
		flags |= flowInverse
	case Tuple{}:
	default:
		flags |= flowReply
	}
	return flags | boolBit(f.HasTCP, flowTCP) | boolBit(f.Mark != 0, flowMark)
}

func appendTuple(dst []byte, t Tuple, flags uint8) []byte {
	dst = appendAddr(appendAddr(dst, t.Source, flags), t.Destination, flags)
	dst = binary.BigEndian.AppendUint16(dst, t.SourcePort)
	return binary.BigEndian.AppendUint16(dst, t.DestinationPort)
}

// appendAddr keeps the frame well formed even for an address that breaks
// AppendFrame's contract.
func appendAddr(dst []byte, a netip.Addr, flags uint8) []byte {
	b := a.As16()
	if flags&flowIPv6 == 0 {
		return append(dst, b[12:]...)
	}
	return append(dst, b[:]...)
}
