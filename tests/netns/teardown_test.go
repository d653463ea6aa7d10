package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
	"tandem/router/config"
	"tandem/router/probe"
	"tandem/router/teardown"
	"tandem/router/uplink"
)

const heldPort = 7100

// TestTeardownAndProbesOfAPair: what probes and the teardown send passes the fence and the rules of
// a real pair, in whichever way it holds its addresses.
func TestTeardownAndProbesOfAPair(t *testing.T) {
	for name, line := range map[string]string{"virtual MAC": "vrrp: {virtual_mac: true}", "own MAC": "vrrp: {virtual_mac: false}"} {
		t.Run(name, func(t *testing.T) {
			s := newPairOf(t, lab.Options{IPv6: true, LAN: []string{line}, WAN: []string{line}})
			for _, node := range nodes() {
				s.probes(node)
			}
			s.teardown()
			for _, node := range nodes() {
				s.probes(node)
			}
		})
	}
}

// probes asks the gateway of the uplink from a node's own addresses, whatever its role.
func (s *stand) probes(node string) {
	s.t.Helper()
	var prober *probe.Prober
	// The one that is the node's by the document: the port also has the kernel's own, and may
	// have a virtual router's.
	var linkLocal netip.Addr
	given := netip.MustParsePrefix("fe80::5e:0:0/96")
	s.must(s.Namespace(node).Do(func() (err error) {
		if prober, err = probe.New(); err != nil {
			return err
		}
		link, err := net.InterfaceByName("wan0")
		if err != nil {
			return err
		}
		addresses, err := link.Addrs()
		for _, a := range addresses {
			if p := netip.MustParsePrefix(a.String()); given.Contains(p.Addr()) && p.Bits() == 64 {
				linkLocal = p.Addr()
			}
		}
		return err
	}))
	defer func() { s.must(prober.Close()) }()
	own := map[string]string{lab.Alpha: "203.0.113.11", lab.Bravo: "203.0.113.12"}[node]
	gateway := probe.Request{
		Interface: "wan0", Source: netip.MustParseAddr(own), Gateway: netip.MustParseAddr(lab.UplinkGateway),
		Probe: uplink.Probe{Uplink: "wan", Timeout: time.Second},
	}
	gateway6 := gateway
	gateway6.Source, gateway6.Gateway, gateway6.Probe.IPv6 = linkLocal, netip.MustParseAddr(lab.UplinkGatewayIPv6), true
	echo := gateway
	echo.Probe.Kind, echo.Probe.Target = uplink.EndToEnd, config.Target{Kind: config.ProbeICMP, Host: lab.UplinkGateway}
	refused := echo
	refused.Probe.Target = config.Target{Kind: config.ProbeTCP, Host: lab.UplinkGateway, Port: heldPort + 1}
	for _, r := range []probe.Request{gateway, gateway6, echo, refused} {
		var got uplink.Outcome
		for range 5 { // a busy machine may be slow once
			if got = prober.Run(s.t.Context(), r); got.OK {
				break
			}
		}
		if !got.OK {
			s.t.Errorf("%s: outcome %+v", node, got)
		}
	}
}

// teardown ends connections on the MASTER: their clients know, can connect again at once, and nothing
// is left of them on either node.
func (s *stand) teardown() {
	s.t.Helper()
	master, _ := s.roles()
	var down *teardown.Teardown
	s.must(s.Namespace(master).Do(func() (err error) {
		down, err = teardown.New("test")
		return err
	}))
	defer func() { s.must(down.Close()) }()
	var clients []net.Conn
	for _, address := range []string{lab.ServerAddress, "[" + lab.ServerAddressIPv6 + "]"} {
		s.hold(fmt.Sprintf("%s:%d", address, heldPort))
		for range 3 {
			clients = append(clients, s.connect(fmt.Sprintf("%s:%d", address, heldPort)))
		}
	}
	start := time.Now()
	ended, err := down.End(s.t.Context(), []teardown.Flows{{Networks: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8:a::/64"),
	}}})
	if err != nil || ended.TCP != len(clients) || ended.Told != ended.TCP || ended.Left != 0 {
		s.t.Errorf("ended %+v: %v", ended, err)
	}
	for _, c := range clients {
		s.must(c.SetReadDeadline(start.Add(patience)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			s.t.Errorf("after %v a client reads %v", time.Since(start), err)
		}
	}
	for _, node := range nodes() {
		s.eventually(node+" has none of the flows", func(context.Context) error {
			if n := s.flowsTo(node, heldPort); n > 0 {
				return fmt.Errorf("%d flows are left", n)
			}
			return nil
		})
	}
	for _, address := range []string{lab.ServerAddress, "[" + lab.ServerAddressIPv6 + "]"} {
		s.connect(fmt.Sprintf("%s:%d", address, heldPort))
	}
}

// hold accepts connections and says nothing.
func (s *stand) hold(address string) {
	s.t.Helper()
	var l net.Listener
	s.must(s.Namespace(lab.Server).Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.t.Cleanup(func() { _ = c.Close() })
		}
	}()
}

func (s *stand) connect(address string) net.Conn {
	s.t.Helper()
	var c net.Conn
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		d := net.Dialer{Timeout: patience, KeepAlive: -1}
		c, err = d.Dial("tcp", address)
		return err
	}))
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// flowsTo counts the TCP flows to a port that a node knows.
func (s *stand) flowsTo(node string, port uint16) (n int) {
	s.t.Helper()
	s.must(s.Namespace(node).Do(func() error {
		r, err := ctnetlink.NewReader()
		if err != nil {
			return err
		}
		return errors.Join(r.Dump(s.t.Context(), func(f *conntracksync.Flow) error {
			if f.Protocol == unix.IPPROTO_TCP && f.Original.DestinationPort == port {
				n++
			}
			return nil
		}), r.Close())
	}))
	return n
}
