package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/appliance/status"
	"tandem/router"
	"tandem/router/config"
	"tandem/router/probe"
	"tandem/router/teardown"
	"tandem/router/uplink"
	"tandem/vrrp"
)

// probesUnderWay bounds the probes that wait for their answers; further ones wait for a
// place.
const probesUnderWay = 1024

// uplinks selects the uplink of each network: it runs the probes that the selector asks
// for, leads the traffic in the kernel to what the selector chooses, and ends the flows
// that cannot follow.
type uplinks struct {
	node     *node
	prober   *probe.Prober
	places   chan struct{}
	teardown *ending
	// kick asks for a look at the selector.
	kick chan struct{}

	// mu guards what follows. rerouting serialises changes of the kernel's routes.
	mu        sync.Mutex
	rerouting sync.Mutex
	selector  *uplink.Selector
	selection uplink.Selection
	intent    router.Intent
	// strayedAt is when a route could not be moved; zero once the reconciler has put that right.
	strayedAt time.Time
	// failures are what spoke against this node as MASTER at the last look.
	failures []string
	switches status.Switches
}

// newUplinks opens what it needs of the kernel.
func newUplinks(n *node) (*uplinks, error) {
	u := selecting(n)
	var err error
	if u.prober, err = probe.New(); err != nil {
		return nil, fmt.Errorf("open the probes of the uplinks: %w", err)
	}
	flows, err := teardown.New(n.doc().Group)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the ending of flows: %w", err), u.prober.Close())
	}
	u.teardown = newEnding(n, flows)
	// A node that comes back goes on as it was until it knows better.
	if chosen, err := loadSelection(n.path(selectionName)); err != nil {
		n.log.Warn("the choice of uplinks begins anew", "error", err)
	} else if len(chosen) > 0 {
		u.selector.Adopt(time.Now(), chosen)
	}
	return u, u.derive(u.selector.Selection())
}

// selecting is the part without the kernel.
func selecting(n *node) *uplinks {
	return &uplinks{
		node: n, places: make(chan struct{}, probesUnderWay), kick: make(chan struct{}, 1),
		selector: uplink.New(time.Now(), uplink.NewConfig(n.doc())), intent: n.current.Load().intent,
	}
}

// derive takes over what the kernel must be like for a choice. The caller holds the lock, or is alone.
func (u *uplinks) derive(chosen uplink.Selection) error {
	intent, err := router.Derive(u.node.doc(), u.node.opts.Name, chosen)
	if err != nil {
		return fmt.Errorf("derive the kernel state of %s: %w", u.node.opts.Name, err)
	}
	u.selection, u.intent = chosen, intent
	return nil
}

// reconfigure puts a changed document into force and follows it. What is known of uplinks that
// stay is kept, and no choice of before is joined with the new document.
func (u *uplinks) reconfigure(s *setup) error {
	u.rerouting.Lock()
	defer u.rerouting.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.node.current.Store(s)
	u.selector.Reconfigure(time.Now(), uplink.NewConfig(u.node.doc()))
	signal(u.kick)
	return u.derive(u.selector.Selection())
}

// run probes and decides until ctx ends.
func (u *uplinks) run(ctx context.Context) error {
	defer u.close()
	select {
	case <-ctx.Done():
		return nil
	case <-u.node.programmed: // before that, no probe finds its way
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { u.teardown.run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-u.kick:
		case <-timer.C:
		}
		now := time.Now()
		for _, p := range u.decide(now) {
			select {
			case <-ctx.Done():
				return nil
			case u.places <- struct{}{}:
			}
			running.Go(func() {
				u.probe(ctx, p)
				<-u.places
			})
		}
		u.follow()
		timer.Reset(u.pause(time.Now()))
	}
}

func (u *uplinks) close() {
	_ = u.prober.Close() // the process is ending
	u.teardown.close()
}

// decide lets the selector do what is due and returns the probes to start.
func (u *uplinks) decide(now time.Time) []uplink.Probe {
	r, _, _ := u.node.elector.latest()
	fit := r.Peer.Alive && r.Peer.Ready && r.Peer.State == vrrp.Backup && u.node.elector.outranked(r.Peer.Priority)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.selector.SetRole(now, r.State == vrrp.Master)
	u.selector.SetPeer(now, fit)
	u.selector.Tick(now)
	return u.selector.Due(now)
}

// pause is how long nothing is due.
func (u *uplinks) pause(now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := u.selector.Deadline()
	if at.IsZero() {
		return time.Hour
	}
	return max(at.Sub(now), time.Millisecond)
}

// probe runs one probe and gives its outcome to the selector.
func (u *uplinks) probe(ctx context.Context, p uplink.Probe) {
	request, ok := u.request(p)
	if !ok {
		return
	}
	outcome := u.prober.Run(ctx, request)
	if ctx.Err() != nil {
		return // the node is ending, and the probe has said nothing about the uplink
	}
	u.mu.Lock()
	u.selector.Finish(time.Now(), outcome)
	u.mu.Unlock()
	signal(u.kick)
}

// request completes a probe by what the document says about the node's port.
func (u *uplinks) request(p uplink.Probe) (probe.Request, bool) {
	for _, up := range u.node.doc().Uplinks {
		if up.Name != p.Uplink {
			continue
		}
		port := up.Ports[u.node.opts.Name]
		r := probe.Request{Interface: port.Interface, Source: port.Address, Gateway: up.Gateway, Mark: router.ProbeMark(up.VRID), Probe: p}
		if p.IPv6 {
			if up.IPv6 == nil {
				return probe.Request{}, false
			}
			r.Source, r.Gateway = port.IPv6, up.IPv6.Gateway
			if !r.Source.IsValid() && p.Kind == uplink.Gateway {
				r.Source = port.LinkLocal
			}
		}
		r.DNS = up.DNS
		return r, true
	}
	return probe.Request{}, false
}

