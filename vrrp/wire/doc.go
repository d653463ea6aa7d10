// Package wire is an adapter: it carries VRRP advertisements over IPv4 and IPv6,
// gratuitous ARP and unsolicited neighbour advertisements between a physical
// interface and the election.
//
// A [Receiver] hears the advertisements of one family on one physical interface,
// whatever their VRID. A [Port] sends those of one carrier through the macvlan
// that has the virtual MAC address, so that the fence in the kernel sees every
// frame that leaves. In own-MAC mode there is no macvlan and frames leave by the
// physical interface with its own address. A [Sender] holds the sockets of all
// ports: one for each physical interface, and one for each source address from
// which adverts go to a single peer. So hundreds of carriers need a handful of
// descriptors, and an interface whose queue is stuck cannot hold up the others.
//
// Nothing blocks, and sending and receiving adverts allocates nothing. A filter
// in the kernel lets only VRRP for this node through to a receiver. Everything is
// meant for one thread and not safe for several.
//
// The macvlan must be in bridge mode. In private mode the kernel would take an
// advert whose source is the virtual MAC, which is what the peer sends, for one
// of the macvlan's own and keep it from the physical interface.
package wire
