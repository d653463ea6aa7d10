package probe

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/router/config"
)

func target(kind, host string) config.Target { return config.Target{Kind: kind, Host: host} }

func tcp(host string, port uint16) config.Target {
	return config.Target{Kind: config.ProbeTCP, Host: host, Port: port}
}

func TestEveryKind(t *testing.T) {
	l := newLab(t)
	l.web(t)
	l.names(t, server4, server6)
	expect := func(host string, status int, body string) config.Target {
		return config.Target{Kind: config.ProbeHTTP, Host: host, Status: status, Body: body}
	}
	dead := func(r Request) Request {
		r.DNS = []netip.Addr{netip.MustParseAddr(silent4)}
		return r
	}
	second := func(r Request) Request {
		r.DNS = append(dead(r).DNS, r.DNS...)
		return r
	}
	const icmp, dns, web = config.ProbeICMP, config.ProbeDNS, config.ProbeHTTP
	for _, test := range []struct {
		name    string
		request Request
		ok      bool
		// reason is a part of it; all of it if it is empty.
		reason string
	}{
		{"gateway", toGateway(request4(config.Target{})), true, ""},
		{"gateway, IPv6", toGateway(request6(config.Target{})), true, ""},
		{"icmp", request4(target(icmp, server4)), true, ""},
		{"icmp, IPv6", request6(target(icmp, server6)), true, ""},
		{"icmp by name", request4(target(icmp, "well.example")), true, ""},
		{"icmp by name, IPv6", request6(target(icmp, "well.example.")), true, ""},
		{"icmp silent", briefly(request4(target(icmp, silent4))), false, "no answer from 192.0.2.99 within 150ms"},
		{"icmp silent, IPv6", briefly(request6(target(icmp, silent6))), false, "no answer from 2001:db8::99 within 150ms"},
		{"icmp without a way", request4(target(icmp, lost4)), false, "10.0.0.1 says: host is unreachable"},
		{"icmp without a way, IPv6", request6(target(icmp, lost6)), false, "fd0a::1 says: no route"},
		{"tcp", request4(tcp(server4, 80)), true, ""},
		{"tcp, IPv6", request6(tcp(server6, 80)), true, ""},
		{"tcp by name", request4(tcp("well.example", 80)), true, ""},
		{"tcp refused", request4(tcp(server4, 81)), true, "connection refused, which counts as alive"},
		{"tcp refused, IPv6", request6(tcp(server6, 81)), true, "connection refused, which counts as alive"},
		{"tcp silent", briefly(request4(tcp(silent4, 80))), false, "no answer from 192.0.2.99 port 80 within 150ms"},
		{"tcp without a way", request4(tcp(lost4, 80)), false, "192.0.2.98 port 80: no route to host"},
		{"dns", request4(target(dns, "well.example")), true, ""},
		{"dns, IPv6", request6(target(dns, "well.example")), true, ""},
		{"dns, no such name", request4(target(dns, "unknown.example")), true, "192.0.2.80 answers NXDOMAIN, which counts as alive"},
		{"dns, broken", request4(target(dns, "broken.example")), false, "name server 192.0.2.80 answers SERVFAIL"},
		{"dns, silent", briefly(request4(target(dns, "silent.example"))), false, "no answer from the name servers within 150ms"},
		{"dns, dead", briefly(dead(request4(target(dns, "well.example")))), false, "no answer from the name servers within 150ms"},
		{"dns, the second one", briefly(second(request4(target(dns, "well.example")))), true, ""},
		{"icmp by a name that is not known", request4(target(icmp, "unknown.example")), false, "name server 192.0.2.80 knows no address of unknown.example"},
		{"icmp by a name, dns silent", briefly(request4(target(icmp, "silent.example"))), false, "no answer from the name servers about silent.example within 150ms"},
		{"http", request4(target(web, "http://"+server4)), true, ""},
		{"http, IPv6", request6(target(web, "http://["+server6+"]/")), true, ""},
		{"http by name", request4(target(web, "http://well.example/")), true, ""},
		{"http, status and text", request4(expect("http://"+server4, 200, "is well")), true, ""},
		{"http, moved", request4(target(web, "http://"+server4+"/moved")), true, ""},
		{"http, moved as expected", request4(expect("http://"+server4+"/moved", 302, "")), true, ""},
		{"http, broken", request4(target(web, "http://"+server4+"/broken")), false, "http://192.0.2.80/broken: status 500"},
		{"http, broken as expected", request4(expect("http://"+server4+"/broken", 500, "")), true, ""},
		{"http, wrong status", request4(expect("http://"+server4, 204, "")), false, "http://192.0.2.80: status 200 instead of 204"},
		{"http, wrong text", request4(expect("http://"+server4, 0, "login")), false, `http://192.0.2.80: the answer does not contain "login"`},
		{"http, endless text", request4(expect("http://"+server4+"/endless", 0, "login")), false, `http://192.0.2.80/endless: the answer does not contain "login"`},
		{"http, refused", request4(target(web, "http://"+server4+":81")), false, "http://192.0.2.80:81: connection refused"},
		{"http, silent", briefly(request4(target(web, "http://"+silent4))), false, "no answer from http://192.0.2.99 within 150ms"},
		{"http, slow", briefly(request4(target(web, "http://"+server4+"/slow"))), false, "no answer from http://192.0.2.80/slow within 150ms"},
		{"https, certificate of a stranger", request4(target(web, "https://"+server4)), true, "its certificate is not valid"},
		{"https, certificate of a stranger, text expected", request4(expect("https://"+server4, 0, "is well")), false, "its certificate is not valid"},
		{"https on a port without it", request4(target(web, "https://"+server4+":80")), false, "https://192.0.2.80:80: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := l.prober.Run(t.Context(), test.request)
			if got.OK != test.ok || got.Local || test.reason == "" && got.Reason != "" || !strings.Contains(got.Reason, test.reason) {
				t.Errorf("outcome %+v, want %v because %q", got, test.ok, test.reason)
			}
			if got.Probe != test.request.Probe || got.OK && (got.RTT <= 0 || got.RTT > patience) {
				t.Errorf("outcome %+v", got)
			}
		})
	}
}

