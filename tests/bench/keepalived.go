package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

//go:embed files
var templates embed.FS

const (
	keepalivedProgram  = "/usr/sbin/keepalived"
	conntrackdProgram  = "/usr/sbin/conntrackd"
	keepalivedPriority = 200
	priorityStep       = 20
)

// keepalived is a pair of nodes with keepalived and conntrackd.
type keepalived struct {
	*lab.Lab
	advert setting
	dir    string
	// mode is how sessions are replicated.
	mode mode

	mu sync.Mutex
	// daemons are the first processes that were started on a node last.
	daemons map[string][]*daemon
}

// mode is a way to run conntrackd.
type mode int

const (
	// usual is a configuration as its manual shows it.
	usual mode = iota
	// large is one for many sessions, direct one that has no external cache, too.
	large
	direct
)

// daemon is a process of a node.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func newKeepalived(ctx context.Context, advert setting, dir string, how mode) (*keepalived, error) {
	for _, program := range []string{keepalivedProgram, conntrackdProgram} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("find %s: install the Debian packages keepalived and conntrackd: %w", program, err)
		}
	}
	k := &keepalived{advert: advert, dir: dir, mode: how, daemons: make(map[string][]*daemon)}
	var err error
	k.Lab, err = lab.New(ctx, lab.Options{Dir: dir, Start: k.start})
	return k, err
}

// start boots a node: addresses and rules first, then the daemons.
func (k *keepalived) start(ctx context.Context, node string) error {
	if err := errors.Join(k.writeFiles(node), k.noteBoot(node)); err != nil {
		return err
	}
	boot := exec.CommandContext(ctx, "/bin/sh", "-e", k.path(node, "boot.sh"))
	boot.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	var said bytes.Buffer
	boot.Stdout, boot.Stderr = &said, &said
	if err := k.Namespace(node).Run(boot); err != nil {
		return fmt.Errorf("boot node %s: %w: %s", node, err, bytes.TrimSpace(said.Bytes()))
	}
	k.mu.Lock()
	k.daemons[node] = nil
	k.mu.Unlock()
	if err := k.startReplication(ctx, node); err != nil {
		return err
	}
	return k.startElection(node)
}

