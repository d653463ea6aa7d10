// Package nfqueue is an adapter: it keeps the first packets of new flows in the
// kernel until they are released.
//
// [Rules] is the table of nftables that picks the packets, a [Queue] is the socket
// that hears of them and releases them. The payload stays in the kernel.
//
// The packets are picked behind the confirmation of connection tracking, which is
// the last step of postrouting and reports the flow: so a packet is heard of after
// the event of its flow. The kernel runs hooks of equal priority in the reverse of the
// order in which they came, so the table has to be made before anything in the
// network namespace uses connection tracking. Otherwise its rules see flows that are
// not confirmed, hold nothing and count them; see [Counts].
//
// Whatever fails lets the packets pass: nobody on the socket, a full queue, a full
// socket, a closed one. What waits when the process dies is dropped by the kernel.
package nfqueue
