package teardown

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

// patience is far more than anything takes; what must be quick is measured by itself.
const patience = 30 * time.Second

func (l *lab) teardown(t testing.TB) *Teardown {
	t.Helper()
	var down *Teardown
	inside(t, l.router, func() (err error) {
		down, err = New("lab")
		return err
	})
	t.Cleanup(func() {
		if err := down.Close(); err != nil {
			t.Error(err)
		}
	})
	return down
}

func officeOnA() []Flows {
	networks := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")}
	return []Flows{
		{Mark: markA, Mask: markMask, Networks: networks, Destination: netip.MustParsePrefix("0.0.0.0/0")},
		{Mark: markA, Mask: markMask, Networks: networks, Destination: netip.MustParsePrefix("::/0")},
	}
}

// dial connects and has one echo, so that the flow is assured.
func dial(t testing.TB, ns netns.NsHandle, network, local, to string) net.Conn {
	t.Helper()
	var c net.Conn
	inside(t, ns, func() (err error) {
		d := net.Dialer{Timeout: patience, KeepAlive: -1}
		if local != "" {
			if d.LocalAddr, err = net.ResolveTCPAddr("tcp", local); err != nil {
				return err
			}
		}
		c, err = d.Dial(network, to)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	echo(t, c)
	return c
}

func echo(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := []byte("tandem")
	if _, err := c.Write(b); err != nil {
		t.Fatalf("write to %v: %v", c.RemoteAddr(), err)
	}
	for got := 0; got < len(b); {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("no echo from %v: %v", c.RemoteAddr(), err)
		}
		got += n
	}
}

// ending reports the error by which reading from c ends, and when.
type ending struct {
	name string
	err  error
	at   time.Time
}

func watch(name string, c net.Conn, to chan<- ending) {
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 2048)
	for {
		if _, err := c.Read(b); err != nil {
			to <- ending{name, err, time.Now()}
			return
		}
	}
}

func (l *lab) flows(t testing.TB) []conntracksync.Flow {
	t.Helper()
	var list []conntracksync.Flow
	inside(t, l.router, func() error {
		r, err := ctnetlink.NewReader()
		if err != nil {
			return err
		}
		return errors.Join(r.Dump(t.Context(), func(f *conntracksync.Flow) error {
			list = append(list, *f)
			return nil
		}), r.Close())
	})
	return list
}

