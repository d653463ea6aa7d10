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
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	var errs []error
	for _, name := range links {
		if err := r.forgetUnresolved(name); err != nil {
			errs = append(errs, fmt.Errorf("forget unresolved neighbours on %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Reconciler) forgetUnresolved(name string) error {
	l, err := r.query.LinkByName(name)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return err
	}
	neighbours, err := r.query.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, n := range neighbours {
		if n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) == 0 {
			continue
		}
		// It may have gone by itself.
		if err := r.query.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
