package uplink

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"time"

	"tandem/router/config"
	"tandem/router/uplink"
)

const ms = time.Millisecond

// look is the time between two looks at what must hold.
const look = 50 * ms

type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

type world struct {
	seed    uint64
	random  *rand.Rand
	now     time.Duration
	queue   events
	order   int
	doc     *config.Document
	nodes   []*node
	targets map[string]*thing // by host, beside what lies beyond each uplink
	master  *node
	moving  bool
	// common tells that nothing happens to one node alone.
	common, tidy bool
	flows        map[binding]*flow

	verbose   bool
	trace     []string
	hash      uint64
	rule      string
	violation string
	totals    totals
}

// thing answers or not.
type thing struct{ dead bool }

// node is a router with its selector.
type node struct {
	*world
	name  string
	s     *uplink.Selector
	ports map[string]*port
	// timer is the deadline for which an event is in the queue.
	timer time.Duration
	// stalledUntil is when the process gets a processor again; stallEnd when the effects of the last
	// stall are over.
	stalledUntil, settledAt time.Duration
	inbox                   []uplink.Outcome
	masterSince             time.Duration
	peerFit                 bool
	truths                  map[way]*truth
	// accused are the uplinks that count as dead though they work, and since when.
	accused map[string]time.Duration
	left    map[binding]leaving
}

// port is a node's way to an uplink.
type port struct {
	link, address   bool
	gateway, beyond thing
	loss            float64
	local           bool
	rtt             time.Duration
}

func at(d time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(d) }

func newWorld(seed uint64, verbose bool) *world {
	w := &world{
		seed: seed, random: rand.New(rand.NewPCG(seed, 5)), verbose: verbose,
		targets: map[string]*thing{}, flows: map[binding]*flow{}, totals: newTotals(),
	}
	w.common = w.chance(0.3)
	w.document()
	for i := range w.between(1, 2) {
		w.start([]string{"r1", "r2"}[i])
	}
	if len(w.nodes) == 1 {
		w.common = false
	}
	w.setMaster(w.nodes[0])
	w.check()
	return w
}

func (w *world) chance(p float64) bool { return w.random.Float64() < p }

func (w *world) between(low, high int) int { return low + w.random.IntN(high-low+1) }

func (w *world) span(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)+1))
}

// document draws two to four uplinks and one to three networks.
func (w *world) document() {
	doc := &config.Document{}
	for i := range w.between(2, 4) {
		u := config.Uplink{
			Name: fmt.Sprint("u", i), VRID: uint8(i + 1), Cost: uint8(w.between(0, 3) * 10), Metered: w.chance(0.2), Labels: []string{"all"},
			Prefix:  netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i * 16)}), 28),
			Gateway: netip.AddrFrom4([4]byte{192, 0, 2, byte(i*16 + 1)}),
		}
		doc.Uplinks = append(doc.Uplinks, u)
	}
	for i := range w.between(1, 3) {
		n := config.Network{Name: fmt.Sprint("n", i), Uplinks: []string{"all"}, MaxCost: 255, DrainTime: w.span(0, 20*time.Second)}
		if w.chance(0.3) {
			n.MaxCost = 20
		}
		if w.chance(0.25) {
			n.Failback = config.FailbackKeep
		}
		if w.chance(0.1) {
			n.RoutedNATAddress = netip.MustParseAddr("203.0.113.1")
		}
		w.probe(&n.Probe)
		doc.Networks = append(doc.Networks, n)
	}
	w.doc = doc
}

func (w *world) probe(p *config.Probe) {
	for i := range w.between(0, 2) {
		host := fmt.Sprint("198.51.100.", i+w.between(0, 1))
		if len(p.Targets) == 1 && p.Targets[0].Host == host {
			continue
		}
		w.targets[host] = &thing{}
		p.Targets = append(p.Targets, config.Target{Kind: config.ProbeICMP, Host: host})
	}
	p.Need = w.between(1, max(1, len(p.Targets)))
	p.Interval, p.Timeout = config.DefaultProbeInterval, config.DefaultProbeTimeout
	p.Rise, p.Fall, p.LossLimit = config.DefaultRise, config.DefaultFall, config.DefaultLossLimit
	if w.chance(0.4) {
		p.Interval, p.Timeout = w.span(300*ms, 3*time.Second), w.span(400*ms, 1500*ms)
		p.Rise, p.Fall = w.between(1, 4), w.between(4, 8)
	}
}

