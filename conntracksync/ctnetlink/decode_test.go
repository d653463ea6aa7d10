package ctnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// report encodes f as the kernel reports a flow: the translated reply tuple, the
// protocol information without masks, and attributes of no interest among them.
func report(f conntracksync.Flow) []byte {
	var e encoder
	e.begin(messageNew, 0, 1, &f.Key)
	e.tuple(attrTupleOrig, f.Original, f.Protocol)
	e.tuple(attrTupleReply, f.Reply, f.Protocol)
	e.uint32(12, 0xdeadbeef) // CTA_ID
	e.uint32(attrStatus, uint32(f.Status))
	e.uint32(attrTimeout, f.Timeout)
	e.uint32(attrMark, f.Mark)
	e.zone(f.Zone)
	if f.HasTCP {
		info := e.open(attrProtoInfo)
		tcp := e.open(protoInfoTCP)
		e.uint8(tcpState, uint8(f.TCP.State))
		e.uint8(tcpScaleOriginal, f.TCP.ScaleOriginal)
		e.uint8(tcpScaleReply, f.TCP.ScaleReply)
		e.uint16(tcpFlagsOriginal, uint16(f.TCP.FlagsOriginal)<<8)
		e.uint16(tcpFlagsReply, uint16(f.TCP.FlagsReply)<<8)
		e.close(tcp)
		e.close(info)
	}
	if x := f.Extra; x != nil {
		e.extraAtCreation(x, 0)
		e.extra(x, f.Protocol, 0)
	}
	e.uint32(27, 7) // CTA_TIMESTAMP_EVENT
	e.end()
	return e.buf[messageHeaderLength:]
}

// equal compares flows and what their Extra points to.
func equal(a, b conntracksync.Flow) bool {
	x, y := a.Extra, b.Extra
	a.Extra, b.Extra = nil, nil
	if a != b || (x == nil) != (y == nil) {
		return false
	}
	return x == nil || *x == *y
}

// shown is f with its Extra spelled out, for messages.
func shown(f conntracksync.Flow) string {
	x := f.Extra
	f.Extra = nil
	return fmt.Sprintf("%+v extra %+v", f, x)
}

func tuple(source, dest string, sourcePort, destPort uint16) conntracksync.Tuple {
	return conntracksync.Tuple{
		Source: netip.MustParseAddr(source), Destination: netip.MustParseAddr(dest),
		SourcePort: sourcePort, DestinationPort: destPort,
	}
}

// flow returns a flow that has been answered, without protocol information.
func flow(protocol uint8, original, reply conntracksync.Tuple) conntracksync.Flow {
	return conntracksync.Flow{
		Key:     conntracksync.Key{Original: original, Protocol: protocol},
		Reply:   reply,
		Status:  conntracksync.StatusConfirmed | conntracksync.StatusSeenReply | conntracksync.StatusAssured,
		Timeout: 300,
	}
}

func tcpFlow(original, reply conntracksync.Tuple) conntracksync.Flow {
	f := flow(unix.IPPROTO_TCP, original, reply)
	f.HasTCP = true
	f.TCP = conntracksync.TCPInfo{
		State:         conntracksync.TCPEstablished,
		FlagsOriginal: tcpFlagWindowScale | tcpFlagSACK, FlagsReply: tcpFlagWindowScale | tcpFlagSACK,
		ScaleOriginal: 7, ScaleReply: 9,
	}
	return f
}

