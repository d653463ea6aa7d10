package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/router/config"
	"tandem/vrrp"
)

func alphaHA() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("10.255.0.1"), config.DefaultPort)
}

func bravoHA() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("10.255.0.2"), config.DefaultPort)
}

// heartbeatFrame is an authentic heartbeat of bravo to alpha.
func heartbeatFrame(b []byte) bool {
	return len(b) > 14+20+8 && len(b) <= 14+20+8+vrrp.MaxHeartbeat && b[12] == 0x08 && b[13] == 0 && b[14+9] == unix.IPPROTO_UDP &&
		bytes.Equal(b[14+12:14+16], bravoHA().Addr().AsSlice()) && binary.BigEndian.Uint16(b[14+22:]) == config.DefaultPort
}

// heartbeatGarbage sends alpha what somebody who stands on the HA link could:
// noise, forgeries and recordings, all in the name of bravo.
func heartbeatGarbage(s *stand) {
	tap := s.wire(lab.Fabric, lab.PortName("ha", lab.Bravo), unix.ETH_P_ALL)
	recorded := tap.receive(heartbeatFrame)
	harmless := s.harmless()

	w := s.wire(lab.Fabric, lab.PortName("ha", lab.Alpha), 0)
	to, from := net.HardwareAddr(recorded[0:6]), net.HardwareAddr(recorded[6:12])
	forge := func(payload []byte) []byte { return datagram(to, from, bravoHA(), alphaHA(), payload) }
	payload := recorded[14+20+8:]
	forged := bytes.Clone(payload)
	forged[5] ^= 0x01 // the priority
	frames := map[string][]byte{
		"heartbeat-malformed": forge([]byte("GET / HTTP/1.1\r\n\r\n")),
		"heartbeat-forged":    forge(forged),
		"heartbeat-replayed":  forge(payload),
	}
	const times = 50 // together they fit the socket's buffer
	before := s.carrier(lab.Alpha, "ha").Dropped
	for _, frame := range frames {
		for range times {
			w.send(frame)
		}
	}
	s.counts(lab.Alpha, "ha", before, times, slices.Sorted(maps.Keys(frames))...)
	s.complains(lab.Alpha, "heartbeats on the HA link are not signed by the key of bravo")
	harmless() // the complaint ends as well

	// Empty, oversized, and as many as one can.
	calm, unmoved := s.traffic(calmSilence), s.unmoved()
	w.flood(time.Second, 20_000, [][]byte{forge(nil), forge(make([]byte, 1400)), forge(forged), forge(payload)})
	s.flowsOn()
	unmoved()
	calm()
	s.bounded()
}

// replicationPort calls bravo's replication port from alpha's address: silent,
// talkative and half-open callers, more than anybody would. The stream between the
// nodes goes on, and the callers are turned away.
func replicationPort(s *stand) {
	harmless := s.harmless()
	before := s.descriptors(s.nodePID(lab.Bravo))
	applied := s.status(lab.Bravo).Sync

	var callers []net.Conn
	defer func() {
		for _, c := range callers {
			_ = c.Close() // most are closed by the other side
		}
	}()
	for i := range 100 {
		c := s.call(lab.Alpha, bravoHA())
		callers = append(callers, c)
		var err error
		switch i % 5 {
		case 0: // silent
		case 1:
			_, err = c.Write(bytes.Repeat([]byte{0xff}, 64<<10))
		case 2:
			_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: bravo\r\n\r\n")
		case 3: // a TLS client without a certificate
			s.handshake(c)
		case 4: // half closed
			if half, ok := c.(*net.TCPConn); ok {
				err = half.CloseWrite()
			}
		}
		if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			s.t.Fatal(err)
		}
	}
	for _, c := range callers {
		s.must(c.SetReadDeadline(time.Now().Add(patience)))
		// Whatever it answers, an alert of TLS perhaps, it ends the connection.
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			s.t.Error("a caller without a key was kept")
		}
	}
	for _, node := range nodes() {
		if !s.status(node).Sync.Connected {
			s.t.Errorf("%s lost the stream", node)
		}
	}
	s.eventually("bravo lets the callers go", func(context.Context) error {
		if now := s.descriptors(s.nodePID(lab.Bravo)); now > before+4 {
			return fmt.Errorf("it has %d descriptors, before %d", now, before)
		}
		return nil
	})
	if now := s.status(lab.Bravo).Sync; now.Refused != applied.Refused {
		s.t.Errorf("bravo refused %d flows, before %d", now.Refused, applied.Refused)
	}
	harmless()
	s.bounded()
}

// call opens a TCP connection from a namespace.
func (s *stand) call(namespace string, to netip.AddrPort) net.Conn {
	s.t.Helper()
	var c net.Conn
	s.must(s.Namespace(namespace).Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), time.Second)
		return err
	}))
	return c
}

// handshake begins TLS as somebody without a key.
func (s *stand) handshake(c net.Conn) {
	s.t.Helper()
	go func() {
		client := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		_ = client.Handshake() // it fails here or later; the caller looks at the connection
	}()
}

// descriptors counts a process's open files.
func (s *stand) descriptors(pid int) int {
	s.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.must(err)
	return len(entries)
}
