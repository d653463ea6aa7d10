// Package fence is an adapter: it keeps the lease of a group in the kernel.
//
// Being MASTER is holding a short lease. Everything that a virtual link sends or
// receives is dropped unless one set element has not expired, and the rule that
// adds the element matches the group's own advertisement as it leaves. So the
// advertisement on the wire is what opens the fence, for all virtual links of
// the group at once, and a daemon that is killed or stopped falls silent within
// the lease with nobody's help. An advertisement of priority 0 closes it.
//
// The parent interfaces are guarded too: while a virtual address is local, Linux
// would answer for it at the parent's own MAC address, which no lease ends.
//
// IPv4 only so far: virtual links have IPv6 switched off, and what they send or
// receive is dropped by the policy of their chains while the lease is closed.
package fence
