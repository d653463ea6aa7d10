// Package vrrp is pure: it holds the codec of VRRP version 3 (RFC 9568) and 2 (RFC
// 3768) and the election of one group of virtual routers over many carriers.
//
// [ParseAdvertisement] validates a received message in the order of RFC 9568
// §7.1 and names the first check that failed as a [DropReason].
// [Advertisement.Append] is its inverse. What goes around the message, the
// Ethernet frame and the IP header, belongs to the adapters; the fields of the
// IP header that the protocol looks at travel in a [Header].
package vrrp
