package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tandem/appliance/lab"
)

const (
	// vrid is the virtual router on the LAN, for both families.
	vrid = 10
	// patience is how long a program may take to start or to end.
	patience = 15 * time.Second
	// look is the pause between two looks.
	look = 5 * time.Millisecond
)

// family is an IP version.
type family uint8

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// virtualMAC is RFC 9568 §7.3.
func (f family) virtualMAC() hardware {
	if f == ipv6 {
		return hardware{0, 0, 0x5e, 0, 2, vrid}
	}
	return hardware{0, 0, 0x5e, 0, 1, vrid}
}

// virtualAddresses are those of the virtual router, in the order of its adverts.
func (f family) virtualAddresses() []netip.Addr {
	if f == ipv6 {
		return []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")}
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.1")}
}

// segment says how VRRP is spoken on the LAN.
type segment struct {
	version  uint8
	interval time.Duration
	// ipv6 adds the virtual router of that family.
	ipv6 bool
}

func (s segment) families() []family {
	if s.ipv6 {
		return []family{ipv4, ipv6}
	}
	return []family{ipv4}
}

// stand is a LAN: a switch, a host that asks, and routers.
type stand struct {
	segment
	t       *testing.T
	prefix  string
	dir     string
	fabric  lab.Namespace
	capture *capture
	stalls  *stallMeter
	begun   time.Time
	host    *host
	routers map[string]router
	// starts are the times in which routers were started.
	starts []span
	// expected are the changes of the speaker that the scenario has caused.
	expected []change
	// partitions are the times in which there are two LANs.
	partitions []span
	closed     bool
}

// span is a time; a zero end is still to come.
type span struct{ from, to time.Time }

// newStand builds the LAN without routers.
func newStand(t *testing.T, seg segment, stalls *stallMeter) *stand {
	t.Helper()
	if !lab.Inside() {
		t.Skip("this machine lets the test make no namespaces: run it as root")
	}
	noteSources(t)
	dir, err := shortDirectory()
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{
		segment: seg, t: t, dir: dir, prefix: strings.TrimPrefix(dir, "/run/"), stalls: stalls, begun: time.Now(),
		routers: map[string]router{},
	}
	// FRR gives up its rights and must be able to reach its own directory.
	s.must(os.Chmod(dir, 0o755))
	s.fabric, err = lab.NewNamespace(s.prefix + "-lan")
	s.must(err)
	t.Cleanup(s.close)
	s.must(s.buildSwitch())
	s.capture, err = startCapture(s.fabric)
	s.must(err)
	s.host, err = startHost(s.fabric, "host", s.questions)
	s.must(err)
	return s
}

// shortDirectory makes a directory in the laboratory's private /run: the paths of sockets
// must be short.
func shortDirectory() (string, error) { return os.MkdirTemp("/run", "i") }

func (s *stand) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.host.end()
	if s.capture != nil {
		_ = s.capture.file.Close() // after judgement it is closed already
	}
	for name, r := range s.routers {
		if err := s.namespace(name).Delete(); err != nil {
			s.t.Error(err)
		}
		r.base().wait()
	}
	if err := s.fabric.Delete(); err != nil {
		s.t.Error(err)
	}
	for name, r := range s.routers {
		said := r.base().log()
		for _, word := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if strings.Contains(said, word) {
				s.t.Errorf("%s said %q", name, word)
			}
		}
		if s.t.Failed() {
			s.t.Logf("log of %s:\n%s", name, said)
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

func (s *stand) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) namespace(router string) lab.Namespace {
	return s.routers[router].base().ns
}

// withSwitch calls fn with a netlink handle to the switch's namespace.
func (s *stand) withSwitch(fn func(*netlink.Handle) error) error {
	h, err := s.fabric.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

func (s *stand) buildSwitch() error {
	return s.withSwitch(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "lan"
		snooping := false
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return err
		}
		host := netlink.NewLinkAttrs()
		host.Name = "host"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: host, PeerName: "host-port"}); err != nil {
			return err
		}
		for _, name := range []string{"lan", "host"} {
			if err := setUp(h, name); err != nil {
				return err
			}
		}
		return plug(h, "host-port")
	})
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// plug makes a link a port of the switch.
func plug(h *netlink.Handle, name string) error {
	lan, err := h.LinkByName("lan")
	if err != nil {
		return err
	}
	port, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetMasterByIndex(port, lan.Attrs().Index); err != nil {
		return err
	}
	return h.LinkSetUp(port)
}

