// Package teardown is an adapter: it ends the flows that went out by an uplink which no
// longer works, and tells the hosts inside at once, so that they begin anew by another.
//
// Which flows, the caller says; see [Flows]. Routes must have been changed before, or what
// has been ended begins again where it was. What becomes of a flow:
//
//   - TCP: its addresses and ports go into a set of a table of our own, which answers each of
//     its segments, but for a SYN, with a reset that bears the exact sequence number. Then its
//     entry in connection tracking is deleted. A host that has nothing to send would notice
//     nothing: it gets two segments in the name of its peer whose sequence numbers are 2^31
//     apart. At least one of them is outside of its window, which it must answer with an
//     acknowledgement (RFC 9293 §3.10.7.4), and that is answered with the reset.
//   - UDP: the entry is deleted and the host gets one ICMP message, port unreachable. A connected
//     socket sees it as an error; others take no notice and go on by the new uplink with the
//     next packet. Nothing is held up for that.
//   - Others: the entry is deleted.
//
// A SYN takes its flow out of the set, so that the same addresses and ports can be used again
// at once. Segments are answered before connection tracking: neither they nor what we send ourselves
// leaves a flow there, and no rule of the group's own table sees them.
//
// Resets go back by the link by which the segment came in, as its answer. The links are those whose
// rules of routing name the same table as the rule of the network's prefix. Where there are none, or
// the kernel cannot reject there (nft_reject_netdev), resets are routed by its main table, as all
// that it sends in the name of others. Our own packets go where the host's own prefix is routed to.
// Both leave by the virtual link then, through the fence: a node that is not MASTER tells nobody
// anything.
package teardown
