package fence_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

// heard tells whether a datagram that is sent by a neighbour comes out of a socket
// of the node. What is expected is sent again and again on a busy machine.
func (s *segment) heard(t *testing.T, listener *net.UDPConn, to [6]byte, src, dst netip.Addr, expected bool) bool {
	t.Helper()
	return s.heardFrom(t, b0MAC, listener, to, src, dst, expected)
}

// heardFrom is heard with another source MAC address.
func (s *segment) heardFrom(t *testing.T, mac [6]byte, listener *net.UDPConn, to [6]byte, src, dst netip.Addr, expected bool) bool {
	t.Helper()
	attempts := 1
	if expected {
		attempts = 20
	}
	port := listener.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for range attempts {
		send(t, s.b0, datagram(to, mac, src, dst, port))
		if err := listener.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			t.Fatal(err)
		}
		_, err := listener.Read(make([]byte, 16))
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	return false
}

func (s *segment) listener(t *testing.T, ipv6 bool) *net.UDPConn {
	t.Helper()
	network := "udp4"
	if ipv6 {
		network = "udp6"
	}
	var c *net.UDPConn
	in(t, s.node, func() (err error) {
		c, err = net.ListenUDP(network, nil)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sourceAndForeign are the neighbour's address and one that is the node's, but not
// on this segment.
func (s *segment) sourceAndForeign(t *testing.T) (source, foreign netip.Addr) {
	t.Helper()
	source, foreign = farIP, other
	if s.ipv6 {
		source, foreign = far6, other6
	}
	lo, err := s.nodeLinks.LinkByName("lo")
	if err == nil {
		err = errors.Join(s.nodeLinks.LinkSetUp(lo), s.address("lo", netip.PrefixFrom(foreign, foreign.BitLen())))
	}
	if err != nil {
		t.Fatal(err)
	}
	return source, foreign
}

// Whatever else the link sends or hears passes only while the lease is held.
func TestTrafficNeedsTheLease(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			listener := s.listener(t, m.ipv6)
			source, foreign := s.sourceAndForeign(t)
			virtual := s.vips[len(s.vips)-1]
			forwarded := datagram(b0MAC, s.mac(), foreign, source, 9)
			spoken := datagram(b0MAC, s.mac(), virtual, source, 9)
			for _, open := range []bool{false, true} {
				if open {
					s.hold(t)
				}
				send(t, s.port, forwarded)
				if got := s.onWire(t, forwarded); got != open {
					t.Errorf("open %v: forwarded traffic leaves: %v", open, got)
				}
				send(t, s.port, spoken)
				if got := s.onWire(t, spoken); got != open {
					t.Errorf("open %v: traffic from a virtual address leaves: %v", open, got)
				}
				if got := s.heard(t, listener, s.mac(), source, virtual, open); got != open {
					t.Errorf("open %v: traffic to a virtual address is heard: %v", open, got)
				}
				if got := s.heard(t, listener, s.mac(), source, foreign, open); got != open {
					t.Errorf("open %v: traffic to be forwarded is heard: %v", open, got)
				}
			}
		})
	}
}

// Hundreds of virtual links on one segment would learn hundreds of neighbours from
// each other's announcements, and each would be there hundreds of times.
func TestVirtualLinksDoNotHearEachOther(t *testing.T) {
	for _, m := range modes() {
		if m.ownMAC {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			listener := s.listener(t, m.ipv6)
			source, foreign := s.sourceAndForeign(t)
			s.macvlan(t, "w", "a0", vmac1)
			s.cfg.Links = append(s.cfg.Links, fence.Link{Name: "w", Parent: "a0", MAC: vmac1, VRID: 11, Addresses: []netip.Addr{vip1}})
			s.ensure(t)
			s.hold(t)
			if !s.heard(t, listener, s.mac(), source, foreign, true) {
				t.Error("a neighbour is not heard")
			}
			for _, mac := range [][6]byte{vmac1, s.mac()} {
				if s.heardFrom(t, mac, listener, s.mac(), source, foreign, false) {
					t.Errorf("a frame from the virtual MAC address %x is heard", mac)
				}
			}
			stranger := vmac1
			stranger[5] = 99
			if !s.heardFrom(t, stranger, listener, s.mac(), source, foreign, true) {
				t.Error("a virtual router of others is not heard")
			}
		})
	}
}

