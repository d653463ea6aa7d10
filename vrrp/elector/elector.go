package elector

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

const (
	// reportInterval is how often the node hears from the elector when nothing
	// happens.
	reportInterval = 500 * time.Millisecond
	// nodeGrace is how long the elector keeps the role without its node: enough for
	// a restart or an upgrade of the node, too short for its services to be missed.
	nodeGrace = 10 * time.Second
	// orphanLife is after how long without a node the elector ends itself; with
	// nobody to supervise it, it would stay for ever.
	orphanLife = time.Minute
	// retryInterval is how often a carrier that could not be opened is tried again.
	retryInterval = time.Second
	// maxAwake is after how long without a sleep of at least minSleep the elector
	// pauses for a breath.
	maxAwake = 20 * time.Millisecond
	minSleep = 50 * time.Microsecond
	breath   = 2 * time.Millisecond
	// maxDrain bounds how many packets of one socket are read in one round, so that
	// a flood on one carrier cannot starve the others or the timers.
	maxDrain = 512
)

// Options are the elector's environment.
type Options struct {
	// Listener is the descriptor of the socket made by [Listen].
	Listener int
	Log      *slog.Logger
	// Scheduling is the outcome of [BecomeRealTime], for the reports.
	Scheduling Scheduling
}

// elector is the state of the process. One goroutine owns it.
type elector struct {
	opts     Options
	nonce    uint64
	cfg      Configuration
	group    *vrrp.Group
	carriers []*carrier
	// receivers hear for the carriers; sender is shared by their ports.
	receivers []*receiver
	sender    *wire.Sender
	beats     *heartbeats
	slots     [maxHeartbeatLinks]slot
	// announcer is for as many addresses of each carrier as announced says.
	announcer *vrrp.Announcer
	announced []int
	recorder  *recorder
	node      *nodeConn
	waiter    *waiter
	// descriptors are what wait waits for, kept for their memory.
	descriptors []int
	// commandBuf holds one command, packetBuf one packet.
	commandBuf, packetBuf []byte
	// nodeFDs is where addressed asks.
	nodeFDs []unix.PollFd

	// advertisedAt is when an advert last left by any carrier.
	advertisedAt time.Time

	since         time.Time
	reason        vrrp.Reason
	handoverError string
	configError   string

	// reportAt, retryAt and orphanedAt are deadlines beside the group's own.
	reportAt, retryAt time.Time
	// orphanedAt is since when there is no node; zero while there is one.
	orphanedAt time.Time
	// obeyedAt is when the node last said anything.
	obeyedAt time.Time
	stopping bool
	// awakeSince is when the process last slept; breaths counts forced pauses.
	awakeSince time.Time
	breaths    uint64
	// complainedAt is when something was last logged about an advert.
	complainedAt time.Time
}

// Run elects until ctx ends, the node asks for the end or no node has come back
// for a minute. A MASTER leaves in order: with an advert of priority 0.
func Run(ctx context.Context, opts Options) error {
	var nonce [8]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fmt.Errorf("draw nonce: %w", err)
	}
	e := &elector{
		opts: opts, nonce: binary.BigEndian.Uint64(nonce[:]),
		commandBuf: make([]byte, maxMessage), packetBuf: make([]byte, wire.MaxPacket), orphanedAt: time.Now(),
	}
	if err := unix.SetNonblock(opts.Listener, true); err != nil {
		return fmt.Errorf("use the node's socket: %w", err)
	}
	var err error
	if e.waiter, err = newWaiter(ctx); err != nil {
		return err
	}
	defer e.close()
	for i := range e.slots {
		if e.slots[i], err = reserve(e.waiter.wake, i); err != nil {
			return err
		}
	}
	for !e.stopping {
		if err := e.wait(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		e.round()
	}
	e.stop(vrrp.ReasonShutdown)
	return nil
}

// wait sleeps until a socket is readable or a deadline is due.
func (e *elector) wait() error {
	fds := append(e.descriptors[:0], e.opts.Listener)
	if e.node != nil {
		fds = append(fds, e.node.fd)
	}
	for _, r := range e.receivers {
		if r.socket != nil {
			fds = append(fds, r.socket.FD())
		}
	}
	if e.beats != nil {
		fds = e.beats.descriptors(fds)
	}
	e.descriptors = fds
	before := time.Now()
	if err := e.waiter.sleep(e.untilDeadline(), fds...); err != nil {
		return err
	}
	e.breathe(before)
	return nil
}

