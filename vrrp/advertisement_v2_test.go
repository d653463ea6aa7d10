package vrrp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// genuine2 is a message of version 2 as another implementation encodes it.
const genuine2 = "21331e01 0001b5c5 0a000105 00000000 00000000"

func TestRFC9568_8_4_Version2Message(t *testing.T) {
	want := Advertisement{
		Version: Version2, VRID: 51, Priority: 30, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.5")},
	}
	payload := octets(t, genuine2)
	for _, padding := range []int{0, 18} {
		got, c, reason := ParseAdvertisement(append(bytes.Clone(payload), make([]byte, padding)...), header4())
		if reason != DropNone || c != ChecksumPlain {
			t.Fatalf("reason %v, checksum %v", reason, c)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	encoded, err := want.Append(nil, header4(), ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded, payload) {
		t.Errorf("encoded\n%x, want\n%x", encoded, payload)
	}
}

func TestRFC9568_8_4_Version2Refusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		rotten bool
		want   DropReason
	}{
		"interval 0":              {func(b []byte) []byte { b[5] = 0; return b }, false, DropInterval},
		"simple password":         {func(b []byte) []byte { b[4] = 1; return b }, false, DropAuthentication},
		"no address":              {func(b []byte) []byte { b[3] = 0; return b }, false, DropCount},
		"VRID 0":                  {func(b []byte) []byte { b[1] = 0; return b }, false, DropVRID},
		"type 2":                  {func(b []byte) []byte { b[0] = 0x22; return b }, false, DropType},
		"no authentication data":  {func(b []byte) []byte { return b[:len(b)-1] }, true, DropTruncated},
		"fixed part cut":          {func(b []byte) []byte { return b[:7] }, true, DropTruncated},
		"changed on the way":      {func(b []byte) []byte { b[2]++; return b }, true, DropChecksum},
		"version 3's pseudo sum":  {func(b []byte) []byte { binary.BigEndian.PutUint16(b[6:], 0x0a1d); return b }, true, DropChecksum},
		"count beyond the packet": {func(b []byte) []byte { b[3] = 9; return b }, true, DropTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.change(octets(t, genuine2))
			if !c.rotten {
				length := fixedLength + 4*int(b[3]) + authenticationLength2
				copy(b[offsetChecksum:], []byte{0, 0})
				binary.BigEndian.PutUint16(b[offsetChecksum:], ^ChecksumPlain.sum(b[:length], header4()))
			}
			if _, _, reason := ParseAdvertisement(b, header4()); reason != c.want {
				t.Errorf("reason %v, want %v", reason, c.want)
			}
		})
	}
}

func TestVersion2CannotExpress(t *testing.T) {
	fine := advertisement4()
	fine.Version = Version2
	for name, change := range map[string]func(a *Advertisement, h *Header){
		"half a second": func(a *Advertisement, _ *Header) { a.Interval = 500 * time.Millisecond },
		"256 seconds":   func(a *Advertisement, _ *Header) { a.Interval = 256 * time.Second },
		"IPv6":          func(a *Advertisement, h *Header) { *h, a.Addresses = header6(), advertisement6().Addresses },
		"version 4":     func(a *Advertisement, _ *Header) { a.Version = 4 },
	} {
		a, h := fine, header4()
		change(&a, &h)
		if b, err := a.Append([]byte("kept"), h, ChecksumPlain); err == nil || string(b) != "kept" {
			t.Errorf("%s: encoded as %x, error %v", name, b, err)
		}
	}
	if _, err := fine.Append(nil, header4(), ChecksumPlain); err != nil {
		t.Error(err)
	}
}