func TestFaultsOfThisNode(t *testing.T) {
	l := newLab(t)
	l.names(t, server4)
	all := map[string]Request{
		"gateway": toGateway(request4(config.Target{})), "gateway, IPv6": toGateway(request6(config.Target{})),
		"icmp": request4(target(config.ProbeICMP, server4)), "icmp, IPv6": request6(target(config.ProbeICMP, server6)),
		"tcp": request4(tcp(server4, 80)), "tcp, IPv6": request6(tcp(server6, 80)),
		"dns": request4(target(config.ProbeDNS, "well.example")), "http": request4(target(config.ProbeHTTP, "http://"+server4)),
	}
	check := func(when string, skip ...string) {
		t.Helper()
		for name, r := range all {
			if len(skip) > 0 && strings.Contains(name, skip[0]) {
				continue
			}
			if got := l.prober.Run(t.Context(), briefly(r)); got.OK || !got.Local || !strings.HasPrefix(got.Reason, "cannot send") {
				t.Errorf("%s, %s: outcome %+v", when, name, got)
			}
		}
	}
	works := func(when string) {
		t.Helper()
		for _, name := range []string{"gateway", "gateway, IPv6", "icmp", "icmp, IPv6", "tcp", "tcp, IPv6", "dns"} {
			if got := l.prober.Run(t.Context(), all[name]); !got.OK {
				t.Errorf("%s, %s: outcome %+v", when, name, got)
			}
		}
	}
	works("at first")
	ip(t, l.node, "addr del "+node4+"/24 dev wan\n-6 addr del "+node6+"/64 dev wan")
	// The gateway answers whoever asks.
	check("no address", "gateway")
	ip(t, l.node, "addr add "+node4+"/24 dev wan\n-6 addr add "+node6+"/64 dev wan nodad\nroute replace 10.0.0.0/24 dev wan table 2010")
	l.route(t)
	works("the address again")
	ip(t, l.node, "route del default via "+gateway4+" table 2010\n-6 route del default via "+gateway6+" table 2010")
	check("no route", "gateway")
	l.route(t)
	works("the route again")
	ip(t, l.node, "link set dev wan down")
	check("link down")
	ip(t, l.node, "link set dev wan up\n-6 addr add "+node6+"/64 dev wan nodad\nroute replace 10.0.0.0/24 dev wan table 2010\n-6 route replace fd0a::/64 dev wan table 2010")
	l.route(t)
	l.settle(t)
	works("the link again")
	ip(t, l.node, "link set dev wan name gone down")
	check("no such device")
	unset := all["icmp"]
	unset.Source = netip.Addr{}
	if got := l.prober.Run(t.Context(), unset); got.OK || !got.Local {
		t.Errorf("no source: outcome %+v", got)
	}
}

