package sim

import (
	"net/netip"
	"slices"
	"time"

	"tandem/vrrp"
)

// never is a time before everything, notYet one after everything.
const (
	never  = -time.Hour
	notYet = time.Duration(1<<63 - 1)
)

// past is what a process did and met, as far as it explains what it does next. All
// times are by the machine's own clock, unless they say otherwise.
type past struct {
	// returnedAt is when the first link came up after all had been down.
	backupAt, returnedAt time.Duration
	// ownInterval was configured when the process became BACKUP.
	ownInterval time.Duration
	// sentAt and sentInterval are of the last advert that the machine sent.
	sentAt       time.Duration
	sentInterval time.Duration
	// heardAt is when an advert of a living MASTER last reached the socket; heard is
	// what the MASTER last said its priority was, and heardInterval its interval. The
	// sockets are read one after the other, so that one may be older.
	heardAt time.Duration
	heard   uint8
	// answeredAt is when a losing advert was last answered.
	answeredAt    time.Duration
	heardInterval time.Duration
	// saidGoodbye tells that the last advert was a goodbye, saidBy who sent it.
	saidGoodbye bool
	saidBy      *machine
	// priorityMax is the highest own priority since an advert was last handled: it makes
	// the shortest skew. lowerSince is since when the MASTER is in a lower band.
	priorityMax uint8
	lowerSince  time.Duration
	// goodbye counts the goodbyes that nobody has contradicted yet; it changes when
	// a MASTER is heard.
	goodbye int
	// beatAt is when a heartbeat of a MASTER was last handled, beat what it promised.
	// askedAt is of the last question, askedWorld the same by the world's clock.
	beatAt, beat, askedAt, askedWorld time.Duration
	// refusedAt is when the peer's kernel last refused a heartbeat.
	refusedAt time.Duration
	// renewedAt is when the fence was last to be opened; suspectUntil is until when a
	// MASTER that slept through its lease may yield to any claim.
	renewedAt, suspectUntil time.Duration
	// wokeAt is when the last pause ended; graceUntil is until when a BACKUP that
	// missed its timer by it takes its own stall for the reason of the silence.
	wokeAt, graceUntil time.Duration
	// offeredAt and acceptedAt are of the last handover; acceptedWorld is the same by
	// the world's clock. offering tells that the offer stands, commanded that it was
	// asked for.
	offeredAt, acceptedAt, acceptedWorld time.Duration
	offering, commanded                  bool
	// handedAt is when the role was last handed over.
	handedAt time.Duration
	// planned tells that the offer under way was asked for, rests that one was taken up:
	// then this machine does not preempt before it has been MASTER again.
	planned, rests bool
	// priority is what the machine had before the input that it handles.
	priority uint8
	// ready and isolated are what the process was told, readyAt when it became ready.
	ready, isolated bool
	readyAt         time.Duration
	// strangerAt is when the foreign router was last heard as MASTER, with
	// strangerPriority.
	strangerAt       time.Duration
	strangerPriority uint8
	// introducedAt is when a heartbeat of the other member last came that could not be
	// trusted, by the world's clock.
	introducedAt time.Duration
	// believes is the process of the other member whose heartbeats were trusted last.
	believes uint64
	// announcedAt is when this machine last announced on a carrier, by the world's
	// clock.
	announcedAt [carriers]time.Duration
	// contestedAt is when this MASTER last heard the advert of another, by the world's
	// clock.
	contestedAt time.Duration
}

func newPast(m *machine) past {
	now := m.local()
	p := past{
		backupAt: now, returnedAt: never, ownInterval: m.cfg.Interval, sentAt: never, sentInterval: m.cfg.Interval,
		heardInterval: m.cfg.Interval, heardAt: never, wokeAt: now, graceUntil: never, offeredAt: never, acceptedAt: never,
		acceptedWorld: never, handedAt: never, beatAt: never, askedAt: never, askedWorld: never, renewedAt: now, suspectUntil: never, lowerSince: notYet,
		contestedAt: never, answeredAt: never, introducedAt: never, refusedAt: never,
	}
	for c := range carriers {
		p.announcedAt[c] = never
	}
	return p
}

// cause is what the machine was handling when it asked for something.
type cause struct {
	advert  *vrrp.Advertisement
	carrier carrier
	source  netip.Addr
	beat    *vrrp.Heartbeat
	stop    bool
}

