package kernel

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
)

const goldenOwnMAC = `link lo device  down
link lan0 veth 02:00:00:00:00:01 up
addr 10.1.0.2/24 dev lan0
addr 10.1.0.1/32 dev lan0
link wan0 veth 02:00:00:00:00:03 up
addr 203.0.113.2/24 dev wan0
addr 203.0.113.10/32 dev wan0
addr 2001:db8:1::2/64 dev wan0 -
addr fe80::5e:a:1/64 dev wan0 nodad
addr fd00:20::2/64 dev lan0 -
addr fe80::5e:14:1/64 dev lan0 nodad
addr fe80::5e:a/128 dev wan0 nodad deprecated noprefixroute
addr 2001:db8:1::10/128 dev wan0 nodad deprecated noprefixroute
addr fe80::5e:14/128 dev lan0 nodad deprecated noprefixroute
addr fd00:20::1/128 dev lan0 nodad deprecated noprefixroute
route table 254 type 1 10.1.0.0/24 via <nil> dev lan0 metric 0 proto 2 scope 253 -
route table 254 type 1 203.0.113.0/24 via <nil> dev wan0 metric 0 proto 2 scope 253 -
route table 254 type 1 2001:db8:1::/64 via <nil> dev wan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fd00:20::/64 via <nil> dev lan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev wan0 metric 256 proto 2 scope 0 -
route table 254 type 1 fe80::/64 via <nil> dev lan0 metric 256 proto 2 scope 0 -
route table 1010 type 1 0.0.0.0/0 via 203.0.113.254 dev wan0 metric 0 proto 112 scope 0 onlink
route table 1010 type 7 0.0.0.0/0 via <nil> dev  metric 1073741824 proto 112 scope 0 -
route table 1010 type 1 10.1.0.0/24 via <nil> dev lan0 metric 0 proto 112 scope 253 -
route table 1010 type 1 203.0.113.0/24 via <nil> dev wan0 metric 0 proto 112 scope 253 -
route table 1020 type 1 0.0.0.0/0 via 203.0.113.254 dev wan0 metric 0 proto 112 scope 0 onlink
route table 1020 type 7 0.0.0.0/0 via <nil> dev  metric 1073741824 proto 112 scope 0 -
route table 1020 type 1 10.1.0.0/24 via <nil> dev lan0 metric 0 proto 112 scope 253 -
route table 1020 type 1 203.0.113.0/24 via <nil> dev wan0 metric 0 proto 112 scope 253 -
route table 1010 type 1 2001:db8:1::/64 via <nil> dev wan0 metric 1024 proto 112 scope 0 -
route table 1010 type 1 fd00:20::/64 via <nil> dev lan0 metric 1024 proto 112 scope 0 -
route table 1010 type 1 ::/0 via fe80::1 dev wan0 metric 1024 proto 112 scope 0 -
route table 1010 type 7 ::/0 via <nil> dev lo metric 2147483647 proto 112 scope 0 -
route table 1020 type 1 2001:db8:1::/64 via <nil> dev wan0 metric 1024 proto 112 scope 0 -
route table 1020 type 1 fd00:20::/64 via <nil> dev lan0 metric 1024 proto 112 scope 0 -
route table 1020 type 1 ::/0 via fe80::1 dev wan0 metric 1024 proto 112 scope 0 -
route table 1020 type 7 ::/0 via <nil> dev lo metric 2147483647 proto 112 scope 0 -
rule 0 from <nil> iif "" table 255 proto 2
rule 11000 from 203.0.113.2/32 iif "" table 254 proto 112
rule 11000 from 10.1.0.2/32 iif "" table 254 proto 112
rule 11100 from <nil> iif "wan0" table 1010 proto 112
rule 11100 from <nil> iif "lan0" table 1020 proto 112
rule 11200 from 10.1.0.0/24 iif "" table 1020 proto 112
rule 11300 from 203.0.113.10/32 iif "" table 1010 proto 112
rule 32766 from <nil> iif "" table 254 proto 2
rule 32767 from <nil> iif "" table 253 proto 2
rule 0 from <nil> iif "" table 255 proto 2
rule 11000 from 2001:db8:1::2/128 iif "" table 254 proto 112
rule 11000 from fd00:20::2/128 iif "" table 254 proto 112
rule 11100 from <nil> iif "wan0" table 1010 proto 112
rule 11100 from <nil> iif "lan0" table 1020 proto 112
rule 11200 from fd00:20::/64 iif "" table 1020 proto 112
rule 11300 from 2001:db8:1::10/128 iif "" table 1010 proto 112
rule 32766 from <nil> iif "" table 254 proto 2`

