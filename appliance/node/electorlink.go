package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/status"
	"tandem/router"
	"tandem/router/config"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

// respawnDelay keeps an elector that dies at once from being started in a loop.
const respawnDelay = 100 * time.Millisecond

// electorSilence is how long the elector may say nothing; it reports twice a second.
const electorSilence = 3 * time.Second

// forgedMemory is for how long at least a heartbeat with a wrong signature is shown
// as a problem: a stranger's single packet must not be one for ever.
const forgedMemory = 2 * time.Second

// electorLink supervises the elector process and talks to it.
type electorLink struct {
	node *node
	cfg  elector.Configuration

	mu      sync.Mutex
	client  *elector.Client
	report  elector.Report
	fitness elector.Fitness
	// became and released count masterships that began and ended.
	became, released uint64
	// forgedAt is when the elector last counted a heartbeat with a wrong signature.
	forgedAt time.Time
	// changed is closed and replaced whenever report changes.
	changed  chan struct{}
	stopping bool
	// child is closed when the elector that this process started has ended; nil
	// if it was started by a predecessor.
	child chan struct{}
}

func newElectorLink(n *node, cfg elector.Configuration) *electorLink {
	// Until the first round of the reconciler nothing is known to be well.
	return &electorLink{node: n, cfg: cfg, changed: make(chan struct{}), fitness: elector.Fitness{Fitness: vrrp.Fitness{Failed: 1}}}
}

// electorConfiguration translates the document for the elector.
func (n *node) electorConfiguration() (elector.Configuration, error) {
	member, _ := n.doc().Member(n.opts.Name)
	cfg := elector.Configuration{
		Interval: n.doc().Election.AdvertisementInterval, Beat: n.beat(), Lease: n.lease(),
		Priority: member.Priority, Preempt: n.doc().Election.Preempt, PreemptDelay: n.doc().Election.PreemptDelay,
		AnnounceRefresh: n.doc().Election.AnnounceRefresh, Digest: n.digest(), Record: n.opts.Record,
	}
	for _, other := range n.doc().Members {
		if other.Priority < member.Priority {
			cfg.Rank++
		}
	}
	for _, c := range n.carriers() {
		cfg.Carriers = append(cfg.Carriers, elector.Carrier{
			Name: c.Name, Interface: c.Interface, VirtualLink: c.Link, VRID: c.VRID,
			Source: c.Source, Peer: c.Peer, Addresses: c.Addresses,
			Version: uint8(c.VRRP.Version), Checksum: checksum(c.VRRP), Unicast: c.VRRP.Unicast, Authenticate: c.VRRP.Authentication,
		})
	}
	other, paired := n.doc().Peer(n.opts.Name)
	if !paired {
		return cfg, nil
	}
	key, err := n.identity.SharedSecret(other.PublicKey, "tandem heartbeat "+n.doc().Group)
	if err != nil {
		return cfg, fmt.Errorf("derive the heartbeat key: %w", err)
	}
	if cfg.AdvertKey, err = n.identity.SharedSecret(other.PublicKey, "tandem advert "+n.doc().Group); err != nil {
		return cfg, fmt.Errorf("derive the key of the adverts: %w", err)
	}
	cfg.Heartbeat, err = n.heartbeatLinks()
	if err != nil {
		return cfg, err
	}
	cfg.Heartbeat.Key = key
	return cfg, nil
}

// heartbeatLinks tells the elector of the HA links.
func (n *node) heartbeatLinks() (*elector.Heartbeat, error) {
	links, err := router.HALinks(n.doc(), n.opts.Name)
	if err != nil {
		return nil, err
	}
	h := &elector.Heartbeat{}
	for i, l := range links {
		way := elector.HeartbeatLink{
			Interface: l.Interface,
			Local:     netip.AddrPortFrom(l.Prefix.Addr(), l.Port), Remote: netip.AddrPortFrom(l.Peer, l.Port),
		}
		if i == 0 {
			h.HeartbeatLink = way
		} else {
			h.Second = &way
		}
	}
	return h, nil
}

// digest identifies the document in the heartbeats.
func (n *node) digest() (digest [vrrp.DigestSize]byte) {
	hash, _ := hex.DecodeString(n.hash()) // it is hexadecimal
	copy(digest[:], hash)
	return digest
}

