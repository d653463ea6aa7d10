package probe

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

func pack(t testing.TB, m dnsmessage.Message) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseAnswer(t *testing.T) {
	q, err := newQuestion("well.example", false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newQuestion("other.example", false)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr(server4)
	record := func(ttl uint32) dnsmessage.Resource {
		return dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: other.Name, Class: q.Class, TTL: ttl},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}
	}
	alias := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 30}, Body: &dnsmessage.CNAMEResource{CNAME: other.Name},
	}
	good := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{q},
		Answers: []dnsmessage.Resource{alias, record(600)},
	}
	found, ok := parseAnswer(pack(t, good), 7, q)
	if !ok || len(found.addresses) != 1 || found.addresses[0] != address || found.ttl.Seconds() != 30 {
		t.Errorf("answer read as %+v, %v", found, ok)
	}
	for name, change := range map[string]func(*dnsmessage.Message){
		"another number":   func(m *dnsmessage.Message) { m.ID = 8 },
		"no response":      func(m *dnsmessage.Message) { m.Response = false },
		"another question": func(m *dnsmessage.Message) { m.Questions = []dnsmessage.Question{other} },
		"no question":      func(m *dnsmessage.Message) { m.Questions = nil },
	} {
		bad := good
		change(&bad)
		if found, ok := parseAnswer(pack(t, bad), 7, q); ok {
			t.Errorf("%s: read as %+v", name, found)
		}
	}
	b := pack(t, good)
	if found, ok := parseAnswer(b[:len(b)-2], 7, q); ok {
		t.Errorf("cut off: read as %+v", found)
	}
	good.Truncated = true
	b = pack(t, good)
	if _, ok := parseAnswer(b[:len(b)-2], 7, q); !ok {
		t.Error("cut off and said to be: not an answer")
	}
}

func FuzzParseAnswer(f *testing.F) {
	q, err := newQuestion("well.example", true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pack(f, dnsmessage.Message{
		Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{q},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(server6).As16()},
		}},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, ok := parseAnswer(b, 7, q)
		if ok && (found.ttl < 0 || found.ttl > longestTTL) {
			t.Errorf("time to live %v", found.ttl)
		}
		for _, a := range found.addresses {
			if !a.Is6() {
				t.Errorf("address %v is of the wrong family", a)
			}
		}
	})
}

func echoMessage(t testing.TB, kind icmp.Type, body icmp.MessageBody) []byte {
	t.Helper()
	b, err := (&icmp.Message{Type: kind, Body: body}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseEcho(t *testing.T) {
	four := echoMessage(t, ipv4.ICMPTypeEcho, &icmp.Echo{ID: 3, Seq: 4})
	header, err := (&ipv4.Header{
		Version: 4, Len: 24, TotalLen: 24 + len(four), Protocol: 1, Dst: net.ParseIP(server4).To4(), Options: make([]byte, 4),
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	six := append(make([]byte, header6Length), echoMessage(t, ipv6.ICMPTypeEchoRequest, &icmp.Echo{ID: 3, Seq: 4})...)
	six[0], six[6] = 6<<4, 58
	copy(six[24:], netip.MustParseAddr(server6).AsSlice())
	for _, test := range []struct {
		name    string
		message []byte
		six, ok bool
		want    heardEcho
	}{
		{"reply", echoMessage(t, ipv4.ICMPTypeEchoReply, &icmp.Echo{ID: 3, Seq: 4}), false, true, heardEcho{id: 3, sequence: 4}},
		{"reply, IPv6", echoMessage(t, ipv6.ICMPTypeEchoReply, &icmp.Echo{ID: 3, Seq: 4}), true, true, heardEcho{id: 3, sequence: 4}},
		{"request", four, false, false, heardEcho{}},
		{
			"unreachable", echoMessage(t, ipv4.ICMPTypeDestinationUnreachable, &icmp.DstUnreach{Data: append(header, four...)}), false, true,
			heardEcho{3, 4, "network is unreachable", netip.MustParseAddr(server4)},
		},
		{
			"unreachable, IPv6", echoMessage(t, ipv6.ICMPTypeDestinationUnreachable, &icmp.DstUnreach{Data: six}), true, true,
			heardEcho{3, 4, "no route", netip.MustParseAddr(server6)},
		},
		{"unreachable, but what?", echoMessage(t, ipv4.ICMPTypeDestinationUnreachable, &icmp.DstUnreach{Data: header}), false, false, heardEcho{}},
		{"nothing", nil, false, false, heardEcho{}},
	} {
		if got, ok := parseEcho(test.message, test.six); ok != test.ok || ok && got != test.want {
			t.Errorf("%s: read as %+v, %v", test.name, got, ok)
		}
	}
}

func FuzzParseEcho(f *testing.F) {
	f.Add(echoMessage(f, ipv4.ICMPTypeEchoReply, &icmp.Echo{ID: 3, Seq: 4}), false)
	f.Add(append([]byte{3, 0, 0, 0, 0, 0, 0, 0, 0x45}, make([]byte, 40)...), false)
	f.Add(append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0x60}, make([]byte, 60)...), true)
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		heard, ok := parseEcho(b, six)
		if ok && heard.trouble != "" && heard.target.Is6() != six {
			t.Errorf("read as %+v", heard)
		}
	})
}