func TestOwnMACGolden(t *testing.T) {
	l := newDualLab(t, time.Second)
	before := l.dump(t) + "\n" + l.dump6(t)
	if report := l.apply(t, withoutMAC(dual())); len(report.Missing)+len(report.Conflicts) > 0 {
		t.Errorf("%+v", report)
	}
	l.checkDual(t, goldenOwnMAC)
	l.kernel = l.newReconciler(t)
	if again := l.apply(t, withoutMAC(dual())); len(again.Changed) > 0 {
		t.Errorf("the successor changed %q", again.Changed)
	}
	if err := l.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("00:01 down", "00:01 up", "00:03 down", "00:03 up").Replace(before)
	if diff := cmp.Diff(sortedLines(want), sortedLines(l.dump(t)+"\n"+l.dump6(t))); diff != "" {
		t.Errorf("after Remove: %s", diff)
	}
	for _, s := range append(foreignSysctls(), foreignSysctls6()...) {
		if got := l.read(t, s.path); got != s.value {
			t.Errorf("after Remove: %s is %s, was %s", s.path, got, s.value)
		}
	}
}

func TestOwnMACRepairs(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.apply(t, withoutMAC(dual()))
	for _, command := range []string{
		"ip addr del 10.1.0.1/32 dev lan0", "ip addr del 10.1.0.2/24 dev lan0",
		"ip -6 addr del fe80::5e:14/128 dev lan0", "ip -6 addr del fe80::5e:14:1/64 dev lan0",
		"ip -6 addr del fd00:20::1/128 dev lan0", "ip -6 route flush table 1020", "ip route flush table 1010",
		"sysctl -w net.ipv6.conf.lan0.forwarding=0", "sysctl -w net.ipv4.conf.wan0.forwarding=0",
		"sysctl -w net.ipv6.conf.lan0.disable_ipv6=1", "ip link set lan0 down",
	} {
		t.Run(command, func(t *testing.T) {
			l.run(t, command)
			l.apply(t, withoutMAC(dual()))
			if again := l.apply(t, withoutMAC(dual())); len(again.Changed) > 0 {
				t.Errorf("changed again %q", again.Changed)
			}
			l.run(t, "ip link set lan0 up")
			l.apply(t, withoutMAC(dual()))
			l.checkDual(t, goldenOwnMAC)
			// Of two link-local addresses the kernel speaks with the one that the dump
			// has last.
			out := l.run(t, "ip -6 addr show dev lan0 scope link")
			if strings.Index(out, "fe80::5e:14:1/64") < strings.Index(out, "fe80::5e:14/128") {
				t.Errorf("the virtual link-local address is the older one: %s", out)
			}
		})
	}
}

// A network may change its mode while the node runs.
func TestOwnMACSwitch(t *testing.T) {
	l := newDualLab(t, time.Second)
	for range 2 {
		l.apply(t, dual())
		l.checkDual(t, goldenDual)
		l.apply(t, withoutMAC(dual()))
		l.checkDual(t, goldenOwnMAC)
	}
	// One segment of each kind.
	mixed := dual()
	cloud := withoutMAC(dual())
	for i, v := range cloud.VirtualLinks {
		if v.Parent == "lan0" {
			mixed.VirtualLinks[i] = v
		}
	}
	names := map[string]string{"vmac20": "lan0", "vmac20v6": "lan0"}
	for i, r := range mixed.Routes {
		if to, ok := names[r.Link]; ok {
			mixed.Routes[i].Link = to
		}
	}
	for i, r := range mixed.Rules {
		if to, ok := names[r.Incoming]; ok {
			mixed.Rules[i].Incoming = to
		}
	}
	l.apply(t, mixed)
	if again := l.apply(t, mixed); len(again.Changed) > 0 {
		t.Errorf("changed again %q", again.Changed)
	}
	d := l.dump(t) + "\n" + l.dump6(t)
	for _, want := range []string{"link vmac10 ", "link vmac10v6 ", "addr 10.1.0.1/32 dev lan0", "addr fd00:20::1/128 dev lan0 "} {
		if !strings.Contains(d, want) {
			t.Errorf("%s is missing:\n%s", want, d)
		}
	}
	if strings.Contains(d, "vmac20") {
		t.Errorf("the macvlan is still there:\n%s", d)
	}
}

