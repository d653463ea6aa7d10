package replication

import (
	"math/rand/v2"
	"time"

	"tandem/conntracksync"
)

// tuning is what is drawn for a run and never changes.
type tuning struct {
	sender   conntracksync.SenderConfig
	receiver conntracksync.ReceiverConfig
	timeouts *conntracksync.TimeoutTable
	// readMin and readMax bound how long events wait to be read, eventQueue is how many
	// the kernel keeps.
	readMin, readMax time.Duration
	eventQueue       int
	// gcDelay is how late the kernel notices the end of a flow.
	gcDelay time.Duration
	// dumpStep bounds the time for half a part of a dump; interrupts is the share of
	// dumps that are interrupted, omits that of rows that a dump leaves out.
	dumpStep          time.Duration
	interrupts, omits float64
	// life is the mean length of a session.
	life time.Duration
	// feedsFirst: events that wait at a promotion belong to the time before it.
	// feedsBoth: sender and receiver get all events.
	feedsFirst, feedsBoth bool
	// repliesFirst: replies go out before the operations are carried out.
	repliesFirst bool
	// frozenMax bounds how long a process gets no processor, slowest the speed of a
	// stream.
	frozenMax time.Duration
	slowest   float64
	// sendBuffer is how many bytes a stream takes before it blocks its writer.
	sendBuffer int
}

func (w *world) draw() {
	ms := func(low, high int) time.Duration {
		return w.between(time.Duration(low)*time.Millisecond, time.Duration(high)*time.Millisecond)
	}
	t := &w.tuning
	t.timeouts = &conntracksync.TimeoutTable{
		TCP:  [...]uint32{6, 5, 4, 60, 5, 4, 3, 6, 2, 5},
		SCTP: [...]uint32{4, 4, 3, 3, 20, 3, 3, 3, 8},
		UDP:  4, UDPStream: 10, GRE: 5, GREStream: 12, ICMP: 4, ICMPv6: 4, Generic: 20,
	}
	spacing := ms(200, 1000)
	interval := ms(2000, 4000)
	queue, held := pick(w, 60, 200, 65536), pick(w, 4, 64)
	if queue > 200 {
		held = 8192
	}
	t.sender = conntracksync.SenderConfig{
		Timeouts: t.timeouts, DigestInterval: ms(500, 4000), PassInterval: interval, PassSpacing: spacing,
		TrimDelay: ms(500, 3000), TrimRate: pick(w, 300, 100_000), Hold: ms(1, 20), HoldLimit: held,
		QueueLimit: queue, RowCredit: min(pick(w, 16, 100, 1024), queue/4), FrameRecords: pick(w, 1, 20, 256),
		RepairInterval: ms(3000, 6000),
	}
	t.receiver = conntracksync.ReceiverConfig{
		Timeouts: t.timeouts, TimeoutFloor: time.Duration(24+w.rng.IntN(8)) * time.Second,
		PassInterval: interval, PassSpacing: spacing, RepairBackoff: ms(100, 1000), RepairBackoffMax: ms(2000, 4000),
		RequestTimeout: ms(4000, 6000),
	}
	t.readMin, t.readMax = 0, pick(w, time.Millisecond, 5*time.Millisecond, 30*time.Millisecond)
	t.eventQueue = pick(w, 20, 60, 1000)
	t.gcDelay = ms(0, 1000)
	t.dumpStep = pick(w, 100*time.Microsecond, 2*time.Millisecond, 15*time.Millisecond)
	t.interrupts, t.omits = pick(w, 0, 0.05), pick(w, 0, 0.002)
	t.life = ms(2000, 15000)
	t.feedsFirst, t.feedsBoth = w.chance(0.5), w.chance(0.3)
	t.repliesFirst = w.chance(0.5)
	t.frozenMax = 600 * time.Millisecond
	t.sendBuffer = pick(w, 2<<10, 32<<10, 96<<10)
	t.slowest = 100 << 10
	w.link = link{delay: w.between(50*time.Microsecond, 5*time.Millisecond), speed: pick(w, 1e5, 1e6, 1e7, 1e8)}
	w.clients = clients{sessions: map[identity]*session{}, rate: pick(w, 3.0, 10, 20)}
}

// newWorld draws a run.
func newWorld(seed uint64, verbose bool) *world {
	w := &world{seed: seed, verbose: verbose, hash: 14695981039346656037, rng: rand.New(rand.NewPCG(seed, 0x666c_6f77_73))}
	w.endedAt = map[identity]time.Duration{}
	w.draw()
	w.oracle = newOracle(w)
	for i := range w.nodes {
		n := &node{w: w, id: i, kernel: newKernel(w, i), features: conntracksync.Features, powered: true}
		n.codec.rng = rand.New(rand.NewPCG(seed, uint64(i)))
		w.nodes[i] = n
	}
	switch other := w.nodes[w.rng.IntN(2)]; w.rng.IntN(6) {
	case 0:
		other.features = 0
	case 1:
		other.features = conntracksync.FeatureDigests
	case 2:
		other.codec.newer = true
	}
	if w.chance(0.2) {
		w.nodes[0].excludes, w.nodes[1].excludes = true, true
	}
	return w
}
