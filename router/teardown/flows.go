package teardown

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// Flows selects flows of connection tracking.
type Flows struct {
	// Mark is the uplink's, as far as Mask has bits.
	Mark, Mask uint32
	// Networks are the subnets of the hosts inside.
	Networks []netip.Prefix
	// Destination is where the hosts outside are, and tells the family. An invalid one takes
	// all of both families.
	Destination netip.Prefix
	// Except are parts of Destination with a choice of their own, whose flows stay.
	Except []netip.Prefix
	// Outbound leaves the flows that hosts outside have begun.
	Outbound bool
}

// Total is how many flows were ended.
func (e Ended) Total() int { return e.TCP + e.UDP + e.Other }

// Ended counts what became of flows.
type Ended struct {
	// TCP, UDP and Other are the flows that were found and ended.
	TCP, UDP, Other int
	// Told are the flows whose host inside was told.
	Told int
	// Left are flows that were still there, or again, at the last look.
	Left int
}

// flow is one that is to be ended, as the host inside sees it.
type flow struct {
	entry        ctnetlink.Entry
	inner, outer netip.AddrPort
	// answer tells that segments are to be answered with a reset, wake that the host gets to
	// know by a packet of ours.
	answer, wake bool
}

// pick returns f as the host inside sees it; ok is false if f is not among s.
//
// The side inside is the one whose own address, before any translation, is in a network: the
// source of a flow that goes out, the host that an incoming one was translated to.
func (s *Flows) pick(f *conntracksync.Flow) (picked flow, ok bool) {
	if f.Mark&s.Mask != s.Mark&s.Mask {
		return flow{}, false
	}
	picked = flow{entry: ctnetlink.Entry{Key: f.Key}}
	// target is the true address outside, by which routes are chosen.
	var target netip.Addr
	switch {
	case s.inside(f.Original.Source):
		target = f.Reply.Source
		picked.inner = netip.AddrPortFrom(f.Original.Source, f.Original.SourcePort)
		picked.outer = netip.AddrPortFrom(f.Original.Destination, f.Original.DestinationPort)
	case !s.Outbound && s.inside(f.Reply.Source):
		target = f.Original.Source
		picked.inner = netip.AddrPortFrom(f.Reply.Source, f.Reply.SourcePort)
		picked.outer = netip.AddrPortFrom(f.Reply.Destination, f.Reply.DestinationPort)
	default:
		return flow{}, false
	}
	if s.Destination.IsValid() && !s.Destination.Contains(target) ||
		slices.ContainsFunc(s.Except, func(p netip.Prefix) bool { return p.Contains(target) }) {
		return flow{}, false
	}
	switch f.Protocol {
	case unix.IPPROTO_TCP:
		picked.answer, picked.wake = tell(f)
	case unix.IPPROTO_UDP:
		picked.wake = true
	}
	return picked, true
}

func (s *Flows) inside(a netip.Addr) bool {
	return slices.ContainsFunc(s.Networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// tell says how the host inside gets to know that its connection has ended. One that is not
// established is tried again by the host itself, and what was reset is of no use to it. The states
// of connections that are closing say little: a FIN that was sent twice counts for both sides.
func tell(f *conntracksync.Flow) (answer, wake bool) {
	switch f.TCP.State {
	case conntracksync.TCPSynSent, conntracksync.TCPSynSent2, conntracksync.TCPClose:
		return false, false
	case conntracksync.TCPNone, conntracksync.TCPSynReceived, conntracksync.TCPEstablished,
		conntracksync.TCPFinWait, conntracksync.TCPCloseWait, conntracksync.TCPLastAck, conntracksync.TCPTimeWait:
		// None is an offloaded flow, which reports no state.
	}
	return true, true
}