// An address of somebody else on the port is not taken over.
func TestOwnMACConflict(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.run(t, "ip addr add 10.1.0.1/32 dev lan0")
	report := l.apply(t, withoutMAC(dual()))
	if len(report.Conflicts) != 1 || !strings.Contains(report.Conflicts[0], "carrier lan is left out: its virtual address 10.1.0.1 is configured on lan0") {
		t.Errorf("conflicts %q", report.Conflicts)
	}
	if err := l.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := l.dump(t); !strings.Contains(d, "addr 10.1.0.1/32 dev lan0") {
		t.Errorf("somebody else's address is gone:\n%s", d)
	}
}

// Without a fence the virtual addresses go, and the node stays reachable.
func TestOwnMACWithoutFence(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.apply(t, withoutMAC(dual()))
	l.kernel.fence = brokenFence{}
	if _, err := l.kernel.Apply(t.Context(), withoutMAC(dual())); err == nil {
		t.Error("no error without a fence")
	}
	d := l.dump(t) + "\n" + l.dump6(t)
	for _, gone := range []string{"10.1.0.1/32", "203.0.113.10/32", "fd00:20::1/128", "fe80::5e:14/128"} {
		if strings.Contains(d, "addr "+gone) {
			t.Errorf("%s stands unfenced", gone)
		}
	}
	if !strings.Contains(d, "addr 10.1.0.2/24 dev lan0") || !strings.Contains(d, "00:01 up") {
		t.Errorf("the node has lost its own:\n%s", d)
	}
}

// The port answers for the virtual addresses with its own MAC address, while the
// lease is held and not otherwise; its own address it always answers for.
func TestOwnMACAnswers(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, withoutMAC(dual()))
	waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
	for _, priority := range []byte{0, 100, 0} {
		l.advertiseOwn(t, priority)
		for _, a := range append(gateways(), addr("10.1.0.2"), addr("fd00:20::2")) {
			var want []answer
			if priority > 0 || !slices.Contains(gateways(), a) {
				want = []answer{{sender: portMACs[0], claimed: portMACs[0], router: a.Is6()}}
			}
			if diff := cmp.Diff(want, l.ask(t, a), cmp.AllowUnexported(answer{})); diff != "" {
				t.Errorf("%s, priority %d: %s", a, priority, diff)
			}
		}
		if err := ping(t, l.client, "0.0.0.0", "10.1.0.1"); (err == nil) != (priority > 0) {
			t.Errorf("gateway, priority %d: %v", priority, err)
		}
		if err := ping6(t, l.client, "fd00:20::1"); (err == nil) != (priority > 0) {
			t.Errorf("gateway, priority %d: %v", priority, err)
		}
		if got := l.source(t, "udp4", "10.1.0.50:9"); got != "10.1.0.2" {
			t.Errorf("the node's source is %s", got)
		}
		if got := l.source(t, "udp6", "[fd00:20::50]:9"); got != "fd00:20::2" {
			t.Errorf("the node's source is %s", got)
		}
	}
}

