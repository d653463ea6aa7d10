package conntracksync

// inverse is the direction in which untranslated replies of the protocol come.
func (t Tuple) inverse(protocol uint8) Tuple {
	out := Tuple{
		Source: t.Destination, Destination: t.Source,
		SourcePort: t.DestinationPort, DestinationPort: t.SourcePort,
	}
	switch protocol {
	case protocolICMP:
		out.SourcePort, out.DestinationPort = t.SourcePort, inverseType(t.DestinationPort, 0, 8, 13, 14, 15, 16, 17, 18)
	case protocolICMPv6:
		out.SourcePort, out.DestinationPort = t.SourcePort, inverseType(t.DestinationPort, 128, 129, 139, 140)
	}
	return out
}

// inverseType exchanges the ICMP type in the upper byte for the other one of its
// pair. Types without a pair stay.
func inverseType(typeCode uint16, pairs ...uint8) uint16 {
	for i, t := range pairs {
		if uint8(typeCode>>8) == t {
			return uint16(pairs[i^1])<<8 | typeCode&0xff
		}
	}
	return typeCode
}
