package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"tandem/vrrp"
)

// validPacket is an IPv4 packet of protocol 112 with a payload of 12 octets,
// padded as Ethernet does.
func validPacket() []byte {
	b := []byte{
		0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 255, 112, 0, 0,
		192, 0, 2, 251,
		224, 0, 0, 18,
	}
	b = append(b, []byte("VRRP message")...)
	b = append(b, make([]byte, 14)...)
	resum(b)
	return b
}

func resum(b []byte) {
	length := min(int(b[0]&0x0f)*4, len(b))
	binary.BigEndian.PutUint16(b[offsetHeaderSum:], 0)
	binary.BigEndian.PutUint16(b[offsetHeaderSum:], ^headerSum(b[:length]))
}

func TestParse(t *testing.T) {
	set := func(offset int, values ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			copy(b[offset:], values)
			resum(b)
			return b
		}
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   vrrp.DropReason
	}{
		{"valid", func(b []byte) []byte { return b }, vrrp.DropNone},
		{"TTL is not judged here", set(offsetTTL, 1), vrrp.DropNone},
		{"empty", func([]byte) []byte { return nil }, vrrp.DropTruncated},
		{"header cut", func(b []byte) []byte { return b[:19] }, vrrp.DropTruncated},
		{"payload cut", func(b []byte) []byte { return b[:31] }, vrrp.DropTruncated},
		{"options cut", func(b []byte) []byte {
			set(0, 0x4f)(b)
			set(offsetLength, 0, 60)(b)
			return b[:40]
		}, vrrp.DropTruncated},
		{"IP version 6", set(0, 0x65), vrrp.DropHeader},
		{"header length 16", set(0, 0x44), vrrp.DropHeader},
		{"total length below the header's", set(offsetLength, 0, 19), vrrp.DropHeader},
		{"options beyond the total length", set(0, 0x4f), vrrp.DropHeader},
		{"wrong header checksum", func(b []byte) []byte { b[offsetSource+3]++; return b }, vrrp.DropHeader},
		{"other protocol", set(offsetProtocol, 17), vrrp.DropHeader},
		{"first fragment", set(offsetFragment, 0x20, 0), vrrp.DropFragment},
		{"last fragment", set(offsetFragment, 0, 1), vrrp.DropFragment},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parseIPv4(c.change(validPacket()))
			if got.Dropped != c.want {
				t.Fatalf("dropped as %v, want %v", got.Dropped, c.want)
			}
			if c.want != vrrp.DropNone {
				if got.Payload != nil {
					t.Errorf("a dropped packet has payload %x", got.Payload)
				}
				return
			}
			if string(got.Payload) != "VRRP message" {
				t.Errorf("payload %q, want it without padding", got.Payload)
			}
			if got.Header.Source != netip.MustParseAddr("192.0.2.251") || got.Header.Destination != vrrp.MulticastIPv4() {
				t.Errorf("header %+v", got.Header)
			}
		})
	}
}

func TestParseSkipsOptions(t *testing.T) {
	b := validPacket()
	b[0], b[offsetLength+1] = 0x46, 36
	b = append(b[:ipv4Header:ipv4Header], append([]byte{0x94, 4, 0, 0}, b[ipv4Header:]...)...)
	resum(b)
	if got := parseIPv4(b); got.Dropped != vrrp.DropNone || string(got.Payload) != "VRRP message" {
		t.Errorf("dropped as %v, payload %q", got.Dropped, got.Payload)
	}
}

// FuzzParse: no packet makes the parser panic, and a payload always lies within
// the packet.
func FuzzParse(f *testing.F) {
	f.Add(validPacket())
	f.Add(validPacket()[:21])
	f.Fuzz(func(t *testing.T, b []byte) {
		got := parseIPv4(b)
		if (got.Dropped == vrrp.DropNone) != (got.Payload != nil) {
			t.Fatalf("dropped as %v with payload %x", got.Dropped, got.Payload)
		}
		if !bytes.Contains(b, got.Payload) {
			t.Fatalf("payload %x is not in %x", got.Payload, b)
		}
	})
}

// The filter's decisions that depend on the content; those on the packet's
// direction need a kernel, see TestFilterDropsOthers.
func TestFilterAssembles(t *testing.T) {
	raw, err := advertFilter(1, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, complete := bpf.Disassemble(raw); !complete {
		t.Errorf("not a program of known instructions: %v", raw)
	}
}
