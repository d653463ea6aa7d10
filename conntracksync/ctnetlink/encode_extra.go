package ctnetlink

import (
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// stripped are the parts of a flow that the kernel has refused and that are left out
// in the next try.
type stripped uint8

const (
	// strippedStatus is the status: the kernel answers EBUSY to one that would clear
	// SEEN_REPLY or ASSURED, or change EXPECTED.
	strippedStatus stripped = 1 << iota
	// strippedHelper is a helper that this kernel has not loaded (EOPNOTSUPP).
	strippedHelper
	// strippedMaster is a master that is not there (ENOENT).
	strippedMaster
	// strippedLabels are labels of a flow that has no room for them, because no rule
	// used labels when it began (ENOSPC).
	strippedLabels
)

const (
	sctpEstablished = 4
	// sctpStateMax is SCTP_CONNTRACK_HEARTBEAT_SENT. The kernel takes a higher one over
	// unseen and would then read beyond its table of states.
	sctpStateMax = 8
	// sctpHeartbeatAcked is what kernels before 6.3 call an association that they have
	// met on a second path; it is as good as established.
	sctpHeartbeatAcked = 9
)

// extraAtCreation writes what can be set on a new flow only.
func (e *encoder) extraAtCreation(x *conntracksync.Extra, without stripped) {
	if x.Helper != "" && without&strippedHelper == 0 {
		e.helper(x.Helper)
	}
	if x.HasMaster && without&strippedMaster == 0 {
		e.tuple(attrTupleMaster, x.Master.Original, x.Master.Protocol)
	}
}

func (e *encoder) helper(name string) {
	help := e.open(attrHelp)
	e.string(helpName, name)
	e.close(help)
}

// extra writes what new flows and old ones take alike. Without a mask, labels replace
// what was there.
func (e *encoder) extra(x *conntracksync.Extra, protocol uint8, without stripped) {
	if x.HasSCTP && protocol == unix.IPPROTO_SCTP {
		info := e.open(attrProtoInfo)
		sctp := e.open(protoInfoSCTP)
		e.uint8(sctpState, x.SCTP.State)
		e.uint32(sctpTagOriginal, x.SCTP.TagOriginal)
		e.uint32(sctpTagReply, x.SCTP.TagReply)
		e.close(sctp)
		e.close(info)
	}
	if x.HasAdjust {
		e.adjustment(attrAdjustOrig, x.AdjustOriginal)
		e.adjustment(attrAdjustReply, x.AdjustReply)
	}
	if x.HasSynproxy {
		synproxy := e.open(attrSynproxy)
		e.uint32(synproxySequence, x.Synproxy.InitialSequence)
		e.uint32(synproxyTimestamp, x.Synproxy.InitialTimestamp)
		e.uint32(synproxyOffset, x.Synproxy.TimestampOffset)
		e.close(synproxy)
	}
	if x.HasLabels && without&strippedLabels == 0 {
		e.header(attrLabels, len(x.Labels))
		e.buf = append(e.buf, x.Labels[:]...)
	}
}

func (e *encoder) adjustment(kind uint16, a conntracksync.SequenceAdjustment) {
	at := e.open(kind)
	e.uint32(adjustPosition, a.CorrectionPosition)
	e.uint32(adjustBefore, uint32(a.OffsetBefore))
	e.uint32(adjustAfter, uint32(a.OffsetAfter))
	e.close(at)
}

// string writes s with the zero byte that the kernel wants at its end.
func (e *encoder) string(kind uint16, s string) {
	e.header(kind, len(s)+1)
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, 0)
	for range align(len(s)+1) - len(s) - 1 {
		e.buf = append(e.buf, 0)
	}
}
