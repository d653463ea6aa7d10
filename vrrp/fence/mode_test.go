package fence_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

// mode is one of the ways in which a virtual router stands on a segment.
type mode struct {
	name         string
	ipv6, ownMAC bool
}

func modes() []mode {
	return []mode{
		{"IPv4 with virtual MAC", false, false},
		{"IPv6 with virtual MAC", true, false},
		{"IPv4 with own MAC", false, true},
		{"IPv6 with own MAC", true, true},
	}
}

// segment is a lab with one virtual router of a mode on a0:
//
//	node{ a0 192.0.2.2/24, 2001:db8::2/64, fe80::5e:a:1; perhaps v on a0; a1 } --- wire{ b0; b1 }
type segment struct {
	*lab
	mode
	link     fence.Link
	vips     []netip.Addr
	own, far netip.Addr
	port     *packet.Conn
	parent   *packet.Conn
	// early are frames that were read while something was still being done.
	early [][]byte
}

func newSegment(t *testing.T, m mode) *segment {
	t.Helper()
	s := &segment{lab: &lab{node: namespace(t), wire: namespace(t)}, mode: m}
	s.cables(t)
	s.link = fence.Link{Name: "a0", Parent: "a0", VRID: 10, IPv6: m.ipv6, Own: []netip.Addr{own, own6, ownLL}}
	if !m.ownMAC {
		s.link.Name, s.link.MAC = "v", vmac
		if m.ipv6 {
			s.link.MAC = vmac6
		}
	}
	s.vips, s.own, s.far = []netip.Addr{vip}, own, farIP
	if m.ipv6 {
		s.vips, s.own, s.far = []netip.Addr{vipLL, vip6}, ownLL, farLL
	}
	s.link.Addresses = s.vips
	if !m.ownMAC {
		s.macvlan(t, "v", "a0", s.link.MAC)
	}
	s.cfg = fence.Config{Group: group, Lease: 300 * time.Millisecond, Links: []fence.Link{s.link}}
	s.ensure(t)
	s.b0, s.parent = listen(t, s.wire, "b0"), listen(t, s.node, "a0")
	settle(t, s.parent, s.b0, a0MAC)
	s.raiseSegment(t)
	return s
}

// cables makes the cables and the nodes' own addresses.
func (l *lab) cables(t *testing.T) {
	t.Helper()
	in(t, l.node, func() error {
		var err error
		if l.nodeLinks, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if l.fence, err = fence.New(); err != nil {
			return err
		}
		for key, value := range map[string]string{
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/ip_forward": "1",
			"ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1",
			"ipv6/conf/default/addr_gen_mode": "1", "ipv6/conf/default/keep_addr_on_down": "1",
			"ipv4/conf/default/arp_ignore": "1", "ipv4/conf/default/arp_announce": "2",
		} {
			if err := sysctl(key, value); err != nil {
				return err
			}
		}
		return errors.Join(
			l.cable("a0", "b0", a0MAC, b0MAC),
			l.cable("a1", "b1", a1MAC, [6]byte{2, 0, 0, 0, 0, 0xb1}),
			l.address("a0", netip.PrefixFrom(own, 24)),
			l.address("a0", netip.PrefixFrom(ownLL, 64)),
			l.address("a0", netip.PrefixFrom(own6, 64)),
		)
	})
	t.Cleanup(func() { l.nodeLinks.Close(); _ = l.fence.Close() })
	in(t, l.wire, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		far := &lab{nodeLinks: h}
		return errors.Join(
			sysctl("ipv6/conf/b0/addr_gen_mode", "1"),
			sysctl("ipv6/conf/b1/addr_gen_mode", "1"),
			setUp(h, "b0"), setUp(h, "b1"),
			far.address("b0", netip.PrefixFrom(farIP, 24)),
			far.address("b0", netip.PrefixFrom(farLL, 64)),
			far.address("b0", netip.PrefixFrom(far6, 64)),
		)
	})
}

func sysctl(key, value string) error {
	return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644)
}

// raiseSegment adds the virtual addresses and sets the link up.
func (s *segment) raiseSegment(t *testing.T) {
	t.Helper()
	err := s.addVirtual()
	if err == nil {
		err = setUp(s.nodeLinks, s.link.Name)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.port = listen(t, s.node, s.link.Name)
}

func (s *segment) addVirtual() error {
	var errs []error
	for _, a := range s.vips {
		errs = append(errs, s.address(s.link.Name, netip.PrefixFrom(a, a.BitLen())))
	}
	return errors.Join(errs...)
}

// mac is the MAC address with which the virtual router speaks.
func (s *segment) mac() [6]byte {
	if s.ownMAC {
		return a0MAC
	}
	return s.link.MAC
}

func (s *segment) advert(ttl, priority byte) []byte {
	return advertisement(s.mac(), s.own, s.link.VRID, ttl, priority)
}

// long makes the lease last for the whole test.
func (s *segment) long(t *testing.T) {
	t.Helper()
	s.cfg.Lease = time.Minute
	s.ensure(t)
}

// hold opens the fence for the whole test.
func (s *segment) hold(t *testing.T) {
	t.Helper()
	s.long(t)
	send(t, s.port, s.advert(255, 100))
	if !s.open(t) {
		t.Fatal("closed after an advert")
	}
}

// wireFrames are the frames at the far end until it is quiet.
func (s *segment) wireFrames(t *testing.T) [][]byte {
	t.Helper()
	return collect(t, s.b0, quiet)
}

// resolve is what a neighbour sends to learn the MAC address of a.
func (s *segment) resolve(to [6]byte, a netip.Addr) []byte {
	if !s.ipv6 {
		return arpRequest(to, b0MAC, farIP, a)
	}
	dst := a
	if to == allMAC {
		dst, to = solicitedNode(a)
	}
	return solicitation(to, b0MAC, s.far, dst, a)
}

func (s *segment) ping(to [6]byte, a netip.Addr) []byte {
	switch {
	case !s.ipv6:
		return echo(to, b0MAC, farIP, a)
	case a.IsLinkLocalUnicast():
		return echo6(to, b0MAC, farLL, a)
	}
	return echo6(to, b0MAC, far6, a)
}

// announce is the gratuitous ARP or the unsolicited neighbour advertisement for a.
func (s *segment) announce(a netip.Addr) []byte {
	if !s.ipv6 {
		return arpRequest(allMAC, s.mac(), a, a)
	}
	return advertisement6(s.mac(), a, a)
}

func (l *lab) address(link string, p netip.Prefix) error {
	n, err := l.nodeLinks.LinkByName(link)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return l.nodeLinks.AddrReplace(n, a)
}
