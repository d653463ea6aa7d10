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

// Flow is one tracked connection. It is comparable.
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
}

// EventKind says what the kernel reported about a flow.
type EventKind uint8

// The kinds of event.
const (
	EventNew EventKind = iota + 1
	EventUpdate
	EventDestroy
)

// Event is one report of the kernel about a flow.
type Event struct {
	Kind EventKind
	Flow Flow
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
)

// Op is one operation on the BACKUP's kernel table.
type Op struct {
	Kind OpKind
	Flow Flow
}
