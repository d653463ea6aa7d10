package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

const (
	giveDestination = "give the subnet that the route leads to, e.g. 10.0.0.0/8"
	giveOperation   = "give the name of the operation, such as updates"

	minProbeInterval = 100 * time.Millisecond
	maxProbeInterval = time.Hour
	minProbeTimeout  = 50 * time.Millisecond
	maxProbeTimeout  = time.Minute
	maxTurns         = 100
	// maxTargets keeps what one network asks for within what a probed host tolerates.
	maxTargets   = 32
	maxDrainTime = 24 * time.Hour
)

func (d decoder) cost(path string, node ast.Node) uint8 { return uint8(d.number(path, node, 0, 255)) }

// names decodes a list of names, each of which may stand once.
func (d decoder) names(path string, node ast.Node) []string {
	var names []string
	seen := map[string]string{}
	d.items(path, node, func(path string, n ast.Node) {
		name := d.name(path, n)
		d.once(seen, name, path)
		names = append(names, name)
	})
	return names
}

// once reports a text of a list that stands there already.
func (d decoder) once(seen map[string]string, text, path string) {
	if first, ok := taken(seen, text, path); ok {
		d.add(path, fmt.Sprintf("%q stands already at %s; remove one of them", shorten(text), first))
	}
}

// uplinkNames decodes the uplinks that there is a choice between.
func (d decoder) uplinkNames(path string, node ast.Node) []string {
	before := len(d.faults)
	names := d.names(path, node)
	if len(names) == 0 && len(d.faults) == before {
		d.add(path, "is empty; give the name or a label of at least one uplink")
	}
	return names
}

// servers decodes addresses of name servers.
func (d decoder) servers(path string, node ast.Node) []netip.Addr {
	var servers []netip.Addr
	seen := map[netip.Addr]string{}
	d.items(path, node, func(path string, n ast.Node) {
		address := d.addressOfEither(path, n)
		if address.IsValid() && !askable(address) {
			d.add(path, fmt.Sprintf("%s is not the address of a server; give one that the uplink leads to", address))
			address = netip.Addr{}
		}
		if first, ok := taken(seen, address, path); ok {
			d.add(path, fmt.Sprintf("%s stands already at %s; remove one of them", address, first))
		}
		servers = append(servers, address)
	})
	return servers
}

// askable says whether a host beyond an uplink may have the address.
func askable(address netip.Addr) bool {
	if address.Is4() {
		return unicast(netip.PrefixFrom(address, 32))
	}
	return global(address)
}

// natAddresses decodes addresses by the names of uplinks.
func (d decoder) natAddresses(path string, node ast.Node) map[string]netip.Addr {
	addresses := map[string]netip.Addr{}
	for _, e := range d.entries(path, node) {
		if e.value != nil {
			addresses[e.key] = d.address(e.path, e.value)
		}
	}
	return addresses
}

func (d decoder) probe(path string, node ast.Node) Probe {
	p := DefaultProbe()
	timeout := false
	turns := func(to *int) func(string, ast.Node) {
		return func(path string, n ast.Node) { *to = d.number(path, n, 1, maxTurns) }
	}
	d.fields(
		path, node,
		field{"targets", "", func(path string, n ast.Node) { p.Targets = d.targets(path, n) }},
		field{"need", "", func(path string, n ast.Node) { p.Need = d.number(path, n, 1, maxTargets) }},
		field{"interval", "", func(path string, n ast.Node) {
			p.Interval = d.durationBetween(path, n, minProbeInterval, maxProbeInterval, "1s")
		}},
		field{"timeout", "", func(path string, n ast.Node) {
			p.Timeout, timeout = d.durationBetween(path, n, minProbeTimeout, maxProbeTimeout, "1s"), true
		}},
		field{"rise", "", turns(&p.Rise)},
		field{"fall", "", turns(&p.Fall)},
		field{"loss_limit", "", turns(&p.LossLimit)},
	)
	if !timeout && p.Interval != 0 {
		p.Timeout = min(p.Timeout, p.Interval)
	}
	return p
}

// targets decodes a list of targets, each of which may stand once.
func (d decoder) targets(path string, node ast.Node) []Target {
	var targets []Target
	seen := map[Target]string{}
	d.items(path, node, func(path string, n ast.Node) {
		t := d.target(path, n)
		if first, ok := taken(seen, t, path); ok && t.Host != "" {
			d.add(path, fmt.Sprintf("asks the same as %s; remove one of them", first))
		}
		targets = append(targets, t)
	})
	if len(targets) > maxTargets {
		d.add(path, fmt.Sprintf("has %d targets, but at most %d are asked; a few that have nothing in common tell as much", len(targets), maxTargets))
	}
	return targets
}

