package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// open establishes all flows. On an error those that were opened are in c and end
// with it.
func (c *client) open(ctx context.Context) error {
	if err := c.openTCP(ctx); err != nil {
		return err
	}
	for i := range c.cfg.UDPFlows {
		conn, err := c.dial(ctx, "udp", c.cfg.UDPPort)
		if err != nil {
			return fmt.Errorf("%w: open UDP flow %d of %d: %w", ErrNotReady, i+1, c.cfg.UDPFlows, err)
		}
		c.udp = append(c.udp, &flow{id: uint32(i), kind: kindUDP, conn: conn})
	}
	if !c.cfg.Download {
		return nil
	}
	conn, err := c.dial(ctx, "tcp", c.cfg.BulkPort)
	if err != nil {
		return fmt.Errorf("%w: open the download: %w", ErrNotReady, err)
	}
	c.bulk = append(c.bulk, &flow{kind: kindBulk, conn: conn})
	request := binary.BigEndian.AppendUint64(nil, c.cfg.BulkRate)
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("%w: ask for the download: %w", ErrNotReady, err)
	}
	return nil
}

// openTCP establishes all TCP sessions, some of them at a time.
func (c *client) openTCP(ctx context.Context) error {
	conns := make([]net.Conn, c.cfg.TCPSessions)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialParallel)
	for i := range conns {
		group.Go(func() error {
			conn, err := c.dial(ctx, "tcp", c.cfg.TCPPort)
			if err != nil {
				return fmt.Errorf("%w: open TCP session %d of %d: %w", ErrNotReady, i+1, len(conns), err)
			}
			conns[i] = conn
			return nil
		})
	}
	err := group.Wait()
	for i, conn := range conns {
		if conn != nil {
			c.tcp = append(c.tcp, &flow{id: uint32(i), kind: kindTCP, conn: conn})
		}
	}
	return err
}

// readTCP checks the echoes of one session until it ends.
func (c *client) readTCP(f *flow) {
	buf := make([]byte, 16*tcpMessageSize)
	have := 0
	for {
		n, err := f.conn.Read(buf[have:])
		now := time.Now()
		have += n
		used := 0
		for ; have-used >= tcpMessageSize; used += tcpMessageSize {
			m, err := decode(buf[used:used+tcpMessageSize], f.id, c.key)
			if err != nil {
				f.lose(now, WrongData, err.Error())
				return
			}
			if !f.echoTCP(now, m) {
				f.lose(now, OutOfOrder, fmt.Sprintf("echo %d is not the one expected", m.seq))
				return
			}
		}
		have = copy(buf, buf[used:have])
		if err != nil {
			c.broken(f, err)
			return
		}
	}
}

// readUDP checks the echoes of one flow until it ends.
func (c *client) readUDP(f *flow) {
	buf := make([]byte, udpMessageSize+1)
	for {
		n, err := f.conn.Read(buf)
		now := time.Now()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !f.alive() || c.ending.Load() {
				return
			}
			// An ICMP error for a datagram sent earlier; the flow goes on.
			continue
		}
		m, err := decode(buf[:n], f.id, c.key)
		if err == nil && n != udpMessageSize {
			err = errNotOurs
		}
		if err != nil {
			f.lose(now, WrongData, fmt.Sprintf("datagram of %d bytes: %v", n, err))
			return
		}
		from := stamp(buf)
		before := f.mapping()
		if r := f.echoUDP(now, m, from); r != NotLost {
			f.lose(now, r, fmt.Sprintf("datagram %d: seen by the server from %v, before from %v", m.seq, from, before))
			return
		}
	}
}

// readBulk checks every byte of a download until it ends.
func (c *client) readBulk(f *flow) {
	want := newBlock()
	buf := make([]byte, 4*blockSize)
	have := 0
	var number uint64
	for {
		n, err := f.conn.Read(buf[have:])
		now := time.Now()
		have += n
		used := 0
		newest := int64(0)
		for ; have-used >= blockSize; used += blockSize {
			block := buf[used : used+blockSize]
			got, sent := blockHeaderOf(block)
			if got != number || !bytes.Equal(block[blockHeader:], want[blockHeader:]) {
				f.lose(now, WrongData, fmt.Sprintf("block %d of the download is wrong", number))
				return
			}
			number++
			newest = sent
		}
		have = copy(buf, buf[used:have])
		if n > 0 {
			f.received(now, n, number, newest)
		}
		if err != nil {
			c.broken(f, err)
			return
		}
	}
}
