package conntracksync

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareFrames = cmp.Options{ //nolint:gochecknoglobals // an immutable table
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func tuple(src string, sport uint16, dst string, dport uint16) Tuple {
	return Tuple{Source: addr(src), SourcePort: sport, Destination: addr(dst), DestinationPort: dport}
}

// natFlow is an established TCP connection that is translated to 192.0.2.10.
func natFlow(client uint16) Flow {
	return Flow{
		Key:    Key{Original: tuple("10.0.0.5", client, "198.51.100.7", 443), Protocol: 6},
		Reply:  tuple("198.51.100.7", 443, "192.0.2.10", client),
		Status: StatusSeenReply | StatusAssured | StatusConfirmed | StatusSourceNAT, Timeout: 431999,
		TCP:    TCPInfo{State: TCPEstablished, FlagsOriginal: 3, FlagsReply: 3, ScaleOriginal: 7, ScaleReply: 9},
		HasTCP: true,
	}
}

func udpFlow(client uint16) Flow {
	t := tuple("10.0.0.5", client, "198.51.100.53", 53)
	return Flow{Key: Key{Original: t, Protocol: 17}, Reply: t.inverse(), Status: StatusConfirmed, Timeout: 30}
}

func v6Flow() Flow {
	f := natFlow(4000)
	f.Original = tuple("2001:db8::5", 4000, "2001:db8:1::7", 443)
	f.Reply = tuple("2001:db8:1::7", 443, "2001:db8:2::10", 61000)
	f.Mark, f.Zone = 0x17, 3
	return f
}

func sampleFrames() map[string]Frame {
	return map[string]Frame{
		"hello": {Version: 1, Type: FrameHello, Term: 4, Hello: Hello{
			ProtocolMin: 1, ProtocolMax: 3, Features: 5, Epoch: 1 << 60, Role: RoleMaster, Term: 4,
			Node: "a", ConfigHash: strings.Repeat("f", MaxName),
		}},
		"flows": {Version: 1, Type: FrameFlows, Term: 9, Seq: 77, Records: []Record{
			{Kind: RecordNew, Flow: natFlow(1)},
			{Kind: RecordUpdate, Flow: udpFlow(2)},
			{Kind: RecordRefresh, Flow: v6Flow()},
			{Kind: RecordDestroy, Flow: Flow{Key: v6Flow().Key}},
		}},
		"dump request": {Version: 1, Type: FrameDumpRequest},
		"dump begin":   {Version: 1, Type: FrameDumpBegin, Seq: 1, Count: 8, Lost: true},
		"dump end":     {Version: 1, Type: FrameDumpEnd, Seq: 2, Count: 1 << 40},
		"ack":          {Version: 1, Type: FrameAck, Acked: 1<<64 - 1},
		"barrier":      {Version: 1, Type: FrameBarrier, Seq: 3},
		"status": {Version: 1, Type: FrameStatus, Status: PeerStatus{
			Role: RoleBackup, Term: 3, Ready: true, ConfigHash: "abc",
		}},
		"ping": {Version: 1, Type: FramePing},
	}
}

func TestFrameRoundTrip(t *testing.T) {
	for name, want := range sampleFrames() {
		t.Run(name, func(t *testing.T) {
			got := Frame{Seq: 99, Acked: 5, Lost: true, Records: []Record{{Kind: RecordNew, Flow: v6Flow()}}}
			if err := ParseFrame(AppendFrame(nil, &want), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareFrames); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRandomFlowsRoundTrip draws every combination of optional fields.
func TestRandomFlowsRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		f := natFlow(uint16(rng.Uint32()))
		if rng.IntN(2) == 0 {
			f = v6Flow()
		}
		switch rng.IntN(4) {
		case 0:
			f.Reply = f.Original.inverse()
		case 1:
			f.Reply = Tuple{}
		}
		if rng.IntN(2) == 0 {
			f.HasTCP, f.TCP = false, TCPInfo{}
		}
		f.Mark, f.Zone = rng.Uint32()*rng.Uint32N(2), uint16(rng.Uint32N(2))
		f.Status, f.Timeout = Status(rng.Uint32()), rng.Uint32()
		want := Frame{Version: 1, Type: FrameFlows, Records: []Record{{Kind: RecordUpdate, Flow: f}}}
		var got Frame
		if err := ParseFrame(AppendFrame(nil, &want), &got); err != nil {
			t.Fatal(err)
		}
		if got.Records[0] != want.Records[0] {
			t.Fatalf("got %+v, want %+v", got.Records[0], want.Records[0])
		}
	}
}

func TestFlowSizes(t *testing.T) {
	full4 := natFlow(1)
	full4.Mark, full4.Zone = 1, 1
	for name, c := range map[string]struct {
		record Record
		limit  int
	}{
		"IPv4 TCP with NAT":   {Record{Kind: RecordNew, Flow: natFlow(1)}, 48},
		"IPv4 with all":       {Record{Kind: RecordNew, Flow: full4}, 54},
		"IPv4 UDP":            {Record{Kind: RecordNew, Flow: udpFlow(1)}, 32},
		"IPv4 destroy":        {Record{Kind: RecordDestroy, Flow: natFlow(1)}, 20},
		"IPv6 with all":       {Record{Kind: RecordNew, Flow: v6Flow()}, 104},
		"IPv6 destroy, zoned": {Record{Kind: RecordDestroy, Flow: v6Flow()}, 44},
	} {
		if n := len(appendFlow(nil, &c.record)); n > c.limit {
			t.Errorf("%s: %d bytes, more than %d", name, n, c.limit)
		}
	}
}

// TestNewerVersion: version 2 adds a type of record and fields at the end of
// known ones.
func TestNewerVersion(t *testing.T) {
	frame := Frame{Version: 2, Type: FrameFlows, Seq: 1}
	b := AppendFrame(nil, &frame)
	b = append(b, 200, 0, 4, 1, 2, 3, 4)
	start := len(b)
	b = appendFlow(b, &Record{Kind: RecordNew, Flow: natFlow(5)})
	b = append(b, "future"...)
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-recordHeaderLength))
	b = append(b, 201, 0, 0)
	var got Frame
	if err := ParseFrame(b, &got); err != nil {
		t.Fatal(err)
	}
	want := Frame{Version: 2, Type: FrameFlows, Seq: 1, Records: []Record{{Kind: RecordNew, Flow: natFlow(5)}}}
	if diff := cmp.Diff(want, got, compareFrames); diff != "" {
		t.Error(diff)
	}

	unknown := Frame{Version: 2, Type: 77, Seq: 2}
	if err := ParseFrame(append(AppendFrame(nil, &unknown), 1, 0, 1, 9), &got); err != nil || got.Type != 77 {
		t.Errorf("unknown type of frame: %v %v", got.Type, err)
	}
}

func TestMalformedFrames(t *testing.T) {
	frames := sampleFrames()
	flows, hello := frames["flows"], frames["hello"]
	encoded := AppendFrame(nil, &flows)
	badState := natFlow(1)
	badState.TCP.State = TCPSynSent2 + 1
	longName := AppendFrame(nil, &hello)
	longName[headerLength+recordHeaderLength+27] = MaxName + 1
	many := AppendFrame(nil, &Frame{Version: 1, Type: FrameFlows})
	for range MaxRecords + 1 {
		many = appendFlow(many, &Record{Kind: RecordDestroy, Flow: udpFlow(1)})
	}
	cases := map[string]struct {
		in   []byte
		want ParseReason
	}{
		"empty":            {nil, ParseShort},
		"half a header":    {encoded[:headerLength-1], ParseShort},
		"too long":         {make([]byte, MaxFrame+1), ParseOversize},
		"version 0":        {make([]byte, headerLength), ParseVersion},
		"type 0":           {append([]byte{1}, make([]byte, headerLength)...), ParseType},
		"half a record":    {encoded[:len(encoded)-1], ParseTruncated},
		"half a header 2":  {encoded[:headerLength+2], ParseTruncated},
		"empty flow":       {append(encoded[:headerLength:headerLength], 1, 0, 0), ParseRecord},
		"state":            {appendFlow(encoded[:headerLength:headerLength], &Record{Kind: RecordNew, Flow: badState}), ParseRecord},
		"name too long":    {longName, ParseRecord},
		"too many records": {many, ParseRecords},
		"no hello":         {AppendFrame(nil, &hello)[:headerLength], ParseMissing},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := Frame{Records: make([]Record, 3)}
			err := ParseFrame(c.in, &got)
			var parse *ParseError
			if !errors.As(err, &parse) || parse.Reason != c.want {
				t.Fatalf("got %v, want reason %v", err, c.want)
			}
			if len(got.Records) != 0 || got.Type != 0 {
				t.Errorf("a refused frame left %+v", got)
			}
		})
	}
}

