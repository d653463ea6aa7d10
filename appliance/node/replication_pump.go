package node

import (
	"context"
	"time"

	"tandem/conntracksync"
)

// gatherSize is how many bytes of frames are made before the connection gets them.
const gatherSize = 64 << 10

// outgoing is what the pump hands to a connection: encoded frames, one after the other
// in buf. It is reused.
type outgoing struct {
	conn *connection
	buf  []byte
	ends []int
	// urgent tells that packets wait for an acknowledgement, or may wait for ours.
	urgent bool
}

// pump sends what there is to send, and sees to all that is due by time, until ctx ends.
func (r *replication) pump(ctx context.Context) error {
	var out outgoing
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := newPacer(r.hurrySend)
	for {
		wait := r.gather(ctx, &out)
		if len(out.ends) > 0 {
			out.send(&r.traffic)
			signal(r.rows)
			if len(out.buf) < gatherSize && !out.urgent {
				// Half, lest it misses what the reader brings at its own pace.
				pause.keep(ctx, time.Duration(r.pace.Load())/2)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// send blocks while the connection does. Whoever reads the connection hears of an
// error.
func (o *outgoing) send(count *traffic) {
	start := 0
	for _, end := range o.ends {
		if err := o.conn.channel.Send(o.buf[start:end]); err != nil {
			o.conn.fail(err)
			return
		}
		count.sent.Add(uint64(end - start))
		start = end
	}
}

// gather fills out with the frames to be sent now, and tells how long nothing is due if
// there are none.
func (r *replication) gather(ctx context.Context, out *outgoing) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.eventsAt) > settleTime {
		r.repair(now)
	}
	r.readMasters(now)
	r.startDumps(ctx, now)
	r.verify(now)
	r.count(now)
	r.answerBarriers()
	r.switchFirst()
	r.releaseFirst(now)
	r.publish()
	out.urgent = r.firstUrgent()
	out.conn, out.buf, out.ends = r.conn, out.buf[:0], out.ends[:0]
	if r.conn != nil {
		r.gatherFrames(now, out)
	}
	wait := r.untilDue(now)
	if !out.urgent {
		wait = max(wait, r.sentAt.Add(time.Duration(r.pace.Load())).Sub(now))
	}
	if r.dumping {
		wait = max(wait, time.Millisecond) // a dump that is due waits for the one under way
	}
	if r.conn != nil {
		wait = min(wait, max(r.sentAt.Add(pingInterval).Sub(now), 0))
	}
	return wait
}

// untilDue is how long nothing is due by time.
func (r *replication) untilDue(now time.Time) time.Duration {
	wait := idleInterval
	for _, at := range [...]time.Time{r.sender.Deadline(), r.receiver.Deadline(), r.masters.deadline()} {
		if !at.IsZero() {
			wait = min(wait, max(at.Sub(now), 0))
		}
	}
	return wait
}

func (r *replication) gatherFrames(now time.Time, out *outgoing) {
	for _, b := range r.control {
		out.buf = append(out.buf, b...)
		out.ends = append(out.ends, len(out.buf))
	}
	r.control = nil
	for len(out.buf) < gatherSize {
		f, ok := r.sender.Next(now)
		if !ok {
			break
		}
		out.add(f)
	}
	if len(out.ends) == 0 && !now.Before(r.sentAt.Add(pingInterval)) {
		out.add(&conntracksync.Frame{Version: conntracksync.ProtocolMin, Type: conntracksync.FramePing})
	}
	if len(out.ends) > 0 {
		r.sentAt = now
	}
}

func (o *outgoing) add(f *conntracksync.Frame) {
	o.buf = conntracksync.AppendFrame(o.buf, f)
	o.ends = append(o.ends, len(o.buf))
}