func checksum(v config.VRRP) vrrp.Checksum {
	if v.Checksum == config.ChecksumPseudoHeader {
		return vrrp.ChecksumPseudoHeader
	}
	return vrrp.ChecksumPlain
}

// run keeps an elector running and connected until ctx ends.
func (l *electorLink) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := l.attach(ctx); err != nil {
			return err
		}
		err := l.listen(ctx)
		if ctx.Err() != nil || l.isStopping() {
			return nil
		}
		l.node.log.Error("the elector is gone; starting another", "error", err)
		l.node.events.add(status.Event{Kind: status.EventElector, Reason: "the elector is gone; starting another: " + oneLine(err)})
		select {
		case <-ctx.Done():
		case <-time.After(respawnDelay):
		}
	}
	return nil
}

// attach connects to the elector of a predecessor, or starts one.
func (l *electorLink) attach(ctx context.Context) error {
	path := l.node.path(elector.SocketName)
	client, err := elector.Dial(path)
	switch {
	case err == nil:
		l.node.log.Info("adopted the running elector")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		if err = l.spawn(path); err == nil {
			client, err = elector.Dial(path)
		}
	}
	if err != nil {
		return fmt.Errorf("start the elector: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = client.Close() }) // ends listen; nothing else uses it then
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = client
	if err := client.Send(elector.Command{Configure: &l.cfg, Fitness: &l.fitness}); err != nil {
		l.node.log.Error("the elector does not listen", "error", err)
	}
	return nil
}

// spawn starts an elector in a session of its own, so that neither a signal to
// the node's terminal nor the node's death reaches it.
func (l *electorLink) spawn(path string) error {
	listener, err := elector.Listen(path)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // the child has its own copy
	name, err := holdElector(l.node.doc().Group)
	if err != nil {
		return err
	}
	defer func() { _ = name.Close() }() // as above
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(self, "elect", "--listener", "3")
	cmd.ExtraFiles = []*os.File{listener, name}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s elect: %w", self, err)
	}
	done := make(chan struct{})
	go func() {
		err := cmd.Wait()
		l.node.log.Info("the elector ended", "status", err)
		close(done)
	}()
	l.mu.Lock()
	l.child = done
	l.mu.Unlock()
	return nil
}

// listen takes reports until the connection breaks.
func (l *electorLink) listen(ctx context.Context) error {
	l.mu.Lock()
	client := l.client
	l.mu.Unlock()
	defer l.disconnect(client)
	for {
		r, err := l.receive(client)
		if err != nil {
			return err
		}
		l.mu.Lock()
		before := l.report
		l.report = r
		if r.PID == before.PID && forged(r) > forged(before) || r.PID != before.PID && forged(r) > 0 {
			l.forgedAt = time.Now()
		}
		l.count(before.State, r.State)
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		l.node.observer.wake()
		if before.Peer.Priority != r.Peer.Priority || before.Peer.Ready != r.Peer.Ready {
			signal(l.node.uplinks.kick) // a switch may have waited for the peer
		}
		if before.State != r.State || before.Term != r.Term {
			l.node.log.Info("role", "role", r.State, "reason", r.Reason, "term", r.Term)
			l.node.events.add(roleEvent(before, r))
			signal(l.node.uplinks.kick)
			l.node.rejudge() // a MASTER and a BACKUP are judged differently
		}
		if before.State != r.State && r.State == vrrp.Master {
			l.node.forgetUnresolved()
		}
		if l.node.sync != nil {
			l.node.sync.setRole(roleChange{master: r.State == vrrp.Master, term: r.Term})
		}
	}
}

// receive waits for a report. An elector that is silent for twice as long as it may
// hangs: its lease has run out long ago, and it is ended so that another can start.
// Once would not do: this process may have been stopped and not the elector.
func (l *electorLink) receive(client *elector.Client) (elector.Report, error) {
	for silent := 0; ; silent++ {
		r, err := client.Receive(electorSilence)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return r, err
		}
		if silent == 0 {
			continue
		}
		l.mu.Lock()
		pid := l.report.PID
		l.mu.Unlock()
		if pid == 0 {
			return r, err
		}
		// Its end of the connection is open, so the number is still its own.
		l.node.log.Error("the elector hangs; ending it", "pid", pid, "silent", 2*electorSilence)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return r, fmt.Errorf("end the elector that hangs: %w", err)
		}
	}
}