func (w *world) start(name string) {
	n := &node{world: w, name: name, ports: map[string]*port{}, timer: -1, truths: map[way]*truth{}, accused: map[string]time.Duration{}, left: map[binding]leaving{}}
	n.s = uplink.New(at(w.now), uplink.NewConfig(w.doc))
	for _, u := range w.doc.Uplinks {
		n.ports[u.Name] = &port{link: true, address: true, rtt: w.span(ms, 60*ms)}
	}
	w.nodes = append(w.nodes, n)
	n.learn()
	for _, u := range w.doc.Uplinks {
		w.after(w.span(0, 200*ms), func() { n.s.SetLink(n.time(), u.Name, n.ports[u.Name].link, "no carrier"); n.work() })
		w.after(w.span(0, 200*ms), func() { n.s.SetAddress(n.time(), u.Name, false, n.ports[u.Name].address); n.work() })
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

func (w *world) run(until time.Duration) {
	for w.violation == "" && len(w.queue) > 0 && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, until)
}

func (w *world) note(format string, args ...any) {
	text := fmt.Sprintf("%10.3f %s", w.now.Seconds(), fmt.Sprintf(format, args...))
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, w.hash, text) // never fails
	w.hash = h.Sum64()
	if w.verbose {
		w.trace = append(w.trace, text)
	}
}

func (w *world) fail(rule, format string, args ...any) {
	if w.violation == "" {
		w.rule, w.violation = rule, rule+": "+fmt.Sprintf(format, args...)
		w.note("VIOLATION %s", w.violation)
	}
}

func (n *node) time() time.Time { return at(n.now) }

// work lets the node do what is due, as its process does after each event.
func (n *node) work() {
	if n.now < n.stalledUntil {
		return
	}
	for _, o := range n.inbox {
		n.s.Finish(n.time(), o)
	}
	n.inbox = nil
	for round := 0; ; round++ {
		n.s.Tick(n.time())
		due := n.s.Due(n.time())
		if len(due) > 64 {
			n.fail("burst", "%d probes at once", len(due))
		}
		for _, p := range due {
			n.ask(p)
		}
		for _, s := range n.s.Switches() {
			n.switched(s)
		}
		// What was found may be a reason to ask for more.
		if at := n.s.Deadline(); at.IsZero() || at.After(n.time()) {
			break
		}
		if round > 5 {
			n.fail("deadline", "%s has something to do at once after it has done everything", n.name)
			break
		}
	}
	n.noForbidden()
	n.arm()
}

// arm sets the timer. A deadline that does not move is an endless loop.
func (n *node) arm() {
	deadline := n.s.Deadline()
	if deadline.IsZero() {
		return
	}
	when := max(deadline.Sub(at(0)), n.now)
	if n.timer > n.now && n.timer <= when {
		return
	}
	n.timer = when
	n.after(when-n.now, func() {
		if n.timer == n.now {
			n.timer = -1
			n.work()
		}
	})
}

// ask carries a probe out.
func (n *node) ask(p uplink.Probe) {
	n.totals.probes++
	q := n.ports[p.Uplink]
	answers := !q.gateway.dead
	if p.Kind == uplink.EndToEnd {
		answers = !q.beyond.dead && !n.targets[p.Target.Host].dead
	}
	o, took := uplink.Outcome{Probe: p, OK: true}, q.rtt+n.span(0, q.rtt/2)
	switch {
	case q.local:
		o.OK, o.Local, o.Reason, took = false, true, "no socket", 0
	case !q.link || !q.address:
		// The kernel refuses, or nothing comes back: the selector hears of the cause.
		o.OK, o.Reason, took = false, "no answer", p.Timeout
	case !answers || n.chance(q.loss) || took > p.Timeout:
		o.OK, o.Reason, took = false, "no answer", p.Timeout
	default:
		o.RTT = took
	}
	n.after(took+n.span(100*time.Microsecond, 5*ms), func() {
		n.inbox = append(n.inbox, o)
		n.work()
	})
}

func (w *world) setMaster(to *node) {
	w.master = to
	for _, n := range w.nodes {
		n.s.SetRole(n.time(), n == to)
		if n == to {
			n.masterSince = w.now
		}
	}
	for _, n := range w.nodes {
		n.work()
	}
}