func TestEveryTruncationIsRefusedOrShorter(t *testing.T) {
	for name, f := range sampleFrames() {
		b := AppendFrame(nil, &f)
		for n := range b {
			var got Frame
			if ParseFrame(b[:n], &got) == nil && len(got.Records) >= max(len(f.Records), 1) {
				t.Errorf("%s cut at %d parses whole", name, n)
			}
		}
	}
}

func TestNamesAreCut(t *testing.T) {
	in := Frame{Version: 1, Type: FrameHello, Hello: Hello{Node: strings.Repeat("n", 300)}}
	var got Frame
	if err := ParseFrame(AppendFrame(nil, &in), &got); err != nil || len(got.Hello.Node) != MaxName {
		t.Errorf("got %d bytes, %v", len(got.Hello.Node), err)
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		a, b Hello
		want uint8
		ok   bool
	}{
		{Hello{ProtocolMin: 1, ProtocolMax: 1}, Hello{ProtocolMin: 1, ProtocolMax: 1}, 1, true},
		{Hello{ProtocolMin: 1, ProtocolMax: 3}, Hello{ProtocolMin: 2, ProtocolMax: 5}, 3, true},
		{Hello{ProtocolMin: 1, ProtocolMax: 1}, Hello{ProtocolMin: 2, ProtocolMax: 3}, 1, false},
		{Hello{}, Hello{}, 0, false},
	} {
		for _, pair := range [][2]Hello{{c.a, c.b}, {c.b, c.a}} {
			if got, ok := Negotiate(pair[0], pair[1]); got != c.want || ok != c.ok {
				t.Errorf("%+v: got %d %v", pair, got, ok)
			}
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	flows := sampleFrames()["flows"]
	b := AppendFrame(nil, &flows)
	var f Frame
	_ = ParseFrame(b, &f)
	if n := testing.AllocsPerRun(100, func() { _ = ParseFrame(b, &f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, frame := range sampleFrames() {
		f.Add(AppendFrame(nil, &frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second Frame
		if err := ParseFrame(b, &first); err != nil {
			return
		}
		again := AppendFrame(nil, &first)
		if err := ParseFrame(again, &second); err != nil {
			t.Fatalf("%x: %v", again, err)
		}
		if diff := cmp.Diff(first, second, compareFrames); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzPackKey(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), uint16(1), uint16(2), uint16(3), uint8(4), true)
	f.Fuzz(func(t *testing.T, b []byte, sport, dport, zone uint16, protocol uint8, four bool) {
		if len(b) < 32 {
			return
		}
		k := Key{Zone: zone, Protocol: protocol, Original: Tuple{
			Source: netip.AddrFrom16([16]byte(b)), Destination: netip.AddrFrom16([16]byte(b[16:])),
			SourcePort: sport, DestinationPort: dport,
		}}
		if four {
			k.Original.Source = netip.AddrFrom4([4]byte(b))
			k.Original.Destination = netip.AddrFrom4([4]byte(b[4:]))
		}
		if got := packKey(k).key(); got != k {
			t.Errorf("got %v, want %v", got, k)
		}
	})
}

func BenchmarkAppendFrame(b *testing.B) {
	f := Frame{Version: 1, Type: FrameFlows}
	for i := range 128 {
		f.Records = append(f.Records, Record{Kind: RecordNew, Flow: natFlow(uint16(i))})
	}
	buf := make([]byte, 0, MaxFrame)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendFrame(buf[:0], &f)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/128, "ns/flow")
}

func BenchmarkParseFrame(b *testing.B) {
	in := Frame{Version: 1, Type: FrameFlows}
	for i := range 128 {
		in.Records = append(in.Records, Record{Kind: RecordNew, Flow: natFlow(uint16(i))})
	}
	buf := AppendFrame(nil, &in)
	var out Frame
	b.ReportAllocs()
	for b.Loop() {
		if err := ParseFrame(buf, &out); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/128, "ns/flow")
}
