package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// The products whose replication is compared: Tandem, and conntrackd as it is used
// most, and without its external cache.
const (
	systemConntrackd = "conntrackd"
	systemDirect     = "conntrackd-direct"
)

func replicators() []string { return []string{systemTandem, systemConntrackd, systemDirect} }

// replicator is what a product's replication is asked.
type replicator interface {
	// replicaCount is how many flows the BACKUP could take over, about.
	replicaCount(ctx context.Context, node string) (int, error)
	// replicaTable are those of the load.
	replicaTable(ctx context.Context, node string) (sessionTable, error)
	// quiesce gets the MASTER's replication ready for many flows, and resume waits until
	// it knows all of them.
	quiesce(ctx context.Context, node string) error
	resume(ctx context.Context, node string, flows int) error
	// linked tells that the nodes are connected, equal that the BACKUP, which has that
	// many flows, says that it has all there are.
	linked(ctx context.Context, node string) bool
	equal(ctx context.Context, node string) bool
	// lag is how late flows arrived in the last minute, by what the MASTER says.
	lag(ctx context.Context, node string) (lagUse, error)
	// commit is how long the last commit took.
	commit(node string) time.Duration
}

func (t *tandem) replicaCount(_ context.Context, node string) (int, error) {
	return kernelFlows(t.Namespace(node))
}

func (t *tandem) replicaTable(_ context.Context, node string) (sessionTable, error) {
	return kernelTable(t.Namespace(node))
}

// quiesce starts the daemons again: they read the kernel's time-outs when they start,
// and shorten what is longer after they have become MASTER.
func (t *tandem) quiesce(ctx context.Context, node string) error {
	if _, err := t.Inject(ctx, lab.Crash, node); err != nil {
		return err
	}
	if err := t.Heal(ctx, lab.Crash, node); err != nil {
		return err
	}
	return poll(ctx, func(ctx context.Context) error {
		if t.role(ctx, node) != roleMaster {
			return fmt.Errorf("%s is not yet MASTER again", node)
		}
		return nil
	})
}

// busy is the share of a processor above which a daemon has not done its work.
const busy = 0.15

// resume waits until the daemon idles.
func (t *tandem) resume(ctx context.Context, node string, _ int) error {
	return poll(ctx, func(ctx context.Context) error {
		before, err := processorTime(t.Processes(node))
		if err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		after, err := processorTime(t.Processes(node))
		if err != nil {
			return err
		}
		if used := total(after) - total(before); used > time.Duration(busy*float64(time.Second)) {
			return fmt.Errorf("the daemons of %s used %v in a second", node, used)
		}
		return nil
	})
}

func (t *tandem) linked(ctx context.Context, node string) bool {
	said, err := t.Status(ctx, node)
	return err == nil && said.Sync.Connected
}

func (t *tandem) equal(ctx context.Context, node string) bool {
	said, err := t.Status(ctx, node)
	return err == nil && said.Sync.Connected && said.Sync.Complete
}

func (t *tandem) lag(ctx context.Context, node string) (lagUse, error) {
	said, err := t.Status(ctx, node)
	if err != nil {
		return lagUse{}, err
	}
	return lagUse{said.Sync.LagP50, said.Sync.LagP99, said.Sync.LagMax}, nil
}

func (t *tandem) commit(string) time.Duration { return 0 }

func (k *keepalived) replicaCount(ctx context.Context, node string) (int, error) {
	if k.mode == direct {
		return kernelFlows(k.Namespace(node))
	}
	return k.replicated(ctx, node)
}

func (k *keepalived) replicaTable(ctx context.Context, node string) (sessionTable, error) {
	if k.mode == direct {
		return kernelTable(k.Namespace(node))
	}
	return k.externalTable(ctx, node)
}

// quiesce kills conntrackd, which would learn of the flows at its own pace.
func (k *keepalived) quiesce(ctx context.Context, node string) error {
	k.mu.Lock()
	d := k.daemons[node][0]
	k.mu.Unlock()
	if err := d.cmd.Process.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill conntrackd on node %s: %w", node, err)
	}
	select {
	case <-d.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resume starts conntrackd again, which reads the kernel's table first.
func (k *keepalived) resume(ctx context.Context, node string, flows int) error {
	if err := k.startReplication(ctx, node); err != nil {
		return err
	}
	return poll(ctx, func(ctx context.Context) error {
		said, err := k.cacheStatistics(ctx, node)
		if err != nil {
			return err
		}
		n, err := cachedFlows(said, "internal")
		if err == nil && n < flows {
			err = fmt.Errorf("the internal cache has %d flows of %d", n, flows)
		}
		return err
	})
}

// linked is when the node has asked its peer for all flows.
func (k *keepalived) linked(_ context.Context, node string) bool {
	return k.role(context.Background(), node) == roleBackup
}

func (k *keepalived) equal(context.Context, string) bool { return true }

func (k *keepalived) lag(context.Context, string) (lagUse, error) { return lagUse{}, nil }

// commit is the time between the last two notes about it.
func (k *keepalived) commit(node string) time.Duration {
	notes, err := os.ReadFile(k.path(node, "commits"))
	if err != nil {
		return 0
	}
	return commitNoted(string(notes))
}

// commitNoted is the length of the last commit: a line has its begin and its end.
func commitNoted(notes string) time.Duration {
	lines := strings.Split(strings.TrimSpace(notes), "\n")
	first, second, _ := strings.Cut(lines[len(lines)-1], " ")
	begin, err := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(second, 10, 64)
	if errors.Join(err, err2) != nil {
		return 0
	}
	return time.Duration(end - begin)
}

func total(r ran) (sum time.Duration) {
	for _, used := range r {
		sum += used
	}
	return sum
}

// setTimeouts makes UDP flows of a node expire after that many seconds.
func setTimeouts(node lab.Namespace, seconds int) error {
	return node.Do(func() error {
		for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
			err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte(strconv.Itoa(seconds)), 0)
			if err != nil {
				return fmt.Errorf("set the time-out of UDP: %w", err)
			}
		}
		return nil
	})
}
