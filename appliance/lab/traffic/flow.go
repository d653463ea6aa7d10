package traffic

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

type kind uint8

const (
	kindTCP kind = iota
	kindUDP
	kindBulk
	kindDownlink
	kindPing
	kindSCTP
	kindOther
)

// datagrams tells whether messages may be lost and overtaken.
func (k kind) datagrams() bool { return k != kindTCP && k != kindBulk }

const (
	// maxOutstanding bounds the messages of a TCP session that wait for an echo, so
	// that a write never fills the socket's buffer and blocks the pacing of all.
	maxOutstanding = 256
	// seenWindow is how far back duplicates of datagrams are told from first copies.
	seenWindow = 1024
)

// flow is one TCP session, download or flow of datagrams.
type flow struct {
	id   uint32
	kind kind
	conn net.Conn

	mu sync.Mutex
	// next is the number of the next message to send; expect the one after the
	// highest that came back.
	next, expect                   uint64
	echoes, duplicates, sendErrors uint64
	// seen has a bit per datagram of the last seenWindow numbers.
	seen [seenWindow / 64]uint64
	// heard is when something arrived last, from is when the window began for this
	// flow (or when it was opened), longest is the longest closed gap in the window.
	heard, from time.Time
	longest     time.Duration
	// newestSent is the time of sending of the newest that came back.
	newestSent int64
	// mapped is the source address that the server saw.
	mapped netip.AddrPort
	// bytes counts what a download received.
	bytes  uint64
	lost   Reason
	lostAt time.Time
	detail string
}

// arrived notes that something came at now that was sent at sent. The caller holds
// the lock.
func (f *flow) arrived(now time.Time, sent int64) {
	f.longest = max(f.longest, f.gap(now))
	f.heard = now
	f.newestSent = max(f.newestSent, sent)
}

// gap is the silence that ends, or still lasts, at now, as far as it lies in the
// window.
func (f *flow) gap(now time.Time) time.Duration {
	if f.heard.After(f.from) {
		return now.Sub(f.heard)
	}
	return now.Sub(f.from)
}

// silence is the longest silence of the flow within the window, and false if the
// flow was lost before it. The caller holds the lock.
func (f *flow) silence(now time.Time) (time.Duration, bool) {
	if f.lost == NotLost {
		return max(f.longest, f.gap(now)), true
	}
	return f.longest, !f.lostAt.Before(f.from)
}

// mark begins a new window.
func (f *flow) mark(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.longest = now, 0
}

// lose ends the flow; the first reason stays.
func (f *flow) lose(now time.Time, r Reason, detail string) {
	f.mu.Lock()
	if f.lost == NotLost {
		f.longest = max(f.longest, f.gap(now))
		f.lost, f.lostAt, f.detail = r, now, detail
	}
	f.mu.Unlock()
	_ = f.conn.Close() // the loss is the news; there is nothing to save on this socket
}

// alive tells that the flow is not lost.
func (f *flow) alive() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost == NotLost
}

// checkPatience loses the flow if nothing came for too long.
func (f *flow) checkPatience(now time.Time, patience time.Duration, opened time.Time) {
	f.mu.Lock()
	last := f.heard
	if last.IsZero() {
		last = opened
	}
	late := f.lost == NotLost && now.Sub(last) > patience
	f.mu.Unlock()
	if late {
		f.lose(now, Silent, "nothing received for "+now.Sub(last).Round(time.Millisecond).String())
	}
}

// take returns the next message to send, or false if the flow is lost or too much
// is outstanding.
func (f *flow) take(now time.Time) (message, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost != NotLost || f.kind == kindTCP && f.next-f.expect >= maxOutstanding {
		return message{}, false
	}
	m := message{flow: f.id, seq: f.next, sent: now.UnixNano()}
	f.next++
	return m, true
}

// echoTCP notes an echo and returns false if it is not the next one.
func (f *flow) echoTCP(now time.Time, m message) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.seq != f.expect || m.seq >= f.next {
		return false
	}
	f.expect++
	f.echoes++
	f.arrived(now, m.sent)
	return true
}

// echoUDP notes an echo in any order and returns a reason if it shows that the flow
// is lost.
func (f *flow) echoUDP(now time.Time, m message, from netip.AddrPort) Reason {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kind == kindDownlink {
		f.next = max(f.next, m.seq+1)
	}
	if m.seq >= f.next {
		return WrongData
	}
	if f.mapped.IsValid() && f.mapped != from {
		return Remapped
	}
	f.mapped = from
	if f.duplicate(m.seq) {
		f.duplicates++
		return NotLost
	}
	f.echoes++
	f.arrived(now, m.sent)
	return NotLost
}

// duplicate tells whether the number was seen before, and notes it. A number older
// than the window counts as seen.
func (f *flow) duplicate(seq uint64) bool {
	if seq >= f.expect {
		for n := max(f.expect, seq-min(seq, seenWindow-1)); n < seq; n++ {
			f.seen[n%seenWindow/64] &^= 1 << (n % 64)
		}
		f.expect = seq + 1
	} else if f.expect-seq > seenWindow || f.seen[seq%seenWindow/64]&(1<<(seq%64)) != 0 {
		return true
	}
	f.seen[seq%seenWindow/64] |= 1 << (seq % 64)
	return false
}

// mapping returns the source address that the server saw so far.
func (f *flow) mapping() netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mapped
}

// received notes bytes of a download. newest is when the newest complete block of
// them was sent, 0 if none is complete.
func (f *flow) received(now time.Time, bytes int, blocks uint64, newest int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += uint64(bytes)
	f.next, f.expect, f.echoes = blocks, blocks, blocks
	f.arrived(now, newest)
}
