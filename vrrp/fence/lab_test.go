package fence_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	group         = "lab"
)

// lab is a node with two ports, each with a macvlan, and the far ends of both
// cables in another namespace:
//
//	node{ a0 192.0.2.2/24, v0 on a0; a1, v1 on a1 } --- wire{ b0 192.0.2.9/24; b1 }
type lab struct {
	node, wire netns.NsHandle
	fence      *fence.Fence
	cfg        fence.Config
	b0, b1     *packet.Conn
	v0, v1     *packet.Conn
	nodeLinks  *netlink.Handle
}

//nolint:gochecknoglobals // constants of the tests
var (
	vip    = netip.MustParseAddr("192.0.2.1")
	vip1   = netip.MustParseAddr("198.51.100.1")
	own    = netip.MustParseAddr("192.0.2.2")
	farIP  = netip.MustParseAddr("192.0.2.9")
	vmac   = [6]byte{0, 0, 0x5e, 0, 1, 10}
	vmac1  = [6]byte{0, 0, 0x5e, 0, 1, 11}
	a0MAC  = [6]byte{2, 0, 0, 0, 0, 0xa0}
	a1MAC  = [6]byte{2, 0, 0, 0, 0, 0xa1}
	b0MAC  = [6]byte{2, 0, 0, 0, 0, 0xb0}
	allMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	vrrpTo = [6]byte{1, 0, 0x5e, 0, 0, 0x12}
)

// namespace makes a network namespace that lasts until the test ends.
func namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	made := make(chan error, 1)
	ns := netns.None()
	go func() {
		// Never unlocked: the thread ends with the goroutine and nobody inherits
		// its namespace.
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		if errors.Is(err, os.ErrPermission) {
			t.Skip("making a network namespace needs CAP_SYS_ADMIN")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// in runs f in the namespace and fails the test if f does.
func in(t testing.TB, ns netns.NsHandle, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{node: namespace(t), wire: namespace(t)}
	in(t, l.node, func() error {
		var err error
		if l.nodeLinks, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if l.fence, err = fence.New(); err != nil {
			return err
		}
		return errors.Join(
			l.cable("a0", "b0", a0MAC, b0MAC),
			l.cable("a1", "b1", a1MAC, [6]byte{2, 0, 0, 0, 0, 0xb1}),
			os.WriteFile("/proc/sys/net/ipv4/conf/a0/arp_ignore", []byte("1"), 0o644),
			// Otherwise the parent asks for a neighbour in the name of a virtual
			// address, which the fence drops, and does not ask again for a second.
			os.WriteFile("/proc/sys/net/ipv4/conf/a0/arp_announce", []byte("2"), 0o644),
			l.address("a0", netip.PrefixFrom(own, 24)),
		)
	})
	t.Cleanup(func() { l.nodeLinks.Close(); _ = l.fence.Close() })
	l.macvlan(t, "v0", "a0", vmac)
	l.macvlan(t, "v1", "a1", vmac1)
	l.cfg = fence.Config{Group: group, Lease: 300 * time.Millisecond, Links: []fence.Link{
		{Name: "v0", Parent: "a0", MAC: vmac, Addresses: []netip.Addr{vip}},
		{Name: "v1", Parent: "a1", MAC: vmac1, Addresses: []netip.Addr{vip1}},
	}}
	l.ensure(t)
	in(t, l.wire, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for _, n := range []string{"b0", "b1"} {
			if err := setUp(h, n); err != nil {
				return err
			}
		}
		b0, err := h.LinkByName("b0")
		if err != nil {
			return err
		}
		return h.AddrAdd(b0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(farIP, 24))})
	})
	l.b0, l.b1 = listen(t, l.wire, "b0"), listen(t, l.wire, "b1")
	settle(t, listen(t, l.node, "a0"), l.b0, a0MAC)
	settle(t, listen(t, l.node, "a1"), l.b1, a1MAC)
	l.raise(t)
	return l
}

// raise adds the virtual addresses and sets the macvlans up.
func (l *lab) raise(t *testing.T) {
	t.Helper()
	err := errors.Join(
		l.address("v0", netip.PrefixFrom(vip, 32)), l.address("v1", netip.PrefixFrom(vip1, 32)),
		setUp(l.nodeLinks, "v0"), setUp(l.nodeLinks, "v1"),
	)
	if err != nil {
		t.Fatal(err)
	}
	in(t, l.node, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/v0/arp_ignore", []byte("1"), 0o644)
	})
	l.v0, l.v1 = listen(t, l.node, "v0"), listen(t, l.node, "v1")
}

func (l *lab) cable(near, far string, nearMAC, farMAC [6]byte) error {
	err := l.nodeLinks.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: near, HardwareAddr: nearMAC[:]},
		PeerName:  far, PeerHardwareAddr: farMAC[:], PeerNamespace: netlink.NsFd(l.wire),
	})
	return errors.Join(err, setUp(l.nodeLinks, near))
}

