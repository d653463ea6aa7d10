package netns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

// TestUplinkLosesPackets makes the wan lose every fifth packet each way: the network moves to the uplink that
// does not, and the sessions that can bear it stay.
func TestUplinkLosesPackets(t *testing.T) {
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 20})
	s.guest.mark()
	s.breakFar("eth0", "meta protocol ip numgen random mod 5 0")
	for _, node := range nodes() {
		s.works(node, "lan", "lte")
	}
	s.healFar()
	flows.report()
	s.untouched()
}

// TestUplinkFlaps pulls the wan's cable of both nodes and puts it back, again and again: the network leaves it once
// and stays away.
func TestUplinkFlaps(t *testing.T) {
	const flap = 300 * time.Millisecond
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	s.guest.mark()
	master, _ := s.roles()
	before := s.status(master)
	for round := range 10 {
		for _, node := range nodes() {
			if round%2 == 0 {
				s.must(s.Unplug("wan", node))
			} else {
				s.must(s.Plug(s.t.Context(), "wan", node))
			}
		}
		s.pass(flap)
	}
	for _, node := range nodes() {
		is, err := s.way(t.Context(), node, "lan")
		s.must(err)
		if is.Uplink != "lte" || is.Switches > 1 {
			t.Errorf("%s leads the network to %s after %d switches, want one to lte", node, is.Uplink, is.Switches)
		}
	}
	if after := s.status(master); after.Role != roleMaster || after.Transitions != before.Transitions {
		t.Errorf("the role moved: %s is %s", master, after.Role)
	}
	s.untouched()
}

// TestUplinkOfTwoNetworks lets two networks prefer the uplink that fails: each leaves it.
func TestUplinkOfTwoNetworks(t *testing.T) {
	s := &uplinkStand{stand: newPairOf(t, lab.Options{
		SecondUplink: true, SecondNetwork: true, GuestUplinks: "uplinks: [wan, lte]", LAN: []string{probeServer}, DMZ: []string{probeServer},
	})}
	master, _ := s.roles()
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	guest := s.guestTraffic(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	at := time.Now()
	for _, node := range nodes() {
		s.must(s.Unplug("wan", node))
	}
	took := s.reconnects(at, lab.SecondNATAddress)
	t.Logf("new connections after %v, told after %v and %v, table cleared after %v", took, flows.told(at), guest.told(at), s.noneFrom(master, lab.NATAddress, at))
	for _, network := range []string{"lan", "dmz"} {
		s.works(master, network, "lte")
	}
	s.guestTraffic(traffic.ClientConfig{TCPSessions: 5, UDPFlows: 5, UDPInterval: udpInterval}).report()
}

// TestUplinkIsSetDown takes the wan's interface down on both nodes, as an administrator does.
func TestUplinkIsSetDown(t *testing.T) {
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	s.switches(uplinkFault{name: "set down", bound: carrierSwitch, inject: func(s *uplinkStand) {
		for _, node := range nodes() {
			s.must(s.Namespace(node).Run(exec.Command("ip", "link", "set", "wan0", "down")))
		}
	}})
}

// TestUplinkLosesItsAddress takes a node's own address on the wan away: it comes back, and nobody notices.
func TestUplinkLosesItsAddress(t *testing.T) {
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	flows.mark()
	for node, address := range map[string]string{lab.Alpha: "203.0.113.11/24", lab.Bravo: "203.0.113.12/24"} {
		s.must(s.Namespace(node).Run(exec.Command("ip", "address", "del", address, "dev", "wan0")))
		s.eventually("the address of "+node+" is back", func(context.Context) error {
			return s.Namespace(node).Run(exec.Command("ip", "-o", "route", "get", "203.0.113.1", "from", strings.TrimSuffix(address, "/24")))
		})
	}
	s.ready()
	flows.missed("the client")
	for _, node := range nodes() {
		if is, err := s.way(t.Context(), node, "lan"); err != nil || is.Uplink != "wan" {
			t.Errorf("%s leads the network to %q (%v)", node, is.Uplink, err)
		}
	}
}

// TestUplinkChangesByDocument changes costs, takes an uplink away and gives it back while sessions run: planned changes
// lose none, not even after a failover.
func TestUplinkChangesByDocument(t *testing.T) {
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	text, err := os.ReadFile(s.ConfigPath())
	s.must(err)
	whole := string(text)
	replaced := func(old, now string) string {
		t.Helper()
		changed := strings.Replace(whole, old, now, 1)
		if changed == whole {
			t.Fatalf("the document has no %q", old)
		}
		return changed
	}
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 200, UDPFlows: 50, UDPInterval: udpInterval})
	master, backup := s.roles()
	flows.mark()
	// The wan becomes dearer than the lte.
	s.change(replaced("    addresses: ["+lab.NATAddress+"]\n", "    addresses: ["+lab.NATAddress+"]\n    cost: 20\n"), master, backup)
	s.works(master, "lan", "lte")
	s.reconnects(time.Now(), lab.SecondNATAddress)
	s.ready()
	s.must(s.Failover(t.Context(), master))
	s.becomes(backup, roleMaster)
	s.ready()
	flows.undisturbed()
	// It may not be used any more, but the sessions have their time.
	s.change(replaced("    uplinks: [wan, lte]\n", "    uplinks: [lte]\n"), backup, master)
	s.works(backup, "lan", "lte")
	s.pass(aWhile)
	flows.report()
	s.change(whole, backup, master)
	s.works(backup, "lan", "wan")
	s.reconnects(time.Now(), lab.NATAddress)
	s.ready()
	flows.missed("the client")
	s.untouched()
}

