package netns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
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
	return s.reconnectsTo(lab.ServerAddress, at, from)
}

func (s *stand) reconnectsTo(server string, at time.Time, from string) time.Duration {
	s.t.Helper()
	const attempt = 50 * time.Millisecond
	var took time.Duration
	s.eventually("new connections come from "+from, func(ctx context.Context) error {
		seen, err := s.seenFrom(ctx, server, attempt)
		if err == nil && seen != netip.MustParseAddr(from) {
			err = fmt.Errorf("the server sees %s", seen)
		}
		took = time.Since(at)
		return err
	})
	return took
}

// seenFrom sends one datagram over a new flow and returns the address that the server saw.
func (s *stand) seenFrom(ctx context.Context, server string, patience time.Duration) (seen netip.Addr, err error) {
	return seen, s.Namespace(lab.Client).Do(func() error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", net.JoinHostPort(server, fmt.Sprint(echoUDPPort)))
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
	s.guest.missed("the guest")
}

// missed fails the test if a flow was lost, or a datagram while the client itself was never late: else it may be the
// machine that dropped it.
func (l *load) missed(who string) traffic.Snapshot {
	l.s.t.Helper()
	snap := l.report()
	switch {
	case snap.UDP.Missing > 0 && snap.Stall < schedulingRoom:
		l.s.t.Errorf("%s misses %d datagrams", who, snap.UDP.Missing)
	case snap.UDP.Missing > 0:
		l.s.t.Logf("%s misses %d datagrams, and was late itself by %v", who, snap.UDP.Missing, snap.Stall)
	}
	return snap
}

// uplinkFault is a way in which the wan fails for both nodes.
type uplinkFault struct {
	name string
	// heal undoes what inject did; nil if the test ends before.
	inject, heal func(s *uplinkStand)
	bound        time.Duration
}

func uplinkFaults() []uplinkFault {
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
		{name: "gateway dead", bound: gatewaySwitch, inject: func(s *uplinkStand) { s.breakFar("eth0", "") }},
		{
			name: "dead beyond the gateway", bound: beyondSwitch,
			inject: func(s *uplinkStand) { s.breakFar("eth0", "ip daddr "+lab.ServerAddress) },
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
			if fault.heal != nil {
				s.stays(fault)
			}
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
	snap := flows.missed("who stays at a failback")
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