// sampleFlows are flows of each kind, all translated ones with their status.
func sampleFlows() map[string]conntracksync.Flow {
	with := func(f conntracksync.Flow, s conntracksync.Status) conntracksync.Flow {
		f.Status |= s
		return f
	}
	const sn, dn = conntracksync.StatusSourceNAT, conntracksync.StatusDestNAT
	marked := tcpFlow(tuple("10.0.0.9", "192.0.2.80", 40009, 443), tuple("192.0.2.80", "10.0.0.9", 443, 40009))
	marked.Mark, marked.Zone = 0x0102_0304, 77
	return map[string]conntracksync.Flow{
		"tcp plain, mark and zone": marked,
		"tcp snat": with(tcpFlow(tuple("10.0.0.2", "192.0.2.80", 40001, 443),
			tuple("192.0.2.80", "198.51.100.1", 443, 61627)), sn),
		"tcp dnat": with(tcpFlow(tuple("192.0.2.7", "198.51.100.1", 5555, 80),
			tuple("10.0.0.80", "192.0.2.7", 8080, 5555)), dn),
		"tcp snat and dnat": with(tcpFlow(tuple("10.0.0.3", "198.51.100.1", 5556, 80),
			tuple("10.0.0.80", "198.51.100.2", 8080, 7777)), sn|dn),
		"tcp snat port only": with(tcpFlow(tuple("10.0.0.4", "192.0.2.80", 40001, 443),
			tuple("192.0.2.80", "10.0.0.4", 443, 1025)), sn),
		"udp snat": with(flow(unix.IPPROTO_UDP, tuple("10.0.0.2", "192.0.2.53", 40001, 53),
			tuple("192.0.2.53", "198.51.100.1", 53, 2048)), sn),
		"icmp snat with identifier": with(flow(unix.IPPROTO_ICMP, tuple("10.0.0.2", "192.0.2.80", 77, 8<<8),
			tuple("192.0.2.80", "198.51.100.1", 4242, 0)), sn),
		"icmp plain": flow(unix.IPPROTO_ICMP, tuple("10.0.0.2", "192.0.2.81", 78, 8<<8),
			tuple("192.0.2.81", "10.0.0.2", 78, 0)),
		"icmp dnat": with(flow(unix.IPPROTO_ICMP, tuple("192.0.2.9", "198.51.100.9", 79, 8<<8),
			tuple("10.0.0.80", "192.0.2.9", 79, 0)), dn),
		"icmp6 snat": with(flow(unix.IPPROTO_ICMPV6, tuple("fd00::2", "2001:db8::80", 77, 128<<8),
			tuple("2001:db8::80", "2001:db8:1::1", 4243, 129<<8)), sn),
		"tcp6 snat": with(tcpFlow(tuple("fd00::2", "2001:db8::80", 40001, 443),
			tuple("2001:db8::80", "2001:db8:1::1", 443, 61627)), sn),
		"tcp6 dnat": with(tcpFlow(tuple("2001:db8::7", "2001:db8:1::1", 5555, 80),
			tuple("fd00::80", "2001:db8::7", 8080, 5555)), dn),
		"udp6 plain": flow(unix.IPPROTO_UDP, tuple("fd00::2", "2001:db8::53", 40001, 53),
			tuple("2001:db8::53", "fd00::2", 53, 40001)),
		"gre snat": with(flow(unix.IPPROTO_GRE, tuple("10.0.0.2", "192.0.2.80", 5, 6),
			tuple("192.0.2.80", "198.51.100.1", 6, 5)), sn),
		"esp snat": with(flow(unix.IPPROTO_ESP, tuple("10.0.0.2", "192.0.2.80", 0, 0),
			tuple("192.0.2.80", "198.51.100.1", 0, 0)), sn),
		"protocol 99 dnat": with(flow(99, tuple("192.0.2.7", "198.51.100.1", 0, 0),
			tuple("10.0.0.80", "192.0.2.7", 0, 0)), dn),
		"sctp snat": with(extraFlow(conntracksync.Extra{
			SCTP: conntracksync.SCTPInfo{State: 4, TagOriginal: 0xdeadbeef, TagReply: 0x01020304}, HasSCTP: true,
		}, unix.IPPROTO_SCTP, 36412), sn),
		"sctp6 plain": {
			Key: conntracksync.Key{
				Original: tuple("fd00::2", "2001:db8::80", 40001, 36412), Protocol: unix.IPPROTO_SCTP,
			},
			Reply:   tuple("2001:db8::80", "fd00::2", 36412, 40001),
			Status:  conntracksync.StatusConfirmed,
			Timeout: 300,
			Extra: &conntracksync.Extra{
				SCTP: conntracksync.SCTPInfo{State: 1, TagReply: 7}, HasSCTP: true,
			},
		},
		"helper and adjustment": with(extraFlow(conntracksync.Extra{
			Helper:         "ftp",
			AdjustOriginal: conntracksync.SequenceAdjustment{CorrectionPosition: 0x80000001, OffsetBefore: -3, OffsetAfter: 4},
			AdjustReply:    conntracksync.SequenceAdjustment{CorrectionPosition: 9, OffsetBefore: 0, OffsetAfter: -2147483648},
			HasAdjust:      true,
		}, unix.IPPROTO_TCP, 21), sn|statusAdjusted|statusHelper),
	}
}

