package lab

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// refusal is how long a connection that must fail may try.
const refusal = 300 * time.Millisecond

// staticRouter makes a namespace the router, by hand.
func staticRouter(t *testing.T, l *Lab, node string) {
	t.Helper()
	ns := l.Namespace(node)
	err := ns.with(func(h *netlink.Handle) error {
		if err := addAddress(h, "lan0", ClientGateway+"/24"); err != nil {
			return err
		}
		if err := addAddress(h, "wan0", NATAddress+"/24"); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Gw: net.ParseIP(UplinkGateway)})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		if err := writeSysctl("ipv4/ip_forward", "1"); err != nil {
			return err
		}
		return sourceNAT()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sourceNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("wan0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		&expr.Immediate{Register: 1, Data: net.ParseIP(NATAddress).To4()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	return conn.Flush()
}

// serveNames tells every TCP client of the server who it seems to be.
func serveNames(t *testing.T, l *Lab) (address string) {
	t.Helper()
	var listener net.Listener
	err := l.Namespace(Server).Do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(ServerAddress, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // nothing depends on it
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(conn, conn.RemoteAddr()) // the client sees what is missing
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

// askName connects from a client address and returns what the server saw.
//
// Patience covers a neighbour lookup that failed before, which the kernel
// repeats once a second.
func askName(l *Lab, patience time.Duration, from, server string) (string, error) {
	var conn net.Conn
	err := l.Namespace(Client).Do(func() (err error) {
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err = dialer.Dial("tcp4", server)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	seen, err := io.ReadAll(conn)
	return string(seen), err
}

func TestStaticRouter(t *testing.T) {
	l := newLab(t, Options{Clients: 2})
	server := serveNames(t, l)
	if seen, err := askName(l, refusal, l.ClientAddresses()[0], server); err == nil {
		t.Fatalf("connected without a router, as %s", seen)
	}
	staticRouter(t, l, Alpha)
	for _, client := range l.ClientAddresses() {
		seen, err := askName(l, settleTime, client, server)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(seen, NATAddress+":") {
			t.Errorf("client %s is seen as %s, want %s", client, seen, NATAddress)
		}
	}
	if err := l.Namespace(Alpha).Do(func() error { return flushRules() }); err != nil {
		t.Fatal(err)
	}
	if seen, err := askName(l, refusal, l.ClientAddresses()[0], server); err == nil {
		t.Errorf("connected without translation, as %s: the server has a route to the clients", seen)
	}
}

func flushRules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	return conn.Flush()
}

// hasCarrier reads a link's lower state.
func hasCarrier(t *testing.T, l *Lab, namespace, name string) bool {
	t.Helper()
	var up bool
	err := l.Namespace(namespace).with(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		up = link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return up
}

func TestCablesCarry(t *testing.T) {
	l := newLab(t, Options{})
	for _, tc := range []struct {
		fault Fault
		loses map[string][]string // namespace to links
	}{
		{LAN, map[string][]string{Alpha: {"lan0"}}},
		{WAN, map[string][]string{Alpha: {"wan0"}}},
		{HALink, map[string][]string{Alpha: {"ha0"}, Bravo: {"ha0"}}},
	} {
		t.Run(tc.fault.String(), func(t *testing.T) {
			start := time.Now()
			if _, err := l.Inject(t.Context(), tc.fault, Alpha); err != nil {
				t.Fatal(err)
			}
			t.Logf("injected in %v", time.Since(start))
			for _, node := range nodeNames() {
				for _, link := range []string{"lan0", "wan0", "ha0"} {
					lost := false
					for _, name := range tc.loses[node] {
						lost = lost || name == link
					}
					if hasCarrier(t, l, node, link) == lost {
						t.Errorf("%s of %s has a carrier: %v", link, node, lost)
					}
				}
			}
			if blocked, err := l.firstBlocked(l.portsOf(tc.fault, Alpha)); err != nil || blocked == "" && tc.fault != HALink {
				t.Errorf("the switch passes frames at every port of the fault (%v)", err)
			}
			if err := l.Heal(t.Context(), tc.fault, Alpha); err != nil {
				t.Fatal(err)
			}
			if blocked, err := l.firstBlocked(l.portsOf(tc.fault, Alpha)); err != nil || blocked != "" {
				t.Errorf("after healing the switch passes no frames at %s (%v)", blocked, err)
			}
			for node, links := range tc.loses {
				for _, link := range links {
					if !hasCarrier(t, l, node, link) {
						t.Errorf("%s of %s has no carrier after healing", link, node)
					}
				}
			}
		})
	}
}

// learned tells whether a MAC address is in the table of a switch port.
func learned(t *testing.T, l *Lab, port string, mac net.HardwareAddr) bool {
	t.Helper()
	link, err := l.fabric.LinkByName(port)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := l.fabric.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.HardwareAddr.String() == mac.String() {
			return true
		}
	}
	return false
}

func TestForwardingTable(t *testing.T) {
	l := newLab(t, Options{})
	server := serveNames(t, l)
	staticRouter(t, l, Alpha)
	if _, err := askName(l, settleTime, l.ClientAddresses()[0], server); err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{0x02, 0x54, 0, 0x0a, 0, 2}
	edge, core := PortName("lan", Alpha), TrunkName("lan", Alpha)
	if !learned(t, l, edge, mac) || !learned(t, l, core, mac) {
		t.Fatal("the switches did not learn the router's address")
	}
	if _, err := l.Inject(t.Context(), LAN, Alpha); err != nil {
		t.Fatal(err)
	}
	if learned(t, l, edge, mac) {
		t.Error("the edge switch remembers an address behind a dead port")
	}
	if !learned(t, l, core, mac) {
		t.Error("the core switch forgot the address")
	}
}

func TestNewRefusesOutside(t *testing.T) {
	t.Setenv(stageVariable, "")
	if _, err := New(t.Context(), Options{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "lab.Enter") {
		t.Errorf("New outside: %v", err)
	}
}

func TestHalfBuiltIsRemoved(t *testing.T) {
	needLab(t)
	// The keys come last, so that everything else stands when this fails.
	if _, err := New(t.Context(), Options{Binary: "/bin/false", Dir: t.TempDir()}); err == nil {
		t.Fatal("built without keys")
	}
	l := newLab(t, Options{})
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
