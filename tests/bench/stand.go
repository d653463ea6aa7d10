package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

const (
	roleMaster = "MASTER"
	roleBackup = "BACKUP"

	echoTCPPort = 7001
	echoUDPPort = 7002
	bulkPort    = 7003

	// The flows of an experiment: 1 000 datagrams a second, and TCP sessions.
	udpFlows    = 5
	udpInterval = 5 * time.Millisecond
	tcpSessions = 20
	tcpInterval = 20 * time.Millisecond

	// look is the pause between two looks at a pair.
	look = 20 * time.Millisecond
	// settle is for how long the traffic runs before the fault, and again after all
	// flows go on, so that what a takeover does late is felt, too.
	settle = 300 * time.Millisecond
	// The bounds below fail an experiment.
	readyPatience  = 40 * time.Second
	resumePatience = 30 * time.Second
	healPatience   = 20 * time.Second
)

func nodes() []string { return []string{lab.Alpha, lab.Bravo} }

func other(node string) string {
	if node == lab.Alpha {
		return lab.Bravo
	}
	return lab.Alpha
}

// product is a pair of routers in a laboratory.
type product interface {
	StartNode(ctx context.Context, node string) error
	Namespace(name string) lab.Namespace
	Processes(name string) []int
	LogPath(node string) string
	// ready waits until there are a MASTER and a BACKUP in good health.
	ready(ctx context.Context) error
	// role is what a node says that it is, empty if it says nothing.
	role(ctx context.Context, node string) string
	// replicated is the number of sessions that the BACKUP could take over.
	replicated(ctx context.Context, node string) (int, error)
	// masterships counts up whenever a node becomes MASTER.
	masterships(ctx context.Context) (uint64, error)
	inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error)
	heal(ctx context.Context, fault lab.Fault, node string) error
	Inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error)
	Heal(ctx context.Context, fault lab.Fault, node string) error
}

// stand is a product with clients and a server.
type stand struct {
	product
	binary string
	server *traffic.Server
	// loader is made when the replication is measured first.
	loader *loader
}

// newStand builds a laboratory, starts the pair and waits until it is ready.
func newStand(ctx context.Context, name string, advert setting, binary string) (*stand, error) {
	dir := filepath.Join(os.TempDir(), "pair") // the worker's own
	var p product
	var err error
	switch name {
	case systemTandem:
		p, err = newTandem(ctx, advert, dir, binary)
	case systemKeepalived:
		p, err = newKeepalived(ctx, advert, dir, usual)
	case systemConntrackd:
		p, err = newKeepalived(ctx, advert, dir, large)
	case systemDirect:
		p, err = newKeepalived(ctx, advert, dir, direct)
	default:
		err = fmt.Errorf("there is no product %q", name)
	}
	if err != nil {
		return nil, err
	}
	s := &stand{product: p, binary: binary}
	for _, node := range nodes() {
		if err := s.StartNode(ctx, node); err != nil {
			return nil, err
		}
	}
	if err := s.startServer(ctx); err != nil {
		return nil, err
	}
	return s, s.untilReady(ctx)
}

func (s *stand) untilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	return s.ready(ctx)
}

func (s *stand) startServer(ctx context.Context) error {
	err := s.Namespace(lab.Server).Do(func() (err error) {
		s.server, err = traffic.StartServer(exec.Command(s.binary, "traffic", "server"), traffic.ServerConfig{
			Address: netip.MustParseAddr(lab.ServerAddress), TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
		})
		return err
	})
	if err == nil {
		_, err = s.server.Ready(ctx)
	}
	return err
}

