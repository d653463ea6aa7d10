package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// choices are the uplinks that the rest of the document may refer to.
type choices struct {
	*report

	doc *Document
	// names and labels stand in the order of the document.
	names, labels []string
	// unread tells that not all of them could be read, so that nothing can be said about a
	// name that is not among them.
	unread bool
}

func choicesOf(doc *Document, r *report) choices {
	c := choices{report: r, doc: doc, unread: r.faulty("uplinks")}
	for i, u := range doc.Uplinks {
		path := fmt.Sprintf("uplinks[%d]", i)
		c.unread = c.unread || u.Name == "" || r.faulty(path+".labels") || slices.Contains(u.Labels, "")
		if u.Name != "" {
			c.names = append(c.names, u.Name)
		}
		for _, label := range u.Labels {
			if label != "" && !slices.Contains(c.labels, label) {
				c.labels = append(c.labels, label)
			}
		}
	}
	return c
}

// offer names what may be named.
func (c choices) offer() string {
	text := "name one of " + strings.Join(c.names, ", ")
	if len(c.labels) > 0 {
		text += " or a label of " + strings.Join(c.labels, ", ")
	}
	return text
}

// resolve replaces names and labels by names, each once and in the order of the document.
func (c choices) resolve(path string, given []string) []string {
	for i, name := range given {
		if name == "" || c.unread || slices.Contains(c.names, name) || slices.Contains(c.labels, name) {
			continue
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		if len(c.names) == 0 {
			c.add(at, fmt.Sprintf("there is no uplink %q; add it to uplinks or remove it here", name))
			continue
		}
		c.add(at, fmt.Sprintf("no uplink has the name or label %q; %s", name, c.offer()))
	}
	var names []string
	for _, u := range c.doc.Uplinks {
		meant := slices.Contains(given, u.Name) || slices.ContainsFunc(u.Labels, func(label string) bool {
			return label != "" && slices.Contains(given, label)
		})
		if meant && u.Name != "" && !slices.Contains(names, u.Name) {
			names = append(names, u.Name)
		}
	}
	return names
}

// resolveUplinks turns labels into names, and the short forms `uplink` and `nat_address` into the
// long ones. It reports what of it refers to nothing.
func resolveUplinks(doc *Document, r *report) {
	c := choicesOf(doc, r)
	for i := range doc.Networks {
		w := &doc.Networks[i]
		path := fmt.Sprintf("networks[%d]", i)
		c.uplinksOf(path, w)
		for j := range w.Routes {
			w.Routes[j].Uplinks = c.resolve(fmt.Sprintf("%s.routes[%d].uplinks", path, j), w.Routes[j].Uplinks)
		}
		c.natAddressesOf(path, w)
	}
	for i := range doc.Operations {
		o := &doc.Operations[i]
		o.Uplinks = c.resolve(fmt.Sprintf("operations[%d].uplinks", i), o.Uplinks)
	}
}

// uplinksOf finds the uplinks of a network's default route.
func (c choices) uplinksOf(path string, w *Network) {
	switch {
	case w.Uplink != "" && len(w.Uplinks) > 0:
		c.add(path+".uplinks", "stands beside uplink; list all of them here and remove the key uplink")
	case c.faulty(path, path+".uplink", path+".uplinks"):
	case w.Uplink != "":
		c.uplinkOf(path, w.Uplink)
		w.Uplinks = []string{w.Uplink}
	case len(w.Uplinks) > 0:
		w.Uplinks = c.resolve(path+".uplinks", w.Uplinks)
	case len(c.names) > 0 && !c.unread:
		c.add(path+".uplinks", "is missing; "+c.offer())
	}
	w.Uplink = ""
}

// uplinkOf reports an only uplink that does not exist.
func (c choices) uplinkOf(path, name string) {
	switch {
	case c.unread || slices.Contains(c.names, name):
	case slices.Contains(c.labels, name):
		c.add(path+".uplink", fmt.Sprintf("%q is a label; write uplinks: [%s]", name, name))
	case len(c.names) == 0:
		c.add(path+".uplink", fmt.Sprintf("there is no uplink %q; add it to uplinks or remove this key", name))
	default:
		c.add(path+".uplink", fmt.Sprintf("there is no uplink %q; name one of %s", name, strings.Join(c.names, ", ")))
	}
}

// natAddressesOf completes the addresses to which a network is translated.
func (c choices) natAddressesOf(path string, w *Network) {
	given := w.NATAddresses
	single, at := w.NATAddress, path+".nat_address"
	w.NATAddress, w.NATAddresses = netip.Addr{}, nil
	paths := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		paths[name] = join(path+".nat_addresses", name)
	}
	switch {
	case !single.IsValid():
	case len(given) > 0:
		c.add(at, "stands beside nat_addresses; write all of them there and remove this key")
	case len(w.Uplinks) > 1:
		c.add(at, "does not tell of which uplink it is; write nat_addresses: {"+w.Uplinks[0]+": "+single.String()+"}")
	case len(w.Uplinks) == 1:
		given, paths[w.Uplinks[0]] = map[string]netip.Addr{w.Uplinks[0]: single}, at
	case c.isolated(path):
		c.add(at, "needs an uplink; name the network's uplink or remove this key")
	}
	if w.RoutedNATAddress.IsValid() && (single.IsValid() || len(given) > 0) {
		c.add(path+".routed_nat_address", "replaces the addresses of all uplinks, but some are given; remove nat_address and nat_addresses, or this key")
	}
	uplinks := w.allUplinks()
	c.strangers(uplinks, given, paths)
	for _, name := range uplinks {
		u, ok := uplink(c.doc, name)
		if !ok || w.RoutedNATAddress.IsValid() {
			continue
		}
		address := given[name]
		read := len(u.Addresses) > 0 && !slices.Contains(u.Addresses, netip.Addr{})
		if read && address.IsValid() && !slices.Contains(u.Addresses, address) {
			c.add(paths[name], fmt.Sprintf("%s is not an address of uplink %q; choose one of its addresses or add it there", address, name))
		}
		if !address.IsValid() && len(u.Addresses) > 0 {
			address = u.Addresses[0]
		}
		if address.IsValid() {
			if w.NATAddresses == nil {
				w.NATAddresses = map[string]netip.Addr{}
			}
			w.NATAddresses[name] = address
		}
	}
}

// strangers reports addresses of uplinks that the network does not use.
func (c choices) strangers(uplinks []string, given map[string]netip.Addr, paths map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case c.unread || len(c.names) == 0 || slices.Contains(uplinks, name):
		case slices.Contains(c.names, name):
			c.add(paths[name], fmt.Sprintf("the network does not use uplink %q; add it to the network's uplinks or remove its address here", name))
		case slices.Contains(c.labels, name):
			c.add(paths[name], fmt.Sprintf("%q is a label; give the address of each uplink by its name", name))
		default:
			c.add(paths[name], fmt.Sprintf("there is no uplink %q; name one of %s", name, strings.Join(c.names, ", ")))
		}
	}
}

// allUplinks returns the uplinks of a network and of its routes, each once.
func (w *Network) allUplinks() []string {
	names := slices.Clone(w.Uplinks)
	for _, r := range w.Routes {
		for _, name := range r.Uplinks {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
