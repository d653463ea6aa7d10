// Package lab is an adapter: it builds a laboratory of network namespaces in
// which a real redundant pair runs between a client and a server, breaks it on
// request and watches the wire.
//
// A program that wants a laboratory calls [Enter] first. It runs the same
// program once more inside namespaces of its own, where [Inside] is true; when
// that inner program ends, however it ends, the kernel removes every process,
// link and namespace of the laboratory. Inside, [New] builds this:
//
//	           core-lan                                   core-wan
//	client ──────┤├── edge-lan-alpha ── alpha ── edge-wan-alpha ──┤├────── server
//	             │                     ha│cable                    │
//	             └─── edge-lan-bravo ── bravo ── edge-wan-bravo ───┘
//
// Every port of a router leads to an edge switch of its own, so that the
// forwarding table of the core switch outlives the port: a takeover that does
// not move the virtual MAC address there cuts the traffic, as it would in a
// building.
//
// On request there is a second way outside, "lte", from both nodes to the same server, and
// a second network, "dmz", with a guest on it; both are wired like the first ones.
package lab
