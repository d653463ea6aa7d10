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
// IPv4 only so far. IPv6 needs its own virtual MAC addresses, nodad addresses,
// the family in the route and rule requests and a table ip6.
package kernel
