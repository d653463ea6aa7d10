package demo

import (
	"context"
	"slices"
	"sync"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/appliance/status"
)

const (
	// frameInterval is how often the picture is painted.
	frameInterval = 100 * time.Millisecond
	// askInterval is how often a node is asked how it is, askTimeout when it counts
	// as not answering.
	askInterval = 200 * time.Millisecond
	askTimeout  = time.Second
	// maxRates bounds the history of the throughput, one sample per frame.
	maxRates = 48
	// roleMaster is what a MASTER calls itself.
	roleMaster = "MASTER"
	roleBackup = "BACKUP"
)

// phase is what the demo does at the moment.
type phase uint8

const (
	phaseStart phase = iota
	phaseReady
	phaseTraffic
	phaseCalm
	phaseObserve
	phaseHeal
	phaseDone
)

// nodeView is what is known of one node.
type nodeView struct {
	name   string
	status status.Status
	// asked is when the question was put that led to status or err.
	asked time.Time
	err   error
}

// scene is everything that the picture shows.
type scene struct {
	elapsed time.Duration
	phase   phase
	// index of the current fault of total, the node that it is for, and since when.
	index, total int
	fault        lab.Fault
	target       string
	faultAt      time.Time
	// broken tells that the fault is in force.
	broken bool
	nodes  [2]nodeView
	snap   traffic.Snapshot
	rates  []uint64
	rows   []Row
	now    time.Time
}

// stage holds the scene for those who change it and for the one who paints it.
type stage struct {
	mu    sync.Mutex
	scene scene
	began time.Time
}

func newStage(total int) *stage {
	return &stage{began: time.Now(), scene: scene{
		total: total,
		nodes: [2]nodeView{{name: lab.Alpha}, {name: lab.Bravo}},
	}}
}

func (s *stage) set(change func(*scene)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.scene)
}

// look returns a copy of the scene as it is now.
func (s *stage) look() scene {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.scene
	c.now = time.Now()
	c.elapsed = c.now.Sub(s.began)
	c.rates, c.rows = slices.Clone(c.rates), slices.Clone(c.rows)
	return c
}

func (s *stage) finished(row Row) {
	s.set(func(sc *scene) { sc.rows = append(sc.rows, row) })
}

// masterSince names the only node that says it is MASTER in answer to a question
// put after t, or nothing.
func (s *stage) masterSince(t time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	master := ""
	for _, n := range s.scene.nodes {
		if n.err != nil || !n.asked.After(t) || n.status.Role != roleMaster {
			continue
		}
		if master != "" {
			return ""
		}
		master = n.name
	}
	return master
}

// watch keeps nodes and traffic of the scene fresh and calls frame with each new
// one, until ctx ends. The channel it returns is closed when all of it has stopped.
func (s *stage) watch(ctx context.Context, pair Lab, flows Traffic, frame func(scene)) <-chan struct{} {
	var all sync.WaitGroup
	for i := range s.scene.nodes {
		all.Go(func() { s.ask(ctx, pair, i) })
	}
	all.Go(func() { s.paint(ctx, flows, frame) })
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	return done
}

// ask asks one node again and again; a node that hangs delays nobody else.
func (s *stage) ask(ctx context.Context, pair Lab, i int) {
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	name := s.look().nodes[i].name
	for ctx.Err() == nil {
		n := nodeView{name: name, asked: time.Now()}
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		n.status, n.err = pair.Status(asking, name)
		cancel()
		s.set(func(sc *scene) { sc.nodes[i] = n })
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (s *stage) paint(ctx context.Context, flows Traffic, frame func(scene)) {
	tick := time.NewTicker(frameInterval)
	defer tick.Stop()
	for {
		snap := flows.Latest()
		s.set(func(sc *scene) {
			sc.snap = snap
			if snap.Bulk.Total > 0 {
				sc.rates = append(sc.rates, snap.BulkRate)
				sc.rates = sc.rates[max(0, len(sc.rates)-maxRates):]
			}
		})
		frame(s.look())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// doing says what the demo was doing, for a sentence about its end.
func (s *stage) doing() string {
	return s.look().doing()
}
