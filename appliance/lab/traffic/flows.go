package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// open establishes all flows. On an error those that were opened are in c and end
// with it.
func (c *client) open(ctx context.Context) error {
	if err := c.openTCP(ctx); err != nil {
		return err
	}
	for i := range c.cfg.UDPFlows + c.cfg.Downlinks {
		conn, err := c.dial(ctx, "udp", c.cfg.UDPPort, i)
		if err != nil {
			return fmt.Errorf("%w: open UDP flow %d of %d: %w", ErrNotReady, i+1, c.cfg.UDPFlows+c.cfg.Downlinks, err)
		}
		if i < c.cfg.UDPFlows {
			c.udp = append(c.udp, &flow{id: uint32(i), kind: kindUDP, conn: conn})
			continue
		}
		c.downlink = append(c.downlink, &flow{id: uint32(i - c.cfg.UDPFlows), kind: kindDownlink, conn: conn})
	}
	if err := c.openPackets(ctx); err != nil {
		return err
	}
	if !c.cfg.Download {
		return nil
	}
	conn, err := c.dial(ctx, "tcp", c.cfg.BulkPort, c.cfg.TCPSessions)
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

// openPackets opens the flows of raw sockets.
func (c *client) openPackets(ctx context.Context) error {
	add := func(flows *[]*flow, k kind, what string, count int, open func(i int) (*packetConn, error)) error {
		for i := range count {
			conn, err := open(i)
			if err != nil {
				return fmt.Errorf("%w: open %s %d of %d: %w", ErrNotReady, what, i+1, count, err)
			}
			*flows = append(*flows, &flow{id: uint32(i), kind: k, conn: conn})
		}
		return nil
	}
	ipv6 := c.cfg.Server.Is6()
	protocol := protocolICMP
	if ipv6 {
		protocol = protocolICMPv6
	}
	return errors.Join(
		add(&c.ping, kindPing, "ping", c.cfg.Pings, func(i int) (*packetConn, error) {
			f := echoRequest{ipv6: ipv6, identifier: identifierBase + uint16(i/max(1, len(c.cfg.Sources))), number: new(uint16)}
			return dialPackets(protocol, c.source(i).Addr(), c.cfg.Server, f)
		}),
		add(&c.sctp, kindSCTP, "SCTP association", c.cfg.Associations, func(i int) (*packetConn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			from := c.source(i)
			if from.Port() == 0 {
				from = netip.AddrPortFrom(from.Addr(), sctpPortBase+uint16(i))
			}
			return dialSCTP(ctx, from, c.serverPort(c.cfg.TCPPort), uint32(c.key)^uint32(i+1))
		}),
		add(&c.other, kindOther, "flow of another protocol", len(c.cfg.Protocols), func(i int) (*packetConn, error) {
			return dialPackets(int(c.cfg.Protocols[i]), c.source(0).Addr(), c.cfg.Server, plainFor(c.cfg.Protocols[i]))
		}),
	)
}

// openTCP establishes all TCP sessions, some of them at a time.
func (c *client) openTCP(ctx context.Context) error {
	conns := make([]net.Conn, c.cfg.TCPSessions)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialParallel)
	for i := range conns {
		group.Go(func() error {
			conn, err := c.dial(ctx, "tcp", c.cfg.TCPPort, i)
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