func (d decoder) target(path string, node ast.Node) Target {
	var t Target
	var kinds []string
	kind := func(kind string, decode func(path string, n ast.Node)) field {
		return field{kind, "", func(path string, n ast.Node) {
			kinds = append(kinds, kind)
			t.Kind = kind
			decode(path, n)
		}}
	}
	before := len(d.faults)
	d.fields(
		path, node,
		kind(ProbeICMP, func(path string, n ast.Node) { t.Host = d.host(path, n) }),
		kind(ProbeTCP, func(path string, n ast.Node) { t.Host, t.Port = d.hostPort(path, n) }),
		kind(ProbeDNS, func(path string, n ast.Node) { t.Host = d.hostName(path, n) }),
		kind(ProbeHTTP, func(path string, n ast.Node) { t.Host = d.url(path, n) }),
		field{"status", "", func(path string, n ast.Node) { t.Status = d.number(path, n, 100, 599) }},
		field{"body", "", func(path string, n ast.Node) { t.Body = d.body(path, n) }},
	)
	switch {
	case len(d.faults) > before:
	case len(kinds) == 0:
		d.add(path, "asks nothing; give it one of icmp, tcp, dns and http")
	case len(kinds) > 1:
		d.add(path, fmt.Sprintf("has %s; make a target of each", strings.Join(kinds, " and ")))
	case t.Kind == ProbeHTTP:
		return t
	case t.Status != 0:
		d.add(path+".status", "is what http answers with; remove this key or ask by http")
	case t.Body != "":
		d.add(path+".body", "is what http answers with; remove this key or ask by http")
	default:
		return t
	}
	return Target{}
}

func (d decoder) route(path string, node ast.Node) Route {
	var r Route
	chosen := false
	d.fields(
		path, node,
		field{"destination", giveDestination, func(path string, n ast.Node) { r.Destination = d.subnet(path, n) }},
		field{"via", "", func(path string, n ast.Node) { r.Via, chosen = d.addressOfEither(path, n), true }},
		field{"uplinks", "", func(path string, n ast.Node) { r.Uplinks, chosen = d.uplinkNames(path, n), true }},
		field{"probe", "", func(path string, n ast.Node) {
			p := d.probe(path, n)
			r.Probe = &p
		}},
	)
	switch {
	case r.Via.IsValid() && len(r.Uplinks) > 0:
		d.add(path+".via", "stands beside uplinks; a route takes a next hop or uplinks, so remove one of the two keys")
	case r.Via.IsValid() && r.Probe != nil:
		d.add(path+".probe", "chooses between uplinks, but the route goes via a next hop; remove this key")
	case !chosen && !d.faulty(path, path+".via", path+".uplinks"):
		d.add(path, "leads nowhere; give it via, the address of a next hop, or uplinks")
	}
	return r
}

func (d decoder) operation(path string, node ast.Node) Operation {
	o := Operation{MaxCost: DefaultMaxCost}
	d.fields(
		path, node,
		field{"name", giveOperation, func(path string, n ast.Node) { o.Name = d.name(path, n) }},
		field{"max_cost", "", func(path string, n ast.Node) { o.MaxCost = d.cost(path, n) }},
		field{"metered", "", func(path string, n ast.Node) { o.Metered = d.truth(path, n) }},
		field{"uplinks", "", func(path string, n ast.Node) { o.Uplinks = d.uplinkNames(path, n) }},
	)
	return o
}

// durationBetween decodes a duration within bounds.
func (d decoder) durationBetween(path string, node ast.Node, low, high time.Duration, example string) time.Duration {
	want := fmt.Sprintf("a duration from %s to %s, such as %s", brief(low), brief(high), example)
	value, _ := d.duration(path, node, want, func(v time.Duration) bool { return low <= v && v <= high })
	return value
}

// brief leaves out the zeroes with which a time.Duration is written.
func brief(v time.Duration) string {
	text := v.String()
	for _, zeroes := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zeroes) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// subnet decodes a subnet of either family, of any length.
func (d decoder) subnet(path string, node ast.Node) netip.Prefix {
	text, ok := d.text(path, node, "a subnet")
	if !ok {
		return netip.Prefix{}
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		message := fmt.Sprintf("%q is not a subnet such as 10.0.0.0/24", shorten(text))
		if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" && !address.Is4In6() {
			message = fmt.Sprintf("%s lacks the prefix length; write %s", address, netip.PrefixFrom(address, address.BitLen()))
		}
		d.add(path, message)
		return netip.Prefix{}
	}
	switch masked := prefix.Masked(); {
	case prefix.Addr().Is4In6():
		d.add(path, fmt.Sprintf("%s is an IPv4 subnet in the form of an IPv6 one; write it as IPv4", prefix))
	case prefix != masked:
		d.add(path, fmt.Sprintf("%s has bits set beyond its prefix length; write %s", prefix, masked))
	default:
		return prefix
	}
	return netip.Prefix{}
}

// subnets decodes a list of subnets, no two of which overlap: the kernel's sets refuse that.
func (d decoder) subnets(path string, node ast.Node) []netip.Prefix {
	var prefixes []netip.Prefix
	d.items(path, node, func(path string, n ast.Node) {
		prefix := d.subnet(path, n)
		if i := slices.IndexFunc(prefixes, prefix.Overlaps); i >= 0 {
			d.add(path, fmt.Sprintf("%s overlaps %s, which stands before it; remove the smaller one", prefix, prefixes[i]))
		}
		prefixes = append(prefixes, prefix)
	})
	return prefixes
}
