package hostile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tandem/appliance/lab"
)

// settled is well after a new MASTER's look at its table.
const settled = 8 * time.Second

// TestEventsSwitchedOff switches the kernel's reports of sessions off. The node puts the
// setting back, and finds what began meanwhile, long before it would have looked anyway.
func TestEventsSwitchedOff(t *testing.T) {
	s := newPair(t)
	// A new MASTER looks at its table some seconds after its promotion, and then not for
	// longer than this test waits.
	s.throughout(settled, func() {})
	const setting = "/proc/sys/net/netfilter/nf_conntrack_events"
	for i, value := range []string{"0", "2"} {
		s.must(s.Namespace(lab.Alpha).Do(func() error { return os.WriteFile(setting, []byte(value), 0) }))
		port := uint16(20_000 + i)
		s.datagram(port)
		s.eventually("the setting is put back", func(context.Context) error {
			return s.Namespace(lab.Alpha).Do(func() error {
				text, err := os.ReadFile(setting)
				if err == nil && strings.TrimSpace(string(text)) != "1" {
					err = fmt.Errorf("it is %s", text)
				}
				return err
			})
		})
		s.eventually("the BACKUP has the flow", func(context.Context) error {
			for key := range s.table(lab.Bravo) {
				if key.Original.SourcePort == port {
					return nil
				}
			}
			return errors.New("it has not")
		})
	}
	s.ready()
	s.equal(echoFlows + 2)
}

// datagram has the client begin a flow from a port.
func (s *stand) datagram(port uint16) {
	s.t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr(lab.ServerAddress), echoUDPPort)
	s.must(s.Namespace(lab.Client).Do(func() error {
		c, err := net.DialUDP("udp", &net.UDPAddr{Port: int(port)}, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte("hello"))
		return errors.Join(err, c.Close())
	}))
}
