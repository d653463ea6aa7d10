package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync/nfqueue"
	"tandem/router"
	"tandem/vrrp/fence"
)

// maxRounds bounds how often Apply looks again after changes: one change can undo
// another object, as setting a link down takes its routes away.
const maxRounds = 4

// Fencer puts up and takes down the group's fence; [fence.Guard] does.
type Fencer interface {
	// Ensure makes the fence stand around the links. A
	// [fence.MissingDevicesError] is no failure.
	Ensure(links []fence.Link) (changed []string, err error)
	// Check returns nil if it stands.
	Check(links []fence.Link) error
	// Remove takes it away.
	Remove() error
}

// Options are the parameters of [New]; all are required.
type Options struct {
	// Group marks every object; see [router.Intent].
	Group string
	// StateDir is an existing directory that survives reboots. The file
	// kernel-{Group}.json in it holds the original sysctls.
	StateDir string
	// Fence is put up before any virtual link comes up.
	Fence Fencer
	// Logger gets every change at level info.
	Logger *slog.Logger
}

// Report says what an Apply did and what stood in its way.
type Report struct {
	// Changed are the changes in the order in which they were made.
	Changed []string
	// Missing are interfaces that the intent names and that do not exist. What
	// depends on them was left out, the rest was done.
	Missing []string
	// Conflicts are sentences about objects of others that stand where ours should,
	// and what to do. What depends on them was left out.
	Conflicts []string
	// FirstPackets tells of the table that picks the first packets of flows.
	FirstPackets FirstPackets
}

// Reconciler keeps one network namespace in the intended state. It is safe for
// concurrent use.
type Reconciler struct {
	group  string
	path   string
	fence  Fencer
	logger *slog.Logger

	namespace netns.NsHandle
	// socket is for what the handle cannot express.
	socket *nl.NetlinkSocket

	// mu serialises changes; query is only for LinkState, which must not wait for
	// them.
	mu     sync.Mutex
	links  *netlink.Handle
	nft    *nftables.Conn
	first  *nfqueue.Rules
	memory memory
	raised map[int]bool
	// helpers are the connection tracking helpers that were looked for.
	helpers map[helperKey]helperFound
	// marks tells that this kernel was seen to keep our mark on an address.
	marks bool

	queryMu sync.Mutex
	query   *netlink.Handle
	// carriers is for Carries; nil until it is needed.
	carriers *carrierSocket
}

// New opens the netlink sockets in the network namespace of the calling thread,
// which all later calls act on, and reads what a predecessor remembered.
func New(o Options) (*Reconciler, error) {
	if o.Group == "" || o.StateDir == "" || o.Fence == nil || o.Logger == nil {
		return nil, errors.New("open the kernel: group, state directory, fence and logger are required")
	}
	r := &Reconciler{
		group: o.Group, path: filepath.Join(o.StateDir, "kernel-"+o.Group+".json"),
		fence: o.Fence, logger: o.Logger, namespace: netns.None(), raised: make(map[int]bool),
		helpers: make(map[helperKey]helperFound),
	}
	if err := r.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the kernel: %w", err), r.Close())
	}
	return r, nil
}

func (r *Reconciler) open() (err error) {
	if r.memory, err = loadMemory(r.path); err != nil {
		return err
	}
	if r.namespace, err = netns.Get(); err != nil {
		return err
	}
	if r.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if r.query, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if r.socket, err = nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if r.first, err = nfqueue.NewRules(r.group); err != nil {
		return err
	}
	r.nft, err = openNetfilter()
	return err
}

// Close closes the sockets; everything stays in the kernel.
func (r *Reconciler) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queryMu.Lock()
	defer r.queryMu.Unlock()
	if r.links != nil {
		r.links.Close()
	}
	if r.query != nil {
		r.query.Close()
	}
	if r.carriers != nil {
		r.carriers.close()
	}
	if r.socket != nil {
		r.socket.Close()
	}
	var err error
	if r.nft != nil {
		err = r.nft.CloseLasting()
	}
	if r.first != nil {
		err = errors.Join(err, r.first.Close())
	}
	if r.namespace.IsOpen() {
		err = errors.Join(err, r.namespace.Close())
	}
	return err
}

// Apply brings the kernel into the intended state. It is idempotent: where
// nothing differs, nothing is touched. Missing interfaces and conflicts are
// reported and no error; the error names every change that the kernel refused.
func (r *Reconciler) Apply(ctx context.Context, intent router.Intent) (Report, error) {
	if intent.Group != r.group {
		return Report{}, fmt.Errorf("apply intent of group %q: this node keeps group %q", intent.Group, r.group)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var report Report
	report.Changed, report.FirstPackets = r.holdFirst(intent)
	intent, lacking := r.withHelpers(r.withMTUs(intent))
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		seen, err := r.observe(intent)
		if err != nil {
			return report, err
		}
		if err := r.rememberOriginals(intent, seen); err != nil {
			return report, err
		}
		ops, round := plan(intent, seen)
		report.Missing, report.Conflicts = round.Missing, append(round.Conflicts, lacking...)
		changed, err := r.execute(ctx, ops, intent)
		report.Changed = append(report.Changed, changed...)
		r.noteRaised(intent, seen)
		if err != nil {
			return report, err
		}
		if len(changed) == 0 {
			// An interface that is no parent any more gets its own settings back.
			return report, r.restoreSysctls(lastingSettings(intent, seen))
		}
	}
	return report, fmt.Errorf("apply intent of group %s: the kernel still differs after %d rounds (last: %s); something else changes it",
		r.group, maxRounds, report.Changed[len(report.Changed)-1])
}

// rememberOriginals saves what a sysctl was before the first change to it.
func (r *Reconciler) rememberOriginals(intent router.Intent, seen observed) error {
	next := r.memory.clone()
	next.remember(lastingSettings(intent, seen), seen.sysctls)
	return r.keep(next)
}

// keep makes next the memory, on disk first.
func (r *Reconciler) keep(next memory) error {
	if next.equal(r.memory) {
		return nil
	}
	if err := next.save(r.path); err != nil {
		return err
	}
	r.memory = next
	return nil
}

// noteRaised remembers which ports were set up once.
func (r *Reconciler) noteRaised(intent router.Intent, seen observed) {
	ports := make(map[string]bool)
	for _, p := range intent.Ports {
		ports[p.Interface] = true
	}
	for _, v := range intent.VirtualLinks {
		ports[v.Parent] = true
	}
	for _, l := range seen.links {
		if ports[l.name] {
			r.raised[l.index] = true
		}
	}
}
