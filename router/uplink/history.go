package uplink

import "time"

const (
	// window is of how many regular probes loss is judged, and enough how many there must
	// be before it is.
	window = 50
	enough = 20
)

// history holds the results of the last regular probes, and the times of the last answers.
type history struct {
	failed [window]bool
	count  int // of all that were ever added
	rtt    [window]time.Duration
	rtts   int
	// sum is that of the times which are held.
	sum time.Duration
}

// add takes the result of a regular probe. Those that follow a failure faster do not count: one
// outage would look like many.
func (h *history) add(failed bool) {
	h.failed[h.count%window] = failed
	h.count++
}

func (h *history) answered(rtt time.Duration) {
	place := &h.rtt[h.rtts%window]
	h.sum += rtt - *place
	*place = rtt
	h.rtts++
}

// size is the number of results that are held.
func (h *history) size() int { return min(h.count, window) }

// lost counts the failures among the last n.
func (h *history) lost(n int) int {
	lost := 0
	for i := 1; i <= min(n, h.size()); i++ {
		if h.failed[(h.count-i)%window] {
			lost++
		}
	}
	return lost
}

// loss is the share of failures among those that are held.
func (h *history) loss() float64 {
	if h.count == 0 {
		return 0
	}
	return float64(h.lost(window)) / float64(h.size())
}

// mean is the mean time of an answer, zero if there was none.
func (h *history) mean() time.Duration {
	n := min(h.rtts, window)
	if n == 0 {
		return 0
	}
	return h.sum / time.Duration(n)
}

// jitter is the mean difference between one answer's time and the next one's.
func (h *history) jitter() time.Duration {
	n := min(h.rtts, window)
	if n < 2 {
		return 0
	}
	var sum time.Duration
	for i := 1; i < n; i++ {
		sum += (h.rtt[(h.rtts-i)%window] - h.rtt[(h.rtts-i-1)%window]).Abs()
	}
	return sum / time.Duration(n-1)
}
