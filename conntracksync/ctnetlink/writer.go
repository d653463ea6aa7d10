package ctnetlink

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// An operation takes at most three messages, those for expectations do. With 128
// operations to a batch the calls themselves cost next to nothing; larger ones are not
// faster, for the kernel works them off one by one under a mutex.
const (
	batchOps      = 128
	batchMessages = 3 * batchOps
	// answersBuffer holds an error for each message; the kernel charges 768 bytes for one.
	answersBuffer = 1 << 20
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
	if err := s.setOption(unix.NETLINK_CAP_ACK, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("set NETLINK_CAP_ACK for conntrack: %w", err), s.close())
	}
	if err := s.setReceiveBuffer(answersBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("set receive buffer for conntrack: %w", err), s.close())
	}
	return &Writer{s: s, pending: make([]attempt, 0, batchOps)}, nil
}

// PortID is the writer's netlink port, by which a [Listener] tells the echoes of
// its changes from the rest.
func (w *Writer) PortID() uint32 { return w.s.port }

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
	for first := 0; first < len(ops); {
		n := independent(ops[first:])
		if err := w.applyBatch(ops[first:first+n], first, &res); err != nil {
			return res, err
		}
		first += n
	}
	slices.Sort(res.Failed)
	return res, nil
}

// independent returns how many of the first operations concern different flows. The
// second try of one would otherwise come after the next one for the same flow. An
// operation that needs another flow's, its master's, begins a batch of its own.
func independent(ops []conntracksync.Op) int {
	limit := min(len(ops), batchOps)
	var met [portSlots / 64]uint64 // a set of the ports so far, which may err on the side of too many
	for i := range limit {
		if i > 0 && needsMaster(&ops[i]) && !needsMaster(&ops[i-1]) {
			return i
		}
		t := &ops[i].Flow.Original
		slot := (t.SourcePort ^ t.DestinationPort<<5) % portSlots
		bit := uint64(1) << (slot % 64)
		if met[slot/64]&bit != 0 && contains(ops[:i], &ops[i].Flow.Key) {
			return i
		}
		met[slot/64] |= bit
	}
	return limit
}

// portSlots is the size of the set of ports in [independent].
const portSlots = 1024

// contains tells whether one of ops is about the flow with the key k.
func contains(ops []conntracksync.Op, k *conntracksync.Key) bool {
	for i := range ops {
		o := &ops[i].Flow.Key
		if o.Original.SourcePort == k.Original.SourcePort && *o == *k {
			return true
		}
	}
	return false
}

// needsMaster tells whether op is about something that belongs to another flow.
func needsMaster(op *conntracksync.Op) bool {
	return op.Expect != nil || op.Flow.Extra != nil && op.Flow.Extra.HasMaster
}

// applyBatch carries out ops, the first of which has the index first.
func (w *Writer) applyBatch(ops []conntracksync.Op, first int, res *Result) error {
	w.pending = w.pending[:0]
	for i := range ops {
		if refusal := check(&ops[i]); refusal != "" {
			res.refuse(first+i, refusal)
			continue
		}
		w.pending = append(w.pending, attempt{op: &ops[i], index: first + i, step: firstStep(&ops[i])})
	}
	return w.work(res)
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
			w.enc.create(f, a.without, w.next(a))
		case stepUpdate:
			w.enc.update(f, a.without, w.next(a))
		case stepRefresh:
			w.enc.refresh(f, w.next(a))
		case stepGet:
			a.found = foundNone
			w.enc.get(&f.Key, w.next(a))
		case stepReplace:
			w.enc.remove(&f.Key, w.next(a))
			w.enc.create(f, a.without, w.next(a))
		case stepEvict:
			w.enc.evict(f, w.next(a))
			w.enc.create(f, a.without, w.next(a))
		case stepDelete:
			w.enc.remove(&f.Key, w.next(a))
		case stepSweep:
			w.enc.removeID(&f.Key, a.id, w.next(a))
		case stepTimeout:
			w.enc.timeout(f, w.next(a))
		case stepExpect:
			w.enc.unexpect(a.op.Expect, w.next(a))
			w.enc.expect(a.op.Expect, w.next(a))
			w.enc.expectTimeout(a.op.Expect, w.next(a))
		case stepUnexpect:
			w.enc.unexpect(a.op.Expect, w.next(a))
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
		w.see(w.owners[i], m.payload)
	}
	return false
}

// see compares the entry that a get has found with the flow that a is about.
func (w *Writer) see(a *attempt, msg []byte) {
	a.found = foundOther
	seen := a.seen
	if seen == nil {
		seen = &w.flow
	}
	if decode(msg, seen) == nil && seen.Key == a.op.Flow.Key && seen.Reply == a.op.Flow.Reply {
		a.found = foundSame
		a.id, a.hasID = entryID(msg)
	}
}
