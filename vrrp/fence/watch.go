package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// changesGroup is NFNLGRP_NFTABLES: the kernel tells there of every change.
	changesGroup = 7
	// watchRoom is the receive buffer; a ruleset that somebody loads is long.
	watchRoom = 8 << 20
	// watchSpacing is the least time between two reports, so that a program which
	// fights for the table costs no whole processor.
	watchSpacing = 100 * time.Millisecond

	// Attributes of NFT_MSG_NEWGEN.
	generationPID  = 2
	generationName = 3
)

// Tampering tells that somebody else has changed the fence.
type Tampering struct {
	// Process is the name of the program and PID its process; empty and 0 if the
	// kernel had more to tell than it could.
	Process string
	PID     uint32
}

// String reads like "nft (process 4711)".
func (t Tampering) String() string {
	if t.Process == "" {
		return "an unknown program"
	}
	return fmt.Sprintf("%s (process %d)", t.Process, t.PID)
}

// Watch reports at once when somebody else has removed or changed the group's
// table, chains, rules or sets, so that [Fence.Ensure] can put the fence up again:
// until then it may be open. What this Fence does and the lease's own coming and
// going are not reported, and what happens within 100 ms of a report is one more
// report at their end. The channel holds one report and is closed when ctx ends or
// the socket breaks.
func (f *Fence) Watch(ctx context.Context, group string) (<-chan Tampering, error) {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(f.namespace)})
	if err != nil {
		return nil, fmt.Errorf("open socket to watch table netdev %s: %w", tableName(group), err)
	}
	if err := errors.Join(socket.SetReadBuffer(watchRoom), socket.JoinGroup(changesGroup)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch table netdev %s: %w", tableName(group), err), socket.Close())
	}
	found := make(chan Tampering, 1)
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() }) // wakes the reader
	go func() {
		defer close(found)
		w := watcher{fence: f, table: tableName(group)}
		w.read(socket, found)
		if stop() {
			_ = socket.Close()
		}
	}()
	spaced := make(chan Tampering, 1)
	go space(ctx, found, spaced)
	return spaced, nil
}

// space passes the first report on at once and further ones not sooner than
// watchSpacing after it.
func space(ctx context.Context, from <-chan Tampering, to chan<- Tampering) {
	defer close(to)
	for t := range from {
		select {
		case to <- t:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(watchSpacing):
		case <-ctx.Done():
			return
		}
	}
}

// watcher finds the changes of one table among all.
type watcher struct {
	fence *Fence
	table string
	// touched tells that the transaction whose messages are being read has changed
	// the table; its last message says who made it.
	touched bool
}

// read reads until the socket is closed.
func (w *watcher) read(socket *netlink.Conn, found chan<- Tampering) {
	report := func(t Tampering) {
		select {
		case found <- t:
		default: // one that nobody has taken yet says the same
		}
	}
	for {
		messages, err := socket.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			// What was lost may have been about the fence.
			w.touched = false
			report(Tampering{})
			continue
		}
		if err != nil {
			return
		}
		for _, m := range messages {
			if t, done := w.message(m); done {
				report(t)
			}
		}
	}
}

// message takes one message and returns a report at the end of a transaction.
func (w *watcher) message(m netlink.Message) (Tampering, bool) {
	if m.Header.Type != messageType(unix.NFT_MSG_NEWGEN) {
		w.touched = w.touched || w.foreign(m)
		return Tampering{}, false
	}
	if !w.touched {
		return Tampering{}, false
	}
	w.touched = false
	var t Tampering
	// What cannot be read is reported without a name.
	_ = decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case generationPID:
			t.PID = ad.Uint32()
		case generationName:
			t.Process = ad.String()
		}
	})
	return t, true
}

// foreign tells whether somebody else has changed the table. The first attribute
// of every message names the table.
func (w *watcher) foreign(m netlink.Message) bool {
	if len(m.Data) == 0 || nftables.TableFamily(m.Data[0]) != nftables.TableFamilyNetdev ||
		m.Header.PID == w.fence.port.Load() {
		return false
	}
	named := false
	_ = decode(m, func(ad *netlink.AttributeDecoder) {
		const name = 1
		named = named || ad.Type() == name && strings.TrimRight(string(ad.Bytes()), "\x00") == w.table
	})
	return named
}
