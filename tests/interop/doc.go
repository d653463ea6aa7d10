// Package interop is tests: a node of Tandem and routers of other makes, keepalived
// and FRR's vrrpd from the distribution's packages, on one LAN in network namespaces.
//
// Everything that the routers send is captured at their ports of the switch and read
// by a decoder that was written here from the RFCs (9568, 3768, 826, 4861) and knows
// nothing of package vrrp, so that a mistake of the product's codec cannot hide itself.
// Whatever a scenario is about, all of it is judged in the same way: each advert field
// by field; never two routers that advertise longer than a change of roles takes; each
// takeover within the time that follows from the timers of RFC 9568 §6.1; Tandem's
// virtual MAC address silent while it is BACKUP.
//
// The laboratory's namespaces need root or user namespaces, and FRR needs root. Where
// one of them, or a package, is missing the tests that need it skip and say so.
package interop
