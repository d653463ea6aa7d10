// Package ctnetlink is an adapter: it reads and writes the connection-tracking
// table of the network namespace in which its sockets were opened.
//
// A [Listener] delivers the kernel's events, a [Reader] dumps and counts the
// table, a [Writer] creates, updates and deletes flows and expectations in batches.
// Events and dumps are decoded by hand into a [conntracksync.Flow] that the caller
// owns, without allocation but for what few flows have. It decides nothing: what to
// write is the caller's choice.
//
// What the kernel cannot be told is lost: TCP windows, which it learns anew from the
// next packet; counters; the zone of an expectation, which it does not report; the key
// of a GRE tunnel of PPTP, which its helper keeps to itself. A GRE flow that was written
// lives for the time it was given and not by its packets.
//
// The sysctl net.netfilter.nf_conntrack_events must be 1 before the first packet.
// With 2, the kernel's default, a flow that began while nobody listened never
// reports anything, not even its end.
package ctnetlink
