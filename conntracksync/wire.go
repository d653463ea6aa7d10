package conntracksync

import "fmt"

// The range of protocol versions that this build speaks. A frame of a newer
// version parses as well: what it adds is skipped.
const (
	ProtocolMin = 2
	ProtocolMax = 2
)

// The bits of [Hello.Features]. A feature is used if both sides have it.
const (
	// FeatureDigests: tables are compared by digests. Without it the MASTER sends
	// its whole table again and again.
	FeatureDigests = 1 << iota
	// FeatureExtras: records carry what is in an [Extra].
	FeatureExtras
	// FeatureExpectations: expectations are replicated.
	FeatureExpectations
	// Features are those of this build.
	Features = FeatureDigests | FeatureExtras | FeatureExpectations
)

// Limits of a frame.
const (
	// MaxFrame is the greatest length of an encoded frame in bytes.
	MaxFrame = 256 << 10
	// MaxRecords is the greatest number of records in a frame.
	MaxRecords = 4096
	// MaxName is the greatest length in bytes of a name or hash in a frame;
	// longer ones are cut when encoded.
	MaxName = 64
)

// FrameType says what a frame is about.
type FrameType uint8

// The types of frame. Those that come from a [Sender] are sequenced: they have a
// Seq above zero and are acknowledged.
const (
	// FrameHello opens a connection in both directions; see [Hello].
	FrameHello FrameType = iota + 1
	// FrameFlows carries records. Sequenced.
	FrameFlows
	// FrameDigest tells the digest of the sender's index at this place of the
	// stream. Sequenced.
	FrameDigest
	// FrameDigests tells the digests of all buckets at this place of the stream.
	// Sequenced.
	FrameDigests
	// FrameDigestRequest asks the MASTER for FrameDigests.
	FrameDigestRequest
	// FrameRepairRequest asks the MASTER for all flows of some buckets.
	FrameRepairRequest
	// FrameRepairBegin and FrameRepairEnd enclose a repair. Reports of events go on
	// in between. Both are sequenced.
	FrameRepairBegin
	FrameRepairEnd
	// FrameAck tells up to which sequence number everything is in the kernel, and
	// whether the table is complete.
	FrameAck
	// FrameBarrier carries nothing: its acknowledgement is what matters.
	// Sequenced.
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
	case FrameDigest:
		return "digest"
	case FrameDigests:
		return "digests"
	case FrameDigestRequest:
		return "digest request"
	case FrameRepairRequest:
		return "repair request"
	case FrameRepairBegin:
		return "repair begin"
	case FrameRepairEnd:
		return "repair end"
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

// fromSender tells whether a [Sender] of this version makes such frames. What a newer one
// adds is acknowledged and else left alone.
func (t FrameType) fromSender() bool {
	switch t {
	case FrameFlows, FrameDigest, FrameDigests, FrameRepairBegin, FrameRepairEnd, FrameBarrier:
		return true
	case FrameHello, FrameDigestRequest, FrameRepairRequest, FrameAck, FrameStatus, FramePing:
	}
	return false
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
	// Features is a set of the Feature bits; unknown bits are ignored.
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

// The kinds of record.
const (
	// RecordNew and RecordUpdate come from events.
	RecordNew RecordKind = iota + 1
	RecordUpdate
	// RecordDestroy carries what identifies the flow: its key and both tuples.
	RecordDestroy
	// RecordRefresh comes from the MASTER's kernel table and is the whole flow.
	RecordRefresh
	// RecordGone carries a Hash: the MASTER's kernel has not had this flow for a
	// while, and its end was not heard of.
	RecordGone
	// RecordKeep carries a Hash: the repair under way must not drop this flow.
	RecordKeep
	// RecordExpect and RecordExpectGone carry an [Expectation].
	RecordExpect
	RecordExpectGone
)

// Record is one part of a [FrameFlows].
type Record struct {
	Kind RecordKind
	// Unsure tells, in RecordDestroy, that another flow may have the key by now.
	Unsure bool
	// Flow counts in RecordNew, Update, Destroy and Refresh.
	Flow Flow
	// Hash counts in RecordGone and RecordKeep; see [Index].
	Hash uint64
	// Expect counts in RecordExpect and RecordExpectGone.
	Expect *Expectation
}

// Digest stands for the content of an [Index]: equal tables have equal digests.
type Digest struct {
	Sum, Flows uint64
}

// Buckets is the number of buckets of an [Index]. It is part of the protocol.
const Buckets = 4096

// BucketSet is a set of buckets of an [Index].
type BucketSet [Buckets / 64]uint64

// Frame is one message between the nodes. Which fields count depends on Type.
type Frame struct {
	// Version is the protocol version in which the frame is encoded.
	Version uint8
	Type    FrameType
	// Complete, in FrameAck, tells that the table equals the MASTER's.
	Complete bool
	// Term is the sender's term of mastership.
	Term uint64
	// Seq numbers the sequenced frames of a connection from 1 without gaps.
	Seq uint64
	// Hello counts in FrameHello, Status in FrameStatus.
	Hello  Hello
	Status PeerStatus
	// Acked, in FrameAck, is the highest sequence number applied.
	Acked uint64
	// Digest counts in FrameDigest.
	Digest Digest
	// Digests, in FrameDigests, has the sum of each bucket.
	Digests []uint64
	// Set, in FrameRepairRequest, RepairBegin and RepairEnd, are the buckets that it
	// is about.
	Set BucketSet
	// Count, in FrameRepairEnd, is the number of RecordRefresh since the RepairBegin.
	Count uint64
	// Records counts in FrameFlows.
	Records []Record
	// Encoded, in FrameFlows, are EncodedRecords records as [AppendFrame] would encode
	// them; they follow those in Records. A [Sender]'s frames have these only,
	// ParseFrame never sets them.
	Encoded        []byte
	EncodedRecords int
}

// reset empties the frame and keeps the memory of its records.
func (f *Frame) reset() {
	*f = Frame{Records: f.Records[:0], Digests: f.Digests[:0]}
}

// ParseReason says what is wrong with a frame.
type ParseReason uint8

// The reasons for which a frame is refused.
const (
	// ParseShort is a frame without a whole header.
	ParseShort ParseReason = iota + 1
	// ParseOversize is a frame longer than [MaxFrame].
	ParseOversize
	// ParseVersion is a version below [ProtocolMin].
	ParseVersion
	// ParseType is type 0.
	ParseType
	// ParseTruncated is a record that ends after its frame.
	ParseTruncated
	// ParseRecord is a record of a known type whose content is impossible.
	ParseRecord
	// ParseRecords is a frame with more than [MaxRecords] records.
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
