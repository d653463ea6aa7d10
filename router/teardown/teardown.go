package teardown

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

const (
	// passes bounds how often the table of flows is looked through in one call.
	passes = 5
	// portion is how many flows are worked on at a time.
	portion = 4096

	// remindAfter is when hosts are told once more, in case a packet was lost: after the time
	// for which Linux answers no second segment outside of the window
	// (net.ipv4.tcp_invalid_ratelimit, 500 ms). Of more flows than remindMost none is.
	remindAfter = 550 * time.Millisecond
	remindMost  = 1 << 14
)

// Teardown ends flows. Its methods are safe for concurrent use.
type Teardown struct {
	mu     sync.Mutex
	reader *ctnetlink.Reader
	writer *ctnetlink.Writer
	sender *sender
	table  *table
	closed bool
	// cleaning removes the table some time after answered, when its sets last got flows.
	cleaning *time.Timer
	answered time.Time
}

// New is for the group and the current network namespace, with which it stays. It leaves the
// kernel as it is.
func New(group string) (*Teardown, error) {
	t := &Teardown{}
	var err error
	if t.table, err = newTable(group); err != nil {
		return nil, err
	}
	if t.reader, err = ctnetlink.NewReader(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if t.writer, err = ctnetlink.NewWriter(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if t.sender, err = newSender(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close removes the table. Segments of flows that were ended are not answered from then on.
func (t *Teardown) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.cleaning != nil {
		t.cleaning.Stop()
	}
	err := t.table.close()
	if t.reader != nil {
		err = errors.Join(err, t.reader.Close())
	}
	if t.writer != nil {
		err = errors.Join(err, t.writer.Close())
	}
	if t.sender != nil {
		err = errors.Join(err, t.sender.close())
	}
	return err
}

// End ends the flows that any of all selects, until none is left or a few passes have been
// made. Where TCP connections were among them it stays a little over half a second longer and
// tells their hosts once more; other calls go on meanwhile. It may be called as often as one
// likes: without such flows it is one look at the kernel's table for each mark.
//
// An error does not keep it from the rest: a host that cannot be told loses its flow all the
// same. What ctx ends is the looking and the waiting.
func (t *Teardown) End(ctx context.Context, all []Flows) (Ended, error) {
	ended, remind, err := t.end(ctx, all)
	if len(remind) == 0 {
		return ended, err
	}
	timer := time.NewTimer(remindAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ended, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ended, err
	}
	_, failed := t.sender.wake(remind, true)
	return ended, lastError(err, failed)
}

// end is End without the reminder, whose flows it returns. While some hosts are being told,
// the flows of others are deleted and looked for.
func (t *Teardown) end(ctx context.Context, all []Flows) (ended Ended, remind []flow, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ended, nil, ctnetlink.ErrClosed
	}
	hosts := telling{sender: t.sender}
	hosts.SetLimit(1) // they would only be in each other's way
	for pass := 0; ; pass++ {
		found, failed := t.find(ctx, all)
		ended.Left = len(found)
		again := pass < passes && ctx.Err() == nil
		interrupted := errors.Is(failed, ctnetlink.ErrInterrupted)
		if failed != nil && (!interrupted || !again) {
			err = failed
		}
		// A dump that was interrupted may have missed some.
		if !again || len(found) == 0 && !interrupted {
			break
		}
		if pass == 0 {
			if failed := t.prepare(all, found); failed != nil {
				err = failed
			}
		}
		for part := range slices.Chunk(found, portion) {
			if failed := t.remove(part, &ended); failed != nil {
				err = failed
			}
			hosts.tell(part, len(found) <= remindMost)
		}
		for i := range found {
			if f := &found[i]; f.wake && f.answer && len(remind) <= remindMost {
				remind = append(remind, *f)
			}
		}
	}
	failed := hosts.Wait()
	ended.Told = hosts.told
	if len(remind) > remindMost {
		remind = nil
	}
	return ended, remind, cmp.Or(err, failed)
}

// telling is the work of telling hosts.
type telling struct {
	errgroup.Group
	sender *sender
	told   int
}

// tell gives each of very many one packet only: that it is within the window, and that the
// acknowledgement in it would do, is next to impossible.
func (t *telling) tell(flows []flow, both bool) {
	t.Go(func() error {
		told, err := t.sender.wake(flows, both)
		t.told += told
		return err
	})
}

// find returns the flows that any of all selects, each once.
func (t *Teardown) find(ctx context.Context, all []Flows) ([]flow, error) {
	type marked struct{ mark, mask uint32 }
	byMark := make(map[marked][]*Flows)
	for i := range all {
		m := marked{all[i].Mark & all[i].Mask, all[i].Mask}
		byMark[m] = append(byMark[m], &all[i])
	}
	var found []flow
	var err error
	for m, group := range byMark {
		failed := t.reader.DumpMarked(ctx, m.mark, m.mask, func(f *conntracksync.Flow, id uint32) error {
			for _, s := range group {
				if picked, ok := s.pick(f); ok {
					picked.entry.ID = id
					found = append(found, picked)
					break
				}
			}
			return nil
		})
		err = errors.Join(err, failed)
	}
	return found, err
}

// prepare makes the tables ready if segments of flows are to be answered.
func (t *Teardown) prepare(all []Flows, found []flow) error {
	if !slices.ContainsFunc(found, func(f flow) bool { return f.answer }) {
		return nil
	}
	var networks []netip.Prefix
	for i := range all {
		networks = append(networks, all[i].Networks...)
	}
	links, err := t.table.links(networks)
	return cmp.Or(t.table.prepare(links), err)
}

// remove deletes flows. Segments are answered before the entry is gone, or one in between
// would begin the flow anew.
func (t *Teardown) remove(flows []flow, ended *Ended) error {
	unanswered := t.table.answer(flows)
	t.clean(answeredTime)
	entries := make([]ctnetlink.Entry, len(flows))
	for i := range flows {
		entries[i] = flows[i].entry
	}
	result, err := t.writer.Remove(entries)
	if err == nil && result.Refused > 0 {
		err = fmt.Errorf("delete %d flows from connection tracking: refused by the kernel: %v", result.Refused, result.RefusedBy)
	}
	for i := range flows {
		if _, refused := slices.BinarySearch(result.Failed, i); refused {
			continue
		}
		switch flows[i].entry.Key.Protocol {
		case unix.IPPROTO_TCP:
			ended.TCP++
		case unix.IPPROTO_UDP:
			ended.UDP++
		default:
			ended.Other++
		}
	}
	return cmp.Or(unanswered, err)
}

// clean has the table removed when no flow has come into it for a time: until then its chain
// sees every packet.
func (t *Teardown) clean(after time.Duration) {
	t.answered = time.Now()
	if t.cleaning != nil {
		t.cleaning.Reset(after)
		return
	}
	t.cleaning = time.AfterFunc(after, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		// It may have been set anew while this was waiting for its turn.
		if t.closed || time.Since(t.answered) < after {
			return
		}
		_ = t.table.remove() // Close tries it again, and says so
	})
}
