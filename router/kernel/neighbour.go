package kernel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetUnresolved deletes the neighbours on the named links that the kernel asks
// for in vain. A BACKUP's questions do not pass the fence, and the kernel repeats
// one after a second at the earliest: a MASTER that has just taken over would keep
// its first packets back for that long. A link that does not exist is no error.
func (r *Reconciler) ForgetUnresolved(links []string) error {
	wanted := make(map[string]bool, len(links))
	for _, name := range links {
		wanted[name] = true
	}
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	var errs []error
	names := make(map[int]string)
	for _, f := range []family{ipv4, ipv6} {
		var neighbours []netlink.Neigh
		err := dump("list neighbours", func() (err error) {
			neighbours, err = r.query.NeighList(0, f.number())
			return err
		})
		if err != nil {
			return err
		}
		for _, n := range neighbours {
			if n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) == 0 || !wanted[r.linkName(n.LinkIndex, names)] {
				continue
			}
			// It may have gone by itself.
			if err := r.query.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("forget unresolved neighbour %s on %s: %w", n.IP, names[n.LinkIndex], err))
			}
		}
	}
	return errors.Join(errs...)
}

// linkName returns the name of an interface, empty if it has just gone, and keeps
// it in known.
func (r *Reconciler) linkName(index int, known map[int]string) string {
	if name, ok := known[index]; ok {
		return name
	}
	known[index] = ""
	if l, err := r.query.LinkByIndex(index); err == nil {
		known[index] = l.Attrs().Name
	}
	return known[index]
}