// links tells the selector which ports are up, and returns what speaks against this node as
// MASTER.
func (u *uplinks) links(now time.Time, up map[string]bool) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range u.node.doc().Uplinks {
		port := w.Ports[u.node.opts.Name]
		reason := ""
		if !up[w.Name] {
			reason = port.Interface + " has no carrier"
		}
		u.selector.SetLink(now, w.Name, up[w.Name], reason)
		// The reconciler puts back an address that somebody takes away.
		u.selector.SetAddress(now, w.Name, false, true)
		if w.IPv6 != nil {
			u.selector.SetAddress(now, w.Name, true, true)
		}
	}
	signal(u.kick)
	return u.selector.Failures()
}

// follow leads the traffic where the selector wants it, then lets the flows end that
// cannot follow. The order matters: a flow that ends before its route has gone comes
// back on the dead uplink.
func (u *uplinks) follow() {
	u.rerouting.Lock()
	defer u.rerouting.Unlock()
	u.mu.Lock()
	chosen, switches := u.selector.Selection(), u.selector.Switches()
	before, same := u.intent, maps.Equal(chosen, u.selection)
	failures := u.selector.Failures()
	judge := !slices.Equal(failures, u.failures)
	u.failures = failures
	var err error
	if !same {
		err = u.derive(chosen)
	}
	after := u.intent
	u.mu.Unlock()
	if err != nil {
		u.node.log.Error("the choice of uplinks does not fit the document", "error", err)
		return
	}
	if !same {
		if _, err := u.node.kernel.Reroute(before, after); err != nil {
			u.node.log.Warn("a route could not be moved at once; the next look at the kernel tries again", "error", oneLine(err))
			u.strayedAt = time.Now()
		}
		u.node.rejudge()
		if err := saveSelection(u.node.path(selectionName), chosen); err != nil {
			u.node.log.Warn("the choice of uplinks is not kept for the next start", "error", err)
		}
	}
	now := time.Now()
	if judge {
		u.node.judge(now)
	}
	for _, s := range switches {
		u.report(now, s)
	}
	if !u.strayedAt.IsZero() {
		if !u.node.reconciledSince(u.strayedAt) {
			return // the flows wait until there is another way for them
		}
		u.strayedAt = time.Time{}
	}
	u.mu.Lock()
	duties := u.selector.Duties(now)
	u.mu.Unlock()
	u.teardown.set(duties)
}

// report tells of a switch.
func (u *uplinks) report(now time.Time, s uplink.Switch) {
	done := status.SwitchOf(s, now)
	u.mu.Lock()
	u.switches.Add(done)
	u.mu.Unlock()
	e, news := done.Event()
	if !news {
		u.node.log.Debug("uplink chosen", "network", done.Network, "destination", done.Destination, "uplink", done.To)
		return
	}
	u.node.events.add(e)
	u.node.log.Info("a network takes another uplink", "network", done.Network, "destination", done.Destination, "from", done.From, "to", done.To,
		"planned", done.Planned, "reason", done.Reason, "took", done.Took)
}

// wanted is the kernel state that belongs to the choice.
func (u *uplinks) wanted() router.Intent {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.intent
}

// outside is all that is known of the uplinks and of the networks' ways to them.
func (u *uplinks) outside(now time.Time) ([]status.Uplink, []status.Network) {
	doc := u.node.doc()
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.selector.Status(now)
	return status.UplinksOf(doc, u.node.opts.Name, known), status.NetworksOf(doc, u.node.opts.Name, known, &u.switches)
}

// recovering names the uplinks that work and do not count as well yet.
func (u *uplinks) recovering() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var names []string
	for _, e := range u.selector.Status(time.Now()).Uplinks {
		works := slices.ContainsFunc(e.Families, func(f uplink.FamilyStatus) bool { return f.State.Works() })
		if works && slices.Contains(u.failures, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// usable tells which uplinks an operation may use now.
func (u *uplinks) usable(name string) ([]uplink.Use, error) {
	var names []string
	for _, o := range u.node.doc().Operations {
		if o.Name == name {
			u.mu.Lock()
			defer u.mu.Unlock()
			return u.selector.Usable(o), nil
		}
		names = append(names, o.Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the document has no operation %q, and no others: add it to operations", shortened(name))
	}
	return nil, fmt.Errorf("the document has no operation %q; it has %s", shortened(name), strings.Join(names, ", "))
}

// flowsOf names the flows that a duty is about.
func flowsOf(doc *config.Document, d uplink.Duty) (teardown.Flows, bool) {
	for _, w := range doc.Networks {
		if w.Name != d.Path.Network {
			continue
		}
		f := teardown.Flows{Mark: router.Mark(d.VRID), Mask: router.MarkMask, Destination: d.Path.Destination, Outbound: d.Outbound}
		if d.Path.Destination.Bits() == 0 {
			for _, r := range w.Routes {
				f.Except = append(f.Except, r.Destination)
			}
		}
		switch {
		case !d.Path.IPv6():
			f.Networks = []netip.Prefix{w.Prefix}
		case w.IPv6 != nil:
			f.Networks = []netip.Prefix{w.IPv6.Prefix}
		}
		return f, len(f.Networks) > 0
	}
	return teardown.Flows{}, false
}