// Bits that the kernel sets by itself for sequence adjustment and helpers
// (IPS_SEQ_ADJUST, IPS_HELPER).
const (
	statusAdjusted conntracksync.Status = 1 << 6
	statusHelper   conntracksync.Status = 1 << 13
)

// extraFlow is a translated flow that has x.
func extraFlow(x conntracksync.Extra, protocol uint8, port uint16) conntracksync.Flow {
	original := tuple("10.0.0.5", "192.0.2.80", 40005, port)
	reply := tuple("192.0.2.80", "198.51.100.1", port, 1200)
	f := flow(protocol, original, reply)
	if protocol == unix.IPPROTO_TCP {
		f = tcpFlow(original, reply)
	}
	f.Extra = &x
	return f
}

// childFlow is a flow that master's helper has expected, with labels and what a
// SYNPROXY remembers.
func childFlow(master conntracksync.Key) conntracksync.Flow {
	f := tcpFlow(tuple("10.0.0.5", "192.0.2.80", 40006, 3456), tuple("192.0.2.80", "198.51.100.1", 3456, 1201))
	f.Status |= conntracksync.StatusExpected | conntracksync.StatusSourceNAT
	f.Extra = &conntracksync.Extra{
		Master: master, HasMaster: true,
		Labels: [16]byte{0: 1, 7: 0x80, 15: 3}, HasLabels: true,
		Synproxy: conntracksync.Synproxy{
			InitialSequence: 0xfffffffe, InitialTimestamp: 2, TimestampOffset: 0x80000000,
		}, HasSynproxy: true,
	}
	return f
}

// decodeSamples are the flows that the decoder is held against; the kernel takes
// childFlow's labels and SYNPROXY data over only where rules ask for them.
func decodeSamples() map[string]conntracksync.Flow {
	samples := sampleFlows()
	samples["child"] = childFlow(samples["helper and adjustment"].Key)
	zoned := childFlow(samples["helper and adjustment"].Key)
	zoned.Zone, zoned.Extra.Master.Zone = 7, 7
	samples["child in a zone"] = zoned
	return samples
}

func TestDecode(t *testing.T) {
	for name, want := range decodeSamples() {
		t.Run(name, func(t *testing.T) {
			got := conntracksync.Flow{Mark: 99, HasTCP: true}
			if err := decode(report(want), &got); err != nil {
				t.Fatal(err)
			}
			if !equal(got, want) {
				t.Errorf("got  %s\nwant %s", shown(got), shown(want))
			}
		})
	}
}

