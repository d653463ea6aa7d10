package teardown

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestPick(t *testing.T) {
	prefix := netip.MustParsePrefix
	selection := Flows{
		Mark: 0x000a0000, Mask: 0x00ff0000, Networks: []netip.Prefix{prefix("10.1.0.0/24")},
		Destination: prefix("0.0.0.0/0"), Except: []netip.Prefix{prefix("192.0.2.128/25")},
	}
	outgoing := conntracksync.Flow{
		Key: conntracksync.Key{Protocol: unix.IPPROTO_TCP, Original: conntracksync.Tuple{
			Source: addr("10.1.0.10"), SourcePort: 4000, Destination: addr("192.0.2.80"), DestinationPort: 443,
		}},
		Reply: conntracksync.Tuple{
			Source: addr("192.0.2.80"), SourcePort: 443, Destination: addr("198.51.100.1"), DestinationPort: 5000,
		},
		Mark: 0xff0a0001, HasTCP: true, TCP: conntracksync.TCPInfo{State: conntracksync.TCPEstablished},
	}
	incoming := conntracksync.Flow{
		Key: conntracksync.Key{Protocol: unix.IPPROTO_TCP, Original: conntracksync.Tuple{
			Source: addr("192.0.2.80"), SourcePort: 4000, Destination: addr("198.51.100.1"), DestinationPort: 8443,
		}},
		Reply: conntracksync.Tuple{
			Source: addr("10.1.0.10"), SourcePort: 443, Destination: addr("192.0.2.80"), DestinationPort: 4000,
		},
		Mark: 0x000a0000, HasTCP: true, TCP: conntracksync.TCPInfo{State: conntracksync.TCPEstablished},
	}
	change := func(f conntracksync.Flow, how func(*conntracksync.Flow)) conntracksync.Flow {
		how(&f)
		return f
	}
	state := func(s conntracksync.TCPState) func(*conntracksync.Flow) {
		return func(f *conntracksync.Flow) { f.TCP.State = s }
	}
	for _, test := range []struct {
		name         string
		flow         conntracksync.Flow
		want         bool
		inner, outer string
		answer, wake bool
	}{
		{"outgoing", outgoing, true, "10.1.0.10:4000", "192.0.2.80:443", true, true},
		{"incoming", incoming, true, "10.1.0.10:443", "192.0.2.80:4000", true, true},
		{"closing", change(outgoing, state(conntracksync.TCPLastAck)), true, "10.1.0.10:4000", "192.0.2.80:443", true, true},
		{"about to be tried again", change(outgoing, state(conntracksync.TCPSynSent)), true, "10.1.0.10:4000", "192.0.2.80:443", false, false},
		{"reset", change(outgoing, state(conntracksync.TCPClose)), true, "10.1.0.10:4000", "192.0.2.80:443", false, false},
		{"offloaded", change(outgoing, func(f *conntracksync.Flow) { f.HasTCP, f.TCP = false, conntracksync.TCPInfo{} }), true, "10.1.0.10:4000", "192.0.2.80:443", true, true},
		{"UDP", change(outgoing, func(f *conntracksync.Flow) {
			f.Protocol, f.HasTCP, f.TCP = unix.IPPROTO_UDP, false, conntracksync.TCPInfo{}
		}), true, "10.1.0.10:4000", "192.0.2.80:443", false, true},
		{"SCTP", change(outgoing, func(f *conntracksync.Flow) {
			f.Protocol, f.HasTCP, f.TCP = unix.IPPROTO_SCTP, false, conntracksync.TCPInfo{}
		}), true, "10.1.0.10:4000", "192.0.2.80:443", false, false},
		{"other mark", change(outgoing, func(f *conntracksync.Flow) { f.Mark = 0x000b0000 }), false, "", "", false, false},
		{"other network", change(outgoing, func(f *conntracksync.Flow) { f.Original.Source = addr("10.2.0.10") }), false, "", "", false, false},
		{"has a route of its own", change(outgoing, func(f *conntracksync.Flow) { f.Reply.Source = addr("192.0.2.200") }), false, "", "", false, false},
		{"comes by a route of its own", change(incoming, func(f *conntracksync.Flow) { f.Original.Source = addr("192.0.2.200") }), false, "", "", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := selection.pick(&test.flow)
			if ok != test.want {
				t.Fatalf("picked: %v, want %v", ok, test.want)
			}
			if ok && (got.inner.String() != test.inner || got.outer.String() != test.outer ||
				got.answer != test.answer || got.wake != test.wake) {
				t.Errorf("picked %+v", got)
			}
		})
	}
	selection.Outbound = true
	if _, ok := selection.pick(&incoming); ok {
		t.Error("a flow that began outside is ended though only the others are to be")
	}
	if _, ok := selection.pick(&outgoing); !ok {
		t.Error("a flow that began inside stays")
	}
}
