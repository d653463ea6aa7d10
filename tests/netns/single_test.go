package netns

import (
	"fmt"
	"os"
	"testing"
	"time"

	"tandem/appliance/lab"
)

// singleDocument is the laboratory's document without a second member.
const singleDocument = `version: 1
group: lab
election: {advertisement_interval: %v}
members:
  - name: alpha
uplinks:
  - name: wan
    vrid: 20
    prefix: 203.0.113.0/24
    gateway: %s
    addresses: [%s]
    ports:
      alpha: {interface: wan0, address: 203.0.113.11}
networks:
  - name: lan
    vrid: 10
    prefix: 10.0.0.0/24
    gateway: %s
    ports:
      alpha: {interface: lan0, address: 10.0.0.2}
    uplink: wan
`

// TestSingleRouter runs a document with one member: it is MASTER without anybody
// to agree with, needs no HA link, and leaves as clean as a pair.
func TestSingleRouter(t *testing.T) {
	s := newStand(t)
	document := fmt.Sprintf(singleDocument, interval, lab.UplinkGateway, lab.NATAddress, lab.ClientGateway)
	s.must(os.WriteFile(s.ConfigPath(), []byte(document), 0o600))
	s.deleteLink(lab.Alpha, "ha0")
	before := s.dump(lab.Alpha)
	s.start(lab.Alpha)
	s.becomes(lab.Alpha, roleMaster)
	flows := s.traffic(lightLoad())

	now := s.status(lab.Alpha)
	if now.Peer != nil || now.Sync.Connected || now.Config.PeerHash != "" {
		t.Errorf("a single router has the peer %+v, sync %+v, peer's document %q", now.Peer, now.Sync, now.Config.PeerHash)
	}
	if len(now.Problems) > 0 {
		t.Errorf("a single router that is well has problems: %q", now.Problems)
	}
	if len(now.Carriers) != 2 || len(now.Uplinks) != 1 {
		t.Errorf("it has %d carriers and %d uplinks, want 2 and 1", len(now.Carriers), len(now.Uplinks))
	}
	if err := s.Failover(t.Context(), lab.Alpha); err == nil {
		t.Error("it has handed over to nobody")
	}

	// There is nobody better: a dead link is no reason to stop serving the others.
	s.inject(lab.WAN, lab.Alpha)
	s.pass(aWhile)
	s.same(lab.Alpha, now)
	s.heal(lab.WAN, lab.Alpha)
	flows.resumes(time.Now())
	flows.report()

	flows.mark()
	s.killNode(lab.Alpha)
	s.restart(lab.Alpha)
	s.same(lab.Alpha, now)
	s.pass(aWhile)
	flows.undisturbed()

	s.stop(lab.Alpha)
	s.restored(lab.Alpha, before)
}
