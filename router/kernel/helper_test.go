package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"tandem/router"
)

func everyHelper() []router.Helper {
	var list []router.Helper
	for _, ipv6 := range []bool{false, true} {
		links := []string{"vmac20"}
		if ipv6 {
			links = []string{"vmac20v6"}
		}
		list = append(
			list,
			router.Helper{Application: "ftp", Name: "ftp", IPv6: ipv6, Protocol: 6, Port: 21, Links: links},
			router.Helper{Application: "h323", Name: "Q.931", IPv6: ipv6, Protocol: 6, Port: 1720, Links: links},
			router.Helper{Application: "h323", Name: "RAS", IPv6: ipv6, Protocol: 17, Port: 1719, Links: links},
			router.Helper{Application: "sip", Name: "sip", IPv6: ipv6, Protocol: 6, Port: 5060, Links: links},
			router.Helper{Application: "sip", Name: "sip", IPv6: ipv6, Protocol: 17, Port: 5060, Links: links},
			router.Helper{Application: "tftp", Name: "tftp", IPv6: ipv6, Protocol: 17, Port: 69, Links: links},
		)
		if !ipv6 {
			list = append(
				list,
				router.Helper{Application: "irc", Name: "irc", Protocol: 6, Port: 6667, Links: links},
				router.Helper{Application: "pptp", Name: "pptp", Protocol: 6, Port: 1723, Links: links},
			)
		}
	}
	return list
}

// All helpers stand, nothing is done twice, and a document without them takes them
// away.
func TestHelpersStand(t *testing.T) {
	l := newDualLab(t, time.Minute)
	in := dual()
	in.Helpers = everyHelper()
	if report := l.apply(t, in); len(report.Conflicts) > 0 {
		t.Skipf("this kernel lacks some: %q", report.Conflicts)
	}
	if report := l.apply(t, in); len(report.Changed) > 0 {
		t.Errorf("changed again: %q", report.Changed)
	}
	out := l.run(t, "nft list ruleset")
	for _, want := range []string{
		`tcp dport 21 ct helper set "ftp-tcp"`, `tcp dport 1720 ct helper set "q931-tcp"`, `udp dport 1719 ct helper set "ras-udp"`,
		`udp dport 5060 ct helper set "sip-udp"`, `tcp dport 1723 ct helper set "pptp-tcp"`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the ruleset lacks %s:\n%s", want, out)
		}
	}
	if strings.Contains(out, "-helper") {
		t.Errorf("looking for helpers left something behind: %s", out)
	}
	l.apply(t, dual())
	if out := l.run(t, "nft list ruleset"); strings.Contains(out, "helper") {
		t.Errorf("helpers stay: %s", out)
	}
}

// What the kernel lacks costs nothing but itself.
func TestMissingHelperIsLeftOut(t *testing.T) {
	l := newLab(t, time.Minute)
	in := office()
	in.Helpers = append(
		everyHelper()[:1],
		router.Helper{Application: "none", Name: "none", Protocol: 6, Port: 99, Links: []string{"vmac20"}},
		router.Helper{Application: "none", Name: "none", Protocol: 17, Port: 99, Links: []string{"vmac20"}},
	)
	for range 2 {
		report := l.apply(t, in)
		const want = "helper none is left out: this kernel does not have it; load the modules nf_conntrack_none and nf_nat_none"
		if len(report.Conflicts) != 1 || !strings.HasPrefix(report.Conflicts[0], want) {
			t.Fatalf("conflicts %q", report.Conflicts)
		}
	}
	out := l.run(t, "nft list ruleset")
	if !strings.Contains(out, `ct helper set "ftp-tcp"`) || strings.Contains(out, "none") || !strings.Contains(out, "snat to 203.0.113.10") {
		t.Errorf("the ruleset: %s", out)
	}
}

// A helper makes an announced connection pass from outside, translated; without one it
// does not.
func TestHelperLetsAnnouncedConnectionPass(t *testing.T) {
	for _, helped := range []bool{false, true} {
		t.Run(fmt.Sprint(helped), func(t *testing.T) {
			l := newLab(t, time.Minute)
			in := office()
			if helped {
				in.Helpers = everyHelper()[:1]
			}
			if report := l.apply(t, in); len(report.Conflicts) > 0 {
				t.Skipf("this kernel lacks it: %q", report.Conflicts)
			}
			l.advertise(t, 100)
			if got := l.active(t); (got == nil) != helped {
				t.Errorf("active FTP: %v", got)
			}
		})
	}
}

