package traffic

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// serveAll is a server of everything, with the raw sockets that this needs.
func serveAll(t *testing.T) ServerConfig {
	t.Helper()
	probe, err := net.ListenPacket("ip4:253", "127.0.0.1")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("raw sockets need CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = probe.Close()
	free := listenOnce(t)
	cfg := ServerConfig{Address: loopback, NewPort: free, Protocols: []uint8{protocolSCTP, protocolGRE, 253}}
	s, err := listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.run(t.Context()) }()
	t.Cleanup(func() { // the context of the test has ended by then
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	at := s.listening()
	cfg.TCPPort, cfg.UDPPort, cfg.BulkPort = at.TCP.Port(), at.UDP.Port(), at.Bulk.Port()
	return cfg
}

// listenOnce returns a port that is free.
func listenOnce(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// everything is a client of each kind. On the loopback, its addresses keep it apart from
// the server.
func everything(at ServerConfig) ClientConfig {
	return ClientConfig{
		Server: loopback, TCPPort: at.TCPPort, UDPPort: at.UDPPort, BulkPort: at.BulkPort, NewPort: at.NewPort,
		Sources:     []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")},
		TCPSessions: 2, UDPFlows: 2, Downlinks: 2, Pings: 4, Associations: 4, Protocols: []uint8{protocolGRE, 253},
	}
}

const everyFlow = 2 + 2 + 2 + 4 + 4 + 2

// Not parallel to the next one: a raw socket gets what is for others, too.
func TestEveryKind(t *testing.T) {
	cfg := everything(serveAll(t))
	cfg.NewPerSecond = 500
	r := runClient(t, cfg)
	r.until("ready", ready)
	r.do(Command{Verb: Mark})
	s := r.until("all resumed", func(s Snapshot) bool { return s.Resumed() == everyFlow && s.Opened > 100 })
	if s.Alive() != everyFlow || s.Lost() != 0 || s.Failed > 0 {
		t.Errorf("%+v", s)
	}
	for _, g := range s.Groups() {
		if g.Duplicates > 0 || g.SendErrors > 0 {
			t.Errorf("%s: %+v", g.Name, g.Group)
		}
	}
	if s.Downlink.SilenceMax > time.Second || s.SCTP.Echoes == 0 || s.Other.Echoes == 0 {
		t.Errorf("%+v", s)
	}
}

// Quiet flows say one thing, and one more each time they are woken.
func TestQuiet(t *testing.T) {
	cfg := everything(serveAll(t))
	cfg.Quiet, cfg.Downlinks = true, 0
	const flows = everyFlow - 2
	r := runClient(t, cfg)
	r.until("ready", ready)
	r.do(Command{Verb: Fault})
	before := r.until("a while has passed", func(s Snapshot) bool { return s.Uptime > 3*quietRetry })
	if before.Resumed() != 0 {
		t.Errorf("%d quiet flows were heard", before.Resumed())
	}
	r.do(Command{Verb: Wake})
	r.until("all resumed", func(s Snapshot) bool { return s.Resumed() == flows })
	after := r.until("a while has passed", func(s Snapshot) bool { return s.Uptime > before.Uptime+3*quietRetry })
	for i, g := range after.Groups() {
		if want := before.Groups()[i].Sent + uint64(g.Total); g.Sent != want {
			t.Errorf("%s: %d messages, want %d", g.Name, g.Sent, want)
		}
	}
}

// A downlink ends with its client.
func TestDownlinkEnds(t *testing.T) {
	t.Parallel()
	at := serve(t)
	conn, err := net.Dial("udp4", at.UDP.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, udpMessageSize)
	ask := func(interval time.Duration) {
		encodeDownlink(buf, 1, testKey, interval)
		if _, err := conn.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(wait time.Duration) error {
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Read(buf)
		return err
	}
	ask(minInterval)
	for range 3 {
		if err := hear(testPatience); err != nil {
			t.Fatal(err)
		}
	}
	ask(0)
	deadline := time.Now().Add(testPatience)
	for hear(500*time.Millisecond) == nil {
		if time.Now().After(deadline) {
			t.Fatal("it goes on")
		}
	}
}

func TestSCTPFraming(t *testing.T) {
	t.Parallel()
	client := association{local: 4000, remote: 5000, tag: 7 ^ tagMask, own: 7, number: new(uint32)}
	answer, _ := answerSCTP(client.sctpPacket(nil, 0, chunkInit, 0, setup(7)))
	if kind, value, ok := client.chunk(answer); !ok || kind != chunkInitAck || len(value) != 16+8 {
		t.Fatalf("answer to INIT: %x", answer)
	}
	datagram := make([]byte, udpMessageSize)
	message{flow: 1, seq: 2, sent: 3}.encode(datagram, testKey)
	answer = stampSCTP(client.wrap(nil, datagram), netip.MustParseAddrPort("192.0.2.1:0"))
	got, ok := client.unwrap(answer)
	if !ok || stamp(got) != netip.MustParseAddrPort("192.0.2.1:4000") {
		t.Fatalf("answer to DATA: %x", answer)
	}
	if _, err := decode(got, 1, testKey); err != nil {
		t.Error(err)
	}
	for n := range answer {
		if _, ok := client.unwrap(answer[:n]); ok {
			t.Errorf("%d bytes of it are taken for a whole", n)
		}
		answerSCTP(answer[:n])
	}
}
