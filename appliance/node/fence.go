package node

import (
	"context"
	"fmt"
	"time"

	"tandem/appliance/status"
)

// tamperMemory is how long a change of the fence by somebody else is shown as a
// problem.
const tamperMemory = 10 * time.Minute

// fenceLoop puts the fence up again as soon as somebody else has changed it. Without
// this the reconciler would, within a second.
func (n *node) fenceLoop(ctx context.Context) error {
	for ctx.Err() == nil {
		tampering, err := n.guard.Watch(ctx)
		if err != nil {
			return fmt.Errorf("watch the fence: %w", err)
		}
		for by := range tampering {
			changed, err := n.guard.Restore()
			if err != nil {
				n.log.Error("the fence could not be put up again", "by", by, "error", err)
				n.rejudge()
				continue
			}
			if len(changed) == 0 {
				continue // somebody else's work, or already done
			}
			n.log.Warn("another program changed the fence; it stands again", "by", by, "changes", len(changed))
			n.events.add(status.Event{
				Kind: status.EventFence, Reason: fmt.Sprintf("another program changed the fence (%s); it stands again", by),
				Numbers: map[string]float64{"changes": float64(len(changed))},
			})
			n.mu.Lock()
			n.state.tamperedAt, n.state.tampering = time.Now(), by.String()
			n.state.tampered++
			n.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(respawnDelay): // the socket broke
		}
	}
	return nil
}