// startReplication starts conntrackd and waits until it takes commands.
func (k *keepalived) startReplication(ctx context.Context, node string) error {
	// It removes its socket and its lock when it ends in order only.
	for _, left := range []string{"conntrackd.ctl", "conntrackd.lock"} {
		if err := os.Remove(k.path(node, left)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what a killed conntrackd left on node %s: %w", node, err)
		}
	}
	if err := k.spawn(node, exec.Command(conntrackdProgram, "-C", k.path(node, k.replicationConf()))); err != nil {
		return err
	}
	// The scripts that keepalived runs need its socket.
	err := poll(ctx, func(context.Context) error {
		_, err := os.Stat(k.path(node, "conntrackd.ctl"))
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for conntrackd on node %s: %w", node, err)
	}
	return nil
}

func (k *keepalived) replicationConf() string {
	if k.mode == usual {
		return "conntrackd.conf"
	}
	return "replication.conf"
}

func (k *keepalived) startElection(node string) error {
	return k.spawn(node, exec.Command(keepalivedProgram, "--dont-fork", "--vrrp", "--log-console", "--log-detail",
		"--use-file", k.path(node, "keepalived.conf"),
		"--pid", k.path(node, "keepalived.pid"), "--vrrp_pid", k.path(node, "vrrp.pid")))
}

// spawn starts a daemon in a node's namespace, output to the node's log.
func (k *keepalived) spawn(node string, cmd *exec.Cmd) error {
	log, err := os.OpenFile(k.LogPath(node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of node %s: %w", node, err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	if err := k.Namespace(node).Start(cmd); err != nil {
		return fmt.Errorf("start %s on node %s: %w", cmd.Path, node, err)
	}
	d := &daemon{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // faults kill it; what it says about that is in the log
		close(d.ended)
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.daemons[node] = append(k.daemons[node], d)
	return nil
}

func (k *keepalived) path(node, name string) string { return filepath.Join(k.dir, node, name) }

type instance struct {
	Name    string
	VRID    int
	Address string
}

type link struct{ Link, Prefix string }

type fileValues struct {
	Node, Dir, Script, Own, Peer string
	Priority                     int
	Interval                     string
	Instances                    []instance
	Addresses                    []link
	Ignore                       []string
	Gateway, NATAddress, LAN     string
	// Replication is conntrackd's configuration, which may be Direct.
	Replication string
	Direct      bool
}

func (k *keepalived) values(node string) fileValues {
	v := fileValues{
		Node: node, Dir: k.path(node, ""), Script: k.path(node, "notify.sh"),
		Own: "10.255.0.1", Peer: "10.255.0.2",
		Instances: []instance{{"lan", 10, lab.ClientGateway}, {"wan", 20, lab.NATAddress}},
		Addresses: []link{{"lan0", "10.0.0.2/24"}, {"wan0", "203.0.113.11/24"}, {"ha0", "10.255.0.1/30"}},
		Ignore: []string{
			"10.255.0.1", "10.255.0.2", "10.0.0.2", "10.0.0.3", "203.0.113.11", "203.0.113.12", lab.ClientGateway, lab.NATAddress,
		},
		Gateway: lab.UplinkGateway, NATAddress: lab.NATAddress, LAN: "10.0.0.0/24",
		Replication: k.replicationConf(), Direct: k.mode == direct,
	}
	// Where nothing is set, the default settings are measured, of the priority, too.
	if interval := k.advert.interval(); interval != 0 {
		v.Interval = strconv.FormatFloat(interval.Seconds(), 'f', -1, 64)
		v.Priority = keepalivedPriority
	}
	if node == lab.Bravo {
		v.Own, v.Peer = v.Peer, v.Own
		v.Addresses = []link{{"lan0", "10.0.0.3/24"}, {"wan0", "203.0.113.12/24"}, {"ha0", "10.255.0.2/30"}}
		v.Priority = max(0, v.Priority-priorityStep)
	}
	return v
}

// writeFiles writes a node's configuration.
func (k *keepalived) writeFiles(node string) error {
	parsed, err := template.ParseFS(templates, "files/*")
	if err != nil {
		return fmt.Errorf("parse templates of the configuration: %w", err)
	}
	for _, t := range parsed.Templates() {
		var text bytes.Buffer
		if err := t.Execute(&text, k.values(node)); err != nil {
			return fmt.Errorf("render %s: %w", t.Name(), err)
		}
		// keepalived takes no configuration that can be executed, and no script that cannot.
		mode := os.FileMode(0o600)
		if strings.HasSuffix(t.Name(), ".sh") {
			mode = 0o700
		}
		if err := os.WriteFile(k.path(node, t.Name()), text.Bytes(), mode); err != nil {
			return fmt.Errorf("write configuration of node %s: %w", node, err)
		}
	}
	return nil
}

// notes is the file in which the notify script notes every change of the role.
func (k *keepalived) notes(node string) string { return k.path(node, "transitions") }

// noteBoot ends what an earlier life of the node noted.
func (k *keepalived) noteBoot(node string) (err error) {
	f, err := os.OpenFile(k.notes(node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note the boot of node %s: %w", node, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString("boot\n")
	return err
}

// role is what the node's notify script has noted last, empty if no daemon runs there.
func (k *keepalived) role(_ context.Context, node string) string {
	if len(k.Processes(node)) == 0 {
		return ""
	}
	content, err := os.ReadFile(k.notes(node))
	if err != nil {
		return ""
	}
	return roleNoted(string(content))
}

// roleNoted is the role that the last complete note tells of.
func roleNoted(notes string) string {
	lines := strings.Split(notes, "\n")
	if len(lines) < 2 {
		return ""
	}
	return map[string]string{"primary": roleMaster, "backup": roleBackup}[lines[len(lines)-2]]
}

// ready waits until there are one MASTER and one BACKUP, and that stays so while two
// adverts are sent.
func (k *keepalived) ready(ctx context.Context) error {
	period := k.advert.interval()
	if period == 0 {
		period = time.Second
	}
	stable := max(2*period, 300*time.Millisecond)
	var since time.Time
	return poll(ctx, func(ctx context.Context) error {
		roles := []string{k.role(ctx, lab.Alpha), k.role(ctx, lab.Bravo)}
		if !slices.Contains(roles, roleMaster) || !slices.Contains(roles, roleBackup) {
			since = time.Time{}
			return fmt.Errorf("the roles are %q", roles)
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < stable {
			return errors.New("the roles are settling")
		}
		return nil
	})
}

// replicated asks conntrackd how many flows it holds for its peer.
func (k *keepalived) replicated(ctx context.Context, node string) (int, error) {
	said, err := k.cacheStatistics(ctx, node)
	if err != nil {
		return 0, err
	}
	return cachedFlows(said, "external")
}

func (k *keepalived) cacheStatistics(ctx context.Context, node string) (string, error) {
	out, err := exec.CommandContext(ctx, conntrackdProgram, "-C", k.path(node, k.replicationConf()), "-s", "cache").Output()
	if err != nil {
		return "", fmt.Errorf("ask conntrackd on node %s for its caches: %w", node, err)
	}
	return string(out), nil
}

// cachedFlows reads the number of active flows of the internal or external cache out
// of what conntrackd says.
func cachedFlows(said, cache string) (int, error) {
	_, after, ok := strings.Cut(said, "cache:"+cache)
	if ok {
		_, after, ok = strings.Cut(after, "active/total entries:")
	}
	if fields := strings.Fields(strings.ReplaceAll(after, "/", " ")); ok && len(fields) > 0 {
		return strconv.Atoi(fields[0])
	}
	return 0, fmt.Errorf("conntrackd says nothing of its %s cache: %q", cache, said)
}

// masterships counts how often a node became MASTER, by the notes of the scripts.
func (k *keepalived) masterships(context.Context) (uint64, error) {
	var count uint64
	for _, node := range nodes() {
		notes, err := os.ReadFile(k.notes(node))
		if err != nil {
			return 0, fmt.Errorf("read the notes of node %s: %w", node, err)
		}
		count += uint64(strings.Count(string(notes), "primary"))
	}
	return count, nil
}

// inject breaks the node; a handover is what `systemctl stop keepalived` does.
func (k *keepalived) inject(ctx context.Context, fault lab.Fault, node string) (time.Time, error) {
	if fault != lab.Handover {
		return k.Inject(ctx, fault, node)
	}
	at := time.Now()
	return at, k.signalElection(node, unix.SIGTERM)
}

func (k *keepalived) heal(ctx context.Context, fault lab.Fault, node string) error {
	if fault != lab.Handover {
		return k.Heal(ctx, fault, node)
	}
	election := k.election(node)
	select {
	case <-election.ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of keepalived on node %s: %w", node, context.Cause(ctx))
	}
	return k.startElection(node)
}

// election is the newest keepalived of a node.
func (k *keepalived) election(node string) *daemon {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.daemons[node]
	if len(all) < 2 {
		return nil
	}
	return all[len(all)-1]
}

func (k *keepalived) signalElection(node string, sig syscall.Signal) error {
	d := k.election(node)
	if d == nil {
		return fmt.Errorf("stop keepalived on node %s: it does not run", node)
	}
	if err := d.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("stop keepalived on node %s: %w", node, err)
	}
	return nil
}
