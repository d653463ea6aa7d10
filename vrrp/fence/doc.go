// Package fence is an adapter: it keeps the lease of a group in the kernel.
//
// Being MASTER is holding a short lease. Everything that a virtual link sends or
// receives is dropped unless one set element has not expired, and the rule that
// adds the element matches the group's own advertisement as it leaves. So the
// advertisement on the wire is what opens the fence, for all virtual links and both
// families of the group at once, and a daemon that is killed or stopped falls
// silent within the lease with nobody's help.
//
// These frames move the lease, if they leave by a virtual link to the group of VRRP
// (224.0.0.18 or ff02::12, protocol 112):
//
//   - TTL or hop limit 255: an advertisement. It leaves and renews; one of priority 0
//     leaves and ends the lease.
//   - 2: it renews and is dropped, so that a lease may be shorter than the interval.
//   - any other: it ends the lease and is dropped.
//
// Whoever sends them through a packet socket must name the protocol in the address:
// Linux 6.1 does not read it out of a frame that leaves by a macvlan.
//
// A virtual link is either a macvlan with a virtual MAC address, or the parent
// itself where a network takes no foreign MAC address. A macvlan is fenced whole. A
// parent is fenced by address, for the family of its link: what is from or to the
// node's own addresses passes, groups are heard, and all that speaks for or to a
// virtual address or is forwarded needs the lease. There an advertisement counts if
// it is from an own address and of the link's VRID, and one of priority 1, the
// BACKUP's question, leaves without renewing.
//
// The parents of macvlans are guarded, too, at all times: while a virtual address is
// local, Linux would answer for it at the parent's own MAC address, which no lease
// ends. A link-local virtual address is guarded on its own parent, all others on
// all parents. Frames of a VLAN interface pass the one below it unjudged: it has
// chains of its own if it is a parent.
//
// On Linux 6.9 and newer the table belongs to the socket of a [Fence] and outlives
// it: nobody else can change it, `nft flush ruleset` leaves it alone, and after a
// crash the next Fence adopts it with the lease. On older kernels it is a plain
// table that anybody can delete, which opens the fence until [Fence.Ensure] puts it
// up again; [Fence.Watch] tells when to. [Fence.Protected] says which one it is.
package fence
