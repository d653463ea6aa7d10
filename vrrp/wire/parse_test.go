package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"tandem/vrrp"
)

// validIPv4 is an IPv4 packet of protocol 112 with a payload of 12 octets, padded
// as Ethernet does.
func validIPv4() []byte {
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

// validIPv6 is the same over IPv6, where nothing needs padding, but may have it.
func validIPv6() []byte {
	b := []byte{
		0x6c, 0, 0, 0, 0, 12, 112, 255,
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x51,
		0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12,
	}
	return append(append(b, []byte("VRRP message")...), make([]byte, 14)...)
}

func resum(b []byte) {
	length := min(int(b[0]&0x0f)*4, len(b))
	binary.BigEndian.PutUint16(b[offsetHeaderSum:], 0)
	binary.BigEndian.PutUint16(b[offsetHeaderSum:], ^headerSum(b[:length]))
}

// change is one way to spoil a packet.
type change struct {
	name   string
	change func([]byte) []byte
	want   vrrp.DropReason
}

func same(b []byte) []byte  { return b }
func nothing([]byte) []byte { return nil }
func cut(length int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:length] }
}

func set6(offset int, values ...byte) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[offset:], values)
		return b
	}
}

func set4(offset int, values ...byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = set6(offset, values...)(b)
		resum(b)
		return b
	}
}

func TestParseIPv4(t *testing.T) {
	requireParsed(t, parseIPv4, validIPv4, "192.0.2.251", "224.0.0.18", []change{
		{"valid", same, vrrp.DropNone},
		{"TTL is not judged here", set4(offsetTTL, 1), vrrp.DropNone},
		{"empty", nothing, vrrp.DropTruncated},
		{"header cut", cut(19), vrrp.DropTruncated},
		{"payload cut", cut(31), vrrp.DropTruncated},
		{"options cut", func(b []byte) []byte {
			set4(0, 0x4f)(b)
			set4(offsetLength, 0, 60)(b)
			return b[:40]
		}, vrrp.DropTruncated},
		{"IP version 6", set4(0, 0x65), vrrp.DropHeader},
		{"header length 16", set4(0, 0x44), vrrp.DropHeader},
		{"total length below the header's", set4(offsetLength, 0, 19), vrrp.DropHeader},
		{"options beyond the total length", set4(0, 0x4f), vrrp.DropHeader},
		{"wrong header checksum", func(b []byte) []byte { b[offsetSource+3]++; return b }, vrrp.DropHeader},
		{"other protocol", set4(offsetProtocol, 17), vrrp.DropHeader},
		{"first fragment", set4(offsetFragment, 0x20, 0), vrrp.DropFragment},
		{"last fragment", set4(offsetFragment, 0, 1), vrrp.DropFragment},
		{"no source", set4(offsetSource, 0, 0, 0, 0), vrrp.DropHeader},
		{"loopback as source", set4(offsetSource, 127, 0, 0, 1), vrrp.DropHeader},
		{"a group as source", set4(offsetSource, 224, 0, 0, 18), vrrp.DropHeader},
		{"everybody as source", set4(offsetSource, 255, 255, 255, 255), vrrp.DropHeader},
	})
}

func TestParseIPv6(t *testing.T) {
	requireParsed(t, parseIPv6, validIPv6, "fe80::251", "ff02::12", []change{
		{"valid", same, vrrp.DropNone},
		{"hop limit is not judged here", set6(offsetHopLimit, 1), vrrp.DropNone},
		{"traffic class and flow label do not matter", set6(0, 0x60, 0x0f, 0xff, 0xff), vrrp.DropNone},
		{"empty", nothing, vrrp.DropTruncated},
		{"header cut", cut(39), vrrp.DropTruncated},
		{"payload cut", cut(51), vrrp.DropTruncated},
		{"longest payload", set6(offsetLength6, 0xff, 0xff), vrrp.DropTruncated},
		{"IP version 4", set6(0, 0x4c), vrrp.DropHeader},
		{"IP version 7", set6(0, 0x7c), vrrp.DropHeader},
		{"other next header", set6(offsetNextHeader, 58), vrrp.DropHeader},
		{"hop-by-hop options, as a jumbogram has", set6(offsetNextHeader, 0), vrrp.DropHeader},
		{"fragment", set6(offsetNextHeader, 44), vrrp.DropHeader},
		{"no source", set6(offsetSource6, make([]byte, 16)...), vrrp.DropHeader},
		{"a group as source", set6(offsetSource6, 0xff, 0x02), vrrp.DropHeader},
		{"loopback as source", set6(offsetSource6, append(make([]byte, 15), 1)...), vrrp.DropHeader},
		{
			"IPv4 address as source",
			set6(offsetSource6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1), vrrp.DropHeader,
		},
	})
}

