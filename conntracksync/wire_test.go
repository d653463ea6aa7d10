package conntracksync

import (
	"bytes"
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
	return Flow{Key: Key{Original: t, Protocol: 17}, Reply: t.inverse(protocolUDP), Status: StatusConfirmed, Timeout: 30}
}

func v6Flow() Flow {
	f := natFlow(4000)
	f.Original = tuple("2001:db8::5", 4000, "2001:db8:1::7", 443)
	f.Reply = tuple("2001:db8:1::7", 443, "2001:db8:2::10", 61000)
	f.Mark, f.Zone = 0x17, 3
	return f
}

// extraFlow has all that few flows have.
func extraFlow() Flow {
	f := natFlow(21)
	f.Extra = &Extra{
		Master: natFlow(20).Key, HasMaster: true, Helper: "ftp",
		Labels: [16]byte{1, 15: 2}, HasLabels: true,
		AdjustOriginal: SequenceAdjustment{1, -2, 3}, AdjustReply: SequenceAdjustment{4, 5, -6}, HasAdjust: true,
		SCTP: SCTPInfo{State: 4, TagOriginal: 7, TagReply: 8}, HasSCTP: true,
		Synproxy: Synproxy{9, 10, 11}, HasSynproxy: true,
	}
	return f
}

func expectation() *Expectation {
	return &Expectation{
		Master: natFlow(20).Key, Key: Key{Original: tuple("198.51.100.7", 0, "10.0.0.5", 40000), Protocol: protocolTCP, Zone: 2},
		Mask: tuple("255.255.255.255", 0, "255.255.255.255", 65535),
		NAT:  tuple("10.0.0.5", 1, "0.0.0.0", 0), NATReply: true, HasNAT: true,
		Helper: "ftp", Function: "nat-follow-master", Timeout: 300, Class: 1, Flags: 2,
	}
}

// identity is what a destroy record tells of a flow.
func identity(f Flow) Flow { return Flow{Key: f.Key, Reply: f.Reply} }

func sampleFrames() map[string]Frame {
	sums := make([]uint64, Buckets)
	sums[7], sums[Buckets-1] = 1<<63, 5
	var set BucketSet
	set.add(0)
	set.add(4095)
	return map[string]Frame{
		"hello": {Version: 2, Type: FrameHello, Term: 4, Hello: Hello{
			ProtocolMin: 2, ProtocolMax: 3, Features: 5, Epoch: 1 << 60, Role: RoleMaster, Term: 4,
			Node: "a", ConfigHash: strings.Repeat("f", MaxName),
		}},
		"flows": {Version: 2, Type: FrameFlows, Term: 9, Seq: 77, Records: []Record{
			{Kind: RecordNew, Flow: natFlow(1)},
			{Kind: RecordUpdate, Flow: udpFlow(2)},
			{Kind: RecordRefresh, Flow: v6Flow()},
			{Kind: RecordDestroy, Flow: identity(v6Flow())},
			{Kind: RecordDestroy, Flow: identity(natFlow(3)), Unsure: true},
			{Kind: RecordGone, Hash: 1 << 63},
			{Kind: RecordKeep, Hash: 9},
		}},
		"extras": {Version: 2, Type: FrameFlows, Term: 9, Seq: 78, Records: []Record{
			{Kind: RecordNew, Flow: extraFlow()},
			{Kind: RecordExpect, Expect: expectation()},
			{Kind: RecordExpectGone, Expect: &Expectation{Master: v6Flow().Key, Key: v6Flow().Key, Mask: v6Flow().Reply}},
		}},
		"digest":         {Version: 2, Type: FrameDigest, Seq: 1, Digest: Digest{Sum: 1 << 63, Flows: 1 << 40}},
		"digests":        {Version: 2, Type: FrameDigests, Seq: 2, Digests: sums},
		"digest request": {Version: 2, Type: FrameDigestRequest},
		"repair request": {Version: 2, Type: FrameRepairRequest, Set: set},
		"repair begin":   {Version: 2, Type: FrameRepairBegin, Seq: 1, Set: set},
		"repair end":     {Version: 2, Type: FrameRepairEnd, Seq: 2, Set: set, Count: 1 << 40},
		"ack":            {Version: 2, Type: FrameAck, Acked: 1<<64 - 1, Complete: true},
		"barrier":        {Version: 2, Type: FrameBarrier, Seq: 3},
		"status": {Version: 2, Type: FrameStatus, Status: PeerStatus{
			Role: RoleBackup, Term: 3, Ready: true, ConfigHash: "abc",
		}},
		"ping": {Version: 2, Type: FramePing},
	}
}

