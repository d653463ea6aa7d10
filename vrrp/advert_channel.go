package vrrp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// An authenticator stands behind the last address of an advert, where RFC 9568 §7.1
// lets a receiver expect padding: a magic, the nonce of the sending process, a counter
// and an HMAC-SHA256, cut to half (RFC 2104 §5), over the addresses of the IP header,
// the advert and what precedes the HMAC.
const (
	authenticatorMagic  = "TDMA"
	authenticatorHead   = 4 + 8 + 8
	authenticatorMAC    = sha256.Size / 2
	authenticatorLength = authenticatorHead + authenticatorMAC
)

// AdvertChannel authenticates the adverts of one carrier between two members and
// keeps replayed ones out. Adverts go one way only, so unlike heartbeats they cannot
// prove that they are fresh by repeating a nonce of the receiver. Instead a receiver
// believes one process of the peer at a time: the one that the heartbeats have proven
// to be alive, or, while there are none, the first that it hears, and a later one only
// when that has been silent.
type AdvertChannel struct {
	key  []byte
	mine uint64
	sent uint64
	// trusted is the process that is believed, received the newest counter of it and
	// heardAt when that came; zero if never.
	trusted  uint64
	received uint64
	heardAt  time.Time
	// retired are earlier processes of the peer; see maxRetired.
	retired []uint64
}

// NewAdvertChannel returns a channel with the key that both members share and the
// nonce of this process.
func NewAdvertChannel(key []byte, nonce uint64) *AdvertChannel {
	return &AdvertChannel{key: key, mine: nonce}
}

// Seal appends the authenticator to an encoded advert that begins at b[start:].
func (c *AdvertChannel) Seal(b []byte, start int, h Header) []byte {
	c.sent++
	end := len(b)
	b = append(b, authenticatorMagic...)
	b = binary.BigEndian.AppendUint64(b, c.mine)
	b = binary.BigEndian.AppendUint64(b, c.sent)
	return append(b, c.sum(b[start:end], b[end:], h)...)
}

func (c *AdvertChannel) sum(advert, head []byte, h Header) []byte {
	m := hmac.New(sha256.New, c.key)
	m.Write(h.Source.AsSlice())
	m.Write(h.Destination.AsSlice())
	m.Write(advert)
	m.Write(head)
	return m.Sum(nil)[:authenticatorMAC]
}

// AdvertVerdict says what became of an advert's authenticator.
type AdvertVerdict uint8

// The verdicts.
const (
	AdvertTrusted AdvertVerdict = iota
	// AdvertUnsigned has no authenticator, AdvertForged a wrong one, and AdvertReplayed
	// one that was used before.
	AdvertUnsigned
	AdvertForged
	AdvertReplayed
)

// String returns the verdict as a counter's label.
func (v AdvertVerdict) String() string {
	switch v {
	case AdvertTrusted:
		return "trusted"
	case AdvertUnsigned:
		return "unsigned"
	case AdvertForged:
		return "forged"
	case AdvertReplayed:
		return "replayed"
	}
	return "unknown"
}

// Open checks the authenticator in the payload of an IP packet whose advert has
// passed [ParseAdvertisement]. alive is the nonce of the peer's process that
// heartbeats prove to be alive, zero if none do; quiet is for how long the believed
// process must have been silent before another one may take its place.
func (c *AdvertChannel) Open(now time.Time, payload []byte, a Advertisement, h Header, alive uint64, quiet time.Duration) AdvertVerdict {
	length := fixedLength + len(a.Addresses)*addressLength(h)
	if len(payload) < length+authenticatorLength || string(payload[length:length+4]) != authenticatorMagic {
		return AdvertUnsigned
	}
	advert, head := payload[:length], payload[length:length+authenticatorHead]
	if !hmac.Equal(c.sum(advert, head, h), payload[length+authenticatorHead:length+authenticatorLength]) {
		return AdvertForged
	}
	sender, count := binary.BigEndian.Uint64(head[4:]), binary.BigEndian.Uint64(head[12:])
	if sender == c.mine || !c.accept(now, sender, count, alive, quiet) {
		return AdvertReplayed
	}
	return AdvertTrusted
}

func (c *AdvertChannel) accept(now time.Time, sender, count, alive uint64, quiet time.Duration) bool {
	known := !c.heardAt.IsZero()
	switch {
	case known && sender == c.trusted:
		if count <= c.received {
			return false
		}
	case alive != 0 && sender != alive, slices.Contains(c.retired, sender):
		return false
	case known && sender != alive && now.Sub(c.heardAt) < quiet:
		return false
	case known:
		c.retired = append(c.retired, c.trusted)
		if len(c.retired) > maxRetired {
			c.retired = c.retired[1:]
		}
	}
	c.trusted, c.received, c.heardAt = sender, count, now
	return true
}
