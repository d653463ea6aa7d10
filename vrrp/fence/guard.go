package fence

import (
	"context"
	"sync"
	"time"
)

// Guard is the fence of one group with one lease. It is safe for concurrent use.
type Guard struct {
	fence *Fence
	group string
	lease time.Duration

	mu     sync.Mutex
	wanted bool
	links  []Link
}

// Guard binds the fence to a group and a lease; see [Config].
func (f *Fence) Guard(group string, lease time.Duration) *Guard {
	return &Guard{fence: f, group: group, lease: lease}
}

// Ensure is [Fence.Ensure] for the group.
func (g *Guard) Ensure(links []Link) (changed []string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted, g.links = true, links
	return g.fence.Ensure(g.config(links))
}

// Restore is Ensure with the links of the last one; nothing before the first. It is
// the answer to what [Guard.Watch] reports.
func (g *Guard) Restore() (changed []string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.wanted {
		return nil, nil
	}
	return g.fence.Ensure(g.config(g.links))
}

// Check is [Fence.Check] for the group.
func (g *Guard) Check(links []Link) error { return g.fence.Check(g.config(links)) }

// Remove is [Fence.Remove] for the group.
func (g *Guard) Remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted, g.links = false, nil
	return g.fence.Remove(g.group)
}

// Protected is [Fence.Protected] for the group.
func (g *Guard) Protected() (bool, error) { return g.fence.Protected(g.group) }

// Watch is [Fence.Watch] for the group.
func (g *Guard) Watch(ctx context.Context) (<-chan Tampering, error) {
	return g.fence.Watch(ctx, g.group)
}

func (g *Guard) config(links []Link) Config {
	return Config{Group: g.group, Lease: g.lease, Links: links}
}
