package ctnetlink

import (
	"bytes"

	"tandem/conntracksync"
)

// decodeProtoInfo reads CTA_PROTOINFO.
func decodeProtoInfo(b []byte, flow *conntracksync.Flow) error {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil || !ok {
			return err
		}
		switch at.kind {
		case protoInfoTCP:
			err = decodeTCP(at.data, flow)
		case protoInfoSCTP:
			err = decodeSCTP(at.data, flow)
		}
		if err != nil {
			return err
		}
	}
}

// usualTCPLength is the content of a CTA_PROTOINFO_TCP as the kernel lays it out.
const usualTCPLength = 5 * 8

func decodeTCP(b []byte, flow *conntracksync.Flow) error {
	if len(b) == usualTCPLength && isHeader(b, 5, tcpState) &&
		isHeader(b[8:], 5, tcpScaleOriginal) && isHeader(b[16:], 5, tcpScaleReply) &&
		isHeader(b[24:], 6, tcpFlagsOriginal) && isHeader(b[32:], 6, tcpFlagsReply) {
		flow.HasTCP = true
		flow.TCP = conntracksync.TCPInfo{
			State:         conntracksync.TCPState(b[4]),
			ScaleOriginal: b[12], ScaleReply: b[20], FlagsOriginal: b[28], FlagsReply: b[36],
		}
		return nil
	}
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case tcpState:
			err = at.uint8((*uint8)(&flow.TCP.State))
		case tcpScaleOriginal:
			err = at.uint8(&flow.TCP.ScaleOriginal)
		case tcpScaleReply:
			err = at.uint8(&flow.TCP.ScaleReply)
		case tcpFlagsOriginal:
			err = at.tcpFlags(&flow.TCP.FlagsOriginal)
		case tcpFlagsReply:
			err = at.tcpFlags(&flow.TCP.FlagsReply)
		}
		if err != nil {
			return err
		}
	}
	flow.HasTCP = walk.seen&(1<<tcpState) != 0
	return nil
}

// tcpFlags reads struct nf_ct_tcp_flags: the flags, then a mask that reports leave 0.
func (at attribute) tcpFlags(v *uint8) error {
	if len(at.data) != 2 {
		return ReasonLength
	}
	*v = at.data[0]
	return nil
}

// extra returns what few flows have, for flow to be filled in.
func extra(flow *conntracksync.Flow) *conntracksync.Extra {
	if flow.Extra == nil {
		flow.Extra = new(conntracksync.Extra)
	}
	return flow.Extra
}

// decodeSCTP reads CTA_PROTOINFO_SCTP, of which all three or none count.
func decodeSCTP(b []byte, flow *conntracksync.Flow) error {
	var info conntracksync.SCTPInfo
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case sctpState:
			err = at.uint8(&info.State)
		case sctpTagOriginal:
			err = at.uint32(&info.TagOriginal)
		case sctpTagReply:
			err = at.uint32(&info.TagReply)
		}
		if err != nil {
			return err
		}
	}
	const all = 1<<sctpState | 1<<sctpTagOriginal | 1<<sctpTagReply
	if walk.seen&all == all {
		if info.State == sctpHeartbeatAcked {
			info.State = sctpEstablished
		}
		x := extra(flow)
		x.SCTP, x.HasSCTP = info, true
	}
	return nil
}

// decodeExtra reads one of the attributes that few flows have.
func decodeExtra(at attribute, flow *conntracksync.Flow) error {
	switch at.kind {
	case attrHelp:
		name, err := decodeHelper(at.data)
		if err == nil && name != "" {
			extra(flow).Helper = name
		}
		return err
	case attrTupleMaster:
		x := extra(flow)
		x.HasMaster = true
		return decodeTuple(at.data, &x.Master.Original, &x.Master.Protocol)
	case attrAdjustOrig:
		return decodeAdjustment(at.data, &extra(flow).AdjustOriginal, flow)
	case attrAdjustReply:
		return decodeAdjustment(at.data, &extra(flow).AdjustReply, flow)
	case attrLabels:
		return decodeLabels(at.data, flow)
	case attrSynproxy:
		return decodeSynproxy(at.data, flow)
	}
	return nil
}

func decodeHelper(b []byte) (name string, err error) {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil || !ok {
			return name, err
		}
		if at.kind == helpName {
			name = at.name()
		}
	}
}

// name returns a string that may end with a zero byte. Those that the kernel's own
// helpers send cost no allocation.
func (at attribute) name() string {
	b := at.data
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	for _, known := range [...]string{
		"ftp", "sip", "tftp", "pptp", "irc", "amanda", "RAS", "Q.931", "H.245", "nat-follow-master",
	} {
		if string(b) == known {
			return known
		}
	}
	return string(b)
}

func decodeAdjustment(b []byte, a *conntracksync.SequenceAdjustment, flow *conntracksync.Flow) error {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		var offset uint32
		switch at.kind {
		case adjustPosition:
			err = at.uint32(&a.CorrectionPosition)
		case adjustBefore:
			err = at.uint32(&offset)
			a.OffsetBefore = int32(offset)
		case adjustAfter:
			err = at.uint32(&offset)
			a.OffsetAfter = int32(offset)
		}
		if err != nil {
			return err
		}
	}
	flow.Extra.HasAdjust = true
	return nil
}

func decodeLabels(b []byte, flow *conntracksync.Flow) error {
	x := extra(flow)
	if len(b) == 0 || len(b) > len(x.Labels) || len(b)%4 != 0 {
		return ReasonLength
	}
	copy(x.Labels[:], b)
	x.HasLabels = true
	return nil
}

// decodeSynproxy reads CTA_SYNPROXY. Where SYNPROXY is in use the kernel reports
// zeros for flows that did not pass it.
func decodeSynproxy(b []byte, flow *conntracksync.Flow) error {
	var s conntracksync.Synproxy
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch at.kind {
		case synproxySequence:
			err = at.uint32(&s.InitialSequence)
		case synproxyTimestamp:
			err = at.uint32(&s.InitialTimestamp)
		case synproxyOffset:
			err = at.uint32(&s.TimestampOffset)
		}
		if err != nil {
			return err
		}
	}
	if s != (conntracksync.Synproxy{}) {
		x := extra(flow)
		x.Synproxy, x.HasSynproxy = s, true
	}
	return nil
}
