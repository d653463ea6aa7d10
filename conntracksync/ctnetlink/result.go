package ctnetlink

import "maps"

// Refusals of the writer itself; the others bear the name of the kernel's errno.
const (
	// RefusedMalformed is a flow that no kernel would take: an address is missing,
	// families are mixed, a state or an ICMP type is unknown.
	RefusedMalformed = "MALFORMED"
	// RefusedNoState is a flow of TCP, not assured and without its state, or of SCTP
	// without its verification tags. Created all the same it would be listed, and its
	// packets would be invalid.
	RefusedNoState = "NOSTATE"
)

// Parts of a flow that the kernel does not take and without which the flow is written
// all the same: its packets are translated as before.
const (
	// StrippedHelper is a helper that this kernel has not loaded; what it would expect
	// of the session from now on is not expected.
	StrippedHelper = "helper"
	// StrippedMaster is a master that is not in the table (any more).
	StrippedMaster = "master"
	// StrippedLabels are labels of a flow that began when no rule used any.
	StrippedLabels = "labels"
)

// Result counts what became of the operations of one [Writer.Apply]. Each operation
// is counted once in Created, Updated, Deleted, Absent or Refused.
type Result struct {
	Created int
	Updated int
	Deleted int
	// Absent are deletions and time-outs of flows that were not there, and sweeps that
	// found another flow in the place.
	Absent  int
	Refused int
	// Evicted are foreign entries that were deleted because they held a tuple
	// of a flow that was to be created.
	Evicted int
	// RefusedBy splits Refused by the name of the errno, such as ENOMEM for a full
	// table, or by one of the Refused constants. It is nil when nothing was refused.
	RefusedBy map[string]int
	// Stripped counts what was left out of flows that were written, by the Stripped
	// constants. It is nil when nothing was.
	Stripped map[string]int
	// Failed are the indexes of the refused operations in what was passed to Apply, in
	// ascending order. [Result.Add] does not touch it.
	Failed []int
}

// Add adds the counts of o to r.
func (r *Result) Add(o Result) {
	r.Created += o.Created
	r.Updated += o.Updated
	r.Deleted += o.Deleted
	r.Absent += o.Absent
	r.Refused += o.Refused
	r.Evicted += o.Evicted
	r.RefusedBy = addCounts(r.RefusedBy, o.RefusedBy)
	r.Stripped = addCounts(r.Stripped, o.Stripped)
}

func addCounts(to, from map[string]int) map[string]int {
	if len(from) == 0 {
		return to
	}
	if to == nil {
		return maps.Clone(from)
	}
	for name, n := range from {
		to[name] += n
	}
	return to
}

// refuse counts the operation with the given index as refused.
func (r *Result) refuse(index int, name string) {
	r.Refused++
	if r.RefusedBy == nil {
		r.RefusedBy = make(map[string]int)
	}
	r.RefusedBy[name]++
	r.Failed = append(r.Failed, index)
}

// strip counts what was left out of a flow that has been written.
func (r *Result) strip(s stripped) {
	if s == 0 {
		return
	}
	for bit, name := range map[stripped]string{
		strippedHelper: StrippedHelper, strippedMaster: StrippedMaster, strippedLabels: StrippedLabels,
	} {
		if s&bit == 0 {
			continue
		}
		if r.Stripped == nil {
			r.Stripped = make(map[string]int)
		}
		r.Stripped[name]++
	}
}
