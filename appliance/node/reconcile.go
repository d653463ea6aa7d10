package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"tandem/router"
	"tandem/router/config"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

const (
	// haCarrier is the name of the HA link among the carriers.
	haCarrier = "ha"
	// checkInterval is how often the kernel is compared with the intent even if
	// nobody reported a change: netfilter tables vanish without a link event.
	checkInterval = time.Second
	// linkInterval is how often the carrier of every port is looked at. The kernel
	// reports the first loss at once, but the next ones up to a second late: it
	// limits the rate of its link events.
	linkInterval = 20 * time.Millisecond
	// brokenNode is a count of failures that outweighs everything that single
	// links can add: the node cannot do its job at all.
	brokenNode = 9
)

// reconcileLoop keeps the kernel in the intended state and tells the elector how
// fit the node is.
func (n *node) reconcileLoop(ctx context.Context) error {
	events, err := n.kernel.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the kernel: %w", err)
	}
	for {
		n.reconcile(ctx)
		timer := time.NewTimer(n.untilNextCheck())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case _, ok := <-events:
			if !ok && ctx.Err() == nil {
				return fmt.Errorf("watch the kernel: the event stream ended")
			}
			// A link that fails is felt now; the rest of the state can follow.
			n.judge(time.Now())
		case <-n.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// linkLoop looks at the carriers of the ports, beside the kernel's events.
func (n *node) linkLoop(ctx context.Context) error {
	ticker := time.NewTicker(linkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if n.linksChanged() {
				n.judge(now)
			}
		}
	}
}

func (n *node) linksChanged() bool {
	n.mu.Lock()
	known := maps.Clone(n.state.links)
	n.mu.Unlock()
	for _, link := range n.intent.VirtualLinks {
		if was, judged := known[link.Carrier]; judged && was != n.linkUp(link.Parent) {
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

// reconcile brings the kernel into the intended state.
func (n *node) reconcile(ctx context.Context) {
	report, err := n.kernel.Apply(ctx, n.intent)
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	before := n.state.kernelErr
	n.state.missing, n.state.conflicts = report.Missing, report.Conflicts
	n.state.reconciled = err == nil
	n.state.kernelErr = ""
	if err != nil {
		n.state.kernelErr = err.Error()
	}
	after := n.state.kernelErr
	n.mu.Unlock()
	if after != before && after != "" {
		n.log.Error("the kernel is not in the intended state", "error", after)
	}
	if len(report.Changed) > 0 {
		n.log.Info("the kernel was brought into the intended state", "changes", len(report.Changed), "first", report.Changed[0])
		// New links need sockets.
		n.elector.reopen()
	}
	n.judge(time.Now())
}

// judge looks at the links and tells the elector the node's fitness.
func (n *node) judge(now time.Time) {
	n.mu.Lock()
	s := &n.state
	s.links = make(map[string]bool)
	var carriers []string
	for _, link := range n.intent.VirtualLinks {
		up := n.linkUp(link.Parent)
		s.links[link.Carrier] = up
		carriers = append(carriers, link.Carrier)
		s.health.Observe(now, link.Carrier, up)
	}
	s.health.Forget(carriers)
	if n.doc.HALink != nil {
		s.links[haCarrier] = n.linkUp(n.doc.HALink.Ports[n.opts.Name].Interface)
	}
	failed := len(s.health.Failed())
	// A MASTER whose link works again has no reason to move.
	role, _, _ := n.elector.latest()
	recovering := len(s.health.Recovering(now)) > 0 && role.State != vrrp.Master
	if s.kernelErr != "" || !s.reconciled {
		failed = brokenNode
	}
	isolated := s.health.Isolated() && !s.links[haCarrier]
	n.mu.Unlock()
	ready := n.sync == nil || n.sync.complete()
	n.elector.setFitness(elector.Fitness{Fitness: vrrp.Fitness{Failed: failed, Recovering: recovering, Ready: ready}, Isolated: isolated})
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

// carrierPort returns this node's port and the VRID of a network or uplink.
func (n *node) carrierPort(name string) (config.Port, uint8) {
	for _, u := range n.doc.Uplinks {
		if u.Name == name {
			return u.Ports[n.opts.Name], u.VRID
		}
	}
	for _, w := range n.doc.Networks {
		if w.Name == name {
			return w.Ports[n.opts.Name], w.VRID
		}
	}
	return config.Port{}, 0
}

// kind tells what a carrier is.
func (n *node) kind(name string) string {
	if name == haCarrier {
		return "ha"
	}
	if slices.ContainsFunc(n.doc.Uplinks, func(u config.Uplink) bool { return u.Name == name }) {
		return "uplink"
	}
	return "network"
}

// virtualLink returns the virtual link of a carrier; false on the HA link.
func (n *node) virtualLink(carrier string) (router.VirtualLink, bool) {
	i := slices.IndexFunc(n.intent.VirtualLinks, func(l router.VirtualLink) bool { return l.Carrier == carrier })
	if i < 0 {
		return router.VirtualLink{}, false
	}
	return n.intent.VirtualLinks[i], true
}
