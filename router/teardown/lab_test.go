package teardown

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is hosts of two networks, a router with two uplinks, and a server outside:
//
//	office --p (v)-- router --ua-- server
//	guests --g------        --ub--
//
// As on a node, the office's own prefix is routed by the macvlan v in the office's table and by
// its parent p in the main table.
type lab struct{ office, guests, router, server netns.NsHandle }

const (
	officeHost4, officeHost6 = "10.1.0.10", "fd01::10"
	guestHost4               = "10.3.0.10"
	server4, server6         = "192.0.2.80", "2001:db8::80"
	natA4, natB4             = "198.51.100.1", "203.0.113.1"

	markA, markB, markMask = 0x000a0000, 0x000b0000, 0x00ff0000

	vmac = "00:00:5e:00:01:14"
)

func newLab(t testing.TB) *lab {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	l := &lab{office: namespace(t), guests: namespace(t), router: namespace(t), server: namespace(t)}
	id := func(ns netns.NsHandle) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns)) }
	l.ip(t, l.router, `
		link add p type veth peer name c netns `+id(l.office)+`
		link add g type veth peer name c netns `+id(l.guests)+`
		link add ua type veth peer name ua netns `+id(l.server)+`
		link add ub type veth peer name ub netns `+id(l.server)+`
		link set p up
		link add v link p address `+vmac+` type macvlan mode bridge
		link set v up
		link set g up
		link set ua up
		link set ub up
		addr add 10.1.0.2/24 dev p
		addr add fd01::2/64 dev p nodad
		addr add 10.1.0.1/32 dev v
		addr add fd01::1/128 dev v nodad
		addr add 10.3.0.1/24 dev g
		addr add 10.10.0.1/24 dev ua
		addr add fd10::1/64 dev ua nodad
		addr add 10.11.0.1/24 dev ub
		addr add fd11::1/64 dev ub nodad
		addr add `+natA4+`/32 dev ua
		addr add `+natB4+`/32 dev ub
		rule add pref 100 from 10.1.0.2 lookup main
		rule add pref 101 iif v lookup 1020
		-6 rule add pref 101 iif v lookup 1020
		rule add pref 102 from 10.1.0.0/24 lookup 1020
		-6 rule add pref 102 from fd01::/64 lookup 1020
		route add 10.1.0.0/24 dev v table 1020
		-6 route add fd01::/64 dev v table 1020
		route add unreachable default metric 4294967295 table 1020
		rule add pref 103 iif g lookup 1030
		route add 10.3.0.0/24 dev g table 1030
		route add default via 10.11.0.2 table 1030
		rule add pref 104 from `+natA4+` lookup 1010
		rule add pref 104 iif ua lookup 1010
		-6 rule add pref 104 iif ua lookup 1010
		rule add pref 104 iif ub lookup 1010
		-6 rule add pref 104 iif ub lookup 1010
		route add 10.1.0.0/24 dev v table 1010
		route add 10.3.0.0/24 dev g table 1010
		-6 route add fd01::/64 dev v table 1010`)
	l.ip(t, l.office, `
		link set c up
		addr add `+officeHost4+`/24 dev c
		addr add `+officeHost6+`/64 dev c nodad
		route add default via 10.1.0.1
		-6 route add default via fd01::1`)
	l.ip(t, l.guests, `
		link set c up
		addr add `+guestHost4+`/24 dev c
		route add default via 10.3.0.1`)
	l.ip(t, l.server, `
		link set lo up
		link set ua up
		link set ub up
		addr add 10.10.0.2/24 dev ua
		addr add fd10::2/64 dev ua nodad
		addr add 10.11.0.2/24 dev ub
		addr add fd11::2/64 dev ub nodad
		addr add `+server4+`/32 dev lo
		addr add `+server6+`/128 dev lo nodad
		route add `+natA4+` via 10.10.0.1
		route add `+natB4+` via 10.11.0.1`)
	l.rules(t)
	l.use(t, "a")
	return l
}

