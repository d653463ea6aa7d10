package ctnetlink

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// natStatus are the bits of a status that make the kernel translate.
const natStatus = conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT

// Mismatch is a flow that the kernel holds otherwise than it was asked to, although it
// reported no error.
type Mismatch struct {
	// Index is that of the flow in what was passed to [Writer.Verify].
	Index int
	// Missing tells that there is no such flow; the other fields then do not count.
	Missing bool
	// Got is what the kernel has.
	Got conntracksync.Flow
	// Want are the NAT bits that its status should have.
	Want conntracksync.Status
	// ReplyDiffers tells that the reply direction is not the flow's.
	ReplyDiffers bool
}

// String says what is wrong.
func (m Mismatch) String() string {
	if m.Missing {
		return "the flow is not in the table"
	}
	var wrong []string
	if m.ReplyDiffers {
		r := m.Got.Reply
		wrong = append(wrong, fmt.Sprintf("its replies are expected from %v port %d to %v port %d",
			r.Source, r.SourcePort, r.Destination, r.DestinationPort))
	}
	if got := m.Got.Status & natStatus; got != m.Want {
		wrong = append(wrong, fmt.Sprintf("its packets are translated at %s instead of %s", ends(got), ends(m.Want)))
	}
	return strings.Join(wrong, " and ")
}

func ends(s conntracksync.Status) string {
	switch source, dest := s&conntracksync.StatusSourceNAT != 0, s&conntracksync.StatusDestNAT != 0; {
	case source && dest:
		return "both ends"
	case source:
		return "the source"
	case dest:
		return "the destination"
	}
	return "no end"
}

// Verify looks up flows that were written before and returns those that the kernel
// holds otherwise: an entry can look right, reply direction included, without the bits
// that make the kernel translate its packets. Flows that ended or changed since count,
// too, so it is for a handful of flows that have just been created.
func (w *Writer) Verify(flows []conntracksync.Flow) ([]Mismatch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wrong []Mismatch
	for first := 0; first < len(flows); first += batchOps {
		part := flows[first:min(first+batchOps, len(flows))]
		attempts, err := w.get(part)
		if err != nil {
			return wrong, fmt.Errorf("verify %d conntrack flows: %w", len(part), err)
		}
		for i := range part {
			if m, ok := compare(&part[i], &attempts[i]); !ok {
				m.Index = first + i
				wrong = append(wrong, m)
			}
		}
	}
	return wrong, nil
}

// Lookup reads the flows with the given keys as the kernel has them; those that it does
// not have are left out.
func (w *Writer) Lookup(keys []conntracksync.Key) ([]conntracksync.Flow, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var flows []conntracksync.Flow
	for first := 0; first < len(keys); first += batchOps {
		part := make([]conntracksync.Flow, min(batchOps, len(keys)-first))
		for i := range part {
			part[i].Key = keys[first+i]
		}
		attempts, err := w.get(part)
		if err != nil {
			return flows, fmt.Errorf("look up %d conntrack flows: %w", len(part), err)
		}
		for i := range attempts {
			if a := &attempts[i]; a.found != foundNone && a.seen.Key == part[i].Key {
				flows = append(flows, *a.seen)
			}
		}
	}
	return flows, nil
}

// get reads the entries that hold the flows' original tuples.
func (w *Writer) get(flows []conntracksync.Flow) ([]attempt, error) {
	ops := make([]conntracksync.Op, len(flows))
	attempts := make([]attempt, len(flows))
	got := make([]conntracksync.Flow, len(flows))
	w.enc.reset()
	w.base, w.count = w.sequence+1, 0
	for i := range flows {
		ops[i].Flow = flows[i]
		attempts[i] = attempt{op: &ops[i], seen: &got[i]}
		w.enc.get(&flows[i].Key, w.next(&attempts[i]))
	}
	w.enc.acknowledge()
	if err := w.exchange(); err != nil {
		return nil, err
	}
	for i := range flows {
		if errno := w.errnos[i]; errno != 0 && errno != unix.ENOENT {
			return nil, errno
		}
	}
	return attempts, nil
}

// compare returns what differs between want and what a's get has seen.
func compare(want *conntracksync.Flow, a *attempt) (m Mismatch, ok bool) {
	if a.found == foundNone || a.seen.Key != want.Key {
		return Mismatch{Missing: true}, false
	}
	m.Got = *a.seen
	source, dest := translated(want)
	if source {
		m.Want |= conntracksync.StatusSourceNAT
	}
	if dest {
		m.Want |= conntracksync.StatusDestNAT
	}
	m.ReplyDiffers = a.seen.Reply != want.Reply
	return m, !m.ReplyDiffers && a.seen.Status&natStatus == m.Want
}
