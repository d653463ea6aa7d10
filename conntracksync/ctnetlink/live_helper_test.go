package ctnetlink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
)

// ruleset loads rules in the syntax of nft into ns.
func ruleset(t *testing.T, ns netns.NsHandle, rules string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	inside(t, ns, func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// ftpControl is both ends of a control connection of FTP.
type ftpControl struct {
	t              *testing.T
	client, server net.Conn
	fromClient     *bufio.Reader
	fromServer     *bufio.Reader
}

const ftpPatience = 5 * time.Second

func ftpSession(t *testing.T, p *pair) *ftpControl {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	inside(t, p.server, func() error {
		l, err := net.Listen("tcp", serverAddr4+":21")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			if c, err := l.Accept(); err == nil {
				accepted <- c
			}
		}()
		return nil
	})
	f := &ftpControl{t: t}
	f.client = dial(t, p, "tcp", &net.TCPAddr{IP: net.ParseIP(clientAddr4)}, serverAddr4+":21").Conn
	f.server = <-accepted
	t.Cleanup(func() { _ = f.server.Close() })
	f.fromClient, f.fromServer = bufio.NewReader(f.server), bufio.NewReader(f.client)
	return f
}

// command has the client send a line, which must arrive as arrives, and be answered.
func (f *ftpControl) command(line, arrives, answer, answerArrives string) {
	f.t.Helper()
	deadline := time.Now().Add(ftpPatience)
	for _, way := range []struct {
		from, to    net.Conn
		in          *bufio.Reader
		line, wants string
	}{
		{f.client, f.server, f.fromClient, line, arrives},
		{f.server, f.client, f.fromServer, answer, answerArrives},
	} {
		if err := way.to.SetReadDeadline(deadline); err != nil {
			f.t.Fatal(err)
		}
		_, err := io.WriteString(way.from, way.line+"\r\n")
		var got string
		if err == nil {
			got, err = way.in.ReadString('\n')
		}
		if err != nil || got != way.wants+"\r\n" {
			f.t.Fatalf("%q arrives as %q (%v), want %q", way.line, got, err, way.wants)
		}
	}
}

func (f *ftpControl) port(port int) {
	f.t.Helper()
	command := func(address string) string {
		return fmt.Sprintf("PORT %s,%d,%d", strings.ReplaceAll(address, ".", ","), port>>8, port&0xff)
	}
	f.command(command(clientAddr4), command(natAddr4), "200 ok", "200 ok")
}

// dataSession connects a listener on listen in one namespace with a dialler in
// another, and echoes.
func dataSession(t *testing.T, from netns.NsHandle, local, to string, at netns.NsHandle, listen string) (session, error) {
	t.Helper()
	inside(t, at, func() error {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(c, c) // ends with the session
				_ = c.Close()
			}
		}()
		return nil
	})
	return redial(t, from, local, to, ftpPatience)
}

