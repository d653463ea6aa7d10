package probe

import (
	"context"
	"sync"
	"time"
)

// reply is what a listener has heard: an answer, or err.
type reply struct {
	at  time.Time
	err error
}

// waiting are those who wait for replies on a shared socket, by what they wait for.
type waiting[K comparable] struct {
	mu     sync.Mutex
	all    map[K][]chan reply
	closed error
	last   time.Time
}

// add begins to wait. What it returns second must be called when the waiting is over.
func (w *waiting[K]) add(k K) (<-chan reply, func()) {
	heard := make(chan reply, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if w.closed != nil {
		heard <- reply{err: w.closed}
		return heard, func() {}
	}
	if w.all == nil {
		w.all = make(map[K][]chan reply)
	}
	w.all[k] = append(w.all[k], heard)
	return heard, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		list := w.all[k]
		for i, c := range list {
			if c == heard {
				list[i] = list[len(list)-1]
				w.all[k] = list[:len(list)-1]
				break
			}
		}
		if len(w.all[k]) == 0 {
			delete(w.all, k)
		}
	}
}

// wake tells those who wait for k. Of several replies the first counts.
func (w *waiting[K]) wake(k K, r reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.all[k] {
		select {
		case c <- r:
		default:
		}
	}
}

// close tells everybody, and all who come later.
func (w *waiting[K]) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = err
	for _, list := range w.all {
		for _, c := range list {
			select {
			case c <- reply{err: err}:
			default:
			}
		}
	}
}

// idle tells that nobody waits, nor has for a while.
func (w *waiting[K]) idle(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all) == 0 && now.Sub(w.last) > idleTime
}

// idleTime is how long a shared socket stays open when nobody uses it.
const idleTime = 5 * time.Minute

// await waits for a reply to what was sent at a time.
func await(ctx context.Context, heard <-chan reply, sent time.Time) (answer, error) {
	select {
	case got := <-heard:
		return answer{rtt: max(got.at.Sub(sent), 0)}, got.err
	case <-ctx.Done():
	}
	// Both may have come at once.
	select {
	case got := <-heard:
		return answer{rtt: max(got.at.Sub(sent), 0)}, got.err
	default:
		return answer{}, ctx.Err()
	}
}
