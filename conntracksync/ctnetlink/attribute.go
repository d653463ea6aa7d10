package ctnetlink

import "golang.org/x/sys/unix"

// Message types of the conntrack subsystem (IPCTNL_MSG_CT_*).
const (
	subsystem     = unix.NFNL_SUBSYS_CTNETLINK << 8
	messageNew    = subsystem
	messageGet    = subsystem | 1
	messageDelete = subsystem | 2
	messageStats  = subsystem | 5

	// statsEntries is the attribute of messageStats that holds the number of entries.
	statsEntries = 1
)

// Message types of the expectations' subsystem (IPCTNL_MSG_EXP_*).
const (
	expectSubsystem     = unix.NFNL_SUBSYS_CTNETLINK_EXP << 8
	messageExpectNew    = expectSubsystem
	messageExpectGet    = expectSubsystem | 1
	messageExpectDelete = expectSubsystem | 2
)

// Top-level attributes (CTA_*, linux/netfilter/nfnetlink_conntrack.h).
const (
	attrTupleOrig   = 1
	attrTupleReply  = 2
	attrStatus      = 3
	attrProtoInfo   = 4
	attrHelp        = 5
	attrNATSource   = 6
	attrTimeout     = 7
	attrMark        = 8
	attrID          = 12
	attrNATDest     = 13
	attrTupleMaster = 14
	attrAdjustOrig  = 15
	attrAdjustReply = 16
	attrZone        = 18
	attrMarkMask    = 21
	attrLabels      = 22
	attrSynproxy    = 24
)

// Children of CTA_HELP, CTA_SEQ_ADJ_* and CTA_SYNPROXY.
const (
	helpName = 1

	adjustPosition = 1
	adjustBefore   = 2
	adjustAfter    = 3

	synproxySequence  = 1
	synproxyTimestamp = 2
	synproxyOffset    = 3
)

// Attributes of an expectation (CTA_EXPECT_*, CTA_EXPECT_NAT_*).
const (
	expectMaster   = 1
	expectTuple    = 2
	expectMask     = 3
	expectTimeout  = 4
	expectHelpName = 6
	expectZone     = 7
	expectFlags    = 8
	expectClass    = 9
	expectNAT      = 10
	expectFunction = 11

	expectNATDirection = 1
	expectNATTuple     = 2
)

// Children of a tuple (CTA_TUPLE_*, CTA_IP_*, CTA_PROTO_*).
const (
	tupleIP    = 1
	tupleProto = 2
	tupleZone  = 3

	ipv4Source = 1
	ipv4Dest   = 2
	ipv6Source = 3
	ipv6Dest   = 4

	protoNumber     = 1
	protoSourcePort = 2
	protoDestPort   = 3
	protoICMPID     = 4
	protoICMPType   = 5
	protoICMPCode   = 6
	protoICMPv6ID   = 7
	protoICMPv6Type = 8
	protoICMPv6Code = 9
)

// Children of the protocol information (CTA_PROTOINFO_*).
const (
	protoInfoTCP  = 1
	protoInfoSCTP = 3

	tcpState         = 1
	tcpScaleOriginal = 2
	tcpScaleReply    = 3
	tcpFlagsOriginal = 4
	tcpFlagsReply    = 5

	sctpState       = 1
	sctpTagOriginal = 2
	sctpTagReply    = 3
)

// Children of a NAT attribute (CTA_NAT_*, CTA_PROTONAT_*).
const (
	natV4MinIP = 1
	natProto   = 3
	natV6MinIP = 4

	natPortMin = 1
	natPortMax = 2
)
