package node

import (
	"slices"
	"time"

	"tandem/conntracksync"
)

const (
	// sampleFlows is how many of the newest translated flows are read back, every
	// verifyInterval.
	sampleFlows    = 8
	verifyInterval = 5 * time.Second
	// countInterval is how often a BACKUP counts its table, missingFlows how many fewer
	// than it has written make it look which.
	countInterval = time.Second
	missingFlows  = 16
)

// samples are flows that were written a moment ago. An entry can look right in a
// listing and translate nothing, so some are read back.
type samples struct {
	flows []conntracksync.Flow
	next  int
	// dueAt is when they are read back next.
	dueAt                 time.Time
	verified, differently uint64
}

// take remembers the last flow of a successful batch, if it is one that can be judged:
// translated, and created.
func (s *samples) take(ops []conntracksync.Op, failed []int) {
	i := len(ops) - 1
	op := &ops[i]
	created := op.Kind == conntracksync.OpCreate || op.Kind == conntracksync.OpReplace
	f := &op.Flow
	translated := f.Reply.Destination != f.Original.Source || f.Reply.Source != f.Original.Destination
	if !created || !translated || slices.Contains(failed, i) {
		return
	}
	if len(s.flows) < sampleFlows {
		s.flows = append(s.flows, *f)
		return
	}
	s.flows[s.next] = *f
	s.next = (s.next + 1) % sampleFlows
}

// verify reads the samples back when it is time. Those that are gone meanwhile say
// nothing.
func (r *replication) verify(now time.Time) {
	s := &r.samples
	if now.Before(s.dueAt) || len(s.flows) == 0 {
		return
	}
	s.dueAt = now.Add(verifyInterval)
	mismatches, err := r.table.Verify(s.flows)
	if err != nil {
		r.node.log.Warn("sessions could not be read back from the kernel", "error", err)
	}
	s.verified += uint64(len(s.flows))
	for _, m := range mismatches {
		if m.Missing || m.ReplyDiffers {
			continue // another flow has its place by now
		}
		s.differently++
		f := &s.flows[m.Index]
		r.node.log.Error("a session of the peer is not in the kernel as it should be; a failover would cut it",
			"from", f.Original.Source, "to", f.Original.Destination, "protocol", f.Protocol, "what", m.String())
	}
	s.flows, s.next = s.flows[:0], 0
}

// count looks whether flows are missing in a BACKUP's table, since nobody reports the
// end of one there. A few are found by the regular passes.
func (r *replication) count(now time.Time) {
	if r.role.master || now.Sub(r.countedAt) < countInterval {
		return
	}
	r.countedAt = now
	sessions, err := r.table.Count()
	if err != nil || int(sessions)+missingFlows > r.index.Flows() {
		return // an error shows in the status
	}
	r.receiver.Recheck(now)
	r.publish()
}
