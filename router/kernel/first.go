package kernel

import (
	"errors"
	"fmt"

	"tandem/conntracksync/nfqueue"
	"tandem/router"
)

// FirstPackets tells of the table that picks the first packets of flows.
type FirstPackets struct {
	// Lacking is a sentence that says why none are held though a network asks for it;
	// empty if they can be. Nothing else depends on it.
	Lacking string
	// Counts are the table's counters.
	Counts nfqueue.Counts
}

// holdFirst keeps the table that picks the first packets of flows. It comes before
// all other tables: the kernel holds packets only if the table is older than any use of
// connection tracking.
func (r *Reconciler) holdFirst(intent router.Intent) (changed []string, first FirstPackets) {
	if len(intent.Held) == 0 {
		// Where nftables is missing the other tables tell.
		if done, err := r.first.Remove(); err == nil && done {
			changed = r.noteFirst("delete")
		}
		return changed, first
	}
	done, err := r.first.Ensure(intent.Held)
	if err == nil {
		if done {
			changed = r.noteFirst("replace")
		}
		first.Counts, err = r.first.Counts()
	}
	switch {
	case errors.Is(err, nfqueue.ErrUnsupported):
		first.Lacking = nfqueue.ErrUnsupported.Error()
	case err != nil:
		first.Lacking = withCure(explainNetfilter(err), err).Error()
	case first.Counts.Early > 0:
		first.Lacking = fmt.Sprintf("connection tracking was in use before Tandem's %s was there; "+
			"restart this machine, and start Tandem before other firewalls", r.first)
	}
	return changed, first
}

func (r *Reconciler) noteFirst(what string) []string {
	change := what + " " + r.first.String()
	r.logger.Info("kernel changed", "group", r.group, "change", change)
	return []string{change}
}
