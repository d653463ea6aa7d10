package ctnetlink

import (
	"tandem/conntracksync"
)

// Reason says why a message of the kernel was not understood. It is an error.
type Reason uint8

// The reasons for which a message is dropped.
const (
	// ReasonTruncated is a header or an attribute that reaches beyond its message.
	ReasonTruncated Reason = iota
	// ReasonLength is an attribute whose value has a wrong length.
	ReasonLength
	// ReasonDuplicate is an attribute that occurs twice.
	ReasonDuplicate
	// ReasonTuple is a missing direction, address or protocol number.
	ReasonTuple
	// ReasonFamily is a flow that mixes address families or protocols.
	ReasonFamily
	// ReasonZone is a flow whose zone holds for one direction only, which a
	// [conntracksync.Key] cannot express.
	ReasonZone
	// ReasonType is a message that is no conntrack event.
	ReasonType

	reasonCount
)

// Drops counts dropped messages by [Reason].
type Drops [reasonCount]uint64

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case ReasonTruncated:
		return "truncated"
	case ReasonLength:
		return "wrong attribute length"
	case ReasonDuplicate:
		return "attribute occurs twice"
	case ReasonTuple:
		return "incomplete tuple"
	case ReasonFamily:
		return "mixed address families"
	case ReasonZone:
		return "zone of one direction"
	case ReasonType:
		return "not a conntrack event"
	case reasonCount:
	}
	return "unknown"
}

// Error makes a Reason an error.
func (r Reason) Error() string { return "decode conntrack message: " + r.String() }

// count adds a decoding error to d.
func (d *Drops) count(err error) {
	//nolint:errorlint // decode returns bare reasons; unwrapping would cost on the hot path.
	if r, ok := err.(Reason); ok && r < reasonCount {
		d[r]++
	}
}

// decode fills flow from msg, a conntrack message without its netlink header.
// Attributes it does not know are skipped. The error is a [Reason]; flow is then
// unspecified.
func decode(msg []byte, flow *conntracksync.Flow) error {
	*flow = conntracksync.Flow{}
	if len(msg) < nfgenLength {
		return ReasonTruncated
	}
	var replyProtocol uint8
	walk := attributes{rest: msg[nfgenLength:]}
	for {
		at, ok, err := walk.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := decodeTop(at, flow, &replyProtocol); err != nil {
			return err
		}
	}
	if !flow.Original.Source.IsValid() || !flow.Reply.Source.IsValid() {
		return ReasonTuple
	}
	if flow.Original.Source.Is4() != flow.Reply.Source.Is4() || flow.Protocol != replyProtocol {
		return ReasonFamily
	}
	if flow.Extra != nil && flow.Extra.HasMaster {
		// The kernel looks for the master in the zone of its child and reports none.
		flow.Extra.Master.Zone = flow.Zone
	}
	return nil
}

func decodeTop(at attribute, flow *conntracksync.Flow, replyProtocol *uint8) error {
	switch at.kind {
	case attrTupleOrig:
		return decodeTuple(at.data, &flow.Original, &flow.Protocol)
	case attrTupleReply:
		return decodeTuple(at.data, &flow.Reply, replyProtocol)
	case attrStatus:
		return at.uint32((*uint32)(&flow.Status))
	case attrTimeout:
		return at.uint32(&flow.Timeout)
	case attrMark:
		return at.uint32(&flow.Mark)
	case attrZone:
		return at.uint16(&flow.Zone)
	case attrProtoInfo:
		return decodeProtoInfo(at.data, flow)
	case attrHelp, attrTupleMaster, attrAdjustOrig, attrAdjustReply, attrLabels, attrSynproxy:
		return decodeExtra(at, flow)
	}
	return nil
}

// entryID returns the number that the kernel gave to the entry which msg is about.
func entryID(msg []byte) (id uint32, ok bool) {
	if len(msg) < nfgenLength {
		return 0, false
	}
	walk := attributes{rest: msg[nfgenLength:]}
	for {
		at, more, err := walk.next()
		if err != nil || !more {
			return 0, false
		}
		if at.kind == attrID {
			return id, at.uint32(&id) == nil
		}
	}
}
