package conntracksync

import "net/netip"

// Tuple is one direction of a flow.
type Tuple struct {
	Source      netip.Addr
	Destination netip.Addr
	// SourcePort and DestinationPort hold the ports of TCP, UDP and SCTP. For ICMP
	// and ICMPv6 SourcePort is the identifier and DestinationPort is type<<8|code.
	SourcePort      uint16
	DestinationPort uint16
}

// Key identifies a flow: its protocol, its zone and its original direction.
type Key struct {
	Original Tuple
	Zone     uint16
	Protocol uint8
}

// Status is the kernel's IPS_* bit set.
type Status uint32

// The bits of [Status] that matter here (linux/netfilter/nf_conntrack_common.h).
const (
	StatusExpected     Status = 1 << 0
	StatusSeenReply    Status = 1 << 1
	StatusAssured      Status = 1 << 2
	StatusConfirmed    Status = 1 << 3
	StatusSourceNAT    Status = 1 << 4
	StatusDestNAT      Status = 1 << 5
	StatusDying        Status = 1 << 9
	StatusFixedTimeout Status = 1 << 10
	StatusNATClash     Status = 1 << 12
)

// TCPState is the kernel's TCP conntrack state (TCP_CONNTRACK_*).
type TCPState uint8

// TCP conntrack states, linux/netfilter/nf_conntrack_tcp.h.
const (
	TCPNone TCPState = iota
	TCPSynSent
	TCPSynReceived
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
	TCPSynSent2
)

// TCPInfo is the part of a TCP flow's protocol information that the kernel
// accepts back. Windows are not among it.
type TCPInfo struct {
	State TCPState
	// Flags are IP_CT_TCP_FLAG_* bits per direction.
	FlagsOriginal, FlagsReply uint8
	// ScaleOriginal and ScaleReply are the window scales (0 to 14).
	ScaleOriginal, ScaleReply uint8
}

// SCTPInfo is the part of an SCTP flow's protocol information that the kernel
// accepts back. It takes all three or none.
type SCTPInfo struct {
	// State is the kernel's SCTP_CONNTRACK_*.
	State uint8
	// TagOriginal and TagReply are the verification tags of the two directions.
	TagOriginal, TagReply uint32
}

// SequenceAdjustment is what a helper that rewrites payloads has added to the TCP
// sequence numbers of one direction (CTA_SEQ_ADJ_*).
type SequenceAdjustment struct {
	CorrectionPosition        uint32
	OffsetBefore, OffsetAfter int32
}

// Synproxy is what SYNPROXY remembers of a handshake (CTA_SYNPROXY).
type Synproxy struct {
	InitialSequence, InitialTimestamp, TimestampOffset uint32
}

// Extra is what few flows have. It is never changed once a [Flow] points to it.
type Extra struct {
	// Master is the flow whose helper expected this one; it must be in the kernel
	// before this one. HasMaster tells that there is one.
	Master    Key
	HasMaster bool
	// Helper is the name of the connection tracking helper ("ftp"), or empty.
	Helper string
	// Labels counts if HasLabels.
	Labels    [16]byte
	HasLabels bool
	// AdjustOriginal and AdjustReply count if HasAdjust.
	AdjustOriginal, AdjustReply SequenceAdjustment
	HasAdjust                   bool
	// SCTP counts if HasSCTP, Synproxy if HasSynproxy.
	SCTP        SCTPInfo
	HasSCTP     bool
	Synproxy    Synproxy
	HasSynproxy bool
}

// Flow is one tracked connection.
type Flow struct {
	Key
	// Reply is the reply direction as the kernel reports it, translation included.
	Reply  Tuple
	Status Status
	// Timeout is the remaining life in seconds.
	Timeout uint32
	Mark    uint32
	TCP     TCPInfo
	// HasTCP tells that TCP was present: update events often leave it out.
	HasTCP bool
	// Extra is nil for most flows. Update events leave out what has not changed.
	Extra *Extra
}

// Expectation is a flow that a helper waits for (CTA_EXPECT_*).
type Expectation struct {
	// Master is the flow with the helper. It must be in the kernel.
	Master Key
	// Key is what is expected, as far as Mask has bits.
	Key  Key
	Mask Tuple
	// NAT is the tuple that the expected flow is translated to, NATReply the
	// direction that it holds for; they count if HasNAT.
	NAT      Tuple
	NATReply bool
	HasNAT   bool
	// Helper and Function are names of the kernel's; both may be empty.
	Helper, Function string
	// Timeout is the remaining life in seconds.
	Timeout      uint32
	Class, Flags uint32
}

// EventKind says what the kernel reported about a flow.
type EventKind uint8

// The kinds of event.
const (
	EventNew EventKind = iota + 1
	EventUpdate
	EventDestroy
	// EventExpect and EventExpectGone report an [Expectation].
	EventExpect
	EventExpectGone
)

// Event is one report of the kernel about a flow.
type Event struct {
	Kind EventKind
	Flow Flow
	// Expect counts for the two kinds that report an expectation.
	Expect *Expectation
}

// OpKind says what is to be done to the BACKUP's kernel table.
type OpKind uint8

// The kinds of operation.
const (
	// OpCreate expects that the flow is not there; one that is gets updated.
	OpCreate OpKind = iota + 1
	// OpUpdate expects that the flow is there; one that is not gets created.
	OpUpdate
	// OpReplace deletes the flow if it is there and creates it anew, so that no
	// stale TCP window stays behind.
	OpReplace
	// OpDelete removes the flow; one that is not there is no error.
	OpDelete
	// OpSweep removes the flow if the one that is there has the same reply
	// direction. It is for flows that a dump found: another may have taken its
	// place since.
	OpSweep
	// OpTimeout sets nothing but the time-out of a flow that is there; one that is
	// not is no error.
	OpTimeout
	// OpExpect creates an expectation, or renews one that is there.
	OpExpect
	// OpExpectDelete removes one; one that is not there is no error.
	OpExpectDelete
)

// Op is one operation on the BACKUP's kernel table.
type Op struct {
	Kind OpKind
	Flow Flow
	// Expect counts for the two kinds that are about an expectation.
	Expect *Expectation
}