// noteTiming follows the own priority.
func (p *past) noteTiming(m *machine) {
	if m.group != nil {
		p.priorityMax = max(p.priorityMax, m.group.Priority())
	}
}

// noteStall sees what the process is about to see: that it slept through its lease.
func (p *past) noteStall(m *machine) {
	if m.is(vrrp.Master) && m.cfg.Beat > 0 && m.local()-p.renewedAt >= m.cfg.Lease {
		p.suspectUntil = m.local() + m.cfg.Interval
	}
}

// noteMaster follows what a BACKUP hears of the MASTER.
func (p *past) noteMaster(m *machine, priority uint8) {
	p.heard = priority
	p.goodbye++
	switch {
	case band(priority) >= band(m.group.Priority()):
		p.lowerSince = notYet
	case p.lowerSince == notYet:
		p.lowerSince = m.local()
	}
}

// silentBeats is after how long without a heartbeat a question is due.
func silentBeats(beat time.Duration) time.Duration { return beat * 7 / 2 }

// band is the class of fitness that a priority stands for: ten priorities each
// below [vrrp.HealthyPriority].
func band(priority uint8) int { return int(min(priority, vrrp.HealthyPriority)) / 10 }

// losesTo tells whether an advert wins against this MASTER, RFC 9568 §6.4.3.
func (m *machine) losesTo(c carrier, source netip.Addr, priority uint8) bool {
	mine := m.past.priority
	return priority > mine || priority == mine && source.Compare(m.cfg.Carriers[m.index[c]].Source) > 0
}

// fromPeer tells whether an advert is the other member's.
func (m *machine) fromPeer(c carrier, source netip.Addr) bool {
	return m.cfg.Carriers[m.index[c]].Peer == source
}

// heard checks what the handling of an advert has led to (RFC 9568 §6.4.2 and
// §6.4.3) and remembers it.
func (m *machine) heard(before vrrp.State, c carrier, p *advert, a vrrp.Advertisement) {
	past := &m.past
	question := a.Priority == vrrp.PriorityQuestion
	after := m.group.State()
	if before == vrrp.Backup && after != vrrp.Backup {
		m.w.fail(ruleCause, "%s: an advert makes %v of a BACKUP", m.name(), after)
	}
	if !question {
		past.saidGoodbye, past.saidBy = a.Priority == 0, p.from
	}
	if a.Priority > vrrp.PriorityQuestion || question && !m.fromPeer(c, p.header.Source) {
		past.heardInterval = a.Interval
		past.noteMaster(m, a.Priority)
		past.priorityMax = m.group.Priority()
	}
	if p.from.slot < 0 {
		past.strangerAt, past.strangerPriority = m.local(), a.Priority
	}
	switch {
	case before == vrrp.Backup && a.Priority == 0:
		// Heartbeats that come as promised are believed more than a goodbye, until they
		// are missed and a question has not been answered.
		m.expectGoodbye(m.group.SkewTime() + silenceMax(past.beat))
	case before == vrrp.Master && after == vrrp.Master:
		m.stayed(c, p, a)
	}
}

// stayed checks a MASTER that has heard an advert and is still MASTER.
func (m *machine) stayed(c carrier, p *advert, a vrrp.Advertisement) {
	// After an accepted handover the old MASTER's adverts do not count for a while.
	accepted := m.fromPeer(c, p.header.Source) && m.local()-m.past.acceptedAt <= 2*m.group.DownInterval()+m.w.lag()
	if a.Priority > 0 && m.losesTo(c, p.header.Source, a.Priority) && !accepted {
		m.w.fail(ruleYield, "%s stays MASTER with priority %d against an advert with %d from %v",
			m.name(), m.group.Priority(), a.Priority, p.header.Source)
	}
	if a.Priority > vrrp.PriorityQuestion && m.fromPeer(c, p.header.Source) && m.local() < m.past.suspectUntil && !accepted {
		m.w.fail(ruleYield, "%s stays MASTER against %s, which took over while it slept", m.name(), p.from.name())
	}
	switch question := a.Priority == vrrp.PriorityQuestion && m.fromPeer(c, p.header.Source); {
	case m.past.sentAt == m.local():
		m.past.answeredAt = m.local()
	case question && m.local()-m.past.sentAt <= m.cfg.Interval/100, !question && m.local()-m.past.answeredAt <= m.cfg.Interval/20:
		// So recent an advert is an answer.
	default:
		m.w.fail(ruleAnswer, "%s, MASTER, leaves an advert with priority %d unanswered", m.name(), a.Priority)
	}
	if a.Priority > vrrp.PriorityQuestion {
		m.past.contestedAt = m.w.now
	}
}

