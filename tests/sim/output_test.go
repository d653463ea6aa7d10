package sim

import (
	"time"

	"tandem/vrrp"
)

// recorded is an input of a group and what it led to.
type recorded struct {
	at  time.Time
	in  vrrp.Input
	out vrrp.Output
}

// step lets the group take an input, and does what it asks for.
func (m *machine) step(in vrrp.Input, why cause) {
	now := m.now()
	m.past.priority = m.group.Priority()
	out, err := m.group.Step(now, in)
	if m.w.records {
		m.recording = append(m.recording, recorded{now, in, out})
	}
	switch {
	case err == nil:
	case in.Handover:
		m.past.commanded = false
	default:
		m.w.fail(ruleWorld, "%s refuses an input: %v", m.name(), err)
	}
	m.apply(out, why)
}

// apply does what the state machine asks for, in the order of the fields.
func (m *machine) apply(out vrrp.Output, why cause) {
	m.checkOutput(out)
	if out.Revoke {
		m.w.note("revoke", m.id)
		m.fenceUntil = 0
	}
	if t := out.Transition; t != nil {
		m.w.note(t.Reason.String(), m.id, uint64(t.To), t.Term)
		m.checkTransition(*t, why)
		m.reportRole()
	}
	if out.Advertise {
		m.advertise(out.Priority, out.Transition)
	}
	if out.Renew && !out.Advertise {
		m.renew(out.Transition)
	}
	if out.Renew || out.Advertise && out.Priority > 0 {
		m.past.renewedAt = m.local()
	}
	if out.Ask {
		m.ask()
	}
	if out.Heartbeat {
		m.sendHeartbeat()
	}
	if out.Announce {
		m.announcer.Start(m.now())
		m.announceNext()
	}
	if !m.is(vrrp.Master) {
		m.announcer.Stop()
	}
	m.checkFence()
}

func (m *machine) sendHeartbeat() {
	m.heartbeats++
	beat := m.group.Heartbeat(m.now())
	m.checkOffer(beat)
	if beat.TakeOver {
		m.past.offeredAt = m.local()
	}
	m.w.sendHeartbeat(m, m.channel.Seal(beat))
}

// advertise sends an advert on every carrier that is up; one that leaves by a
// fenced carrier opens the fence, or closes it with priority 0.
func (m *machine) advertise(priority uint8, t *vrrp.Transition) {
	m.adverts++
	m.w.note("advert", m.id, uint64(priority))
	left := false
	for _, c := range m.carriers {
		if m.w.up(m, c) {
			left = left || c.fenced()
			m.w.sendAdvert(m, c, priority)
		}
	}
	if priority == vrrp.PriorityLeaving {
		if left {
			m.fenceUntil = 0
		}
		return
	}
	if left {
		m.openFence(t)
		m.kept, m.keptBeat = m.adverts, 0
	}
	m.past.sentAt, m.past.sentInterval = m.local(), m.cfg.Interval
}

// renew keeps the fence open without an advert. The frame must leave by a network,
// and only who could send its adverts may do it.
func (m *machine) renew(t *vrrp.Transition) {
	if m.local()-m.past.sentAt > 2*m.cfg.Interval {
		return
	}
	for _, c := range m.carriers {
		if c.fenced() && m.w.up(m, c) {
			m.openFence(t)
			m.kept, m.keptBeat = 0, m.heartbeats+1
			return
		}
	}
}

// ask sends a question on every carrier that is not private. It opens no fence.
func (m *machine) ask() {
	m.adverts++
	m.w.note("ask", m.id)
	if m.local()-m.past.askedAt >= m.past.beat { // else it is the repetition
		m.past.askedAt, m.past.askedWorld = m.local(), m.w.now
	}
	for _, c := range m.carriers {
		if c.fenced() {
			m.w.sendAdvert(m, c, vrrp.PriorityQuestion)
		}
	}
	m.w.sendEcho(m)
}

// announceNext speaks for the virtual addresses whose turn it is.
func (m *machine) announceNext() {
	for _, a := range m.announcer.Next(m.now()) {
		c := m.carriers[a.Carrier]
		m.w.note("announce", m.id, uint64(c))
		if m.w.up(m, c) && m.open() {
			m.past.announcedAt[c] = m.w.now
		}
	}
}

// openFence is what the kernel does when a frame of the group leaves.
func (m *machine) openFence(t *vrrp.Transition) {
	wasOpen := m.open()
	lease := m.cfg.Lease
	m.fenceUntil = m.w.now + lease - time.Duration(int64(lease)*m.ppm/1e6)
	m.leftAt, m.leftLease = m.w.now, lease
	m.known = [maxMachines]bool{}
	if !wasOpen {
		m.checkOpening(t)
	}
}

func (m *machine) header(c carrier) vrrp.Header {
	return vrrp.Header{Source: m.cfg.Carriers[m.index[c]].Source, Destination: vrrp.MulticastIPv4(), TTL: vrrp.TTL}
}

// encode returns the advert of a carrier; like in the elector, only its priority
// ever changes.
func (m *machine) encode(c carrier, priority uint8) []byte {
	e := &m.encoded[c]
	if e.message != nil && e.priority == priority {
		return e.message
	}
	cfg := m.cfg.Carriers[m.index[c]]
	a := vrrp.Advertisement{VRID: cfg.VRID, Priority: priority, Interval: m.cfg.Interval, Addresses: cfg.Addresses}
	message, err := a.Append(nil, m.header(c), vrrp.ChecksumPlain)
	if err != nil {
		m.w.fail(ruleWorld, "%s sends what cannot be sent: %v", m.name(), err)
	}
	*e = encoded{priority: priority, message: message}
	return message
}