// breathe lets the rest of the machine run when this real-time process has found
// no reason to sleep for long: in a flood of adverts, or for a fault of its own.
func (e *elector) breathe(before time.Time) {
	now := time.Now()
	if now.Sub(before) >= minSleep {
		e.awakeSince = now
	}
	if now.Sub(e.awakeSince) < maxAwake {
		return
	}
	e.breaths++
	e.awakeSince = now.Add(breath)
	time.Sleep(breath)
}

// untilDeadline returns how long nothing is due.
func (e *elector) untilDeadline() time.Duration {
	now := time.Now()
	wait := time.Second
	var announceAt time.Time
	if e.announcer != nil {
		announceAt = e.announcer.Deadline()
	}
	for _, at := range [...]time.Time{e.deadline(), e.retryAt, announceAt} {
		if !at.IsZero() {
			wait = min(wait, at.Sub(now))
		}
	}
	if e.node != nil {
		wait = min(wait, e.reportAt.Sub(now))
	}
	return max(wait, 0)
}

func (e *elector) deadline() time.Time {
	if e.group == nil {
		return time.Time{}
	}
	return e.group.Deadline()
}

// round does one turn: what waits in the sockets first, then the node's wishes,
// then the timers. After a stall this order decides whether a living MASTER is
// recognised.
func (e *elector) round() {
	now := time.Now()
	for _, r := range e.receivers {
		e.drain(now, r)
	}
	if e.beats != nil {
		e.drainHeartbeats(now)
	}
	e.commands(now)
	now = time.Now()
	if e.group != nil {
		if at := e.group.Deadline(); !at.IsZero() && !now.Before(at) {
			e.step(now, vrrp.Input{Tick: true})
		}
		e.announce(now)
		e.checkNode(now)
	}
	if e.anyBroken() {
		if e.retryAt.IsZero() || !now.Before(e.retryAt) {
			e.retryAt = now.Add(retryInterval)
			e.open(now)
		}
	} else {
		e.retryAt = time.Time{}
	}
	if e.node != nil && !now.Before(e.reportAt) {
		e.report(now)
	}
}

// checkNode yields the role when the node has been away for too long, or is there
// and has said nothing: it hangs.
func (e *elector) checkNode(now time.Time) {
	away := now.Sub(e.obeyedAt)
	if !e.orphanedAt.IsZero() {
		away = now.Sub(e.orphanedAt)
	}
	if away > nodeGrace && e.group.State() != vrrp.Initialize {
		e.opts.Log.Warn("the node process is gone or hangs; giving up the role", "silent", away)
		e.stop(vrrp.ReasonNodeLost)
	}
	if away > orphanLife && !e.orphanedAt.IsZero() {
		e.stopping = true
	}
}

// acceptNodes takes the connections that wait; the newest is the node's.
func (e *elector) acceptNodes(now time.Time) {
	for range backlog {
		conn, err := accept(e.opts.Listener)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			e.opts.Log.Warn("a connection was refused", "error", err)
			continue
		case e.node != nil:
			e.node.close()
		}
		e.node, e.orphanedAt, e.obeyedAt, e.reportAt = conn, time.Time{}, now, now
	}
}

// addressed tells, without waiting, whether a node has connected or said something. To
// accept in vain costs the kernel a socket each time, and a BACKUP wakes up for every
// advert: it was a fifth of all its work.
func (e *elector) addressed() bool {
	e.nodeFDs = append(e.nodeFDs[:0], unix.PollFd{Fd: int32(e.opts.Listener), Events: unix.POLLIN})
	if e.node != nil {
		e.nodeFDs = append(e.nodeFDs, unix.PollFd{Fd: int32(e.node.fd), Events: unix.POLLIN})
	}
	n, err := unix.Poll(e.nodeFDs, 0)
	return n > 0 || err != nil
}

// commands takes new connections and obeys the node.
func (e *elector) commands(now time.Time) {
	if !e.addressed() {
		return
	}
	e.acceptNodes(now)
	for e.node != nil {
		cmd, ok, err := e.node.receive(e.commandBuf)
		if err != nil {
			if !errors.Is(err, errGone) {
				e.opts.Log.Warn("the node's connection is broken", "error", err)
			}
			e.dropNode(now)
			return
		}
		if !ok {
			return
		}
		e.obey(now, cmd)
	}
}

func (e *elector) dropNode(now time.Time) {
	e.node.close()
	e.node, e.orphanedAt = nil, now
}

func (e *elector) obey(now time.Time, cmd Command) {
	e.obeyedAt = now
	if cmd.Configure != nil {
		e.configure(now, *cmd.Configure)
	}
	if cmd.Fitness != nil && e.group != nil {
		e.step(now, vrrp.Input{Fitness: &cmd.Fitness.Fitness})
		e.step(now, vrrp.Input{Links: e.links(cmd.Fitness.Down)})
		e.reportAt = now
	}
	if e.group != nil && e.group.State() == vrrp.Initialize && !cmd.Stop {
		// A node that had been given up is back.
		e.since = now
		e.step(now, vrrp.Input{Start: true})
	}
	if cmd.Handover {
		e.handOver(now)
	}
	if cmd.Stop {
		e.stopping = true
	}
}

