package examine

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

func envelopes() []Envelope {
	a, b := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	return []Envelope{
		{a, b, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
		{a, GroupMAC(vrrp.MulticastIPv4()), netip.MustParseAddr("10.0.0.1"), vrrp.MulticastIPv4()},
		{a, GroupMAC(vrrp.MulticastIPv6()), netip.MustParseAddr("fe80::1"), vrrp.MulticastIPv6()},
	}
}

func TestTestFramesComeBack(t *testing.T) {
	for _, e := range envelopes() {
		for _, size := range []int{0, 200, 1500, 9000} {
			want := Test{Session: 0x0123456789abcdef, Kind: FromVirtual, Round: 2, Size: size}
			frame := want.Frame(e)
			if size != 0 && len(frame) != ethernetHeader+size {
				t.Errorf("a frame for a packet of %d bytes has %d", size, len(frame))
			}
			h, ok := understand(frame)
			if !ok || h.Test == nil {
				t.Fatalf("%v is not understood", e)
			}
			if diff := cmp.Diff(want, *h.Test); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if h.From != e.From || h.To != e.To || size != 0 && h.Size != size {
				t.Errorf("heard %+v", h)
			}
		}
	}
}

// No VRRP router may take a test frame for an advertisement, whatever it forgives.
func TestTestFramesAreNoAdvertisements(t *testing.T) {
	for _, e := range envelopes() {
		frame := Test{Session: 1, Kind: ToGroup4}.Frame(e)
		header := ethernetHeader + ipv4Header
		if e.Source.Is6() {
			header = ethernetHeader + ipv6Header
		}
		for _, ttl := range []uint8{testTTL, vrrp.TTL} {
			_, _, reason := vrrp.ParseAdvertisement(frame[header:], vrrp.Header{Source: e.Source, Destination: e.Destination, TTL: ttl})
			if want := map[uint8]vrrp.DropReason{testTTL: vrrp.DropTTL, vrrp.TTL: vrrp.DropVersion}[ttl]; reason != want {
				t.Errorf("with TTL %d it is dropped for %v, want %v", ttl, reason, want)
			}
		}
		if frame[header]>>4 == 2 || frame[header]>>4 == 3 || frame[header]&15 == 1 {
			t.Errorf("the message begins with %#x, as an advertisement may", frame[header])
		}
	}
}

func TestHeaderOfTestFramesIsRight(t *testing.T) {
	frame := Test{Kind: ToPeer}.Frame(envelopes()[0])
	if sum(frame[ethernetHeader:ethernetHeader+ipv4Header]) != 0xffff {
		t.Error("the checksum of the IPv4 header is wrong")
	}
	if len(frame) > wire.MaxPacket {
		t.Errorf("a short frame has %d bytes", len(frame))
	}
}

func TestAdvertisementsAreHeard(t *testing.T) {
	source := netip.MustParseAddr("10.0.0.9")
	a := vrrp.Advertisement{VRID: 9, Priority: 150, Interval: time.Second, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	message, err := a.Append(nil, vrrp.Header{Source: source, Destination: vrrp.MulticastIPv4()}, vrrp.ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	for version := uint8(0); version < 16; version++ {
		message[0] = version<<4 | 1
		frame := appendIPv4(append(make([]byte, 12), 8, 0), source, vrrp.MulticastIPv4(), vrrp.TTL, message)
		h, ok := understand(frame)
		known := version == 2 || version == 3
		if ok != known {
			t.Errorf("version %d: understood is %v", version, ok)
			continue
		}
		if want := (RouterHeard{9, version, 150, source}); known && *h.Router != want {
			t.Errorf("heard %+v, want %+v", *h.Router, want)
		}
	}
}

func TestQuestionsAreWellFormed(t *testing.T) {
	mac, target := [6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("2001:db8::1:2345")
	probe, question := solicitation(mac, netip.IPv6Unspecified(), target), solicitation(mac, netip.MustParseAddr("fe80::1"), target)
	if diff := cmp.Diff([]byte{0x33, 0x33, 0xff, 0x01, 0x23, 0x45}, probe[:6]); diff != "" {
		t.Errorf("the solicited-node group (-want +got):\n%s", diff)
	}
	if len(question)-len(probe) != 8 {
		t.Errorf("a probe has %d bytes and a question %d: only the latter tells its MAC address", len(probe), len(question))
	}
	for _, frame := range [][]byte{probe, question} {
		body := frame[ethernetHeader:]
		message := body[ipv6Header:]
		pseudo := append(append([]byte{}, body[8:40]...), 0, 0, 0, byte(len(message)), 0, 0, 0, icmpv6)
		if sum(append(pseudo, message...)) != 0xffff {
			t.Error("the checksum is wrong")
		}
		if _, ok := understand(frame); ok {
			t.Error("a question is taken for an answer")
		}
		body[ipv6Header] = advertise
		if h, ok := understand(frame); !ok || h.Answer != target {
			t.Errorf("an answer is understood as %+v", h)
		}
		body[7] = 254
		if _, ok := understand(frame); ok {
			t.Error("an answer from beyond the link is believed (RFC 4861 §7.1.2)")
		}
	}
	frame, err := request(mac, netip.IPv4Unspecified(), netip.MustParseAddr("10.0.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := understand(frame); ok {
		t.Error("an ARP request is taken for an answer")
	}
	frame[ethernetHeader+7] = 2
	if h, ok := understand(frame); !ok || h.Answer != netip.IPv4Unspecified() || h.From != mac {
		t.Errorf("an ARP reply is understood as %+v", h)
	}
}

func FuzzUnderstand(f *testing.F) {
	for _, e := range envelopes() {
		f.Add(Test{Session: 1, Kind: OfSize, Size: 100}.Frame(e))
	}
	f.Add(solicitation([6]byte{2}, netip.IPv6Unspecified(), netip.MustParseAddr("fe80::1")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, ok := understand(frame)
		if ok && h.Test == nil && h.Router == nil && !h.Answer.IsValid() {
			t.Errorf("%x is understood and says nothing", frame)
		}
	})
}
