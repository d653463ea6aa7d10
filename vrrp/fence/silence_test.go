package fence_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

// lookUp makes the kernel look for a neighbour in the name of the virtual address.
func (s *segment) lookUp(t *testing.T) {
	t.Helper()
	link, err := s.nodeLinks.LinkByName(s.link.Name)
	if err != nil {
		t.Fatal(err)
	}
	targets := []netip.Addr{netip.MustParseAddr("192.0.2.123")}
	if s.ipv6 {
		targets = []netip.Addr{netip.MustParseAddr("fe80::123"), netip.MustParseAddr("2001:db8::123")}
	}
	for i, target := range targets {
		err := s.nodeLinks.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(target, target.BitLen())),
		})
		if err != nil {
			t.Fatal(err)
		}
		zone := ""
		if target.IsLinkLocalUnicast() {
			zone = s.link.Name
		}
		in(t, s.node, func() error {
			d := net.Dialer{
				LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.vips[i].WithZone(zone), 0)),
				Control: func(_, _ string, c syscall.RawConn) error {
					var bound error
					err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), s.link.Name) })
					return errors.Join(err, bound)
				},
			}
			c, err := d.Dial("udp", netip.AddrPortFrom(target.WithZone(zone), 9).String())
			if err != nil {
				return err
			}
			return errors.Join(writeOnce(c), c.Close())
		})
	}
}

// writeOnce sends a datagram. The table of IPv6 neighbours is one for all namespaces
// of the machine, and while it is full a write is refused.
func writeOnce(c net.Conn) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		_, err := c.Write([]byte("test"))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOBUFS) {
			return nil // that is the fence
		}
		if !errors.Is(err, unix.EINVAL) || time.Now().After(deadline) {
			return err
		}
	}
}

// join makes the kernel report the membership of a group (IGMP, MLD).
func (s *segment) join(t *testing.T) {
	t.Helper()
	in(t, s.node, func() error {
		ifi, err := net.InterfaceByName(s.link.Name)
		if err != nil {
			return err
		}
		for network, group := range map[string]string{"udp4": "239.1.2.3", "udp6": "ff15::123"} {
			if network == "udp6" != s.ipv6 {
				continue
			}
			c, err := net.ListenMulticastUDP(network, ifi, &net.UDPAddr{IP: net.ParseIP(group), Port: 9})
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() }) // or the report would be taken back
		}
		return nil
	})
}

// ask does what neighbours do to find and to use a virtual router.
func (s *segment) ask(t *testing.T) {
	t.Helper()
	for _, a := range s.vips {
		for _, to := range [][6]byte{allMAC, a0MAC, s.mac()} {
			send(t, s.b0, s.resolve(to, a))
			send(t, s.b0, s.ping(to, a))
		}
		if s.ipv6 {
			group, mac := solicitedNode(a)
			send(t, s.b0, solicitation(mac, b0MAC, nowhere6, group, a))
		}
	}
}

// change does to the link what administrators and programs do.
func (s *segment) change(t *testing.T) {
	t.Helper()
	name := s.link.Name
	link, err := s.nodeLinks.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.nodeLinks.LinkSetDown(link), s.nodeLinks.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	if s.ownMAC {
		settle(t, s.parent, s.b0, a0MAC)
	}
	in(t, s.node, func() error {
		for _, set := range [][2]string{
			{"ipv4/conf/" + name + "/arp_notify", "1"},
			{"ipv6/conf/" + name + "/ndisc_notify", "1"},
			{"ipv4/conf/" + name + "/force_igmp_version", "2"},
			{"ipv6/conf/" + name + "/force_mld_version", "1"},
			{"ipv6/conf/" + name + "/router_solicitation_delay", "0"},
			{"ipv6/conf/" + name + "/forwarding", "0"},
			{"ipv6/conf/" + name + "/accept_ra", "2"},
			{"ipv6/conf/" + name + "/forwarding", "1"},
		} {
			if err := sysctl(set[0], set[1]); err != nil {
				return err
			}
		}
		if s.ownMAC {
			return nil
		}
		return errors.Join(
			sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"), sysctl("ipv6/conf/"+name+"/addr_gen_mode", "0"),
			sysctl("ipv6/conf/"+name+"/disable_ipv6", "0"))
	})
	// Up again with arp_notify: a gratuitous ARP. The virtual addresses anew, with
	// duplicate address detection where there is one.
	if !s.ownMAC {
		if err := errors.Join(s.nodeLinks.LinkSetDown(link), s.nodeLinks.LinkSetUp(link)); err != nil {
			t.Fatal(err)
		}
	}
	s.ready(t)
	for _, a := range s.vips {
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		_ = s.nodeLinks.AddrDel(link, address) // perhaps gone with the link
		if err := s.nodeLinks.AddrAdd(link, address); err != nil {
			t.Fatal(err)
		}
		s.early = append(s.early, collect(t, s.b0, quiet)...)
		_ = s.nodeLinks.AddrDel(link, address)
	}
	if err := s.addVirtual(); err != nil {
		t.Fatal(err)
	}
}