// handOver offers the role and reports what came of it at once.
func (e *elector) handOver(now time.Time) {
	e.handoverError = "this elector has no configuration yet"
	if e.group != nil {
		e.handoverError = ""
		if err := e.try(now, vrrp.Input{Handover: true}); err != nil {
			e.handoverError = err.Error()
		}
	}
	e.report(now)
	e.handoverError = ""
}

// links tells which carriers are up.
func (e *elector) links(down []string) []bool {
	up := make([]bool, len(e.carriers))
	for i, c := range e.carriers {
		up[i] = !slices.Contains(down, c.cfg.Name)
	}
	return up
}

// configure takes a configuration over without an election; the first one starts
// the group.
func (e *elector) configure(now time.Time, cfg Configuration) {
	e.reportAt = now
	err := cfg.validate()
	var out vrrp.Output
	group := cfg.group()
	if err == nil && e.group == nil {
		e.group, err = vrrp.NewGroup(group)
	} else if err == nil {
		out, err = e.group.Reconfigure(now, group)
	}
	if err != nil {
		e.configError = err.Error()
		e.opts.Log.Error("the configuration was refused; the last one stays", "error", err)
		return
	}
	e.configError = ""
	e.replaceCarriers(now, cfg)
	e.cfg = cfg
	e.replaceRecorder(now)
	e.note(now, vrrp.Input{Configure: &group})
	e.open(now)
	// Only now, so that what it sends says what the new configuration says.
	e.apply(now, out)
}

// replaceRecorder begins or ends a recording.
func (e *elector) replaceRecorder(now time.Time) {
	if e.recorder != nil && e.recorder.path == e.cfg.Record {
		return
	}
	if e.recorder != nil {
		e.recorder.close()
		e.recorder = nil
	}
	if e.cfg.Record == "" || e.group.State() != vrrp.Initialize {
		return // a recording that begins in the middle cannot be replayed
	}
	recorder, err := newRecorder(e.cfg.Record, now, e.opts.Log)
	if err != nil {
		e.opts.Log.Error("the election is not recorded", "error", err)
		return
	}
	e.recorder = recorder
}

// step lets the group take an input and does what it asks for.
func (e *elector) step(now time.Time, in vrrp.Input) {
	if err := e.try(now, in); err != nil {
		e.opts.Log.Error("the group refused an input", "error", err)
	}
}

// try is step for what may be refused.
func (e *elector) try(now time.Time, in vrrp.Input) error {
	e.note(now, in)
	out, err := e.group.Step(now, in)
	e.apply(now, out)
	return err
}

// note records an input.
func (e *elector) note(now time.Time, in vrrp.Input) {
	if e.recorder != nil {
		e.recorder.record(now, in)
	}
}

// apply does what the state machine asks for, in the order of the fields.
func (e *elector) apply(now time.Time, out vrrp.Output) {
	if out.Revoke {
		e.revoke()
	}
	if out.Advertise {
		e.advertise(now, out.Priority)
	}
	if out.Renew && !out.Advertise {
		e.renew(now)
	}
	if out.Ask {
		e.ask()
	}
	if out.Heartbeat && e.beats != nil {
		e.beats.send(e.group.Heartbeat(now))
	}
	if out.Announce {
		e.announcer.Start(now)
		e.announce(now)
	}
	if t := out.Transition; t != nil {
		if t.From == vrrp.Master {
			e.announcer.Stop()
		}
		e.since, e.reason, e.reportAt = now, t.Reason, now
		e.opts.Log.Info("role changed", "from", t.From, "to", t.To, "reason", t.Reason, "term", t.Term)
	}
}

// stop leaves in order.
func (e *elector) stop(why vrrp.Reason) {
	if e.group == nil {
		return
	}
	now := time.Now()
	e.step(now, vrrp.Input{Stop: &why})
	e.report(now)
}

func (e *elector) close() {
	for _, c := range e.carriers {
		c.close()
	}
	for _, r := range e.receivers {
		r.close()
	}
	if e.sender != nil {
		_ = e.sender.Close() // nothing can be done about it
	}
	if e.recorder != nil {
		e.recorder.close()
	}
	if e.waiter != nil {
		e.waiter.close()
	}
	if e.beats != nil {
		e.beats.close()
	}
	if e.node != nil {
		e.node.close()
	}
}
