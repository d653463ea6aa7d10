package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/appliance/status"
	"tandem/router"
	"tandem/router/config"
	"tandem/router/kernel"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

const (
	// checkInterval is how often the kernel is compared with the intent even if
	// nobody reported a change: netfilter tables vanish without a link event.
	checkInterval = time.Second
	// minRetryPause is how long a round that failed is not repeated, whatever the
	// kernel reports; it doubles up to checkInterval.
	minRetryPause = 50 * time.Millisecond
	// linkInterval is how often the carrier of every port is looked at while restlessTime
	// has not passed since the kernel's last report of any change. The kernel reports the
	// first loss of a carrier at once, but the next ones up to a second late: it limits the
	// rate of its link events.
	linkInterval = 10 * time.Millisecond
	restlessTime = 2 * time.Second
	// quietInterval is how often it is looked at at other times. What holds a report up
	// then is a link of another network namespace: the limit is one for the machine.
	quietInterval = 50 * time.Millisecond
	// roundPatience is how long a round of the reconciler may take, with hundreds of
	// links on a slow machine.
	roundPatience = time.Minute
	// riseTime is for how long after the start a link that has not been up yet is one
	// that comes up: when it does, there is nothing that it has to recover from.
	riseTime = 5 * time.Second
	// brokenNode is a count of failures that outweighs everything that single
	// links can add: the node cannot do its job at all.
	brokenNode = 9
)

// reconcileLoop keeps the kernel in the intended state and tells the elector how
// fit the node is.
func (n *node) reconcileLoop(ctx context.Context) error {
	reports, err := n.kernel.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the kernel: %w", err)
	}
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		for range reports { // a link that fails is felt also in the middle of a round
			signal(n.linkEvents)
			signal(events)
		}
	}()
	var pause time.Duration
	for ctx.Err() == nil {
		if n.reconcile(ctx) {
			pause = 0
		} else {
			pause = min(max(2*pause, minRetryPause), checkInterval)
		}
		// What a failed round did change comes back as an event at once.
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if err := n.awaitReason(ctx, events); err != nil {
			return err
		}
	}
	return nil
}

// awaitReason returns when there is a reason for another round.
func (n *node) awaitReason(ctx context.Context, events <-chan struct{}) error {
	timer := time.NewTimer(n.untilNextCheck())
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case _, ok := <-events:
		if !ok && ctx.Err() == nil {
			return errors.New("watch the kernel: the event stream ended")
		}
		// A link that fails is felt now; the rest of the state can follow.
		n.judge(time.Now())
	case <-n.kick:
	case <-timer.C:
	}
	return nil
}

// linkLoop looks at the carriers of the ports, beside the kernel's events.
func (n *node) linkLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var toldAt time.Time
	restlessUntil := time.Now().Add(restlessTime)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.linkEvents:
			restlessUntil = time.Now().Add(restlessTime)
		case <-timer.C:
		}
		now := time.Now()
		// Rather a look too soon than one too late.
		if now.Sub(toldAt) >= elector.AliveInterval-quietInterval && n.reconciles(now) {
			toldAt = now
			n.elector.alive()
		}
		if n.linksChanged() {
			n.judge(now)
			restlessUntil = now.Add(restlessTime)
		}
		if now.Before(restlessUntil) {
			timer.Reset(linkInterval)
		} else {
			timer.Reset(quietInterval)
		}
	}
}

// reconciles tells that the reconciler has finished a round lately. Without it this
// node is a node no more, and must not say that it is alive.
func (n *node) reconciles(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.roundAt.IsZero() || now.Sub(n.state.roundAt) < roundPatience
}

func (n *node) linksChanged() bool {
	n.mu.Lock()
	known := n.state.links // replaced by the next look, never changed
	n.mu.Unlock()
	for segment, port := range n.ports() {
		was, judged := known[segment]
		// The only HA link can wait: there is nothing to do but to wait for it.
		if !judged || router.IsHA(segment) && n.doc().SecondHALink == nil {
			continue
		}
		if up, err := n.kernel.Carries(port); err == nil && was != up {
			return true
		}
	}
	return false
}

func (n *node) untilNextCheck() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if at := n.state.health.Deadline(now); !at.IsZero() {
		return min(checkInterval, max(at.Sub(now), time.Millisecond))
	}
	return checkInterval
}

// reconcile brings the kernel into the intended state and returns whether it is.
func (n *node) reconcile(ctx context.Context) bool {
	report, err := n.kernel.Apply(ctx, n.intent())
	if ctx.Err() != nil {
		return false
	}
	n.note(report, err)
	if n.programmedBefore() && n.sync != nil && slices.ContainsFunc(report.Changed, silences) {
		n.sync.unreported()
	}
	n.first.Do(func() { close(n.programmed) })
	if len(report.Changed) > 0 {
		n.log.Info("the kernel was brought into the intended state", "changes", len(report.Changed), "first", report.Changed[0])
		// New links need sockets.
		n.elector.reopen()
	}
	n.judge(time.Now())
	return err == nil
}

// reconciledSince tells that a round has ended after a moment, with nothing left to do.
func (n *node) reconciledSince(at time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.reconciled && n.state.roundAt.After(at)
}

// programmedBefore tells that a round has ended before.
func (n *node) programmedBefore() bool {
	select {
	case <-n.programmed:
		return true
	default:
		return false
	}
}

// silences tells of a change that it puts back a setting without which the kernel does
// not report sessions.
func silences(change string) bool {
	return strings.Contains(change, "net/netfilter/nf_conntrack_events")
}