// expectGoodbye demands that a BACKUP which has been told that the MASTER stopped
// takes over when Skew_Time has passed (RFC 9568 §6.4.2), unless it hears a MASTER, or
// has heard a better foreign one.
func (m *machine) expectGoodbye(wait time.Duration) {
	m.past.goodbye++
	if m.outranked() {
		return
	}
	goodbye, incarnation, woke, returned := m.past.goodbye, m.incarnation, m.past.wokeAt, m.past.returnedAt
	bound := m.w.drifted(wait) + m.w.lag() + 2*wakeJitter
	m.w.after(bound, func() {
		p := &m.past
		if m.incarnation == incarnation && p.goodbye == goodbye && p.wokeAt == woke && p.returnedAt == returned &&
			m.running() && !p.isolated && m.is(vrrp.Backup) {
			m.w.fail(ruleGoodbye, "%s is BACKUP %v after the MASTER said goodbye", m.name(), bound)
		}
	})
}

// checkTransition demands a cause for every change of state: nothing flaps
// without a reason.
func (m *machine) checkTransition(t vrrp.Transition, why cause) {
	m.transitions++
	m.w.reasons[t.Reason]++
	m.w.checkQuiet(m, t)
	p, now := &m.past, m.local()
	reject := func(r rule, format string, args ...any) {
		m.w.fail(r, "%s becomes %v because %q, but "+format, append([]any{m.name(), t.To, t.Reason}, args...)...)
	}
	mine := p.priority
	switch t.Reason {
	case vrrp.ReasonStartup:
	case vrrp.ReasonPeerSilent:
		m.checkSilence(reject)
	case vrrp.ReasonPeerStopped:
		if !p.saidGoodbye {
			reject(ruleCause, "nobody said so")
		}
	case vrrp.ReasonPeerImpaired:
		if band(p.heard) >= band(mine) {
			reject(ruleCause, "its priority was %d against %d", p.heard, mine)
		}
		if !p.ready && now-p.lowerSince < patience {
			reject(ruleReady, "the session table is not complete, and it was so for %v only", now-p.lowerSince)
		}
	case vrrp.ReasonPreempted:
		if p.heard >= mine || !m.cfg.Preempt {
			reject(ruleCause, "its priority was %d against %d, Preempt %v", p.heard, mine, m.cfg.Preempt)
		}
		if p.rests {
			reject(ruleCause, "it gave the role up on purpose")
		}
		if !p.ready || now-p.readyAt < m.cfg.PreemptDelay {
			reject(ruleReady, "the session table is complete: %v, for %v", p.ready, now-p.readyAt)
		}
	case vrrp.ReasonBetterPeer:
		if why.advert == nil || !m.losesTo(why.carrier, why.source, why.advert.Priority) {
			reject(ruleCause, "there is none")
		}
	case vrrp.ReasonHandover:
		m.checkHandover(t.To, why, reject)
	case vrrp.ReasonOwnStall:
		if now-p.sentAt < 5*p.sentInterval/2 && now > p.suspectUntil {
			reject(ruleCause, "it advertised %v ago", now-p.sentAt)
		}
	case vrrp.ReasonIsolated:
		if !p.isolated {
			reject(ruleCause, "a link is up")
		}
	case vrrp.ReasonShutdown:
		if !why.stop {
			reject(ruleCause, "nobody asked")
		}
	case vrrp.ReasonUnheard:
		m.w.planned = true
		if why.beat == nil || why.beat.State != vrrp.Master || slices.Contains(why.beat.Hears, true) {
			reject(ruleCause, "the peer has not said so")
		}
	case vrrp.ReasonOwner, vrrp.ReasonNodeLost:
		reject(ruleCause, "that does not happen here")
	}
	if t.To == vrrp.Backup {
		p.backupAt, p.ownInterval = now, m.cfg.Interval
		p.priorityMax = max(mine, m.group.Priority())
	}
	if t.To == vrrp.Master {
		m.w.noteDwell(m)
		p.answeredAt = now
	}
	if t.From == vrrp.Master && t.To == vrrp.Backup {
		m.w.yielded(m)
	}
	p.rests = t.To == vrrp.Backup && (t.Reason == vrrp.ReasonHandover && p.planned || t.Reason == vrrp.ReasonUnheard)
	p.offering, p.planned, p.suspectUntil = false, false, never
}

