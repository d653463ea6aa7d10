package conntracksync

import "fmt"

// The range of protocol versions that this build speaks. A frame of a newer
// version parses as well: what it adds is skipped.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// Limits of a frame.
const (
	// MaxFrame is the greatest length of an encoded frame in bytes.
	MaxFrame = 256 << 10
	// MaxRecords is the greatest number of flow records in a frame.
	MaxRecords = 4096
	// MaxName is the greatest length in bytes of a name or hash in a frame;
	// longer ones are cut when encoded.
	MaxName = 64
)

// FrameType says what a frame is about.
type FrameType uint8

// The types of frame. Flows, DumpBegin, DumpEnd and Barrier are sequenced: they
// come from a [Sender], have a Seq above zero and are acknowledged.
const (
	// FrameHello opens a connection in both directions; see [Hello].
	FrameHello FrameType = iota + 1
	// FrameFlows carries flow records.
	FrameFlows
	// FrameDumpRequest asks the MASTER for its whole table.
	FrameDumpRequest
	// FrameDumpBegin and FrameDumpEnd enclose a whole table. Reports of single
	// events go on in between.
	FrameDumpBegin
	FrameDumpEnd
	// FrameAck tells up to which sequence number everything is in the kernel.
	FrameAck
	// FrameBarrier carries nothing: its acknowledgement is what matters.
	FrameBarrier
	// FrameStatus tells the sender's standing; see [PeerStatus].
	FrameStatus
	// FramePing keeps the connection alive.
	FramePing
)

// String returns the type's name.
func (t FrameType) String() string {
	switch t {
	case FrameHello:
		return "hello"
	case FrameFlows:
		return "flows"
	case FrameDumpRequest:
		return "dump request"
	case FrameDumpBegin:
		return "dump begin"
	case FrameDumpEnd:
		return "dump end"
	case FrameAck:
		return "ack"
	case FrameBarrier:
		return "barrier"
	case FrameStatus:
		return "status"
	case FramePing:
		return "ping"
	}
	return fmt.Sprintf("frame type %d", uint8(t))
}

// Role is a node's role as it travels in frames.
type Role uint8

// The roles.
const (
	RoleInitialize Role = iota
	RoleBackup
	RoleMaster
)

// String returns the role as users see it.
func (r Role) String() string {
	switch r {
	case RoleInitialize:
		return "INITIALIZE"
	case RoleBackup:
		return "BACKUP"
	case RoleMaster:
		return "MASTER"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Hello is what a node says of itself when a connection opens.
type Hello struct {
	// ProtocolMin and ProtocolMax are the versions that the node speaks.
	ProtocolMin, ProtocolMax uint8
	// Features is a bit set; unknown bits are ignored. None is defined yet.
	Features uint64
	// Epoch differs at each start of the node.
	Epoch uint64
	Role  Role
	// Term is the highest term of mastership that the node knows.
	Term uint64
	// Node is the member's name, ConfigHash identifies its document. Both are at
	// most [MaxName] bytes.
	Node, ConfigHash string
}

// Negotiate returns the highest protocol version that both sides speak; ok is
// false when there is none.
func Negotiate(local, remote Hello) (version uint8, ok bool) {
	version = min(local.ProtocolMax, remote.ProtocolMax)
	return version, version > 0 && version >= max(local.ProtocolMin, remote.ProtocolMin)
}

// PeerStatus is a node's standing, sent when it changes.
type PeerStatus struct {
	Role Role
	Term uint64
	// Ready tells that the node would take over without losing sessions.
	Ready bool
	// ConfigHash is at most [MaxName] bytes.
	ConfigHash string
}

// RecordKind says what happened to a flow.
type RecordKind uint8

// The kinds of flow record.
const (
	// RecordNew and RecordUpdate come from events.
	RecordNew RecordKind = iota + 1
	RecordUpdate
	// RecordDestroy carries the flow's key only.
	RecordDestroy
	// RecordRefresh comes from a dump.
	RecordRefresh
)

// Record is one flow in a [FrameFlows].
type Record struct {
	Kind RecordKind
	Flow Flow
}

// Frame is one message between the nodes. Which fields count depends on Type.
type Frame struct {
	// Version is the protocol version in which the frame is encoded.
	Version uint8
	Type    FrameType
	// Term is the sender's term of mastership.
	Term uint64
	// Seq numbers the sequenced frames of a connection from 1 without gaps.
	Seq uint64
	// Hello counts in FrameHello, Status in FrameStatus.
	Hello  Hello
	Status PeerStatus
	// Count, in FrameDumpEnd, is the number of refresh records of the dump; in
	// FrameDumpBegin it numbers the dumps of the sender.
	Count uint64
	// Lost tells, in FrameDumpBegin, that events were lost since the last dump,
	// and in FrameDumpEnd, that they were during this one and another follows.
	Lost bool
	// Acked, in FrameAck, is the highest sequence number applied.
	Acked uint64
	// Records counts in FrameFlows.
	Records []Record
}

// reset empties the frame and keeps the memory of its records.
func (f *Frame) reset() {
	*f = Frame{Records: f.Records[:0]}
}

// ParseReason says what is wrong with a frame.
type ParseReason uint8

// The reasons for which a frame is refused.
const (
	// ParseShort is a frame without a whole header.
	ParseShort ParseReason = iota + 1
	// ParseOversize is a frame longer than [MaxFrame].
	ParseOversize
	// ParseVersion is version 0.
	ParseVersion
	// ParseType is type 0.
	ParseType
	// ParseTruncated is a record that ends after its frame.
	ParseTruncated
	// ParseRecord is a record of a known type whose content is impossible.
	ParseRecord
	// ParseRecords is a frame with more than [MaxRecords] flow records.
	ParseRecords
	// ParseMissing is a frame without the record that its type requires.
	ParseMissing
)

// String returns the reason as a label of a metric.
func (r ParseReason) String() string {
	switch r {
	case ParseShort:
		return "short"
	case ParseOversize:
		return "oversize"
	case ParseVersion:
		return "version"
	case ParseType:
		return "type"
	case ParseTruncated:
		return "truncated"
	case ParseRecord:
		return "record"
	case ParseRecords:
		return "records"
	case ParseMissing:
		return "missing"
	}
	return "unknown"
}

// ParseError is the error of [ParseFrame].
type ParseError struct {
	Reason ParseReason
	// Offset is where in the frame the fault is.
	Offset int
}

// Error implements error.
func (e *ParseError) Error() string {
	return fmt.Sprintf("replication frame refused at byte %d: %s", e.Offset, e.Reason)
}
