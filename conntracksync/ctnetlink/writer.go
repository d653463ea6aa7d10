package ctnetlink

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// Refusals of the writer itself; the others bear the name of the kernel's errno.
const (
	// RefusedMalformed is a flow that no kernel would take: an address is missing,
	// families are mixed, a state or an ICMP type is unknown.
	RefusedMalformed = "MALFORMED"
	// RefusedNoState is a flow of TCP, not assured and without its state, or of SCTP,
	// whose verification tags a Flow does not carry. Created all the same it would be
	// listed, and its packets would be invalid.
	RefusedNoState = "NOSTATE"
)

// Result counts what became of the operations of one [Writer.Apply]. Each operation
// is counted once in Created, Updated, Deleted, Absent or Refused.
type Result struct {
	Created int
	Updated int
	Deleted int
	// Absent are deletions of flows that were not there.
	Absent  int
	Refused int
	// Evicted are foreign entries that were deleted because they held a tuple
	// of a flow that was to be created.
	Evicted int
	// RefusedBy splits Refused by the name of the errno, such as ENOMEM for a full
	// table, or by one of the Refused constants. It is nil when nothing was refused.
	RefusedBy map[string]int
}

// Add adds the counts of o to r.
func (r *Result) Add(o Result) {
	r.Created += o.Created
	r.Updated += o.Updated
	r.Deleted += o.Deleted
	r.Absent += o.Absent
	r.Refused += o.Refused
	r.Evicted += o.Evicted
	if len(o.RefusedBy) == 0 {
		return
	}
	if r.RefusedBy == nil {
		r.RefusedBy = maps.Clone(o.RefusedBy)
		return
	}
	for name, n := range o.RefusedBy {
		r.RefusedBy[name] += n
	}
}

func (r *Result) refuse(name string) {
	r.Refused++
	if r.RefusedBy == nil {
		r.RefusedBy = make(map[string]int)
	}
	r.RefusedBy[name]++
}

// An operation takes at most two messages, so 32 operations fill a batch. Larger
// batches are not faster: the kernel works them off one by one under a mutex.
const (
	batchOps      = 32
	batchMessages = 2 * batchOps
	// maxSteps bounds what is tried for one operation while others change the table.
	maxSteps = 8
)

// Writer changes the conntrack table in batches. Its methods are safe for
// concurrent use.
type Writer struct {
	mu       sync.Mutex
	s        *socket
	enc      encoder
	sequence uint32

	pending []attempt
	// base is the sequence number of the batch's first message; the arrays have an
	// entry for each message of the batch.
	base   uint32
	count  int
	errnos [batchMessages]unix.Errno
	owners [batchMessages]*attempt
	flow   conntracksync.Flow
}

// NewWriter opens a writer in the current network namespace.
func NewWriter() (*Writer, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	// Errors then carry the header of the message that failed, not all of it.
	if err := s.conn.SetOption(netlink.CapAcknowledge, true); err != nil {
		return nil, errors.Join(fmt.Errorf("set NETLINK_CAP_ACK for conntrack: %w", err), s.close())
	}
	return &Writer{s: s, pending: make([]attempt, 0, batchOps)}, nil
}

// PortID is the writer's netlink port, by which a [Listener] tells the echoes of
// its changes from the rest.
func (w *Writer) PortID() uint32 { return w.s.conn.PID() }

// Close closes the writer.
func (w *Writer) Close() error { return w.s.close() }

// Apply carries out ops in order. An operation that the kernel refuses, because the
// table is full, say, is counted in the result and does not keep back the others. The
// error is [ErrClosed] or that of a broken socket; the result then counts what was
// settled before.
func (w *Writer) Apply(ops []conntracksync.Op) (Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var res Result
	for len(ops) > 0 {
		n := independent(ops)
		if err := w.applyBatch(ops[:n], &res); err != nil {
			return res, err
		}
		ops = ops[n:]
	}
	return res, nil
}

// independent returns how many of the first operations concern different flows. The
// second try of one would otherwise come after the next one for the same flow.
func independent(ops []conntracksync.Op) int {
	limit := min(len(ops), batchOps)
	for i := 1; i < limit; i++ {
		k := &ops[i].Flow.Key
		for j := range i {
			o := &ops[j].Flow.Key
			if o.Original.SourcePort == k.Original.SourcePort && *o == *k {
				return i
			}
		}
	}
	return limit
}

func (w *Writer) applyBatch(ops []conntracksync.Op, res *Result) error {
	w.pending = w.pending[:0]
	for i := range ops {
		if refusal := check(&ops[i]); refusal != "" {
			res.refuse(refusal)
			continue
		}
		w.pending = append(w.pending, attempt{op: &ops[i], step: firstStep(ops[i].Kind)})
	}
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

// encode puts the messages for the pending attempts into the buffer.
func (w *Writer) encode() {
	w.enc.reset()
	w.base = w.sequence + 1
	w.count = 0
	for i := range w.pending {
		a := &w.pending[i]
		a.tries++
		f := &a.op.Flow
		switch a.step {
		case stepCreate:
			w.enc.create(f, w.next(a))
		case stepUpdate, stepUpdateBare:
			w.enc.update(f, w.next(a), a.step == stepUpdate)
		case stepGet:
			a.found = foundNone
			w.enc.get(&f.Key, w.next(a))
		case stepReplace:
			w.enc.remove(&f.Key, w.next(a))
			w.enc.create(f, w.next(a))
		case stepEvict:
			w.enc.evict(f, w.next(a))
			w.enc.create(f, w.next(a))
		case stepDelete:
			w.enc.remove(&f.Key, w.next(a))
		}
	}
	if w.count > 0 {
		w.enc.acknowledge()
	}
}

// next gives a the next message of the batch and returns its sequence number.
func (w *Writer) next(a *attempt) uint32 {
	w.sequence++
	a.message = w.count
	w.errnos[w.count] = 0
	w.owners[w.count] = a
	w.count++
	return w.sequence
}

// exchange sends the batch and takes in the answers. The kernel answers while it
// works off the batch, so all answers are there when write returns: an empty queue
// before the last acknowledgement means that it was lost.
func (w *Writer) exchange() error {
	if err := w.s.write(w.enc.buf); err != nil {
		return err
	}
	for {
		b, err := w.s.poll()
		if errors.Is(err, unix.EAGAIN) {
			return errors.New("acknowledgement is missing, the receive buffer is too small")
		}
		if err != nil {
			return err
		}
		for len(b) > 0 {
			m, rest, ok := nextMessage(b)
			if !ok {
				return ReasonTruncated
			}
			if w.answer(m) {
				return nil
			}
			b = rest
		}
	}
}

// answer takes in one message and tells whether it was the last of the batch.
func (w *Writer) answer(m message) bool {
	i := int(m.sequence - w.base)
	if i < 0 || i >= w.count {
		return false // of an earlier batch that broke off
	}
	switch m.kind {
	case unix.NLMSG_ERROR:
		w.errnos[i] = m.errno()
		return i == w.count-1
	case messageNew:
		a := w.owners[i]
		a.found = foundOther
		if decode(m.payload, &w.flow) == nil &&
			w.flow.Key == a.op.Flow.Key && w.flow.Reply == a.op.Flow.Reply {
			a.found = foundSame
		}
	}
	return false
}
