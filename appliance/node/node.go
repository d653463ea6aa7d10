package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/appliance/status"
	"tandem/conntracksync/ctnetlink"
	"tandem/conntracksync/peer"
	"tandem/router"
	"tandem/router/config"
	"tandem/router/kernel"
	"tandem/vrrp"
	"tandem/vrrp/fence"
)

// Options describe a node to [Run].
type Options struct {
	// Document is the path of the pair's document.
	Document string
	// Name is the member of the document that this node is.
	Name string
	// Key is the path of the node's private key; unused by a single router.
	Key string
	// StateDir is a directory of the node's own, made if it is missing.
	StateDir string
	// Record is the file to which the inputs of the election are written; empty for
	// none.
	Record string
	// Version is the build's version.
	Version string
	Log     *slog.Logger
}

// shutdownTime bounds an orderly stop: handover, priority 0, removal of what is
// ours.
const shutdownTime = 5 * time.Second

// node is a running node.
type node struct {
	opts Options
	// current is what follows from the document that is in force.
	current  atomic.Pointer[setup]
	identity *peer.Identity
	log      *slog.Logger

	kernel  *kernel.Reconciler
	fence   *fence.Fence
	guard   *fence.Guard
	elector *electorLink
	uplinks *uplinks
	sync    *replication
	// table reads numbers about the kernel's sessions; nil if it has none.
	table    *ctnetlink.Reader
	observer observer
	events   *eventLog
	// reloading serialises changes of the document.
	reloading sync.Mutex
	// subscribers counts those who follow the events.
	subscribers atomic.Int32

	// mu guards what the loops report to each other.
	mu    sync.Mutex
	state state
	// kick asks the reconciler for a round, linkEvents the link loop for a look.
	kick, linkEvents chan struct{}
	// programmed is closed after the first round of the reconciler.
	programmed chan struct{}
	first      sync.Once
}

// state is what the loops know; guarded by node.mu.
type state struct {
	health router.Health
	// links tells which segments have a link that is up.
	links     map[string]bool
	missing   []string
	conflicts []string
	// firstPackets is the kernel's part of holding first packets.
	firstPackets kernel.FirstPackets
	kernelErr    string
	reconciled   bool
	// tamperedAt is when somebody else last changed the fence, tampering what they did;
	// tampered counts.
	tamperedAt time.Time
	tampering  string
	tampered   uint64
	// roundAt is when the reconciler last finished a round.
	roundAt time.Time
	// judgedAt is when the links were first looked at, risen those that were up since
	// or have had their time to come up.
	judgedAt time.Time
	risen    map[string]bool
}

