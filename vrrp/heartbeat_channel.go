package vrrp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"time"
)

// HeartbeatChannel authenticates heartbeats between two members and keeps
// replayed ones out without trusting any clock: every process draws a nonce when
// it starts, and only a heartbeat that repeats the receiver's current nonce, with
// a counter that has not been seen, counts.
//
// Each is sent on every HA link, sealed once, and counts when it comes in first.
type HeartbeatChannel struct {
	mac  hash.Hash // keyed
	mine uint64
	// peer is the nonce that is repeated to the peer: that of the process which
	// introduced itself last. It proves nothing; trusted does.
	peer uint64
	sent uint64
	// trusted is the process that was last proven to be alive, received the newest
	// counter of it, trustedAt when that came and trustedBy the link by which it did; zero
	// if never.
	trusted   uint64
	received  uint64
	trustedAt time.Time
	trustedBy int
	// receivedBy is the newest counter of that process by each link.
	receivedBy []uint64
	// retired holds the nonces of earlier processes of the peer. Only the proof of
	// a later one adds to it; the oldest go after maxRetired restarts.
	retired []uint64
}

// maxRetired bounds the memory for replays of the peer's earlier processes.
const maxRetired = 256

// NewHeartbeatChannel returns a channel with the key that both members share and
// a random nonce, drawn anew by each process.
func NewHeartbeatChannel(key []byte, nonce uint64) *HeartbeatChannel {
	return &HeartbeatChannel{mac: hmac.New(sha256.New, key), mine: nonce}
}

// Seal encodes and authenticates a heartbeat.
func (c *HeartbeatChannel) Seal(h Heartbeat) []byte {
	c.sent++
	b := h.appendHead(make([]byte, 0, MaxHeartbeat))
	b = binary.BigEndian.AppendUint64(b, c.mine)
	b = binary.BigEndian.AppendUint64(b, c.peer)
	b = binary.BigEndian.AppendUint64(b, c.sent)
	b = h.appendExtensions(b)
	return append(b, c.sum(b)...)
}

func (c *HeartbeatChannel) sum(b []byte) []byte {
	c.mac.Reset()
	c.mac.Write(b)
	return c.mac.Sum(nil)
}

// Alive returns the nonce of the peer's process that was proven to be alive within the
// quiet time; zero if none was.
func (c *HeartbeatChannel) Alive(now time.Time, quiet time.Duration) uint64 {
	if c.trustedAt.IsZero() || now.Sub(c.trustedAt) >= quiet {
		return 0
	}
	return c.trusted
}

// HeartbeatVerdict says what became of a received heartbeat.
type HeartbeatVerdict uint8

// The verdicts.
const (
	// HeartbeatTrusted is authentic, fresh and meant for this process.
	HeartbeatTrusted HeartbeatVerdict = iota
	// HeartbeatRepeated is so, too, but another link has already brought it or a later
	// one. It tells nothing but that its link works.
	HeartbeatRepeated
	// HeartbeatIntroduction is authentic, but does not prove that it is fresh; the
	// next heartbeat answers it.
	HeartbeatIntroduction
	// HeartbeatMalformed, HeartbeatForged and HeartbeatReplayed are dropped.
	HeartbeatMalformed
	HeartbeatForged
	HeartbeatReplayed
)

// String returns the verdict as a counter's label.
func (v HeartbeatVerdict) String() string {
	switch v {
	case HeartbeatTrusted:
		return "trusted"
	case HeartbeatRepeated:
		return "repeated"
	case HeartbeatIntroduction:
		return "introduction"
	case HeartbeatMalformed:
		return "heartbeat-malformed"
	case HeartbeatForged:
		return "heartbeat-forged"
	case HeartbeatReplayed:
		return "heartbeat-replayed"
	}
	return "unknown"
}

// Open checks and decodes a heartbeat that came in by a link, which is a small number.
// quiet is for how long the peer's present process must have been silent before another
// one may take its place.
func (c *HeartbeatChannel) Open(now time.Time, link int, b []byte, quiet time.Duration) (Heartbeat, HeartbeatVerdict) {
	if len(b) < minHeartbeat || len(b) > MaxHeartbeat || string(b[:4]) != heartbeatMagic || State(b[4]) > Master {
		return Heartbeat{}, HeartbeatMalformed
	}
	body := b[:len(b)-sha256.Size]
	if !hmac.Equal(c.sum(body), b[len(body):]) {
		return Heartbeat{}, HeartbeatForged
	}
	h := parseHead(b)
	if !h.parseExtensions(body[heartbeatHead:]) {
		return Heartbeat{}, HeartbeatMalformed
	}
	sender, echo, count := binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])
	if sender == c.mine {
		return Heartbeat{}, HeartbeatReplayed // our own, reflected
	}
	if !c.introduce(now, sender, quiet) {
		return Heartbeat{}, HeartbeatReplayed
	}
	if echo != c.mine {
		return h, HeartbeatIntroduction
	}
	if verdict := c.trust(now, link, sender, count); verdict != HeartbeatTrusted {
		return Heartbeat{}, verdict
	}
	return h, HeartbeatTrusted
}

// Refused tells whether the kernel's refusal of a heartbeat on a link says that nobody
// listens. It does not where another link has just brought a heartbeat: then a socket is
// gone and not the process. recent is after how long another one was due.
func (c *HeartbeatChannel) Refused(now time.Time, link int, recent time.Duration) bool {
	return c.trustedAt.IsZero() || c.trustedBy == link || now.Sub(c.trustedAt) >= recent
}

// introduce tells whether a sender may be answered: the trusted process always,
// another one when that has fallen silent and the other is not one of its
// predecessors.
func (c *HeartbeatChannel) introduce(now time.Time, sender uint64, quiet time.Duration) bool {
	known := !c.trustedAt.IsZero()
	if known && sender != c.trusted && (now.Sub(c.trustedAt) < quiet || slices.Contains(c.retired, sender)) {
		return false
	}
	c.peer = sender
	return true
}

// trust takes the counter of a heartbeat that repeats this process's nonce. The
// process that was trusted before is retired only now: an introduction may be a
// recording, and must not lock out a peer that was merely cut off.
func (c *HeartbeatChannel) trust(now time.Time, link int, sender, count uint64) HeartbeatVerdict {
	known := !c.trustedAt.IsZero()
	if known && sender != c.trusted {
		c.retired = append(c.retired, c.trusted)
		if len(c.retired) > maxRetired {
			c.retired = c.retired[1:]
		}
	}
	if !known || sender != c.trusted {
		c.received = 0
		clear(c.receivedBy)
	}
	if more := link + 1 - len(c.receivedBy); more > 0 {
		c.receivedBy = append(c.receivedBy, make([]uint64, more)...)
	}
	if count <= c.receivedBy[link] {
		return HeartbeatReplayed
	}
	c.receivedBy[link] = count
	if count <= c.received {
		return HeartbeatRepeated
	}
	c.trusted, c.received, c.trustedAt, c.trustedBy = sender, count, now, link
	return HeartbeatTrusted
}
