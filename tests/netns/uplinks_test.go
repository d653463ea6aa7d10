package netns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/router/uplink"
)

// Bounds of a switch to another uplink, from the defaults of the document: what the selector
// promises, and a little for the kernel.
const (
	carrierSwitch = 200 * time.Millisecond
	gatewaySwitch = 1500 * time.Millisecond
	beyondSwitch  = 4 * time.Second
	// toldWithin is how long a host may believe in a session that is over.
	toldWithin = time.Second
)

// probeServer is a document's line: the server must answer.
const probeServer = "probe: {targets: [{icmp: " + lab.ServerAddress + "}]}"

// uplinkStand is a pair with two uplinks and two networks. The client's network prefers the
// wan, the guest's has only the lte.
type uplinkStand struct {
	*stand
	guest *load
}

// newUplinkStand starts the named nodes: both, or one whose peer is away.
func newUplinkStand(t *testing.T, opts lab.Options, names ...string) *uplinkStand {
	t.Helper()
	opts.SecondUplink, opts.SecondNetwork = true, true
	opts.LAN = append(opts.LAN, probeServer)
	opts.DMZ = append(opts.DMZ, probeServer)
	s := &uplinkStand{stand: newStandOf(t, opts)}
	s.start(names...)
	if len(names) == len(nodes()) {
		s.ready()
	} else {
		s.becomes(names[0], roleMaster)
	}
	for _, name := range names {
		s.works(name, "lan", "wan")
		s.works(name, "dmz", "lte")
	}
	s.guest = s.guestTraffic(traffic.ClientConfig{TCPSessions: 10, UDPFlows: 10, UDPInterval: udpInterval})
	return s
}

// far runs nft at the other end of the uplinks, where the server is.
func (s *stand) far(script string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Namespace(lab.Server).Run(cmd); err != nil {
		s.t.Fatalf("nft at the server: %v: %s", err, out.Bytes())
	}
}

// breakFar makes the server's end of an uplink drop what a rule matches; the rule has no verdict.
func (s *stand) breakFar(link, rule string) {
	s.t.Helper()
	s.far(fmt.Sprintf("table netdev far {\nchain in {\ntype filter hook ingress device %q priority 0\n%s drop\n}\n}\n", link, rule))
}

func (s *stand) healFar() {
	s.t.Helper()
	s.far("table netdev far\ndelete table netdev far")
}

// way is what a node knows of a network's default route.
func (s *stand) way(ctx context.Context, node, network string) (uplink.PathStatus, error) {
	answer, err := s.Status(ctx, node)
	if err != nil {
		return uplink.PathStatus{}, err
	}
	for _, w := range answer.Networks {
		for _, p := range w.Paths {
			if w.Name == network && p.Destination == "0.0.0.0/0" {
				return p, nil
			}
		}
	}
	return uplink.PathStatus{}, fmt.Errorf("%s says nothing about %s", node, network)
}

// works waits until a network takes an uplink on a node, and it works.
func (s *stand) works(node, network, want string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s leads %s to %s", node, network, want), func(ctx context.Context) error {
		is, err := s.way(ctx, node, network)
		if err == nil && (is.Uplink != want || !is.State.Works()) {
			err = fmt.Errorf("it is %q, which is %v", is.Uplink, is.State)
		}
		return err
	})
}

// reconnects dials until a new connection stands whose other end sees it come from an
// address, and returns how long that took since at.
func (s *stand) reconnects(at time.Time, from string) time.Duration {
	s.t.Helper()
	const attempt = 50 * time.Millisecond
	var took time.Duration
	s.eventually("new connections come from "+from, func(ctx context.Context) error {
		seen, err := s.seenFrom(ctx, attempt)
		if err == nil && seen != netip.MustParseAddr(from) {
			err = fmt.Errorf("the server sees %s", seen)
		}
		took = time.Since(at)
		return err
	})
	return took
}

