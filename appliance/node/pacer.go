package node

import (
	"context"
	"time"
)

const (
	// paceMin is how long events, and what is to be sent, may gather when the last ones
	// came less than that ago: a wake-up costs more than many events. What comes alone
	// never waits.
	paceMin = 2 * time.Millisecond
	// paceMax is how long they may gather where they come often, paceRate at how many
	// events in a second that begins. In between it is in proportion.
	paceMax  = 8 * time.Millisecond
	paceRate = 32_000
)

// pacer lets what comes in quick succession gather.
type pacer struct {
	last  time.Time
	timer *time.Timer
	// hurry ends a pause early.
	hurry <-chan struct{}
}

func newPacer(hurry <-chan struct{}) *pacer {
	p := &pacer{timer: time.NewTimer(time.Hour), hurry: hurry}
	p.timer.Stop()
	return p
}

// pace is how long to gather after count events have come since the last pause.
func (p *pacer) pace(count int) time.Duration {
	since := max(time.Since(p.last), time.Millisecond)
	rate := float64(count) / since.Seconds()
	return min(max(time.Duration(rate/paceRate*float64(paceMax)), paceMin), paceMax)
}

// keep waits until pace has gone by since it was last called.
func (p *pacer) keep(ctx context.Context, pace time.Duration) {
	now := time.Now()
	if wait := pace - now.Sub(p.last); wait > 0 {
		p.timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-p.hurry:
		case <-p.timer.C:
		}
		now = time.Now()
	}
	p.last = now
}