// TestDeviceIsMadeAnew: sockets are bound to a device and not to its name.
func TestDeviceIsMadeAnew(t *testing.T) {
	l := newLab(t)
	r4, r6 := toGateway(briefly(request4(config.Target{}))), toGateway(briefly(request6(config.Target{})))
	echo := briefly(request4(target(config.ProbeICMP, gateway4)))
	for _, r := range []Request{r4, r6, echo} {
		if got := l.prober.Run(t.Context(), r); !got.OK {
			t.Fatalf("outcome %+v", got)
		}
	}
	ip(t, l.node, "link del wan")
	ip(t, l.node, "link add name wan type veth peer name n\nlink set dev wan up\naddr add "+node4+"/24 dev wan\naddr add "+node6+"/64 dev wan nodad")
	ip(t, l.node, "link set dev n netns "+netnsPath(l))
	ip(t, l.node, "route add 10.0.0.0/24 dev wan table 2010")
	ip(t, l.gateway, "link set dev n up\naddr add "+gateway4+"/24 dev n\naddr add "+gateway6+"/64 dev n nodad")
	for _, r := range []Request{r4, r6, echo} {
		deadline := time.Now().Add(patience)
		for {
			got := l.prober.Run(t.Context(), r)
			if got.OK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("outcome %+v", got)
			}
		}
	}
}

// TestNeighbourTableDoesNotCount: the gateway is asked, not the kernel.
func TestNeighbourTableDoesNotCount(t *testing.T) {
	l := newLab(t)
	ip(t, l.node, `
		neigh replace `+gateway4+` lladdr 02:00:00:00:00:99 dev wan nud permanent
		-6 neigh replace `+gateway6+` lladdr 02:00:00:00:00:99 dev wan nud permanent`)
	r4, r6 := toGateway(request4(config.Target{})), toGateway(request6(config.Target{}))
	for range 2 { // the second question goes to the gateway alone
		for _, r := range []Request{r4, r6} {
			if got := l.prober.Run(t.Context(), r); !got.OK {
				t.Errorf("outcome %+v", got)
			}
		}
	}
	ip(t, l.gateway, "link set dev n address 02:00:00:00:00:42")
	for _, r := range []Request{briefly(r4), briefly(r6)} {
		first := l.prober.Run(t.Context(), r)
		if got := l.prober.Run(t.Context(), r); !got.OK {
			t.Errorf("the gateway has another MAC address: outcomes %+v, %+v", first, got)
		}
	}
	// A table that says that it is there does not help a dead one.
	ip(t, l.gateway, "addr del "+gateway4+"/24 dev n\n-6 addr del "+gateway6+"/64 dev n")
	for _, r := range []Request{briefly(r4), briefly(r6)} {
		if got := l.prober.Run(t.Context(), r); got.OK || got.Local || got.Reason != "no answer from "+r.Gateway.String()+" within 150ms" {
			t.Errorf("outcome %+v", got)
		}
	}
}

