package fence_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

const etherTypeIPv6 = 0x86dd

//nolint:gochecknoglobals // constants of the tests
var (
	vip6     = netip.MustParseAddr("2001:db8::1")
	vipLL    = netip.MustParseAddr("fe80::5e:a")
	own6     = netip.MustParseAddr("2001:db8::2")
	ownLL    = netip.MustParseAddr("fe80::5e:a:1")
	far6     = netip.MustParseAddr("2001:db8::9")
	farLL    = netip.MustParseAddr("fe80::9")
	other    = netip.MustParseAddr("203.0.113.5")
	other6   = netip.MustParseAddr("2001:db8:f::5")
	nowhere6 = netip.IPv6Unspecified()
	vmac6    = [6]byte{0, 0, 0x5e, 0, 2, 10}
	all6MAC  = [6]byte{0x33, 0x33, 0, 0, 0, 1}
	vrrp6To  = [6]byte{0x33, 0x33, 0, 0, 0, 0x12}
	vrrp4IP  = netip.MustParseAddr("224.0.0.18")
	vrrp6IP  = netip.MustParseAddr("ff02::12")
)

// virtualMAC tells whether the frame's source is a virtual MAC address (RFC 9568 §7.3).
func virtualMAC(f []byte) bool {
	return bytes.HasPrefix(f[6:], []byte{0, 0, 0x5e, 0, 1}) || bytes.HasPrefix(f[6:], []byte{0, 0, 0x5e, 0, 2})
}

func isVirtual(a netip.Addr) bool {
	return a == vip || a == vip1 || a == vip6 || a == vipLL
}

// speaks tells whether a frame has a virtual MAC address as its source or speaks
// for a virtual address.
func speaks(f []byte) bool {
	if len(f) < 34 {
		return false
	}
	if virtualMAC(f) {
		return true
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherTypeARP:
		return isVirtual(netip.AddrFrom4([4]byte(f[28:32])))
	case etherTypeIPv4:
		return isVirtual(netip.AddrFrom4([4]byte(f[26:30])))
	case etherTypeIPv6:
		if isVirtual(netip.AddrFrom16([16]byte(f[22:38]))) {
			return true
		}
		target, ok := discovered(f)
		return ok && isVirtual(target)
	}
	return false
}

// discovered is the target of a neighbour solicitation or advertisement.
func discovered(f []byte) (netip.Addr, bool) {
	if len(f) < 78 || binary.BigEndian.Uint16(f[12:]) != etherTypeIPv6 || f[20] != 58 || f[54] != 135 && f[54] != 136 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(f[62:78])), true
}

func ipv6(next, hopLimit byte, src, dst netip.Addr, payload []byte) []byte {
	h := make([]byte, 40, 40+len(payload))
	h[0], h[6], h[7] = 0x60, next, hopLimit
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, payload...)
}

// checksum6 fills in the checksum at an even offset (RFC 8200 §8.1).
func checksum6(next byte, src, dst netip.Addr, payload []byte, at int) []byte {
	pseudo := append(append([]byte(nil), src.AsSlice()...), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
	pseudo = append(pseudo, 0, 0, 0, next)
	binary.BigEndian.PutUint16(payload[at:], checksum(append(pseudo, payload...)))
	return payload
}

// icmp6 is an ICMPv6 message of the type with a body behind the checksum.
func icmp6(to, mac [6]byte, src, dst netip.Addr, kind byte, body []byte) []byte {
	const next = 58
	p := checksum6(next, src, dst, append([]byte{kind, 0, 0, 0}, body...), 2)
	return ether(to, mac, etherTypeIPv6, ipv6(next, 255, src, dst, p))
}

func echo6(to, mac [6]byte, src, dst netip.Addr) []byte {
	return icmp6(to, mac, src, dst, 128, []byte{0, 1, 0, 1})
}

// solicitation asks for target; from an unspecified source it is duplicate address
// detection.
func solicitation(to, mac [6]byte, src, dst, target netip.Addr) []byte {
	body := append(make([]byte, 4), target.AsSlice()...)
	if !src.IsUnspecified() {
		body = append(append(body, 1, 1), mac[:]...)
	}
	return icmp6(to, mac, src, dst, 135, body)
}

// advertisement6 is an unsolicited neighbour advertisement.
func advertisement6(mac [6]byte, src, target netip.Addr) []byte {
	body := append([]byte{0xa0, 0, 0, 0}, target.AsSlice()...)
	body = append(append(body, 2, 1), mac[:]...)
	return icmp6(all6MAC, mac, src, netip.MustParseAddr("ff02::1"), 136, body)
}

func routerAdvertisement(mac [6]byte, src netip.Addr) []byte {
	return icmp6(all6MAC, mac, src, netip.MustParseAddr("ff02::1"), 134, []byte{64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0})
}

// solicitedNode is the group of an address and its MAC address (RFC 4291 §2.7.1).
func solicitedNode(a netip.Addr) (netip.Addr, [6]byte) {
	b := a.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group), [6]byte{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}

// datagram is a UDP packet of either family.
func datagram(to, mac [6]byte, src, dst netip.Addr, port uint16) []byte {
	udp := []byte{0, 9, 0, 0, 0, 12, 0, 0, 't', 'e', 's', 't'}
	binary.BigEndian.PutUint16(udp[2:], port)
	if src.Is4() {
		return ether(to, mac, etherTypeIPv4, ipv4(17, 64, src, dst, udp))
	}
	return ether(to, mac, etherTypeIPv6, ipv6(17, 64, src, dst, checksum6(17, src, dst, udp, 6)))
}

// advertisement is an advert of VRRP version 3 (RFC 9568 §5.1) of either family.
func advertisement(mac [6]byte, source netip.Addr, vrid, ttl, priority byte) []byte {
	msg := []byte{0x31, vrid, priority, 1, 0, 100, 0, 0}
	if source.Is4() {
		msg = append(msg, vip.AsSlice()...)
		binary.BigEndian.PutUint16(msg[6:], checksum(msg))
		return ether(vrrpTo, mac, etherTypeIPv4, ipv4(112, ttl, source, vrrp4IP, msg))
	}
	msg = append(msg, vipLL.AsSlice()...)
	return ether(vrrp6To, mac, etherTypeIPv6, ipv6(112, ttl, source, vrrp6IP, checksum6(112, source, vrrp6IP, msg, 6)))
}
