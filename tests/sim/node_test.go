package sim

import (
	"time"

	"tandem/vrrp"
)

// node is one machine: the elector process, what waits in its sockets, and the
// kernel's fence, which outlives the process.
type node struct {
	w  *world
	id int
	// document is what the node is meant to be, cfg what the process knows of it.
	document, cfg vrrp.GroupConfig

	// process is nil while the elector does not run. incarnation counts processes,
	// so that a wake-up of one that has died is nobody's.
	process     machine
	channel     *vrrp.HeartbeatChannel
	incarnation uint64
	paused      int
	// frozen counts what keeps packets from reaching the machine.
	frozen int
	// stopped counts what keeps the process from running: crashes, orderly stops.
	stopped int
	wakeAt  time.Duration
	// adverts and heartbeats count what was sent.
	adverts    uint64
	heartbeats uint64
	inbox      [carriers][]advert
	beats      []heartbeat
	commands   []func()

	// seesUp is what the process knows of its links; notReady counts what keeps its
	// session table from being complete.
	seesUp   [carriers]bool
	notReady int
	// recoveredAt is when something worked again that had been broken.
	usable, broken bool
	recoveredAt    time.Duration

	fenceUntil time.Duration
	// leftAt is when the fence was last opened, for leftLease. The advert with the
	// number kept, or the heartbeat with the number keptBeat, told the peer;
	// keptKnown tells that it has reached its present process.
	leftAt, leftLease time.Duration
	kept, keptBeat    uint64
	keptKnown         bool

	// servedSince is since when the process runs as MASTER; notYet while it does not.
	servedSince time.Duration

	past        past
	transitions int
	// slept is for how long the process has been paused; see [sleepless].
	slept time.Duration
}

func newNode(w *world, id int, cfg vrrp.GroupConfig) *node {
	return &node{w: w, id: id, document: cfg, cfg: cfg, servedSince: notYet}
}

// running tells that the process handles what comes.
func (n *node) running() bool { return n.process != nil && n.paused == 0 }

// start starts the process.
func (n *node) start() {
	n.cfg = n.document
	group, err := vrrp.NewGroup(n.cfg)
	if err != nil {
		n.w.fail("node %d: %v", n.id, err)
		return
	}
	n.incarnation++
	n.process = n.w.mutation.wrap(n, group)
	n.channel = vrrp.NewHeartbeatChannel(sharedKey(), n.w.rng.Uint64()|1)
	n.past = newPast(n.w.now, n.cfg.Interval)
	n.w.nodes[1-n.id].keptKnown = false
	n.w.note("start", n.id)
	for c := range carriers {
		n.seesUp[c] = n.w.up(n.id, c)
	}
	n.commands = append(n.commands, func() { n.apply(n.process.Start(n.w.time()), cause{}) }, n.tellFitness)
	n.round()
}

// stop ends the process in order.
func (n *node) stop() {
	n.apply(n.process.Stop(n.w.time(), vrrp.ReasonShutdown), cause{stop: true})
	n.die()
}

// die ends the process; the fence stays as it is.
func (n *node) die() {
	n.w.note("die", n.id)
	n.process, n.channel = nil, nil
	n.inbox, n.beats, n.commands = [carriers][]advert{}, nil, nil
}

// listens tells that packets reach the sockets of a process.
func (n *node) listens() bool {
	return n.process != nil && n.frozen == 0 && n.process.State() != vrrp.Initialize
}

func (n *node) arrive(c carrier, p advert) {
	if !n.listens() {
		return
	}
	n.inbox[c] = append(n.inbox[c], p)
	if peer := n.w.nodes[1-n.id]; p.number == peer.kept {
		peer.keptKnown = true
	}
	if p.priority > vrrp.PriorityQuestion {
		n.past.heardAt = n.w.now
	}
	n.round()
}

func (n *node) arriveHeartbeat(b heartbeat) {
	if n.process == nil || n.frozen > 0 {
		return
	}
	n.beats = append(n.beats, b)
	n.round()
}

// command hands something to the process; it is dropped when there is none.
func (n *node) command(do func()) {
	if n.process == nil {
		return
	}
	n.commands = append(n.commands, do)
	n.round()
}

// round is one turn of the elector: what waits in the sockets first, then what
// the node wishes, then the timers.
func (n *node) round() {
	if !n.running() {
		return
	}
	if n.cfg.Beat > 0 && n.w.now-n.past.renewedAt >= n.cfg.Lease {
		n.past.suspectUntil = n.w.now + n.cfg.Interval
	}
	if n.w.mutation == tickFirst {
		n.apply(n.process.Tick(n.w.time()), cause{})
	}
	for c := range carriers {
		inbox := n.inbox[c]
		n.inbox[c] = nil
		for _, p := range inbox {
			n.receive(c, p)
		}
	}
	beats := n.beats
	n.beats = nil
	for _, b := range beats {
		n.receiveHeartbeat(b)
	}
	commands := n.commands
	n.commands = nil
	for _, do := range commands {
		do()
		if n.process == nil {
			return
		}
	}
	n.apply(n.process.Tick(n.w.time()), cause{})
	n.sleep()
}

// sleep arranges the next wake-up.
func (n *node) sleep() {
	deadline := n.process.Deadline()
	if deadline.IsZero() {
		return
	}
	at := deadline.Sub(epoch())
	if at <= n.w.now {
		n.w.fail("node %d: the deadline is %v ago after a tick: the process would spin", n.id, n.w.now-at)
	}
	if n.wakeAt == at {
		return
	}
	n.wakeAt = at
	incarnation := n.incarnation
	n.w.after(at-n.w.now+n.w.between(0, wakeJitter), func() {
		if n.incarnation == incarnation && n.wakeAt == at {
			n.wakeAt = 0
			n.round()
		}
	})
}

