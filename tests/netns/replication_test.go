package netns

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/appliance/lab/traffic"
)

const (
	// udpMark is the connection mark of UDP flows.
	udpMark = 0x7461
	// udpLife is how long a UDP flow lives on the MASTER without a packet.
	udpLife = "5"
	// lowWater is the least remaining life of a UDP flow on the BACKUP, in seconds:
	// one refresh may fail, the next comes 20 s later.
	lowWater = 20
	// refreshed is by how much a refresh prolongs a life at least, in seconds.
	refreshed = 10
)

// TestReplication compares the tables of both kernels after everything that can
// drive them apart.
func TestReplication(t *testing.T) {
	s := newPair(t)
	for _, node := range nodes() {
		s.markUDP(node, udpMark)
		s.shortenUDP(node, udpLife)
	}
	many := s.traffic(calmLoad(1000))
	s.equalTables(2000)
	master, backup := s.roles()
	for key, flow := range s.table(backup).flows {
		if marked := flow.mark == udpMark; marked != (key.Protocol == unix.IPPROTO_UDP) {
			t.Fatalf("%+v has the mark %#x on the BACKUP", key, flow.mark)
		}
	}
	s.age(master, backup)
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

// age waits until the BACKUP's flows, which no packet keeps alive there, have been
// refreshed without an event, connection or change of role.
func (s *stand) age(master, backup string) {
	s.t.Helper()
	last := uint32(0)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	s.eventually("the BACKUP's UDP flows are refreshed", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
		low := s.lowestLife(master, backup)
		if low < lowWater {
			s.t.Fatalf("a UDP flow that lives on the MASTER would end on the BACKUP in %d s", low)
		}
		before := last
		last = low
		if before == 0 || low < before+refreshed {
			return fmt.Errorf("the shortest life is %d s, before %d s", low, before)
		}
		return nil
	})
}

// lowestLife is the shortest remaining life, on the BACKUP, of a UDP flow that
// lives on the MASTER, in seconds; 0 if one is missing.
func (s *stand) lowestLife(master, backup string) uint32 {
	s.t.Helper()
	living, replica := s.table(master), s.table(backup)
	low, found := ^uint32(0), 0
	for key := range living.flows {
		if key.Protocol == unix.IPPROTO_UDP {
			low = min(low, replica.timeouts[key])
			found++
		}
	}
	if found == 0 {
		s.t.Fatal("no UDP flow lives on the MASTER")
	}
	return low
}
