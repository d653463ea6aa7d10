package fence

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// MinLease and MaxLease bound [Config].Lease. The kernel counts timeouts in
// jiffies and rounds down, so a shorter lease could be none at all.
const (
	MinLease = 10 * time.Millisecond
	MaxLease = 10 * time.Minute
)

// ErrDown tells that the group has no fence in the kernel: nothing holds its
// virtual links back. [Fence.Ensure] puts it up.
var ErrDown = errors.New("the fence does not stand")

// Config is the wanted fence of one group.
type Config struct {
	// Group names the table, "tandem-{Group}".
	Group string
	// Lease is how long one advertisement opens the fence, in whole milliseconds.
	// The kernel ends it at most a jiffy early and never late.
	Lease time.Duration
	// Links are the virtual links behind the fence.
	Links []Link
}

// Link is one virtual link and the interface that it stands on.
type Link struct {
	// Name is the macvlan, Parent its lower interface.
	Name, Parent string
	// MAC is the virtual MAC address, RFC 9568 §7.3.
	MAC [6]byte
	// Addresses are the virtual addresses. No parent speaks for any address of
	// the group, whichever link it belongs to.
	Addresses []netip.Addr
	// Own are the parent's own addresses, which may always speak.
	Own []netip.Addr
	// IPv6 tells the family of the link's adverts.
	IPv6 bool
}

// MissingDevicesError tells that chains were left out because the kernel has no
// such interfaces. Everything else was done.
type MissingDevicesError struct {
	// Devices are the names, each once, in the order of [Config].Links.
	Devices []string
}

func (e *MissingDevicesError) Error() string {
	return fmt.Sprintf("guard %s: no such interface, so its chains are left out; call Ensure again once it exists",
		strings.Join(e.Devices, ", "))
}

// Fence keeps fences in the network namespace in which it was made. It is safe
// for concurrent use.
type Fence struct {
	namespace netns.NsHandle

	mu    sync.Mutex
	nft   *nftables.Conn
	links *netlink.Handle
}

// New opens the netlink sockets in the network namespace of the calling thread.
// They need CAP_NET_ADMIN.
func New() (*Fence, error) {
	namespace, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	conn, err := connect(namespace)
	if err != nil {
		return nil, errors.Join(err, namespace.Close())
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open route socket: %w", err), conn.CloseLasting(), namespace.Close())
	}
	return &Fence{namespace: namespace, nft: conn, links: handle}, nil
}

func connect(namespace netns.NsHandle) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(namespace)))
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	return conn, nil
}

// renew replaces the connection on which a request has failed: the kernel answers
// each message of a batch, and an answer that was not read would be taken for that
// of the next request, for ever.
func (f *Fence) renew(failed error) error {
	if failed == nil {
		return nil
	}
	conn, err := connect(f.namespace)
	if err != nil {
		return errors.Join(failed, err)
	}
	_ = f.nft.CloseLasting() // it was broken
	f.nft = conn
	return failed
}

// Close closes the sockets. Fences stay in the kernel.
func (f *Fence) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links.Close()
	if err := errors.Join(f.nft.CloseLasting(), f.namespace.Close()); err != nil {
		return fmt.Errorf("close nftables socket: %w", err)
	}
	return nil
}

// Ensure makes the fence of cfg stand, in one transaction, and returns what it
// had to change; nothing if all was well. It adopts what a predecessor left and
// touches only chains that differ, so an open lease stays open.
//
// A [MissingDevicesError] tells that chains were left out; after any other error
// the kernel is as it was before.
func (f *Fence) Ensure(cfg Config) (changed []string, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.diff(cfg)
	if f.renew(err) != nil {
		return nil, err
	}
	if changed = d.changes(); len(changed) > 0 {
		if err := f.renew(f.apply(d)); err != nil {
			return nil, err
		}
	}
	return changed, d.missingError()
}

// Check returns nil if the fence of cfg stands whole and else an error that says
// what is wrong: [ErrDown] if there is none at all.
func (f *Fence) Check(cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.diff(cfg)
	if f.renew(err) != nil {
		return err
	}
	if d.table == create {
		return fmt.Errorf("check table netdev %s: %w", tableName(cfg.Group), ErrDown)
	}
	if changes := d.changes(); len(changes) > 0 {
		return fmt.Errorf("check table netdev %s: it differs from what it should be (to do: %s)",
			tableName(cfg.Group), strings.Join(changes, "; "))
	}
	return d.missingError()
}

// Lease tells whether the group's lease is open and how long it lasts if nothing
// renews it. The error is [ErrDown] if the group has no fence.
func (f *Fence) Lease(group string) (open bool, remaining time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set, err := f.nft.GetSetByName(table(group), setName)
	if errors.Is(err, unix.ENOENT) {
		return false, 0, fmt.Errorf("read the lease of group %s: %w", group, ErrDown)
	}
	if f.renew(err) != nil {
		return false, 0, fmt.Errorf("read the lease of group %s: %w", group, err)
	}
	elements, err := f.nft.GetSetElements(set)
	if f.renew(err) != nil {
		return false, 0, fmt.Errorf("read the lease of group %s: %w", group, err)
	}
	for _, e := range elements {
		// An element that has expired stays until it is collected.
		if string(e.Key) == string(keyBytes()) && e.Expires > remaining {
			open, remaining = true, e.Expires
		}
	}
	return open, remaining, nil
}

// Remove takes the group's fence away; its virtual links must be gone by then. A
// fence that is not there is no error.
func (f *Fence) Remove(group string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := table(group)
	f.nft.AddTable(t)
	f.nft.DelTable(t)
	if err := f.renew(f.nft.Flush()); err != nil {
		return fmt.Errorf("delete table netdev %s: %w", t.Name, err)
	}
	return nil
}

func (c Config) validate() error {
	if c.Group == "" || strings.ContainsAny(c.Group, " \x00") {
		return fmt.Errorf("guard group %q: it is no usable name", c.Group)
	}
	if c.Lease < MinLease || c.Lease > MaxLease || c.Lease%time.Millisecond != 0 {
		return fmt.Errorf("guard group %s: lease %s must be whole milliseconds from %s to %s", c.Group, c.Lease, MinLease, MaxLease)
	}
	seen := make(map[string]bool)
	for _, l := range c.Links {
		if l.Name == "" || l.Parent == "" || l.Name == l.Parent || seen[l.Name] {
			return fmt.Errorf("guard group %s: link %q on %q must have a name of its own and a parent", c.Group, l.Name, l.Parent)
		}
		seen[l.Name] = true
	}
	return nil
}

func tableName(group string) string { return "tandem-" + group }

func table(group string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName(group)}
}

// Guard is the fence of one group with one lease.
type Guard struct {
	fence *Fence
	group string
	lease time.Duration
}

// Guard binds the fence to a group and a lease; see [Config].
func (f *Fence) Guard(group string, lease time.Duration) *Guard {
	return &Guard{fence: f, group: group, lease: lease}
}

// Ensure is [Fence.Ensure] for the group.
func (g *Guard) Ensure(links []Link) (changed []string, err error) {
	return g.fence.Ensure(g.config(links))
}

// Check is [Fence.Check] for the group.
func (g *Guard) Check(links []Link) error { return g.fence.Check(g.config(links)) }

// Remove is [Fence.Remove] for the group.
func (g *Guard) Remove() error { return g.fence.Remove(g.group) }

func (g *Guard) config(links []Link) Config {
	return Config{Group: g.group, Lease: g.lease, Links: links}
}
