package netns

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/conntracksync"
	"tandem/conntracksync/ctnetlink"
)

const (
	// lasting is how many TCP sessions and UDP flows stay throughout.
	lasting = 500
	// moderate is a rate of new connections that leaves a node time for everything
	// else.
	moderate = 1000
	// outage is how long something is broken while connections come and go.
	outage = 3 * time.Second
)

// TestTablesAreRepaired drives the tables apart in every way while connections come and
// go. Afterwards they are equal without anybody's help, and no session was lost.
func TestTablesAreRepaired(t *testing.T) {
	s := newPairOf(t, lab.Options{Clients: 10})
	for _, node := range nodes() {
		s.tune(node, "nf_conntrack_tcp_timeout_close", "1")
	}
	flows := s.traffic(calmLoad(lasting))
	s.equalTables(2 * lasting)
	for _, c := range []struct {
		name string
		run  func(s *stand, master, backup string)
	}{
		{"the BACKUP's table is flushed", func(s *stand, _, backup string) { s.flush(backup) }},
		{"500 of the BACKUP's flows are deleted", func(s *stand, _, backup string) {
			var keys []conntracksync.Key
			for key := range s.table(backup).flows {
				if key.Original.DestinationPort != newPort && len(keys) < 500 {
					keys = append(keys, key)
				}
			}
			s.forget(backup, keys)
		}},
		{"the BACKUP's node is killed", func(s *stand, _, backup string) { s.bounceNode(backup) }},
		{"the MASTER's node is killed", func(s *stand, master, _ string) { s.bounceNode(master) }},
		{"the HA link is cut", func(s *stand, master, _ string) {
			s.inject(lab.HALink, master)
			s.parted()
			s.pass(outage)
			s.heal(lab.HALink, master)
		}},
		{"both are MASTER", (*stand).bothMaster},
	} {
		passed := t.Run(c.name, func(t *testing.T) {
			on := s.on(t)
			master, backup := on.roles()
			churn := on.newConnections(moderate)
			c.run(on, master, backup)
			on.ready()
			on.must(churn.Stop())
			on.equalTables(2 * lasting)
			flows.on(on).report()
		})
		if !passed {
			return // what follows would fail for the same reason
		}
	}
}

// newConnections opens connections at a rate until it is stopped, and waits until the
// first stand.
func (s *stand) newConnections(rate int) *load {
	s.t.Helper()
	cfg := traffic.ClientConfig{NewPerSecond: rate, TCPSessions: 1}
	for _, a := range s.ClientAddresses()[1:] {
		cfg.Sources = append(cfg.Sources, netip.MustParseAddr(a))
	}
	l := s.traffic(cfg)
	s.eventually("new connections stand", func(context.Context) error {
		if snap := l.Latest(); snap.Opened < uint64(rate/2) {
			return fmt.Errorf("%d of them", snap.Opened)
		}
		return nil
	})
	return l
}

// flush empties a node's table, as `conntrack -F` does.
func (s *stand) flush(node string) {
	s.t.Helper()
	s.must(s.Namespace(node).Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }))
}

// bounceNode kills a node process; its successor finds a table that has changed.
func (s *stand) bounceNode(node string) {
	s.t.Helper()
	s.killNode(node)
	s.pass(aWhile)
	s.restart(node)
}

// bothMaster cuts everything between the members until both are MASTER, and heals it.
// The hosts keep their way to the MASTER, or the sessions could not go on.
func (s *stand) bothMaster(_, backup string) {
	s.t.Helper()
	everywhere := []direction{fromNode, toNode}
	lift := s.impose(silence{
		lab.PortName("ha", backup): everywhere, lab.PortName("lan", backup): everywhere, lab.PortName("wan", backup): everywhere,
	})
	s.becomes(backup, roleMaster)
	s.pass(outage)
	lift()
}

const (
	// shortLife is the life of a flow in the new MASTER's kernel, and so how long a
	// session that ended unseen stays there.
	shortLife = 5 * time.Second
	// nearDeath is what a flow on the BACKUP is given to live, in seconds: more than the
	// time between two passes of the BACKUP over its own table.
	nearDeath = 60
	// prolonged is what it has to live at least after that, in seconds.
	prolonged = 120
)