// TestInboundByEachUplink lets hosts outside reach a host inside by the address of each uplink, whichever the network
// takes itself: the answers leave by where the question came in, through a failover too.
func TestInboundByEachUplink(t *testing.T) {
	inside := lab.FirstClientAddress
	forward := func(protocol string, port int) string {
		return fmt.Sprintf("{protocol: %s, port: %d, to: \"%s:%d\"}", protocol, port, inside, port)
	}
	s := newUplinkStand(t, lab.Options{LAN: []string{"forwards: [" + strings.Join([]string{
		forward("tcp", echoTCPPort), forward("udp", echoUDPPort), forward("tcp", bulkPort),
	}, ", ") + "]"}}, nodes()...)
	var server *traffic.Server
	binary := os.Getenv(binaryVariable)
	s.must(s.Namespace(lab.Client).Do(func() (err error) {
		server, err = traffic.StartServer(exec.Command(binary, "traffic", "server"), traffic.ServerConfig{
			Address: netip.MustParseAddr(inside), TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
		})
		return err
	}))
	t.Cleanup(func() { _ = server.Stop() })
	ctx, cancel := s.context()
	defer cancel()
	_, err := server.Ready(ctx)
	s.must(err)
	var loads []*load
	for _, address := range []string{lab.NATAddress, lab.SecondNATAddress} {
		l := &load{s: s.stand}
		s.must(s.Namespace(lab.Server).Do(func() (err error) {
			l.Client, err = traffic.StartClient(exec.Command(binary, "traffic", "client"), traffic.ClientConfig{
				Server: netip.MustParseAddr(address), TCPPort: echoTCPPort, UDPPort: echoUDPPort, BulkPort: bulkPort,
				TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval,
			})
			return err
		}))
		t.Cleanup(func() { _ = l.Stop() })
		s.must(l.Ready(ctx))
		l.mark()
		loads = append(loads, l)
	}
	master, backup := s.roles()
	s.ready()
	s.must(s.Failover(t.Context(), master))
	s.becomes(backup, roleMaster)
	for _, l := range loads {
		l.undisturbed()
	}
	// By the other uplink they go on when the first one is gone for both nodes, and those who came by it are told.
	at := time.Now()
	for _, node := range nodes() {
		s.must(s.Unplug("wan", node))
	}
	s.reconnects(at, lab.SecondNATAddress)
	loads[1].resumes(time.Now())
	loads[1].report()
	s.noneFrom(backup, lab.NATAddress, at)
}

// TestUplinkOfIPv6 lets each family choose for itself: IPv6 is routed by the wan and translated on the lte, and leaves
// the wan when its own target falls silent, while IPv4 stays.
func TestUplinkOfIPv6(t *testing.T) {
	s := newPairOf(t, lab.Options{
		SecondUplink: true, IPv6: true,
		LAN: []string{"probe: {targets: [{icmp: " + lab.ServerAddress + "}, {icmp: \"" + lab.ServerAddressIPv6 + "\"}]}"},
	})
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	flows6 := s.traffic6(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	flows.mark()
	at := time.Now()
	s.breakFar("eth0", "ip6 daddr "+lab.ServerAddressIPv6)
	took := s.reconnectsTo(lab.ServerAddressIPv6, at, lab.SecondNATAddressIPv6)
	told := flows6.told(at)
	t.Logf("new connections after %v (bound %v), clients told after %v", took, beyondSwitch, told)
	if limit := beyondSwitch + schedulingRoom; took > limit || told > limit+toldWithin {
		t.Errorf("new connections stood after %v, want %v; the clients knew after %v", took, limit, told)
	}
	flows.missed("the client")
	s.reconnects(time.Now(), lab.NATAddress)
}

// TestRoutedAddressMoves cuts the wan of both nodes for a network that looks the same from every uplink: its sessions go
// on by the other one, and after a failover they go back.
func TestRoutedAddressMoves(t *testing.T) {
	const address = "198.18.0.1"
	s := newPairOf(t, lab.Options{SecondUplink: true, LAN: []string{probeServer, "routed_nat_address: " + address}})
	lead := func(by string) {
		t.Helper()
		s.must(s.Namespace(lab.Server).Run(exec.Command("ip", "route", "replace", address+"/32", "via", by)))
	}
	lead(lab.NATAddress)
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 200, UDPFlows: 50, UDPInterval: udpInterval})
	flows.mark()
	at := time.Now()
	for _, node := range nodes() {
		s.must(s.Unplug("wan", node))
	}
	lead(lab.SecondNATAddress)
	flows.resumes(at)
	flows.within(carrierSwitch)
	master, backup := s.roles()
	for _, node := range nodes() {
		s.must(s.Plug(t.Context(), "wan", node))
	}
	s.ready()
	s.must(s.Failover(t.Context(), master))
	s.becomes(backup, roleMaster)
	s.works(backup, "lan", "wan")
	lead(lab.NATAddress)
	flows.resumes(time.Now())
	flows.report()
}