// ready waits until the kernel takes the link for ready, up to a second after it came up:
// before, there is no duplicate address detection.
func (s *segment) ready(t *testing.T) {
	t.Helper()
	tick := time.Tick(10 * time.Millisecond)
	for end := time.Now().Add(10 * time.Second); ; <-tick {
		link, err := s.nodeLinks.LinkByName(s.link.Name)
		if err != nil {
			t.Fatal(err)
		}
		if state := link.Attrs().OperState; state == netlink.OperUp || state == netlink.OperUnknown {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not become ready", s.link.Name)
		}
	}
}

// provoke does all that makes Linux speak for its addresses.
func (s *segment) provoke(t *testing.T) {
	t.Helper()
	s.ask(t)
	s.change(t)
	s.ask(t)
	s.join(t)
	s.lookUp(t)
	for _, a := range s.vips {
		send(t, s.port, s.announce(a))
	}
	if s.ipv6 {
		send(t, s.port, routerAdvertisement(s.mac(), vipLL))
	}
}

// provoked provokes and returns all that came of it.
func (s *segment) provoked(t *testing.T) [][]byte {
	t.Helper()
	s.early = nil
	s.provoke(t)
	return append(s.early, collect(t, s.b0, 3*quiet)...)
}

// kinds sorts what speaks for the virtual router.
func kinds(frames [][]byte) map[string]int {
	m := make(map[string]int)
	for _, f := range frames {
		if !speaks(f) {
			continue
		}
		kind := "other"
		switch {
		case f[12] == 8 && f[13] == 6:
			kind = "ARP"
		case f[12] == 8 && f[13] == 0 && f[23] == 2:
			kind = "IGMP"
		case f[12] == 8 && f[13] == 0:
			kind = "IPv4"
		case f[12] == 0x86 && f[20] == 0:
			kind = "MLD"
		case f[12] == 0x86 && f[20] == 58 && f[54] == 133:
			kind = "router solicitation"
		case f[12] == 0x86 && f[20] == 58 && f[54] == 134:
			kind = "router advertisement"
		case f[12] == 0x86 && f[20] == 58 && f[54] == 135 && netip.AddrFrom16([16]byte(f[22:38])).IsUnspecified():
			kind = "duplicate address detection"
		case f[12] == 0x86 && f[20] == 58 && f[54] == 135:
			kind = "neighbour solicitation"
		case f[12] == 0x86 && f[20] == 58 && f[54] == 136:
			kind = "neighbour advertisement"
		case f[12] == 0x86:
			kind = "IPv6"
		}
		m[kind]++
	}
	return m
}

// expected are the kinds of frame that a provocation must call forth through the
// open fence, else its silence proves nothing.
func (m mode) expected() []string {
	switch {
	case !m.ipv6 && !m.ownMAC:
		return []string{"ARP", "IGMP", "IPv4", "MLD", "duplicate address detection"}
	case !m.ipv6:
		return []string{"ARP", "IPv4"}
	case !m.ownMAC:
		return []string{
			"MLD", "duplicate address detection", "router solicitation", "router advertisement",
			"neighbour solicitation", "neighbour advertisement",
		}
	}
	return []string{
		"duplicate address detection", "router advertisement", "neighbour solicitation", "neighbour advertisement",
	}
}

// While the lease is not held nothing is on the wire in the name of the virtual
// router, whatever happens; while it is, the same calls forth all kinds of frames.
func TestClosedFenceIsSilentInEveryMode(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			if found := kinds(s.provoked(t)); len(found) > 0 {
				t.Errorf("through the closed fence: %v", found)
			}
			s.hold(t)
			found := kinds(s.provoked(t))
			for _, want := range m.expected() {
				if found[want] == 0 {
					t.Errorf("no %s through the open fence: %v", want, found)
				}
			}
		})
	}
}

