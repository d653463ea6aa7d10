package ctnetlink

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

func sampleExpectations() map[string]conntracksync.Expectation {
	master := sampleFlows()["helper and adjustment"].Key
	key := conntracksync.Key{Original: tuple("192.0.2.80", "198.51.100.1", 0, 51201), Protocol: unix.IPPROTO_TCP}
	mask := tuple("255.255.255.255", "255.255.255.255", 0, 0xffff)
	sip, sip6 := master, sampleFlows()["tcp6 snat"].Key
	sip.Protocol = unix.IPPROTO_UDP
	return map[string]conntracksync.Expectation{
		"plain": {Master: master, Key: key, Mask: mask, Timeout: 300},
		"nat": {
			Master: master, Key: key, Mask: mask, NAT: tuple("0.0.0.0", "0.0.0.0", 51201, 0), NATReply: true, HasNAT: true,
			Function: "nat-follow-master", Timeout: 1, Flags: 1,
		},
		"class": {Master: sip, Key: key, Mask: mask, Helper: "sip", Timeout: 9, Class: 2},
		"ipv6": {
			Master: sip6,
			Key: conntracksync.Key{
				Original: tuple("2001:db8::80", "fd00::2", 0, 7), Protocol: unix.IPPROTO_UDP,
			},
			Mask: tuple("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::", 0, 0xffff), Helper: "sip", Timeout: 9,
		},
	}
}

// reportExpectation encodes x as the kernel reports it, which names the master's
// helper always and the zone never.
func reportExpectation(x conntracksync.Expectation) []byte {
	var e encoder
	e.expect(&x, 1)
	if x.Helper == "" || !passesHelper(&x) {
		e.uint32(expectClass, x.Class)
	}
	e.uint32(5, 0x01020304) // CTA_EXPECT_ID
	e.end()
	return e.buf[messageHeaderLength:]
}

func oracleExpectation(msg []byte) (conntracksync.Expectation, error) {
	var ev conntrack.Event
	if err := ev.Unmarshal(netlink.Message{Header: netlink.Header{Type: messageExpectNew}, Data: msg}); err != nil {
		return conntracksync.Expectation{}, err
	}
	o := ev.Expect
	x := conntracksync.Expectation{
		Master: conntracksync.Key{
			Original: fromOracleTuple(o.TupleMaster), Zone: o.Zone, Protocol: o.TupleMaster.Proto.Protocol,
		},
		Key:    conntracksync.Key{Original: fromOracleTuple(o.Tuple), Zone: o.Zone, Protocol: o.Tuple.Proto.Protocol},
		Mask:   fromOracleTuple(o.Mask),
		Helper: cutName(o.HelpName), Function: cutName(o.Function), Timeout: o.Timeout, Class: o.Class, Flags: o.Flags,
	}
	if o.NAT.Tuple.IP.SourceAddress.IsValid() {
		x.NAT, x.NATReply, x.HasNAT = fromOracleTuple(o.NAT.Tuple), o.NAT.Direction, true
	}
	return x, nil
}

func TestDecodeExpectation(t *testing.T) {
	for name, want := range sampleExpectations() {
		t.Run(name, func(t *testing.T) {
			msg := reportExpectation(want)
			got, err := decodeExpectation(msg)
			if err != nil || *got != want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
			if oracle, err := oracleExpectation(msg); err != nil || oracle != want {
				t.Errorf("the library reads %+v, %v\nwant              %+v", oracle, err, want)
			}
			for cut := range len(msg) {
				if _, err := decodeExpectation(msg[:cut]); err == nil && cut < nfgenLength+3*attrHeaderLength {
					t.Errorf("took %d bytes for an expectation", cut)
				}
			}
		})
	}
}

// FuzzDecodeExpectation holds the decoder against the library, as FuzzDecode does.
func FuzzDecodeExpectation(f *testing.F) {
	for _, x := range sampleExpectations() {
		f.Add(reportExpectation(x))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := decodeExpectation(msg)
		if err != nil {
			var reason Reason
			if !errors.As(err, &reason) || reason >= reasonCount {
				t.Fatalf("%v is no reason", err)
			}
			return
		}
		want, err := oracleExpectation(msg)
		if err != nil || wideTypes(msg[nfgenLength:]) {
			return
		}
		if !got.HasNAT { // a direction alone is of no use
			got.NATReply = false
		}
		if *got != want {
			t.Fatal(cmp.Diff(want, *got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
		}
	})
}
