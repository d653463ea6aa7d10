// Package wire is an adapter: it carries VRRP advertisements over IPv4 and
// gratuitous ARP between a physical interface and the election.
//
// A [Port] receives on the physical interface and sends through the macvlan that
// has the virtual MAC address, so that the fence in the kernel sees every frame
// that leaves. It never blocks and has one file descriptor to poll. It is meant
// for one thread and is not safe for several.
//
// The macvlan must be in bridge mode. In private mode the kernel would take an
// advert whose source is the virtual MAC, which is what the peer sends, for one
// of the macvlan's own and keep it from the physical interface.
package wire