// Run is a node until ctx ends; then it leaves in order and takes everything of
// its own out of the kernel. The error is one sentence for the user.
func Run(ctx context.Context, opts Options) error {
	n, unlock, err := prepare(opts)
	if err != nil {
		return err
	}
	defer unlock()
	// The loops outlive ctx: an orderly stop needs them.
	loops, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g, loops := errgroup.WithContext(loops)
	g.Go(func() error { return n.reconcileLoop(loops) })
	g.Go(func() error { return n.linkLoop(loops) })
	g.Go(func() error { return n.fenceLoop(loops) })
	g.Go(func() error { return n.elector.run(loops) })
	g.Go(func() error { return n.uplinks.run(loops) })
	if n.sync != nil {
		g.Go(func() error { return n.sync.run(loops) })
	}
	g.Go(func() error { return n.serveAPI(loops) })
	g.Go(func() error { return n.observe(loops) })
	g.Go(func() error {
		select {
		case <-loops.Done():
			return nil
		case <-ctx.Done():
		}
		n.leave(loops)
		cancel()
		return nil
	})
	err = g.Wait()
	if n.table != nil {
		_ = n.table.Close() // the process is ending
	}
	n.cleanUp()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// prepare reads and checks everything before anything is touched.
func prepare(opts Options) (*node, func(), error) {
	if err := checkPrivileges(); err != nil {
		return nil, nil, err
	}
	doc, err := loadDocument(opts.Document)
	if err != nil {
		return nil, nil, err
	}
	if _, ok := doc.Member(opts.Name); !ok {
		return nil, nil, fmt.Errorf("%s has no member %q; it has %s: give one of them with --node", opts.Document, opts.Name, memberNames(doc))
	}
	first, err := newSetup(doc, opts.Name)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := claim(opts.StateDir, doc.Group)
	if err != nil {
		return nil, nil, err
	}
	n := &node{
		state: state{risen: make(map[string]bool)}, opts: opts, log: opts.Log,
		kick: make(chan struct{}, 1), linkEvents: make(chan struct{}, 1), programmed: make(chan struct{}), events: newEventLog(opts.Name),
		observer: observer{kick: make(chan struct{}, 1)},
	}
	n.current.Store(first)
	if err := n.build(); err != nil {
		unlock()
		return nil, nil, err
	}
	return n, unlock, nil
}

// build makes the parts; none of them runs yet.
func (n *node) build() error {
	var err error
	if n.fence, err = fence.New(); err != nil {
		return fmt.Errorf("open the fence: %w; does this kernel have nftables (CONFIG_NF_TABLES)?", err)
	}
	n.guard = n.fence.Guard(n.doc().Group, n.lease())
	n.kernel, err = kernel.New(kernel.Options{
		Group: n.doc().Group, StateDir: n.opts.StateDir, Fence: n.guard, Logger: n.log,
	})
	if err != nil {
		return fmt.Errorf("open the kernel: %w", err)
	}
	member, _ := n.doc().Member(n.opts.Name)
	if other, ok := n.doc().Peer(n.opts.Name); ok {
		if n.identity, err = loadIdentity(n.opts.Key, member); err != nil {
			return err
		}
		if n.sync, err = newReplication(n, other); err != nil {
			return err
		}
	}
	if n.table, err = ctnetlink.NewReader(); err != nil {
		n.log.Warn("the number of sessions will not be known", "error", err)
		n.table = nil
	}
	if n.uplinks, err = newUplinks(n); err != nil {
		return err
	}
	cfg, err := n.electorConfiguration()
	if err != nil {
		return err
	}
	n.elector = newElectorLink(n, cfg)
	return nil
}

// beat is the time between a MASTER's heartbeats; zero if they come with the adverts.
func (n *node) beat() time.Duration {
	if n.doc().HALink == nil {
		return 0
	}
	return vrrp.BeatFor(n.doc().Election.AdvertisementInterval)
}

func (n *node) lease() time.Duration {
	if beat := n.beat(); beat > 0 {
		return vrrp.BeatLease(beat)
	}
	return vrrp.LeaseFor(n.doc().Election.AdvertisementInterval)
}

// leave is the orderly stop: hand the role over if somebody can take it, so that
// nothing is felt, else say goodbye with priority 0.
func (n *node) leave(ctx context.Context) {
	n.events.add(status.Event{Kind: status.EventNode, Reason: "the node stops"})
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	if _, err := n.failover(ctx); err != nil && !errors.Is(err, errNotMaster) {
		n.log.Info("leaving without a handover", "reason", err)
	}
	n.elector.stop(ctx)
}

// cleanUp takes everything of ours out of the kernel. It runs after the loops
// have ended; the elector has closed the lease by then.
func (n *node) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if n.elector.running() || electorRuns(n.doc().Group) {
		// The elector could not be stopped: it stays MASTER for its grace time, and
		// what it needs must stay too.
		n.log.Warn("the elector is still running; leaving the kernel as it is")
		return
	}
	if err := n.kernel.Remove(ctx); err != nil {
		n.log.Error("the kernel could not be restored completely", "error", err)
	}
}

func (n *node) path(name string) string { return filepath.Join(n.opts.StateDir, name) }

// loadDocument reads and checks the pair's document.
func loadDocument(path string) (*config.Document, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no document at %s: name an existing one with --config", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	return config.Parse(path, text)
}