func (s *stand) startClient(ctx context.Context) (*traffic.Client, error) {
	var client *traffic.Client
	err := s.Namespace(lab.Client).Do(func() (err error) {
		client, err = traffic.StartClient(exec.Command(s.binary, "traffic", "client"), traffic.ClientConfig{
			Server: netip.MustParseAddr(lab.ServerAddress), TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
			UDPFlows: udpFlows, UDPInterval: udpInterval, TCPSessions: tcpSessions, TCPInterval: tcpInterval,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := client.Ready(ctx); err != nil {
		return nil, errors.Join(err, client.Stop())
	}
	return client, nil
}

// master names the MASTER that is not the node except, if there is one.
func (s *stand) master(ctx context.Context, except string) (string, error) {
	for _, node := range nodes() {
		if node != except && s.role(ctx, node) == roleMaster {
			return node, nil
		}
	}
	return "", errors.New("nobody is MASTER who should be")
}

// try does one experiment and leaves the pair healed, though not yet ready.
func (s *stand) try(ctx context.Context, fault lab.Fault) (felt, error) {
	var f felt
	if err := s.untilReady(ctx); err != nil {
		return f, fmt.Errorf("the pair did not become ready: %w", err)
	}
	master, err := s.master(ctx, "")
	if err != nil {
		return f, err
	}
	client, err := s.startClient(ctx)
	if err != nil {
		return f, err
	}
	defer func() { _ = client.Stop() }() // what it measured is known by then
	if err := s.untilReplicated(ctx, other(master)); err != nil {
		return f, err
	}
	if err := pause(ctx, settle); err != nil {
		return f, err
	}
	if f, err = s.breakIt(ctx, fault, master, client); err != nil {
		return f, err
	}
	_ = client.Stop() // it must not disturb the healing
	if f.Speakers, err = s.speakers(); err != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	return f, s.heal(ctx, fault, master)
}

func (s *stand) untilReplicated(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err := poll(ctx, func(ctx context.Context) error {
		n, err := s.replicated(ctx, node)
		if err == nil && n < tcpSessions+udpFlows {
			err = fmt.Errorf("%d sessions of %d", n, tcpSessions+udpFlows)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("the sessions did not reach the BACKUP %s: %w", node, err)
	}
	return nil
}

// breakIt injects the fault, waits until the other node is MASTER and every flow that
// is not lost goes on, and returns what was felt.
func (s *stand) breakIt(ctx context.Context, fault lab.Fault, master string, client *traffic.Client) (felt, error) {
	ctx, cancel := context.WithTimeout(ctx, resumePatience)
	defer cancel()
	if err := client.Mark(ctx); err != nil {
		return felt{}, err
	}
	before, err := client.Report(ctx)
	if err != nil {
		return felt{}, err
	}
	at, err := s.inject(ctx, fault, master)
	if err != nil {
		return felt{}, err
	}
	err = poll(ctx, func(ctx context.Context) error {
		_, err := s.master(ctx, master)
		return err
	})
	if err != nil {
		return felt{}, fmt.Errorf("%s did not become MASTER: %w", other(master), err)
	}
	moved := time.Now()
	// The old MASTER may have served until the new one was seen by the switches.
	if err := client.Fault(ctx, moved); err != nil {
		return felt{}, err
	}
	resumed := func(ctx context.Context) error {
		snap, err := client.Report(ctx)
		if err == nil && (snap.Fault.Before(moved) || snap.Resumed() < snap.Alive()) {
			err = fmt.Errorf("%d of %d living flows were heard again", snap.Resumed(), snap.Alive())
		}
		return err
	}
	if err := poll(ctx, resumed); err != nil {
		return felt{}, fmt.Errorf("the traffic did not go on: %w", err)
	}
	if err := pause(ctx, settle); err != nil {
		return felt{}, err
	}
	after, err := client.Report(ctx)
	if err != nil {
		return felt{}, err
	}
	return feltBetween(before, after, moved.Sub(at)), nil
}

// feltBetween is what the flows felt between two reports of a client that had lost
// nothing before.
func feltBetween(before, after traffic.Snapshot, moved time.Duration) felt {
	f := felt{
		UDP:         silence{Median: after.UDP.SilenceP50, Max: after.UDP.SilenceMax},
		TCP:         silence{Median: after.TCP.SilenceP50, Max: after.TCP.SilenceMax},
		Sessions:    after.TCP.Total + after.UDP.Total,
		Lost:        after.Lost(),
		Missing:     after.UDP.Missing - before.UDP.Missing,
		MasterAfter: moved,
		Stall:       after.Stall,
	}
	for kind, group := range map[string]traffic.Group{"TCP": after.TCP, "UDP": after.UDP} {
		for reason, count := range group.Reasons {
			if f.Reasons == nil {
				f.Reasons = make(map[string]int)
			}
			f.Reasons[kind+" "+reason] = count
		}
	}
	return f
}

// poll calls check until it is content or ctx ends; the error then is the last one.
func poll(ctx context.Context, check func(context.Context) error) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	wrong := errors.New("nothing was seen yet")
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			wrong = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), wrong)
		case <-ticker.C:
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
