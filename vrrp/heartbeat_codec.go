package vrrp

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// The layout of a heartbeat: a head of fixed length, extensions (type, length, value)
// of which a receiver skips those that it does not know, and the authenticator.
const (
	// heartbeatMagic starts every heartbeat; its last byte is the version.
	heartbeatMagic = "TDM\x02"
	heartbeatHead  = 4 + 1 + 1 + 1 + 1 + 8 + 8 + 8 + 8
	minHeartbeat   = heartbeatHead + sha256.Size
	// MaxHeartbeat is the length of the longest heartbeat in bytes.
	MaxHeartbeat = 512
)

// The flags of the head.
const (
	flagReady    = 1 << 0
	flagTakeOver = 1 << 1
)

// The types of extensions. Each has a length of one octet.
const (
	// extensionConfiguration is a digest of DigestSize octets.
	extensionConfiguration = 1
	// extensionHears is a count of 16 bits and as many bits, the first carrier in the
	// lowest bit of the first octet.
	extensionHears = 2
)

func (h Heartbeat) appendHead(b []byte) []byte {
	var flags byte
	if h.Ready {
		flags |= flagReady
	}
	if h.TakeOver {
		flags |= flagTakeOver
	}
	b = append(b, heartbeatMagic...)
	b = append(b, byte(h.State), h.Priority, flags, byte(h.Beat/time.Millisecond))
	return binary.BigEndian.AppendUint64(b, h.Term)
}

// parseHead needs the whole head.
func parseHead(b []byte) Heartbeat {
	return Heartbeat{
		State: State(b[4]), Priority: b[5],
		Ready: b[6]&flagReady != 0, TakeOver: b[6]&flagTakeOver != 0,
		Term: binary.BigEndian.Uint64(b[8:]), Beat: time.Duration(b[7]) * time.Millisecond,
	}
}

func (h Heartbeat) appendExtensions(b []byte) []byte {
	b = append(b, extensionConfiguration, DigestSize)
	b = append(b, h.Configuration[:]...)
	octets := (len(h.Hears) + 7) / 8
	if h.Hears == nil || 2+octets > 255 {
		return b
	}
	b = append(b, extensionHears, byte(2+octets))
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.Hears)))
	bits := make([]byte, octets)
	for i, hears := range h.Hears {
		if hears {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return append(b, bits...)
}

// parseExtensions reports whether the extensions are whole.
func (h *Heartbeat) parseExtensions(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return false
		}
		kind, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		switch kind {
		case extensionConfiguration:
			if len(value) != DigestSize {
				return false
			}
			h.Configuration = [DigestSize]byte(value)
		case extensionHears:
			if !h.parseHears(value) {
				return false
			}
		}
	}
	return true
}

func (h *Heartbeat) parseHears(value []byte) bool {
	if len(value) < 2 {
		return false
	}
	count, bits := int(binary.BigEndian.Uint16(value)), value[2:]
	if len(bits) != (count+7)/8 {
		return false
	}
	h.Hears = make([]bool, count)
	for i := range h.Hears {
		h.Hears[i] = bits[i/8]&(1<<(i%8)) != 0
	}
	return true
}
