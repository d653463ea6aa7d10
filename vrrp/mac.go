package vrrp

import "net/netip"

// Protocol is the IP protocol number (IPv6 next header) of VRRP, RFC 9568 §5.1.
const Protocol = 112

// TTL is the TTL or hop limit of every advertisement. Since routers lower it, a
// receiver that insists on it hears nobody from beyond the link (RFC 9568
// §5.1.1.3, §5.1.2.3).
const TTL = 255

// MulticastIPv4 is the destination of advertisements over IPv4, 224.0.0.18
// (RFC 9568 §5.1.1.2).
func MulticastIPv4() netip.Addr { return netip.AddrFrom4([4]byte{224, 0, 0, 18}) }

// MulticastIPv6 is the destination of advertisements over IPv6, ff02::12
// (RFC 9568 §5.1.2.2).
func MulticastIPv6() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x12})
}

// VirtualMAC4 is the MAC address of the IPv4 virtual router with the given
// identifier, 00-00-5E-00-01-{VRID} (RFC 9568 §7.3).
func VirtualMAC4(vrid uint8) [6]byte { return [6]byte{0x00, 0x00, 0x5e, 0x00, 0x01, vrid} }

// VirtualMAC6 is the MAC address of the IPv6 virtual router with the given
// identifier, 00-00-5E-00-02-{VRID} (RFC 9568 §7.3).
func VirtualMAC6(vrid uint8) [6]byte { return [6]byte{0x00, 0x00, 0x5e, 0x00, 0x02, vrid} }
