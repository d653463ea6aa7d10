package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
)

// probeInterval is how often the server sends an answer in every sampled session.
const probeInterval = 10 * time.Millisecond

// probe has the server send more answers in old sessions. They reach the client only
// if the router has the sessions, whatever its rules say.
type probe struct {
	sample [][2]uint16
	sender *batch
	socket int
	done   chan struct{}
	wait   sync.WaitGroup

	mu    sync.Mutex
	since time.Time
	// heard is when a session was heard first since then.
	heard map[[2]uint16]time.Time
	err   error
}

// startProbe begins to probe sessions of the load, by their numbers.
func (l *loader) startProbe(numbers []uint64) (*probe, error) {
	p := &probe{done: make(chan struct{})}
	for _, number := range numbers {
		source, destination := ports(number)
		p.sample = append(p.sample, [2]uint16{source, destination})
	}
	err := l.Namespace(lab.Server).Do(func() (err error) {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return fmt.Errorf("find the server's link: %w", err)
		}
		p.sender, err = openBatch("eth0", frame(virtualMAC(wanVRID), link.HardwareAddr,
			netip.MustParseAddr(lab.ServerAddress), netip.MustParseAddr(lab.NATAddress)))
		return err
	})
	if err != nil {
		return nil, err
	}
	err = l.Namespace(lab.Client).Do(func() (err error) {
		p.socket, err = listenToFrames("eth0")
		return err
	})
	if err != nil {
		return nil, errors.Join(err, unix.Close(p.sender.socket))
	}
	p.restart()
	p.wait.Go(p.send)
	p.wait.Go(p.receive)
	return p, nil
}

// listenToFrames opens a socket that gets all frames of a link.
func listenToFrames(link string) (int, error) {
	device, err := net.InterfaceByName(link)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", link, err)
	}
	// In network byte order. Sockets for all protocols hear what the rules drop, too.
	const protocol = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: device.Index}))
	if err != nil {
		return 0, errors.Join(fmt.Errorf("bind packet socket to %s: %w", link, err), unix.Close(socket))
	}
	return socket, nil
}

// restart forgets what was heard.
func (p *probe) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since, p.heard = time.Now(), make(map[[2]uint16]time.Time)
}

// send repeats the sample until the probe ends.
func (p *probe) send() {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		for rest := range slices.Chunk(p.sample, batchSize) {
			for i, ports := range rest {
				setPorts(p.sender.frames[i], ports[1], ports[0])
			}
			if _, err := p.sender.send(len(rest)); err != nil {
				p.mu.Lock()
				p.err = err
				p.mu.Unlock()
				return
			}
		}
		select {
		case <-p.done:
			return
		case <-ticker.C:
		}
	}
}

func (p *probe) receive() {
	wanted := make(map[[2]uint16]bool)
	for _, ports := range p.sample {
		wanted[ports] = true
	}
	buffer := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(p.socket, buffer, 0)
		select {
		case <-p.done:
			return
		default:
		}
		if err != nil || n < frameSize {
			continue // the time-out lets it look whether the probe has ended
		}
		udp := buffer[ethernetHeader+ipHeader:]
		ports := [2]uint16{binary.BigEndian.Uint16(udp[2:]), binary.BigEndian.Uint16(udp)}
		if binary.BigEndian.Uint16(buffer[12:]) != unix.ETH_P_IP || buffer[ethernetHeader+9] != unix.IPPROTO_UDP || !wanted[ports] {
			continue
		}
		p.mu.Lock()
		if _, known := p.heard[ports]; !known {
			p.heard[ports] = time.Now()
		}
		p.mu.Unlock()
	}
}

// count is how many sessions were heard.
func (p *probe) count() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.heard), p.err
}

// untilHeard waits until all sessions were heard.
func (p *probe) untilHeard(ctx context.Context) error {
	return poll(ctx, func(context.Context) error {
		n, err := p.count()
		if err == nil && n < len(p.sample) {
			err = fmt.Errorf("%d of %d old sessions pass", n, len(p.sample))
		}
		return err
	})
}

// times are when the sessions were heard first, in order.
func (p *probe) times(from time.Time) []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []time.Duration
	for _, at := range p.heard {
		list = append(list, at.Sub(from))
	}
	slices.Sort(list)
	return list
}

func (p *probe) stop() error {
	close(p.done)
	p.wait.Wait()
	return errors.Join(unix.Close(p.socket), unix.Close(p.sender.socket))
}
