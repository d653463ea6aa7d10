package ctnetlink

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// pair is a client and a server with two routers between them:
//
//	client --c-- router 1 --s-- server
//	       --c-- router 2 --s--
//
// The client's and the server's address are not on a link, so that moving a session
// is changing routes. The server has no route to the client, unless the test gives it
// one: what is not translated is not answered.
type pair struct {
	client, server netns.NsHandle
	routers        [2]netns.NsHandle
}

const (
	clientAddr4, clientAddr6 = "10.9.9.9", "fd09::9"
	serverAddr4, serverAddr6 = "192.0.2.80", "2001:db8::80"
	natAddr4, natAddr6       = "198.51.100.1", "2001:db8:1::1"
)

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{client: newNamespace(t), server: newNamespace(t)}
	for _, ns := range []netns.NsHandle{p.client, p.server} {
		inside(t, ns, prepareStack)
	}
	inside(t, p.client, func() error { return addAddresses("lo", clientAddr4+"/32", clientAddr6+"/128") })
	inside(t, p.server, func() error { return addAddresses("lo", serverAddr4+"/32", serverAddr6+"/128") })
	for i := range p.routers {
		p.routers[i] = newNamespace(t)
		inside(t, p.routers[i], func() error { return p.prepareRouter(i) })
		inside(t, p.client, func() error { return addAddresses(fmt.Sprint("c", i), link(1, i, 2)...) })
		inside(t, p.server, func() error { return addAddresses(fmt.Sprint("s", i), link(2, i, 2)...) })
		inside(t, p.routers[i], func() error {
			return addRoutes(map[string]string{
				clientAddr4 + "/32": via(1, i, 2, false), clientAddr6 + "/128": via(1, i, 2, true),
				serverAddr4 + "/32": via(2, i, 2, false), serverAddr6 + "/128": via(2, i, 2, true),
			})
		})
	}
	return p
}

// link are the addresses of a host on the client's (1) or the server's (2) link to
// router i.
func link(side, i, host int) []string {
	return []string{via(side, i, host, false) + "/24", via(side, i, host, true) + "/64"}
}

func via(side, i, host int, v6 bool) string {
	if v6 {
		return fmt.Sprintf("fd0%d:0:0:%d::%d", side, i, host)
	}
	return fmt.Sprintf("10.%d.%d.%d", side, i, host)
}

func prepareStack() error {
	return setSysctls("ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
		"ipv6/conf/default/accept_dad=0", "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
}

func (p *pair) prepareRouter(i int) error {
	if err := prepareStack(); err != nil {
		return err
	}
	for _, v := range []*netlink.Veth{
		{LinkAttrs: netlink.LinkAttrs{Name: "c"}, PeerName: fmt.Sprint("c", i), PeerNamespace: netlink.NsFd(p.client)},
		{LinkAttrs: netlink.LinkAttrs{Name: "s"}, PeerName: fmt.Sprint("s", i), PeerNamespace: netlink.NsFd(p.server)},
	} {
		if err := netlink.LinkAdd(v); err != nil {
			return fmt.Errorf("add link %s: %w", v.Name, err)
		}
	}
	if err := addAddresses("c", link(1, i, 1)...); err != nil {
		return err
	}
	return addAddresses("s", link(2, i, 1)...)
}

func addAddresses(name string, addresses ...string) error {
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
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add address %s: %w", s, err)
		}
	}
	return nil
}

func addRoutes(routes map[string]string) error {
	for to, gateway := range routes {
		dst, err := netlink.ParseIPNet(to)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}); err != nil {
			return fmt.Errorf("route %s via %s: %w", to, gateway, err)
		}
	}
	return nil
}

// use routes everything through router i. toClient also gives the server a route to
// the client's own address, which destination NAT alone needs.
func (p *pair) use(t *testing.T, i int, toClient bool) {
	t.Helper()
	inside(t, p.client, func() error {
		return addRoutes(map[string]string{
			serverAddr4 + "/32": via(1, i, 1, false), natAddr4 + "/32": via(1, i, 1, false),
			serverAddr6 + "/128": via(1, i, 1, true), natAddr6 + "/128": via(1, i, 1, true),
		})
	})
	inside(t, p.server, func() error {
		routes := map[string]string{natAddr4 + "/32": via(2, i, 1, false), natAddr6 + "/128": via(2, i, 1, true)}
		if toClient {
			routes[clientAddr4+"/32"] = via(2, i, 1, false)
			routes[clientAddr6+"/128"] = via(2, i, 1, true)
		}
		return addRoutes(routes)
	})
}

// natRules are where router 1 sends what passes it; a zero value means no rule.
// Router 2 gets none at all: what it translates, it translates by its table.
type natRules struct{ source, dest netip.AddrPort }

// translate gives the router of ns the base chains of NAT, and the rules.
func translate(t *testing.T, ns netns.NsHandle, r natRules) {
	t.Helper()
	inside(t, ns, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			table := conn.AddTable(&nftables.Table{Name: "nat", Family: family})
			post := conn.AddChain(&nftables.Chain{
				Name: "post", Table: table, Type: nftables.ChainTypeNAT,
				Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
			})
			pre := conn.AddChain(&nftables.Chain{
				Name: "pre", Table: table, Type: nftables.ChainTypeNAT,
				Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
			})
			// An empty NAT chain does not switch connection tracking on; this rule does.
			conn.AddRule(&nftables.Rule{Table: table, Chain: pre, Exprs: []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			}})
			addNAT(conn, post, r.source, expr.NATTypeSourceNAT, expr.MetaKeyOIFNAME, "s")
			addNAT(conn, pre, r.dest, expr.NATTypeDestNAT, expr.MetaKeyIIFNAME, "c")
		}
		return conn.Flush()
	})
}

func addNAT(
	conn *nftables.Conn, chain *nftables.Chain, to netip.AddrPort, kind expr.NATType, key expr.MetaKey, name string,
) {
	if !to.IsValid() || to.Addr().Is4() != (chain.Table.Family == nftables.TableFamilyIPv4) {
		return
	}
	nat := &expr.NAT{Type: kind, Family: uint32(chain.Table.Family), RegAddrMin: 1}
	exprs := []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(name), make([]byte, 16-len(name))...)},
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
	}
	if to.Port() != 0 {
		exprs = append(exprs, &expr.Immediate{
			Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port()),
		})
		nat.RegProtoMin = 2
	}
	conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: append(exprs, nat)})
}