func requireParsed(
	t *testing.T, parse func([]byte) Packet, valid func() []byte, source, destination string, changes []change,
) {
	t.Helper()
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			got := parse(c.change(valid()))
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
			if got.Header.Source != netip.MustParseAddr(source) || got.Header.Destination != netip.MustParseAddr(destination) {
				t.Errorf("header %+v", got.Header)
			}
		})
	}
}

func TestParseSkipsOptions(t *testing.T) {
	b := validIPv4()
	b[0], b[offsetLength+1] = 0x46, 36
	b = append(b[:ipv4Header:ipv4Header], append([]byte{0x94, 4, 0, 0}, b[ipv4Header:]...)...)
	resum(b)
	if got := parseIPv4(b); got.Dropped != vrrp.DropNone || string(got.Payload) != "VRRP message" {
		t.Errorf("dropped as %v, payload %q", got.Dropped, got.Payload)
	}
}

func TestParseEmptyMessage(t *testing.T) {
	four, six := set4(offsetLength, 0, 20)(validIPv4()), set6(offsetLength6, 0, 0)(validIPv6())
	for _, got := range []Packet{parseIPv4(four), parseIPv6(six)} {
		if got.Dropped != vrrp.DropNone || got.Payload == nil || len(got.Payload) != 0 {
			t.Errorf("%+v, want an empty message", got)
		}
		if _, _, reason := vrrp.ParseAdvertisement(got.Payload, got.Header); reason != vrrp.DropTruncated {
			t.Errorf("an empty message is dropped as %v", reason)
		}
	}
}

// FuzzParseIPv4: no packet makes the parser panic, a payload always lies within
// the packet, and what the parser says fits what the header says.
func FuzzParseIPv4(f *testing.F) {
	f.Add(validIPv4())
	f.Add(validIPv4()[:21])
	f.Fuzz(func(t *testing.T, b []byte) {
		requireSound(t, parseIPv4(b), b)
	})
}

// FuzzParseIPv6 does the same for IPv6.
func FuzzParseIPv6(f *testing.F) {
	f.Add(validIPv6())
	f.Add(validIPv6()[:41])
	f.Fuzz(func(t *testing.T, b []byte) {
		requireSound(t, parseIPv6(b), b)
	})
}

func requireSound(t *testing.T, got Packet, b []byte) {
	t.Helper()
	if (got.Dropped == vrrp.DropNone) != (got.Payload != nil) {
		t.Fatalf("dropped as %v with payload %x", got.Dropped, got.Payload)
	}
	if !bytes.Contains(b, got.Payload) || len(got.Payload) != cap(got.Payload) {
		t.Fatalf("payload %x is not in %x", got.Payload, b)
	}
	if got.Dropped == vrrp.DropHeader || got.Dropped == vrrp.DropTruncated {
		if got.Header != (vrrp.Header{}) {
			t.Fatalf("dropped as %v with header %+v", got.Dropped, got.Header)
		}
		return
	}
	if h := got.Header; !isSource(h.Source) || h.Source.Is4() != h.Destination.Is4() {
		t.Fatalf("header %+v of %x", h, b)
	}
	vrrp.ParseAdvertisement(got.Payload, got.Header) // must not panic
}

// The filter's decisions that depend on the direction and the interface need a
// kernel, see TestRFC9568_5_1_1_2_OtherDestinationsAreNotHeard.
func TestFilterAssembles(t *testing.T) {
	many := make([]netip.Addr, 0, 200)
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i)}))
	}
	for _, ipv6 := range families() {
		lengths := map[int]int{}
		for _, own := range [][]netip.Addr{nil, many} {
			raw, err := advertFilter(1, ipv6, own)
			if err != nil {
				t.Fatal(err)
			}
			if _, complete := bpf.Disassemble(raw); !complete {
				t.Errorf("not a program of known instructions: %v", raw)
			}
			lengths[len(own)] = len(raw)
		}
		if perAddress := map[bool]int{false: 3, true: 9}[ipv6]; lengths[200]-lengths[0] != 100*perAddress {
			t.Errorf("programs of %v instructions, want %d for each address of the family", lengths, perAddress)
		}
	}
}
