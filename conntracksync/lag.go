package conntracksync

import (
	"math/bits"
	"time"
)

const (
	// lagWindow is how far back samples count, kept in slots of a second.
	lagWindow = 60
	// lagSteps divides each doubling of the lag, so that a percentile is at most
	// a quarter too high.
	lagSteps = 4
	// lagClasses reach from below 4 µs to above a minute.
	lagClasses = lagSteps * 25
	// lagInFlight bounds, roughly, the unacknowledged times that are remembered.
	lagInFlight = 4096
)

// lag measures the time from an event to its acknowledgement.
type lag struct {
	slots    [lagWindow]lagSlot
	inFlight []sentRun
	head     int
}

type lagSlot struct {
	second  int64
	classes [lagClasses]uint32
	max     time.Duration
}

type sentRun struct {
	seq uint64
	run
}

// sent remembers the times of a frame's events. When too many are unacknowledged
// the new ones go without: the oldest tells the lag.
func (l *lag) sent(seq uint64, runs []run) {
	if len(l.inFlight)-l.head >= lagInFlight {
		return
	}
	if l.head > lagInFlight {
		l.inFlight = l.inFlight[:copy(l.inFlight, l.inFlight[l.head:])]
		l.head = 0
	}
	for _, r := range runs {
		l.inFlight = append(l.inFlight, sentRun{seq: seq, run: r})
	}
}

func (l *lag) acked(now time.Time, seq uint64) {
	for l.head < len(l.inFlight) && l.inFlight[l.head].seq <= seq {
		l.add(now, now.Sub(l.inFlight[l.head].at), l.inFlight[l.head].n)
		l.head++
	}
	if l.head == len(l.inFlight) {
		l.forget()
	}
}

// forget drops the unacknowledged frames: a connection has ended.
func (l *lag) forget() { l.inFlight, l.head = l.inFlight[:0], 0 }

func (l *lag) add(now time.Time, d time.Duration, n int) {
	d = max(d, 0)
	second := now.Unix()
	slot := &l.slots[slotOf(second)]
	if slot.second != second {
		*slot = lagSlot{second: second}
	}
	slot.classes[lagClass(d)] += uint32(n)
	slot.max = max(slot.max, d)
}

func slotOf(second int64) int64 { return ((second % lagWindow) + lagWindow) % lagWindow }

func lagClass(d time.Duration) int {
	us := uint64(d / time.Microsecond)
	if us < lagSteps {
		return 0
	}
	octave := bits.Len64(us) - 1
	step := int(us>>(octave-2)) & (lagSteps - 1)
	return min((octave-2)*lagSteps+step+1, lagClasses-1)
}

// lagBound is the least lag above the class.
func lagBound(class int) time.Duration {
	octave, step := class/lagSteps, class%lagSteps
	return time.Duration(uint64(lagSteps+step)<<octave) * time.Microsecond
}

// summary counts the oldest unacknowledged event as if it were acknowledged now,
// so that a peer that has stopped answering shows.
func (l *lag) summary(now time.Time) (p50, p99, greatest time.Duration) {
	var classes [lagClasses]uint64
	var total uint64
	for i := range l.slots {
		slot := &l.slots[i]
		if age := now.Unix() - slot.second; age < 0 || age >= lagWindow {
			continue
		}
		greatest = max(greatest, slot.max)
		for c, n := range slot.classes {
			classes[c] += uint64(n)
			total += uint64(n)
		}
	}
	if l.head < len(l.inFlight) {
		age := max(now.Sub(l.inFlight[l.head].at), 0)
		greatest = max(greatest, age)
		classes[lagClass(age)]++
		total++
	}
	return percentile(&classes, total, 50, greatest), percentile(&classes, total, 99, greatest), greatest
}

func percentile(classes *[lagClasses]uint64, total, percent uint64, greatest time.Duration) time.Duration {
	if total == 0 {
		return 0
	}
	rank := (total*percent + 99) / 100
	var seen uint64
	for c, n := range classes {
		if seen += n; seen >= rank {
			return min(lagBound(c), greatest)
		}
	}
	return greatest
}
