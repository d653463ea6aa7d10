package hostile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/status"
)

// stranger is an advert that a host on the lan could send: valid, and losing against
// every healthy node.
func stranger() spoof {
	return spoof{source: "10.0.0.101", vrid: 10, priority: 50, interval: interval, address: lab.ClientGateway, ttl: 255}
}

func with(p spoof, change func(*spoof)) spoof {
	change(&p)
	return p
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

func flip(at int, bits byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = slices.Clone(b)
		b[at] ^= bits
		return b
	}
}

// malformed are adverts with the reason for which each is dropped.
func malformed() map[string]spoof {
	return map[string]spoof{
		"truncated": with(stranger(), func(p *spoof) { p.damage = cut(6) }),
		"checksum":  with(stranger(), func(p *spoof) { p.damage = flip(2, 0x40) }), // the priority
		"ttl":       with(stranger(), func(p *spoof) { p.ttl = 64 }),
		"vrid":      with(stranger(), func(p *spoof) { p.vrid = 99 }),
		"version":   with(stranger(), func(p *spoof) { p.damage = flip(0, 0x70) }),
		"type":      with(stranger(), func(p *spoof) { p.damage = flip(0, 0x03) }),
		"header":    with(stranger(), func(p *spoof) { p.damageHeader = flip(12, 0xff) }),
	}
}

// fragment is the first part of an advert. The macvlan's own reassembly takes it away
// before anybody counts it.
func fragment() spoof {
	return with(stranger(), func(p *spoof) {
		p.damageHeader = func(b []byte) []byte {
			b = slices.Clone(b)
			b[6], b[10], b[11] = 0x20, 0, 0 // more fragments
			sum := checksum(b)
			b[10], b[11] = byte(sum>>8), byte(sum)
			return b
		}
	})
}

// malformedAdverts sends each kind of bad advert to both segments: it is counted
// under its reason and changes nothing.
func malformedAdverts(s *stand) {
	harmless := s.harmless()
	const times = 25
	for carrier, where := range map[string]struct{ host, source string }{
		"lan": {lab.Client, "10.0.0.101"}, "wan": {lab.Server, lab.UplinkGateway},
	} {
		before := map[string]map[string]uint64{}
		for _, node := range nodes() {
			before[node] = s.carrier(node, carrier).Dropped
		}
		w := s.wire(where.host, "eth0", 0)
		for _, p := range malformed() {
			p.source = where.source
			if carrier == "wan" && p.vrid == 10 {
				p.vrid, p.address = 20, lab.NATAddress
			}
			frame := w.frame(p)
			for range times {
				w.send(frame)
			}
		}
		for _, node := range nodes() {
			s.counts(node, carrier, before[node], times, slices.Sorted(maps.Keys(malformed()))...)
		}
	}
	harmless()
}

// counts waits until a node has dropped so many packets on a carrier for each reason.
func (s *stand) counts(node, carrier string, before map[string]uint64, times uint64, reasons ...string) {
	s.t.Helper()
	s.expect(fmt.Sprintf("%s counts %q on %s", node, reasons, carrier), node, func(status.Status) error {
		now := s.carrier(node, carrier).Dropped
		for _, reason := range reasons {
			if got := now[reason] - before[reason]; got != times {
				return fmt.Errorf("%s: it counted %d of %d", reason, got, times)
			}
		}
		return nil
	})
}

// ownAddress sends the MASTER an advert in its own name. (To the BACKUP that is
// one of the MASTER's.)
func ownAddress(s *stand) {
	harmless := s.harmless()
	w := s.wire(lab.Client, "eth0", 0)
	own := with(stranger(), func(p *spoof) { p.source, p.priority = "10.0.0.2", 200 })
	before := s.carrier(lab.Alpha, "lan").Dropped
	for range 25 {
		w.send(w.frame(own))
	}
	s.counts(lab.Alpha, "lan", before, 25, "own-address")
	harmless()
}

