package conntracksync

import "net/netip"

// Protocol numbers that matter here (IANA).
const protocolTCP = 6

// Skip says why a flow is not replicated.
type Skip uint8

// The reasons for which a flow is not replicated.
const (
	// SkipNone means that the flow is replicated.
	SkipNone Skip = iota
	// SkipAddress is a flow from or to an address of a node itself, or one that
	// no router forwards (loopback, multicast, link-local, broadcast).
	SkipAddress
	// SkipHandshake is a TCP flow that nobody has answered yet: the client
	// repeats its SYN anyway.
	SkipHandshake
	// SkipClash is a UDP flow of clash resolution; it lives for a second.
	SkipClash
	// SkipDying is a flow that is on its way out.
	SkipDying
	// SkipInvalid is a flow that the wire format cannot carry.
	SkipInvalid
	skipCount
)

// String returns the reason as a label of a metric.
func (s Skip) String() string {
	switch s {
	case SkipNone:
		return "none"
	case SkipAddress:
		return "address"
	case SkipHandshake:
		return "handshake"
	case SkipClash:
		return "clash"
	case SkipDying:
		return "dying"
	case SkipInvalid:
		return "invalid"
	case skipCount:
	}
	return "unknown"
}

// Skips counts skipped flows by reason; index it with a [Skip].
type Skips [skipCount]uint64

// exclusion is the set of addresses whose flows stay on the node.
type exclusion map[netip.Addr]struct{}

func newExclusion(addresses []netip.Addr) exclusion {
	e := make(exclusion, len(addresses))
	for _, a := range addresses {
		e[a.Unmap()] = struct{}{}
	}
	return e
}

func (e exclusion) address(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	_, found := e[a]
	return found
}

func (e exclusion) tuple(t Tuple) bool {
	return e.address(t.Source) || e.address(t.Destination)
}

// flow looks at the reply direction too: a flow translated to or from a node's
// own address cannot live on the other node.
func (e exclusion) flow(f Flow) bool {
	return e.tuple(f.Original) || (f.Reply.Source.IsValid() && e.tuple(f.Reply))
}

// skip judges what the MASTER reports as living.
func (e exclusion) skip(f Flow) Skip {
	switch {
	case !f.encodable() || !f.Reply.Source.IsValid():
		return SkipInvalid
	case e.flow(f):
		return SkipAddress
	case f.Status&StatusNATClash != 0:
		return SkipClash
	case f.Status&StatusDying != 0:
		return SkipDying
	case unanswered(f), f.Protocol == protocolTCP && !f.HasTCP && f.Status&StatusSeenReply == 0:
		return SkipHandshake
	}
	return SkipNone
}

// skipDestroy judges the end of a flow, which is always reported as dying.
func (e exclusion) skipDestroy(f Flow) Skip {
	switch {
	case !f.encodable():
		return SkipInvalid
	case e.flow(f):
		return SkipAddress
	case f.Status&StatusNATClash != 0:
		return SkipClash
	case unanswered(f):
		return SkipHandshake
	}
	return SkipNone
}

func unanswered(f Flow) bool {
	return f.Protocol == protocolTCP && f.HasTCP && f.Status&StatusSeenReply == 0 &&
		(f.TCP.State == TCPSynSent || f.TCP.State == TCPSynSent2)
}

// encodable tells whether the wire format carries the flow without loss.
func (f Flow) encodable() bool {
	src, dst := f.Original.Source, f.Original.Destination
	if !src.IsValid() || src.BitLen() != dst.BitLen() || f.TCP.State > TCPSynSent2 {
		return false
	}
	if src.Zone() != "" || dst.Zone() != "" {
		return false
	}
	src, dst = f.Reply.Source, f.Reply.Destination
	if !src.IsValid() && !dst.IsValid() {
		return true
	}
	return src.BitLen() == f.Original.Source.BitLen() && dst.BitLen() == src.BitLen() &&
		src.Zone() == "" && dst.Zone() == ""
}