func TestEveryClientKnows(t *testing.T) {
	l := newLab(t)
	serve(t, l.server, server4+":7")
	serve(t, l.server, "["+server6+"]:7")
	serve(t, l.server, server4+":9")
	down := l.teardown(t)

	ends := make(chan ending, 100)
	want := make(map[string]error)
	serveOnce(t, l.office, officeHost4+":80", func(c net.Conn) { watch("inbound", c, ends) })
	begin := func(name string, expected error, c net.Conn) net.Conn {
		want[name] = expected
		go watch(name, c, ends)
		return c
	}
	idle := begin("idle", unix.ECONNRESET, dial(t, l.office, "tcp", "", server4+":7"))
	timestamps(t, l.office, "0")
	begin("idle, no timestamps", unix.ECONNRESET, dial(t, l.office, "tcp", "", server4+":7"))
	timestamps(t, l.office, "1")
	begin("idle, IPv6", unix.ECONNRESET, dial(t, l.office, "tcp", "", "["+server6+"]:7"))
	for range 20 {
		want["idle"] = unix.ECONNRESET
		go watch("idle", dial(t, l.office, "tcp", "", server4+":7"), ends)
	}
	active := dial(t, l.office, "tcp", "", server4+":7")
	want["active"] = unix.ECONNRESET
	begin("udp", unix.ECONNREFUSED, dial(t, l.office, "udp", "", server4+":7"))
	begin("udp, IPv6", unix.ECONNREFUSED, dial(t, l.office, "udp", "", "["+server6+"]:7"))
	// A host that has said all and waits for the rest of the answer.
	half := begin("half-closed", unix.ECONNRESET, dial(t, l.office, "tcp", "", server4+":9"))
	if err := half.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// A server inside, whose client is outside.
	_ = dial(t, l.server, "tcp", "", natA4+":8080")
	want["inbound"] = unix.ECONNRESET

	// What must stay: the office by the other uplink, and the guests.
	l.use(t, "b")
	others := []net.Conn{
		dial(t, l.office, "tcp", "", server4+":7"), dial(t, l.office, "tcp", "", "["+server6+"]:7"),
		dial(t, l.office, "udp", "", server4+":7"),
		dial(t, l.guests, "tcp", "", server4+":7"), dial(t, l.guests, "udp", "", server4+":7"),
	}
	before := len(l.flows(t))

	l.ip(t, l.server, "link set ua down")
	go func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for range pace.C {
			if _, err := active.Write(make([]byte, 512)); err != nil {
				ends <- ending{"active", err, time.Now()}
				return
			}
		}
	}()
	start := time.Now()
	ended, err := down.End(t.Context(), officeOnA())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v of %d flows in %v", ended, before, time.Since(start))
	if ended.Left != 0 || ended.TCP != 26 || ended.UDP != 2 || ended.Told != 28 {
		t.Errorf("ended %+v", ended)
	}
	var last time.Duration
	for range 28 {
		e := <-ends
		last = max(last, e.at.Sub(start))
		if !errors.Is(e.err, want[e.name]) {
			t.Errorf("%s: read ended with %v, want %v", e.name, e.err, want[e.name])
		}
	}
	t.Logf("all knew after %v", last)
	for _, f := range l.flows(t) {
		if f.Mark&markMask == markA {
			t.Errorf("flow of the dead uplink is left: %+v", f)
		}
	}
	for _, c := range others {
		echo(t, c)
	}
	local := idle.LocalAddr().String()
	_ = idle.Close()
	again := time.Now()
	echo(t, dial(t, l.office, "tcp", local, server4+":7"))
	t.Logf("the same addresses and ports connected again in %v", time.Since(again))
}

func TestOnlyWhatIsSelected(t *testing.T) {
	l := newLab(t)
	serve(t, l.server, server4+":7")
	serve(t, l.server, "["+server6+"]:7")
	down := l.teardown(t)
	four, six := dial(t, l.office, "tcp", "", server4+":7"), dial(t, l.office, "tcp", "", "["+server6+"]:7")
	networks := officeOnA()[0].Networks
	server := netip.MustParsePrefix(server4 + "/32")
	end := func(s Flows, want int) {
		t.Helper()
		s.Mask = markMask
		ended, err := down.End(t.Context(), []Flows{s})
		if err != nil || ended.TCP != want || ended.Left != 0 {
			t.Fatalf("%+v: ended %+v, %v; want %d", s, ended, err, want)
		}
	}
	end(Flows{Mark: markB, Networks: networks}, 0)
	end(Flows{Mark: markA, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/29")}}, 0)
	end(Flows{Mark: markA, Networks: networks, Destination: netip.MustParsePrefix("192.0.2.0/26")}, 0)
	end(Flows{Mark: markA, Networks: networks, Destination: netip.MustParsePrefix("0.0.0.0/0"), Except: []netip.Prefix{server}}, 0)
	echo(t, four)
	end(Flows{Mark: markA, Networks: networks, Destination: netip.MustParsePrefix("::/0")}, 1)
	echo(t, four)
	wasReset(t, six)
	// Somebody removes all tables.
	l.nft(t, "flush ruleset")
	l.rules(t)
	end(Flows{Mark: markA, Networks: networks, Destination: server}, 1)
	wasReset(t, four)
	// What we sent is tracked nowhere, and neither is what was answered.
	for _, f := range l.flows(t) {
		if f.Protocol == unix.IPPROTO_TCP {
			t.Errorf("flow is left: %+v", f)
		}
	}
}

func wasReset(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read ended with %v", err)
	}
}

func TestForgedPacketsLeaveByTheVirtualLink(t *testing.T) {
	l := newLab(t)
	serve(t, l.server, server4+":7")
	serve(t, l.server, "["+server6+"]:7")
	down := l.teardown(t)
	for _, network := range []string{"tcp", "udp"} {
		dial(t, l.office, network, "", server4+":7")
		dial(t, l.office, network, "", "["+server6+"]:7")
	}
	l.ip(t, l.office, "link set c promisc on")
	l.nft(t, `table netdev look { set seen { typeof ether saddr . meta l4proto; flags dynamic; size 64; }
		chain out { type filter hook egress device v priority 0
			update @seen { ether saddr . meta l4proto }
		}
	}`)
	if _, err := down.End(t.Context(), officeOnA()); err != nil {
		t.Fatal(err)
	}
	var out []byte
	inside(t, l.router, func() (err error) {
		out, err = exec.Command("nft", "list", "set", "netdev", "look", "seen").CombinedOutput()
		return err
	})
	for _, want := range []string{vmac + " . tcp", vmac + " . icmp", vmac + " . ipv6-icmp"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("nothing like %q has left by the virtual link: %s", want, out)
		}
	}
}

