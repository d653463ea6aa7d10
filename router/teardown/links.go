package teardown

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// links returns the links by which packets of hosts of these networks come in, by index: those
// whose rule names the table that the rule of the network's own prefix names. A link that has gone
// is left out.
func (t *table) links(networks []netip.Prefix) (map[int]string, error) {
	handle, err := netlink.NewHandleAt(t.namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for rules: %w", err)
	}
	defer handle.Close()
	found := make(map[int]string)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := handle.RuleList(family)
		if err != nil {
			return nil, fmt.Errorf("read rules of routing: %w", err)
		}
		tables := make(map[int]bool)
		for _, r := range rules {
			if isNetwork(r, networks) {
				tables[r.Table] = true
			}
		}
		for _, r := range rules {
			if r.IifName == "" || !tables[r.Table] {
				continue
			}
			link, err := handle.LinkByName(r.IifName)
			if err != nil {
				continue
			}
			found[link.Attrs().Index] = r.IifName
		}
	}
	return found, nil
}

// isNetwork tells whether a rule is about what comes from the whole of a network.
func isNetwork(r netlink.Rule, networks []netip.Prefix) bool {
	if r.Src == nil {
		return false
	}
	address, ok := netip.AddrFromSlice(r.Src.IP)
	bits, _ := r.Src.Mask.Size()
	from := netip.PrefixFrom(address.Unmap(), bits)
	for _, n := range networks {
		if ok && from == n.Masked() {
			return true
		}
	}
	return false
}
