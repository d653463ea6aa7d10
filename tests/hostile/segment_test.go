package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
)

// TestStrangerOnHALink puts a third host on the HA segment, which opens a thousand
// connections to bravo's replication port: silent, slow and talkative ones. All are turned
// away, and the stream between the nodes goes on.
func TestStrangerOnHALink(t *testing.T) {
	s := newPair(t)
	host, err := lab.NewNamespace("mallory")
	s.must(err)
	t.Cleanup(func() { s.must(host.Delete()) })
	s.plug(host)
	before := map[string]int{}
	for _, node := range nodes() {
		before[node] = s.descriptors(s.nodePID(node))
	}
	since := s.status(lab.Bravo).Sync.Since
	const times = 1000
	callers := make([]net.Conn, 0, times)
	for i := range times {
		var c net.Conn
		s.must(host.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", bravoHA().String(), patience)
			return err
		}))
		callers = append(callers, c)
		switch i % 4 {
		case 0: // silent
		case 1:
			_, _ = c.Write([]byte{0x16}) // slow; bravo may have closed it already
		case 2:
			_, _ = c.Write(bytes.Repeat([]byte{0xff}, 32<<10))
		case 3:
			s.handshake(c)
		}
	}
	for _, c := range callers {
		s.must(c.SetReadDeadline(time.Now().Add(patience)))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a stranger was kept")
		}
		_ = c.Close() // the other side has closed it
	}
	for _, node := range nodes() {
		s.eventually(node+" lets them go", func(context.Context) error {
			if now := s.descriptors(s.nodePID(node)); now > before[node]+4 {
				return fmt.Errorf("it has %d descriptors, before %d", now, before[node])
			}
			return nil
		})
	}
	if now := s.status(lab.Bravo).Sync.Since; !now.Equal(since) {
		t.Errorf("the stream was broken at %v", now)
	}
	s.ready()
	s.flowsOn()
	s.bounded()
}

// plug connects a namespace to the cable between the nodes.
func (s *stand) plug(host lab.Namespace) {
	s.t.Helper()
	fabric, err := os.Open("/run/netns/" + lab.Fabric)
	s.must(err)
	defer func() { _ = fabric.Close() }() // it was only named
	h, err := host.Netlink()
	s.must(err)
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	s.must(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "ha-mallory", PeerNamespace: netlink.NsFd(fabric.Fd())}))
	link, err := h.LinkByName("eth0")
	s.must(err)
	address, err := netlink.ParseAddr("10.255.0.9/24")
	s.must(err)
	s.must(errors.Join(h.AddrAdd(link, address), h.LinkSetUp(link)))
	s.change(lab.Fabric, func(h *netlink.Handle) error {
		port, err := h.LinkByName("ha-mallory")
		if err != nil {
			return err
		}
		cable, err := h.LinkByName("ha-cable")
		if err != nil {
			return err
		}
		return errors.Join(h.LinkSetMaster(port, cable), h.LinkSetUp(port))
	})
}
