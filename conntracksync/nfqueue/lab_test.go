package nfqueue

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is a client and a server with a router between them:
//
//	client --c-- router --s-- server
//
// and a namespace that stands for the BACKUP.
type lab struct{ client, router, server, backup netns.NsHandle }

const (
	client4, server4, router4 = "10.1.0.2", "10.2.0.2", "10.2.0.1"
	client6, server6          = "fd01::2", "fd02::2"
)

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{client: namespace(t), router: namespace(t), server: namespace(t), backup: namespace(t)}
	inside(t, l.router, func() error {
		for _, v := range []*netlink.Veth{
			{LinkAttrs: netlink.LinkAttrs{Name: "c"}, PeerName: "c", PeerNamespace: netlink.NsFd(l.client)},
			{LinkAttrs: netlink.LinkAttrs{Name: "s"}, PeerName: "s", PeerNamespace: netlink.NsFd(l.server)},
		} {
			if err := netlink.LinkAdd(v); err != nil {
				return fmt.Errorf("add link %s: %w", v.Name, err)
			}
		}
		return errors.Join(address("c", "10.1.0.1/24", "fd01::1/64"), address("s", router4+"/24", "fd02::1/64"),
			set("ipv4/ip_forward", "1"), set("ipv6/conf/all/forwarding", "1"), set("netfilter/nf_conntrack_events", "1"))
	})
	inside(t, l.client, func() error {
		return errors.Join(address("c", client4+"/24", client6+"/64"), route("10.1.0.1", "fd01::1"))
	})
	inside(t, l.server, func() error {
		return errors.Join(address("s", server4+"/24", server6+"/64"), route(router4, "fd02::1"))
	})
	return l
}

func namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		return set("ipv6/conf/default/accept_dad", "0")
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

func set(path, value string) error {
	return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
}

func address(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	for _, s := range addresses {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add address %s: %w", s, err)
		}
	}
	return nil
}

func route(gateways ...string) error {
	for _, g := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(g)}); err != nil {
			return fmt.Errorf("route via %s: %w", g, err)
		}
	}
	return nil
}

// translate has the router translate what goes to the server over IPv4, which makes it
// track connections.
func (l *lab) translate(t testing.TB) {
	t.Helper()
	inside(t, l.router, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
		post := conn.AddChain(&nftables.Chain{
			Name: "post", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("s"), make([]byte, 15)...)},
			&expr.Immediate{Register: 1, Data: net.ParseIP(router4).To4()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		}})
		return conn.Flush()
	})
}

// rules makes the table in the router.
func (l *lab) rules(t testing.TB, links ...string) *Rules {
	t.Helper()
	var r *Rules
	inside(t, l.router, func() (err error) {
		r, err = NewRules(testGroup)
		return err
	})
	t.Cleanup(func() { _ = r.Close() })
	ensure(t, r, links...)
	return r
}

func ensure(t testing.TB, r *Rules, links ...string) {
	t.Helper()
	_, err := r.Ensure(links)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const testGroup = "test"

// queue opens the router's queue.
func (l *lab) queue(t testing.TB, length int) *Queue {
	t.Helper()
	var q *Queue
	inside(t, l.router, func() (err error) {
		q, err = Open(Config{Group: testGroup, Length: length})
		return err
	})
	t.Cleanup(func() { _ = q.Close() })
	return q
}