// advertFlood floods both segments with 20 000 adverts a second for two seconds:
// bad ones, losing ones, and some that would win on a BACKUP without preemption if it
// believed strangers more than the MASTER.
func advertFlood(s *stand) {
	harmless := s.harmless()
	w := s.wire(lab.Client, "eth0", 0)
	var frames [][]byte
	for _, p := range malformed() {
		frames = append(frames, w.frame(p))
	}
	for _, p := range []spoof{
		stranger(), fragment(),
		with(stranger(), func(p *spoof) { p.priority = 150 }),
		with(stranger(), func(p *spoof) { p.priority, p.interval = 190, 40950*time.Millisecond }),
		with(stranger(), func(p *spoof) { p.source, p.priority = "10.0.0.77", 1 }),
		with(stranger(), func(p *spoof) { p.priority = 0 }),
	} {
		frames = append(frames, w.frame(p))
	}
	before := s.carrier(lab.Alpha, "lan")
	sent := w.flood(2*time.Second, 20_000, frames)
	harmless()
	after := s.carrier(lab.Alpha, "lan")
	seen := after.Received - before.Received
	for reason, n := range after.Dropped {
		seen += n - before.Dropped[reason]
	}
	s.t.Logf("sent %d, alpha looked at %d", sent, seen)
	if seen < uint64(sent)/4 {
		s.t.Errorf("alpha looked at %d of %d adverts only", seen, sent)
	}
	s.bounded()
}

// bounded demands that neither process of a node has grown.
func (s *stand) bounded() {
	s.t.Helper()
	const limit = 96 << 20
	for _, node := range nodes() {
		for what, pid := range map[string]int{"elector": s.electorOf(node), "node": s.nodePID(node)} {
			if n := s.residentMemory(pid); n > limit {
				s.t.Errorf("the %s of %s has %d MiB resident", what, node, n>>20)
			} else {
				s.t.Logf("the %s of %s has %d MiB resident", what, node, n>>20)
			}
		}
	}
}

// betterStranger sends one valid advert of priority 255. There is no
// authentication in VRRP (RFC 9568 §9): whoever stands on the segment can claim it.
// The MASTER steps back, as §6.4.3 demands, and when nothing follows somebody is
// MASTER again after a down interval. Sessions survive it.
func betterStranger(s *stand) {
	calm := s.traffic(time.Second)
	w := s.wire(lab.Client, "eth0", 0)
	before := s.status(lab.Alpha).Transitions
	w.send(w.frame(with(stranger(), func(p *spoof) { p.priority = 255 })))
	s.expect("alpha steps back", lab.Alpha, func(answer status.Status) error {
		if answer.Transitions == before {
			return fmt.Errorf("it is %s", answer.Role)
		}
		return nil
	})
	s.ready()
	s.flowsOn()
	calm()
}

// falseGoodbye tells the BACKUP in the name of the MASTER that it leaves, again
// and again. It may believe it (RFC 9568 §6.4.2) until the MASTER answers its first
// advert; the role comes to rest where it was, and the traffic does not notice.
func falseGoodbye(s *stand) {
	calm := s.traffic(switchSilence)
	transitions := s.status(lab.Bravo).Transitions
	w := s.wire(lab.Client, "eth0", 0)
	goodbye := w.frame(with(stranger(), func(p *spoof) { p.source, p.priority = "10.0.0.2", 0 }))
	for range 8 {
		before := s.carrier(lab.Bravo, "lan").Received
		w.send(goodbye)
		s.expect("bravo hears the goodbye", lab.Bravo, func(status.Status) error {
			if s.carrier(lab.Bravo, "lan").Received == before {
				return fmt.Errorf("not yet")
			}
			return nil
		})
	}
	s.ready()
	s.flowsOn()
	calm()
	s.t.Logf("bravo changed its role %d times", s.status(lab.Bravo).Transitions-transitions)
	if role := s.status(lab.Alpha).Role; role != roleMaster {
		s.t.Errorf("alpha is %s", role)
	}
}