func redial(t *testing.T, from netns.NsHandle, local, to string, patience time.Duration) (s session, err error) {
	t.Helper()
	inside(t, from, func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		s.Conn, err = d.Dial("tcp", to)
		return nil
	})
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func expectations(t *testing.T, c *Conn) []conntracksync.Expectation {
	t.Helper()
	var list []conntracksync.Expectation
	if err := c.DumpExpectations(t.Context(), func(e *conntracksync.Expectation) error {
		list = append(list, *e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// replicate copies the flows of from to a router whose own may be stale: those without
// a master first.
func replicate(t *testing.T, from, to *Conn) {
	t.Helper()
	var masters, children []conntracksync.Op
	for _, f := range table(t, from) {
		if o := op(opReplace, f); needsMaster(&o) {
			children = append(children, o)
		} else if f.Protocol == unix.IPPROTO_TCP {
			masters = append(masters, o)
		}
	}
	if res := apply(t, to, append(masters, children...)...); res.Refused != 0 || len(res.Stripped) != 0 {
		t.Fatalf("%+v", res)
	}
}

func replicateExpectations(t *testing.T, from, to *Conn) {
	t.Helper()
	for _, e := range expectations(t, from) {
		o := conntracksync.Op{Kind: conntracksync.OpExpect, Expect: &e}
		if res := apply(t, to, o); res.Created != 1 {
			t.Fatalf("%+v: %+v", e, res)
		}
	}
}

const ftpRules = `
table ip helpers {
	ct helper ftp { type "ftp" protocol tcp; l3proto ip; }
	chain pre { type filter hook prerouting priority 0; tcp dport 21 ct helper set "ftp"; }
}`

// ftpPair is a pair whose router 1 has a control connection of FTP; router 2 has no
// rules.
func ftpPair(t *testing.T) (p *pair, first, second *Conn, f *ftpControl) {
	t.Helper()
	p = newPair(t)
	translate(t, p.routers[0], natRules{source: netip.MustParseAddrPort(natAddr4 + ":0")})
	translate(t, p.routers[1], natRules{})
	ruleset(t, p.routers[0], ftpRules)
	first = openIn(t, p.routers[0], Config{Expectations: true})
	second = openIn(t, p.routers[1], Config{Expectations: true})
	p.use(t, 0, false)
	f = ftpSession(t, p)
	f.command("USER x", "USER x", "331 ok", "331 ok")
	return p, first, second, f
}

// sameExpectations compares all but the time-outs, which run.
func sameExpectations(t *testing.T, first, second *Conn) {
	t.Helper()
	a, b := expectations(t, first), expectations(t, second)
	if len(a) != 1 || len(b) != 1 {
		t.Fatalf("%d and %d expectations, want one each", len(a), len(b))
	}
	if b[0].Timeout > a[0].Timeout || b[0].Timeout+5 < a[0].Timeout {
		t.Errorf("time-out %d, want %d or a little less", b[0].Timeout, a[0].Timeout)
	}
	b[0].Timeout = a[0].Timeout
	if a[0] != b[0] {
		t.Errorf("got  %+v\nwant %+v", b[0], a[0])
	}
}

// TestLiveActiveFTPMoves takes a control connection whose addresses are rewritten, and
// what its helper expects, to router 2, opens the data connection there, and takes all
// of it back.
func TestLiveActiveFTPMoves(t *testing.T) {
	p, first, second, control := ftpPair(t)
	control.port(51201)
	replicate(t, first, second)
	got := find(t, second, unix.IPPROTO_TCP)
	if x := got.Extra; x == nil || x.Helper != "ftp" || !x.HasAdjust || x.AdjustOriginal.OffsetAfter != 4 {
		t.Fatalf("control connection on router 2: %s", shown(got))
	}
	p.use(t, 1, false)
	control.command("NOOP", "NOOP", "200 ok", "200 ok")
	if _, err := redial(t, p.server, serverAddr4, natAddr4+":51201", 300*time.Millisecond); err == nil {
		t.Fatal("a data connection passes without its expectation")
	}
	replicateExpectations(t, first, second)
	// A replacement of the control connection must not take along what is expected.
	replicate(t, first, second)
	sameExpectations(t, first, second)
	data, err := dataSession(t, p.server, serverAddr4, natAddr4+":51201", p.client, clientAddr4+":51201")
	if err == nil {
		err = data.exchange(4<<20, ftpPatience)
	}
	if err != nil {
		t.Fatalf("data connection over router 2: %v", err)
	}
	if left := expectations(t, second); len(left) != 0 {
		t.Errorf("what has come is expected still: %+v", left)
	}

	replicate(t, second, first)
	child := conntracksync.Flow{}
	for _, f := range table(t, first) {
		if f.Extra != nil && f.Extra.HasMaster {
			child = f
		}
	}
	if child.Extra == nil || child.Extra.Master != got.Key || child.Extra.Helper != "" ||
		child.Status&conntracksync.StatusExpected == 0 {
		t.Errorf("data connection on router 1: %s", shown(child))
	}
	p.use(t, 0, false)
	if err := data.exchange(4<<20, ftpPatience); err != nil {
		t.Errorf("data connection back on router 1: %v", err)
	}
	control.command("NOOP", "NOOP", "200 ok", "200 ok")
	control.port(51202)
	data, err = dataSession(t, p.server, serverAddr4, natAddr4+":51202", p.client, clientAddr4+":51202")
	if err == nil {
		err = data.exchange(4<<20, ftpPatience)
	}
	if err != nil {
		t.Errorf("second data connection, over router 1: %v", err)
	}
}

// TestLivePassiveFTPMoves opens the data connection, which the client does here, on a
// router without a rule for it.
func TestLivePassiveFTPMoves(t *testing.T) {
	p, first, second, control := ftpPair(t)
	const passive = "227 Entering Passive Mode (192,0,2,80,200,3)"
	control.command("PASV", "PASV", passive, passive)
	replicate(t, first, second)
	replicateExpectations(t, first, second)
	sameExpectations(t, first, second)
	p.use(t, 1, false)
	data, err := dataSession(t, p.client, clientAddr4, serverAddr4+":51203", p.server, serverAddr4+":51203")
	if err == nil {
		err = data.exchange(4<<20, ftpPatience)
	}
	if err != nil {
		t.Fatalf("data connection over router 2: %v", err)
	}
	replicate(t, second, first)
	p.use(t, 0, false)
	if err := data.exchange(4<<20, ftpPatience); err != nil {
		t.Errorf("data connection back on router 1: %v", err)
	}
	control.command("QUIT", "QUIT", "221 bye", "221 bye")
}

// TestExpectationEvents hears an expectation come and go, and not what the listener's
// own writer does.
func TestExpectationEvents(t *testing.T) {
	p, first, _, control := ftpPair(t)
	control.port(51204)
	heard := expectEvent(t, first, conntracksync.EventExpect)
	if list := expectations(t, first); len(list) != 1 || heard.Key != list[0].Key || heard.Master != list[0].Master {
		t.Fatalf("heard %+v, dumped %+v", heard, list)
	}
	remove := conntracksync.Op{Kind: conntracksync.OpExpectDelete, Expect: &heard}
	if res := apply(t, first, remove, remove); res.Deleted != 1 || res.Absent != 1 {
		t.Errorf("removed twice: %+v", res)
	}
	add := conntracksync.Op{Kind: conntracksync.OpExpect, Expect: &heard}
	apply(t, first, add, add)
	orphan, malformed := heard, heard
	orphan.Master.Original.SourcePort++
	malformed.Mask = conntracksync.Tuple{}
	res := apply(t, first, conntracksync.Op{Kind: conntracksync.OpExpect, Expect: &orphan},
		conntracksync.Op{Kind: conntracksync.OpExpect, Expect: &malformed}, conntracksync.Op{Kind: conntracksync.OpExpect})
	if res.Refused != 3 || res.RefusedBy["ENOENT"] != 1 || res.RefusedBy[RefusedMalformed] != 2 {
		t.Errorf("without a master, without a mask and without anything: %+v", res)
	}
	apply(t, first, add)
	// Another one's removal is heard, and it is the only one.
	apply(t, writerIn(t, p.routers[0]), remove)
	expectEvent(t, first, conntracksync.EventExpectGone)
}

// expectEvent reads c's events up to the first about an expectation, which must be of
// this kind.
func expectEvent(t *testing.T, c *Conn, kind conntracksync.EventKind) conntracksync.Expectation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	room := make([]conntracksync.Event, 1)
	for {
		if _, _, err := c.Receive(ctx, room); err != nil {
			t.Fatal(errors.Join(errors.New("no event about an expectation"), err))
		}
		if room[0].Expect != nil {
			if room[0].Kind != kind {
				t.Fatalf("event %d, want %d", room[0].Kind, kind)
			}
			return *room[0].Expect
		}
	}
}

const synproxyRules = `
table ip proxied {
	chain raw { type filter hook prerouting priority -300; tcp dport 8080 tcp flags & (fin|syn|rst|ack) == syn notrack; }
	chain forward {
		type filter hook forward priority 0;
		tcp dport 8080 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm;
		ct state invalid drop;
	}
}`

// TestLiveSynproxySessionMoves moves a session whose handshake a SYNPROXY has answered:
// its sequence numbers and time stamps are shifted for as long as it lasts.
func TestLiveSynproxySessionMoves(t *testing.T) {
	tt := liveCases()[0]
	p := newPair(t)
	for i, rules := range []natRules{tt.rules, {}} {
		translate(t, p.routers[i], rules)
		ruleset(t, p.routers[i], synproxyRules)
	}
	first, second := openIn(t, p.routers[0], Config{}), openIn(t, p.routers[1], Config{})
	p.use(t, 0, false)
	s := tt.open(t, p, tt.local, tt.to, tt.listen)
	if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
		t.Fatalf("before the move: %v", err)
	}
	f := find(t, first, tt.protocol)
	if f.Extra == nil || !f.Extra.HasSynproxy || !f.Extra.HasAdjust {
		t.Fatalf("on router 1: %s", shown(f))
	}
	bare := f
	bare.Extra = nil
	apply(t, second, op(opCreate, bare))
	p.use(t, 1, false)
	if err := s.exchange(64, 300*time.Millisecond); err == nil {
		t.Error("the session passes without its shifts")
	}
	replicate(t, first, second)
	if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
		t.Errorf("after the move: %v", err)
	}
	replicate(t, second, first)
	p.use(t, 0, false)
	if err := s.exchange(tt.bulk, 5*time.Second); err != nil {
		t.Errorf("after the move back: %v", err)
	}
}
