package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const (
	giveProtocol = "give tcp or udp"
	givePort     = "give the port outside, such as 8443, or a range such as 8000-8010"
	giveTo       = "give the host inside and its port, such as 10.0.0.10:443"
	giveReached  = "give the virtual address of an uplink that is joined to the host"
	giveHost     = "give the address of the host inside"
	giveAction   = "give allow or deny"

	// minRate lets at least one packet pass each second.
	minRate = 16_000
	maxRate = 1_000_000_000_000
)

func (d decoder) forward(path string, node ast.Node) Forward {
	var f Forward
	d.fields(
		path, node,
		field{"protocol", giveProtocol, func(path string, n ast.Node) { f.Protocol = d.choice(path, n, "tcp", "udp") }},
		field{"port", givePort, func(path string, n ast.Node) {
			ports := d.portRange(path, n)
			f.First, f.Last = ports.First, ports.Last
		}},
		field{"to", giveTo, func(path string, n ast.Node) { f.To = d.inside(path, n) }},
		field{"address", "", func(path string, n ast.Node) { f.Address = d.address(path, n) }},
		field{"from", "", func(path string, n ast.Node) { f.From = d.subnets(path, n) }},
	)
	for i, prefix := range f.From {
		if prefix.IsValid() && !prefix.Addr().Is4() {
			d.add(fmt.Sprintf("%s.from[%d]", path, i), fmt.Sprintf("%s is IPv6, but the port is one of an IPv4 address; give IPv4 subnets", prefix))
		}
	}
	if last := int(f.To.Port()) + int(f.Last-f.First); last > 65535 {
		d.add(path+".to", fmt.Sprintf("the range of ports would end at %d inside; begin it lower", last))
	}
	return f
}

// inside decodes the host and port that a forward leads to.
func (d decoder) inside(path string, node ast.Node) netip.AddrPort {
	const want = "HOST:PORT"
	text, ok := d.textOfHost(path, node, want)
	if !ok {
		return netip.AddrPort{}
	}
	host, port, ok := splitHostPort(text)
	address, err := netip.ParseAddr(host)
	switch {
	case !ok || err != nil:
		d.add(path, fmt.Sprintf("%q is not %s with an IPv4 address, such as 10.0.0.10:443", shorten(text), want))
	case !address.Is4():
		d.add(path, fmt.Sprintf("%s is an IPv6 address, whose hosts are reached without a forward; give an IPv4 one, and write who may reach IPv6 under access", address))
	default:
		return netip.AddrPortFrom(address, port)
	}
	return netip.AddrPort{}
}

func (d decoder) staticNAT(path string, node ast.Node) StaticNAT {
	var s StaticNAT
	d.fields(
		path, node,
		field{"address", giveReached, func(path string, n ast.Node) { s.Address = d.address(path, n) }},
		field{"host", giveHost, func(path string, n ast.Node) { s.Host = d.address(path, n) }},
	)
	return s
}

func (d decoder) access(path string, node ast.Node, a *Access) {
	d.fields(
		path, node,
		field{"ingress", "", func(path string, n ast.Node) { d.accessList(path, n, &a.Ingress) }},
		field{"egress", "", func(path string, n ast.Node) { d.accessList(path, n, &a.Egress) }},
	)
}

func (d decoder) accessList(path string, node ast.Node, l *AccessList) {
	d.fields(
		path, node,
		field{"default", "", func(path string, n ast.Node) { l.Default = d.choice(path, n, Allow, Deny) }},
		field{"rules", "", func(path string, n ast.Node) {
			d.items(path, n, func(path string, n ast.Node) { l.Rules = append(l.Rules, d.accessRule(path, n)) })
		}},
	)
}

func (d decoder) accessRule(path string, node ast.Node) AccessRule {
	var a AccessRule
	d.fields(
		path, node,
		field{"action", giveAction, func(path string, n ast.Node) { a.Action = d.choice(path, n, Allow, Deny) }},
		field{"protocol", "", func(path string, n ast.Node) { a.Protocol = d.protocol(path, n) }},
		field{"ports", "", func(path string, n ast.Node) { a.Ports = d.portRanges(path, n) }},
		field{"source", "", func(path string, n ast.Node) { a.Source = d.subnets(path, n) }},
		field{"destination", "", func(path string, n ast.Node) { a.Destination = d.subnets(path, n) }},
	)
	hasPorts := []string{"tcp", "udp", "sctp"}
	switch {
	case len(a.Ports) == 0 || slices.Contains(hasPorts, a.Protocol) || d.faulty(path+".protocol"):
	case a.Protocol == "":
		d.add(path+".ports", "need a protocol; give protocol tcp, udp or sctp")
	default:
		d.add(path+".ports", fmt.Sprintf("%s has no ports; remove this key or give protocol tcp, udp or sctp", nameOfProtocol(a.Protocol)))
	}
	d.oneFamily(path, a)
	return a
}

