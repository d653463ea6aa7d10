package replication

import (
	"encoding/binary"
	"math/rand/v2"

	"tandem/conntracksync"
)

// codec is what a node does to its frames beyond what this version does: a newer
// version adds types of frames and of records, and fields at the end of records.
type codec struct {
	newer bool
	rng   *rand.Rand
	// added are the sequence numbers that went to frames of unknown types.
	added []uint64
}

const (
	unknownFrame  = 200
	unknownRecord = 150
	unknownField  = 220
	seqAt         = 10
	headerLength  = 18
)

func (c *codec) reset() { c.added = nil }

// out returns what goes to the peer instead of a frame.
func (c *codec) out(b []byte) [][]byte {
	if !c.newer {
		return [][]byte{b}
	}
	var frames [][]byte
	seq := binary.BigEndian.Uint64(b[seqAt:])
	if c.rng.Float64() < 0.1 && conntracksync.FrameType(b[1]) != conntracksync.FrameHello {
		strange := append([]byte(nil), b[:headerLength]...)
		strange[1] = unknownFrame
		strange = append(strange, unknownRecord, 3, 1, 2, 3)
		if seq > 0 {
			strange = c.number(strange, seq)
			c.added = append(c.added, binary.BigEndian.Uint64(strange[seqAt:]))
		}
		frames = append(frames, strange)
	}
	return append(frames, c.number(c.lengthen(b), seq))
}

// number shifts a sequence number by the frames that were added.
func (c *codec) number(b []byte, seq uint64) []byte {
	if seq > 0 {
		binary.BigEndian.PutUint64(b[seqAt:], seq+uint64(len(c.added)))
	}
	return b
}

// lengthen adds fields and records to a frame.
func (c *codec) lengthen(b []byte) []byte {
	out := append([]byte(nil), b[:headerLength]...)
	for at := headerLength; at < len(b); {
		kind := b[at]
		length, n := binary.Uvarint(b[at+1:])
		body := append([]byte(nil), b[at+1+n:][:length]...)
		at += 1 + n + int(length)
		if c.rng.Float64() < 0.3 {
			if k := conntracksync.RecordKind(kind); k == conntracksync.RecordNew || k == conntracksync.RecordUpdate || k == conntracksync.RecordRefresh {
				body = append(body, unknownField, 3, 7, 8, 9)
			} else {
				body = append(body, 1, 2, 3, 4)
			}
		}
		if conntracksync.FrameType(b[1]) == conntracksync.FrameFlows && c.rng.Float64() < 0.1 {
			out = append(out, unknownRecord, 2, 5, 6)
		}
		out = append(out, kind)
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
	}
	return out
}

// in translates what came from the peer: it knows nothing of the frames that were
// added.
func (c *codec) in(b []byte) []byte {
	if !c.newer || conntracksync.FrameType(b[1]) != conntracksync.FrameAck {
		return b
	}
	var f conntracksync.Frame
	if conntracksync.ParseFrame(b, &f) != nil {
		return b
	}
	f.Acked = c.own(f.Acked)
	return conntracksync.AppendFrame(nil, &f)
}

// own is a sequence number as the node's Sender counts.
func (c *codec) own(seq uint64) uint64 {
	n := uint64(0)
	for _, added := range c.added {
		if added <= seq {
			n++
		}
	}
	return seq - n
}
