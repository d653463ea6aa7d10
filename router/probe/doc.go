// Package probe is an adapter: it asks what lies beyond one port of this node, and says what
// was answered.
//
// Every probe leaves by its own port and no other: its socket is bound to the physical device and
// to the node's own address there, and its packets bear the mark by which the port's own table is
// chosen. A gateway is asked by frames of ours (ARP, neighbour solicitations), which need no route
// and do not ask the kernel's neighbour table.
//
// What counts as an answer is that the way there and back works. A port of TCP that refuses is
// one; so is a name server that does not know the name, but none that has failed itself
// (SERVFAIL). A web server must answer with the expected status and text. A certificate that is not
// valid proves the way: it counts as alive, unless a status or a text is expected, which only
// the true server can give. Redirections are answers and are not followed.
//
// Names are resolved through the uplink's own servers and are kept for their time to live, from half a
// minute to an hour; one that has run out is used once more while it is renewed, so that a dead
// name server is not taken for a dead target.
//
// An [uplink.Outcome] is Local where the fault lies in this node: no address, no route, no device, no
// memory. It says nothing about the uplink.
package probe
