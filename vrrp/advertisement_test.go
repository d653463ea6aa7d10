package vrrp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func header4() Header {
	return Header{Source: netip.MustParseAddr("192.0.2.251"), Destination: MulticastIPv4(), TTL: TTL}
}

func header6() Header {
	return Header{Source: netip.MustParseAddr("fe80::251"), Destination: MulticastIPv6(), TTL: TTL}
}

func advertisement4() Advertisement {
	return Advertisement{
		Version: Version3, VRID: 10, Priority: 200, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
}

func advertisement6() Advertisement {
	return Advertisement{
		Version: Version3, VRID: 10, Priority: 200, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")},
	}
}

func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is a message whose octets were computed by other means than this
// package.
type vector struct {
	name          string
	advertisement Advertisement
	header        Header
	checksum      Checksum
	octets        string
}

func vectors() []vector {
	leaving := advertisement4()
	leaving.Priority = PriorityLeaving
	v6 := "310ac802 0064d9d3" +
		"fe800000000000000000000000000001" + "20010db8000000000000000000000001"
	return []vector{
		{"IPv4 plain", advertisement4(), header4(), ChecksumPlain, "310ac801 0064448e c0000201"},
		{"IPv4 pseudo-header", advertisement4(), header4(), ChecksumPseudoHeader, "310ac801 0064a103 c0000201"},
		{"IPv4 leaving plain", leaving, header4(), ChecksumPlain, "310a0001 00640c8f c0000201"},
		{"IPv4 leaving pseudo-header", leaving, header4(), ChecksumPseudoHeader, "310a0001 00646904 c0000201"},
		{"IPv6", advertisement6(), header6(), ChecksumPseudoHeader, v6},
	}
}

func TestRFC9568_5_2_Vectors(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			want := octets(t, v.octets)
			got, err := v.advertisement.Append([]byte("kept"), v.header, v.checksum)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, append([]byte("kept"), want...)) {
				t.Errorf("Append:\n got %x\nwant %x after the prefix", got, want)
			}
			a, c, reason := ParseAdvertisement(want, v.header)
			if reason != DropNone || c != v.checksum {
				t.Errorf("ParseAdvertisement: reason %v, checksum %v; want none, %v", reason, c, v.checksum)
			}
			if diff := cmp.Diff(v.advertisement, a, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("ParseAdvertisement (-want +got):\n%s", diff)
			}
		})
	}
}

