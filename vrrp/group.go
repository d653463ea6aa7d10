package vrrp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// State is a state of the virtual router, RFC 9568 §6.4. RFC 9568 calls MASTER
// "Active"; users know it as MASTER.
type State uint8

// The states of RFC 9568 §6.4.
const (
	Initialize State = iota
	Backup
	Master
)

// String returns the state as users see it.
func (s State) String() string {
	switch s {
	case Initialize:
		return "INITIALIZE"
	case Backup:
		return "BACKUP"
	case Master:
		return "MASTER"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Reason says why a group changed its state.
type Reason uint8

// The reasons of a transition.
const (
	ReasonStartup Reason = iota
	ReasonOwner
	ReasonPeerSilent
	ReasonPeerStopped
	ReasonPeerImpaired
	ReasonPreempted
	ReasonBetterPeer
	ReasonHandover
	ReasonOwnStall
	ReasonIsolated
	ReasonShutdown
	ReasonNodeLost
	ReasonUnheard
)

// String returns the reason as a phrase.
func (r Reason) String() string {
	switch r {
	case ReasonStartup:
		return "started"
	case ReasonOwner:
		return "started as the owner of the addresses"
	case ReasonPeerSilent:
		return "no advert from a MASTER within the down interval"
	case ReasonPeerStopped:
		return "the MASTER stopped in order"
	case ReasonPeerImpaired:
		return "the MASTER is less fit"
	case ReasonPreempted:
		return "preempted a MASTER of lower priority"
	case ReasonBetterPeer:
		return "heard an advert of higher priority"
	case ReasonHandover:
		return "handover between the nodes"
	case ReasonOwnStall:
		return "this process had stalled for longer than its lease"
	case ReasonIsolated:
		return "every link of this node is down"
	case ReasonShutdown:
		return "stopped in order"
	case ReasonNodeLost:
		return "the node process is gone or hangs"
	case ReasonUnheard:
		return "the peer is MASTER and hears nothing of this node, which hears it well"
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// HealthyPriority is the lowest priority that a healthy node advertises. Below
// it lie the bands of impaired nodes, ten priorities each; see [Fitness].
const HealthyPriority = 100

// bandWidth is the number of priorities in one band of impairment.
const bandWidth = 10

// Fitness is how well a node can do a MASTER's work.
type Fitness struct {
	// Failed counts what is broken: links that are down, uplinks that lead
	// nowhere. Zero is a healthy node.
	Failed int
	// Recovering tells that nothing is broken, but that something was until a
	// moment ago. Such a node is better than a broken one and worse than a healthy
	// one. A MASTER does not set it: what works again is no reason to move.
	Recovering bool
	// Ready tells that a takeover would lose no session: the session table is
	// complete, or there is nobody to have it from.
	Ready bool
}

// priority maps a fitness to what is advertised. A healthy node has its
// configured priority; a recovering one lies a band below, and every failure costs
// a whole band more, so that the configured priorities never outweigh a failure.
// The rank keeps members apart inside a band, so that two members never tie and the
// tie-break by address, which may differ from carrier to carrier, is left to
// foreign routers.
func (f Fitness) priority(base, rank uint8) uint8 {
	lost := 0
	switch {
	case base == PriorityOwner:
	case f.Failed > 0:
		lost = min(f.Failed, HealthyPriority/bandWidth-2) + 1
	case f.Recovering:
		lost = 1
	}
	if lost == 0 {
		return base
	}
	return uint8(HealthyPriority-lost*bandWidth) + min(rank, bandWidth-1)
}

// MayYieldTo tells that a peer with a priority has fewer failures than this node, or that neither
// has any: then what fails next on this node moves the role.
func (f Fitness) MayYieldTo(priority uint8) bool {
	theirs := FailuresOf(priority)
	return theirs < f.Failed || theirs == 0 && f.Failed == 0
}

// FailuresOf returns the number of failures that an advertised priority tells of. One that
// recovers counts as failed.
func FailuresOf(priority uint8) int {
	switch lost := HealthyPriority/bandWidth - band(priority); lost {
	case 0:
		return 0
	case 1:
		return 1
	default:
		return lost - 1
	}
}

// band returns the class of fitness that a priority stands for.
func band(priority uint8) int {
	return min(int(priority), HealthyPriority) / bandWidth
}

// Carrier is one link that carries the group's adverts.
type Carrier struct {
	// Name is the network's or uplink's name in the document.
	Name string
	// VRID is the virtual router identifier on that link.
	VRID uint8
	// Source is the primary address of the node's interface there.
	Source netip.Addr
	// Addresses are advertised; at least one.
	Addresses []netip.Addr
	// Peer is the other member's primary address there; zero if there is none.
	Peer netip.Addr
	// Private tells that only the members stand on the link: an HA link.
	Private bool
}

// GroupConfig describes the group to its state machine.
type GroupConfig struct {
	// Interval is Advertisement_Interval, RFC 9568 §6.1.
	Interval time.Duration
	// Beat is the time between a MASTER's heartbeats; see [BeatFor]. Zero sends them
	// with the adverts and leaves it to these to tell of a MASTER's death.
	Beat time.Duration
	// Lease is how long an advert opens the fence. It must be shorter than the time
	// after which a peer takes over; see [LeaseFor] and [BeatLease].
	Lease time.Duration
	// Priority is the configured priority and Rank the member's place among
	// equals (higher wins).
	Priority, Rank uint8
	// Preempt is Preempt_Mode, RFC 9568 §6.1; PreemptDelay is how long a BACKUP that is
	// ready waits before it preempts.
	Preempt      bool
	PreemptDelay time.Duration
	// HasPeer tells that the document has a second member.
	HasPeer bool
	// Digest identifies the document. Members with different ones elect all the same.
	Digest [DigestSize]byte
	// Carriers are the group's links, at least one.
	Carriers []Carrier
}

// DigestSize is the length of a configuration's digest in bytes.
const DigestSize = 8

// Validate reports everything that is wrong with the configuration.
func (c GroupConfig) Validate() error {
	var errs []error
	if c.Interval < 10*time.Millisecond || c.Interval > 40950*time.Millisecond {
		errs = append(errs, fmt.Errorf("interval %v is outside 10ms to 40.95s (RFC 9568 §5.2.7)", c.Interval))
	}
	if c.Lease <= 0 || c.Lease >= 3*c.Interval {
		errs = append(errs, fmt.Errorf("lease %v must be shorter than three intervals of %v", c.Lease, c.Interval))
	}
	if c.Beat > 0 && !c.HasPeer {
		errs = append(errs, errors.New("a single router has nobody to send heartbeats to"))
	}
	if c.Beat < 0 || c.Beat > 0 && (c.Beat < minBeat || c.Beat > maxBeat || c.Lease > silentBeats(c.Beat)) {
		errs = append(errs, fmt.Errorf("beat %v must be %v to %v, and the lease %v no longer than %v", c.Beat, minBeat, maxBeat, c.Lease, silentBeats(c.Beat)))
	}
	if c.Priority < HealthyPriority {
		errs = append(errs, fmt.Errorf("priority %d must be %d to 255: what lies below tells of impairment", c.Priority, HealthyPriority))
	}
	if len(c.Carriers) == 0 {
		errs = append(errs, errors.New("a group needs at least one carrier"))
	}
	for _, carrier := range c.Carriers {
		if carrier.VRID == 0 || len(carrier.Addresses) == 0 {
			errs = append(errs, fmt.Errorf("carrier %q needs a VRID and an address", carrier.Name))
		}
	}
	return errors.Join(errs...)
}

// Transition is a change of state.
type Transition struct {
	From, To State
	Reason   Reason
	// Term is the term of mastership after the change.
	Term uint64
}

// Output is what the shell has to do, in the order of the fields.
type Output struct {
	// Revoke closes the lease at once.
	Revoke bool
	// Advertise sends an advert with Priority on every carrier that is up.
	Advertise bool
	Priority  uint8
	// Announce sends a gratuitous ARP for every virtual address. It comes after
	// the advert, because only the advert opens the fence.
	Announce bool
	// Renew renews the lease without an advert.
	Renew bool
	// Ask sends an advert with [PriorityQuestion] on every carrier that is not
	// private, from the node's own MAC address: it must move nothing. On the HA links it
	// asks the peer's kernel for an echo; see [Group.ReceiveEcho].
	Ask bool
	// Heartbeat sends the group's heartbeat to the peer now.
	Heartbeat bool
	// Transition is nil if the state did not change.
	Transition *Transition
}

// Group is the state machine of one virtual router with many carriers. It is the
// election of RFC 9568 §6.4 with these deviations, which only matter when there
// is more than one carrier or a second member:
//
//   - an advert counts on whichever carrier it is heard, and a MASTER's
//     authenticated heartbeat is a sign of life like one;
//   - without Preempt a BACKUP still takes over from a MASTER that advertises a
//     lower band of fitness;
//   - a MASTER that overslept its lease steps down before it looks at anything;
//   - members hand the role over through heartbeats;
//   - a BACKUP that hears no heartbeats any more asks on the other carriers and
//     takes over if nobody answers: at once when the peer's kernel is silent, too, and
//     else when a stall of the peer's elector would have ended.
//
// The zero value is not usable; see [NewGroup]. No method may be called
// concurrently with another.
type Group struct {
	cfg     GroupConfig
	state   State
	fitness Fitness
	// up tells which carriers' links are up, in the order of the configuration; heardOn
	// is when the peer's adverts last came in by each.
	up      []bool
	heardOn []time.Time

	// activeInterval is Active_Adver_Interval: learned from the MASTER, §6.1.
	activeInterval time.Duration
	// downAt is Active_Down_Timer's end, advertAt Adver_Timer's, heartbeatAt the
	// next heartbeat's time. Zero means that it does not run.
	downAt, advertAt, heartbeatAt time.Time
	// sentAt is when an advert was last sent as MASTER. It opened the fence until
	// leaseUntil; whoever has sent no other by stallAt was asleep.
	sentAt, leaseUntil, stallAt time.Time
	// answeredAt is when a losing advert was last answered.
	answeredAt time.Time
	// hurry is the time between the next hurried adverts.
	hurry   time.Duration
	hurried int
	// heardAt, heardPriority and heardInterval are of the last advert that came to
	// this BACKUP, obeyed or not.
	heardAt       time.Time
	heardPriority uint8
	// heardPeer tells that it came from the other member: only that one's priorities
	// tell of impairment.
	heardPeer     bool
	heardInterval time.Duration
	// stalledAt is when this MASTER last found that it had slept through its lease.
	stalledAt time.Time
	// graced tells that the grace after an own stall was used up.
	graced bool
	// planned tells that the handover under way was asked for; yielded that one was
	// completed, so that Preempt rests.
	planned, yielded bool
	// lingering tells that this BACKUP has handed the role over and its fence is open.
	lingering bool
	// handoverUntil is when an offered handover lapses; assumeUntil is until when
	// the adverts of the old MASTER do not count after an accepted one.
	handoverUntil, assumeUntil time.Time
	// renewedAt is when the lease was last renewed, by whatever; suspectUntil is until
	// when, after an own stall, the peer's claim to be MASTER wins.
	renewedAt, suspectUntil time.Time
	// beat is the MASTER's, aliveAt when the last one came, or an advert; probeAt is when
	// a heartbeat shall tell whether anybody listens, askAt when a question is due, askUntil
	// until when its answer is waited for.
	beat                        time.Duration
	aliveAt, probeAt            time.Time
	askAt, askAgainAt, askUntil time.Time
	// kernelAlive tells that the peer's kernel has answered the question, refused that
	// it has refused a heartbeat since aliveAt.
	kernelAlive, refused bool
	// impairedSince is since when this node (as MASTER) or the MASTER that it
	// hears (as BACKUP) is in a lower band than the other.
	impairedSince time.Time
	// offerAt is when such a MASTER offers the role.
	offerAt time.Time
	// preemptSince is since when this BACKUP would preempt but for PreemptDelay.
	preemptSince time.Time
	// met tells that the peer was heard since the start. unproven is a MASTER that has
	// not met it and so cannot know that there is no other; it is proven at provenAt.
	met, unproven bool
	// unheardSince is since when the peer, MASTER too, says that it hears no advert.
	unheardSince time.Time
	provenAt     time.Time
	// stranger is who taught this node an interval last and may not be believed yet.
	stranger stranger

	term        uint64
	transitions uint64
	peer        PeerState
	downReason  Reason
}

// PeerState is what the group knows about the other member.
type PeerState struct {
	// HeardAt is when a heartbeat or advert of it last came; zero if never.
	HeardAt time.Time
	State   State
	// Priority is what it advertises or would advertise.
	Priority uint8
	Ready    bool
	// HeartbeatAt is when an authenticated heartbeat last came; zero if never. State and
	// Ready are of it, or of a later advert.
	HeartbeatAt time.Time
	// Configuration is the digest that the peer's heartbeats carry; see
	// [GroupConfig].Digest.
	Configuration [DigestSize]byte
	// Hears tells by which carriers the peer hears this node's adverts as a BACKUP, in
	// the order of the configuration; nil if it has not said so, or if its
	// configuration is another one.
	Hears []bool
}

// NewGroup returns a group in state Initialize.
func NewGroup(cfg GroupConfig) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, activeInterval: cfg.Interval}
	g.fitCarriers(cfg)
	return g, nil
}

// hurriedAdverts is how many adverts keep the old pace after the interval has
// grown, so that the loss of one does not cost an election.
const hurriedAdverts = 3

// Reconfigure replaces the configuration. It costs no election: the state and
// the timers stay.
func (g *Group) Reconfigure(now time.Time, cfg GroupConfig) (Output, error) {
	if err := cfg.Validate(); err != nil {
		return Output{}, err
	}
	g.noticeStall(now) // by the configuration that was in force
	before := g.cfg.Interval
	g.fitCarriers(cfg)
	g.cfg = cfg
	var out Output
	if g.state == Initialize {
		return out, nil
	}
	// A peer that the configuration has just named must hear of this node.
	g.heartbeat(now, &out)
	if g.state != Master {
		return out, nil
	}
	g.activeInterval = cfg.Interval
	if g.stepDownIfStalled(now, &out) {
		return out, nil
	}
	switch {
	case cfg.Interval < before:
		// A shorter lease is in force at once, so the next advert must be too.
		g.hurried = 0
		g.advertise(now, &out)
	case cfg.Interval > before:
		// Until the BACKUP has heard of it, it waits as briefly as before.
		g.hurry, g.hurried = before, hurriedAdverts
	}
	return out, nil
}

// State returns the current state.
func (g *Group) State() State { return g.state }

// Term returns the number of the newest mastership that this node knows of.
func (g *Group) Term() uint64 { return g.term }

// Transitions returns how often the state changed.
func (g *Group) Transitions() uint64 { return g.transitions }

// Peer returns what is known of the other member.
func (g *Group) Peer() PeerState { return g.peer }

// Priority returns what this node advertises, or would as MASTER.
func (g *Group) Priority() uint8 {
	priority := g.fitness.priority(g.cfg.Priority, g.cfg.Rank)
	if g.unproven && g.cfg.Priority != PriorityOwner {
		return min(priority, HealthyPriority+g.cfg.Rank)
	}
	return priority
}

// Fitness returns the fitness that was last set.
func (g *Group) Fitness() Fitness { return g.fitness }

// SkewTime is Skew_Time, RFC 9568 §6.1.
func (g *Group) SkewTime() time.Duration {
	return time.Duration(256-int(g.Priority())) * g.activeInterval / 256
}

// DownInterval is Active_Down_Interval, RFC 9568 §6.1.
func (g *Group) DownInterval() time.Duration { return 3*g.activeInterval + g.SkewTime() }

// HandingOver tells that a handover has been offered and is not yet answered.
func (g *Group) HandingOver() bool { return !g.handoverUntil.IsZero() }

// PeerAlive tells that the peer was heard within the down interval.
func (g *Group) PeerAlive(now time.Time) bool {
	return !g.peer.HeardAt.IsZero() && now.Sub(g.peer.HeardAt) < g.DownInterval()
}

// Deadline returns when [Group.Tick] must be called next; zero if never. A late
// or a double Tick is harmless.
func (g *Group) Deadline() time.Time {
	var at time.Time
	for _, t := range [...]time.Time{g.downAt, g.advertAt, g.heartbeatAt, g.handoverUntil, g.probeAt, g.askAt, g.askAgainAt, g.askUntil, g.provenAt, g.offerAt} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at
}

// LeaseUntil returns until when the newest advert keeps the fence open; zero
// when this node is not MASTER.
func (g *Group) LeaseUntil() time.Time {
	if g.state != Master {
		return time.Time{}
	}
	return g.leaseUntil
}
