// Package kernel is an adapter: the only code that changes links, addresses,
// routes, rules, netfilter tables and sysctls.
//
// It is level-triggered. Every [Reconciler.Apply] observes the kernel, plans the
// difference to the intent (a pure function) and executes it in a fixed order,
// whether the node boots, the document changed or somebody deleted something.
// What a crashed predecessor left is recognised by its marks: the alias of a
// link, the protocol number of an address, route or rule, the name of a table.
// Objects without our mark are never touched.
//
// The order keeps three promises. No virtual link comes up, and no virtual
// address comes, before the fence stands. No traffic is forwarded before its
// translation is in place, or the kernel would remember the flow untranslated.
// What goes, goes before the fence around it does.
//
// # IPv6
//
// A virtual router of IPv6 has a macvlan of its own, which says nothing by itself and
// has only the addresses that it is given, without duplicate address detection. The
// node's own link-local address goes without, too: adverts and neighbour discovery
// need it from the first moment after a link came up. Its global address does not,
// and a duplicate of it is reported. A link that goes down loses addresses and routes;
// they come back with the next Apply.
//
// IPv6 has one switch that makes the whole machine a router. The kernel then forgets
// what it has learned from router advertisements, unless an interface's accept_ra is
// 2; so it becomes 2 on every interface where it was in effect, ours or not, and goes
// back in the end. Redirects have no switch and are dropped on their way out.
//
// # Without virtual MAC addresses
//
// Virtual addresses then stand on the port itself, in a form that keeps the kernel
// from taking them as the source of what the node sends of its own: host scope for
// IPv4, deprecated for IPv6. The virtual link-local address must be younger than the
// node's own, for the kernel asks for neighbours in the name of the oldest.
package kernel