// checkSilence demands that a BACKUP has waited for the MASTER: for a down interval,
// or for heartbeats and then for the answer to a question.
func (m *machine) checkSilence(reject func(rule, string, ...any)) {
	p, now := &m.past, m.local()
	if p.isolated && m.cfg.HasPeer {
		reject(ruleIsolated, "every link of it is down")
	}
	alive := p.heardAt
	if !p.saidGoodbye {
		alive = max(alive, p.beatAt)
	}
	if now-max(alive, p.backupAt, p.returnedAt) >= m.patienceTime() {
		if now < p.graceUntil && now-p.askedAt > 2*p.beat {
			reject(ruleCause, "it had slept itself, until %v ago", now-p.wokeAt)
		}
		return
	}
	wait := silentBeats(p.beat) + p.beat
	if p.refusedAt >= p.beatAt {
		wait -= p.beat / 2 // half a beat more than the lease
	}
	if m.cfg.Beat == 0 && p.beat == 0 || now-p.askedAt < p.beat || now-p.beatAt < wait || max(p.heardAt, p.beatAt) > p.askedAt {
		reject(ruleCause, "an advert came %v, a heartbeat %v and the first link %v ago, and it asked %v ago",
			now-p.heardAt, now-p.beatAt, now-p.returnedAt, now-p.askedAt)
	}
	if peer := m.peer(); peer != nil && peer.servedSince < p.askedWorld && m.w.watch.askableSince() < p.askedWorld {
		reject(ruleOpinion, "%s would have answered the question of %v ago", peer.name(), now-p.askedAt)
	}
	if peer := m.peer(); peer != nil && peer.is(vrrp.Master) && m.seesKernel(peer) && now-max(p.heardAt, p.beatAt) < maxStall {
		reject(ruleStall, "%s has power and is silent for %v only", peer.name(), now-max(p.heardAt, p.beatAt))
	}
}

// seesKernel tells that the kernel of the other member has answered whatever was asked
// lately.
func (m *machine) seesKernel(peer *machine) bool {
	lately := m.w.now - 2*maxStall
	return m.poweredSince < lately && peer.poweredSince < lately && m.w.links[ha].changedAt < lately &&
		m.w.passes(m, peer, ha) && m.w.passes(peer, m, ha)
}

// patienceTime is Active_Down_Interval of a BACKUP at least, RFC 9568 §6.1.
func (m *machine) patienceTime() time.Duration {
	interval := m.patienceInterval()
	return 3*interval + time.Duration(256-int(m.past.priorityMax))*interval/256
}

// patienceInterval is what the down interval of a BACKUP is made of at least.
func (m *machine) patienceInterval() time.Duration {
	switch p := &m.past; {
	case p.heardAt >= p.backupAt:
		return p.heardInterval
	case p.heardAt == never:
		return p.ownInterval
	default: // heard while it was MASTER, or stalled
		return min(p.ownInterval, p.heardInterval)
	}
}

func (m *machine) checkHandover(to vrrp.State, why cause, reject func(rule, string, ...any)) {
	p := &m.past
	if to == vrrp.Master {
		p.acceptedAt, p.acceptedWorld = m.local(), m.w.now
		if why.beat == nil || !why.beat.TakeOver {
			reject(ruleCause, "nobody offered it")
		}
		if p.isolated {
			reject(ruleIsolated, "every link of it is down")
		}
		if m.outranked() {
			reject(ruleCause, "a foreign router with priority %d was heard %v ago", p.strangerPriority, m.local()-p.strangerAt)
		}
		return
	}
	taken := why.beat != nil && why.beat.State == vrrp.Master || why.advert != nil && why.advert.Priority > 0
	p.handedAt = m.local()
	if !taken || m.local()-p.offeredAt > 2*m.group.DownInterval()+m.w.lag() {
		reject(ruleCause, "nobody took it")
	}
}