// seenFrom sends one datagram over a new flow and returns the address that the server saw.
func (s *stand) seenFrom(ctx context.Context, patience time.Duration) (seen netip.Addr, err error) {
	return seen, s.Namespace(lab.Client).Do(func() error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", net.JoinHostPort(lab.ServerAddress, fmt.Sprint(echoUDPPort)))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		seen, err = traffic.AskSource(c)
		return err
	})
}

// counted is the number of a node's flows that are translated to an address.
func (s *stand) counted(node, address string) int {
	s.t.Helper()
	a := netip.MustParseAddr(address)
	n := 0
	for _, f := range s.table(node).flows {
		if f.reply.Destination == a {
			n++
		}
	}
	return n
}

// noneFrom waits until a node has no flow that is translated to an address, and returns how
// long that took since at.
func (s *stand) noneFrom(node, address string, at time.Time) time.Duration {
	s.t.Helper()
	var took time.Duration
	s.eventually(fmt.Sprintf("%s has no flow of %s", node, address), func(context.Context) error {
		left := s.counted(node, address)
		took = time.Since(at)
		if left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
	return took
}

// told waits until every TCP session of a load is known to be over at the client.
func (l *load) told(at time.Time) time.Duration {
	l.s.t.Helper()
	var took time.Duration
	l.s.eventually("the clients know", func(ctx context.Context) error {
		snap, err := l.Report(ctx)
		took = time.Since(at)
		switch {
		case err != nil:
			return err
		case snap.TCP.Lost < snap.TCP.Total:
			return fmt.Errorf("%d of %d sessions believe that they live", snap.TCP.Alive, snap.TCP.Total)
		case snap.TCP.Reasons[traffic.Reset.String()] != snap.TCP.Total:
			return fmt.Errorf("they ended otherwise than by RST: %v", snap.TCP.Reasons)
		}
		return nil
	})
	return took
}

// untouched fails the test if the guest, whose network and uplink have nothing to do with it all, has missed a
// single datagram.
func (s *uplinkStand) untouched() {
	s.t.Helper()
	snap := s.guest.report()
	if snap.UDP.Missing > 0 {
		s.t.Errorf("the guest misses %d datagrams", snap.UDP.Missing)
	}
}

// uplinkFault is a way in which the wan fails for both nodes.
type uplinkFault struct {
	name         string
	inject, heal func(s *uplinkStand)
	bound        time.Duration
}

func uplinkFaults() []uplinkFault {
	healFar := func(s *uplinkStand) { s.healFar() }
	return []uplinkFault{
		{
			name: "carrier", bound: carrierSwitch,
			inject: func(s *uplinkStand) {
				for _, node := range nodes() {
					s.must(s.Unplug("wan", node))
				}
			},
			heal: func(s *uplinkStand) {
				for _, node := range nodes() {
					s.must(s.Plug(s.t.Context(), "wan", node))
				}
			},
		},
		{name: "gateway dead", bound: gatewaySwitch, inject: func(s *uplinkStand) { s.breakFar("eth0", "") }, heal: healFar},
		{
			name: "dead beyond the gateway", bound: beyondSwitch,
			inject: func(s *uplinkStand) { s.breakFar("eth0", "ip daddr "+lab.ServerAddress) }, heal: healFar,
		},
	}
}

// TestUplinkFailsForBoth breaks the preferred uplink of a network for both nodes in several ways. Nothing can keep
// its sessions then; they end at once and cleanly, new ones take the other uplink, and other networks notice
// nothing. So it is with a pair, after a failover of it, and with one node alone.
func TestUplinkFailsForBoth(t *testing.T) {
	for _, fault := range uplinkFaults() {
		t.Run(fault.name+"/pair", func(t *testing.T) {
			s := newUplinkStand(t, lab.Options{}, nodes()...)
			s.switches(fault)
			s.stays(fault)
		})
		t.Run(fault.name+"/after a failover", func(t *testing.T) {
			s := newUplinkStand(t, lab.Options{}, nodes()...)
			master, backup := s.roles()
			s.must(s.Failover(t.Context(), master))
			s.becomes(backup, roleMaster)
			s.ready()
			s.switches(fault)
		})
		t.Run(fault.name+"/single", func(t *testing.T) {
			newUplinkStand(t, lab.Options{}, lab.Alpha).switches(fault)
		})
	}
}

func (s *uplinkStand) switches(fault uplinkFault) {
	s.t.Helper()
	master, _ := s.roles()
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 40, UDPFlows: 20, UDPInterval: udpInterval})
	idle := s.traffic(traffic.ClientConfig{TCPSessions: 10, Quiet: true})
	s.guest.mark()
	at := time.Now()
	fault.inject(s)
	took := s.reconnects(at, lab.SecondNATAddress)
	told, toldIdle := flows.told(at), idle.told(at)
	cleared := s.noneFrom(master, lab.NATAddress, at)
	s.t.Logf("new connections after %v (bound %v), clients told after %v, idle ones after %v, table cleared after %v",
		took, fault.bound, told, toldIdle, cleared)
	if limit := fault.bound + schedulingRoom; took > limit {
		s.t.Errorf("new connections stood only after %v, want %v", took, limit)
	}
	for _, d := range []time.Duration{told, toldIdle, cleared} {
		if limit := fault.bound + toldWithin + schedulingRoom; d > limit {
			s.t.Errorf("the old sessions were over only after %v, want %v", d, limit)
		}
	}
	s.untouched()
	if is, _ := s.roles(); is != master {
		s.t.Errorf("the role moved from %s to %s, though both have the same trouble", master, is)
	}
	s.must(flows.Stop())
	s.must(idle.Stop())
}

