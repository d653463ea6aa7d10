package vrrp

// DropReason says which check a received packet failed. The set is closed, so
// that every reason can have a counter.
type DropReason uint8

// The reasons, in the order in which the checks are made. The first three are
// found in the IP header by the adapter that reads the wire, the others by
// [ParseAdvertisement].
const (
	// DropNone: the packet passed every check.
	DropNone DropReason = iota
	// DropHeader: the IP header is malformed or not of the expected version.
	DropHeader
	// DropFragment: an advertisement is never fragmented; the rest of it may come
	// from anybody.
	DropFragment
	// DropTruncated: shorter than its own lengths say (§7.1: complete packet).
	DropTruncated
	// DropTTL: the TTL or hop limit is not 255 (§5.1.1.3, §5.1.2.3).
	DropTTL
	// DropVersion: neither version 3 (§5.2.1) nor version 2 (RFC 3768), or not the
	// one that the virtual router speaks.
	DropVersion
	// DropType: not an ADVERTISEMENT (§5.2.2).
	DropType
	// DropChecksum: fits neither way to compute it (§5.2.8).
	DropChecksum
	// DropVRID: 0, or no virtual router has it on the interface (§5.2.3).
	DropVRID
	// DropCount: no address at all (§5.2.5, erratum 8299).
	DropCount
	// DropInterval: a Max Advertise Interval of 0 (§5.2.7, erratum 8301).
	DropInterval
	// DropLinkLocal: the first IPv6 address is not link-local (§5.2.9, erratum
	// 8300).
	DropLinkLocal
	// DropAuthentication: version 2 with an authentication type, all of which RFC 3768
	// §5.3.6 has abolished.
	DropAuthentication

	// DropReasons is the number of reasons, DropNone included: the length of an
	// array of counters.
	DropReasons = int(iota)
)

// String returns the reason in kebab-case, as metrics name it.
func (r DropReason) String() string {
	switch r {
	case DropNone:
		return "none"
	case DropHeader:
		return "header"
	case DropFragment:
		return "fragment"
	case DropTruncated:
		return "truncated"
	case DropTTL:
		return "ttl"
	case DropVersion:
		return "version"
	case DropType:
		return "type"
	case DropChecksum:
		return "checksum"
	case DropVRID:
		return "vrid"
	case DropCount:
		return "count"
	case DropInterval:
		return "interval"
	case DropLinkLocal:
		return "link-local"
	case DropAuthentication:
		return "authentication"
	}
	return "unknown"
}
