package ctnetlink

import (
	"net/netip"

	"golang.org/x/sys/unix"

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
	}
	return nil
}

func decodeTuple(b []byte, t *conntracksync.Tuple, protocol *uint8) error {
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
		case tupleIP:
			err = decodeAddresses(at.data, t)
		case tupleProto:
			err = decodePorts(at.data, t, protocol)
		case tupleZone:
			err = ReasonZone
		}
		if err != nil {
			return err
		}
	}
	if walk.seen&(1<<tupleIP|1<<tupleProto) != 1<<tupleIP|1<<tupleProto {
		return ReasonTuple
	}
	return nil
}

func decodeAddresses(b []byte, t *conntracksync.Tuple) error {
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
		case ipv4Source:
			err = at.ipv4(&t.Source)
		case ipv4Dest:
			err = at.ipv4(&t.Destination)
		case ipv6Source:
			err = at.ipv6(&t.Source)
		case ipv6Dest:
			err = at.ipv6(&t.Destination)
		}
		if err != nil {
			return err
		}
	}
	switch walk.seen & (1<<ipv4Source | 1<<ipv4Dest | 1<<ipv6Source | 1<<ipv6Dest) {
	case 1<<ipv4Source | 1<<ipv4Dest, 1<<ipv6Source | 1<<ipv6Dest:
		return nil
	case 0, 1 << ipv4Source, 1 << ipv4Dest, 1 << ipv6Source, 1 << ipv6Dest:
		return ReasonTuple
	}
	return ReasonFamily
}

func (at attribute) ipv4(a *netip.Addr) error {
	if len(at.data) != 4 {
		return ReasonLength
	}
	*a = netip.AddrFrom4([4]byte(at.data))
	return nil
}

func (at attribute) ipv6(a *netip.Addr) error {
	if len(at.data) != 16 {
		return ReasonLength
	}
	*a = netip.AddrFrom16([16]byte(at.data))
	return nil
}

// decodePorts reads a CTA_TUPLE_PROTO. The number of the protocol need not come
// first, so what the other attributes mean is settled at the end.
func decodePorts(b []byte, t *conntracksync.Tuple, protocol *uint8) error {
	var source, dest, id uint16
	var kind, code uint8
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
		case protoNumber:
			err = at.uint8(protocol)
		case protoSourcePort:
			err = at.uint16(&source)
		case protoDestPort:
			err = at.uint16(&dest)
		case protoICMPID, protoICMPv6ID:
			err = at.uint16(&id)
		case protoICMPType, protoICMPv6Type:
			err = at.uint8(&kind)
		case protoICMPCode, protoICMPv6Code:
			err = at.uint8(&code)
		}
		if err != nil {
			return err
		}
	}
	if walk.seen&(1<<protoNumber) == 0 {
		return ReasonTuple
	}
	t.SourcePort, t.DestinationPort = source, dest
	if isICMP(*protocol) {
		t.SourcePort, t.DestinationPort = id, uint16(kind)<<8|uint16(code)
	}
	return nil
}

// decodeProtoInfo reads CTA_PROTOINFO. Only TCP's is of use: SCTP's tags have no
// place in a Flow.
func decodeProtoInfo(b []byte, flow *conntracksync.Flow) error {
	walk := attributes{rest: b}
	for {
		at, ok, err := walk.next()
		if err != nil || !ok {
			return err
		}
		if at.kind != protoInfoTCP {
			continue
		}
		if err := decodeTCP(at.data, flow); err != nil {
			return err
		}
	}
}

func decodeTCP(b []byte, flow *conntracksync.Flow) error {
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

func isICMP(protocol uint8) bool {
	return protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
}
