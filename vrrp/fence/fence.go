package fence

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
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
	// Name is the macvlan, Parent its lower interface. If they are the same there
	// is no macvlan: the virtual addresses stand on the parent, and the link's
	// family is fenced by address.
	Name, Parent string
	// MAC is the virtual MAC address, RFC 9568 §7.3; unused if Name is Parent.
	MAC [6]byte
	// Addresses are the virtual addresses. No parent speaks for any address of
	// the group, whichever link it belongs to; a link-local one concerns the
	// link's own parent only, for it may be the same on several.
	Addresses []netip.Addr
	// Own are the node's own addresses on Parent, of both families and the
	// link-local one included. They matter if Name is Parent: they may always
	// speak, and an advert from one of them moves the lease. All other IP traffic
	// of the family passes only while the lease is held.
	Own []netip.Addr
	// IPv6 tells the family of the link's adverts.
	IPv6 bool
	// VRID, if Name is Parent, tells whose adverts move the lease: another VRRP
	// speaker of this node may use the interface, too. 0 means everybody's.
	VRID uint8
}

// ownMAC tells that there is no macvlan.
func (l Link) ownMAC() bool { return l.Name == l.Parent }

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
	ioctl     int
	// port is the netlink port of socket.
	port atomic.Uint32

	mu sync.Mutex
	// nft and socket are the same connection: the library does not let tables have
	// an owner, and that is the socket which made them.
	nft    *nftables.Conn
	socket *netlink.Conn
	// persist tells that the kernel can protect tables.
	persist bool
}

// New opens the netlink sockets in the network namespace of the calling thread.
// They need CAP_NET_ADMIN.
func New() (*Fence, error) {
	namespace, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	ioctl, err := ioctlSocket()
	if err != nil {
		return nil, errors.Join(err, namespace.Close())
	}
	f := &Fence{namespace: namespace, ioctl: ioctl}
	if err := f.connect(); err != nil {
		return nil, errors.Join(err, closeAll(namespace, ioctl))
	}
	f.persist = f.canPersist()
	return f, nil
}

// Close closes the sockets. Fences stay in the kernel, and whoever comes next
// adopts them.
func (f *Fence) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.nft.CloseLasting(), closeAll(f.namespace, f.ioctl)); err != nil {
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
	if slices.ContainsFunc(d.steps, func(s step) bool { return s.action == rebuild && s.chain.hook == nil }) {
		// What others jump to cannot be deleted alone.
		d.table = rebuild
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
	if !d.whole() {
		return fmt.Errorf("check table netdev %s: it differs from what it should be (to do: %s)",
			tableName(cfg.Group), strings.Join(d.changes(), "; "))
	}
	return d.missingError()
}

// Lease tells whether the group's lease is open and how long it lasts if nothing
// renews it. The error is [ErrDown] if the group has no fence.
func (f *Fence) Lease(group string) (open bool, remaining time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.leaseState(group)
	if f.renew(err) != nil {
		return false, 0, fmt.Errorf("read the lease of group %s: %w", group, err)
	}
	if !s.usable {
		return false, 0, fmt.Errorf("read the lease of group %s: %w", group, ErrDown)
	}
	return s.open, s.remaining, nil
}

// Protected tells whether the group's table belongs to this Fence, so that nobody
// else can change it and `nft flush ruleset` leaves it alone. That takes Linux 6.9.
// Otherwise [Fence.Watch] is all there is. The error is [ErrDown] if the group has
// no fence.
func (f *Fence) Protected(group string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.tableState(group)
	if f.renew(err) != nil {
		return false, err
	}
	if !s.exists {
		return false, fmt.Errorf("read table netdev %s: %w", tableName(group), ErrDown)
	}
	return s.persistent() && s.owner == f.port.Load(), nil
}

// Remove takes the group's fence away; its virtual links must be gone by then. A
// fence that is not there is no error.
func (f *Fence) Remove(group string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.tableState(group)
	if f.renew(err) != nil {
		return err
	}
	if !s.exists {
		return nil
	}
	b := &batch{table: tableName(group)}
	b.deleteTable()
	if err := f.renew(f.send(b)); err != nil {
		return fmt.Errorf("delete table netdev %s: %w", tableName(group), err)
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
		if l.Name == "" || l.Parent == "" {
			return fmt.Errorf("guard group %s: link %q on %q must have a name and a parent", c.Group, l.Name, l.Parent)
		}
		if l.ownMAC() {
			if !slices.ContainsFunc(l.Own, func(a netip.Addr) bool { return plain(a).Is6() == l.IPv6 }) {
				return fmt.Errorf("guard group %s: link %q without a virtual MAC address needs an own address of its family, for no advert could open the fence", c.Group, l.Name)
			}
			continue
		}
		if seen[l.Name] {
			return fmt.Errorf("guard group %s: there are two links %q", c.Group, l.Name)
		}
		seen[l.Name] = true
	}
	return nil
}

func tableName(group string) string { return "tandem-" + group }

func table(group string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName(group)}
}
