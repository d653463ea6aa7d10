package ctnetlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// session is a connection of the client to an echo in the server.
type session struct{ net.Conn }

// exchange sends n bytes and waits until all of them are back.
func (s session) exchange(n int, patience time.Duration) error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(want)
		sent <- err
	}()
	got := make([]byte, len(want))
	_, err := io.ReadFull(s, got)
	if err := errors.Join(<-sent, err); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("echo differs")
	}
	return nil
}

// tcpSession dials to, behind which the server listens at listen.
func tcpSession(t *testing.T, p *pair, local, to, listen string) session {
	t.Helper()
	inside(t, p.server, func() error {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(c, c) // ends with the session
				_ = c.Close()
			}
		}()
		return nil
	})
	return dial(t, p, "tcp", &net.TCPAddr{IP: net.ParseIP(local)}, to)
}

func udpSession(t *testing.T, p *pair, local, to, listen string) session {
	t.Helper()
	inside(t, p.server, func() error {
		l, err := net.ListenPacket("udp", listen)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := l.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = l.WriteTo(b[:n], from) // a lost answer fails the client
			}
		}()
		return nil
	})
	return dial(t, p, "udp", &net.UDPAddr{IP: net.ParseIP(local)}, to)
}

func dial(t *testing.T, p *pair, network string, local net.Addr, to string) session {
	t.Helper()
	var s session
	inside(t, p.client, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: local}
		s.Conn, err = d.Dial(network, to)
		return err
	})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// icmpConn is an echo by the server's kernel, in the shape of a stream.
type icmpConn struct {
	net.Conn
	id uint16
}

func (c icmpConn) Write(b []byte) (int, error) {
	m := append([]byte{8, 0, 0, 0, byte(c.id >> 8), byte(c.id), 0, 1}, b...)
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	_, err := c.Conn.Write(m)
	return len(b), err
}

func (c icmpConn) Read(b []byte) (int, error) {
	m := make([]byte, 2048)
	for {
		n, err := c.Conn.Read(m)
		if err != nil {
			return 0, err
		}
		const ipHeader = 20
		if n < ipHeader+8 {
			continue
		}
		if e := m[ipHeader:n]; e[0] == 0 && binary.BigEndian.Uint16(e[4:]) == c.id {
			return copy(b, e[8:]), nil
		}
	}
}

func icmpSession(t *testing.T, p *pair, local, to, _ string) session {
	t.Helper()
	s := dial(t, p, "ip4:icmp", &net.IPAddr{IP: net.ParseIP(local)}, to)
	return session{icmpConn{s.Conn, 77}}
}

