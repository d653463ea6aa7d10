package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxConnections bounds what a server serves at a time; further ones are closed.
	maxConnections = 2 * maxFlows
	// bulkTick is how often a paced download sends.
	bulkTick = 4 * time.Millisecond
	// bulkBurst bounds what a paced download catches up after a pause.
	bulkBurst = 50 * time.Millisecond
	// udpBuffer is the receive buffer of the UDP socket in bytes: what comes in while
	// the process waits for a processor.
	udpBuffer = 1 << 20
	// bulkRequestSize is the length of what a client sends first on a download: the
	// rate in bits per second, big endian.
	bulkRequestSize = 8
	requestTimeout  = 10 * time.Second
)

// Listening is where a server listens.
type Listening struct {
	TCP  netip.AddrPort `json:"tcp"`
	UDP  netip.AddrPort `json:"udp"`
	Bulk netip.AddrPort `json:"bulk"`
	New  netip.AddrPort `json:"new,omitzero"`
}

// server holds the sockets of a server.
type server struct {
	tcp, bulk *net.TCPListener
	// fresh is nil if the server takes no connections that end at once.
	fresh    *net.TCPListener
	udp      *net.UDPConn
	packets  map[uint8]*net.IPConn
	bulkRate uint64
	// wg waits for the downlinks.
	wg sync.WaitGroup
	// slots has one place per connection served.
	slots chan struct{}
}

// Serve echoes TCP and UDP and sends downloads until ctx ends. It returns an error
// only if it cannot listen or a listening socket breaks.
func Serve(ctx context.Context, cfg ServerConfig) error {
	s, err := listen(cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func listen(cfg ServerConfig) (*server, error) {
	s := &server{bulkRate: cfg.BulkRate, slots: make(chan struct{}, maxConnections)}
	var err error
	if s.tcp, err = listenTCP(cfg.Address, cfg.TCPPort); err != nil {
		return nil, err
	}
	if s.bulk, err = listenTCP(cfg.Address, cfg.BulkPort); err != nil {
		s.close()
		return nil, err
	}
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(cfg.Address, cfg.UDPPort))
	if s.udp, err = net.ListenUDP("udp", at); err != nil {
		s.close()
		return nil, fmt.Errorf("listen for UDP echo on %v: %w", at, err)
	}
	_ = s.udp.SetReadBuffer(udpBuffer) // the kernel clips it to rmem_max; smaller works too
	if cfg.NewPort != 0 {
		at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.Address, cfg.NewPort))
		if s.fresh, err = listenNew(at); err != nil {
			s.close()
			return nil, err
		}
	}
	s.packets = make(map[uint8]*net.IPConn)
	for _, protocol := range cfg.Protocols {
		if s.packets[protocol], err = net.ListenIP(fmt.Sprintf("ip4:%d", protocol), &net.IPAddr{IP: cfg.Address.AsSlice()}); err != nil {
			delete(s.packets, protocol)
			s.close()
			return nil, fmt.Errorf("listen for packets of protocol %d: %w", protocol, err)
		}
	}
	return s, nil
}

func listenTCP(a netip.Addr, port uint16) (*net.TCPListener, error) {
	at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, port))
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("listen on TCP %v: %w", at, err)
	}
	return l, nil
}

// close closes what is open; errors of closing tell nothing.
func (s *server) close() {
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
	if s.bulk != nil {
		_ = s.bulk.Close()
	}
	if s.udp != nil {
		_ = s.udp.Close()
	}
	if s.fresh != nil {
		_ = s.fresh.Close()
	}
	for _, conn := range s.packets {
		_ = conn.Close()
	}
}

// listening returns the addresses that the kernel chose.
func (s *server) listening() Listening {
	at := Listening{
		TCP:  s.tcp.Addr().(*net.TCPAddr).AddrPort(),
		UDP:  s.udp.LocalAddr().(*net.UDPAddr).AddrPort(),
		Bulk: s.bulk.Addr().(*net.TCPAddr).AddrPort(),
	}
	if s.fresh != nil {
		at.New = s.fresh.Addr().(*net.TCPAddr).AddrPort()
	}
	return at
}

func (s *server) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	group.Go(func() error { return s.accept(ctx, s.tcp, echoTCP) })
	group.Go(func() error { return s.accept(ctx, s.bulk, s.send) })
	if s.fresh != nil {
		group.Go(func() error { return s.accept(ctx, s.fresh, discard) })
	}
	group.Go(func() error { return s.echoUDP(ctx) })
	for protocol, conn := range s.packets {
		group.Go(func() error { return s.echoPackets(ctx, protocol, conn) })
	}
	err := group.Wait()
	s.wg.Wait()
	return err
}

// accept serves each connection in a goroutine of its own and waits for all of them
// in the end.
func (s *server) accept(ctx context.Context, l *net.TCPListener, serve func(*net.TCPConn)) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		select {
		case s.slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-s.slots }()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer func() { _ = conn.Close() }()
			serve(conn)
		})
	}
}

// echoTCP returns what comes until the client ends or the connection breaks.
func echoTCP(conn *net.TCPConn) {
	// A plain loop: io.Copy would splice through a pipe, two file descriptors more
	// per session.
	buf := make([]byte, 1024)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// send reads the wanted rate and sends blocks until the client ends.
func (s *server) send(conn *net.TCPConn) {
	var request [bulkRequestSize]byte
	if err := conn.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return
	}
	if _, err := io.ReadFull(conn, request[:]); err != nil {
		return
	}
	rate := binary.BigEndian.Uint64(request[:])
	if s.bulkRate != 0 && (rate == 0 || rate > s.bulkRate) {
		rate = s.bulkRate
	}
	block := newBlock()
	var number uint64
	next := func() error {
		putBlockHeader(block, number, time.Now().UnixNano())
		number++
		_, err := conn.Write(block)
		return err
	}
	if rate == 0 {
		for next() == nil {
		}
		return
	}
	paced(float64(rate)/8/blockSize, next)
}

// paced calls next at an even rate per second until it returns an error.
func paced(rate float64, next func() error) {
	tick := time.NewTicker(bulkTick)
	defer tick.Stop()
	last, due := time.Now(), 0.0
	for range tick.C {
		now := time.Now()
		due = min(due+now.Sub(last).Seconds()*rate, max(1, bulkBurst.Seconds()*rate))
		last = now
		for ; due >= 1; due-- {
			if next() != nil {
				return
			}
		}
	}
}

// echoUDP returns each datagram with the stamp of the source that it came from.
// What is no message is dropped, so that the server reflects nothing else.
func (s *server) echoUDP(ctx context.Context) error {
	buf := make([]byte, udpMessageSize+1)
	pushed := downlinks{}
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("receive UDP on %v: %w", s.udp.LocalAddr(), err)
		}
		if err != nil || n != udpMessageSize {
			continue
		}
		if binary.BigEndian.Uint32(buf) == downlinkMagic {
			s.request(ctx, pushed, buf[:n], from)
		}
		if binary.BigEndian.Uint32(buf) != messageMagic {
			continue
		}
		putStamp(buf, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		_, _ = s.udp.WriteToUDPAddrPort(buf[:n], from) // a lost echo is the client's to count
	}
}