func (l *electorLink) disconnect(client *elector.Client) {
	_ = client.Close() // it is broken already
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == client {
		l.client = nil
	}
	l.count(l.report.State, vrrp.Initialize)
	l.report.State = vrrp.Initialize
	l.report.Reason = "the elector is not running"
	close(l.changed)
	l.changed = make(chan struct{})
}

// count counts masterships; the caller holds mu.
func (l *electorLink) count(before, after vrrp.State) {
	switch {
	case before == after:
	case after == vrrp.Master:
		l.became++
	case before == vrrp.Master:
		l.released++
	}
}

// masterships returns how many began and ended since the node started.
func (l *electorLink) masterships() (became, released uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.became, l.released
}

// latest returns the newest report, whether the elector is connected, and a
// channel that is closed when that changes.
func (l *electorLink) latest() (elector.Report, bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report, l.client != nil, l.changed
}

func forged(r elector.Report) uint64 { return r.Heartbeats.Dropped[vrrp.HeartbeatForged.String()] }

// forgedLately returns how many heartbeats had a wrong signature; 0 if the newest of
// them is so old that it is no trouble of today.
func (l *electorLink) forgedLately() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgedAt.IsZero() || time.Since(l.forgedAt) > max(forgedMemory, 3*l.cfg.Interval) {
		return 0
	}
	return forged(l.report)
}

// setFitness tells the elector how the node is.
func (l *electorLink) setFitness(f elector.Fitness) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if reflect.DeepEqual(l.fitness, f) {
		return
	}
	l.fitness = f
	l.sendLocked(elector.Command{Fitness: &f})
}

// outranked tells that this node would yield to a peer with this priority.
func (l *electorLink) outranked(priority uint8) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fitness.MayYieldTo(priority)
}

// alive tells the elector that the node is.
func (l *electorLink) alive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendLocked(elector.Command{Alive: true})
}

// configure gives the elector a changed configuration.
func (l *electorLink) configure(cfg elector.Configuration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
	l.sendLocked(elector.Command{Configure: &l.cfg})
}

// reopen makes the elector look for interfaces again.
func (l *electorLink) reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendLocked(elector.Command{Configure: &l.cfg})
}

// sendLocked drops the command when there is no elector: attach repeats the
// configuration and the fitness.
func (l *electorLink) sendLocked(cmd elector.Command) {
	if l.client == nil {
		return
	}
	if err := l.client.Send(cmd); err != nil {
		l.node.log.Error("the elector does not listen", "error", err)
	}
}

var errNotMaster = errors.New("this node is not MASTER; run the command on the MASTER")

// handover asks the elector to give the role to the peer and waits for it.
func (l *electorLink) handover(ctx context.Context) error {
	l.mu.Lock()
	started := l.report.Transitions
	l.report.HandoverError = "" // of an earlier attempt
	l.sendLocked(elector.Command{Handover: true})
	l.mu.Unlock()
	offered := false
	for {
		r, alive, changed := l.latest()
		switch {
		case !alive:
			return errors.New("the elector is not running")
		case r.HandoverError != "":
			return errors.New(r.HandoverError)
		case r.Transitions > started && r.State != vrrp.Master:
			return nil
		case offered && !r.HandingOver && r.State == vrrp.Master:
			return errors.New("the peer did not take the role over; this node stays MASTER")
		}
		offered = offered || r.HandingOver
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the peer to take over: %w", ctx.Err())
		case <-changed:
		}
	}
}

func (l *electorLink) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// stop ends the elector in order and waits for its end.
func (l *electorLink) stop(ctx context.Context) {
	l.mu.Lock()
	l.stopping = true
	l.sendLocked(elector.Command{Stop: true})
	child := l.child
	l.mu.Unlock()
	for {
		_, alive, changed := l.latest()
		if !alive {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
	if child == nil {
		l.awaitAdopted(ctx)
		return
	}
	select {
	case <-ctx.Done():
	case <-child:
	}
}

// awaitAdopted waits for the end of an elector that is no child of this process.
// It takes a while to close its sockets after it has closed its connection.
func (l *electorLink) awaitAdopted(ctx context.Context) {
	ticker := time.NewTicker(claimPause)
	defer ticker.Stop()
	for electorRuns(l.node.doc().Group) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// running tells whether an elector still answers on the socket.
func (l *electorLink) running() bool {
	client, err := elector.Dial(l.node.path(elector.SocketName))
	if err != nil {
		return false
	}
	_ = client.Close() // it was only asked whether it is there
	return true
}