// What the node needs for itself passes at all times, and what is no IP, too.
func TestOwnTrafficPassesTheClosedFence(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			for _, addresses := range [][2]netip.Addr{{own, farIP}, {own6, far6}, {ownLL, farLL}} {
				mine, far := addresses[0], addresses[1]
				if !s.heard(t, s.listener(t, mine.Is6()), a0MAC, far, mine, true) {
					t.Errorf("%s is deaf", mine)
				}
				frame := datagram(b0MAC, a0MAC, mine, far, 9)
				send(t, s.parent, frame)
				if !s.onWire(t, frame) {
					t.Errorf("%s is mute", mine)
				}
			}
			group, groupMAC := solicitedNode(ownLL)
			for what, frame := range map[string][]byte{
				"ARP for an own address":                      arpRequest(allMAC, a0MAC, own, farIP),
				"a probe of an own address":                   arpRequest(allMAC, a0MAC, netip.IPv4Unspecified(), own),
				"a DHCP discovery":                            datagram(allMAC, a0MAC, netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), 67),
				"neighbour discovery from an own address":     solicitation(all6MAC, a0MAC, ownLL, netip.MustParseAddr("ff02::1:ff00:9"), far6),
				"duplicate detection of an own address":       solicitation(groupMAC, a0MAC, nowhere6, group, ownLL),
				"a router solicitation":                       icmp6(all6MAC, a0MAC, ownLL, netip.MustParseAddr("ff02::2"), 133, make([]byte, 4)),
				"a neighbour advertisement of an own address": advertisement6(a0MAC, ownLL, ownLL),
				"a multicast listener report":                 icmp6(all6MAC, a0MAC, ownLL, netip.MustParseAddr("ff02::16"), 143, make([]byte, 4)),
				"IGMP":                                        ether(allMAC, a0MAC, etherTypeIPv4, ipv4(2, 1, own, netip.MustParseAddr("224.0.0.22"), make([]byte, 8))),
				"a link-layer protocol":                       ether(allMAC, a0MAC, 0x88cc, make([]byte, 46)),
			} {
				send(t, s.parent, frame)
				if !s.onWire(t, frame) {
					t.Errorf("%s does not leave", what)
				}
			}
			// The neighbour finds the node, and the kernel answers.
			send(t, s.b0, echo(a0MAC, b0MAC, farIP, own))
			send(t, s.b0, echo6(a0MAC, b0MAC, farLL, ownLL))
			answers := count(s.wireFrames(t), func(f []byte) bool {
				return [6]byte(f[6:12]) == a0MAC && [6]byte(f[:6]) == b0MAC
			})
			if answers < 2 {
				t.Errorf("%d frames answer two pings of own addresses", answers)
			}
		})
	}
}

// A DHCP server answers to the address that it is about to lease.
func TestDHCPAnswerPassesTheClosedFence(t *testing.T) {
	s := newSegment(t, modes()[2])
	in := s.received(t)
	offer := datagram(a0MAC, b0MAC, farIP, netip.MustParseAddr("192.0.2.77"), 68)
	send(t, s.b0, offer)
	if !reaches(t, in, offer) {
		t.Error("an offer is not heard")
	}
	transit := datagram(a0MAC, b0MAC, farIP, netip.MustParseAddr("192.0.2.77"), 69)
	send(t, s.b0, transit)
	if reaches(t, in, transit) {
		t.Error("traffic to be forwarded is heard")
	}
}

// received is a socket that hears what the fence lets in: unlike one for all
// protocols it stands behind the ingress hook.
func (s *segment) received(t *testing.T) *packet.Conn {
	t.Helper()
	return listenFor(t, s.node, "a0", etherTypeIPv4)
}

// Frames of a VLAN pass the interface below it, too, and are none of its business:
// their own interface has its own chains. A tag without a VLAN is a priority only.
func TestVLANBesideTheSegment(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			etherType := etherTypeIPv4
			if s.ipv6 {
				etherType = etherTypeIPv6
			}
			received := listenFor(t, s.node, "a0", etherType)
			source, _ := s.sourceAndForeign(t)
			inner := datagram(a0MAC, b0MAC, source, s.vips[len(s.vips)-1], 9)
			for vlan, passes := range map[byte]bool{0: false, 7: true} {
				send(t, s.b0, append(append(append([]byte(nil), inner[:12]...), 0x81, 0, 0xe0, vlan), inner[12:]...))
				if got := reaches(t, received, inner); got != passes {
					t.Errorf("a frame to a virtual address in VLAN %d is let in: %v", vlan, got)
				}
			}
			s.leaveByVLAN(t)
		})
	}
}

// leaveByVLAN sends what the segment itself must not.
func (s *segment) leaveByVLAN(t *testing.T) {
	t.Helper()
	a0, err := s.nodeLinks.LinkByName("a0")
	if err != nil {
		t.Fatal(err)
	}
	err = s.nodeLinks.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "a0.7", ParentIndex: a0.Attrs().Index}, VlanId: 7})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Log("this kernel has no VLAN interfaces, so frames that leave by one are not tested")
		return
	}
	if err := errors.Join(err, setUp(s.nodeLinks, "a0.7")); err != nil {
		t.Fatal(err)
	}
	frame := datagram(b0MAC, a0MAC, s.vips[0], s.far, 9)
	send(t, listen(t, s.node, "a0.7"), frame)
	if !s.onWire(t, frame[:12]) {
		t.Error("the segment's fence drops the VLAN's frame")
	}
}

// A macvlan beside an own-MAC link of the same family keeps its addresses to itself,
// also while the lease is held.
func TestMacvlanBesideOwnMACLink(t *testing.T) {
	for _, m := range modes()[2:] {
		t.Run(m.name, func(t *testing.T) {
			s := newSegment(t, m)
			beside := netip.MustParseAddr("192.0.2.3")
			if s.ipv6 {
				beside = netip.MustParseAddr("2001:db8::3")
			}
			s.macvlan(t, "w", "a0", vmac1)
			s.cfg.Links = append(s.cfg.Links, fence.Link{
				Name: "w", Parent: "a0", MAC: vmac1, IPv6: m.ipv6, Addresses: []netip.Addr{beside}, Own: s.link.Own,
			})
			s.hold(t)
			source, _ := s.sourceAndForeign(t)
			for from, passes := range map[netip.Addr]bool{beside: false, s.vips[len(s.vips)-1]: true} {
				frame := datagram(b0MAC, a0MAC, from, source, 9)
				send(t, s.parent, frame)
				if got := s.onWire(t, frame); got != passes {
					t.Errorf("the parent speaks from %s: %v", from, got)
				}
				received := listenFor(t, s.node, "a0", int(binary.BigEndian.Uint16(frame[12:])))
				frame = datagram(a0MAC, b0MAC, source, from, 9)
				send(t, s.b0, frame)
				if got := reaches(t, received, frame); got != passes {
					t.Errorf("the parent hears what is for %s: %v", from, got)
				}
			}
		})
	}
}
