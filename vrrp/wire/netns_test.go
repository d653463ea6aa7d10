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
	testVRID       = 10
	ethernetHeader = 14
	patience       = 3 * time.Second
)

// host is one end of a cable in a network namespace of its own: a physical
// interface and on it a macvlan for each family with the virtual MAC address.
type host struct {
	t                  testing.TB
	namespace          netns.NsHandle
	physical           *net.Interface
	virtual4, virtual6 string
	source4, source6   netip.Addr
	sender             *Sender
}

func virtualMAC(ipv6 bool) net.HardwareAddr {
	mac := vrrp.VirtualMAC4(testVRID)
	if ipv6 {
		mac = vrrp.VirtualMAC6(testVRID)
	}
	return mac[:]
}

// pair makes two hosts with a cable between them. Both have the same virtual MAC
// addresses, as the two nodes of a virtual router have.
func pair(t testing.TB) (a, b *host) {
	t.Helper()
	runtime.LockOSThread() // without an unlock, the thread dies with the test
	before, err := netns.Get()
	if err != nil {
		t.Skipf("network namespaces are not available: %v", err)
	}
	a = newHost(t, "a0", "192.0.2.251", "fe80::251")
	t.Cleanup(func() {
		check(t, netns.Set(before))
		check(t, before.Close())
		runtime.UnlockOSThread()
	})
	b = newHost(t, "b0", "192.0.2.252", "fe80::252")
	a.enter()
	check(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "b0",
		PeerNamespace: netlink.NsFd(b.namespace),
	}))
	a.configure()
	b.configure()

	// A new link drops what is sent through it until the kernel has told everybody
	// about its carrier.
	for _, ipv6 := range families() {
		here, there := a.open(a.config(ipv6)), b.open(b.config(ipv6))
		ear, peer := a.listen(ipv6), b.listen(ipv6)
		reaches(t, a, here, peer)
		reaches(t, b, there, ear)
		check(t, errors.Join(here.Close(), there.Close(), ear.Close(), peer.Close()))
	}
	return a, b
}

// families are IPv4 and IPv6, as values of a flag ipv6. Tests loop over them:
// a subtest would run on another thread, in another namespace.
func families() []bool { return []bool{false, true} }

func newHost(t testing.TB, physical, source4, source6 string) *host {
	t.Helper()
	namespace, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("network namespaces need CAP_SYS_ADMIN")
	}
	check(t, err)
	t.Cleanup(func() { _ = namespace.Close() })
	sender, err := OpenSender()
	check(t, err)
	t.Cleanup(func() { _ = sender.Close() })
	return &host{
		t: t, namespace: namespace, sender: sender,
		physical: &net.Interface{Name: physical},
		virtual4: "vmac-" + physical, virtual6: "vmac6-" + physical,
		source4: netip.MustParseAddr(source4), source6: netip.MustParseAddr(source6),
	}
}

func (h *host) configure() {
	h.t.Helper()
	h.enter()
	// What the kernel says of its own accord over IPv6 would only disturb the tests.
	sysctl(h.t, "net/ipv6/conf/default/disable_ipv6", "1")
	sysctl(h.t, "net/ipv6/conf/"+h.physical.Name+"/disable_ipv6", "0")
	sysctl(h.t, "net/ipv6/conf/"+h.physical.Name+"/addr_gen_mode", "1")
	sysctl(h.t, "net/ipv6/conf/"+h.physical.Name+"/router_solicitations", "0")
	parent, err := netlink.LinkByName(h.physical.Name)
	check(h.t, err)
	check(h.t, netlink.LinkSetUp(parent))
	h.addAddress(h.source4, 24)
	h.addAddress(h.source6, 64)
	for _, ipv6 := range families() {
		check(h.t, netlink.LinkAdd(&netlink.Macvlan{
			LinkAttrs: netlink.LinkAttrs{
				Name: h.virtual(ipv6), ParentIndex: parent.Attrs().Index, HardwareAddr: virtualMAC(ipv6),
			},
			Mode: netlink.MACVLAN_MODE_BRIDGE,
		}))
		h.set(h.virtual(ipv6), true)
	}
	h.physical, err = net.InterfaceByName(h.physical.Name)
	check(h.t, err)
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}

func (h *host) addAddress(a netip.Addr, bits int) {
	h.t.Helper()
	h.enter()
	link, err := netlink.LinkByName(h.physical.Name)
	check(h.t, err)
	check(h.t, netlink.AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())},
		Flags: unix.IFA_F_NODAD,
	}))
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

func (h *host) virtual(ipv6 bool) string {
	if ipv6 {
		return h.virtual6
	}
	return h.virtual4
}

func (h *host) source(ipv6 bool) netip.Addr {
	if ipv6 {
		return h.source6
	}
	return h.source4
}

func (h *host) config(ipv6 bool) Config {
	return Config{
		Carrier: "lan", Interface: h.physical.Name, VirtualLink: h.virtual(ipv6),
		VirtualMAC: [6]byte(virtualMAC(ipv6)), Source: h.source(ipv6),
	}
}

