package conntracksync

import (
	"cmp"
	"net/netip"
	"slices"
)

// packedKey is a [Key] without pointers, so that sets of millions of them cost
// the garbage collector nothing.
type packedKey struct {
	source, destination         [16]byte
	sourcePort, destinationPort uint16
	zone                        uint16
	protocol                    uint8
	// four tells an IPv4 address from an IPv6 one that maps it.
	four bool
}

func packKey(k Key) packedKey {
	return packedKey{
		source:          k.Original.Source.As16(),
		destination:     k.Original.Destination.As16(),
		sourcePort:      k.Original.SourcePort,
		destinationPort: k.Original.DestinationPort,
		zone:            k.Zone,
		protocol:        k.Protocol,
		four:            k.Original.Source.Is4(),
	}
}

func (p packedKey) key() Key {
	source, destination := netip.AddrFrom16(p.source), netip.AddrFrom16(p.destination)
	if p.four {
		source, destination = source.Unmap(), destination.Unmap()
	}
	return Key{
		Original: Tuple{
			Source: source, Destination: destination,
			SourcePort: p.sourcePort, DestinationPort: p.destinationPort,
		},
		Zone: p.zone, Protocol: p.protocol,
	}
}

func comparePacked(a, b packedKey) int {
	return cmp.Or(
		slices.Compare(a.source[:], b.source[:]),
		slices.Compare(a.destination[:], b.destination[:]),
		cmp.Compare(a.sourcePort, b.sourcePort),
		cmp.Compare(a.destinationPort, b.destinationPort),
		cmp.Compare(a.zone, b.zone),
		cmp.Compare(a.protocol, b.protocol),
	)
}

// inverse is the direction in which untranslated replies come. It does not hold
// for ICMP, whose replies have another type.
func (t Tuple) inverse() Tuple {
	return Tuple{
		Source: t.Destination, Destination: t.Source,
		SourcePort: t.DestinationPort, DestinationPort: t.SourcePort,
	}
}

// fingerprint is a hash (FNV-1a) by which a flow's translation is recognised.
func (t Tuple) fingerprint() uint32 {
	hash := uint32(2166136261)
	add := func(b byte) { hash = (hash ^ uint32(b)) * 16777619 }
	for _, a := range [2][16]byte{t.Source.As16(), t.Destination.As16()} {
		for _, b := range a {
			add(b)
		}
	}
	for _, port := range [2]uint16{t.SourcePort, t.DestinationPort} {
		add(byte(port >> 8))
		add(byte(port))
	}
	return hash
}