func TestNeighbourMessages(t *testing.T) {
	mac, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	four := question{netip.MustParseAddr(gateway4), netip.MustParseAddr(node4)}
	frame, all, err := arpRequest(mac, four, false)
	if err != nil || all.String() != "ff:ff:ff:ff:ff:ff" {
		t.Fatalf("request to %v: %v", all, err)
	}
	if q, ok := parseReply(frame); ok {
		t.Errorf("a request is read as the answer to %v", q)
	}
	reply, err := arp.NewPacket(arp.OperationReply, other, four.gateway, mac, four.source)
	if err != nil {
		t.Fatal(err)
	}
	b, err := reply.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if q, ok := parseReply(b); !ok || q != four {
		t.Errorf("reply read as the answer to %v, %v", q, ok)
	}

	six := question{netip.MustParseAddr(gateway6), netip.MustParseAddr(node6)}
	frame, all, err = solicitation(mac, six, false)
	if err != nil || all.String() != "33:33:ff:00:00:01" {
		t.Fatalf("solicitation to %v: %v", all, err)
	}
	if q, ok := parseAdvertisement(frame); ok {
		t.Errorf("a solicitation is read as the answer to %v", q)
	}
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{Solicited: true, TargetAddress: six.gateway}, six.gateway, six.source)
	if err != nil {
		t.Fatal(err)
	}
	b = append([]byte{0x60, 0, 0, 0, 0, byte(len(message)), 58, 255}, six.gateway.AsSlice()...)
	b = append(append(b, six.source.AsSlice()...), message...)
	if q, ok := parseAdvertisement(b); !ok || q != six {
		t.Errorf("advertisement read as the answer to %v, %v", q, ok)
	}
	forwarded := bytes.Clone(b)
	forwarded[7] = 254
	if q, ok := parseAdvertisement(forwarded); ok {
		t.Errorf("what a router has forwarded is read as the answer to %v", q)
	}
}

func FuzzParseNeighbour(f *testing.F) {
	f.Add([]byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 2})
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 24, 58, 255}, append(make([]byte, 32), 136, 0, 0, 0, 0x40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, ok := parseReply(b); ok && (!q.gateway.Is4() || !q.source.Is4()) {
			t.Errorf("reply read as the answer to %v", q)
		}
		if q, ok := parseAdvertisement(b); ok && (!q.gateway.Is6() || !q.source.Is6()) {
			t.Errorf("advertisement read as the answer to %v", q)
		}
	})
}