// find returns the one flow of protocol in c's table.
func find(t *testing.T, c *Conn, protocol uint8) conntracksync.Flow {
	t.Helper()
	var found []conntracksync.Flow
	for _, f := range table(t, c) {
		if f.Protocol == protocol {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d flows of protocol %d, want 1: %+v", len(found), protocol, found)
	}
	return found[0]
}

const natBits = conntracksync.StatusSourceNAT | conntracksync.StatusDestNAT

type liveCase struct {
	name              string
	protocol          uint8
	open              func(t *testing.T, p *pair, local, to, listen string) session
	local, to, listen string
	rules             natRules
	nat               conntracksync.Status
	// change is what the test does to the flow on its way, if anything.
	change func(*conntracksync.Flow)
	// bulk is how many bytes are exchanged at a time.
	bulk int
}

func liveCases() []liveCase {
	at := netip.MustParseAddrPort
	const sn, dn = conntracksync.StatusSourceNAT, conntracksync.StatusDestNAT
	server, server6 := serverAddr4+":8080", "["+serverAddr6+"]:8080"
	snat, snat6 := natRules{source: at(natAddr4 + ":61627")}, natRules{source: at("[" + natAddr6 + "]:61627")}
	return []liveCase{
		{"tcp snat", unix.IPPROTO_TCP, tcpSession, clientAddr4, server, server, snat, sn, nil, 4 << 20},
		{
			"tcp dnat", unix.IPPROTO_TCP, tcpSession, clientAddr4, natAddr4 + ":80", server,
			natRules{dest: at(server)},
			dn, nil, 4 << 20,
		},
		{
			"tcp snat and dnat", unix.IPPROTO_TCP, tcpSession, clientAddr4, natAddr4 + ":80", server,
			natRules{source: snat.source, dest: at(server)},
			sn | dn, nil, 4 << 20,
		},
		{"tcp6 snat", unix.IPPROTO_TCP, tcpSession, clientAddr6, server6, server6, snat6, sn, nil, 4 << 20},
		{
			"tcp6 snat and dnat", unix.IPPROTO_TCP, tcpSession, clientAddr6, "[" + natAddr6 + "]:80", server6,
			natRules{source: snat6.source, dest: at(server6)},
			sn | dn, nil, 4 << 20,
		},
		{"udp snat", unix.IPPROTO_UDP, udpSession, clientAddr4, server, server, snat, sn, nil, 512},
		{
			"icmp snat with identifier", unix.IPPROTO_ICMP, icmpSession, clientAddr4, serverAddr4, "",
			natRules{source: at(natAddr4 + ":0")},
			sn, func(f *conntracksync.Flow) { f.Reply.SourcePort = 4242 }, 64,
		},
		{
			"tcp6 dnat", unix.IPPROTO_TCP, tcpSession, clientAddr6, "[" + natAddr6 + "]:80", server6,
			natRules{dest: at(server6)},
			dn, nil, 4 << 20,
		},
		{
			"tcp snat of the port alone", unix.IPPROTO_TCP, tcpSession, clientAddr4, natAddr4 + ":80", server,
			natRules{source: at(natAddr4 + ":1025"), dest: at(server)},
			sn | dn, nil, 4 << 20,
		},
		{
			"udp snat and dnat", unix.IPPROTO_UDP, udpSession, clientAddr4, natAddr4 + ":80", server,
			natRules{source: snat.source, dest: at(server)},
			sn | dn, nil, 512,
		},
		{"udp6 snat", unix.IPPROTO_UDP, udpSession, clientAddr6, server6, server6, snat6, sn, nil, 512},
		{
			"icmp6 snat with identifier", unix.IPPROTO_ICMPV6, icmp6Session, clientAddr6, serverAddr6, "",
			natRules{source: at("[" + natAddr6 + "]:0")},
			sn, func(f *conntracksync.Flow) { f.Reply.SourcePort = 4243 }, 64,
		},
		{"sctp snat", unix.IPPROTO_SCTP, sctpSession, clientAddr4, serverAddr4, serverAddr4, snat, sn, nil, 512},
		{
			"sctp snat and dnat", unix.IPPROTO_SCTP, sctpSession, clientAddr4, natAddr4, serverAddr4,
			natRules{source: snat.source, dest: at(serverAddr4 + ":36412")},
			sn | dn, nil, 512,
		},
		{
			"gre snat", unix.IPPROTO_GRE, plainSession("ip4:gre", 0, 0, 8, 0), clientAddr4, serverAddr4, serverAddr4,
			natRules{source: at(natAddr4 + ":0")},
			sn, nil, 64,
		},
		{
			"protocol 99 snat and dnat", 99, plainSession("ip4:99"), clientAddr4, natAddr4, serverAddr4,
			natRules{source: at(natAddr4 + ":0"), dest: at(serverAddr4 + ":0")},
			sn | dn, nil, 64,
		},
	}
}

// TestLiveSessionMoves moves a session from router 1 to router 2 and back, with data
// flowing on each: the second has no rules, the first has stale windows by then.
func TestLiveSessionMoves(t *testing.T) {
	for _, tt := range liveCases() {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t)
			translate(t, p.routers[0], tt.rules)
			translate(t, p.routers[1], natRules{})
			first, second := openIn(t, p.routers[0], Config{}), openIn(t, p.routers[1], Config{})
			toClient := !tt.rules.source.IsValid()
			p.use(t, 0, toClient)
			s := tt.open(t, p, tt.local, tt.to, tt.listen)
			if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
				t.Fatalf("before the move: %v", err)
			}

			f := find(t, first, tt.protocol)
			if f.Status&natBits != tt.nat {
				t.Fatalf("status %#x, want the bits %#x", f.Status, tt.nat)
			}
			if tt.change != nil {
				tt.change(&f)
			}
			if res := apply(t, second, op(opCreate, f)); res.Created != 1 {
				t.Fatalf("create: %+v", res)
			}
			if g := find(t, second, tt.protocol); g.Status&natBits != tt.nat || g.Reply != f.Reply {
				t.Fatalf("created %+v, want %+v", g, f)
			}
			p.use(t, 1, toClient)
			if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
				t.Fatalf("after the move: %v", err)
			}

			if res := apply(t, first, op(opReplace, find(t, second, tt.protocol))); res.Created != 1 {
				t.Fatalf("replace: %+v", res)
			}
			p.use(t, 0, toClient)
			if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
				t.Fatalf("after the move back: %v", err)
			}
		})
	}
}

