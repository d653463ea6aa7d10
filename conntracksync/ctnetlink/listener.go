package ctnetlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// DefaultReceiveBuffer is the receive buffer of a [Listener] in bytes. A queued
// event is charged with about 1.3 kB, so it holds some 50 000 of them.
const DefaultReceiveBuffer = 64 << 20

// ListenerConfig says how to listen.
type ListenerConfig struct {
	// ReceiveBuffer is the size of the receive buffer in bytes; 0 is
	// [DefaultReceiveBuffer].
	ReceiveBuffer int
	// IgnorePortID is the netlink port whose changes are not reported, usually
	// [Writer.PortID]; 0 ignores nobody, for 0 is the packet path itself.
	IgnorePortID uint32
	// Expectations has what helpers expect reported, too.
	Expectations bool
}

// Listener receives the kernel's conntrack events. Receive is for one goroutine;
// the other methods are safe beside it.
type Listener struct {
	s            *socket
	expectations bool
	// rest is what the last datagram held beyond the caller's slice.
	rest []byte

	mu    sync.Mutex
	drops Drops
}

// Listen opens a listener in the current network namespace. A caller that needs the
// flows that are there already calls [Reader.Dump] afterwards, so that none is missed.
func Listen(cfg ListenerConfig) (*Listener, error) {
	s, err := openBatchSocket()
	if err != nil {
		return nil, err
	}
	if err := prepareListener(s, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for conntrack events: %w", err), s.close())
	}
	return &Listener{s: s, expectations: cfg.Expectations}, nil
}

// prepareListener joins the groups last: no event may slip past the filter.
func prepareListener(s *socket, cfg ListenerConfig) error {
	size := cfg.ReceiveBuffer
	if size == 0 {
		size = DefaultReceiveBuffer
	}
	if err := s.setReceiveBuffer(size); err != nil {
		return fmt.Errorf("set receive buffer of %d bytes: %w", size, err)
	}
	// Without BROADCAST_ERROR the end of a flow that does not fit is lost; a pass over the
	// table finds it. With it the kernel would keep such flows, and each lookup of a packet
	// may have to walk past all of them: an overload would slow down forwarding itself.
	if err := s.setOption(unix.NETLINK_BROADCAST_ERROR, 0); err != nil {
		return fmt.Errorf("clear NETLINK_BROADCAST_ERROR: %w", err)
	}
	// Overruns stay visible: NO_ENOBUFS would only hide them.
	if err := s.setOption(unix.NETLINK_NO_ENOBUFS, 0); err != nil {
		return fmt.Errorf("clear NETLINK_NO_ENOBUFS: %w", err)
	}
	if cfg.IgnorePortID != 0 {
		filter, err := portFilter(cfg.IgnorePortID, false)
		if err != nil {
			return err
		}
		if err := s.setFilter(filter); err != nil {
			return fmt.Errorf("attach filter for own changes: %w", err)
		}
	}
	return hear(s, ScopeEverything, cfg.Expectations)
}

// Scope says which events the kernel is asked for.
type Scope uint8

// The scopes. The kernel builds a message for each change that anybody has asked to
// hear of, even if the filter then ignores it as one of ours; that doubles the cost
// of writing. A node whose table its peer fills asks for no more than it needs.
const (
	// ScopeEverything is new, changed and ended flows.
	ScopeEverything Scope = iota
	// ScopeEnds is the end of flows.
	ScopeEnds
	// ScopeNothing is no events at all.
	ScopeNothing
)

// Hear has the kernel report what scope says from now on. What is queued already is
// still received. A caller that widens the scope calls [Reader.Dump] afterwards.
func (l *Listener) Hear(scope Scope) error {
	return hear(l.s, scope, l.expectations)
}

func hear(s *socket, scope Scope, expectations bool) error {
	groups := []struct {
		number int
		wanted bool
	}{
		{unix.NFNLGRP_CONNTRACK_NEW, scope == ScopeEverything},
		{unix.NFNLGRP_CONNTRACK_UPDATE, scope == ScopeEverything},
		{unix.NFNLGRP_CONNTRACK_DESTROY, scope != ScopeNothing},
		{unix.NFNLGRP_CONNTRACK_EXP_NEW, expectations && scope == ScopeEverything},
		{unix.NFNLGRP_CONNTRACK_EXP_UPDATE, expectations && scope == ScopeEverything},
		{unix.NFNLGRP_CONNTRACK_EXP_DESTROY, expectations && scope != ScopeNothing},
	}
	for _, g := range groups {
		change := unix.NETLINK_DROP_MEMBERSHIP
		if g.wanted {
			change = unix.NETLINK_ADD_MEMBERSHIP
		}
		if err := s.setOption(change, g.number); err != nil {
			return fmt.Errorf("choose conntrack events (group %d): %w", g.number, err)
		}
	}
	return nil
}

