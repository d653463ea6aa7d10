package traffic

import (
	"context"
	"net"
	"time"
)

const (
	// churnWorkers bounds the connections under way, churnPatience each of them.
	churnWorkers  = 256
	churnPatience = 3 * time.Second
	// churnBurst bounds what the client catches up after a pause.
	churnBurst = 50 * time.Millisecond
)

// churn opens new TCP connections at the rate of the configuration and resets each as
// soon as it stands, so that no port has to rest.
func (c *client) churn(ctx context.Context) {
	due := make(chan uint64)
	for range churnWorkers {
		c.wg.Go(func() {
			for number := range due {
				c.connect(ctx, number)
			}
		})
	}
	defer close(due)
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	rate := float64(c.cfg.NewPerSecond)
	last, owed := time.Now(), 0.0
	for number := uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		owed = min(owed+now.Sub(last).Seconds()*rate, max(1, churnBurst.Seconds()*rate))
		last = now
		for ; owed >= 1; owed-- {
			select {
			case due <- number:
				number++
			default: // all workers wait for answers
			}
		}
	}
}

func (c *client) connect(ctx context.Context, number uint64) {
	ctx, cancel := context.WithTimeout(ctx, churnPatience)
	defer cancel()
	d := net.Dialer{KeepAlive: -1}
	if n := uint64(len(c.cfg.Sources)); n > 0 {
		d.LocalAddr = &net.TCPAddr{IP: c.cfg.Sources[number%n].AsSlice()}
	}
	conn, err := d.DialContext(ctx, "tcp", c.serverPort(c.cfg.NewPort).String())
	if err != nil {
		c.newFailed.Add(1)
		return
	}
	c.newOpened.Add(1)
	_ = conn.(*net.TCPConn).SetLinger(0) // a connection that was reset by then is over as well
	_ = conn.Close()
}

// discard takes a connection and leaves it to the client to reset it: a reset that came
// first would look like a failure to connect.
func discard(*net.TCPConn) {}
