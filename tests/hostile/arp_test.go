package hostile

import (
	"bytes"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/arp"

	"tandem/appliance/lab"
)

// onlyVirtualAnswers asks on the lan for a virtual address, as a host without memory
// would, and demands that nobody but the virtual router answers.
func (s *stand) onlyVirtualAnswers(address string) {
	s.t.Helper()
	s.must(s.Namespace(lab.Client).Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		client, err := arp.Dial(ifi)
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }() // it was only asked
		for range 3 {
			if err := client.Request(netip.MustParseAddr(address)); err != nil {
				return err
			}
		}
		// Whoever answers does so at once.
		if err := client.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		for answers := 0; ; {
			packet, _, err := client.Read()
			if err != nil {
				if answers == 0 {
					s.t.Errorf("nobody answers for %s", address)
				}
				return nil // the deadline
			}
			if packet.Operation != arp.OperationReply || packet.SenderIP.String() != address {
				continue
			}
			answers++
			if !bytes.HasPrefix(packet.SenderHardwareAddr, []byte{0, 0, 0x5e, 0, 1}) {
				s.t.Errorf("%s answers for %s", packet.SenderHardwareAddr, address)
			}
		}
	}))
}
