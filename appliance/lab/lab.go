package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// defaultDir is in the laboratory's private /run.
const defaultDir = "/run/tandem-lab"

// maxSocketPath is sun_path of unix(7) without its final zero byte.
const maxSocketPath = 107

// Options says what [New] builds.
type Options struct {
	// Binary is the path of the tandem program.
	Binary string
	// Dir holds document, keys, logs and the nodes' state; it is made if need be
	// and not removed. It should be short, since sockets live under it; empty
	// means a directory in the laboratory's private /run.
	Dir string
	// Interval is the advertisement interval of the document; zero leaves it to
	// the document's default.
	Interval time.Duration
	// Preempt is the document's preempt.
	Preempt bool
	// Clients is the number of addresses of the client, 1 to 100; zero means 1.
	Clients int
	// IPv6 makes the lan and the wan segment dual-stack; see [ServerAddressIPv6].
	IPv6 bool
	// SecondHALink joins the nodes by a second cable, the document's second_ha_link.
	SecondHALink bool
	// SecondUplink is another way to the server, the document's uplink "lte", which costs
	// more than "wan" and may be used by every network; see [SecondUplinkGateway].
	SecondUplink bool
	// SecondNetwork is another network, "dmz", on which [Guest] stands. It takes the second
	// uplink, or the only one, unless GuestUplinks is another line of the document.
	SecondNetwork bool
	GuestUplinks  string
	// LAN, DMZ, WAN, LTE and Election are further lines of the document's networks, uplinks
	// and election, e.g. "vrrp: {virtual_mac: false}".
	LAN, DMZ, WAN, LTE, Election []string
	// Start, if not nil, starts another router's daemons on a node, which may have
	// just been made anew, instead of the tandem program. Whatever they are, faults
	// hit them by their namespace. There are no document, no keys and no API then.
	Start func(ctx context.Context, node string) error
}

// Lab is a running laboratory. Its methods may be called concurrently.
type Lab struct {
	options Options
	fabric  *netlink.Handle

	mu    sync.Mutex
	nodes map[string]*process
	// dead are the nodes without power, cut tells that the HA cable is.
	dead map[string]bool
	cut  bool
}

// New builds the laboratory: namespaces, links, document and keys. The nodes
// are not started yet. It works only [Inside], and the caller must [Lab.Close]
// what it returns; after an error nothing is left.
func New(ctx context.Context, opts Options) (*Lab, error) {
	if !Inside() {
		return nil, errors.New("build laboratory: this process is not inside one; call lab.Enter first")
	}
	if opts.Dir == "" {
		opts.Dir = defaultDir
	}
	if opts.Clients == 0 {
		opts.Clients = 1
	}
	if opts.Clients < 0 || opts.Clients > maxClients {
		return nil, fmt.Errorf("build laboratory: %d clients: must be 1 to %d", opts.Clients, maxClients)
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("build laboratory in %s: %w", opts.Dir, err)
	}
	opts.Dir = dir
	l := &Lab{options: opts, nodes: map[string]*process{}, dead: map[string]bool{}}
	if path := l.SocketPath(Alpha); len(path) > maxSocketPath {
		return nil, fmt.Errorf("build laboratory: socket path %s has %d characters, the kernel takes %d: choose a shorter directory",
			path, len(path), maxSocketPath)
	}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build laboratory: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) error {
	for _, name := range nodeNames() {
		if err := os.MkdirAll(l.stateDir(name), 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	if err := l.buildTopology(); err != nil {
		return err
	}
	if l.options.Start != nil {
		return nil
	}
	return l.writeDocument(ctx)
}

// Namespace returns one of [Client], [Server], [Guest], [Alpha], [Bravo] and [Fabric].
func (l *Lab) Namespace(name string) Namespace { return Namespace{name: name} }

// ConfigPath is where the pair's document is.
func (l *Lab) ConfigPath() string { return filepath.Join(l.options.Dir, "pair.yaml") }

// KeyPath is where a node's private key is.
func (l *Lab) KeyPath(node string) string { return filepath.Join(l.options.Dir, node+".key") }

// LogPath is where a node's output goes, all its runs in one file.
func (l *Lab) LogPath(node string) string { return filepath.Join(l.options.Dir, node+".log") }

// SocketPath is the unix socket of a node's API.
func (l *Lab) SocketPath(node string) string { return filepath.Join(l.stateDir(node), "api.sock") }

func (l *Lab) stateDir(node string) string { return filepath.Join(l.options.Dir, node) }

// Close kills every process in the laboratory's namespaces and removes these;
// the kernel takes down their links soon after.
// What is not there is no error, so that it serves a half-built laboratory and
// may be called twice.
func (l *Lab) Close() error {
	var errs []error
	names := l.namespaceNames()
	for _, name := range names {
		errs = append(errs, l.killNode(name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.nodes)
	if l.fabric != nil {
		l.fabric.Close()
		l.fabric = nil
	}
	for _, name := range names {
		errs = append(errs, deleteNamespace(name))
	}
	return errors.Join(errs...)
}
