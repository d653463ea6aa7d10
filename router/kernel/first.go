package kernel

import (
	"errors"
	"fmt"

	"tandem/conntracksync/nfqueue"
	"tandem/router"
)

// holdFirst keeps the table that picks the first packets of flows. It comes before
// all other tables: the kernel holds packets only if the table is older than any use of
// connection tracking. lacking says why none are held; nothing else depends on it.
func (r *Reconciler) holdFirst(intent router.Intent) (changed, lacking []string) {
	leftOut := func(format string, args ...any) []string {
		return []string{"first_packet: hold is left out: " + fmt.Sprintf(format, args...)}
	}
	if len(intent.Held) == 0 {
		// Where nftables is missing the other tables tell.
		if done, err := r.first.Remove(); err == nil && done {
			changed = r.noteFirst("delete")
		}
		return changed, nil
	}
	done, err := r.first.Ensure(intent.Held)
	switch {
	case errors.Is(err, nfqueue.ErrUnsupported):
		return nil, leftOut("%v", nfqueue.ErrUnsupported)
	case err != nil:
		return nil, leftOut("%v", withCure(explainNetfilter(err), err))
	case done:
		changed = r.noteFirst("replace")
	}
	counts, err := r.first.Counts()
	if err != nil {
		return changed, leftOut("%v", err)
	}
	if counts.Early > 0 {
		return changed, leftOut("connection tracking was in use before Tandem's %s was there; "+
			"restart this machine, and start Tandem before other firewalls", r.first)
	}
	return changed, nil
}

func (r *Reconciler) noteFirst(what string) []string {
	change := what + " " + r.first.String()
	r.logger.Info("kernel changed", "group", r.group, "change", change)
	return []string{change}
}
