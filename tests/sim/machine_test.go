package sim

import (
	"time"

	"tandem/vrrp"
)

// machine is one computer: the elector process with what waits in its sockets, the
// part of the node that judges its fitness, and the kernel's fence, which outlives
// both.
type machine struct {
	w  *world
	id int
	// slot is the member that the machine stands for; -1 is a foreign router.
	slot  int
	title string

	// ppm is how much faster than the world the machine's clock runs; stood is for how
	// long it stood still, since standsFrom if it does now.
	ppm        int64
	stood      time.Duration
	standsFrom time.Duration

	// document is what lies on the disk, cfg and carriers what the process knows of
	// it; index is the place of a carrier there, or absent.
	document document
	cfg      vrrp.GroupConfig
	carriers []carrier
	index    [carriers]int
	encoded  [carriers]encoded

	// group is nil while the elector does not run. incarnation counts processes, so
	// that a wake-up of one that has died is nobody's.
	group       *vrrp.Group
	announcer   *vrrp.Announcer
	channel     *vrrp.HeartbeatChannel
	incarnation uint64
	// paused counts what stops the process, frozen what stops the whole machine,
	// stopped what keeps the process from running at all. off counts what keeps the machine
	// without power. retired tells that another machine has taken its place.
	paused, frozen, stopped, off int
	retired                      bool
	wakeAt                       time.Duration
	adverts, heartbeats          uint64
	inbox                        [carriers][]*advert
	beats                        []*heartbeat
	commands                     []func()
	// echoes and refusals are what the peer's kernel has said and the process has not
	// read yet.
	echoes, refusals int

	node nodePart

	// fenceUntil is until when the fence is open; leftAt when it was last opened, for
	// leftLease. The advert with the number kept, or the heartbeat with the number
	// keptBeat, told the others; known tells to whose present process it has come.
	fenceUntil        time.Duration
	leftAt, leftLease time.Duration
	kept, keptBeat    uint64
	known             [maxMachines]bool

	// servedSince is since when the process runs as MASTER, wellSince since when it
	// runs undisturbed and every link of it is up; notYet while it does not.
	servedSince, wellSince time.Duration
	// poweredSince is since when the kernel runs, with a process; notYet while it does not.
	poweredSince time.Duration

	past        past
	transitions int
	// recording is what the process took in so far, if the world records.
	recording []recorded
}

// encoded is the last advert that was sent by a carrier.
type encoded struct {
	priority uint8
	message  []byte
}

func (w *world) newMachine(slot int, title string) *machine {
	m := &machine{w: w, id: len(w.machines), slot: slot, title: title, servedSince: notYet, wellSince: notYet, poweredSince: notYet, standsFrom: notYet}
	m.ppm = int64(w.rng.IntN(2*driftMax+1) - driftMax)
	m.node = nodePart{fitness: vrrp.Fitness{Failed: 1}}
	for c := range carriers {
		m.index[c] = absent
	}
	w.machines = append(w.machines, m)
	return m
}

// driftMax is how much faster or slower a clock runs, in parts of a million: as fast
// as a kernel lets NTP slew it.
const driftMax = 500

func (m *machine) name() string { return m.title }

// local returns what the machine's clock shows.
func (m *machine) local() time.Duration {
	at := min(m.w.now, m.standsFrom) - m.stood
	return at + time.Duration(int64(at)*m.ppm/1e6)
}

func (m *machine) now() time.Time { return epoch().Add(m.local()) }

// world returns when the machine's clock will show a time.
func (m *machine) world(local time.Duration) time.Duration {
	shown := func(at time.Duration) time.Duration { return at + time.Duration(int64(at)*m.ppm/1e6) }
	at := local
	for range 3 {
		at -= shown(at) - local
	}
	for shown(at) < local {
		at++
	}
	return at + m.stood
}

// running tells that the process handles what comes.
func (m *machine) running() bool { return m.group != nil && m.paused == 0 }

// is tells whether the process runs in a state.
func (m *machine) is(s vrrp.State) bool { return m.group != nil && m.group.State() == s }

