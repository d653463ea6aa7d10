package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"tandem/vrrp"
)

// world is one run: the machines, the links between them and the time.
type world struct {
	seed  uint64
	rng   *rand.Rand
	now   time.Duration
	queue heap
	seq   uint64

	// machines are all that ever ran; members are those that stand for the two
	// members now, foreign is a router that knows of no pair, nil if there is none.
	machines []*machine
	members  [2]*machine
	foreign  *machine
	// document is the newest configuration of the pair.
	document document
	// networks is how many carriers beside the HA link the world has.
	networks int
	links    [carriers]link
	// noBeats keeps the MASTER from renewing its lease with heartbeats, at any
	// interval.
	noBeats bool
	// intervalMax and intervalMin bound every interval that a machine ever has.
	intervalMin, intervalMax time.Duration

	watch watch
	// broken counts the faults that have begun and not ended. disturbedAt is when
	// the last thing happened that may lead to a change of role, disturbance what.
	broken      int
	disturbedAt time.Duration
	disturbance string
	// planned tells that a handover was asked for, or that a MASTER yielded because it was
	// mute: then Preempt rests.
	planned  bool
	recorded []*heartbeat
	// dwells tell for how long a member was MASTER before the other became it;
	// recoveries counts how often a BACKUP's links were well for long enough to count.
	dwells     []dwell
	masterAt   time.Duration
	masterSlot int
	recoveries int
	// reasons counts the transitions by their reasons.
	reasons [reasons]int

	// records keeps the inputs of every group.
	records bool
	hash    uint64
	verbose bool
	trace   []string
	// rule is the invariant that was violated first, violation how.
	rule      rule
	violation string
}

// reasons is more than [vrrp.Reason] has values.
const reasons = 32

// dwell is for how long a member was MASTER.
type dwell struct {
	slot   int
	length time.Duration
}

// event is something that happens at a time; seq orders what coincides.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// wakeJitter is how late a process wakes up at most when it is not paused.
const wakeJitter = time.Millisecond

// epoch is what every clock shows when a run begins.
func epoch() time.Time { return time.Unix(1_767_225_600, 0) }

// after runs do when d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	w.queue.push(event{at: w.now + d, seq: w.seq, do: do})
}

// run lets the time pass until end.
func (w *world) run(end time.Duration) {
	for w.violation == "" && len(w.queue) > 0 && w.queue[0].at <= end {
		e := w.queue.pop()
		if e.at > w.now {
			w.now = e.at
			w.look() // what has lapsed since the last event
		}
		e.do()
		w.look()
	}
	if w.violation == "" {
		w.now = end
		w.look()
	}
}

// between draws from low to high, both included.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// disturb notes that something happened which may lead to a change of role.
func (w *world) disturb(what string, machine int, values ...uint64) {
	w.disturbedAt, w.disturbance, w.watch.stale = w.now, what, true
	w.note(what, machine, values...)
}

// note adds to the trace; its hash tells whether two runs are the same.
func (w *world) note(what string, machine int, values ...uint64) {
	const prime = 1099511628211
	h := w.hash
	h = (h ^ uint64(w.now)) * prime
	h = (h ^ uint64(machine)) * prime
	for i := range len(what) {
		h = (h ^ uint64(what[i])) * prime
	}
	for _, v := range values {
		h = (h ^ v) * prime
	}
	w.hash = h
	if w.verbose {
		w.trace = append(w.trace, w.line(what, machine, append([]uint64(nil), values...)))
	}
}

func (w *world) line(what string, machine int, values []uint64) string {
	name := ""
	if machine >= 0 {
		name = w.machines[machine].name()
	}
	text := fmt.Sprintf("%14v  %-10s %s", w.now, name, what)
	for _, v := range values {
		text += fmt.Sprintf(" %d", v)
	}
	return text
}

// fail records the first violation; the run ends with it.
func (w *world) fail(r rule, format string, args ...any) {
	if w.violation != "" {
		return
	}
	w.rule = r
	w.violation = fmt.Sprintf("at %v, %v: ", w.now, r) + fmt.Sprintf(format, args...)
	w.note(w.violation, -1)
}

// masters returns the running machines that are MASTER.
func (w *world) masters() []*machine {
	var masters []*machine
	for _, m := range w.machines {
		if m.is(vrrp.Master) {
			masters = append(masters, m)
		}
	}
	return masters
}

func (w *world) transitions() int {
	sum := 0
	for _, m := range w.machines {
		sum += m.transitions
	}
	return sum
}

// heap is a binary heap of events, the earliest first.
type heap []event

func (h heap) less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].seq < h[j].seq
}

func (h *heap) push(e event) {
	*h = append(*h, e)
	q := *h
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.less(i, parent) {
			break
		}
		q[i], q[parent] = q[parent], q[i]
		i = parent
	}
}

func (h *heap) pop() event {
	q := *h
	top, last := q[0], len(q)-1
	q[0] = q[last]
	q[last] = event{}
	q = q[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && q.less(child+1, child) {
			child++
		}
		if !q.less(child, i) {
			break
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
	*h = q
	return top
}
