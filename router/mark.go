package router

import "tandem/router/config"

// Marks of flows. The connection mark names the uplink that a flow is bound to, by the
// same number on both members, so that it survives a failover; the packet mark
// makes its packets be routed so.
const (
	// MarkMask are the bits of a connection mark that are ours; all others are left alone.
	MarkMask = 0x00ff0000
	// ProbeMask are the bits of a packet mark that name a probe's uplink.
	ProbeMask = probeBit | MarkMask

	probeBit  = 0x01000000
	markShift = 16
)

// Mark is that of the uplink with a VRID.
func Mark(vrid uint8) uint32 { return uint32(vrid) << markShift }

// ProbeMark is that of the packets by which this node probes the uplink with a VRID.
func ProbeMark(vrid uint8) uint32 { return probeBit | Mark(vrid) }

// exits returns the uplinks as flows see them.
func exits(all []segment) []Exit {
	var list []Exit
	for _, s := range all {
		if s.isUplink {
			list = append(list, Exit{Uplink: s.name, Mark: Mark(s.vrid), Links: s.linksOfBoth()})
		}
	}
	return list
}

// entrances returns the links by which the packets of networks come in that have a choice
// between uplinks, or may be reached by several.
func entrances(all []segment) []string {
	var links []string
	for _, s := range all {
		if !s.isUplink {
			links = append(links, s.linksOfBoth()...)
		}
	}
	return links
}

// floating returns the subnets whose flows are bound to no uplink, because the outside sees
// them come from the same address on every one.
func floating(doc *config.Document) (list []Floating) {
	for _, w := range doc.Networks {
		if w.RoutedNATAddress.IsValid() {
			list = append(list, Floating{Prefix: w.Prefix, Address: w.RoutedNATAddress})
		}
	}
	return list
}