func TestDecodeKnowsOldStatesOfSCTP(t *testing.T) {
	f := extraFlow(conntracksync.Extra{
		SCTP: conntracksync.SCTPInfo{State: sctpHeartbeatAcked, TagReply: 1}, HasSCTP: true,
	}, unix.IPPROTO_SCTP, 7)
	var got conntracksync.Flow
	if err := decode(report(f), &got); err != nil || got.Extra.SCTP.State != sctpEstablished {
		t.Errorf("got %s, %v; want an established association", shown(got), err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := tcpFlow(tuple("10.0.0.2", "192.0.2.80", 40001, 443), tuple("192.0.2.80", "10.0.0.2", 443, 40001))
	build := func(f func(*encoder)) []byte {
		var e encoder
		e.begin(messageNew, 0, 1, &good.Key)
		f(&e)
		e.end()
		return e.buf[messageHeaderLength:]
	}
	raw := report(good)
	long := append([]byte(nil), raw...)
	binary.NativeEndian.PutUint16(long[nfgenLength:], uint16(len(long)))
	tests := []struct {
		name string
		msg  []byte
		want Reason
	}{
		{"empty", nil, ReasonTruncated},
		{"header cut", raw[:3], ReasonTruncated},
		{"attribute cut", raw[:len(raw)-2], ReasonTruncated},
		{"attribute header cut", raw[:nfgenLength+2], ReasonTruncated},
		{"attribute beyond message", long, ReasonTruncated},
		{"attribute of length 0", append([]byte{0, 0, 0, 0}, 0, 0, 1, 0), ReasonTruncated},
		{"no attributes", raw[:nfgenLength], ReasonTuple},
		{"no reply", build(func(e *encoder) { e.tuple(attrTupleOrig, good.Original, good.Protocol) }), ReasonTuple},
		{"no addresses", build(func(e *encoder) { e.close(e.open(attrTupleOrig)) }), ReasonTuple},
		{"twice", build(func(e *encoder) { e.uint32(attrMark, 1); e.uint32(attrMark, 2) }), ReasonDuplicate},
		{"short mark", build(func(e *encoder) { e.uint16(attrMark, 1) }), ReasonLength},
		{"long zone", build(func(e *encoder) { e.uint32(attrZone, 1) }), ReasonLength},
		{"mixed families", build(func(e *encoder) {
			e.tuple(attrTupleOrig, good.Original, good.Protocol)
			e.tuple(attrTupleReply, tuple("::1", "::2", 1, 2), good.Protocol)
		}), ReasonFamily},
		{"mixed families in a tuple", build(func(e *encoder) {
			e.tuple(attrTupleOrig, conntracksync.Tuple{
				Source: good.Original.Source, Destination: netip.IPv6Loopback(),
			}, good.Protocol)
		}), ReasonFamily},
		{"mixed protocols", build(func(e *encoder) {
			e.tuple(attrTupleOrig, good.Original, unix.IPPROTO_TCP)
			e.tuple(attrTupleReply, good.Reply, unix.IPPROTO_UDP)
		}), ReasonFamily},
		{"zone of one direction", build(func(e *encoder) {
			at := e.open(attrTupleOrig)
			e.uint16(tupleZone, 3)
			e.close(at)
		}), ReasonZone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f conntracksync.Flow
			if err := decode(tt.msg, &f); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			var d Drops
			d.count(tt.want)
			if d[tt.want] != 1 {
				t.Errorf("not counted: %v", d)
			}
		})
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	msg := report(sampleFlows()["tcp6 snat"])
	var f conntracksync.Flow
	if n := testing.AllocsPerRun(100, func() {
		if decode(msg, &f) != nil || decode(msg[:20], &f) == nil {
			t.Error("decoded wrongly")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// oracleFlow is a flow as the ti-mo/conntrack library understands msg.
func oracleFlow(msg []byte) (conntracksync.Flow, error) {
	var ev conntrack.Event
	err := ev.Unmarshal(netlink.Message{Header: netlink.Header{Type: messageNew}, Data: msg})
	if err != nil {
		return conntracksync.Flow{}, err
	}
	return fromOracle(ev.Flow), nil
}

func fromOracle(o *conntrack.Flow) conntracksync.Flow {
	f := conntracksync.Flow{
		Key: conntracksync.Key{
			Original: fromOracleTuple(o.TupleOrig), Zone: o.Zone, Protocol: o.TupleOrig.Proto.Protocol,
		},
		Reply:   fromOracleTuple(o.TupleReply),
		Status:  conntracksync.Status(o.Status.Value),
		Timeout: o.Timeout,
		Mark:    o.Mark,
	}
	if p := o.ProtoInfo.TCP; p != nil {
		f.HasTCP = true
		f.TCP = conntracksync.TCPInfo{
			State:         conntracksync.TCPState(p.State),
			FlagsOriginal: uint8(p.OriginalFlags >> 8), FlagsReply: uint8(p.ReplyFlags >> 8),
			ScaleOriginal: p.OriginalWindowScale, ScaleReply: p.ReplyWindowScale,
		}
	}
	fromOracleExtra(o, &f)
	return f
}

func fromOracleExtra(o *conntrack.Flow, f *conntracksync.Flow) {
	x := conntracksync.Extra{
		Helper:      cutName(o.Helper.Name),
		HasMaster:   o.TupleMaster.IP.SourceAddress.IsValid(),
		HasAdjust:   o.SeqAdjOrig != (conntrack.SequenceAdjust{}) || o.SeqAdjReply.Direction,
		HasLabels:   len(o.Labels) > 0,
		HasSynproxy: o.SynProxy != conntrack.SynProxy{},
	}
	if x.HasMaster {
		x.Master = conntracksync.Key{
			Original: fromOracleTuple(o.TupleMaster), Zone: o.Zone, Protocol: o.TupleMaster.Proto.Protocol,
		}
	}
	adjustment := func(a conntrack.SequenceAdjust) conntracksync.SequenceAdjustment {
		return conntracksync.SequenceAdjustment{
			CorrectionPosition: a.Position, OffsetBefore: int32(a.OffsetBefore), OffsetAfter: int32(a.OffsetAfter),
		}
	}
	x.AdjustOriginal, x.AdjustReply = adjustment(o.SeqAdjOrig), adjustment(o.SeqAdjReply)
	copy(x.Labels[:], o.Labels)
	x.Synproxy = conntracksync.Synproxy{
		InitialSequence: o.SynProxy.ISN, InitialTimestamp: o.SynProxy.ITS, TimestampOffset: o.SynProxy.TSOff,
	}
	if p := o.ProtoInfo.SCTP; p != nil {
		x.SCTP, x.HasSCTP = conntracksync.SCTPInfo{State: p.State, TagOriginal: p.VTagOriginal, TagReply: p.VTagReply}, true
	}
	if x != (conntracksync.Extra{}) {
		f.Extra = &x
	}
}

// cutName ends a name at its first zero byte, as C does; the library keeps what follows.
func cutName(s string) string {
	name, _, _ := strings.Cut(s, "\x00")
	return name
}

func fromOracleTuple(o conntrack.Tuple) conntracksync.Tuple {
	t := conntracksync.Tuple{
		Source: o.IP.SourceAddress, Destination: o.IP.DestinationAddress,
		SourcePort: o.Proto.SourcePort, DestinationPort: o.Proto.DestinationPort,
	}
	if isICMP(o.Proto.Protocol) {
		t.SourcePort = o.Proto.ICMPID
		t.DestinationPort = uint16(o.Proto.ICMPType)<<8 | uint16(o.Proto.ICMPCode)
	}
	return t
}

func TestOracleUnderstandsTheSamples(t *testing.T) {
	for name, want := range decodeSamples() {
		got, err := oracleFlow(report(want))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !equal(got, want) {
			t.Errorf("%s: got %s, want %s", name, shown(got), shown(want))
		}
	}
}

// FuzzDecode holds the decoder against the library: what both accept, both must
// understand alike. Each is stricter than the other in some points.
func FuzzDecode(f *testing.F) {
	for _, s := range decodeSamples() {
		f.Add(report(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var got conntracksync.Flow
		err := decode(msg, &got)
		if err != nil {
			var reason Reason
			if !errors.As(err, &reason) || reason >= reasonCount {
				t.Fatalf("%v is no reason", err)
			}
			return
		}
		want, err := oracleFlow(msg)
		if err != nil || wideTypes(msg[nfgenLength:]) {
			return
		}
		forgive(&want, &got)
		if !equal(got, want) {
			t.Fatal(cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
		}
	})
}

// forgive takes from want what the decoder leaves out on purpose: protocol information
// that is of no use because a part is missing.
func forgive(want, got *conntracksync.Flow) {
	if !got.HasTCP {
		want.HasTCP = false
	}
	x := want.Extra
	if x == nil || !x.HasSCTP {
		return
	}
	if x.SCTP.State == sctpHeartbeatAcked {
		x.SCTP.State = sctpEstablished
	}
	if got.Extra == nil || !got.Extra.HasSCTP {
		x.SCTP, x.HasSCTP = conntracksync.SCTPInfo{}, false
		if *x == (conntracksync.Extra{}) {
			want.Extra = nil
		}
	}
}

// wideTypes tells whether an attribute at any depth has a type beyond 255, which
// the library cuts to eight bits.
func wideTypes(b []byte) bool {
	for len(b) >= attrHeaderLength {
		length := int(binary.NativeEndian.Uint16(b))
		if length < attrHeaderLength || length > len(b) {
			return false
		}
		if binary.NativeEndian.Uint16(b[2:])&attrTypeMask > 255 || wideTypes(b[attrHeaderLength:length]) {
			return true
		}
		b = b[min(align(length), len(b)):]
	}
	return false
}

func BenchmarkDecode(b *testing.B) {
	msg := report(sampleFlows()["tcp snat"])
	var f conntracksync.Flow
	b.ReportAllocs()
	for b.Loop() {
		if err := decode(msg, &f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOracleDecode(b *testing.B) {
	msg := report(sampleFlows()["tcp snat"])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := oracleFlow(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeCreate(b *testing.B) {
	f := sampleFlows()["tcp snat"]
	var e encoder
	b.ReportAllocs()
	for b.Loop() {
		e.reset()
		e.create(&f, 0, 1)
	}
}