// TestLeavesByItsPortOnly has the main table lead elsewhere, with and without a way by the port.
func TestLeavesByItsPortOnly(t *testing.T) {
	l := newLab(t)
	l.web(t)
	l.names(t, server4, server6)
	rules := func(link string) string {
		return `table netdev look { counter seen { }
			chain in { type filter hook ingress device ` + link + ` priority 0
				ip daddr 192.0.2.0/24 counter name seen
				ip saddr 10.0.0.2 counter name seen
				ip6 daddr 2001:db8::/32 counter name seen
				ip6 saddr fd0a::2 counter name seen
				arp saddr ip 10.0.0.2 counter name seen
			}
		}`
	}
	run(t, l.gateway, rules("n"), "nft", "-f", "-")
	run(t, l.elsewhere, rules("n"), "nft", "-f", "-")
	all := []Request{
		toGateway(request4(config.Target{})), toGateway(request6(config.Target{})),
		request4(target(config.ProbeICMP, server4)), request6(target(config.ProbeICMP, server6)),
		request4(tcp(server4, 80)), request6(tcp("well.example", 80)),
		request4(target(config.ProbeDNS, "well.example")), request6(target(config.ProbeHTTP, "http://well.example")),
		request4(target(config.ProbeICMP, "well.example")),
	}
	for _, r := range all {
		if got := l.prober.Run(t.Context(), r); !got.OK {
			t.Errorf("outcome %+v", got)
		}
	}
	const none = "packets 0 "
	if seen := run(t, l.gateway, "", "nft", "list", "counters"); strings.Contains(seen, none) {
		t.Errorf("nothing has been seen at the port: %s", seen)
	}
	ip(t, l.node, "route del default via "+gateway4+" table 2010\n-6 route del default via "+gateway6+" table 2010")
	for _, r := range all {
		_ = l.prober.Run(t.Context(), briefly(r))
	}
	if seen := run(t, l.elsewhere, "", "nft", "list", "counters"); !strings.Contains(seen, none) {
		t.Errorf("probes have left by the other port: %s", seen)
	}
	inside(t, l.node, func() error {
		if c, err := net.DialTimeout("tcp", server4+":80", short); err == nil {
			_ = c.Close()
		}
		return nil
	})
	if seen := run(t, l.elsewhere, "", "nft", "list", "counters"); strings.Contains(seen, none) {
		t.Errorf("a connection that is not bound should have left by the other port: %s", seen)
	}
}

// TestNamesAreKept: probes of a name cost no query each, and survive the death of the name server.
func TestNamesAreKept(t *testing.T) {
	l := newLab(t)
	l.names(t, server4)
	r := request4(target(config.ProbeICMP, "well.example"))
	for range 10 {
		if got := l.prober.Run(t.Context(), r); !got.OK {
			t.Fatalf("outcome %+v", got)
		}
	}
	if n := l.queries.Load(); n != 1 {
		t.Errorf("%d queries for ten probes", n)
	}
	r.DNS = []netip.Addr{netip.MustParseAddr(silent4)}
	l.prober.names.mu.Lock()
	for _, known := range l.prober.names.known {
		known.until = time.Now().Add(-time.Second)
	}
	l.prober.names.mu.Unlock()
	if got := l.prober.Run(t.Context(), r); !got.OK {
		t.Errorf("outcome with a name that has run out: %+v", got)
	}
}

func TestCancelAndClose(t *testing.T) {
	before := runtime.NumGoroutine()
	l := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	for _, r := range []Request{
		request4(target(config.ProbeICMP, silent4)), request4(tcp(silent4, 80)), request4(target(config.ProbeHTTP, "http://"+silent4)),
		request4(target(config.ProbeDNS, "silent.example")),
	} {
		if got := l.prober.Run(ctx, r); got.OK || !got.Local || got.Reason != "the probe was cancelled" {
			t.Errorf("outcome %+v", got)
		}
	}
	ended := make(chan bool)
	go func() {
		got := l.prober.Run(t.Context(), request4(target(config.ProbeICMP, silent4)))
		ended <- !got.OK && got.Local
	}()
	_ = l.prober.Run(t.Context(), toGateway(request4(config.Target{})))
	if err := l.prober.Close(); err != nil {
		t.Error(err)
	}
	if !<-ended {
		t.Error("a probe that Close has ended does not say so")
	}
	if took := time.Since(start); took > patience {
		t.Errorf("all that took %v", took)
	}
	if got := l.prober.Run(t.Context(), toGateway(request4(config.Target{}))); got.OK || !got.Local {
		t.Errorf("outcome after the end: %+v", got)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<16)
			t.Fatalf("goroutines are left:\n%s", b[:runtime.Stack(b, true)])
		}
		runtime.Gosched()
	}
}