func TestFrameRoundTrip(t *testing.T) {
	for name, want := range sampleFrames() {
		t.Run(name, func(t *testing.T) {
			got := Frame{
				Seq: 99, Acked: 5, Complete: true, Count: 9, Set: *allBuckets(), Digests: make([]uint64, 3),
				Records: []Record{{Kind: RecordNew, Flow: v6Flow(), Unsure: true, Hash: 3, Expect: expectation()}},
			}
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
			f.Reply = f.Original.inverse(f.Protocol)
		case 1:
			f.Protocol = []uint8{protocolICMP, protocolICMPv6, protocolGRE, protocolSCTP}[rng.IntN(4)]
		case 2:
			f.Original.SourcePort, f.Original.DestinationPort = 0, 0
		}
		if rng.IntN(2) == 0 {
			f.HasTCP, f.TCP = false, TCPInfo{}
		}
		f.Mark, f.Zone = rng.Uint32()*rng.Uint32N(2), uint16(rng.Uint32N(2))
		f.Status, f.Timeout = Status(rng.Uint32()), rng.Uint32()
		want := Frame{Version: 2, Type: FrameFlows, Records: []Record{{Kind: RecordUpdate, Flow: f}}}
		var got Frame
		if err := ParseFrame(AppendFrame(nil, &want), &got); err != nil {
			t.Fatal(err)
		}
		if !f.encodable() || got.Records[0] != want.Records[0] {
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
		"IPv4 TCP with NAT":   {Record{Kind: RecordNew, Flow: natFlow(1)}, 30},
		"IPv4 with all":       {Record{Kind: RecordNew, Flow: full4}, 35},
		"IPv4 UDP":            {Record{Kind: RecordNew, Flow: udpFlow(1)}, 18},
		"IPv4 destroy":        {Record{Kind: RecordDestroy, Flow: natFlow(1)}, 21},
		"IPv6 with all":       {Record{Kind: RecordNew, Flow: v6Flow()}, 74},
		"IPv6 destroy, zoned": {Record{Kind: RecordDestroy, Flow: v6Flow()}, 60},
	} {
		if n := len(appendRecord(nil, &c.record, Features)); n > c.limit {
			t.Errorf("%s: %d bytes, more than %d", name, n, c.limit)
		}
	}
}

// TestNewerVersion: a newer version adds types of record and of frame, fields of a
// flow, and bytes at the end of all other records.
func TestNewerVersion(t *testing.T) {
	b := AppendFrame(nil, &Frame{Version: 9, Type: FrameFlows, Seq: 1})
	b = append(b, 200, 4, 1, 2, 3, 4)
	for _, r := range []Record{{Kind: RecordNew, Flow: extraFlow()}, {Kind: RecordDestroy, Flow: identity(natFlow(5))}, {Kind: RecordGone, Hash: 4}} {
		start := len(b)
		b = appendRecord(b, &r, Features)
		b = closeRecord(append(b, 99, 3, 7, 7, 7), start)
	}
	b = append(b, 201, 0)
	var got Frame
	if err := ParseFrame(b, &got); err != nil {
		t.Fatal(err)
	}
	want := Frame{Version: 9, Type: FrameFlows, Seq: 1, Records: []Record{
		{Kind: RecordNew, Flow: extraFlow()}, {Kind: RecordDestroy, Flow: identity(natFlow(5))}, {Kind: RecordGone, Hash: 4},
	}}
	if diff := cmp.Diff(want, got, compareFrames); diff != "" {
		t.Error(diff)
	}

	unknown := Frame{Version: 3, Type: 77, Seq: 2}
	if err := ParseFrame(append(AppendFrame(nil, &unknown), 1, 1, 9), &got); err != nil || got.Type != 77 || got.Seq != 2 {
		t.Errorf("unknown type of frame: %v %v", got.Type, err)
	}
}

// TestWithoutExtras: a peer that does not know them gets the flow alone.
func TestWithoutExtras(t *testing.T) {
	plain := extraFlow()
	plain.Extra = nil
	if !bytes.Equal(appendRecord(nil, &Record{Kind: RecordNew, Flow: extraFlow()}, FeatureDigests), appendRecord(nil, &Record{Kind: RecordNew, Flow: plain}, 0)) {
		t.Error("the record differs")
	}
}

func TestMalformedFrames(t *testing.T) {
	frames := sampleFrames()
	flows, hello := frames["flows"], frames["hello"]
	encoded := AppendFrame(nil, &flows)
	badState := natFlow(1)
	badState.TCP.State = TCPSynSent2 + 1
	longName := AppendFrame(nil, &hello)
	longName[headerLength+2+27] = MaxName + 1
	many := AppendFrame(nil, &Frame{Version: 2, Type: FrameFlows})
	for range MaxRecords + 1 {
		many = appendRecord(many, &Record{Kind: RecordDestroy, Flow: udpFlow(1)}, 0)
	}
	cases := map[string]struct {
		in   []byte
		want ParseReason
	}{
		"empty":            {nil, ParseShort},
		"half a header":    {encoded[:headerLength-1], ParseShort},
		"too long":         {make([]byte, MaxFrame+1), ParseOversize},
		"version 0":        {make([]byte, headerLength), ParseVersion},
		"version 1":        {append([]byte{1, 1}, make([]byte, headerLength)...), ParseVersion},
		"type 0":           {append([]byte{2}, make([]byte, headerLength)...), ParseType},
		"half a record":    {encoded[:len(encoded)-1], ParseTruncated},
		"half a header 2":  {encoded[:headerLength+1], ParseTruncated},
		"endless length":   {append(encoded[:headerLength:headerLength], 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1), ParseTruncated},
		"empty flow":       {append(encoded[:headerLength:headerLength], 1, 0), ParseRecord},
		"empty field":      {append(encoded[:headerLength:headerLength], 1, 1, 99), ParseRecord},
		"short sums":       {append([]byte{2, byte(FrameDigests)}, append(make([]byte, headerLength-2), wireSums, 2, 0, 0)...), ParseRecord},
		"state":            {appendRecord(encoded[:headerLength:headerLength], &Record{Kind: RecordNew, Flow: badState}, 0), ParseRecord},
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
		for n := 0; n < len(b); n += max(1, n/64) {
			var got Frame
			if ParseFrame(b[:n], &got) == nil && len(got.Records) >= max(len(f.Records), 1) {
				t.Errorf("%s cut at %d parses whole", name, n)
			}
		}
	}
}

func TestNamesAreCut(t *testing.T) {
	in := Frame{Version: 2, Type: FrameHello, Hello: Hello{Node: strings.Repeat("n", 300)}}
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

func BenchmarkAppendFrame(b *testing.B) {
	f := Frame{Version: 2, Type: FrameFlows}
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
	in := Frame{Version: 2, Type: FrameFlows}
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

// FuzzReceive: whatever a peer sends, nothing breaks, and the index adds up.
func FuzzReceive(f *testing.F) {
	for _, frame := range sampleFrames() {
		f.Add(AppendFrame(nil, &frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var frame Frame
		if ParseFrame(b, &frame) != nil {
			return
		}
		s, r := newMaster(SenderConfig{}), newBackup(ReceiverConfig{})
		frame.Term, frame.Seq = 3, 1
		s.Receive(epoch, &frame)
		out := r.Receive(epoch, &frame)
		for i := range out.Ops {
			if op := &out.Ops[i]; op.Expect == nil && !op.Flow.encodable() {
				t.Errorf("%+v", op)
			}
		}
		r.Applied(epoch, []int{0, len(out.Ops)})
		var sum uint64
		for _, v := range r.ix.sums(nil) {
			sum += v
		}
		if sum != r.ix.Digest().Sum {
			t.Errorf("the buckets' sums make %x, not %x", sum, r.ix.Digest().Sum)
		}
	})
}