// checkOffer demands a reason for a new offer: a command, or a peer in a higher
// band. Two that are equally bad leave the role where it is.
func (m *machine) checkOffer(beat vrrp.Heartbeat) {
	p := &m.past
	peer := m.group.Peer().Priority
	if beat.TakeOver && !p.offering && !p.commanded && band(peer) <= band(beat.Priority) {
		m.w.fail(ruleBothBad, "%s offers the role with priority %d to a peer with %d", m.name(), beat.Priority, peer)
	}
	p.offering, p.planned = beat.TakeOver, beat.TakeOver && (p.planned || p.commanded)
}

// checkOutput demands that only a MASTER speaks: a BACKUP sends nothing but
// questions, and priority 0 belongs to the end of a mastership.
func (m *machine) checkOutput(out vrrp.Output) {
	s := m.group.State()
	leaving := out.Transition != nil && out.Transition.From == vrrp.Master && s == vrrp.Initialize
	switch {
	case out.Advertise && out.Priority > 0 && s != vrrp.Master:
		m.w.fail(ruleSpeech, "%s, %v, sends an advert with priority %d", m.name(), s, out.Priority)
	case out.Advertise && out.Priority != m.group.Priority() && !leaving:
		m.w.fail(ruleSpeech, "%s, %v, sends an advert with priority %d instead of %d", m.name(), s, out.Priority, m.group.Priority())
	case (out.Renew || out.Announce) && s != vrrp.Master:
		m.w.fail(ruleSpeech, "%s, %v, renews %v or announces %v", m.name(), s, out.Renew, out.Announce)
	case out.Ask && s != vrrp.Backup:
		m.w.fail(ruleSpeech, "%s, %v, asks whether the MASTER lives", m.name(), s)
	}
}

// checkFence: who is not MASTER holds no lease, but for what a predecessor has left
// to a process that has not begun yet, and for a moment after a handover; one that was
// paused in that moment ends it as soon as it runs again.
func (m *machine) checkFence() {
	woke := m.past.wokeAt == m.local()
	if !m.is(vrrp.Master) && m.fenceUntil > m.w.now && m.group.Transitions() > 0 && !m.lingers() && !woke {
		m.w.fail(ruleLease, "%s is %v and its fence stays open for %v", m.name(), m.group.State(), m.fenceUntil-m.w.now)
	}
}

// checkOpening demands that a closed fence opens only where the others are closed,
// or where this machine cannot know better: the advert that keeps another open has
// not come through. Preemption and handover overlap on purpose.
func (m *machine) checkOpening(t *vrrp.Transition) {
	for _, other := range m.w.machines {
		if other == m || !other.open() {
			continue
		}
		if t == nil {
			awake := 3 * m.past.sentInterval
			if m.cfg.Beat > 0 {
				awake = max(awake, maxStall+m.past.sentInterval) // a BACKUP waits as long
			}
			if m.local()-m.past.sentAt >= awake {
				m.w.fail(ruleOneSpeaker, "%s speaks again after %v, while %s is open", m.name(), m.local()-m.past.sentAt, other.name())
			}
			continue
		}
		swap := t.Reason == vrrp.ReasonPreempted || t.Reason == vrrp.ReasonPeerImpaired || t.Reason == vrrp.ReasonHandover
		if !swap && !m.misled(other, t.Reason) && other.known[m.id] {
			m.w.fail(ruleOneSpeaker, "%s becomes MASTER (%v) while %s is open by an advert that has come through", m.name(), t.Reason, other.name())
		}
	}
}

// outranked tells that a better foreign router was heard as MASTER within three of its
// intervals.
func (m *machine) outranked() bool {
	p := &m.past
	return m.w.foreign != nil && p.strangerPriority > p.priority && m.local()-p.strangerAt < 3*m.w.foreign.cfg.Interval
}

// misled tells that a foreign router is in the way of knowing that another machine is
// MASTER: it may have another interval than who was heard last, may have been
// stopped with its fence open, may not have answered the question whether the member
// lives, and a goodbye is obeyed whoever else is MASTER.
func (m *machine) misled(other *machine, why vrrp.Reason) bool {
	if why == vrrp.ReasonPeerStopped {
		return m.past.saidBy != nil && m.past.saidBy != other
	}
	asked := why == vrrp.ReasonPeerSilent && m.local()-m.past.heardAt < m.patienceTime()
	return other.slot < 0 && (other.cfg.Interval > m.past.heardInterval || !other.running() || asked)
}