// rules are what the group's own table has: translation, marks, and no invalid packets.
func (l *lab) rules(t testing.TB) {
	t.Helper()
	l.nft(t, fmt.Sprintf(`
			table inet own {
				chain nat { type nat hook postrouting priority srcnat
					oifname ua meta nfproto ipv4 snat ip to %s
					oifname ub meta nfproto ipv4 snat ip to %s
				}
				chain in { type nat hook prerouting priority dstnat
					iifname ua tcp dport 8080 dnat ip to %s:80
				}
				chain marks { type filter hook forward priority mangle
					ct mark and %#[4]x == 0 oifname ua ct mark set %#[5]x
					ct mark and %#[4]x == 0 oifname ub ct mark set %#[6]x
					ct mark and %#[4]x == 0 iifname ua ct mark set %#[5]x
				}
				chain forward { type filter hook forward priority filter; policy drop;
					ct state established,related accept
					ct state invalid drop
					iifname { v, g } accept
					ct status dnat accept
				}
				chain input { type filter hook input priority filter
					iifname { ua, ub } ct state new,invalid drop
				}
			}`, natA4, natB4, officeHost4, markMask, markA, markB))
}

// use routes new flows of the office through uplink a or b.
func (l *lab) use(t testing.TB, uplink string) {
	t.Helper()
	number := map[string]string{"a": "0", "b": "1"}[uplink]
	l.ip(t, l.router, `
		route replace default via 10.1`+number+`.0.2 table 1020
		-6 route replace default via fd1`+number+`::2 table 1020`)
	l.ip(t, l.server, `-6 route replace fd01::/64 via fd1`+number+`::1`)
}

func (l *lab) nft(t testing.TB, rules string) {
	t.Helper()
	inside(t, l.router, func() error { return run("nft", []string{"-f", "-"}, rules) })
}

// ip runs commands of ip(8), one in each line.
func (l *lab) ip(t testing.TB, ns netns.NsHandle, commands string) {
	t.Helper()
	inside(t, ns, func() error {
		for line := range strings.Lines(commands) {
			if arguments := strings.Fields(line); len(arguments) > 0 {
				if err := run("ip", arguments, ""); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func run(name string, arguments []string, input string) error {
	cmd := exec.Command(name, arguments...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, out)
	}
	return nil
}

func namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		for path, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/arp_ignore": "1",
			"ipv6/conf/default/accept_dad": "0", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			"netfilter/nf_conntrack_tcp_loose": "1", "netfilter/nf_conntrack_tcp_be_liberal": "1",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("making a network namespace needs CAP_SYS_ADMIN")
	case errors.Is(err, os.ErrNotExist):
		t.Skip("the kernel has no connection tracking: " + err.Error())
	case err != nil:
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

// serveOnce hands the first connection to an address to handle, after its first echo.
func serveOnce(t testing.TB, ns netns.NsHandle, address string, handle func(net.Conn)) {
	t.Helper()
	inside(t, ns, func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = l.Close() }()
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			b := make([]byte, 64)
			if n, err := c.Read(b); err == nil {
				_, _ = c.Write(b[:n])
			}
			handle(c)
		}()
		return nil
	})
}

// serve echoes what comes to an address, over TCP and UDP, until the test ends.
func serve(t testing.TB, ns netns.NsHandle, address string) {
	t.Helper()
	inside(t, ns, func() error {
		l, err := net.Listen("tcp", address)
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
				t.Cleanup(func() { _ = c.Close() })
				// It stays open when the other side has said all.
				go func() { _, _ = io.Copy(c, c) }()
			}
		}()
		u, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = u.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
}

// timestamps has new connections from a namespace use them, or not.
func timestamps(t testing.TB, ns netns.NsHandle, value string) {
	t.Helper()
	inside(t, ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_timestamps", []byte(value), 0) })
}
