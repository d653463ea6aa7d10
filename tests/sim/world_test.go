package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"tandem/vrrp"
)

// world is one run: two nodes, the links between them and the time.
type world struct {
	seed     uint64
	rng      *rand.Rand
	mutation mutation
	now      time.Duration
	queue    heap
	seq      uint64
	nodes    [2]*node
	links    [carriers]link
	// delayMin and delayMax bound how long a packet takes; duplicates is the share
	// of packets that come twice, reorders lets packets of a carrier overtake.
	delayMin, delayMax time.Duration
	duplicates         float64
	reorders           bool
	// beats tells that the MASTER renews its lease with heartbeats.
	beats bool
	// intervalMax is the longest interval that either node ever has.
	intervalMax time.Duration
	watch       watch
	// planned tells that a handover was asked for, after which Preempt rests.
	planned   bool
	recorded  [][]byte
	hash      uint64
	verbose   bool
	trace     []string
	violation string
}

// event is something that happens at a time; seq orders what coincides.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// wakeJitter is how late a process wakes up at most when it is not paused.
const wakeJitter = time.Millisecond

func epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func newWorld(seed uint64, m mutation) *world {
	w := &world{
		seed: seed, mutation: m, hash: 14695981039346656037, watch: newWatch(),
		rng: rand.New(rand.NewPCG(seed, 0x7461_6e64_656d)),
	}
	interval := []time.Duration{50, 100, 100, 200, 1000}[w.rng.IntN(5)] * time.Millisecond
	w.intervalMax = interval
	w.beats = w.rng.IntN(2) == 0
	w.delayMin = interval / 200
	w.delayMax = w.delayMin + w.between(0, interval/10)
	if w.beats {
		// An answer must come back within the shortest beat.
		w.delayMin = interval / 1000
		w.delayMax = w.delayMin + w.between(0, interval/60)
	}
	equal := w.rng.IntN(4) == 0
	preempt := w.rng.IntN(4) != 0
	for id := range w.nodes {
		cfg := vrrp.GroupConfig{Preempt: preempt, HasPeer: true, Priority: 200, Rank: 1}
		w.pace(&cfg, interval)
		if id == 1 && !equal {
			cfg.Priority, cfg.Rank = 180, 0
		}
		for c := range carriers {
			cfg.Carriers = append(cfg.Carriers, vrrp.Carrier{
				Name: c.String(), VRID: uint8(10 + c),
				Source:    netip.AddrFrom4([4]byte{10, byte(c), 0, byte(2 + id)}),
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(c), 0, 1})},
				Peer:      netip.AddrFrom4([4]byte{10, byte(c), 0, byte(3 - id)}),
				Private:   c == ha,
			})
		}
		w.nodes[id] = newNode(w, id, cfg)
	}
	return w
}

// pace sets the times of a configuration.
func (w *world) pace(cfg *vrrp.GroupConfig, interval time.Duration) {
	cfg.Interval, cfg.Beat, cfg.Lease = interval, 0, vrrp.LeaseFor(interval)
	if w.beats {
		cfg.Beat = vrrp.BeatFor(interval)
		cfg.Lease = vrrp.BeatLease(cfg.Beat)
	}
}

// after runs do when d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	w.queue.push(event{at: w.now + d, seq: w.seq, do: do})
}

// run lets the time pass until end.
func (w *world) run(end time.Duration) {
	for w.violation == "" && len(w.queue) > 0 && w.queue[0].at <= end {
		e := w.queue.pop()
		w.now = e.at
		w.watchFences()
		e.do()
		w.watchFences()
	}
	if w.violation == "" {
		w.now = end
		w.watchFences()
	}
}

func (w *world) time() time.Time { return epoch().Add(w.now) }

// between draws from low to high, both included.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// note adds to the trace; its hash tells whether two runs are the same.
func (w *world) note(what string, node int, values ...uint64) {
	const prime = 1099511628211
	mix := func(v uint64) { w.hash = (w.hash ^ v) * prime }
	mix(uint64(w.now))
	mix(uint64(node))
	for i := range len(what) {
		mix(uint64(what[i]))
	}
	for _, v := range values {
		mix(v)
	}
	if w.verbose {
		w.trace = append(w.trace, fmt.Sprintf("%12v  node %d  %s %v", w.now, node, what, values))
	}
}

// fail records the first violation; the run ends with it.
func (w *world) fail(format string, args ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf("at %v: ", w.now) + fmt.Sprintf(format, args...)
		w.note(w.violation, -1)
	}
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
