package traffic

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	// downlinkMagic begins the request for a downlink: a message with another magic,
	// and in the stamp's place the run's key and the interval.
	downlinkMagic = 0x544e444c
	// downlinkRetry is how often a client asks for a downlink until it begins.
	downlinkRetry = 200 * time.Millisecond
	// downlinkTime bounds a downlink that nobody ends.
	downlinkTime = 10 * time.Minute
)

// encodeDownlink asks for datagrams at an interval; zero asks for none any more.
func encodeDownlink(b []byte, flow uint32, key uint64, interval time.Duration) {
	message{flow: flow}.encode(b, key)
	binary.BigEndian.PutUint32(b, downlinkMagic)
	binary.BigEndian.PutUint64(b[stampOffset:], key)
	binary.BigEndian.PutUint64(b[stampOffset+8:], uint64(interval))
}

// askDownlinks asks for each downlink until its first datagram has come. Afterwards
// the client says nothing on it until it ends.
func (c *client) askDownlinks(ctx context.Context) {
	tick := time.NewTicker(downlinkRetry)
	defer tick.Stop()
	buf := make([]byte, udpMessageSize)
	for waiting := c.downlink; len(waiting) > 0; {
		var still []*flow
		for _, f := range waiting {
			if f.silent() {
				encodeDownlink(buf, f.id, c.key, c.cfg.UDPInterval)
				_, _ = f.conn.Write(buf) // asked again
				still = append(still, f)
			}
		}
		waiting = still
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// endDownlinks tells the server that nobody listens any more.
func (c *client) endDownlinks() {
	buf := make([]byte, udpMessageSize)
	for _, f := range c.downlink {
		encodeDownlink(buf, f.id, c.key, 0)
		_, _ = f.conn.Write(buf) // it also ends by itself
	}
}

// silent tells that nothing was heard yet on a living flow.
func (f *flow) silent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard.IsZero() && f.lost == NotLost
}

// downlinks are the server's running downlinks.
type downlinks map[netip.AddrPort]context.CancelFunc

// request starts or ends a downlink; a second request for the same changes nothing.
func (s *server) request(ctx context.Context, all downlinks, datagram []byte, from netip.AddrPort) {
	interval := time.Duration(binary.BigEndian.Uint64(datagram[stampOffset+8:]))
	end, running := all[from]
	switch {
	case running && interval == 0:
		end()
		delete(all, from)
	case !running && interval >= minInterval:
		until, cancel := context.WithTimeout(ctx, downlinkTime)
		all[from] = cancel
		flow, key := binary.BigEndian.Uint32(datagram[4:]), binary.BigEndian.Uint64(datagram[stampOffset:])
		s.wg.Go(func() { s.push(until, from, flow, key, interval) })
	}
}

// push sends numbered datagrams to a client until ctx ends.
func (s *server) push(ctx context.Context, to netip.AddrPort, flow uint32, key uint64, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	buf := make([]byte, udpMessageSize)
	for seq := uint64(0); ; seq++ {
		message{flow: flow, seq: seq, sent: time.Now().UnixNano()}.encode(buf, key)
		putStamp(buf, to)
		_, _ = s.udp.WriteToUDPAddrPort(buf, to) // a lost datagram is the client's to count
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