// Over IPv6 there is one way to compute the checksum, whatever the caller says.
func TestRFC9568_5_2_8_PlainChecksumIsForIPv4Only(t *testing.T) {
	plain, err := advertisement6().Append(nil, header6(), ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	pseudo, err := advertisement6().Append(nil, header6(), ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, pseudo) {
		t.Errorf("%x and %x differ", plain, pseudo)
	}
	binary.BigEndian.PutUint16(plain[offsetChecksum:], 0)
	binary.BigEndian.PutUint16(plain[offsetChecksum:], ^ChecksumPlain.sum(plain, header6()))
	if _, _, reason := ParseAdvertisement(plain, header6()); reason != DropChecksum {
		t.Errorf("a checksum without pseudo-header over IPv6: reason %v, want %v", reason, DropChecksum)
	}
}

// refusal changes a valid message so that exactly one check fails. The checksum
// is made right again afterwards, unless the case is about a rotten one.
type refusal struct {
	name   string
	v6     bool
	change func(b []byte, h *Header) []byte
	rotten bool // leave the checksum wrong
	want   DropReason
}

func set(offset int, value byte) func([]byte, *Header) []byte {
	return func(b []byte, _ *Header) []byte {
		b[offset] = value
		return b
	}
}

func cut(length int) func([]byte, *Header) []byte {
	return func(b []byte, _ *Header) []byte { return b[:length] }
}

func ttl(value uint8) func([]byte, *Header) []byte {
	return func(b []byte, h *Header) []byte {
		h.TTL = value
		return b
	}
}

func refusals() []refusal {
	return []refusal{
		{"§5.1.1.3 TTL 254", false, ttl(254), false, DropTTL},
		{"§5.1.1.3 TTL 1", false, ttl(1), false, DropTTL},
		{"§5.1.2.3 hop limit 254", true, ttl(254), false, DropTTL},
		{"§5.2.1 version 2 over IPv6", true, set(0, 0x21), false, DropVersion},
		{"§5.2.1 version 1", false, set(0, 0x11), false, DropVersion},
		{"§5.2.1 version 4", false, set(0, 0x41), false, DropVersion},
		{"§5.2.2 type 0", false, set(0, 0x30), false, DropType},
		{"§5.2.2 type 2", false, set(0, 0x32), false, DropType},
		{"§7.1 empty", false, cut(0), true, DropTruncated},
		{"§7.1 fixed part cut", false, cut(fixedLength - 1), true, DropTruncated},
		{"§7.1 address missing", false, cut(fixedLength), true, DropTruncated},
		{"§7.1 address cut", false, cut(fixedLength + 3), true, DropTruncated},
		{"§7.1 IPv6 address cut", true, cut(fixedLength + 31), true, DropTruncated},
		{"§5.2.5 count beyond the packet", false, set(3, 2), true, DropTruncated},
		{"§5.2.8 priority changed on the way", false, set(2, 100), true, DropChecksum},
		{"§5.2.8 address changed on the way", false, set(11, 2), true, DropChecksum},
		{"§5.2.8 IPv6 priority changed on the way", true, set(2, 100), true, DropChecksum},
		{"§5.2.3 VRID 0", false, set(1, 0), false, DropVRID},
		{"§5.2.5 no address", false, set(3, 0), false, DropCount},
		{"§5.2.5 no IPv6 address", true, set(3, 0), false, DropCount},
		{"§5.2.7 interval 0", false, set(5, 0), false, DropInterval},
		{"§5.2.6 reserved bits are no interval", false, func(b []byte, _ *Header) []byte {
			b[4], b[5] = 0xf0, 0
			return b
		}, false, DropInterval},
		{"§5.2.9 first address is not link-local", true, set(8, 0x20), false, DropLinkLocal},
	}
}

func TestRFC9568_7_1_Refusals(t *testing.T) {
	for _, r := range refusals() {
		t.Run(r.name, func(t *testing.T) {
			a, h := advertisement4(), header4()
			if r.v6 {
				a, h = advertisement6(), header6()
			}
			valid, err := a.Append(nil, h, ChecksumPseudoHeader)
			if err != nil {
				t.Fatal(err)
			}
			payload := r.change(valid, &h)
			if !r.rotten {
				seal(payload, h)
			}
			got, _, reason := ParseAdvertisement(payload, h)
			if reason != r.want {
				t.Errorf("reason %v, want %v", reason, r.want)
			}
			if got.VRID != 0 || got.Addresses != nil {
				t.Errorf("a refused message yields %+v, want the zero value", got)
			}
		})
	}
}

// seal makes the checksum of a message right that was changed.
func seal(payload []byte, h Header) {
	message := payload[:fixedLength+int(payload[3])*addressLength(h)]
	binary.BigEndian.PutUint16(message[offsetChecksum:], 0)
	binary.BigEndian.PutUint16(message[offsetChecksum:], ^ChecksumPseudoHeader.sum(message, h))
}

// With every fault at once the first check of §7.1 gives the reason; mending the
// faults one after the other brings the others up in order.
func TestRFC9568_7_1_Order(t *testing.T) {
	payload := octets(t, "10000000 00000000")
	h := header4()
	h.TTL = 64
	steps := []struct {
		want DropReason
		mend func()
	}{
		{DropTTL, func() { h.TTL = TTL }},
		{DropVersion, func() { payload[0] = 0x30 }},
		{DropType, func() { payload[0] = 0x31; payload = payload[:7] }},
		{DropTruncated, func() { payload = payload[:8]; payload[7] = 1 }},
		{DropChecksum, func() { seal(payload, h) }},
		{DropVRID, func() { payload[1] = 10; seal(payload, h) }},
		{DropCount, func() { payload[3] = 1; payload = append(payload, 192, 0, 2, 1); seal(payload, h) }},
		{DropInterval, func() { payload[5] = 100; seal(payload, h) }},
		{DropNone, func() {}},
	}
	for _, s := range steps {
		if _, _, reason := ParseAdvertisement(payload, h); reason != s.want {
			t.Fatalf("%x with TTL %d: reason %v, want %v", payload, h.TTL, reason, s.want)
		}
		s.mend()
	}
}

func TestRFC9568_5_2_6_ReservedBitsAreIgnored(t *testing.T) {
	for _, c := range []Checksum{ChecksumPlain, ChecksumPseudoHeader} {
		payload, err := advertisement4().Append(nil, header4(), c)
		if err != nil {
			t.Fatal(err)
		}
		if payload[4]&0xf0 != 0 {
			t.Errorf("reserved bits %x sent, want 0", payload[4]>>4)
		}
		payload[4] |= 0xf0
		seal(payload, header4())
		a, _, reason := ParseAdvertisement(payload, header4())
		if reason != DropNone || a.Interval != time.Second {
			t.Errorf("reason %v, interval %v; want none, 1s", reason, a.Interval)
		}
	}
}

// Ethernet pads an IPv4 advertisement with one address to 46 octets.
func TestRFC9568_7_1_PaddingIsTolerated(t *testing.T) {
	for _, v := range vectors() {
		padded := append(octets(t, v.octets), bytes.Repeat([]byte{0xa5}, 14)...)
		a, c, reason := ParseAdvertisement(padded, v.header)
		if reason != DropNone || c != v.checksum {
			t.Errorf("%s: reason %v, checksum %v; want none, %v", v.name, reason, c, v.checksum)
		}
		if len(a.Addresses) != len(v.advertisement.Addresses) {
			t.Errorf("%s: addresses %v, want %v", v.name, a.Addresses, v.advertisement.Addresses)
		}
	}
}

func TestRFC9568_5_2_7_IntervalLimits(t *testing.T) {
	for _, c := range []struct {
		interval time.Duration
		ok       bool
	}{
		{0, false},
		{-10 * time.Millisecond, false},
		{9 * time.Millisecond, false},
		{10 * time.Millisecond, true},
		{15 * time.Millisecond, false},
		{100 * time.Millisecond, true},
		{40950 * time.Millisecond, true},
		{40960 * time.Millisecond, false},
		{24 * time.Hour, false},
	} {
		a := advertisement4()
		a.Interval = c.interval
		b, err := a.Append(nil, header4(), ChecksumPlain)
		if (err == nil) != c.ok {
			t.Errorf("interval %v: error %v, want success %v", c.interval, err, c.ok)
			continue
		}
		if !c.ok {
			continue
		}
		if got, _, reason := ParseAdvertisement(b, header4()); got.Interval != c.interval {
			t.Errorf("interval %v came back as %v (reason %v)", c.interval, got.Interval, reason)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	two := func(a, b string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr(a), netip.MustParseAddr(b)}
	}
	many := make([]netip.Addr, MaxAddresses+1)
	for i := range many {
		many[i] = netip.MustParseAddr("192.0.2.1")
	}
	for _, c := range []struct {
		name   string
		change func(*Advertisement, *Header)
		want   string
	}{
		{"§5.2.3 VRID 0", func(a *Advertisement, _ *Header) { a.VRID = 0 }, "VRID"},
		{"§5.2.5 no address", func(a *Advertisement, _ *Header) { a.Addresses = nil }, "0 addresses"},
		{"§5.2.5 256 addresses", func(a *Advertisement, _ *Header) { a.Addresses = many }, "256 addresses"},
		{"§5.2.9 IPv6 address over IPv4", func(a *Advertisement, _ *Header) {
			a.Addresses = two("192.0.2.1", "2001:db8::1")
		}, "family"},
		{"§5.2.9 IPv4 address over IPv6", func(a *Advertisement, h *Header) {
			a.Addresses, *h = two("fe80::1", "192.0.2.1"), header6()
		}, "family"},
		{"§5.2.9 link-local not first", func(a *Advertisement, h *Header) {
			a.Addresses, *h = two("2001:db8::1", "fe80::1"), header6()
		}, "link-local"},
		{"zero address", func(a *Advertisement, _ *Header) { a.Addresses = []netip.Addr{{}} }, "family"},
		{"no source", func(_ *Advertisement, h *Header) { h.Source = netip.Addr{} }, "family"},
		{"mixed header", func(_ *Advertisement, h *Header) { h.Destination = MulticastIPv6() }, "family"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, h := advertisement4(), header4()
			c.change(&a, &h)
			b, err := a.Append([]byte("kept"), h, ChecksumPlain)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
			if string(b) != "kept" {
				t.Errorf("returned %q, want the argument unchanged", b)
			}
		})
	}
}

// 255 addresses are the most, and they survive.
func TestRFC9568_5_2_5_MostAddresses(t *testing.T) {
	a := advertisement4()
	a.Addresses = nil
	for i := range MaxAddresses {
		a.Addresses = append(a.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	b, err := a.Append(nil, header4(), ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	got, _, reason := ParseAdvertisement(b, header4())
	if reason != DropNone {
		t.Fatal(reason)
	}
	if diff := cmp.Diff(a, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseDoesNotAlias(t *testing.T) {
	b := octets(t, vectors()[0].octets)
	a, _, _ := ParseAdvertisement(b, header4())
	clear(b)
	if want := netip.MustParseAddr("192.0.2.1"); a.Addresses[0] != want {
		t.Errorf("address became %v when the buffer was reused, want %v", a.Addresses[0], want)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	a, h, b := advertisement4(), header4(), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { _, _ = a.Append(b, h, ChecksumPlain) }); n != 0 {
		t.Errorf("%v allocations into a buffer with room, want 0", n)
	}
}

func TestRFC9568_7_3_VirtualMAC(t *testing.T) {
	for vrid := 1; vrid <= 255; vrid++ {
		v4, v6 := VirtualMAC4(uint8(vrid)), VirtualMAC6(uint8(vrid))
		if want := [6]byte{0x00, 0x00, 0x5e, 0x00, 0x01, byte(vrid)}; v4 != want {
			t.Errorf("IPv4 VRID %d: %x, want %x", vrid, v4, want)
		}
		if want := [6]byte{0x00, 0x00, 0x5e, 0x00, 0x02, byte(vrid)}; v6 != want {
			t.Errorf("IPv6 VRID %d: %x, want %x", vrid, v6, want)
		}
	}
}

func TestRFC9568_5_1_Destinations(t *testing.T) {
	if got := MulticastIPv4().String(); got != "224.0.0.18" {
		t.Errorf("IPv4: %s", got)
	}
	if got := MulticastIPv6().String(); got != "ff02::12" {
		t.Errorf("IPv6: %s", got)
	}
}

func TestNamesAreDistinctKebabCase(t *testing.T) {
	seen := map[string]bool{}
	for r := range DropReasons {
		name := DropReason(r).String()
		if seen[name] || name == "unknown" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("reason %d is called %q", r, name)
		}
		seen[name] = true
	}
	if got := DropReason(DropReasons).String(); got != "unknown" {
		t.Errorf("a reason outside the set is called %q", got)
	}
	if ChecksumPlain.String() != "plain" || ChecksumPseudoHeader.String() != "pseudo-header" || Checksum(9).String() != "unknown" {
		t.Errorf("checksums are called %v, %v, %v", ChecksumPlain, ChecksumPseudoHeader, Checksum(9))
	}
}

// FuzzParseAdvertisement: no payload makes the parser panic, and what it accepts
// comes out of Append as it was, but for padding and reserved bits.
func FuzzParseAdvertisement(f *testing.F) {
	for _, v := range vectors() {
		f.Add(octets(f, v.octets), v.header.Source.Is6(), uint8(TTL))
		f.Add(append(octets(f, v.octets), 0, 0, 0), v.header.Source.Is6(), uint8(TTL))
	}
	f.Add(octets(f, "21331e01 0001b5c5 0a000105 00000000 00000000"), false, uint8(TTL))
	f.Add([]byte{}, false, uint8(1))
	f.Fuzz(func(t *testing.T, payload []byte, v6 bool, ttl uint8) {
		h := header4()
		if v6 {
			h = header6()
		}
		h.TTL = ttl
		a, c, reason := ParseAdvertisement(payload, h)
		if reason != DropNone {
			return
		}
		if ttl != TTL {
			t.Fatalf("accepted with TTL %d", ttl)
		}
		again, err := a.Append(nil, h, c)
		if err != nil {
			t.Fatalf("accepted %x, which Append refuses: %v", payload, err)
		}
		same := bytes.Clone(payload[:len(again)])
		// What a receiver ignores is not kept: reserved bits, and in version 2 the
		// authentication data (RFC 3768 §5.3.10).
		noise := a.Version == Version2 && !bytes.Equal(same[len(same)-authenticationLength2:], make([]byte, authenticationLength2))
		if !noise && same[4]&0xf0 == 0 && binary.BigEndian.Uint16(same[offsetChecksum:]) != 0xffff && !bytes.Equal(same, again) {
			t.Fatalf("accepted %x, which Append turns into %x", same, again)
		}
		b, c2, reason := ParseAdvertisement(again, h)
		if reason != DropNone || c2 != c || !cmp.Equal(a, b, cmpopts.EquateComparable(netip.Addr{})) {
			t.Fatalf("%+v (%v) came back as %+v (%v, %v)", a, c, b, c2, reason)
		}
	})
}

func BenchmarkParseAdvertisement(b *testing.B) {
	payload, h := octets(b, vectors()[0].octets), header4()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, reason := ParseAdvertisement(payload, h); reason != DropNone {
			b.Fatal(reason)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	a, h, buf := advertisement4(), header4(), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Append(buf, h, ChecksumPlain); err != nil {
			b.Fatal(err)
		}
	}
}