// open tells that the machine can speak with a virtual MAC.
func (m *machine) open() bool { return m.fenceUntil > m.w.now && m.frozen == 0 }

// process identifies the present process among all of the run.
func (m *machine) process() uint64 { return uint64(m.id)<<32 | m.incarnation }

func (m *machine) has(c carrier) bool { return m.index[c] != absent }

// peer returns the machine that stands for the other member, nil for a foreign
// router.
func (m *machine) peer() *machine {
	if m.slot < 0 {
		return nil
	}
	return m.w.members[1-m.slot]
}

// boot loads the configuration; the process starts with [machine.start].
func (m *machine) boot(d document) {
	m.document = d
	for c := range carriers {
		m.node.seesUp[c] = m.w.up(m, c)
	}
	m.adopt(d.group(m.w, m.slot))
}

// start starts the process: with the configuration from the disk and the fitness
// that was told to its predecessor.
func (m *machine) start() {
	if m.slot >= 0 {
		m.adopt(m.document.group(m.w, m.slot))
	}
	group, err := vrrp.NewGroup(m.cfg)
	if err != nil {
		m.w.fail(ruleWorld, "%s: %v", m.name(), err)
		return
	}
	m.incarnation++
	m.group = group
	m.wakeAt = 0
	m.recording = m.recording[:0]
	if cfg := m.cfg; m.w.records {
		m.recording = append(m.recording, recorded{m.now(), vrrp.Input{Configure: &cfg}, vrrp.Output{}})
	}
	m.channel = vrrp.NewHeartbeatChannel(sharedKey(), m.w.rng.Uint64()|1)
	m.past = newPast(m)
	for _, other := range m.w.machines {
		other.known[m.id] = false
	}
	m.w.disturb("start", m.id)
	m.command(func() {
		m.tell(m.node.fitness, m.node.down)
		m.step(vrrp.Input{Start: true}, cause{})
	})
	m.judge()
}

// stop ends the process in order.
func (m *machine) stop() {
	why := vrrp.ReasonShutdown
	m.step(vrrp.Input{Stop: &why}, cause{stop: true})
	m.die()
}

// die ends the process; the fence stays as it is.
func (m *machine) die() {
	m.w.disturb("die", m.id)
	m.group, m.channel = nil, nil
	m.inbox, m.beats, m.commands = [carriers][]*advert{}, nil, nil
	m.echoes, m.refusals = 0, 0
}

// listens tells that packets reach the sockets of a process.
func (m *machine) listens() bool {
	return m.group != nil && m.frozen == 0 && m.group.State() != vrrp.Initialize
}

func (m *machine) arrive(c carrier, p *advert) {
	if !m.listens() || !m.has(c) {
		return
	}
	m.inbox[c] = append(m.inbox[c], p)
	if p.number == p.from.kept {
		p.from.known[m.id] = true
	}
	if p.priority > vrrp.PriorityQuestion {
		m.past.heardAt = m.local()
	}
	m.round()
}

func (m *machine) arriveHeartbeat(b *heartbeat) {
	if m.group == nil || m.frozen > 0 {
		return
	}
	m.beats = append(m.beats, b)
	m.round()
}

// powered tells that the kernel runs and answers for its processes.
func (m *machine) powered() bool { return m.frozen == 0 && m.off == 0 }

// hear counts what the peer's kernel says for the process.
func (m *machine) hear(what *int) {
	if m.group == nil || m.frozen > 0 {
		return
	}
	*what++
	m.round()
}

// command hands something to the process; it is dropped when there is none.
func (m *machine) command(do func()) {
	if m.group == nil {
		return
	}
	m.commands = append(m.commands, do)
	m.round()
}

