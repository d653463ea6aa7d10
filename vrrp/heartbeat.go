package vrrp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// Heartbeat is what the members of a group tell each other over the HA link,
// beside the adverts: a BACKUP sends no adverts, and an advert cannot say what a
// handover needs.
type Heartbeat struct {
	State    State
	Priority uint8
	// Ready is the sender's [Fitness].Ready.
	Ready bool
	// TakeOver asks the receiver to become MASTER now.
	TakeOver bool
	// Term is the sender's newest term of mastership.
	Term uint64
	// Beat is the time to the next heartbeat of a MASTER, in whole milliseconds
	// below 256; zero if it promises none.
	Beat time.Duration
}

// Heartbeat returns what the group has to say now.
func (g *Group) Heartbeat() Heartbeat {
	return Heartbeat{
		State: g.state, Priority: g.Priority(), Ready: g.fitness.Ready,
		TakeOver: g.HandingOver(), Term: g.term, Beat: g.cfg.Beat,
	}
}

// ReceiveHeartbeat takes an authenticated heartbeat of the peer.
func (g *Group) ReceiveHeartbeat(now time.Time, h Heartbeat) Output {
	var out Output
	yielded := g.peer.State == Master && h.State != Master
	g.peer = PeerState{HeardAt: now, State: h.State, Priority: h.Priority, Ready: h.Ready, HeartbeatAt: now}
	if g.state == Initialize {
		return out
	}
	stale, newer := h.Term < g.term, h.Term > g.term
	g.term = max(g.term, h.Term)
	if g.stepDownIfStalled(now, &out) {
		return out
	}
	g.heardBeat(now, h)
	switch g.state {
	case Backup:
		if h.TakeOver && h.State == Master && !stale && g.usable && !g.overslept(now) {
			g.becomeMaster(now, ReasonHandover, &out)
			g.assumeUntil = now.Add(2 * g.DownInterval())
			return out
		}
		g.heardMasterBeat(now, h)
	case Master:
		if g.HandingOver() && h.State == Master {
			g.yield(now, &out)
			return out
		}
		if g.suspect(now) && h.State == Master && newer {
			g.becomeBackup(now, ReasonOwnStall, &out)
			return out
		}
		if yielded {
			// What the peer still forwarded after this node's first adverts has taught
			// the switches its ports again. Now its fence is closed, so this lasts.
			g.advertise(now, &out)
			out.Announce = true
			g.heartbeat(now, &out) // in step with the adverts
		}
		g.endAssumption(now, h)
		g.considerHandover(now, &out)
	case Initialize:
	}
	return out
}

// endAssumption lets the old MASTER's adverts count again: at once when its offer
// has lapsed, and when it has yielded as soon as none of before can be on its way.
func (g *Group) endAssumption(now time.Time, h Heartbeat) {
	switch {
	case h.State != Master:
		if latest := now.Add(g.activeInterval); latest.Before(g.assumeUntil) {
			g.assumeUntil = latest
		}
	case !h.TakeOver:
		g.assumeUntil = time.Time{}
	}
}

// heardMasterBeat lets a MASTER's heartbeat count as a sign of life like an advert.
// It does not take back a goodbye, which may have overtaken it.
func (g *Group) heardMasterBeat(now time.Time, h Heartbeat) {
	if h.State != Master || g.downReason == ReasonPeerStopped {
		return
	}
	g.heardAt, g.heardPriority = now, h.Priority
	if g.preempts(now, h.Priority) {
		return
	}
	g.downReason = ReasonPeerSilent
	g.armDown(now)
}

// overslept tells that this process missed its own heartbeat by so much that
// what waited for it in the socket may be long out of date. An offer that still
// stands is repeated.
func (g *Group) overslept(now time.Time) bool {
	return !g.heartbeatAt.IsZero() && now.Sub(g.heartbeatAt) > g.cfg.Interval
}

// HeartbeatSize is the length of an encoded heartbeat in bytes.
const HeartbeatSize = 4 + 1 + 1 + 1 + 1 + 8 + 8 + 8 + 8 + sha256.Size

// heartbeatMagic starts every heartbeat; its last byte is the version.
const heartbeatMagic = "TDM\x01"

const (
	flagReady    = 1 << 0
	flagTakeOver = 1 << 1
)

// HeartbeatChannel authenticates heartbeats between two members and keeps
// replayed ones out without trusting any clock: every process draws a nonce when
// it starts, and only a heartbeat that repeats the receiver's current nonce, with
// a counter that has not been seen, counts.
type HeartbeatChannel struct {
	key  []byte
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
	return &HeartbeatChannel{key: key, mine: nonce}
}

// Seal encodes and authenticates a heartbeat.
func (c *HeartbeatChannel) Seal(h Heartbeat) []byte {
	c.sent++
	var flags byte
	if h.Ready {
		flags |= flagReady
	}
	if h.TakeOver {
		flags |= flagTakeOver
	}
	b := make([]byte, 0, HeartbeatSize)
	b = append(b, heartbeatMagic...)
	b = append(b, byte(h.State), h.Priority, flags, byte(h.Beat/time.Millisecond))
	b = binary.BigEndian.AppendUint64(b, h.Term)
	b = binary.BigEndian.AppendUint64(b, c.mine)
	b = binary.BigEndian.AppendUint64(b, c.peer)
	b = binary.BigEndian.AppendUint64(b, c.sent)
	return append(b, c.sum(b)...)
}

func (c *HeartbeatChannel) sum(b []byte) []byte {
	m := hmac.New(sha256.New, c.key)
	m.Write(b)
	return m.Sum(nil)
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
	if len(b) != HeartbeatSize || string(b[:4]) != heartbeatMagic || State(b[4]) > Master {
		return Heartbeat{}, HeartbeatMalformed
	}
	body := b[:HeartbeatSize-sha256.Size]
	if !hmac.Equal(c.sum(body), b[len(body):]) {
		return Heartbeat{}, HeartbeatForged
	}
	h := Heartbeat{
		State: State(b[4]), Priority: b[5],
		Ready: b[6]&flagReady != 0, TakeOver: b[6]&flagTakeOver != 0,
		Term: binary.BigEndian.Uint64(b[8:]), Beat: time.Duration(b[7]) * time.Millisecond,
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
