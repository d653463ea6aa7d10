package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Segment is what was heard on the segment of one port.
type Segment struct {
	Carrier, Interface string
	// Own are the pair's virtual routers there.
	Own []VirtualRouter
	// Listened is for how long; zero if it was not possible, and Problem says why.
	Listened time.Duration
	Problem  string
	// Routers are the VRRP routers that were heard and are not members.
	Routers []Router
	// Gateways are the next hops of an uplink, one per family.
	Gateways []Gateway
}

// VirtualRouter is one of the pair's. A VRID means another one in each family.
type VirtualRouter struct {
	VRID uint8
	IPv6 bool
}

// Router is a VRRP router that was heard.
type Router struct {
	VRID          uint8
	IPv6          bool
	Source, MAC   string
	Version       uint8
	Priority      uint8
	Advertisement int
}

// Clashes tells whether it takes itself for one of the pair's virtual routers.
func (r Router) Clashes(own []VirtualRouter) bool {
	return slices.Contains(own, VirtualRouter{r.VRID, r.IPv6})
}

// Gateway is the outcome of ARP requests or neighbour solicitations to the next hop of an uplink.
type Gateway struct {
	Address  string
	Asked    bool
	Answered bool
	MAC      string
}

// JudgeSegments says what is to say about what was heard.
func JudgeSegments(segments []Segment) []Finding {
	f := &findings{section: SectionSegments}
	for _, s := range segments {
		judgeRouters(f, s)
		for _, g := range s.Gateways {
			judgeGateway(f, s, g)
		}
	}
	return f.list
}

func judgeRouters(f *findings, s Segment) {
	if s.Listened == 0 {
		f.untested("vrrp-routers", s.Carrier, "nobody could listen on %s (%s); mend that and ask again", s.Interface, s.Problem)
		return
	}
	var others []string
	clash := false
	for _, r := range s.Routers {
		if r.Clashes(s.Own) {
			clash = true
			f.trouble("vrrp-routers", s.Carrier, "another VRRP router at %s (%s) uses VRID %d on the segment of %s, with priority %d and version %d: give it or %s another VRID, both would have the same virtual MAC",
				r.Source, r.MAC, r.VRID, s.Interface, r.Priority, r.Version, s.Carrier)
			continue
		}
		others = append(others, fmt.Sprintf("VRID %d at %s", r.VRID, r.Source))
	}
	switch {
	case clash:
	case len(others) > 0:
		f.ok("vrrp-routers", s.Carrier, "other VRRP routers on %s are no danger, their VRIDs differ from the document's: %s", s.Interface, strings.Join(others, ", "))
	default:
		f.ok("vrrp-routers", s.Carrier, "no other VRRP router was heard on %s within %s", s.Interface, span(s.Listened))
	}
}

func judgeGateway(f *findings, s Segment, g Gateway) {
	switch {
	case !g.Asked && s.Problem == "":
		f.untested("gateway", s.Carrier, "the gateway %s was not asked through %s, because somebody else has this node's address there; mend that and ask again", g.Address, s.Interface)
	case !g.Asked:
		f.untested("gateway", s.Carrier, "the gateway %s could not be asked through %s (%s); mend that and ask again", g.Address, s.Interface, s.Problem)
	case g.Answered:
		f.ok("gateway", s.Carrier, "the gateway %s answers through %s, from %s", g.Address, s.Interface, g.MAC)
	default:
		f.warn("gateway", s.Carrier, "the gateway %s does not answer through %s: check that it is on and in the same VLAN, else nothing leaves by this uplink", g.Address, s.Interface)
	}
}
