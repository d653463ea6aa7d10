package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// icmpFilter is ICMP_FILTER of <linux/icmp.h>: a bit that is set keeps a type out.
	icmpFilter = 1
	// useful keeps out all but echo replies, unreachable destinations and exceeded times.
	useful = ^(1<<0 | 1<<3 | 1<<11)

	// payload is that of usual echoes: there are networks that drop empty ones.
	payload = "tandem: is this uplink alive?..."

	icmpLength    = 8
	header4Length = 20
)

// echoKey is what the packets on one socket have in common.
type echoKey struct {
	name   string
	source netip.Addr
	mark   uint32
}

// ping is an echo that is under way.
type ping struct {
	target   netip.Addr
	sequence uint16
}

// echoes sends ICMP echoes from one address of one interface. The socket is shared: each raw
// socket gets a copy of every message that comes in.
type echoes struct {
	key      echoKey
	conn     net.PacketConn
	id       uint16
	sequence atomic.Uint32
	waiting  waiting[ping]
}

func (p *Prober) askEcho(ctx context.Context, r *Request) (answer, error) {
	host := r.Probe.Target.Host
	address, err := p.resolve(ctx, r, host)
	if err != nil {
		return answer{}, err
	}
	r.to = address
	e, err := p.echoesOf(r)
	if err != nil {
		return answer{}, err
	}
	asked := ping{address, uint16(e.sequence.Add(1))}
	heard, done := e.waiting.add(asked)
	defer done()
	message, err := e.request(asked.sequence)
	if err != nil {
		return answer{}, localError{err}
	}
	to := &net.IPAddr{IP: address.AsSlice()}
	if address.Is6() && address.IsLinkLocalUnicast() {
		to.Zone = r.Interface
	}
	sent := time.Now()
	if _, err := e.conn.WriteTo(message, to); err != nil {
		p.dropEchoes(e)
		return answer{}, local("cannot send: %w", plain(err))
	}
	got, err := await(ctx, heard, sent)
	if err != nil {
		return answer{}, p.failed(r, host, err)
	}
	return got, nil
}

func (e *echoes) request(sequence uint16) ([]byte, error) {
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if e.key.source.Is6() {
		kind = ipv6.ICMPTypeEchoRequest // the kernel adds the checksum
	}
	m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: int(e.id), Seq: int(sequence), Data: []byte(payload)}}
	return m.Marshal(nil)
}

// plain is the error of the kernel without what the library says around it.
func plain(err error) error {
	var number unix.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// echoesOf returns the shared socket, which it opens if there is none, or if the device of its
// name is another one by now.
func (p *Prober) echoesOf(r *Request) (*echoes, error) {
	k := echoKey{r.Interface, r.Source, r.Mark}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if e, ok := p.echoes[k]; ok {
		return e, nil
	}
	p.closeIdle()
	protocol := unix.IPPROTO_ICMP
	if r.Source.Is6() {
		protocol = unix.IPPROTO_ICMPV6
	}
	fd, err := p.socket(r, r.Source, r.Source.Is6(), unix.SOCK_RAW, protocol)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "icmp")
	if r.Source.Is6() {
		var filter unix.ICMPv6Filter
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		for _, kind := range []ipv6.ICMPType{ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeDestinationUnreachable, ipv6.ICMPTypeTimeExceeded} {
			filter.Data[kind>>5] &^= 1 << (kind & 31)
		}
		err = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, useful)
	}
	if err != nil {
		return nil, errors.Join(local("cannot send: filter: %w", err), file.Close())
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, errors.Join(localError{err}, file.Close())
	}
	e := &echoes{key: k, conn: conn, id: uint16(rand.Uint32())}
	p.echoes[k] = e
	go e.listen()
	return e, file.Close()
}

func (p *Prober) dropEchoes(e *echoes) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.echoes[e.key] == e {
		delete(p.echoes, e.key)
	}
	_ = e.close() // it is of no use any more
}

func (e *echoes) close() error {
	e.waiting.close(errClosed)
	return e.conn.Close()
}

