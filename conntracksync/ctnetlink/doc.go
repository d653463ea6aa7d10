// Package ctnetlink is an adapter: it reads and writes the connection-tracking
// table of the network namespace in which its sockets were opened.
//
// A [Listener] delivers the kernel's events, a [Reader] dumps and counts the
// table, a [Writer] creates, updates and deletes flows in batches. Events and
// dumps are decoded by hand into a [conntracksync.Flow] that the caller owns,
// without allocation. It decides nothing: what to write is the caller's choice.
//
// The sysctl net.netfilter.nf_conntrack_events must be 1 before the first packet.
// With 2, the kernel's default, a flow that began while nobody listened never
// reports anything, not even its end.
package ctnetlink