// ownMAC is the configuration of a carrier without virtual MAC address.
func (h *host) ownMAC(ipv6 bool) Config {
	c := h.config(ipv6)
	c.VirtualLink, c.VirtualMAC = c.Interface, [6]byte{}
	return c
}

func (h *host) open(c Config) *Port {
	h.t.Helper()
	h.enter()
	p, err := Open(h.sender, c)
	check(h.t, err)
	h.t.Cleanup(func() { _ = p.Close() })
	return p
}

func (h *host) listen(ipv6 bool) *Receiver {
	h.t.Helper()
	h.enter()
	r, err := OpenReceiver(ReceiverConfig{
		Interface: h.physical.Name, IPv6: ipv6, Own: []netip.Addr{h.source4, h.source6},
	})
	check(h.t, err)
	h.t.Cleanup(func() { _ = r.Close() })
	return r
}

// sniff opens a socket that sees every frame of the physical interface.
func (h *host) sniff() *packet.Conn {
	h.t.Helper()
	return h.sniffOn(h.physical.Name)
}

func (h *host) sniffOn(name string) *packet.Conn {
	h.t.Helper()
	h.enter()
	ifi, err := net.InterfaceByName(name)
	check(h.t, err)
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	check(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// next returns the first frame with the EtherType and, for IP, the protocol or next
// header.
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
		offset := map[uint16]int{unix.ETH_P_IP: offsetProtocol, unix.ETH_P_IPV6: offsetNextHeader}[etherType]
		if offset == 0 || b[ethernetHeader+offset] == protocol {
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

// readable waits until the receiver's descriptor is readable.
func readable(t testing.TB, r *Receiver, wait time.Duration) bool {
	t.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(r.FD()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(wait.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		check(t, err)
		return n > 0
	}
}

// receive waits for a packet.
func receive(t testing.TB, r *Receiver) Packet {
	t.Helper()
	if !readable(t, r, patience) {
		t.Fatal("nothing received")
	}
	got, ok, err := r.Receive(make([]byte, MaxPacket))
	if err != nil || !ok {
		t.Fatalf("the descriptor is readable, but Receive says %v, %v", ok, err)
	}
	return got
}

// silent requires that nothing waits.
func silent(t testing.TB, r *Receiver) {
	t.Helper()
	if got, ok, err := r.Receive(make([]byte, MaxPacket)); ok || err != nil {
		t.Fatalf("received %+v, %v; want nothing", got, err)
	}
}

// reaches requires that the host's adverts get from one port to the other before
// patience ends. After a link came up the kernel drops frames for a while, until
// it has told the macvlan.
func reaches(t testing.TB, sender *host, from *Port, to *Receiver) {
	t.Helper()
	message, buffer := sender.message(from, 150), make([]byte, MaxPacket)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		check(t, from.Advertise(message))
		if !readable(t, to, 20*time.Millisecond) {
			continue
		}
		got, _, err := to.Receive(buffer)
		if err != nil || got.Header.Source != from.config.Source || !bytes.Equal(got.Payload, message) {
			t.Fatalf("received %+v, %v", got, err)
		}
		for ok := true; ok; { // the others of those that were sent
			_, ok, err = to.Receive(buffer)
			check(t, err)
		}
		return
	}
	t.Fatalf("no advertisement of %v arrived", from.config.Source)
}

// message is an advertisement for the port to send.
func (h *host) message(p *Port, priority uint8) []byte {
	h.t.Helper()
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	if p.config.Source.Is6() {
		addresses = []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")}
	}
	b, err := vrrp.Advertisement{
		VRID: testVRID, Priority: priority, Interval: 100 * time.Millisecond, Addresses: addresses,
	}.Append(nil, vrrp.Header{Source: p.config.Source, Destination: p.Destination()}, vrrp.ChecksumPlain)
	check(h.t, err)
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// frame is an Ethernet frame with an IP packet of TTL or hop limit 255, of the
// family of its addresses.
func frame(destination, source net.HardwareAddr, from, to netip.Addr, protocol byte, payload []byte) []byte {
	b := bytes.Join([][]byte{destination, source, {0x08, 0x00}}, nil)
	if from.Is6() {
		b[12], b[13] = 0x86, 0xdd
		b = append(b, 0x60, 0, 0, 0, byte(len(payload)>>8), byte(len(payload)), protocol, 255)
		return append(append(append(b, from.AsSlice()...), to.AsSlice()...), payload...)
	}
	b = append(b, 0x45, 0, 0, byte(ipv4Header+len(payload)), 0, 0, 0, 0, 255, protocol, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	resum(b[ethernetHeader:])
	return append(b, payload...)
}

// toGroup is a frame of the host with a VRRP message to the group, as the peer's
// virtual link would send it.
func (h *host) toGroup(ipv6 bool, payload []byte) []byte {
	mac := groupMAC(ipv6)
	return frame(mac[:], virtualMAC(ipv6), h.source(ipv6), group(ipv6), vrrp.Protocol, payload)
}