func (n *node) receive(c carrier, p advert) {
	a, _, reason := vrrp.ParseAdvertisement(p.message, p.header)
	if reason != vrrp.DropNone {
		n.w.fail("node %d drops an advert of its peer: %v", n.id, reason)
		return
	}
	before := n.process.State()
	n.apply(n.process.Receive(n.w.time(), int(c), p.header.Source, a), cause{advert: &a, carrier: c, source: p.header.Source})
	n.heard(before, c, p, a)
}

func (n *node) receiveHeartbeat(b heartbeat) {
	beat, verdict := n.channel.Open(n.w.time(), b.sealed, n.process.DownInterval())
	n.w.note("heartbeat", n.id, uint64(verdict), beat.Term)
	if verdict == vrrp.HeartbeatTrusted {
		if beat.State == vrrp.Master {
			n.past.beatAt, n.past.beat, n.past.heard = n.w.now, beat.Beat, beat.Priority
		}
		if peer := n.w.nodes[1-n.id]; b.number == peer.keptBeat {
			peer.keptKnown = true
		}
		n.apply(n.process.ReceiveHeartbeat(n.w.time(), beat), cause{beat: &beat})
	}
}

// tellFitness tells the process what is known of the links and the sessions.
func (n *node) tellFitness() {
	failed, usable := 0, false
	for c := range carriers {
		usable = usable || n.seesUp[c]
		if c != ha && !n.seesUp[c] {
			failed++
		}
	}
	if usable && !n.usable {
		n.past.returnedAt = n.w.now
	}
	n.usable = usable
	if n.broken && failed == 0 {
		n.recoveredAt = n.w.now
		n.w.after(recovery, func() { n.command(n.tellFitness) })
	}
	n.broken = failed > 0
	n.apply(n.process.SetFitness(n.w.time(), vrrp.Fitness{
		Failed: failed, Ready: n.notReady == 0,
		Recovering: n.recoveredAt > 0 && n.w.now < n.recoveredAt+recovery && n.process.State() != vrrp.Master,
	}), cause{})
	n.apply(n.process.SetLinks(n.w.time(), n.seesUp[:]), cause{})
	if !usable && n.process.State() == vrrp.Master {
		n.w.fail("node %d stays MASTER although every link of it is down", n.id)
	}
}

// recovery is for how long a BACKUP that works again counts as less than healthy.
const recovery = time.Second

// apply does what the machine asks for, in the order of the fields.
func (n *node) apply(out vrrp.Output, why cause) {
	if out.Revoke && n.w.mutation != noRevoke {
		n.w.note("revoke", n.id)
		n.fenceUntil = 0
	}
	if out.Transition != nil {
		n.w.note(out.Transition.Reason.String(), n.id, uint64(out.Transition.To), out.Transition.Term)
		n.checkTransition(*out.Transition, why)
		if out.Transition.To == vrrp.Master {
			n.w.after(n.w.between(0, 5*time.Millisecond), func() { n.command(n.tellFitness) })
		}
	}
	if out.Advertise {
		n.advertise(out.Priority, out.Transition)
	}
	if out.Renew && !out.Advertise && (n.w.up(n.id, lan) || n.w.up(n.id, wan)) {
		n.openFence(out.Transition)
		n.kept, n.keptBeat = 0, n.heartbeats+1
	}
	if out.Ask {
		n.ask()
	}
	if out.Heartbeat {
		n.heartbeats++
		beat := n.process.Heartbeat(n.w.time())
		if beat.TakeOver {
			n.past.offeredAt = n.w.now
		}
		n.w.sendHeartbeat(n, n.channel.Seal(beat))
	}
	n.checkFence()
}

// advertise sends an advert on every carrier that is up; one that leaves by a
// fenced carrier opens the fence, or closes it with priority 0.
func (n *node) advertise(priority uint8, t *vrrp.Transition) {
	n.adverts++
	n.w.note("advert", n.id, uint64(priority))
	left := false
	for c := range carriers {
		if n.w.up(n.id, c) {
			left = left || c.fenced()
			n.w.sendAdvert(n, c, priority)
		}
	}
	switch {
	case priority == 0:
		if left {
			n.fenceUntil = 0
		}
		return
	case left:
		n.openFence(t)
		n.kept, n.keptBeat = n.adverts, 0
	}
	n.past.sentAt, n.past.sentInterval = n.w.now, n.cfg.Interval
}

// ask sends a question on every carrier that is not private. It opens no fence.
func (n *node) ask() {
	n.adverts++
	n.w.note("ask", n.id)
	n.past.askedAt = n.w.now
	for c := range carriers {
		if c.fenced() && n.w.up(n.id, c) {
			n.w.sendAdvert(n, c, vrrp.PriorityQuestion)
		}
	}
}

func (n *node) openFence(t *vrrp.Transition) {
	lease := n.cfg.Lease
	if n.w.mutation == longLease {
		lease = 4 * n.cfg.Interval
	}
	wasOpen := n.fenceUntil > n.w.now
	n.fenceUntil = n.w.now + lease
	n.leftAt, n.leftLease = n.w.now, n.cfg.Lease
	n.past.renewedAt = n.w.now
	n.keptKnown = false
	if !wasOpen {
		n.checkOpening(t)
	}
}

func sharedKey() []byte { return []byte("0123456789abcdef0123456789abcdef") }
