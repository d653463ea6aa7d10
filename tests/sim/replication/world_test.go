package replication

import (
	"fmt"
	"math/rand/v2"
	"time"

	"tandem/conntracksync"
)

// world is one run: two nodes, the link between them, the clients and the time.
type world struct {
	seed  uint64
	rng   *rand.Rand
	now   time.Duration
	queue heap
	seq   uint64

	tuning tuning
	nodes  [2]*node
	link   link
	// partitioned keeps the nodes from hearing of each other's role.
	partitioned int
	clients     clients
	// born numbers the entries of all kernels.
	born uint64
	// broken counts the faults that have begun and not ended. disturbedAt is when
	// anything last happened that may cost the tables their equality.
	broken      int
	disturbedAt time.Duration
	// documentAt is when a document last changed, quietAt when the clients fell silent.
	documentAt, quietAt time.Duration
	// calmAt is when nothing went wrong any more.
	calmAt time.Duration
	// endedAt is when flows last ended on a MASTER.
	endedAt map[identity]time.Duration
	phase   phase
	oracle  oracle
	watch   watch

	hash    uint64
	verbose bool
	trace   []string
	// rule is the invariant that was violated first, violation how.
	rule      rule
	violation string
}

// phase is what a run is at.
type phase uint8

const (
	// phaseFaults: faults come and go.
	phaseFaults phase = iota
	// phaseChurn: nothing goes wrong any more, clients come and go.
	phaseChurn
	// phaseQuiet: no flow comes, changes or goes.
	phaseQuiet
)

// event is something that happens at a time; seq orders what coincides.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// eventsMax is far more than a run has.
const eventsMax = 3_000_000

// epoch is what every clock shows when a run begins.
func epoch() time.Time { return time.Unix(1_767_225_600, 0) }

// clock is the time as the code under test sees it.
func (w *world) clock() time.Time { return epoch().Add(w.now) }

// after runs do when d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	w.queue.push(event{at: w.now + d, seq: w.seq, do: do})
}

// run lets the time pass until end.
func (w *world) run(end time.Duration) {
	for w.violation == "" && len(w.queue) > 0 && w.queue[0].at <= end {
		e := w.queue.pop()
		w.now = max(w.now, e.at)
		e.do()
		if w.seq > eventsMax {
			w.fail(ruleSpin, "%d events", w.seq)
		}
	}
	if w.violation == "" {
		w.now = end
	}
}

// between draws from low to high, both included.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func pick[T any](w *world, of ...T) T { return of[w.rng.IntN(len(of))] }

// disturb notes that something happened which may cost the tables their equality.
func (w *world) disturb(what string, node int, values ...uint64) {
	w.disturbedAt = w.now
	w.note(what, node, values...)
}

// note enters something into the trace and its hash.
func (w *world) note(what string, node int, values ...uint64) {
	mix := func(v uint64) { w.hash = (w.hash ^ v) * 1099511628211 }
	mix(uint64(w.now))
	for _, b := range []byte(what) {
		mix(uint64(b))
	}
	mix(uint64(node + 1))
	for _, v := range values {
		mix(v)
	}
	if w.verbose {
		w.trace = append(w.trace, fmt.Sprintf("%12v %s %s %v", w.now, nodeName(node), what, values))
	}
}

// say enters a text that depends on nothing but what is in the trace's hash already.
func (w *world) say(node int, format string, args ...any) {
	if w.verbose {
		w.trace = append(w.trace, fmt.Sprintf("%12v %s %s", w.now, nodeName(node), fmt.Sprintf(format, args...)))
	}
}

func nodeName(i int) string {
	if i < 0 {
		return "-    "
	}
	return [...]string{"alpha", "bravo"}[i]
}

// fail notes the first violation.
func (w *world) fail(r rule, format string, args ...any) {
	if w.violation != "" {
		return
	}
	w.rule = r
	w.violation = fmt.Sprintf("violates %q after %v: %s", r, w.now, fmt.Sprintf(format, args...))
	w.note("VIOLATION "+w.violation, -1)
}

// masters returns the nodes that are MASTER.
func (w *world) masters() []*node {
	var found []*node
	for _, n := range w.nodes {
		if n.master {
			found = append(found, n)
		}
	}
	return found
}

// pair returns the MASTER and the other node if there is one MASTER.
func (w *world) pair() (master, backup *node, ok bool) {
	if m := w.masters(); len(m) == 1 {
		return m[0], m[0].other(), true
	}
	return nil, nil, false
}

// show describes a flow in the trace.
func show(f *conntracksync.Flow) string {
	return fmt.Sprintf("%d %v:%d>%v:%d/%v:%d>%v:%d s%x t%d", f.Protocol,
		f.Original.Source, f.Original.SourcePort, f.Original.Destination, f.Original.DestinationPort,
		f.Reply.Source, f.Reply.SourcePort, f.Reply.Destination, f.Reply.DestinationPort, uint32(f.Status), f.TCP.State)
}

// heap is a binary heap of events, the next one first.
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
