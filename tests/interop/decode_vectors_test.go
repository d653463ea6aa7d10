package interop

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDecoder reads messages whose bytes were computed by hand, or that other
// implementations publish, before it is trusted with Tandem's.
func TestDecoder(t *testing.T) {
	const (
		group4 = "224.0.0.18"
		group6 = "ff02::12"
	)
	for name, c := range map[string]struct {
		message, source, destination string
		version, priority            uint8
		interval                     time.Duration
		addresses                    []string
		plain, pseudo                bool
	}{
		"version 3, IPv4, RFC 9568": {
			"310ac8010064448ec0000201", "192.0.2.251", group4, 3, 200, time.Second, []string{"192.0.2.1"}, true, false,
		},
		"version 3, IPv4, pseudo-header": {
			"310ac8010064a103c0000201", "192.0.2.251", group4, 3, 200, time.Second, []string{"192.0.2.1"}, false, true,
		},
		"version 3, IPv4, goodbye": {
			"310a000100640c8fc0000201", "192.0.2.251", group4, 3, 0, time.Second, []string{"192.0.2.1"}, true, false,
		},
		"version 3, IPv4, goodbye, pseudo-header": {
			"310a000100646904c0000201", "192.0.2.251", group4, 3, 0, time.Second, []string{"192.0.2.1"}, false, true,
		},
		"version 3, IPv6": {
			"310ac8020064d9d3" + "fe800000000000000000000000000001" + "20010db8000000000000000000000001",
			"fe80::251", group6, 3, 200, time.Second,
			[]string{"fe80::1", "2001:db8::1"},
			false, true,
		},
		"version 2": {
			"21331e010001b5c50a0001050000000000000000", "10.0.1.1", group4, 2, 30, time.Second, []string{"10.0.1.5"}, true, false,
		},
		"version 3, wrong checksum": {
			"310ac8010064448fc0000201", "192.0.2.251", group4, 3, 200, time.Second, []string{"192.0.2.1"}, false, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			message, err := hex.DecodeString(c.message)
			if err != nil {
				t.Fatal(err)
			}
			a, err := decodeAdvert(message, netip.MustParseAddr(c.source), netip.MustParseAddr(c.destination), 255)
			if err != nil {
				t.Fatal(err)
			}
			var addresses []string
			for _, address := range a.addresses {
				addresses = append(addresses, address.String())
			}
			if a.version != c.version || a.kind != 1 || a.priority != c.priority || a.interval != c.interval ||
				!slices.Equal(addresses, c.addresses) || a.plain != c.plain || a.pseudo != c.pseudo {
				t.Errorf("got %+v", *a)
			}
		})
	}
}

// TestDecoderRefuses reads messages that contradict themselves.
func TestDecoderRefuses(t *testing.T) {
	for name, c := range map[string]struct{ message, complaint string }{
		"cut off":                               {"310ac801", "4 bytes"},
		"version 4":                             {"410ac8010064448ec0000201", "version 4"},
		"an address missing":                    {"310ac8020064448ec0000201", "want 16"},
		"bytes left over":                       {"310ac8010064448ec000020100000000", "want 12"},
		"version 2 without authentication data": {"21331e010001b5c50a000105", "want 20"},
	} {
		t.Run(name, func(t *testing.T) {
			message, err := hex.DecodeString(c.message)
			if err != nil {
				t.Fatal(err)
			}
			a, err := decodeAdvert(message, netip.MustParseAddr("192.0.2.251"), netip.MustParseAddr("224.0.0.18"), 255)
			if err == nil || !strings.Contains(err.Error(), c.complaint) {
				t.Errorf("got %+v and error %v, want an error with %q", a, err, c.complaint)
			}
		})
	}
}

// TestDecoderReadsFrames reads whole frames.
func TestDecoderReadsFrames(t *testing.T) {
	read := func(text string) frame {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		f, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	vmac := hardware{0, 0, 0x5e, 0, 1, 10}
	f := read("01005e000012 00005e00010a 0800 45c00020 00000000 ff70 17a0 c00002fb e0000012 310ac8010064448ec0000201 000000000000")
	if f.advert == nil || f.advert.ttl != 255 || !f.advert.plain || f.source != vmac {
		t.Errorf("an advert in a padded frame is %+v, %+v", f, f.advert)
	}
	f = read("ffffffffffff 00005e00010a 0806 0001 0800 06 04 0001 00005e00010a 0a000001 ffffffffffff 0a000001")
	if f.arp == nil || f.arp.senderAddress != f.arp.targetAddress || f.arp.senderHardware != vmac || f.arp.operation != 1 {
		t.Errorf("a gratuitous ARP is %+v, %+v", f, f.arp)
	}
	f = read("333300000001 00005e00020a 86dd 60000000 0020 3a ff fe800000000000000000000000000001 ff020000000000000000000000000001" +
		"8800 4a59 a0000000 20010db8000000000000000000000001 0201 00005e00020a")
	if n := f.neighbour; n == nil || !n.router || n.solicited || !n.override || n.hopLimit != 255 || !n.intact ||
		n.target != netip.MustParseAddr("2001:db8::1") || n.linkLayer != (hardware{0, 0, 0x5e, 0, 2, 10}) {
		t.Errorf("an unsolicited neighbour advertisement is %+v, %+v", f, f.neighbour)
	}
}