// active does what an FTP client in active mode and its server do: the client announces
// where it listens, and the server connects there.
func (l *lab) active(t *testing.T) error {
	t.Helper()
	var control, data net.Listener
	in(t, l.server, func() (err error) { control, err = net.Listen("tcp4", "203.0.113.254:21"); return err })
	defer func() { _ = control.Close() }()
	in(t, l.client, func() (err error) { data, err = net.Listen("tcp4", "10.1.0.50:0"); return err })
	defer func() { _ = data.Close() }()
	var c net.Conn
	in(t, l.client, func() (err error) { c, err = net.DialTimeout("tcp4", "203.0.113.254:21", 5*time.Second); return err })
	defer func() { _ = c.Close() }()
	server, err := control.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	port := netip.MustParseAddrPort(data.Addr().String()).Port()
	// The kernel reads a direction from its second line on.
	for _, line := range []struct {
		from, to net.Conn
		text     string
	}{
		{server, c, "220 ready\r\n"},
		{c, server, "USER anonymous\r\n"},
		{c, server, fmt.Sprintf("PORT 10,1,0,50,%d,%d\r\n", port>>8, port&255)},
	} {
		if _, err := io.WriteString(line.from, line.text); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_ = line.to.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := line.to.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(buf[:n]); strings.HasPrefix(line.text, "PORT") {
			var h [6]int
			if _, err := fmt.Sscanf(text, "PORT %d,%d,%d,%d,%d,%d", &h[0], &h[1], &h[2], &h[3], &h[4], &h[5]); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return l.announced(t, fmt.Sprintf("203.0.113.10:%d", h[4]<<8|h[5]), data)
		}
	}
	return nil
}

// announced tells whether a connection from the server gets to the listener.
func (l *lab) announced(t *testing.T, to string, listener net.Listener) (result error) {
	t.Helper()
	in(t, l.server, func() error {
		c, err := net.DialTimeout("tcp4", to, 1500*time.Millisecond)
		if err != nil {
			result = err
			return nil
		}
		return c.Close()
	})
	if result != nil {
		return result
	}
	c, err := listener.Accept()
	if err != nil {
		return err
	}
	return c.Close()
}

// The kernel reports nothing about flows of a network that is not replicated.
func TestUnreplicatedFlowsAreSilent(t *testing.T) {
	if _, err := exec.LookPath("conntrack"); err != nil {
		t.Skip("the test needs conntrack")
	}
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprint(silent), func(t *testing.T) {
			l := newLab(t, time.Minute)
			in := office()
			if silent {
				in.Unreplicated = []router.Unreplicated{{Links: []string{"vmac20", "vmac99"}, Prefixes: []netip.Prefix{prefix("10.1.0.0/24")}}}
			}
			l.apply(t, in)
			l.echoServer(t)
			l.advertise(t, 100)
			stop := l.listen(t)
			if err := exchange(l.dial(t), "word", 5*time.Second); err != nil {
				t.Fatal(err)
			}
			if out := l.run(t, "conntrack -L -p tcp --dport 7"); !strings.Contains(out, "ESTABLISHED") {
				t.Fatalf("no flow: %s", out)
			}
			if n := stop(); (n == 0) != silent {
				t.Errorf("%d events", n)
			}
		})
	}
}

// listen counts the events about the echo server's flows until stop is called.
func (l *lab) listen(t *testing.T) (stop func() int) {
	t.Helper()
	var c, writer *conntrack.Conn
	in(t, l.router, func() (err error) { c, err = conntrack.Dial(nil); return err })
	in(t, l.router, func() (err error) { writer, err = conntrack.Dial(nil); return err })
	events := make(chan conntrack.Event, 64)
	if _, err := c.Listen(events, 1, netfilter.GroupsCT); err != nil {
		t.Fatal(err)
	}
	return func() int {
		// The mark of the end: an event of our own comes after all others.
		flow := conntrack.NewFlow(17, 0, addr("192.0.2.1"), addr("192.0.2.2"), 1, 2, 60, 0)
		if err := writer.Create(flow); err != nil {
			t.Fatal(err)
		}
		n := 0
		for e := range events {
			if e.Flow.TupleOrig.Proto.Protocol == 17 && e.Flow.TupleOrig.IP.SourceAddress == addr("192.0.2.1") {
				break
			}
			if e.Flow.TupleOrig.Proto.DestinationPort == 7 {
				n++
			}
		}
		_, _ = c.Close(), writer.Close()
		return n
	}
}