// listen takes in replies until the socket is closed.
func (e *echoes) listen() {
	b := make([]byte, 1500)
	for {
		n, from, err := e.conn.ReadFrom(b)
		at := time.Now()
		if err != nil {
			e.waiting.close(local("cannot receive: %w", plain(err)))
			return
		}
		address, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		router, _ := netip.AddrFromSlice(address.IP)
		router = router.Unmap()
		heard, ok := parseEcho(b[:n], e.key.source.Is6())
		switch {
		case !ok || heard.id != e.id:
		case heard.trouble == "":
			e.waiting.wake(ping{router, heard.sequence}, reply{at: at})
		case router == e.key.source:
			e.waiting.wake(ping{heard.target, heard.sequence}, reply{at: at, err: errors.New("the next hop does not answer")})
		default:
			e.waiting.wake(ping{heard.target, heard.sequence}, reply{at: at, err: fmt.Errorf("%v says: %s", router, heard.trouble)})
		}
	}
}

// heardEcho is what a message says about an echo of ours: a reply, or the trouble on the way to
// target.
type heardEcho struct {
	id, sequence uint16
	trouble      string
	target       netip.Addr
}

// parseEcho reads an ICMP message, without the header of IP.
func parseEcho(b []byte, six bool) (heardEcho, bool) {
	protocol := unix.IPPROTO_ICMP
	if six {
		protocol = unix.IPPROTO_ICMPV6
	}
	if len(b) < icmpLength {
		return heardEcho{}, false
	}
	m, err := icmp.ParseMessage(protocol, b)
	if err != nil {
		return heardEcho{}, false
	}
	switch m.Type {
	case ipv4.ICMPTypeEchoReply, ipv6.ICMPTypeEchoReply:
		return heardEcho{id: binary.BigEndian.Uint16(b[4:]), sequence: binary.BigEndian.Uint16(b[6:])}, true
	case ipv4.ICMPTypeDestinationUnreachable, ipv6.ICMPTypeDestinationUnreachable:
		return parseCause(b[icmpLength:], six, unreachable(m.Code, six))
	case ipv4.ICMPTypeTimeExceeded, ipv6.ICMPTypeTimeExceeded:
		return parseCause(b[icmpLength:], six, "packets go round in circles")
	}
	return heardEcho{}, false
}

// parseCause reads the packet that an error message is about.
func parseCause(b []byte, six bool, trouble string) (heardEcho, bool) {
	heard := heardEcho{trouble: trouble}
	kind := byte(ipv4.ICMPTypeEcho)
	switch {
	case six:
		if len(b) < header6Length+icmpLength || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 {
			return heardEcho{}, false
		}
		heard.target = netip.AddrFrom16([16]byte(b[24:40]))
		kind, b = byte(ipv6.ICMPTypeEchoRequest), b[header6Length:]
	default:
		if len(b) < header4Length || b[0]>>4 != 4 || b[9] != unix.IPPROTO_ICMP {
			return heardEcho{}, false
		}
		length := int(b[0]&0x0f) * 4
		if length < header4Length || len(b) < length+icmpLength {
			return heardEcho{}, false
		}
		heard.target = netip.AddrFrom4([4]byte(b[16:20]))
		b = b[length:]
	}
	if b[0] != kind {
		return heardEcho{}, false
	}
	heard.id, heard.sequence = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	return heard, true
}

// unreachable says what a code of that message means (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3.1).
func unreachable(code int, six bool) string {
	meaning := map[int]string{
		0: "network is unreachable", 1: "host is unreachable", 6: "network is unknown", 7: "host is unknown",
		9: "network is prohibited", 10: "host is prohibited", 13: "filtered by an administrator",
	}
	if six {
		meaning = map[int]string{0: "no route", 1: "filtered by an administrator", 3: "host is unreachable", 5: "source is refused", 6: "route is rejected"}
	}
	if text, ok := meaning[code]; ok {
		return text
	}
	return "destination is unreachable"
}