// connect lays a cable from the switch to eth0 in a router's namespace.
func (s *stand) connect(router string, ns lab.Namespace, mac hardware) error {
	file, err := os.Open("/run/netns/" + ns.Name())
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return s.withSwitch(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = router
		cable := &netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(file.Fd()),
			PeerHardwareAddr: net.HardwareAddr(mac[:]),
		}
		if err := h.LinkAdd(cable); err != nil {
			return fmt.Errorf("lay the cable to %s: %w", router, err)
		}
		port, err := h.LinkByName(router)
		if err != nil {
			return err
		}
		s.capture.name(port.Attrs().Index, router)
		return plug(h, router)
	})
}

// partition keeps two routers from hearing each other; the host hears both.
func (s *stand) partition(routers ...string) {
	s.t.Helper()
	s.isolate(true, routers)
	s.partitions = append(s.partitions, span{from: time.Now()})
}

// heal ends the partition and returns when that began.
func (s *stand) heal(routers ...string) time.Time {
	s.t.Helper()
	at := time.Now()
	s.isolate(false, routers)
	s.partitions[len(s.partitions)-1].to = time.Now()
	return at
}

func (s *stand) isolate(on bool, routers []string) {
	s.t.Helper()
	s.must(s.withSwitch(func(h *netlink.Handle) error {
		for _, name := range routers {
			port, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := h.LinkSetIsolated(port, on); err != nil {
				return fmt.Errorf("isolate the port of %s: %w", name, err)
			}
		}
		return nil
	}))
}

// questions are what the host asks: ARP requests and neighbour solicitations.
func (s *stand) questions(mac hardware) [][]byte {
	var all [][]byte
	for _, address := range ipv4.virtualAddresses() {
		b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
		b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
		b = append(append(b, mac[:]...), netip.MustParseAddr(hostAddress).AsSlice()...)
		b = append(append(b, 0, 0, 0, 0, 0, 0), address.AsSlice()...)
		all = append(all, b)
	}
	if !s.ipv6 {
		return all
	}
	source := netip.MustParseAddr(hostAddress6)
	for _, address := range ipv6.virtualAddresses() {
		// RFC 4861 §4.3, to the solicited-node group of RFC 4291 §2.7.1.
		target := address.As16()
		group := netip.MustParseAddr("ff02::1:ff00:0").As16()
		copy(group[13:], target[13:])
		message := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
		message = append(append(message, 1, 1), mac[:]...)
		sum := onesComplement(pseudoHeader(source, netip.AddrFrom16(group), protocolICMPv6, len(message)), message)
		binary.BigEndian.PutUint16(message[2:], ^sum)
		b := append([]byte{0x33, 0x33}, group[12:]...)
		b = append(append(b, mac[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(message)), protocolICMPv6, 255)
		b = append(append(append(b, source.AsSlice()...), group[:]...), message...)
		all = append(all, b)
	}
	return all
}

// eventually looks again and again until check is content with a router.
func (s *stand) eventually(router, what string, check func() error) {
	s.t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	timeout := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-s.t.Context().Done():
			s.t.Fatalf("%s %s: %v", router, what, err)
		case <-timeout:
			complaint := fmt.Sprintf("%s %s: not within %v: %v", router, what, patience, err)
			if !s.routers[router].base().ours {
				panic(failedPeer(complaint))
			}
			s.t.Fatal(complaint)
		case <-ticker.C:
		}
	}
}

// pass lets time go by.
func (s *stand) pass(d time.Duration) {
	select {
	case <-s.t.Context().Done():
	case <-time.After(d):
	}
}

var errNotYet = errors.New("not yet")

// judge ends the capture and looks at what it holds.
func (s *stand) judge() *verdict {
	s.t.Helper()
	seen, malformed, err := s.capture.stop()
	s.must(err)
	slices.SortStableFunc(seen, func(a, b sighting) int { return a.at.Compare(b.at) })
	e := evidence{
		segment: s.segment, routers: map[string]settings{}, expected: s.expected, partitions: s.partitions, starts: s.starts,
		late: s.stalls.during, seen: seen, malformed: malformed,
	}
	for name, r := range s.routers {
		e.routers[name] = r.base().settings
	}
	return judge(e)
}