// TestQuietFlowsAge lets the lives of flows, about which nobody says anything, run down
// on the BACKUP. They are prolonged as long as the flows live on the MASTER; after a
// takeover the flows live, and end in their time.
func TestQuietFlowsAge(t *testing.T) {
	s := newPairOf(t, lab.Options{Clients: 2})
	clients := s.ClientAddresses()
	quiet := func(from string, n int) *load {
		return s.traffic(traffic.ClientConfig{
			Quiet: true, Sources: []netip.Addr{netip.MustParseAddr(from)}, TCPSessions: n, UDPFlows: n, Patience: forever,
		})
	}
	// On the MASTER they must not end while the test waits for a pass.
	for _, node := range nodes() {
		for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
			s.tune(node, name, seconds(10*prolonged*time.Second))
		}
	}
	const living, ended = 20, 10
	stays := quiet(clients[0], living)
	quiet(clients[1], ended)
	s.equalTables(2 * (living + ended))
	master, backup := s.roles()
	s.age(backup, nearDeath)
	s.eventually("the lives on the BACKUP are prolonged", func(context.Context) error {
		for key, life := range s.table(backup).timeouts {
			if life < prolonged {
				return fmt.Errorf("%+v has %d s to live", key, life)
			}
		}
		return nil
	})
	s.equalTables(2 * (living + ended))

	for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream", "nf_conntrack_tcp_timeout_established"} {
		s.tune(backup, name, seconds(shortLife))
	}
	at := s.inject(lab.Crash, master)
	s.becomes(backup, roleMaster)
	stays.wake()
	stays.resumes(at)
	// The others have ended, and nobody has told.
	s.inNetlink(lab.Client, func(h *netlink.Handle) error {
		address, err := netlink.ParseAddr(clients[1] + "/24")
		if err != nil {
			return err
		}
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.AddrDel(link, address)
	})
	s.eventually("what has ended is forgotten", func(context.Context) error {
		gone := netip.MustParseAddr(clients[1])
		for key := range s.table(backup).flows {
			if key.Original.Source == gone {
				return fmt.Errorf("the new MASTER still holds %+v", key)
			}
		}
		return nil
	})
	stays.report()
	s.heal(lab.Crash, master)
	s.ready()
}

// age gives a node's flows so many seconds to live.
func (s *stand) age(node string, seconds uint32) {
	s.t.Helper()
	var ops []conntracksync.Op
	for key := range s.table(node).flows {
		ops = append(ops, conntracksync.Op{Kind: conntracksync.OpTimeout, Flow: conntracksync.Flow{Key: key, Timeout: seconds}})
	}
	s.must(s.Namespace(node).Do(func() error {
		writer, err := ctnetlink.NewWriter()
		if err != nil {
			return err
		}
		defer func() { _ = writer.Close() }() // it was only written to
		_, err = writer.Apply(ops)
		return err
	}))
}

// TestUnknownSessionsStall takes sessions away from the BACKUP while nothing can be
// told. When it becomes MASTER it must not answer for them: they stall, and the next
// packet from inside brings them back.
func TestUnknownSessionsStall(t *testing.T) {
	s := newPair(t)
	flows := s.traffic(traffic.ClientConfig{TCPSessions: 50, UDPFlows: 20, UDPInterval: udpInterval})
	// On this one only the server has something to say, so that it stalls for good.
	s.traffic(traffic.ClientConfig{Download: true, BulkRate: 10_000_000, Patience: forever})
	s.equalTables(71)
	master, backup := s.roles()
	s.inject(lab.HALink, master)
	s.parted()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("the test needs nft")
	}
	resets := s.resets()
	s.flush(backup)
	at := s.inject(lab.Crash, master)
	s.becomes(backup, roleMaster)
	flows.resumes(at)
	s.pass(2 * time.Second) // by then the server has repeated what nobody acknowledged
	flows.report()
	if n := resets(); n > 0 {
		t.Errorf("%d resets came to the hosts", n)
	}
	s.heal(lab.HALink, master)
	s.heal(lab.Crash, master)
	s.ready()
}

// TestUnreplicatedNetwork: what a network does without stays on the node, whatever makes
// the node look at its table.
func TestUnreplicatedNetwork(t *testing.T) {
	s := newPairOf(t, lab.Options{IPv6: true, LAN: []string{"replicate: false"}})
	flows := []*load{s.traffic(lightLoad()), s.traffic6(lightLoad())}
	master, backup := s.roles()
	s.killNode(master)
	s.restart(master)
	s.ready()
	s.killNode(backup)
	s.restart(backup)
	s.ready()
	if n := len(s.table(master).flows); n < 150 {
		t.Errorf("the MASTER holds %d flows", n)
	}
	held := s.table(backup).flows
	for key := range held {
		t.Errorf("the BACKUP holds %d flows, such as %+v", len(held), key)
		break
	}
	for _, l := range flows {
		l.report()
	}
}

// resets counts the resets of TCP that come to the client and the server until the
// function that it returns is called.
func (s *stand) resets() (count func() int) {
	s.t.Helper()
	hosts := []string{lab.Client, lab.Server}
	for _, host := range hosts {
		s.nft(host, "table ip resets { counter n {}\nchain input { type filter hook prerouting priority -400; tcp flags & rst == rst counter name n\n}\n}\n")
	}
	return func() int {
		s.t.Helper()
		n := 0
		for _, host := range hosts {
			out := &bytes.Buffer{}
			cmd := exec.Command("nft", "list", "counter", "ip", "resets", "n")
			cmd.Stdout = out
			s.must(s.Namespace(host).Run(cmd))
			match := regexp.MustCompile(`packets (\d+)`).FindSubmatch(out.Bytes())
			if match == nil {
				s.t.Fatalf("the counter of %s: %s", host, out)
			}
			count, err := strconv.Atoi(string(match[1]))
			s.must(err)
			n += count
		}
		return n
	}
}
