package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/router"
	"tandem/router/config"
	"tandem/router/uplink"
	"tandem/vrrp/fence"
)

// fork is a router with two networks and two uplinks, and beyond those a server:
//
//	north{10.1.0.50} --- lan0{ router }wan0 --- {192.0.2.1      server
//	south{10.2.0.50} --- dmz0{        }lte0 --- {198.51.100.1   203.0.113.1}
//
// The server is the gateway of both uplinks, so that it sees by which address a flow
// comes.
type fork struct {
	*lab

	north, south netns.NsHandle
	doc          *config.Document
}

const forkDocument = `version: 1
group: lab
members: [{name: one}]
uplinks:
  - {name: fibre, vrid: 1, prefix: 192.0.2.0/24, gateway: 192.0.2.1, addresses: [192.0.2.9, 192.0.2.8], ports: {one: {interface: wan0, address: 192.0.2.2}},
     ipv6: {prefix: "2001:db8:a::/64", gateway: "2001:db8:a::1", addresses: ["2001:db8:a::9"], translate: nat66}}
  - {name: radio, vrid: 2, prefix: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.9, 198.51.100.8], ports: {one: {interface: lte0, address: 198.51.100.2}},
     ipv6: {prefix: "2001:db8:b::/64", gateway: "2001:db8:b::1", addresses: ["2001:db8:b::9"], translate: npt, npt_prefix: "2001:db8:b100::/56"}}
networks:
  - {name: north, vrid: 20, prefix: 10.1.0.0/24, gateway: 10.1.0.1, uplinks: [fibre, radio], ports: {one: {interface: lan0, address: 10.1.0.2}},
     ipv6: {prefix: "fd00:1::/64", gateway: "fd00:1::1"}%s}
  - {name: south, vrid: 3, prefix: 10.2.0.0/24, gateway: 10.2.0.1, uplinks: [fibre, radio], ports: {one: {interface: dmz0, address: 10.2.0.2}}%s}
`

func newFork(t *testing.T, north, south string) *fork {
	t.Helper()
	k := &fork{lab: &lab{router: namespace(t), server: namespace(t), lease: time.Minute, stateDir: t.TempDir()}, north: namespace(t), south: namespace(t)}
	k.client = k.north
	in(t, k.router, func() (err error) {
		if k.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if k.fence, err = fence.New(); err != nil {
			return err
		}
		return errors.Join(
			cable(k.links, "lan0", [6]byte{2, 0, 0, 0, 0, 1}, "c0", [6]byte{2, 0, 0, 0, 0, 2}, k.north),
			cable(k.links, "dmz0", [6]byte{2, 0, 0, 0, 0, 3}, "c0", [6]byte{2, 0, 0, 0, 0, 4}, k.south),
			cable(k.links, "wan0", [6]byte{2, 0, 0, 0, 0, 5}, "s0", [6]byte{2, 0, 0, 0, 0, 6}, k.server),
			cable(k.links, "lte0", [6]byte{2, 0, 0, 0, 0, 7}, "s1", [6]byte{2, 0, 0, 0, 0, 8}, k.server),
		)
	})
	t.Cleanup(func() { k.links.Close(); _ = k.fence.Close() })
	for _, c := range []string{
		"ip link set lo up", "ip link set c0 up", "ip addr add 10.1.0.50/24 dev c0", "ip addr add 10.1.0.51/24 dev c0", "ip route add default via 10.1.0.1",
		"ip addr add fd00:1::50/64 dev c0 nodad", "ip -6 route add default via fd00:1::1",
	} {
		runIn(t, k.north, c)
	}
	for _, c := range []string{"ip link set lo up", "ip link set c0 up", "ip addr add 10.2.0.50/24 dev c0", "ip route add default via 10.2.0.1"} {
		runIn(t, k.south, c)
	}
	for _, c := range []string{
		"ip link set lo up", "ip link set s0 up", "ip link set s1 up", "ip addr add 192.0.2.1/24 dev s0", "ip addr add 198.51.100.1/24 dev s1",
		"ip addr add 203.0.113.1/32 dev lo", "ip addr add 2001:db8:a::1/64 dev s0 nodad", "ip addr add 2001:db8:b::1/64 dev s1 nodad",
		"ip addr add 2001:db8:f::1/128 dev lo", "ip -6 route add 2001:db8:b100::/56 via 2001:db8:b::9",
	} {
		runIn(t, k.server, c)
	}
	k.kernel = k.newReconciler(t)
	k.parse(t, north, south)
	k.choose(t, "fibre")
	inject(t, k.router, "vmac20", advert(lanMAC, 100))
	return k
}

// parse takes a document with more about the networks.
func (k *fork) parse(t *testing.T, north, south string) {
	t.Helper()
	doc, err := config.Parse("test.yaml", fmt.Appendf(nil, forkDocument, north, south))
	if err != nil {
		t.Fatal(err)
	}
	k.doc = doc
}

// choose applies the document with all paths on one uplink; none if it is empty.
func (k *fork) choose(t *testing.T, name string) (router.Intent, Report) {
	t.Helper()
	intent := k.derive(t, name)
	return intent, k.apply(t, intent)
}

func (k *fork) derive(t *testing.T, name string) router.Intent {
	t.Helper()
	selection := uplink.Selection{}
	for _, w := range []string{"north", "south"} {
		for _, d := range []string{"0.0.0.0/0", "::/0"} {
			selection[uplink.Path{Network: w, Destination: prefix(d)}] = name
		}
	}
	intent, err := router.Derive(k.doc, "one", selection)
	if err != nil {
		t.Fatal(err)
	}
	return intent
}

// listen answers connections to an address with the address they come from, and then echoes.
func listen(t *testing.T, ns netns.NsHandle, address string) {
	t.Helper()
	var l net.Listener
	in(t, ns, func() (err error) { l, err = net.Listen("tcp", address); return err })
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = fmt.Fprintf(c, "%s\n", netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
}

// connect returns a connection and the address from which the other side sees it come.
func connect(t *testing.T, ns netns.NsHandle, from, to string, wait time.Duration) (net.Conn, string, error) {
	t.Helper()
	var c net.Conn
	var failed error
	in(t, ns, func() error {
		d := net.Dialer{Timeout: wait}
		if from != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		c, failed = d.Dial("tcp", to)
		return nil
	})
	if failed != nil {
		return nil, "", failed
	}
	t.Cleanup(func() { _ = c.Close() })
	var line strings.Builder
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			return c, "", err
		}
		if b[0] == '\n' {
			return c, line.String(), nil
		}
		line.WriteByte(b[0])
	}
}

// seen connects and checks as whom the other side sees it.
func seen(t *testing.T, ns netns.NsHandle, from, to, want string) net.Conn {
	t.Helper()
	c, got, err := connect(t, ns, from, to, 5*time.Second)
	if err != nil || got != want {
		t.Helper()
		t.Errorf("to %s: seen as %q, want %q: %v", to, got, want, err)
	}
	return c
}

func refused(t *testing.T, ns netns.NsHandle, from, to string) {
	t.Helper()
	if _, got, err := connect(t, ns, from, to, 300*time.Millisecond); err == nil {
		t.Errorf("reached %s from %s as %s", to, from, got)
	}
}

func alive(t *testing.T, c net.Conn) {
	t.Helper()
	if c == nil {
		t.Fatal("no connection")
	}
	if err := exchange(c, "still here", 5*time.Second); err != nil {
		t.Errorf("a live flow: %v", err)
	}
}
