package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"tandem/router"
)

// Remove takes everything of the group out of the kernel and gives back the
// sysctls that were before the first Apply, except those that somebody else has
// changed since. It goes on after errors and returns them all.
func (r *Reconciler) Remove(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	nothing := router.Intent{Group: r.group}
	seen, err := r.observe(nothing)
	if err != nil {
		return err
	}
	var errs []error
	ops := removal(nothing, seen)
	r.deleteTogether(ops)
	for _, o := range ops {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := r.do(o, nothing); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o, err))
		}
	}
	// The fence goes last: by now there is nothing left to hold back.
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.fence.Remove(); err != nil {
		return fmt.Errorf("remove the fence: %w", err)
	}
	for _, f := range []family{ipv4, ipv6} {
		if err := r.deleteTable(f); err != nil {
			return fmt.Errorf("delete table %s %s: %w", f.table(), tableName(r.group), err)
		}
	}
	if _, err := r.first.Remove(); err != nil {
		return err
	}
	return r.restoreSysctls(nil)
}

// removal plans the deletion of everything that is ours.
func removal(nothing router.Intent, seen observed) []op {
	p := newPlanner(nothing, seen)
	p.chooseLinks()
	p.deleteLinks()
	p.rules()
	p.routes()
	p.deleteAddresses()
	return p.ops
}

// restoreSysctls gives back the originals of all sysctls but the wanted ones.
func (r *Reconciler) restoreSysctls(wanted []setting) error {
	var errs []error
	keep := make(map[string]bool, len(wanted))
	for _, s := range wanted {
		keep[s.path] = true
	}
	next := r.memory.clone()
	err := r.inNamespace(func() error {
		for _, path := range slices.SortedFunc(maps.Keys(r.memory.Sysctls), inOrderOfRestoration) {
			if keep[path] {
				continue
			}
			if err := restore(path, r.memory.Sysctls[path]); err != nil {
				errs = append(errs, fmt.Errorf("restore sysctl %s: %w", path, err))
				continue
			}
			delete(next.Sysctls, path)
		}
		return errors.Join(errs...)
	})
	return errors.Join(err, r.keep(next))
}

// inOrderOfRestoration has what is for all interfaces before what is for one: the
// kernel carries the former over to every interface.
func inOrderOfRestoration(a, b string) int {
	single := func(path string) int {
		if strings.Contains(path, "/conf/") && !strings.Contains(path, "/conf/all/") {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(single(a), single(b)), strings.Compare(a, b))
}

func restore(path string, o original) error {
	value, err := readSysctl(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its interface is gone
	}
	if err != nil || value != o.Set || value == o.Original {
		return err
	}
	return writeSysctl(path, o.Original)
}