func TestCloseRemovesTheTable(t *testing.T) {
	l := newLab(t)
	serve(t, l.server, server4+":7")
	var down *Teardown
	inside(t, l.router, func() (err error) {
		down, err = New("lab")
		return err
	})
	dial(t, l.office, "tcp", "", server4+":7")
	if ended, err := down.End(t.Context(), officeOnA()); err != nil || ended.TCP != 1 {
		t.Fatalf("ended %+v: %v", ended, err)
	}
	tables := func() string {
		var out []byte
		inside(t, l.router, func() (err error) {
			out, err = exec.Command("nft", "list", "tables").CombinedOutput()
			return err
		})
		return string(out)
	}
	if all := tables(); !strings.Contains(all, "tandem-lab-teardown") {
		t.Fatalf("tables are %s", all)
	}
	// What it does after the last flow, in less time.
	down.mu.Lock()
	down.cleaning = nil
	down.clean(time.Millisecond)
	down.mu.Unlock()
	for deadline := time.Now().Add(patience); strings.Contains(tables(), "tandem-lab-teardown"); {
		if time.Now().After(deadline) {
			t.Fatal("the table stays though it is of no use any more")
		}
	}
	dial(t, l.office, "tcp", "", server4+":7")
	if ended, err := down.End(t.Context(), officeOnA()); err != nil || ended.TCP != 1 {
		t.Fatalf("ended %+v: %v", ended, err)
	}
	if err := down.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := down.End(t.Context(), officeOnA()); !errors.Is(err, ctnetlink.ErrClosed) {
		t.Errorf("an end after the close says %v", err)
	}
	if all := tables(); strings.Contains(all, "tandem-lab-teardown") || !strings.Contains(all, "own") {
		t.Errorf("tables are %s", all)
	}
}

// TestWithoutLinks selects a part of the network, which no rule of routing names: resets are then
// sent by the main table.
func TestWithoutLinks(t *testing.T) {
	l := newLab(t)
	serve(t, l.server, server4+":7")
	down := l.teardown(t)
	c := dial(t, l.office, "tcp", "", server4+":7")
	part := Flows{Mark: markA, Mask: markMask, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/25")}}
	if ended, err := down.End(t.Context(), []Flows{part}); err != nil || ended.TCP != 1 {
		t.Fatalf("ended %+v: %v", ended, err)
	}
	if down.table.direct {
		t.Error("links were found")
	}
	wasReset(t, c)
	// The whole network's links come in addition.
	c = dial(t, l.office, "tcp", "", server4+":7")
	if ended, err := down.End(t.Context(), officeOnA()); err != nil || ended.TCP != 1 {
		t.Fatalf("ended %+v: %v", ended, err)
	}
	if !down.table.direct {
		t.Error("no links were found")
	}
	wasReset(t, c)
}
