package ctnetlink

import (
	"fmt"

	"tandem/conntracksync"
)

// Entry is one entry of the table. Another flow that takes the place of one that has ended
// has the same key and another ID, unless it has got the very same memory as well.
type Entry struct {
	Key conntracksync.Key
	ID  uint32
}

// Remove deletes entries, of which the result counts those that were not there any more as
// absent. The error is like that of [Writer.Apply].
func (w *Writer) Remove(entries []Entry) (Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var res Result
	var ops [batchOps]conntracksync.Op
	for first := 0; first < len(entries); first += batchOps {
		w.pending = w.pending[:0]
		for i := range min(batchOps, len(entries)-first) {
			e := &entries[first+i]
			ops[i] = conntracksync.Op{Kind: conntracksync.OpSweep, Flow: conntracksync.Flow{Key: e.Key}}
			if refusal := check(&ops[i]); refusal != "" {
				res.refuse(first+i, refusal)
				continue
			}
			w.pending = append(w.pending, attempt{op: &ops[i], index: first + i, step: stepSweep, id: e.ID, hasID: true})
		}
		if err := w.work(&res); err != nil {
			return res, err
		}
	}
	return res, nil
}

// work carries out what is pending.
func (w *Writer) work(res *Result) error {
	for len(w.pending) > 0 {
		w.encode()
		if w.count > 0 {
			if err := w.exchange(); err != nil {
				return fmt.Errorf("write conntrack batch of %d messages: %w", w.count, err)
			}
		}
		open := w.pending[:0]
		for i := range w.pending {
			if a := w.pending[i]; w.settle(&a, res) {
				open = append(open, a)
			}
		}
		w.pending = open
	}
	return nil
}
