package sim

import "time"

// The bounds of the invariants. Each follows from what is configured and from the
// speed of the links of the run; nothing is measured and written down here.

// patience is for how long a BACKUP whose session table is not complete leaves the
// role with a less fit MASTER.
const patience = 2 * time.Second

// announceAgain is the least time between two rounds of announcements.
const announceAgain = 100 * time.Millisecond

// maxStall is for how long the process of a MASTER may stall without losing the role.
const maxStall = 40 * time.Millisecond

// silenceMax is after how long without a sign of life a BACKUP that asks takes over at
// the latest, from a MASTER whose kernel answers.
func silenceMax(beat time.Duration) time.Duration {
	return max(silentBeats(beat)+beat, maxStall+2*beat+wakeJitter)
}

// linger is for how long an old MASTER keeps its fence open after a handover.
const linger = 2 * time.Millisecond

// lingering is the same for a process that runs.
func (w *world) lingering() time.Duration { return w.drifted(linger) + wakeJitter }

// lingers tells that the machine may still be open after a handover.
func (m *machine) lingers() bool { return m.local()-m.past.handedAt <= linger+wakeJitter+slack }

// slack is for what happens at the same moment in the run, one event after the
// other.
const slack = 100 * time.Microsecond

// drifted is a time by some machine's clock, at the longest.
func (w *world) drifted(d time.Duration) time.Duration { return d + d*2*driftMax/1_000_000 + 1 }

// delayMax is the longest time that a packet takes on any carrier.
func (w *world) delayMax() time.Duration {
	longest := time.Duration(0)
	for c := range carriers {
		longest = max(longest, w.links[c].delayMax)
	}
	return longest
}

// lag is how long it takes at most until a packet that gets through has been
// handled by a process that runs.
func (w *world) lag() time.Duration { return w.delayMax() + wakeJitter + slack }

// downMax is the longest Active_Down_Interval of the run: a skew is shorter than an
// interval (RFC 9568 §6.1).
func (w *world) downMax() time.Duration { return w.drifted(4 * w.intervalMax) }

// overlapBound is for how long two machines may both be open once packets get
// through between them.
func (w *world) overlapBound(a, b *machine) time.Duration {
	accepted := max(a.past.acceptedWorld, b.past.acceptedWorld)
	pair := a.slot >= 0 && b.slot >= 0
	since := w.watch.overlapSince[a.id][b.id]
	switch {
	case pair && w.now-accepted < 3*w.downMax() && (!w.passes(a, b, ha) || !w.passes(b, a, ha)):
		// The old MASTER cannot say that its offer has lapsed: the newcomer assumes
		// for two down intervals that it stands.
		return 2*w.downMax() + w.intervalMax + 2*w.lag()
	case w.watch.clearSince[a.id][b.id] > since-2*w.intervalMax:
		// What was sent before may be lost: the next advert decides, and its answer.
		return 2*(w.drifted(w.intervalMax)+w.lag()) + wakeJitter + w.lingering()
	case pair && (a.lingers() || b.lingers()):
		return 2*w.lag() - wakeJitter + w.lingering()
	default:
		// The newcomer's advert, and the answer to it.
		return 2*w.lag() - wakeJitter
	}
}

// servedBound is for how long nobody may be open while a member is well: a MASTER
// that lost its networks is noticed, a session table that is not complete is waited
// for with patience, and Active_Down_Timer runs out, which was armed at most
// an interval after the MASTER's last renewal.
func (w *world) servedBound() time.Duration {
	return judgeDelayMax + patience + w.downMax() + w.drifted(w.intervalMax) + 2*w.lag()
}

// settleTime is after how long without a disturbance no role changes any more.
// The longest way: a replaced process is believed after a down interval of silence;
// two members that accept and offer each other the role need two, an offer another
// two; then a late wake-up, patience with a MASTER that is less fit, and the delay of
// a preemption.
func (w *world) settleTime() time.Duration {
	return w.downMax() + 2*w.downMax() + 2*w.downMax() + 2*w.drifted(w.intervalMax) + patience + preemptDelayMax + 4*w.lag()
}

// resyncMax is how long a session table takes to be transferred at most.
const (
	resyncMin = 200 * time.Millisecond
	resyncMax = 1500 * time.Millisecond
)
