package probe

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"tandem/router/config"
	"tandem/router/uplink"
)

// lab is a node with a port wan and another one, where its main table leads:
//
//	node --wan-- gateway ---- server
//	     --other-- elsewhere
type lab struct {
	node, gateway, server, elsewhere netns.NsHandle
	prober                           *Prober
	// queries counts those that the name server has received, of whatever it does with them.
	queries atomic.Int64
}

const (
	node4, node6       = "10.0.0.2", "fd0a::2"
	gateway4, gateway6 = "10.0.0.1", "fd0a::1"
	server4, server6   = "192.0.2.80", "2001:db8::80"
	// What is sent to the silent ones is lost, of the lost ones the gateway says that it has
	// no route.
	silent4, silent6 = "192.0.2.99", "2001:db8::99"
	lost4, lost6     = "192.0.2.98", "2001:db8::98"

	mark = 0x010a0000
	// patience is a timeout that nothing here reaches if it works, and short one for what does
	// not.
	patience, short = 5 * time.Second, 150 * time.Millisecond
)

func newLab(t testing.TB) *lab {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	l := &lab{node: space(t), gateway: space(t), server: space(t), elsewhere: space(t)}
	id := func(ns netns.NsHandle) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns)) }
	ip(t, l.node, `
		link set dev lo up
		link add name wan type veth peer name n netns `+id(l.gateway)+`
		link add name other type veth peer name n netns `+id(l.elsewhere)+`
		link set dev wan up
		link set dev other up
		addr add `+node4+`/24 dev wan
		addr add `+node6+`/64 dev wan nodad
		addr add 10.9.0.2/24 dev other
		addr add fd09::2/64 dev other nodad
		route add default via 10.9.0.1
		-6 route add default via fd09::1
		neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev other
		-6 neigh add fd09::1 lladdr 02:00:00:00:00:01 dev other
		rule add pref 10 fwmark 0x010a0000/0x01ff0000 lookup 2010
		-6 rule add pref 10 fwmark 0x010a0000/0x01ff0000 lookup 2010
		route add 10.0.0.0/24 dev wan table 2010
		-6 route add fd0a::/64 dev wan table 2010
		route add unreachable default metric 4294967295 table 2010
		-6 route add unreachable default metric 4294967295 table 2010`)
	l.route(t)
	ip(t, l.gateway, `
		link add name s type veth peer name g netns `+id(l.server)+`
		link set dev n up
		link set dev s up
		addr add `+gateway4+`/24 dev n
		addr add `+gateway6+`/64 dev n nodad
		addr add 10.8.0.1/24 dev s
		addr add fd08::1/64 dev s nodad
		route add 192.0.2.0/24 via 10.8.0.2
		-6 route add 2001:db8::/32 via fd08::2
		route add blackhole `+silent4+`
		-6 route add blackhole `+silent6+`
		route add unreachable `+lost4+`
		-6 route add unreachable `+lost6)
	ip(t, l.server, `
		link set dev lo up
		link set dev g up
		addr add 10.8.0.2/24 dev g
		addr add fd08::2/64 dev g nodad
		addr add `+server4+`/32 dev lo
		addr add `+server6+`/128 dev lo nodad
		route add default via 10.8.0.1
		-6 route add default via fd08::1`)
	ip(t, l.elsewhere, "link set dev n up")
	inside(t, l.node, func() (err error) {
		l.prober, err = New()
		return err
	})
	t.Cleanup(func() { _ = l.prober.Close() })
	l.settle(t)
	return l
}

// settle waits until frames pass: the kernel drops them for up to a second after a link has
// come up.
func (l *lab) settle(t testing.TB) {
	t.Helper()
	for _, r := range []Request{
		toGateway(request4(config.Target{})), toGateway(request6(config.Target{})),
		request4(target(config.ProbeICMP, server4)), request6(target(config.ProbeICMP, server6)),
	} {
		for deadline := time.Now().Add(patience); ; {
			got := l.prober.Run(t.Context(), briefly(r))
			if got.OK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the laboratory does not work: %+v", got)
			}
		}
	}
}

// route is the part of the probes' table that goes with the device.
func (l *lab) route(t testing.TB) {
	t.Helper()
	ip(t, l.node, `
		route replace default via `+gateway4+` dev wan table 2010
		-6 route replace default via `+gateway6+` dev wan table 2010`)
}

func space(t testing.TB) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		for path, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/icmp_ratelimit": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("making a network namespace needs CAP_SYS_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// onThread runs f on a thread of its own, which ends with f and takes the network
// namespace that f entered along.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

func inside(t testing.TB, ns netns.NsHandle, f func() error) {
	t.Helper()
	if err := onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	}); err != nil {
		t.Fatal(err)
	}
}

// ip runs commands of ip(8), one in each line.
func ip(t testing.TB, ns netns.NsHandle, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		if arguments := strings.Fields(line); len(arguments) > 0 {
			run(t, ns, "", "ip", arguments...)
		}
	}
}

func run(t testing.TB, ns netns.NsHandle, input, name string, arguments ...string) string {
	t.Helper()
	var out []byte
	inside(t, ns, func() (err error) {
		cmd := exec.Command(name, arguments...)
		cmd.Stdin = strings.NewReader(input)
		if out, err = cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, out)
		}
		return nil
	})
	return string(out)
}

// listen opens a listener in the server's namespace.
func (l *lab) listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	inside(t, l.server, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// web serves HTTP, and HTTPS with a certificate that nobody knows, on the ports 80 and 443.
func (l *lab) web(t testing.TB) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "all is well") })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	for _, port := range []string{":80", ":443"} {
		s := httptest.NewUnstartedServer(mux)
		s.Listener = l.listen(t, port)
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are broken off
		if port == ":443" {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
	}
}

// names serves DNS on the server's addresses.
func (l *lab) names(t testing.TB, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		var c net.PacketConn
		inside(t, l.server, func() (err error) {
			c, err = net.ListenPacket("udp", net.JoinHostPort(address, "53"))
			return err
		})
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				l.queries.Add(1)
				if answer := respond(b[:n]); answer != nil {
					_, _ = c.WriteTo(answer, from)
				}
			}
		}()
	}
}

func respond(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	switch q.Name.String() {
	case "well.example.":
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: netip.MustParseAddr(server4).As4()}}}
		} else {
			m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(server6).As16()}}}
		}
	case "unknown.example.":
		m.RCode = dnsmessage.RCodeNameError
	case "broken.example.":
		m.RCode = dnsmessage.RCodeServerFailure
	default:
		return nil
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// request is a probe of a target through the port wan.
func request4(target config.Target) Request {
	return Request{
		Interface: "wan", Source: netip.MustParseAddr(node4), Gateway: netip.MustParseAddr(gateway4),
		DNS: []netip.Addr{netip.MustParseAddr(server4)}, Mark: mark,
		Probe: uplink.Probe{Uplink: "internet", Kind: uplink.EndToEnd, Target: target, Timeout: patience},
	}
}

func request6(target config.Target) Request {
	r := request4(target)
	r.Source, r.Gateway = netip.MustParseAddr(node6), netip.MustParseAddr(gateway6)
	r.DNS, r.Probe.IPv6 = []netip.Addr{netip.MustParseAddr(server6)}, true
	return r
}

func toGateway(r Request) Request {
	r.Probe.Kind, r.Probe.Target = uplink.Gateway, config.Target{}
	return r
}

func briefly(r Request) Request {
	r.Probe.Timeout = short
	return r
}

func netnsPath(l *lab) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(l.gateway)) }