// note remembers how a round ended and logs what is new about it.
func (n *node) note(report kernel.Report, err error) {
	n.mu.Lock()
	before := n.state
	s := &n.state
	s.roundAt = time.Now()
	s.reconciled, s.kernelErr = err == nil, ""
	if err != nil {
		s.kernelErr = oneLine(err)
	}
	// A round that failed early has not looked for these.
	if err == nil || len(report.Missing)+len(report.Conflicts) > 0 {
		s.missing, s.conflicts = report.Missing, report.Conflicts
	}
	s.firstPackets = report.FirstPackets
	after := n.state
	n.mu.Unlock()
	if lacking := after.firstPackets.Lacking; lacking != "" && lacking != before.firstPackets.Lacking {
		n.log.Warn("first packets are not held for the peer", "error", lacking)
	}
	switch {
	case after.kernelErr != before.kernelErr && after.kernelErr != "":
		n.log.Error("the kernel is not in the intended state", "error", after.kernelErr)
		n.events.add(status.Event{Kind: status.EventKernel, Reason: "the kernel is not in the intended state: " + after.kernelErr})
	case after.kernelErr == "" && before.kernelErr != "":
		n.log.Info("the kernel is in the intended state again")
		n.events.add(status.Event{Kind: status.EventKernel, Reason: "the kernel is in the intended state again"})
	}
	if len(after.missing) > 0 && !slices.Equal(before.missing, after.missing) {
		n.log.Warn("waiting for interfaces that are missing", "interfaces", strings.Join(after.missing, " "))
	}
	for _, c := range after.conflicts {
		if !slices.Contains(before.conflicts, c) {
			n.log.Warn("something else stands in the way", "conflict", c)
		}
	}
}

// oneLine makes one sentence of joined errors.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// judge looks at the links and tells the elector the node's fitness.
func (n *node) judge(now time.Time) {
	n.elector.setFitness(n.fitness(now, n.linkUp))
	if n.sync == nil {
		return
	}
	n.mu.Lock()
	up := n.state.links // replaced by the next look, never changed
	n.mu.Unlock()
	n.sync.lostCarrier(up)
}

// fitness looks at the links through linkUp and returns how well the node would do as
// MASTER.
func (n *node) fitness(now time.Time, linkUp func(port string) bool) elector.Fitness {
	n.mu.Lock()
	s := &n.state
	before := s.links
	s.links = make(map[string]bool)
	if s.judgedAt.IsZero() {
		s.judgedAt = now
	}
	var served []string
	rising := 0
	for segment, port := range n.ports() {
		up := linkUp(port)
		s.links[segment] = up
		if router.IsHA(segment) || n.kind(segment) == "uplink" { // the selector judges these
			continue
		}
		served = append(served, segment)
		if !up && !s.risen[segment] && now.Sub(s.judgedAt) < riseTime {
			rising++
			continue
		}
		s.risen[segment] = true
		s.health.Observe(now, segment, up)
	}
	s.health.Forget(served)
	if !maps.Equal(before, s.links) {
		n.observer.wake()
	}
	// What something else keeps from being done is not served, whatever its link says.
	failed := len(s.health.Failed()) + rising + len(s.conflicts) + len(n.uplinks.links(now, s.links))
	// A MASTER whose link works again has no reason to move.
	role, _, _ := n.elector.latest()
	recovering := len(s.health.Recovering(now)) > 0 && role.State != vrrp.Master
	if s.kernelErr != "" || !s.reconciled {
		failed = brokenNode
	}
	// A link belongs to the segment, and so to all virtual routers there.
	var down []string
	for _, c := range n.carriers() {
		if !s.links[c.Segment] {
			down = append(down, c.Name)
		}
	}
	n.mu.Unlock()
	ready := n.sync == nil || n.sync.complete()
	return elector.Fitness{Fitness: vrrp.Fitness{Failed: failed, Recovering: recovering, Ready: ready}, Down: down}
}

func (n *node) linkUp(name string) bool {
	s, err := n.kernel.LinkState(name)
	return err == nil && s.Up
}

// rejudge asks for a new judgement from another loop.
func (n *node) rejudge() {
	select {
	case n.kick <- struct{}{}:
	default: // one is pending
	}
}

// ports yields the segments and this node's port on each. A segment has one port,
// however many virtual routers and families use it: if its cable is cut, that is one
// failure.
func (n *node) ports() iter.Seq2[string, string] {
	return func(yield func(segment, port string) bool) {
		last := ""
		for _, c := range n.carriers() { // those of a segment stand side by side
			if c.Segment != last && !yield(c.Segment, c.Interface) {
				return
			}
			last = c.Segment
		}
	}
}

// kind tells what a segment is.
func (n *node) kind(segment string) string {
	if router.IsHA(segment) {
		return "ha"
	}
	if slices.ContainsFunc(n.doc().Uplinks, func(u config.Uplink) bool { return u.Name == segment }) {
		return "uplink"
	}
	return "network"
}

// forgetUnresolved lets a new MASTER ask anew for neighbours that the BACKUP asked
// for in vain.
func (n *node) forgetUnresolved() {
	names := make([]string, len(n.intent().VirtualLinks))
	for i, link := range n.intent().VirtualLinks {
		names[i] = link.Name
	}
	if err := n.kernel.ForgetUnresolved(names); err != nil {
		n.log.Warn("the first packets after the takeover may have to wait for their neighbours", "error", err)
	}
}
