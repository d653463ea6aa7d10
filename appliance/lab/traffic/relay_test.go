package traffic

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

// udpRelay forwards datagrams like a router with NAT that can fail.
type udpRelay struct {
	at          netip.AddrPort
	drop, remap atomic.Bool
}

func relayUDP(t *testing.T, to netip.AddrPort) *udpRelay {
	t.Helper()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	r := &udpRelay{at: front.LocalAddr().(*net.UDPAddr).AddrPort()}
	done := make(chan struct{})
	t.Cleanup(func() { _ = front.Close(); <-done })
	go func() {
		defer close(done)
		r.forward(front, to)
	}()
	return r
}

func (r *udpRelay) forward(front *net.UDPConn, to netip.AddrPort) {
	backs := map[netip.AddrPort]*net.UDPConn{}
	defer func() {
		for _, back := range backs {
			_ = back.Close()
		}
	}()
	buf := make([]byte, 2048)
	for {
		n, from, err := front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if r.drop.Load() {
			continue
		}
		back := backs[from]
		if back != nil && r.remap.CompareAndSwap(true, false) {
			_ = back.Close()
			back = nil
		}
		if back == nil {
			if back, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)); err != nil {
				return
			}
			backs[from] = back
			go func() {
				buf := make([]byte, 2048)
				for {
					n, err := back.Read(buf)
					if err != nil {
						return
					}
					if !r.drop.Load() {
						_, _ = front.WriteToUDPAddrPort(buf[:n], from)
					}
				}
			}()
		}
		_, _ = back.Write(buf[:n])
	}
}

// tcpRelay forwards streams and can hold them back, as TCP does when packets drop.
type tcpRelay struct {
	at   netip.AddrPort
	gate sync.RWMutex
}

func (r *tcpRelay) hold()    { r.gate.Lock() }
func (r *tcpRelay) release() { r.gate.Unlock() }

func relayTCP(t *testing.T, to netip.AddrPort) *tcpRelay {
	t.Helper()
	l, err := listenTCP(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &tcpRelay{at: l.Addr().(*net.TCPAddr).AddrPort()}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			front, err := l.AcceptTCP()
			if err != nil {
				return
			}
			back, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
			if err != nil {
				_ = front.Close()
				return
			}
			go r.copy(front, back)
			go r.copy(back, front)
		}
	}()
	return r
}

func (r *tcpRelay) copy(to, from *net.TCPConn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.gate.RLock()
		_, err = to.Write(buf[:n])
		r.gate.RUnlock()
		if err != nil {
			return
		}
	}
}
