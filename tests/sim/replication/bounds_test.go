package replication

import "time"

// What the code under test has as constants.
const (
	unsureTime = 10 * time.Second
	passAgain  = 2 * time.Second
	passShare  = 30
)

// dumpMax is how long a reading of a table takes at most while nothing is wrong.
const dumpMax = 5 * time.Second

// dumpTime is how long a reading of a table has taken at most.
func (w *world) dumpTime() time.Duration { return min(w.watch.dumpLongest, dumpMax) }

// passTime is how long it takes at most from the wish for a pass to its end: the other
// kind of pass may be under way, and passes keep a distance.
func (w *world) passTime() time.Duration {
	return max(w.tuning.sender.PassSpacing, 2*w.dumpTime()) + 2*w.dumpTime()
}

// passGap is the time from one regular pass to the next at most.
func (w *world) passGap() time.Duration {
	interval := max(w.tuning.sender.PassInterval, w.tuning.receiver.PassInterval)
	return max(interval, passShare*w.dumpTime()) + w.passTime()
}

// hops is how long it takes from an event to its acknowledgement when the link is idle.
func (w *world) hops() time.Duration {
	return w.tuning.readMax + w.tuning.sender.Hold + 2*w.link.delay + time.Second
}

// boundComplete is how old a flow is of which a complete table may lack something: a
// stalled stream is known as such after a while, and the other kernel's loss of a flow
// shows at the next digest.
func (w *world) boundComplete() time.Duration {
	return w.hops() + w.tuning.frozenMax + silenceLimit + w.tuning.sender.DigestInterval + w.slowTime()
}

// slowTime is how long the slowest stream takes for what is in it.
func (w *world) slowTime() time.Duration {
	return time.Duration(float64(2*w.tuning.sendBuffer+64<<10) / w.tuning.slowest * float64(time.Second))
}

// boundSweep is for how long a node may have flows whose end it knows, or may not yet
// have seen to the time-out of a flow.
func (w *world) boundSweep(*node) time.Duration {
	return w.tuning.frozenMax + 4*w.passGap() + 2*passAgain
}

// boundTrim is how long after a takeover the time-outs are normal.
func (w *world) boundTrim() time.Duration {
	return w.tuning.sender.TrimDelay + w.hops() + 4*w.passTime()
}

// boundCompletes is how long after the last trouble the table is complete: a connection,
// a repair that was put off, the time in which the kernel may still report old ends, two
// passes on both nodes, a repair and the digest behind it.
func (w *world) boundCompletes() time.Duration {
	t := &w.tuning
	bound := 2*reconnectDelay + unsureTime + t.receiver.RepairBackoffMax + 6*w.passTime() + 3*passAgain +
		3*t.sender.DigestInterval + 4*w.hops() + t.receiver.RequestTimeout
	if !w.digests() {
		bound += 2*t.sender.RepairInterval + 2*w.dumpTime()
	}
	return bound
}

// settled tells that a quiet time has lasted so long that every flow without packets
// has ended and every pass has looked.
func (w *world) settled() bool {
	return w.phase == phaseQuiet && w.now-w.quietAt > w.boundSettled()
}

// boundSettled is how long after the last change nothing more is to be said.
func (w *world) boundSettled() time.Duration {
	t := w.tuning.timeouts
	longest := uint32(0)
	for _, s := range t.TCP {
		longest = max(longest, s)
	}
	return time.Duration(max(longest, t.Generic, t.UDPStream))*time.Second + w.tuning.gcDelay + 2*w.passGap() + w.hops() + 2*passAgain
}
