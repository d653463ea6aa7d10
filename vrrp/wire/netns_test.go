package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
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

	"tandem/vrrp"
)

const (
	testVRID = 10
	patience = 3 * time.Second
)

// host is one end of a cable in a network namespace of its own: a physical
// interface and on it a macvlan with the virtual MAC address.
type host struct {
	t         testing.TB
	namespace netns.NsHandle
	physical  *net.Interface
	virtual   *net.Interface
	source    netip.Addr
}

func virtualMAC() net.HardwareAddr {
	mac := vrrp.VirtualMAC4(testVRID)
	return mac[:]
}

// pair makes two hosts with a cable between them. Both have the same virtual MAC
// address, as the two nodes of a virtual router have.
func pair(t testing.TB) (a, b *host) {
	t.Helper()
	runtime.LockOSThread() // without an unlock, the thread dies with the test
	before, err := netns.Get()
	if err != nil {
		t.Skipf("network namespaces are not available: %v", err)
	}
	a = newHost(t, "a0", "vmac-a", "192.0.2.251")
	t.Cleanup(func() {
		check(t, netns.Set(before))
		check(t, before.Close())
		runtime.UnlockOSThread()
	})
	b = newHost(t, "b0", "vmac-b", "192.0.2.252")
	a.enter()
	check(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "b0",
		PeerNamespace: netlink.NsFd(b.namespace),
	}))
	a.configure("a0", "vmac-a")
	b.configure("b0", "vmac-b")

	// A new link drops what is sent through it until the kernel has told everybody
	// about its carrier.
	here, there := a.open(a.config()), b.open(b.config())
	reaches(t, a, here, there)
	reaches(t, b, there, here)
	check(t, errors.Join(here.Close(), there.Close()))
	return a, b
}

func newHost(t testing.TB, physical, virtual, source string) *host {
	t.Helper()
	namespace, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("network namespaces need CAP_SYS_ADMIN")
	}
	check(t, err)
	t.Cleanup(func() { _ = namespace.Close() })
	h := &host{t: t, namespace: namespace, source: netip.MustParseAddr(source)}
	h.physical, h.virtual = &net.Interface{Name: physical}, &net.Interface{Name: virtual}
	return h
}

func (h *host) configure(physical, virtual string) {
	h.t.Helper()
	h.enter()
	// IPv6 would only add noise to what the tests look at.
	check(h.t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	check(h.t, os.WriteFile("/proc/sys/net/ipv6/conf/"+physical+"/disable_ipv6", []byte("1"), 0))
	parent, err := netlink.LinkByName(physical)
	check(h.t, err)
	address := &netlink.Addr{IPNet: &net.IPNet{IP: h.source.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	check(h.t, netlink.AddrAdd(parent, address))
	check(h.t, netlink.LinkSetUp(parent))
	check(h.t, netlink.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: virtual, ParentIndex: parent.Attrs().Index, HardwareAddr: virtualMAC()},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	}))
	h.set(virtual, true)
	h.physical, err = net.InterfaceByName(physical)
	check(h.t, err)
	h.virtual, err = net.InterfaceByName(virtual)
	check(h.t, err)
}

func (h *host) enter() {
	h.t.Helper()
	check(h.t, netns.Set(h.namespace))
}

func (h *host) set(name string, up bool) {
	h.t.Helper()
	h.enter()
	link, err := netlink.LinkByName(name)
	check(h.t, err)
	if up {
		check(h.t, netlink.LinkSetUp(link))
	} else {
		check(h.t, netlink.LinkSetDown(link))
	}
}

func (h *host) config() Config {
	return Config{
		Carrier: "lan", Interface: h.physical.Name, VirtualLink: h.virtual.Name,
		VirtualMAC: vrrp.VirtualMAC4(testVRID), Source: h.source,
	}
}

func (h *host) open(c Config) *Port {
	h.t.Helper()
	h.enter()
	p, err := Open(c)
	check(h.t, err)
	h.t.Cleanup(func() { _ = p.Close() })
	return p
}

// sniff opens a socket that sees every frame of the physical interface.
func (h *host) sniff() *packet.Conn {
	h.t.Helper()
	h.enter()
	c, err := packet.Listen(h.physical, packet.Raw, unix.ETH_P_ALL, nil)
	check(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// next returns the first frame with the EtherType and, for IPv4, the protocol.
func next(t testing.TB, c *packet.Conn, etherType uint16, protocol byte) []byte {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatalf("no frame of type %04x, protocol %d: %v", etherType, protocol, err)
		}
		if binary.BigEndian.Uint16(b[12:]) != etherType {
			continue
		}
		if etherType != unix.ETH_P_IP || b[ethernetHeader+offsetProtocol] == protocol {
			return b[:n]
		}
	}
}

// inject sends a frame from the host's physical interface. The frame's source
// address is whatever the caller put there.
func (h *host) inject(frame []byte) {
	h.t.Helper()
	h.enter()
	c, err := packet.Listen(h.physical, packet.Raw, unix.ETH_P_IP, nil)
	check(h.t, err)
	defer func() { _ = c.Close() }()
	_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	check(h.t, err)
}

// readable waits until the port's descriptor is readable.
func readable(t testing.TB, p *Port, wait time.Duration) bool {
	t.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(wait.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		check(t, err)
		return n > 0
	}
}

// receive waits for a packet.
func receive(t testing.TB, p *Port) Packet {
	t.Helper()
	if !readable(t, p, patience) {
		t.Fatal("nothing received")
	}
	got, ok, err := p.Receive(make([]byte, MaxPacket))
	if err != nil || !ok {
		t.Fatalf("the descriptor is readable, but Receive says %v, %v", ok, err)
	}
	return got
}

// silent requires that nothing waits.
func silent(t testing.TB, p *Port) {
	t.Helper()
	if got, ok, err := p.Receive(make([]byte, MaxPacket)); ok || err != nil {
		t.Fatalf("received %+v, %v; want nothing", got, err)
	}
}

// reaches requires that the host's adverts get from one port to the other before
// patience ends. After a link came up the kernel drops frames for a while, until
// it has told the macvlan.
func reaches(t testing.TB, sender *host, from, to *Port) {
	t.Helper()
	message, buffer := sender.message(150), make([]byte, MaxPacket)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		check(t, from.Advertise(message))
		if !readable(t, to, 20*time.Millisecond) {
			continue
		}
		got, _, err := to.Receive(buffer)
		if err != nil || got.Header.Source != sender.source || !bytes.Equal(got.Payload, message) {
			t.Fatalf("received %+v, %v", got, err)
		}
		for ok := true; ok; { // the others of those that were sent
			_, ok, err = to.Receive(buffer)
			check(t, err)
		}
		return
	}
	t.Fatalf("no advertisement of %v arrived", sender.source)
}

func (h *host) message(priority uint8) []byte {
	h.t.Helper()
	b, err := vrrp.Advertisement{
		VRID: testVRID, Priority: priority, Interval: 100 * time.Millisecond,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}.Append(nil, vrrp.Header{Source: h.source, Destination: vrrp.MulticastIPv4()}, vrrp.ChecksumPlain)
	check(h.t, err)
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// frame4 is an Ethernet frame with an IPv4 packet.
func frame4(destination, source net.HardwareAddr, from, to netip.Addr, protocol byte, payload []byte) []byte {
	b := bytes.Join([][]byte{destination, source, {0x08, 0x00}}, nil)
	b = append(b, 0x45, 0, 0, byte(ipv4Header+len(payload)), 0, 0, 0, 0, 255, protocol, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	resum(b[ethernetHeader:])
	return append(b, payload...)
}