// The whole path without virtual MAC addresses.
func TestOwnMACForwarding(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, withoutMAC(dual()))
	accepted := l.echoServer(t)
	if err := ping6(t, l.client, "2001:db8:1::254"); err == nil {
		t.Error("forwarded without a lease")
	}
	l.advertiseOwn(t, 100)
	if err := l.kernel.ForgetUnresolved([]string{"lan0", "wan0"}); err != nil {
		t.Fatal(err)
	}
	toServer := capture(t, l.server, "s0")
	if err := exchange(l.dial(t), "one", 5*time.Second); err != nil {
		t.Error(err)
	}
	if remote := (<-accepted).RemoteAddr().String(); !strings.HasPrefix(remote, "203.0.113.10:") {
		t.Errorf("the server sees %s", remote)
	}
	if err := ping6(t, l.client, "2001:db8:1::254"); err != nil {
		t.Errorf("client to server: %v", err)
	}
	if err := ping6(t, l.server, "fd00:20::50"); err == nil {
		t.Error("the outside reaches the network")
	}
	// The router asks for neighbours in its own name.
	for _, a := range askers(toServer(), [6]byte{2, 0, 0, 0, 0, 3}) {
		if a != addr("203.0.113.2") {
			t.Errorf("ARP at the server in the name of %s", a)
		}
	}
	l.advertiseOwn(t, 0)
	if err := ping6(t, l.client, "2001:db8:1::254"); err == nil {
		t.Error("forwarded after priority 0")
	}
}

// refusing is an intent with Accept_Mode false (RFC 9568 §6.1).
func refusing(in router.Intent) router.Intent {
	for _, v := range in.VirtualLinks {
		in.Refused = append(in.Refused, v.Addresses...)
	}
	return in
}

// While the lease is not held, the port says nothing in the name of a virtual
// address: not while addresses come, over a link flap, or when the kernel looks for
// neighbours of what it forwards.
func TestOwnMACBackupIsSilent(t *testing.T) {
	l := newDualLab(t, time.Minute)
	stop := capture(t, l.client, "c0")
	l.apply(t, withoutMAC(dual()))
	for _, c := range []string{
		"ip link set lan0 down", "ip link set lan0 up", "ip -6 addr flush dev lan0", "ip addr flush dev lan0",
		"sysctl -w net.ipv6.conf.lan0.forwarding=0",
	} {
		l.run(t, c)
		l.apply(t, withoutMAC(dual()))
		l.sendFrom(t, "10.1.0.1:0", "10.1.0.50:9")
		l.sendFrom(t, "[fd00:20::1]:0", "[fd00:20::50]:9")
	}
	for _, a := range gateways() {
		inject(t, l.client, "c0", solicitationOrRequest(a))
	}
	waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
	checkNobodySpeaksFor(t, stop(), false)
	// With the lease, it does.
	l.advertiseOwn(t, 100)
	stop = capture(t, l.client, "c0")
	for _, a := range gateways() {
		inject(t, l.client, "c0", solicitationOrRequest(a))
	}
	checkNobodySpeaksFor(t, stop(), true)
}

// checkNobodySpeaksFor looks for frames of the router that have a virtual address as
// the sender or claim it.
func checkNobodySpeaksFor(t *testing.T, frames [][]byte, want bool) {
	t.Helper()
	spoken := false
	for _, f := range frames {
		if [6]byte(f[6:12]) == clientMAC || len(f) < 42 {
			continue
		}
		var speaker netip.Addr
		switch {
		case f[12] == 8 && f[13] == 6:
			speaker = netip.AddrFrom4([4]byte(f[28:32]))
		case f[12] == 8 && f[13] == 0:
			speaker = netip.AddrFrom4([4]byte(f[26:30]))
		case icmpType(f) == neighborAdvertisement:
			speaker = discovered(f)
		case f[12] == 0x86 && len(f) >= 54:
			speaker = netip.AddrFrom16([16]byte(f[22:38]))
		}
		if slices.Contains(gateways(), speaker) {
			spoken = true
			if !want {
				t.Errorf("in the name of %s: %x", speaker, f)
			}
		}
	}
	if spoken != want || len(frames) == 0 {
		t.Errorf("spoken for a virtual address: %v, want %v (%d frames)", spoken, want, len(frames))
	}
}

// sendFrom sends a datagram in the name of an address of the router; that it does
// not get far is no error.
func (l *lab) sendFrom(t *testing.T, from, to string) {
	t.Helper()
	in(t, l.router, func() error {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		remote, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return err
		}
		c, err := net.DialUDP("udp", local, remote)
		if err != nil {
			return nil //nolint:nilerr // there is no way while the link is down
		}
		_, _ = c.Write([]byte("hello"))
		return c.Close()
	})
}