// portFilter drops messages whose nlmsg_pid is port, or all others. BPF loads in
// network byte order, the header is in the host's.
func portFilter(port uint32, others bool) ([]bpf.RawInstruction, error) {
	const pidOffset = 12
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], port)
	drop := bpf.JumpEqual
	if others {
		drop = bpf.JumpNotEqual
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: pidOffset, Size: 4},
		bpf.JumpIf{Cond: drop, Val: binary.BigEndian.Uint32(b[:]), SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 18},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble filter for own changes: %w", err)
	}
	return filter, nil
}

// Receive waits until there is something to report and fills events, which must
// not be empty, with what has come. Long slices are cheap, 1024 events and more: the
// kernel is asked for many at a time. A caller that gets few events at a time, very
// often, may let a millisecond go by between calls: they gather in the receive buffer,
// and fewer wake-ups cost less. overrun tells that the kernel had to drop
// events: the caller's picture of the table has a gap, which only a dump closes.
// The listener goes on after an overrun. Messages that cannot be decoded are counted
// in [Listener.Drops]. The error is ctx's, [ErrClosed], or that of a broken socket.
//
// A result below len(events) without an overrun means that no event was left. With a
// ctx that has ended Receive takes what is there and does not wait; the error is ctx's
// if there is nothing.
func (l *Listener) Receive(ctx context.Context, events []conntracksync.Event) (n int, overrun bool, err error) {
	if len(events) == 0 {
		return 0, false, errors.New("receive conntrack events: no room for any, pass a longer slice")
	}
	n = l.unread(events)
	for n < len(events) && !overrun {
		if n == 0 {
			_, err = l.s.waitRead(ctx)
		} else {
			_, err = l.s.tryRead()
		}
		switch {
		case err == nil:
			n = l.datagrams(events, n)
			if n > 0 && !l.s.batch.full() {
				return n, overrun, nil // the queue was empty, asking again would cost a call
			}
		case errors.Is(err, unix.EAGAIN):
			return n, overrun, nil
		case errors.Is(err, unix.ENOBUFS):
			overrun = true
		case n > 0:
			// What has arrived counts; the error comes back with the next call.
			return n, overrun, nil
		case errors.Is(err, ErrClosed), ctx.Err() != nil:
			return 0, false, err
		default:
			return 0, false, fmt.Errorf("receive conntrack events: %w", err)
		}
	}
	return n, overrun, nil
}

// unread decodes what the last calls have left.
func (l *Listener) unread(events []conntracksync.Event) int {
	return l.datagrams(events, l.take(l.rest, events, 0))
}

// datagrams decodes the datagrams that have been received into events from index n
// on, as many as fit.
func (l *Listener) datagrams(events []conntracksync.Event, n int) int {
	for n < len(events) {
		datagram, ok := l.s.batch.datagram()
		if !ok {
			break
		}
		n = l.take(datagram, events, n)
	}
	return n
}

// take decodes the messages of b into events from index n on, as many as fit, and
// returns the next free index.
func (l *Listener) take(b []byte, events []conntracksync.Event, n int) int {
	for len(b) > 0 && n < len(events) {
		m, rest, ok := nextMessage(b)
		if !ok {
			l.drop(ReasonTruncated)
			rest = nil
		} else if err := decodeEvent(m, &events[n]); err != nil {
			l.drop(err)
		} else {
			n++
		}
		b = rest
	}
	l.rest = b
	return n
}

func decodeEvent(m message, e *conntracksync.Event) error {
	e.Expect = nil
	switch m.kind {
	case messageNew:
		e.Kind = conntracksync.EventUpdate
		if m.flags&(unix.NLM_F_CREATE|unix.NLM_F_EXCL) != 0 {
			e.Kind = conntracksync.EventNew
		}
	case messageDelete:
		e.Kind = conntracksync.EventDestroy
	case messageExpectNew:
		e.Kind = conntracksync.EventExpect
		return decodeExpectEvent(m, e)
	case messageExpectDelete:
		e.Kind = conntracksync.EventExpectGone
		return decodeExpectEvent(m, e)
	default:
		return ReasonType
	}
	return decode(m.payload, &e.Flow)
}

func decodeExpectEvent(m message, e *conntracksync.Event) (err error) {
	e.Flow = conntracksync.Flow{}
	e.Expect, err = decodeExpectation(m.payload)
	return err
}

func (l *Listener) drop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops.count(err)
}

// Drops returns how many messages were dropped since the listener was opened.
func (l *Listener) Drops() Drops {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drops
}

// Close ends the listener; a Receive under way returns [ErrClosed].
func (l *Listener) Close() error { return l.s.close() }