// stays heals the wan and sees that the sessions that began meanwhile stay where they are, while new
// ones go back.
func (s *uplinkStand) stays(fault uplinkFault) {
	s.t.Helper()
	master, _ := s.roles()
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 20, UDPFlows: 10, UDPInterval: udpInterval})
	flows.mark()
	fault.heal(s)
	s.works(master, "lan", "wan")
	s.reconnects(time.Now(), lab.NATAddress)
	s.pass(aWhile)
	snap := flows.report()
	if snap.UDP.Missing > 0 {
		s.t.Errorf("the failback cost %d datagrams", snap.UDP.Missing)
	}
	if used := s.counted(master, lab.SecondNATAddress); used < snap.Alive() {
		s.t.Errorf("%d flows are still translated to the other uplink's address, want %d", used, snap.Alive())
	}
	s.untouched()
	s.ready()
}

// TestUplinkFailsForMaster breaks the preferred uplink for the MASTER alone: the role moves to the other node, whose
// port is well, and no session is lost.
func TestUplinkFailsForMaster(t *testing.T) {
	s := newUplinkStand(t, lab.Options{}, nodes()...)
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 200, UDPFlows: 50, UDPInterval: udpInterval})
	for range 2 {
		master, backup := s.roles()
		flows.mark()
		s.guest.mark()
		at := time.Now()
		s.must(s.Unplug("wan", master))
		s.becomes(backup, roleMaster)
		flows.resumes(at)
		flows.within(handoverSilence)
		s.works(backup, "lan", "wan")
		s.works(master, "lan", "lte")
		s.guest.report()
		s.must(s.Plug(t.Context(), "wan", master))
		s.works(master, "lan", "wan")
		s.ready()
		flows.report()
	}
}

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
	snap := flows.report()
	if snap.UDP.Missing > 0 {
		t.Errorf("it cost %d datagrams", snap.UDP.Missing)
	}
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
	snap := flows.report()
	if snap.UDP.Missing > 0 {
		t.Errorf("the changes cost %d datagrams", snap.UDP.Missing)
	}
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