// round is one turn of the elector: what waits in the sockets first, then what the
// node wishes, then the timers.
func (m *machine) round() {
	if !m.running() {
		return
	}
	m.past.noteStall(m)
	m.drain()
	commands := m.commands
	m.commands = nil
	for _, do := range commands {
		do()
		if m.group == nil {
			return
		}
	}
	if at := m.group.Deadline(); !at.IsZero() && !m.now().Before(at) {
		m.step(vrrp.Input{Tick: true}, cause{})
	}
	m.announceNext()
	m.sleep()
}

// drain reads every socket.
func (m *machine) drain() {
	for c := range carriers {
		inbox := m.inbox[c]
		if len(inbox) == 0 {
			continue
		}
		m.inbox[c] = nil
		for _, p := range inbox {
			m.receive(c, p)
		}
	}
	for ; m.refusals > 0; m.refusals-- {
		m.past.refusedAt = m.local()
		m.step(vrrp.Input{Refusal: true}, cause{})
	}
	beats := m.beats
	m.beats = nil
	for _, b := range beats {
		m.receiveHeartbeat(b)
	}
	if m.echoes > 0 {
		m.echoes = 0
		m.step(vrrp.Input{Echo: true}, cause{})
	}
}

// sleep arranges the next wake-up.
func (m *machine) sleep() {
	deadline := m.group.Deadline()
	if at := m.announcer.Deadline(); !at.IsZero() && (deadline.IsZero() || at.Before(deadline)) {
		deadline = at
	}
	if deadline.IsZero() {
		return
	}
	at := m.world(deadline.Sub(epoch()))
	if at <= m.w.now {
		m.w.fail(ruleDeadline, "%s: the deadline is %v ago after a tick: the process would spin", m.name(), m.w.now-at)
	}
	if m.wakeAt == at {
		return
	}
	m.wakeAt = at
	incarnation := m.incarnation
	m.w.after(at-m.w.now+m.w.between(0, wakeJitter), func() {
		if m.incarnation == incarnation && m.wakeAt == at {
			m.wakeAt = 0
			m.round()
		}
	})
}

func (m *machine) receive(c carrier, p *advert) {
	a, _, reason := vrrp.ParseAdvertisement(p.message, p.header)
	if reason != vrrp.DropNone {
		m.w.fail(ruleWorld, "%s drops an advert: %v", m.name(), reason)
		return
	}
	before := m.group.State()
	received := &vrrp.ReceivedAdvert{Carrier: m.index[c], Source: p.header.Source, Advertisement: a}
	m.step(vrrp.Input{Advert: received}, cause{advert: &a, carrier: c, source: p.header.Source})
	m.heard(before, c, p, a)
}

func (m *machine) receiveHeartbeat(b *heartbeat) {
	beat, verdict := m.channel.Open(m.now(), 0, b.sealed, m.group.DownInterval())
	if verdict != vrrp.HeartbeatTrusted {
		m.w.note("heartbeat", m.id, uint64(verdict))
		m.past.introducedAt = m.w.now
		return
	}
	m.w.note("heartbeat", m.id, uint64(beat.State), uint64(beat.Priority), beat.Term)
	if b.trusted {
		m.w.fail(ruleReplay, "%s trusts a heartbeat that was trusted before", m.name())
	}
	b.trusted = true
	m.past.believes = b.process
	before, was := m.group.State(), m.group.Peer().State
	if beat.State == vrrp.Master {
		m.past.beatAt, m.past.beat = m.local(), beat.Beat
		m.past.noteMaster(m, beat.Priority)
	}
	if was == vrrp.Master && beat.State == vrrp.Initialize {
		m.past.saidGoodbye = true
	}
	if b.number == b.from.keptBeat {
		b.from.known[m.id] = true
	}
	m.step(vrrp.Input{Heartbeat: &beat}, cause{beat: &beat})
	// Who has just woken up may have a goodbye before it that was taken back long ago.
	if before == vrrp.Backup && was == vrrp.Master && beat.State == vrrp.Initialize && m.local()-m.past.wokeAt > m.cfg.Interval/20 {
		m.expectGoodbye(m.group.SkewTime())
	}
}

func sharedKey() []byte { return []byte("0123456789abcdef0123456789abcdef") }
