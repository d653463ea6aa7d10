package config

import (
	"fmt"
	"net/netip"

	"github.com/goccy/go-yaml/ast"
)

// ipv4Here says what to do about IPv6 where IPv4 belongs.
const ipv4Here = "give an IPv4 one here, and write the segment's IPv6 under its key ipv6"

// address decodes an IPv4 address.
func (d decoder) address(path string, node ast.Node) netip.Addr {
	address := d.anyAddress(path, node, "an IPv4 address", "10.0.0.1")
	if address.IsValid() && !address.Is4() {
		d.add(path, fmt.Sprintf("%s is an IPv6 address; "+ipv4Here, address))
		return netip.Addr{}
	}
	return address
}

// address6 decodes an IPv6 address.
func (d decoder) address6(path string, node ast.Node) netip.Addr {
	address := d.anyAddress(path, node, "an IPv6 address", "2001:db8::1")
	if address.Is4() {
		d.add(path, fmt.Sprintf("%s is an IPv4 address; give an IPv6 address such as 2001:db8::1", address))
		return netip.Addr{}
	}
	return d.plain(path, address)
}

// addressOfEither decodes an address of either family.
func (d decoder) addressOfEither(path string, node ast.Node) netip.Addr {
	return d.plain(path, d.anyAddress(path, node, "an IPv4 or IPv6 address", "10.0.0.1"))
}

// plain refuses the forms of IPv6 addresses that are none on the wire.
func (d decoder) plain(path string, address netip.Addr) netip.Addr {
	switch {
	case address.Zone() != "":
		d.add(path, fmt.Sprintf("%s names an interface; write %s, the port says which interface it is", address, address.WithZone("")))
	case address.Is4In6():
		d.add(path, fmt.Sprintf("%s is an IPv4 address in the form of an IPv6 one; write %s", address, address.Unmap()))
	default:
		return address
	}
	return netip.Addr{}
}

func (d decoder) anyAddress(path string, node ast.Node, want, example string) netip.Addr {
	if kind := kindOf(node); kind == aMapping {
		// What YAML makes of some places of colons between braces.
		d.add(path, "must be "+want+", but is "+kind+"; put an IPv6 address in quotes here")
		return netip.Addr{}
	}
	text, ok := d.text(path, node, want)
	if !ok {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(text)
	if err == nil {
		return address
	}
	if prefix, err := netip.ParsePrefix(text); err == nil {
		d.add(path, fmt.Sprintf("must be an address without a prefix length; write %s", prefix.Addr()))
		return netip.Addr{}
	}
	d.add(path, fmt.Sprintf("%q is not %s such as %s", shorten(text), want, example))
	return netip.Addr{}
}

// prefix decodes the subnet of a segment. A prefix with host bits is reported
// and then masked, so that the addresses in it can still be checked.
func (d decoder) prefix(path string, node ast.Node, longest int) netip.Prefix {
	text, ok := d.text(path, node, "an IPv4 subnet")
	if !ok {
		return netip.Prefix{}
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		message := fmt.Sprintf("%q is not an IPv4 subnet such as 10.0.0.0/24", shorten(text))
		if address, err := netip.ParseAddr(text); err == nil && address.Is4() {
			message = fmt.Sprintf("%s lacks the prefix length; write e.g. %s", address, netip.PrefixFrom(address, 24).Masked())
		}
		d.add(path, message)
		return netip.Prefix{}
	}
	switch masked := prefix.Masked(); {
	case !prefix.Addr().Is4():
		d.add(path, fmt.Sprintf("%s is an IPv6 subnet; "+ipv4Here, prefix))
	case prefix.Bits() < 8 || prefix.Bits() > longest:
		d.add(path, fmt.Sprintf("the prefix length of %s must be from 8 to %d to hold the addresses of this segment", prefix, longest))
	case !unicast(masked):
		d.add(path, fmt.Sprintf("%s is not a range for hosts; give a subnet such as 10.0.0.0/24", prefix))
	case prefix != masked:
		d.add(path, fmt.Sprintf("%s has bits set beyond its prefix length; write %s", prefix, masked))
		return masked
	default:
		return prefix
	}
	return netip.Prefix{}
}

// unicast says whether hosts may have addresses of this range: not 0.0.0.0/8 and
// 127.0.0.0/8 (RFC 6890 §2.2.2), not multicast and above.
func unicast(prefix netip.Prefix) bool {
	first := prefix.Addr().As4()[0]
	return first != 0 && first != 127 && first < 224
}

// shortestNPT is the length of what a provider gets to give out.
const shortestNPT = 32

// prefix6 decodes the IPv6 subnet of a segment or of several, as prefix does.
func (d decoder) prefix6(path string, node ast.Node, shortest int) netip.Prefix {
	text, ok := d.text(path, node, "an IPv6 subnet")
	if !ok {
		return netip.Prefix{}
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		message := fmt.Sprintf("%q is not an IPv6 subnet such as 2001:db8:0:1::/64", shorten(text))
		if address, err := netip.ParseAddr(text); err == nil && address.Is6() && !address.Is4In6() && address.Zone() == "" {
			message = fmt.Sprintf("%s lacks the prefix length; write e.g. %s", address, netip.PrefixFrom(address, 64).Masked())
		}
		d.add(path, message)
		return netip.Prefix{}
	}
	switch masked := prefix.Masked(); {
	case prefix.Addr().Is4():
		d.add(path, fmt.Sprintf("%s is an IPv4 subnet; give an IPv6 subnet such as 2001:db8:0:1::/64", prefix))
	case prefix.Bits() < shortest || prefix.Bits() > 127:
		d.add(path, fmt.Sprintf("the prefix length of %s must be from %d to 127; 64 is the usual one of a segment", prefix, shortest))
	case !global(masked.Addr()):
		d.add(path, fmt.Sprintf("%s is not a range for hosts; give a global subnet (of 2000::/3) or a local one (of fc00::/7), such as 2001:db8:0:1::/64", prefix))
	case prefix != masked:
		d.add(path, fmt.Sprintf("%s has bits set beyond its prefix length; write %s", prefix, masked))
		return masked
	default:
		return prefix
	}
	return netip.Prefix{}
}

// global says whether an IPv6 address is of the global unicast range that is given
// out (2000::/3) or a unique local one (RFC 4193).
func global(address netip.Addr) bool {
	first := address.As16()[0]
	return first&0xe0 == 0x20 || first&0xfe == 0xfc
}
