package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/appliance/status"
	"tandem/router/teardown"
	"tandem/router/uplink"
)

const (
	// endingPatience bounds one ending of flows.
	endingPatience = 10 * time.Second
	// firstPause is the time after which the kernel is looked at again for flows of a duty; it
	// doubles up to maxEndingPause: packets that were under way may have begun flows.
	firstPause     = 250 * time.Millisecond
	maxEndingPause = time.Minute
)

// ending ends the flows that the selector names, away from the loop that decides.
type ending struct {
	node  *node
	flows *teardown.Teardown
	kick  chan struct{}

	mu sync.Mutex
	// duties are those that stand.
	duties map[dutyKey]*standing
}

// dutyKey tells duties apart.
type dutyKey struct {
	path   uplink.Path
	uplink string
}

// standing is a duty and when it is next looked after.
type standing struct {
	duty  uplink.Duty
	next  time.Time
	pause time.Duration
}

func newEnding(n *node, flows *teardown.Teardown) *ending {
	return &ending{node: n, flows: flows, kick: make(chan struct{}, 1), duties: make(map[dutyKey]*standing)}
}

func (e *ending) close() {
	if err := e.flows.Close(); err != nil {
		e.node.log.Warn("the table of ended flows stays behind", "error", err)
	}
}

// set takes the duties that stand now.
func (e *ending) set(duties []uplink.Duty) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := make(map[dutyKey]*standing, len(duties))
	fresh := false
	for _, d := range duties {
		key := dutyKey{d.Path, d.Uplink}
		s, known := e.duties[key]
		if !known || s.duty.Begun != d.Begun {
			s = &standing{pause: firstPause}
			fresh = true
		}
		s.duty = d
		kept[key] = s
	}
	e.duties = kept
	if fresh {
		signal(e.kick)
	}
}

// run ends flows until ctx does.
func (e *ending) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.kick:
		case <-timer.C:
		}
		e.round(ctx)
		timer.Reset(e.pause(time.Now()))
	}
}

// due returns the duties to look after now.
func (e *ending) due(now time.Time) []uplink.Duty {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []uplink.Duty
	for _, s := range e.duties {
		if !now.Before(s.next) {
			list = append(list, s.duty)
			s.next = now.Add(s.pause)
			s.pause = min(2*s.pause, maxEndingPause)
		}
	}
	return list
}

func (e *ending) pause(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	pause := time.Hour
	for _, s := range e.duties {
		pause = min(pause, max(s.next.Sub(now), time.Millisecond))
	}
	return pause
}

// round ends the flows of all duties that are due.
func (e *ending) round(ctx context.Context) {
	due := e.due(time.Now())
	var flows []teardown.Flows
	for _, d := range due {
		if f, ok := flowsOf(e.node.doc(), d); ok {
			flows = append(flows, f)
		}
	}
	if len(flows) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endingPatience)
	defer cancel()
	start := time.Now()
	ended, err := e.flows.End(ctx, flows)
	if err != nil {
		if ctx.Err() == nil {
			e.node.log.Error("flows of an uplink that was left could not all be ended", "error", oneLine(err))
		}
		return
	}
	if ended.Total() == 0 {
		return
	}
	took := time.Since(start)
	e.node.log.Info("flows were ended that could not follow their network to another uplink",
		"tcp", ended.TCP, "udp", ended.UDP, "other", ended.Other, "told", ended.Told, "left", ended.Left, "took", took)
	counts := status.EndedFlows{TCP: ended.TCP, UDP: ended.UDP, Other: ended.Other, Told: ended.Told, Left: ended.Left, Took: took}
	where, reason := about(due)
	e.node.events.add(counts.Event(where, reason))
}

// about names the networks and uplinks of duties, and the reason of the first.
func about(due []uplink.Duty) (where, reason string) {
	var names []string
	for _, d := range due {
		name := d.Path.Network + " on " + d.Uplink
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	const most = 5
	where = strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		where += fmt.Sprintf(" and %d more", more)
	}
	return where, due[0].Reason
}
