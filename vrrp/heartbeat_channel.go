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
type HeartbeatChannel struct {
	mac  hash.Hash // keyed
	mine uint64
	// peer is the nonce that is repeated to the peer: that of the process which
	// introduced itself last. It proves nothing; trusted does.
	peer uint64
	sent uint64
	// trusted is the process that was last proven to be alive, received the newest
	// counter of it and trustedAt when that came; zero if never.
	trusted   uint64
	received  uint64
	trustedAt time.Time
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

// Open checks and decodes a heartbeat. quiet is for how long the peer's present
// process must have been silent before another one may take its place.
func (c *HeartbeatChannel) Open(now time.Time, b []byte, quiet time.Duration) (Heartbeat, HeartbeatVerdict) {
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
	if !c.trust(now, sender, count) {
		return Heartbeat{}, HeartbeatReplayed
	}
	return h, HeartbeatTrusted
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
func (c *HeartbeatChannel) trust(now time.Time, sender, count uint64) bool {
	known := !c.trustedAt.IsZero()
	if known && sender == c.trusted {
		if count <= c.received {
			return false
		}
	} else if known {
		c.retired = append(c.retired, c.trusted)
		if len(c.retired) > maxRetired {
			c.retired = c.retired[1:]
		}
	}
	c.trusted, c.received, c.trustedAt = sender, count, now
	return true
}
