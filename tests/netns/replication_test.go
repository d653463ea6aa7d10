package netns

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
	"tandem/router"
)

const (
	// udpMark is the connection mark of UDP flows.
	udpMark = 0x7461
	// udpLife is how long a UDP flow lives on the MASTER without a packet.
	udpLife = 3 * time.Second
)

// TestReplication compares the tables of both kernels after everything that can
// drive them apart.
func TestReplication(t *testing.T) {
	s := newPair(t)
	for _, node := range nodes() {
		s.markUDP(node, udpMark)
		s.tune(node, "nf_conntrack_udp_timeout", seconds(udpLife))
		s.tune(node, "nf_conntrack_udp_timeout_stream", seconds(udpLife))
	}
	many := s.traffic(calmLoad(1000))
	s.equalTables(2000)
	master, backup := s.roles()
	for key, flow := range s.table(backup).flows {
		if marked := flow.mark&^router.MarkMask == udpMark; marked != (key.Protocol == unix.IPPROTO_UDP) {
			t.Fatalf("%+v has the mark %#x on the BACKUP", key, flow.mark)
		}
	}
	// No packet keeps the flows alive on the BACKUP.
	s.pass(2 * udpLife)
	s.equalTables(2000)

	// Flows end and begin while nothing can be told.
	before := s.table(master)
	ending := s.traffic(calmLoad(100))
	s.equalTables(2200)
	with := s.table(master)
	s.inject(lab.HALink, master)
	s.parted()
	s.must(ending.Stop())
	s.forget(master, with.without(before))
	beginning := s.traffic(calmLoad(100))
	s.heal(lab.HALink, master)
	s.ready()
	s.equalTables(2200)

	// What the comparison says, the packets must say too. The killed node's table is
	// stale when it comes back.
	at := s.inject(lab.Crash, master)
	s.becomes(backup, roleMaster)
	many.resumes(at)
	beginning.resumes(at)
	s.heal(lab.Crash, master)
	s.ready()
	s.equalTables(2200)
	many.report()
	beginning.report()
}

// calmLoad is that many TCP sessions and as many UDP flows, each of which is heard
// once a second.
func calmLoad(n int) traffic.ClientConfig {
	return traffic.ClientConfig{TCPSessions: n, UDPFlows: n, TCPInterval: time.Second, UDPInterval: time.Second}
}
