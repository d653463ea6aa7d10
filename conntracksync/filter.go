package conntracksync

import (
	"maps"
	"net/netip"
	"slices"
)

// Protocol numbers that matter here (IANA).
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolGRE    = 47
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

// Skip says why a flow is not replicated.
type Skip uint8

// The reasons for which a flow is not replicated.
const (
	// SkipNone means that the flow is replicated.
	SkipNone Skip = iota
	// SkipAddress is a flow from or to an address of a node itself, or one that
	// no router forwards (loopback, multicast, link-local, broadcast).
	SkipAddress
	// SkipNetwork is a flow of a network that is not replicated.
	SkipNetwork
	// SkipFeature is a flow that the peer's version cannot create: it is not told of
	// the tags without which SCTP packets are invalid.
	SkipFeature
	// SkipHandshake is a TCP flow that nobody has answered yet, without a helper and of
	// no helper's making: the client repeats its SYN anyway.
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
	case SkipNetwork:
		return "network"
	case SkipFeature:
		return "feature"
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

// exclusion says whose flows stay on the node.
type exclusion struct {
	addresses map[netip.Addr]struct{}
	networks  []netip.Prefix
}

func newExclusion(addresses []netip.Addr, networks []netip.Prefix) exclusion {
	e := exclusion{addresses: make(map[netip.Addr]struct{}, len(addresses))}
	for _, a := range addresses {
		e.addresses[a.Unmap()] = struct{}{}
	}
	for _, n := range networks {
		if n.IsValid() {
			e.networks = append(e.networks, n.Masked())
		}
	}
	return e
}

func (e *exclusion) equal(o *exclusion) bool {
	return maps.Equal(e.addresses, o.addresses) && slices.Equal(e.networks, o.networks)
}

func (e *exclusion) address(a netip.Addr) Skip {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return SkipAddress
	}
	if _, found := e.addresses[a]; found {
		return SkipAddress
	}
	for _, n := range e.networks {
		if n.Contains(a) {
			return SkipNetwork
		}
	}
	return SkipNone
}

// flow looks at the reply direction too: a flow translated to or from a node's
// own address cannot live on the other node.
func (e *exclusion) flow(f *Flow) Skip {
	for _, a := range [...]netip.Addr{f.Original.Source, f.Original.Destination} {
		if skip := e.address(a); skip != SkipNone {
			return skip
		}
	}
	if f.Reply.Source != f.Original.Destination {
		if skip := e.address(f.Reply.Source); skip != SkipNone {
			return skip
		}
	}
	if f.Reply.Destination != f.Original.Source {
		return e.address(f.Reply.Destination)
	}
	return SkipNone
}

// expectation judges by the master, and by what is expected as far as that is said.
func (e *exclusion) expectation(x *Expectation) Skip {
	expected, mask := x.Key.Original, x.Mask
	addresses := [4]netip.Addr{x.Master.Original.Source, x.Master.Original.Destination}
	given := addresses[:2]
	for _, end := range [...]struct{ address, mask netip.Addr }{
		{expected.Source, mask.Source}, {expected.Destination, mask.Destination},
	} {
		if end.mask.IsValid() && !end.mask.IsUnspecified() {
			given = append(given, end.address)
		}
	}
	for _, a := range given {
		if skip := e.address(a); skip != SkipNone {
			return skip
		}
	}
	return SkipNone
}

// adjusted tells that a helper has changed the flow's sequence numbers.
func (f *Flow) adjusted() bool { return f.Extra != nil && f.Extra.HasAdjust }

// skip judges what the MASTER reports as living.
func (e *exclusion) skip(f *Flow) Skip {
	if !f.encodable() {
		return SkipInvalid
	}
	if skip := e.flow(f); skip != SkipNone {
		return skip
	}
	return passing(f)
}

// passing judges the flow's state alone.
func passing(f *Flow) Skip {
	switch {
	case f.Status&StatusNATClash != 0:
		return SkipClash
	case f.Status&StatusDying != 0:
		return SkipDying
	case f.related():
	case unanswered(f), f.Protocol == protocolTCP && !f.HasTCP && f.Status&StatusSeenReply == 0:
		return SkipHandshake
	}
	return SkipNone
}

// related tells that the flow has a helper or a master. Only its first report says so, so
// that it cannot wait for an answer.
func (f *Flow) related() bool {
	return f.Extra != nil && (f.Extra.HasMaster || f.Extra.Helper != "")
}

func unanswered(f *Flow) bool {
	return f.Protocol == protocolTCP && f.HasTCP && f.Status&StatusSeenReply == 0 &&
		(f.TCP.State == TCPSynSent || f.TCP.State == TCPSynSent2)
}

// encodable tells whether the wire format carries the flow without loss.
func (f *Flow) encodable() bool {
	bits := f.Original.Source.BitLen()
	if bits == 0 || f.TCP.State > TCPSynSent2 || f.TCP.ScaleOriginal > maxScale || f.TCP.ScaleReply > maxScale {
		return false
	}
	for _, a := range [...]netip.Addr{f.Original.Source, f.Original.Destination, f.Reply.Source, f.Reply.Destination} {
		if a.BitLen() != bits || (bits == 128 && a.Zone() != "") {
			return false
		}
	}
	return f.Extra == nil || f.Extra.encodable(bits)
}

// maxScale is the greatest window scale that fits its half byte; RFC 7323 allows
// up to 14.
const maxScale = 15

func (x *Extra) encodable(bits int) bool {
	if len(x.Helper) > MaxName {
		return false
	}
	m := &x.Master.Original
	return !x.HasMaster || m.Source.BitLen() == bits && m.Destination.BitLen() == bits &&
		m.Source.Zone() == "" && m.Destination.Zone() == ""
}

// encodable tells whether the wire format carries the expectation without loss. An
// address that it leaves open is the unspecified one.
func (e *Expectation) encodable() bool {
	if len(e.Helper) > MaxName || len(e.Function) > MaxName {
		return false
	}
	bits := e.Master.Original.Source.BitLen()
	tuples := [...]*Tuple{&e.Master.Original, &e.Key.Original, &e.Mask, &e.NAT}
	for i, t := range tuples {
		if i == len(tuples)-1 && !e.HasNAT {
			break
		}
		for _, a := range [...]netip.Addr{t.Source, t.Destination} {
			if a.IsValid() && a.BitLen() != bits || a.Zone() != "" {
				return false
			}
		}
	}
	return bits > 0
}
