package hostile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// advertFrame is an advert of a node on the lan.
func advertFrame(source string) func([]byte) bool {
	return func(b []byte) bool {
		return len(b) > 34 && b[12] == 0x08 && b[13] == 0 && b[14+9] == 112 && b[14+8] == 255 && netip.AddrFrom4([4]byte(b[14+12:14+16])) == netip.MustParseAddr(source)
	}
}

// atLeast compares counters with what they were.
func atLeast(now, before, grown map[string]uint64) error {
	for name, by := range grown {
		if now[name]-before[name] < by {
			return fmt.Errorf("%s: %d, %d before, want %d more", name, now[name], before[name], by)
		}
	}
	return nil
}

// TestSignedAdverts lets somebody on the lan say everything that would move the role
// if it were believed: in a name of his own, in that of the MASTER and of the BACKUP,
// and with recordings of what the MASTER said.
func TestSignedAdverts(t *testing.T) {
	s := newPairOf(t, lab.Options{LAN: []string{"vrrp: {authentication: true}"}})
	tap := s.wire(lab.Client, "eth0", unix.ETH_P_IP)
	recorded := slices.Clone(tap.receive(advertFrame("10.0.0.2"))) // alpha is MASTER
	harmless := s.harmless()
	w := s.wire(lab.Client, "eth0", 0)
	copy(recorded[6:12], w.mac) // what the switch learns is not the matter here
	const times = 25
	forgeries := [][]byte{
		w.frame(with(stranger(), func(p *spoof) { p.priority = 254 })),
		w.frame(with(stranger(), func(p *spoof) { p.priority, p.source = 254, "10.0.0.3" })),
		w.frame(with(stranger(), func(p *spoof) { p.priority, p.source = 0, "10.0.0.2" })),
	}
	before := map[string]map[string]uint64{}
	for _, node := range nodes() {
		before[node] = s.carrier(node, "lan").Dropped
	}
	for range times {
		for _, frame := range forgeries {
			w.send(frame)
		}
		w.send(recorded)
	}
	// To whom a forgery speaks in the own name it is an echo, and unsigned to the other.
	s.expect("bravo counts the forgeries", lab.Bravo, func(status.Status) error {
		return atLeast(s.carrier(lab.Bravo, "lan").Dropped, before[lab.Bravo], map[string]uint64{"unsigned": 2 * times, "own-address": times, "replayed": times})
	})
	s.expect("alpha counts the forgeries", lab.Alpha, func(status.Status) error {
		return atLeast(s.carrier(lab.Alpha, "lan").Dropped, before[lab.Alpha], map[string]uint64{"unsigned": 2 * times, "own-address": 2 * times})
	})
	harmless()
}

// TestForgedGoodbye says goodbye in the MASTER's name on a network without signatures:
// the heartbeats on the HA link know better.
func TestForgedGoodbye(t *testing.T) {
	s := newPair(t)
	harmless := s.harmless()
	w := s.wire(lab.Client, "eth0", 0)
	goodbye := w.frame(with(stranger(), func(p *spoof) { p.priority, p.source = 0, "10.0.0.2" }))
	before := s.carrier(lab.Bravo, "lan").Received
	const times = 100
	for range times {
		w.send(goodbye)
	}
	s.expect("bravo hears the goodbyes", lab.Bravo, func(status.Status) error {
		return atLeast(map[string]uint64{"received": s.carrier(lab.Bravo, "lan").Received}, map[string]uint64{"received": before}, map[string]uint64{"received": times})
	})
	harmless()
}