func (l *lab) macvlan(t *testing.T, name, parent string, mac [6]byte) {
	t.Helper()
	p, err := l.nodeLinks.LinkByName(parent)
	if err != nil {
		t.Fatal(err)
	}
	err = l.nodeLinks.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: p.Attrs().Index, HardwareAddr: mac[:]},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func setUp(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return h.LinkSetUp(l)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func listen(t *testing.T, ns netns.NsHandle, name string) *packet.Conn {
	t.Helper()
	return listenFor(t, ns, name, unix.ETH_P_ALL)
}

func listenFor(t *testing.T, ns netns.NsHandle, name string, protocol int) *packet.Conn {
	t.Helper()
	var c *packet.Conn
	in(t, ns, func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if c, err = packet.Listen(ifi, packet.Raw, protocol, nil); err != nil {
			return err
		}
		return c.SetPromiscuous(true)
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// settle waits until frames get through a cable: for up to a second after a link has
// come up the kernel may drop what is sent, without an error.
func settle(t *testing.T, near, far *packet.Conn, from [6]byte) {
	t.Helper()
	probe := ether(allMAC, from, 0x88b5, make([]byte, 46))
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		send(t, near, probe)
		if err := far.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := far.ReadFrom(buf); err == nil && bytes.Equal(buf[:n], probe) {
			collect(t, far, quiet/4)
			return
		}
	}
	t.Fatal("nothing gets through the cable")
}

func (l *lab) ensure(t *testing.T) []string {
	t.Helper()
	changed, err := l.fence.Ensure(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func (l *lab) open(t *testing.T) bool {
	t.Helper()
	open, remaining, err := l.fence.Lease(group)
	if err != nil {
		t.Fatal(err)
	}
	if open != (remaining > 0) || remaining > l.cfg.Lease {
		t.Fatalf("lease open=%v remaining=%v, of %v", open, remaining, l.cfg.Lease)
	}
	return open
}

func send(t *testing.T, c *packet.Conn, frame []byte) {
	t.Helper()
	err := transmit(c, frame)
	if errors.Is(err, unix.ENETDOWN) {
		// Left over from when the link was down; reading it clears it.
		err = transmit(c, frame)
	}
	// ENOBUFS is how the sender learns that the fence dropped its frame.
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		t.Fatal(err)
	}
}

// transmit names the frame's protocol, as programs do: the kernel of Debian 12
// does not read it out of a frame that leaves by a macvlan.
func transmit(c *packet.Conn, frame []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		bound, err := unix.Getsockname(int(fd))
		if err != nil {
			failed = err
			return true
		}
		to := unix.SockaddrLinklayer{
			Protocol: binary.NativeEndian.Uint16(frame[12:]),
			Ifindex:  bound.(*unix.SockaddrLinklayer).Ifindex,
			Halen:    6,
		}
		copy(to.Addr[:], frame[:6])
		failed = unix.Sendto(int(fd), frame, 0, &to)
		return !errors.Is(failed, unix.EAGAIN)
	})
	return errors.Join(err, failed)
}

// collect returns the frames that arrive until the line was quiet for the time.
func collect(t *testing.T, c *packet.Conn, quiet time.Duration) [][]byte {
	t.Helper()
	var frames [][]byte
	buf := make([]byte, 2048)
	for len(frames) < 10_000 {
		if err := c.SetReadDeadline(time.Now().Add(quiet)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return frames
		}
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, append([]byte(nil), buf[:n]...))
	}
	t.Fatal("the line never falls quiet")
	return nil
}

func count(frames [][]byte, match func([]byte) bool) int {
	n := 0
	for _, f := range frames {
		if match(f) {
			n++
		}
	}
	return n
}

func ether(dst, src [6]byte, etherType uint16, payload []byte) []byte {
	f := append(append(append([]byte(nil), dst[:]...), src[:]...), byte(etherType>>8), byte(etherType))
	return append(f, payload...)
}

func arpRequest(to, mac [6]byte, sender, target netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(append(p, mac[:]...), sender.AsSlice()...)
	p = append(append(p, make([]byte, 6)...), target.AsSlice()...)
	return ether(to, mac, etherTypeARP, p)
}

func ipv4(proto, ttl byte, src, dst netip.Addr, payload []byte) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, ttl, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func echo(to, mac [6]byte, src, dst netip.Addr) []byte {
	icmp := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	return ether(to, mac, etherTypeIPv4, ipv4(1, 64, src, dst, icmp))
}

// advert is an IPv4 advertisement from the own address.
func advert(mac [6]byte, ttl, priority byte) []byte {
	return advertisement(mac, own, mac[5], ttl, priority)
}
