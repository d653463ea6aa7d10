package ctnetlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// ErrInterrupted is the error of a dump during which the table changed in such a
// way that flows may be missing. The flows delivered are right; dump again.
var ErrInterrupted = errors.New("conntrack dump was interrupted, flows may be missing: dump again")

// Reader reads the conntrack table. Its methods are safe for concurrent use; dumps
// run one after the other.
type Reader struct {
	mu       sync.Mutex
	s        *socket
	sequence uint32
	// unread is the sequence number of a dump that was left before its end, else 0.
	unread uint32

	dropMu sync.Mutex
	drops  Drops

	stats *statistics
}

// NewReader opens a reader in the current network namespace.
func NewReader() (*Reader, error) {
	stats, err := openStatistics()
	if err != nil {
		return nil, err
	}
	s, err := openSocket()
	if err != nil {
		return nil, errors.Join(err, stats.close())
	}
	return &Reader{s: s, stats: stats}, nil
}

// Close closes the reader; a Dump under way returns [ErrClosed].
func (r *Reader) Close() error {
	return errors.Join(r.s.close(), r.stats.close())
}

// Drops returns how many messages of dumps were dropped since the reader was opened.
func (r *Reader) Drops() Drops {
	r.dropMu.Lock()
	defer r.dropMu.Unlock()
	return r.drops
}

// Dump calls each for every flow of the table; the flow is reused after each
// returns. The table goes on changing during a dump, and nothing of it is kept in
// memory. The error is that of each, ctx's, [ErrInterrupted], [ErrClosed] or that of
// a broken socket. Messages that cannot be decoded are counted in [Reader.Drops].
func (r *Reader) Dump(ctx context.Context, each func(*conntracksync.Flow) error) error {
	var flow conntracksync.Flow
	return r.dump(ctx, appendRequest(nil, messageGet, unix.NLM_F_DUMP, 0), func(m message) error {
		if err := decode(m.payload, &flow); err != nil {
			r.drop(err)
			return nil
		}
		return each(&flow)
	})
}

// DumpMarked is [Reader.Dump] of the flows whose mark, as far as mask has bits, is mark.
// The kernel sorts out the others. The number is that of the flow's [Entry].
func (r *Reader) DumpMarked(ctx context.Context, mark, mask uint32, each func(*conntracksync.Flow, uint32) error) error {
	e := encoder{buf: appendRequest(nil, messageGet, unix.NLM_F_DUMP, 0)}
	e.uint32(attrMark, mark)
	e.uint32(attrMarkMask, mask)
	e.end()
	var flow conntracksync.Flow
	return r.dump(ctx, e.buf, func(m message) error {
		if err := decode(m.payload, &flow); err != nil {
			r.drop(err)
			return nil
		}
		id, _ := entryID(m.payload)
		return each(&flow, id)
	})
}

// DumpExpectations calls each for everything that helpers expect; each may keep it.
// The kernel does not tell the zone, which therefore counts as 0. For the rest it is
// like [Reader.Dump].
func (r *Reader) DumpExpectations(ctx context.Context, each func(*conntracksync.Expectation) error) error {
	return r.dump(ctx, appendRequest(nil, messageExpectGet, unix.NLM_F_DUMP, 0), func(m message) error {
		e, err := decodeExpectation(m.payload)
		if err != nil {
			r.drop(err)
			return nil
		}
		return each(e)
	})
}

// dump calls each for every message of the answer to a request, which gets a sequence
// number.
func (r *Reader) dump(ctx context.Context, request []byte, each func(message) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.skipUnread(ctx); err != nil {
		return err
	}
	sequence, err := r.request(request)
	if err != nil {
		return fmt.Errorf("request conntrack dump: %w", err)
	}
	r.unread = sequence
	interrupted, err := r.answers(ctx, sequence, each)
	if err != nil {
		return err
	}
	if interrupted {
		return ErrInterrupted
	}
	return nil
}

// skipUnread reads what is left of a dump that was broken off: the kernel starts no
// second one on the socket before the end of the first.
func (r *Reader) skipUnread(ctx context.Context) error {
	if r.unread == 0 {
		return nil
	}
	_, err := r.answers(ctx, r.unread, func(message) error { return nil })
	return err
}

func (r *Reader) request(b []byte) (uint32, error) {
	r.sequence++
	binary.NativeEndian.PutUint32(b[sequenceOffset:], r.sequence)
	return r.sequence, r.s.write(b)
}

// answers calls each for every entry of the dump with the given sequence number
// until it is complete.
func (r *Reader) answers(
	ctx context.Context, sequence uint32, each func(message) error,
) (interrupted bool, err error) {
	for {
		b, err := r.s.receive(ctx)
		if err != nil {
			if errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return interrupted, err
			}
			return interrupted, fmt.Errorf("read conntrack dump: %w", err)
		}
		// Looked at between datagrams, so that a full queue does not outlast ctx.
		if err := ctx.Err(); err != nil {
			return interrupted, err
		}
		done, cut, err := r.datagram(b, sequence, each)
		interrupted = interrupted || cut
		if done || err != nil {
			return interrupted, err
		}
	}
}

func (r *Reader) datagram(
	b []byte, sequence uint32, each func(message) error,
) (done, interrupted bool, err error) {
	for len(b) > 0 {
		m, rest, ok := nextMessage(b)
		if !ok {
			r.drop(ReasonTruncated)
			return false, interrupted, nil
		}
		b = rest
		if m.sequence != sequence {
			continue
		}
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch m.kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			r.unread = 0
			if errno := m.errno(); errno != 0 {
				return true, interrupted, fmt.Errorf("dump conntrack table: %w", errno)
			}
			return true, interrupted, nil
		case messageNew, messageExpectNew:
			if err := each(m); err != nil {
				r.leave(b, sequence)
				return false, interrupted, err
			}
		}
	}
	return false, interrupted, nil
}

// leave notes whether the rest of a datagram, which is not looked at any more, ends
// the dump.
func (r *Reader) leave(b []byte, sequence uint32) {
	for len(b) > 0 {
		m, rest, ok := nextMessage(b)
		if !ok {
			return
		}
		if m.sequence == sequence && (m.kind == unix.NLMSG_DONE || m.kind == unix.NLMSG_ERROR) {
			r.unread = 0
		}
		b = rest
	}
}

func (r *Reader) drop(err error) {
	r.dropMu.Lock()
	defer r.dropMu.Unlock()
	r.drops.count(err)
}
