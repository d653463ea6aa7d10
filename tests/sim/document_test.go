package sim

import (
	"net/netip"
	"slices"
	"time"

	"tandem/vrrp"
)

// document is the pair's configuration, as far as the election goes. A machine may
// have an older version than the other.
type document struct {
	version      int
	interval     time.Duration
	preempt      bool
	preemptDelay time.Duration
	priorities   [2]uint8
	networks     []carrier
}

// group translates the document for a member's state machine, and returns the
// carriers in the order of the configuration.
func (d document) group(w *world, slot int) (vrrp.GroupConfig, []carrier) {
	cfg := vrrp.GroupConfig{
		Interval: d.interval, Lease: vrrp.LeaseFor(d.interval), Priority: d.priorities[slot],
		Preempt: d.preempt, PreemptDelay: d.preemptDelay, HasPeer: true, Digest: [vrrp.DigestSize]byte{byte(d.version)},
	}
	if d.priorities[1-slot] < d.priorities[slot] {
		cfg.Rank = 1
	}
	if beat := vrrp.BeatFor(d.interval); beat > 0 && !w.noBeats {
		cfg.Beat, cfg.Lease = beat, vrrp.BeatLease(beat)
	}
	list := append(slices.Clone(d.networks), ha)
	for _, c := range list {
		cfg.Carriers = append(cfg.Carriers, vrrp.Carrier{
			Name: c.String(), VRID: vrid(c), Source: memberAddress(c, slot), Peer: memberAddress(c, 1-slot),
			Addresses: []netip.Addr{virtualAddress(c)}, Private: c == ha,
		})
	}
	return cfg, list
}

func vrid(c carrier) uint8 { return uint8(10 + c) }

func virtualAddress(c carrier) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(c), 0, 100}) }

func memberAddress(c carrier, slot int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(c), 0, byte(2 + slot)})
}

// foreignGroup is the configuration of a router that knows of no pair.
func foreignGroup(c carrier, source netip.Addr, interval time.Duration, priority uint8, preempt bool) (vrrp.GroupConfig, []carrier) {
	return vrrp.GroupConfig{
		Interval: interval, Lease: vrrp.LeaseFor(interval), Priority: priority, Preempt: preempt,
		Carriers: []vrrp.Carrier{{Name: c.String(), VRID: vrid(c), Source: source, Addresses: []netip.Addr{virtualAddress(c)}}},
	}, []carrier{c}
}

// change gives the pair another configuration: the one machine has it at once, the
// other within the given time.
func (w *world) change(within time.Duration) {
	next := w.document
	next.version++
	next.networks = slices.Clone(next.networks)
	switch w.rng.IntN(5) {
	case 0, 1:
		next.interval = w.drawInterval()
	case 2:
		next.preempt = !next.preempt
		next.preemptDelay = w.drawPreemptDelay()
	case 3:
		next.priorities = w.drawPriorities()
	case 4:
		w.drawNetworks(&next)
	}
	w.document = next
	first := w.rng.IntN(2)
	w.members[first].configure(next)
	w.after(w.between(0, within), func() { w.members[1-first].configure(next) })
}

// drawNetworks adds or removes a network; the first always stays.
func (w *world) drawNetworks(d *document) {
	c := carrier(w.rng.IntN(w.networks))
	switch at := slices.Index(d.networks, c); {
	case at < 0:
		d.networks = append(d.networks, c)
	case at > 0:
		d.networks = slices.Delete(d.networks, at, at+1)
	}
}

// drawInterval returns an interval within the bounds of the run.
func (w *world) drawInterval() time.Duration {
	choices := []time.Duration{10, 20, 50, 100, 200, 1000}
	for {
		interval := choices[w.rng.IntN(len(choices))] * time.Millisecond
		if interval >= w.intervalMin && interval <= w.intervalMax {
			return interval
		}
	}
}

// preemptDelayMax is the longest delay of the runs.
const preemptDelayMax = 500 * time.Millisecond

func (w *world) drawPreemptDelay() time.Duration {
	if w.chance(0.6) {
		return 0
	}
	return w.between(0, preemptDelayMax)
}

func (w *world) drawPriorities() [2]uint8 {
	switch w.rng.IntN(4) {
	case 0:
		return [2]uint8{200, 200}
	case 1:
		return [2]uint8{180, 200}
	default:
		return [2]uint8{200, 180}
	}
}

// configure writes a document to a machine's disk and tells its process of it.
func (m *machine) configure(d document) {
	if d.version <= m.document.version {
		return
	}
	m.document = d
	m.w.disturb("configured", m.id, uint64(d.version), uint64(d.interval), uint64(len(d.networks)))
	m.command(m.reconfigure)
	m.judge()
}

// reconfigure is what the elector does with a new configuration: the group first,
// then the carriers, then what the group asked for.
func (m *machine) reconfigure() {
	cfg, list := m.document.group(m.w, m.slot)
	now := m.now()
	in := vrrp.Input{Configure: &cfg}
	out, err := m.group.Step(now, in)
	if err != nil {
		m.w.fail(ruleWorld, "%s refuses a configuration: %v", m.name(), err)
		return
	}
	if m.w.records {
		m.recording = append(m.recording, recorded{now, in, out})
	}
	before := m.index
	m.adopt(cfg, list)
	opened := false
	for c := range carriers {
		if before[c] != absent && m.has(c) {
			continue
		}
		m.inbox[c] = nil
		opened = opened || m.has(c)
	}
	if opened && m.group.State() == vrrp.Master {
		m.advertise(m.group.Priority(), nil)
		m.announcer.Start(now)
	}
	m.apply(out, cause{})
}

const absent = -1

// adopt makes a configuration the process's.
func (m *machine) adopt(cfg vrrp.GroupConfig, list []carrier) {
	same := slices.Equal(m.carriers, list)
	m.cfg, m.carriers = cfg, list
	for c := range carriers {
		m.index[c] = absent
		m.encoded[c] = encoded{}
	}
	m.past.noteTiming(m)
	addresses := make([]int, len(list))
	for i, c := range list {
		m.index[c] = i
		if c.fenced() {
			addresses[i] = len(cfg.Carriers[i].Addresses)
		}
	}
	if m.announcer != nil && same {
		return
	}
	m.announcer = vrrp.NewAnnouncer(addresses, 0)
	if m.is(vrrp.Master) {
		m.announcer.Start(m.now())
	}
}
