package uplink

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tandem/router/config"
)

// Config is what the selector needs to know of a document; see [NewConfig].
type Config struct {
	uplinks []uplinkConfig
	paths   []pathConfig
}

type uplinkConfig struct {
	name    string
	vrid    uint8
	cost    uint8
	metered bool
	labels  []string
	// families tells for IPv4 and IPv6 whether the uplink has it, gateways whether there is
	// a next hop to ask, servers whether there are name servers.
	families, gateways, servers [2]bool
}

type pathConfig struct {
	path    Path
	uplinks []string
	maxCost uint8
	probe   config.Probe
	// keep is [config.FailbackKeep].
	keep  bool
	drain time.Duration
	// free tells that flows are bound to no uplink: the network has an address that every
	// uplink leads to, so they go wherever the routes lead and none is ever ended.
	free bool
}

// NewConfig reads it from a document that is valid and complete, as config.Parse leaves it.
func NewConfig(doc *config.Document) Config {
	var c Config
	for i := range doc.Uplinks {
		c.uplinks = append(c.uplinks, newUplinkConfig(&doc.Uplinks[i]))
	}
	for i := range doc.Networks {
		n := &doc.Networks[i]
		c.paths = append(c.paths, c.networkPaths(n)...)
	}
	return c
}

func newUplinkConfig(u *config.Uplink) uplinkConfig {
	c := uplinkConfig{name: u.Name, vrid: u.VRID, cost: u.Cost, metered: u.Metered, labels: slices.Clone(u.Labels)}
	c.families[0] = u.Prefix.IsValid() || u.Gateway.IsValid()
	c.gateways[0] = u.Gateway.IsValid()
	if u.IPv6 != nil {
		c.families[1], c.gateways[1] = true, u.IPv6.Gateway.IsValid()
	}
	for _, server := range u.DNS {
		c.servers[index(server.Is6())] = true
	}
	return c
}

// networkPaths returns the default routes of a network and its further ones, as far as they
// have a choice. IPv6 is there if the network has it, and takes the uplinks that have it.
func (c *Config) networkPaths(n *config.Network) []pathConfig {
	base := pathConfig{maxCost: n.MaxCost, keep: n.Failback == config.FailbackKeep, drain: n.DrainTime, free: n.RoutedNATAddress.IsValid()}
	var paths []pathConfig
	add := func(destination netip.Prefix, uplinks []string, probe config.Probe) {
		ipv6 := destination.Addr().Is6()
		if ipv6 && n.IPv6 == nil {
			return
		}
		p := base
		p.path, p.probe = Path{Network: n.Name, Destination: destination}, complete(probe)
		p.uplinks = c.resolve(uplinks, ipv6)
		// The address that every uplink leads to is of one family.
		p.free = p.free && n.RoutedNATAddress.Is6() == ipv6
		if len(p.uplinks) > 0 {
			paths = append(paths, p)
		}
	}
	uplinks := n.Uplinks
	if len(uplinks) == 0 && n.Uplink != "" {
		uplinks = []string{n.Uplink}
	}
	add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), uplinks, n.Probe)
	add(netip.PrefixFrom(netip.IPv6Unspecified(), 0), uplinks, n.Probe)
	for _, r := range n.Routes {
		probe := n.Probe
		if r.Probe != nil {
			probe = *r.Probe
		}
		add(r.Destination, r.Uplinks, probe)
	}
	return paths
}

// resolve returns the uplinks that names and labels mean and that have the family, in the order of the document.
func (c *Config) resolve(names []string, ipv6 bool) []string {
	var found []string
	for _, u := range c.uplinks {
		if u.families[index(ipv6)] && u.called(names) {
			found = append(found, u.name)
		}
	}
	return found
}

func (u *uplinkConfig) called(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name == u.name || slices.Contains(u.labels, name) })
}

// complete fills in what a document that was not parsed leaves open.
func complete(p config.Probe) config.Probe {
	p.Targets = slices.Clone(p.Targets)
	p.Need = max(p.Need, 1)
	p.Interval = cmp.Or(p.Interval, config.DefaultProbeInterval)
	p.Timeout = cmp.Or(p.Timeout, config.DefaultProbeTimeout)
	p.Rise, p.Fall = cmp.Or(p.Rise, config.DefaultRise), cmp.Or(p.Fall, config.DefaultFall)
	p.LossLimit = cmp.Or(p.LossLimit, config.DefaultLossLimit)
	return p
}

// targets returns those of a path that can be asked through an uplink. An address is asked in its
// own family only, a name in both; names are resolved by the uplink's own servers,
// those of the family for a target of kind dns.
func (p *pathConfig) targets(u *uplinkConfig) []config.Target {
	var asked []config.Target
	for _, t := range p.probe.Targets {
		if t.Kind == config.ProbeDNS {
			if u.servers[index(p.path.IPv6())] {
				asked = append(asked, t)
			}
			continue
		}
		if a, err := netip.ParseAddr(host(t)); err != nil || a.Unmap().Is6() == p.path.IPv6() {
			asked = append(asked, t)
		}
	}
	return asked
}

// host is the host part of a target.
func host(t config.Target) string {
	if t.Kind != config.ProbeHTTP {
		return t.Host
	}
	_, rest, _ := strings.Cut(t.Host, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	if _, after, ok := strings.Cut(rest, "@"); ok {
		rest = after
	}
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		inner, _, _ = strings.Cut(inner, "]")
		return inner
	}
	rest, _, _ = strings.Cut(rest, ":")
	return rest
}

// index is the place of a family in arrays.
func index(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}