// The parent answers for no virtual address even while the lease is held, and says
// nothing in the name of one.
func TestParentIsMuteInEveryFamily(t *testing.T) {
	for _, m := range modes()[:2] {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			s.hold(t)
			s.ask(t)
			s.lookUp(t)
			for _, a := range s.vips {
				for _, frame := range [][]byte{
					datagram(b0MAC, a0MAC, a, s.far, 9), s.fromParent(a),
				} {
					send(t, s.parent, frame)
				}
			}
			if s.ipv6 {
				group, mac := solicitedNode(vip6)
				for _, frame := range [][]byte{
					solicitation(mac, a0MAC, nowhere6, group, vip6),
					solicitation(mac, a0MAC, ownLL, group, vip6),
					advertisement6(a0MAC, ownLL, vipLL),
					routerAdvertisement(a0MAC, vipLL),
				} {
					send(t, s.parent, frame)
				}
			}
			fromVirtual := 0
			for _, f := range s.wireFrames(t) {
				if speaks(f) && !virtualMAC(f) {
					t.Errorf("the parent speaks for a virtual address: %x", f)
				}
				if virtualMAC(f) {
					fromVirtual++
				}
			}
			if fromVirtual == 0 {
				t.Error("the virtual link is mute, too")
			}
		})
	}
}

// fromParent is the announcement of a by the parent's MAC address.
func (s *segment) fromParent(a netip.Addr) []byte {
	if s.ipv6 {
		return advertisement6(a0MAC, a, a)
	}
	return arpRequest(allMAC, a0MAC, a, a)
}

// A virtual link-local address is so on its own link: elsewhere the same one may be
// a node's own.
func TestLinkLocalIsGuardedPerLink(t *testing.T) {
	s := newSegment(t, modes()[1])
	s.macvlan(t, "v1", "a1", [6]byte{0, 0, 0x5e, 0, 2, 11})
	s.cfg.Links = append(s.cfg.Links, fence.Link{
		Name: "v1", Parent: "a1", MAC: [6]byte{0, 0, 0x5e, 0, 2, 11}, IPv6: true,
		Addresses: []netip.Addr{netip.MustParseAddr("fe80::5e:b"), netip.MustParseAddr("2001:db8:1::1")},
	})
	s.ensure(t)
	b1, a1 := listen(t, s.wire, "b1"), listen(t, s.node, "a1")
	settle(t, a1, b1, a1MAC)
	own := advertisement6(a1MAC, vipLL, vipLL)
	send(t, a1, own)
	if !reaches(t, b1, own) {
		t.Error("the virtual link-local address of one link is guarded on the parent of another")
	}
	for _, frame := range [][]byte{
		advertisement6(a1MAC, netip.MustParseAddr("fe80::5e:b"), netip.MustParseAddr("fe80::5e:b")),
		advertisement6(a1MAC, vipLL, vip6), // a global one is virtual everywhere
		datagram(all6MAC, a1MAC, vip6, far6, 9),
	} {
		send(t, a1, frame)
		if reaches(t, b1, frame) {
			t.Errorf("the parent says %x", frame)
		}
	}
}

// From the first moment of its life a link is fenced.
func TestLinkIsBornFenced(t *testing.T) {
	for _, m := range modes()[:2] {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			link, err := s.nodeLinks.LinkByName("v")
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := s.nodeLinks.LinkDel(link); err != nil {
					t.Fatal(err)
				}
				s.macvlan(t, "v", "a0", s.link.MAC)
				s.ensure(t)
				if link, err = s.nodeLinks.LinkByName("v"); err != nil {
					t.Fatal(err)
				}
				s.raiseSegment(t)
				s.ask(t)
			}
			if found := kinds(collect(t, s.b0, 3*quiet)); len(found) > 0 {
				t.Errorf("through the closed fence: %v", found)
			}
			// The same with the lease held tells that there is something to hear.
			s.hold(t)
			if err := s.nodeLinks.LinkDel(link); err != nil {
				t.Fatal(err)
			}
			s.macvlan(t, "v", "a0", s.link.MAC)
			s.ensure(t)
			s.raiseSegment(t)
			s.ask(t)
			if found := kinds(collect(t, s.b0, time.Second)); len(found) == 0 {
				t.Error("nothing through the open fence")
			}
		})
	}
}