func nameOfProtocol(text string) string {
	if strings.Trim(text, "0123456789") == "" {
		return "protocol " + text
	}
	return text
}

// oneFamily checks that no rule matches IPv4 and IPv6 addresses at once: no packet has both.
func (d decoder) oneFamily(path string, a AccessRule) {
	var first netip.Prefix
	check := func(path string, prefixes []netip.Prefix) {
		for i, prefix := range prefixes {
			switch {
			case !prefix.IsValid():
			case !first.IsValid():
				first = prefix
			case prefix.Addr().Is4() != first.Addr().Is4():
				d.add(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%s is of another family than %s; make a rule for IPv4 and one for IPv6", prefix, first))
				return
			}
		}
	}
	check(path+".source", a.Source)
	check(path+".destination", a.Destination)
}

// protocol decodes the name or number of a protocol; numbers that have a name get it.
func (d decoder) protocol(path string, node ast.Node) string {
	const want = "tcp, udp, icmp, sctp, gre or a number from 1 to 255"
	if n, ok := node.(*ast.IntegerNode); ok {
		number := d.number(path, n, 1, 255)
		if number == 0 {
			return ""
		}
		return protocolOf(number)
	}
	text, ok := d.text(path, node, want)
	if !ok {
		return ""
	}
	if slices.Contains([]string{"tcp", "udp", "icmp", "sctp", "gre"}, text) {
		return text
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 || number > 255 || strconv.Itoa(number) != text {
		d.add(path, fmt.Sprintf("must be %s, but is %q", want, shorten(text)))
		return ""
	}
	return protocolOf(number)
}

// protocolOf returns the name of a protocol (IANA's registry), or its number. The number of ICMP is
// that of one family, while the name means both, so it stays a number.
func protocolOf(number int) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 47:
		return "gre"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(number)
}

// portRanges decodes a list of ports and ranges, no two of which overlap: the kernel's sets
// refuse that.
func (d decoder) portRanges(path string, node ast.Node) []PortRange {
	var ranges []PortRange
	d.items(path, node, func(path string, n ast.Node) {
		r := d.portRange(path, n)
		if i := slices.IndexFunc(ranges, r.overlaps); i >= 0 && r.First > 0 {
			d.add(path, fmt.Sprintf("%s overlaps %s, which stands before it; remove the smaller one", r, ranges[i]))
		}
		ranges = append(ranges, r)
	})
	return ranges
}

// portRange decodes "443" or "8000-8010".
func (d decoder) portRange(path string, node ast.Node) PortRange {
	const want = "a port from 1 to 65535 or a range such as 8000-8010"
	if n, ok := node.(*ast.IntegerNode); ok {
		port := uint16(d.number(path, n, 1, 65535))
		return PortRange{port, port}
	}
	text, ok := d.text(path, node, want)
	if !ok {
		return PortRange{}
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, ok := portOf(low)
	last, ok2 := portOf(high)
	switch {
	case !ok || !ok2:
		d.add(path, fmt.Sprintf("must be %s, but is %q", want, shorten(text)))
	case first > last:
		d.add(path, fmt.Sprintf("%s ends before it begins; write %s-%s", text, high, low))
	default:
		return PortRange{first, last}
	}
	return PortRange{}
}

func portOf(text string) (uint16, bool) {
	port, err := strconv.ParseUint(text, 10, 16)
	return uint16(port), err == nil && port > 0 && strconv.FormatUint(port, 10) == text
}

// bitRate decodes a rate with its unit.
func (d decoder) bitRate(path string, node ast.Node) BitRate {
	const want = "a rate from 16kbit to 1000Gbit per second in kbit, Mbit or Gbit, such as 100Mbit"
	if n, ok := node.(*ast.IntegerNode); ok {
		d.add(path, fmt.Sprintf("must be %s; the number %s lacks its unit", want, shorten(n.Token.Value)))
		return 0
	}
	text, ok := d.text(path, node, want)
	if !ok {
		return 0
	}
	for _, unit := range bitRateUnits() {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		count, err := strconv.ParseUint(digits, 10, 32)
		if rate := BitRate(count) * unit.bits; err == nil && strconv.FormatUint(count, 10) == digits && rate >= minRate && rate <= maxRate {
			return rate
		}
	}
	d.add(path, fmt.Sprintf("must be %s, but is %q", want, shorten(text)))
	return 0
}