// TestLiveSessionsDieWithoutTheirFlow is the counter-check: what the move above
// proves must not come about by itself.
func TestLiveSessionsDieWithoutTheirFlow(t *testing.T) {
	for _, tt := range liveCases() {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t)
			translate(t, p.routers[0], tt.rules)
			translate(t, p.routers[1], natRules{})
			toClient := !tt.rules.source.IsValid()
			p.use(t, 0, toClient)
			s := tt.open(t, p, tt.local, tt.to, tt.listen)
			if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
				t.Fatalf("before the move: %v", err)
			}
			p.use(t, 1, toClient)
			if err := s.exchange(64, 300*time.Millisecond); err == nil {
				t.Error("the session goes on without its flow")
			}
		})
	}
}

// TestLiveEventsCarryASession follows a session by events alone: what a listener
// hears of it must be enough to create it elsewhere.
func TestLiveEventsCarryASession(t *testing.T) {
	tt := liveCases()[0]
	p := newPair(t)
	translate(t, p.routers[0], tt.rules)
	translate(t, p.routers[1], natRules{})
	first, second := openIn(t, p.routers[0], Config{}), openIn(t, p.routers[1], Config{})
	p.use(t, 0, false)
	s := tt.open(t, p, tt.local, tt.to, tt.listen)
	var last conntracksync.Flow
	kinds := ""
	for last.Status&conntracksync.StatusAssured == 0 {
		events, _ := receive(t, first.Listener)
		for _, e := range events {
			if e.Flow.Protocol == tt.protocol {
				kinds += fmt.Sprint(e.Kind)
				last = e.Flow
				op := op(opUpdate, e.Flow)
				if e.Kind == conntracksync.EventNew {
					op.Kind = opCreate
				}
				if res := apply(t, second, op); res.Refused != 0 {
					t.Fatalf("event %+v: %+v", e, res)
				}
			}
		}
	}
	if kinds != "122" {
		t.Errorf("events %s, want a NEW and two UPDATEs", kinds)
	}
	last.TCP.FlagsOriginal &= tcpFlagMask
	last.TCP.FlagsReply &= tcpFlagMask
	if f := find(t, second, tt.protocol); f.TCP != last.TCP || f.Status&statusCompared != last.Status&statusCompared {
		t.Errorf("replica %+v, want %+v", f, last)
	}
	p.use(t, 1, false)
	if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
		t.Errorf("after the move: %v", err)
	}
}

// TestLiveMarkLabelAndZone moves a session to a router that lets pass what has the
// mark and the label in its zone, and nothing else.
func TestLiveMarkLabelAndZone(t *testing.T) {
	const zone, mark = 7, 42
	tt := liveCases()[0]
	p := newPair(t)
	for i, rules := range []string{"ct state new ct mark set 42 ct label set 3", "ct mark 42 ct label 3 accept; drop"} {
		translate(t, p.routers[i], natRules{})
		ruleset(t, p.routers[i], `table ip marks {
			chain zones { type filter hook prerouting priority -300; ct zone set 7; }
			chain marks { type filter hook forward priority 0; `+rules+`; }
		}`)
	}
	translate(t, p.routers[0], tt.rules)
	first, second := openIn(t, p.routers[0], Config{}), openIn(t, p.routers[1], Config{})
	p.use(t, 0, false)
	s := tt.open(t, p, tt.local, tt.to, tt.listen)
	if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
		t.Fatalf("before the move: %v", err)
	}
	f := find(t, first, tt.protocol)
	if f.Zone != zone || f.Mark != mark || f.Extra == nil || f.Extra.Labels != [16]byte{1 << 3} {
		t.Fatalf("on router 1: %s", shown(f))
	}
	bare := f
	bare.Extra = nil
	apply(t, second, op(opCreate, bare))
	p.use(t, 1, false)
	if err := s.exchange(64, 300*time.Millisecond); err == nil {
		t.Error("the session passes without its label")
	}
	// Labels come with an update as well as with the creation.
	for _, kind := range []conntracksync.OpKind{opUpdate, opReplace} {
		if res := apply(t, second, op(kind, f)); res.Refused != 0 || len(res.Stripped) != 0 {
			t.Fatalf("%+v", res)
		}
		got := find(t, second, tt.protocol)
		if got.Zone != zone || got.Mark != mark || got.Extra == nil || *got.Extra != *f.Extra {
			t.Errorf("after operation %d: %s", kind, shown(got))
		}
		if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
			t.Errorf("after operation %d: %v", kind, err)
		}
	}
}
