package vrrp

import (
	"net/netip"
	"testing"
	"time"
)

// The tests in this file hold the codec to one clause of RFC 9568 each.

func TestRFC9568_5_1_1_1_SourceIsThePrimaryAddress(t *testing.T) {
	a, h := advertisement4(), header4()
	b, err := a.Append(nil, h, ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, reason := ParseAdvertisement(b, h); reason != DropNone {
		t.Errorf("from its own source: %v", reason)
	}
	// The pseudo-header covers the source: an advert that was moved is noticed.
	h.Source = a.Addresses[0]
	if _, _, reason := ParseAdvertisement(b, h); reason != DropChecksum {
		t.Errorf("from a virtual address: %v, want %v", reason, DropChecksum)
	}
}

func TestRFC9568_5_2_1_Version3AndType1AreSent(t *testing.T) {
	for _, h := range []Header{header4(), header6()} {
		a := advertisement4()
		if h.Source.Is6() {
			a = advertisement6()
		}
		b, err := a.Append(nil, h, ChecksumPlain)
		if err != nil {
			t.Fatal(err)
		}
		if b[0] != 0x31 {
			t.Errorf("first octet %#x, want version 3 and type 1", b[0])
		}
	}
}

func TestRFC9568_5_2_2_UnknownTypeIsDiscarded(t *testing.T) {
	for _, kind := range []byte{0, 2, 3, 7, 15} {
		b, err := advertisement4().Append(nil, header4(), ChecksumPlain)
		if err != nil {
			t.Fatal(err)
		}
		b[0] = 0x30 | kind
		seal(b, header4())
		if _, _, reason := ParseAdvertisement(b, header4()); reason != DropType {
			t.Errorf("type %d: %v, want %v", kind, reason, DropType)
		}
	}
}

func TestRFC9568_5_2_3_EveryVRID(t *testing.T) {
	for vrid := 1; vrid <= 255; vrid++ {
		a := advertisement4()
		a.VRID = uint8(vrid)
		b, err := a.Append(nil, header4(), ChecksumPlain)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, reason := ParseAdvertisement(b, header4()); reason != DropNone || got.VRID != a.VRID {
			t.Errorf("VRID %d became %d (%v)", vrid, got.VRID, reason)
		}
	}
}

func TestRFC9568_5_2_3_VRID0IsRefused(t *testing.T) {
	a := advertisement4()
	a.VRID = 0
	if _, err := a.Append(nil, header4(), ChecksumPlain); err == nil {
		t.Error("encoded")
	}
	b, err := advertisement4().Append(nil, header4(), ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	b[1] = 0
	seal(b, header4())
	if _, _, reason := ParseAdvertisement(b, header4()); reason != DropVRID {
		t.Errorf("received: %v, want %v", reason, DropVRID)
	}
}

func TestRFC9568_5_2_4_OwnerIs255(t *testing.T) {
	for failed := range 20 {
		if got := (Fitness{Failed: failed}).priority(PriorityOwner, 0); got != PriorityOwner {
			t.Errorf("an owner with %d failures has priority %d", failed, got)
		}
	}
}

func TestRFC9568_5_2_4_BackupsAre1To254(t *testing.T) {
	for base := HealthyPriority; base < int(PriorityOwner); base++ {
		for failed := range 20 {
			for _, recovering := range []bool{false, true} {
				got := Fitness{Failed: failed, Recovering: recovering}.priority(uint8(base), 1)
				if got == PriorityLeaving || got == PriorityOwner || got == PriorityQuestion {
					t.Fatalf("priority %d of %d with %d failures", got, base, failed)
				}
			}
		}
	}
}

func TestRFC9568_5_2_5_NoAddressIsIgnored(t *testing.T) {
	a := advertisement4()
	a.Addresses = nil
	if _, err := a.Append(nil, header4(), ChecksumPlain); err == nil {
		t.Error("encoded")
	}
	b := octets(t, "310ac800 00640000")
	seal(b, header4())
	if _, _, reason := ParseAdvertisement(b, header4()); reason != DropCount {
		t.Errorf("received: %v, want %v", reason, DropCount)
	}
}

func TestRFC9568_5_2_6_ReservedBitsAreSentAsZero(t *testing.T) {
	for _, interval := range []time.Duration{MinInterval, time.Second, MaxInterval} {
		a := advertisement4()
		a.Interval = interval
		b, err := a.Append(nil, header4(), ChecksumPlain)
		if err != nil {
			t.Fatal(err)
		}
		if b[4]&0xf0 != 0 {
			t.Errorf("interval %v: octet 4 is %#x", interval, b[4])
		}
	}
}

func TestRFC9568_5_2_7_Interval0IsRejected(t *testing.T) {
	a := advertisement4()
	a.Interval = 0
	if _, err := a.Append(nil, header4(), ChecksumPlain); err == nil {
		t.Error("encoded")
	}
	b := octets(t, "310ac801 00000000 c0000201")
	seal(b, header4())
	if _, _, reason := ParseAdvertisement(b, header4()); reason != DropInterval {
		t.Errorf("received: %v, want %v", reason, DropInterval)
	}
}

func TestRFC9568_5_2_8_BothFlavoursAreAccepted(t *testing.T) {
	for _, c := range []Checksum{ChecksumPlain, ChecksumPseudoHeader} {
		b, err := advertisement4().Append(nil, header4(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, reason := ParseAdvertisement(b, header4()); reason != DropNone || got != c {
			t.Errorf("%v: %v as %v", c, reason, got)
		}
	}
}

func TestRFC9568_5_2_9_LinkLocalFirst(t *testing.T) {
	b, err := advertisement6().Append(nil, header6(), ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	if a, _, reason := ParseAdvertisement(b, header6()); reason != DropNone || !a.Addresses[0].IsLinkLocalUnicast() {
		t.Errorf("%+v: %v", a, reason)
	}
}

func TestRFC9568_5_2_9_OtherFirstAddressIsRefused(t *testing.T) {
	a := advertisement6()
	a.Addresses[0], a.Addresses[1] = a.Addresses[1], a.Addresses[0]
	if _, err := a.Append(nil, header6(), ChecksumPseudoHeader); err == nil {
		t.Error("encoded with a global address first")
	}
	a = advertisement6()
	a.Addresses[1] = netip.MustParseAddr("192.0.2.1")
	if _, err := a.Append(nil, header6(), ChecksumPseudoHeader); err == nil {
		t.Error("encoded with an address of the other family")
	}
	b, err := advertisement6().Append(nil, header6(), ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	b[8] = 0x20
	seal(b, header6())
	if _, _, reason := ParseAdvertisement(b, header6()); reason != DropLinkLocal {
		t.Errorf("received: %v, want %v", reason, DropLinkLocal)
	}
}

func TestRFC9568_7_3_FamiliesHaveMACsOfTheirOwn(t *testing.T) {
	seen := map[[6]byte]bool{}
	for vrid := 1; vrid <= 255; vrid++ {
		four, six := VirtualMAC4(uint8(vrid)), VirtualMAC6(uint8(vrid))
		if four[5] != uint8(vrid) || six[5] != uint8(vrid) || four == six || seen[four] || seen[six] {
			t.Errorf("VRID %d: %x and %x", vrid, four, six)
		}
		seen[four], seen[six] = true, true
	}
}

// Each check of §7.1 lets pass what just meets it; [TestRFC9568_7_1_Refusals] is the
// other side.
func TestRFC9568_7_1_Accepts(t *testing.T) {
	for _, c := range []struct {
		name   string
		v6     bool
		change func(*Advertisement)
	}{
		{"TTL 255", false, func(*Advertisement) {}},
		{"hop limit 255", true, func(*Advertisement) {}},
		{"version 3", false, func(a *Advertisement) { a.Version = Version3 }},
		{"type 1", false, func(*Advertisement) {}},
		{"complete to the last octet", false, func(a *Advertisement) { a.Addresses = append(a.Addresses, a.Addresses[0].Next()) }},
		{"IPv6 complete to the last octet", true, func(a *Advertisement) { a.Addresses = append(a.Addresses, a.Addresses[1].Next()) }},
		{"checksum", false, func(*Advertisement) {}},
		{"IPv6 checksum", true, func(*Advertisement) {}},
		{"the lowest VRID", false, func(a *Advertisement) { a.VRID = 1 }},
		{"the highest VRID", false, func(a *Advertisement) { a.VRID = 255 }},
		{"an advert of an owner", false, func(a *Advertisement) { a.Priority = PriorityOwner }},
		{"a single address", false, func(a *Advertisement) { a.Addresses = a.Addresses[:1] }},
		{"a single IPv6 address", true, func(a *Advertisement) { a.Addresses = a.Addresses[:1] }},
		{"the shortest interval", false, func(a *Advertisement) { a.Interval = MinInterval }},
		{"the longest interval", false, func(a *Advertisement) { a.Interval = MaxInterval }},
		{"link-local first", true, func(*Advertisement) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, h := advertisement4(), header4()
			if c.v6 {
				a, h = advertisement6(), header6()
			}
			c.change(&a)
			b, err := a.Append(nil, h, ChecksumPlain)
			if err != nil {
				t.Fatal(err)
			}
			got, _, reason := ParseAdvertisement(b, h)
			if reason != DropNone || len(got.Addresses) != len(a.Addresses) || got.VRID != a.VRID || got.Interval != a.Interval || got.Priority != a.Priority {
				t.Errorf("%+v came back as %+v, dropped for %v", a, got, reason)
			}
		})
	}
}

// §7.2: what must be filled in before an advert is sent is checked; nothing is sent
// of a router that is configured wrongly.
func TestRFC9568_7_2_WrongConfigurationIsNotSent(t *testing.T) {
	for name, change := range map[string]func(*Advertisement, *Header){
		"no VRID":                     func(a *Advertisement, _ *Header) { a.VRID = 0 },
		"no interval":                 func(a *Advertisement, _ *Header) { a.Interval = 0 },
		"no address":                  func(a *Advertisement, _ *Header) { a.Addresses = nil },
		"no source":                   func(_ *Advertisement, h *Header) { h.Source = netip.Addr{} },
		"a destination of IPv6":       func(_ *Advertisement, h *Header) { h.Destination = MulticastIPv6() },
		"an address of IPv6":          func(a *Advertisement, _ *Header) { a.Addresses[0] = netip.MustParseAddr("fe80::1") },
		"a version that is not there": func(a *Advertisement, _ *Header) { a.Version = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			a, h := advertisement4(), header4()
			change(&a, &h)
			if b, err := a.Append(nil, h, ChecksumPlain); err == nil || len(b) > 0 {
				t.Errorf("encoded as %x", b)
			}
		})
	}
}
