package wire

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPhysicalLinkFlaps(t *testing.T) {
	a, b := pair(t)
	here, there := a.open(a.config(false)), b.open(b.config(false))
	ear, peer := a.listen(false), b.listen(false)
	buffer := make([]byte, MaxPacket)
	for range 2 {
		a.set("a0", false)
		if !readable(t, ear, patience) {
			t.Fatal("the descriptor does not report that the link went down")
		}
		if _, _, err := ear.Receive(buffer); !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrLinkGone) {
			t.Errorf("receiving on a link that is down: %v, want %v", err, ErrLinkDown)
		}
		silent(t, ear) // reported once
		for name, err := range map[string]error{
			"advertising": here.Advertise(a.message(here, 150)),
			"renewing":    here.Renew(a.message(here, 150)),
			"asking":      here.Ask(a.message(here, 1)),
			"announcing":  here.Announce(netip.MustParseAddr("192.0.2.1")),
			"the port":    here.Up(),
			"receiver":    ear.Up(),
		} {
			if !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrLinkGone) {
				t.Errorf("%s with a link that is down: %v, want %v", name, err, ErrLinkDown)
			}
		}
		a.set("a0", true)
		check(t, errors.Join(here.Up(), ear.Up()))
		reaches(t, a, here, peer)
		reaches(t, b, there, ear)
	}
}

// IPv6 addresses do not survive a link that goes down; the receiver does not
// depend on them, nor does the sender.
func TestPhysicalLinkFlapsWithIPv6(t *testing.T) {
	a, b := pair(t)
	here, there := a.open(a.config(true)), b.open(b.config(true))
	ear, peer := a.listen(true), b.listen(true)
	a.set("a0", false)
	if _, _, err := ear.Receive(make([]byte, MaxPacket)); !errors.Is(err, ErrLinkDown) {
		t.Errorf("receiving on a link that is down: %v, want %v", err, ErrLinkDown)
	}
	a.set("a0", true)
	reaches(t, a, here, peer)
	reaches(t, b, there, ear)
}

func TestVirtualLinkFlaps(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		here, there := a.open(a.config(ipv6)), b.open(b.config(ipv6))
		ear, peer := a.listen(ipv6), b.listen(ipv6)
		a.set(a.virtual(ipv6), false)
		if err := here.Advertise(a.message(here, 150)); !errors.Is(err, ErrLinkDown) || errors.Is(err, ErrLinkGone) {
			t.Errorf("advertising through a macvlan that is down: %v, want %v", err, ErrLinkDown)
		}
		if err := here.Announce(virtualAddress(ipv6)); !errors.Is(err, ErrLinkDown) {
			t.Errorf("announcing through a macvlan that is down: %v, want %v", err, ErrLinkDown)
		}
		check(t, here.Up()) // it is about the physical one
		check(t, there.Advertise(b.message(there, 150)))
		receive(t, ear) // reception does not depend on the macvlan
		a.set(a.virtual(ipv6), true)
		check(t, here.Advertise(a.message(here, 150)))
		receive(t, peer)
	}
}

func TestDeletedMacvlanIsToldFromOneThatIsDown(t *testing.T) {
	a, _ := pair(t)
	for _, ipv6 := range families() {
		port := a.open(a.config(ipv6))
		link, err := netlink.LinkByName(a.virtual(ipv6))
		check(t, err)
		check(t, netlink.LinkDel(link))
		err = port.Advertise(a.message(port, 150))
		if !errors.Is(err, ErrLinkGone) || !errors.Is(err, ErrLinkDown) {
			t.Errorf("advertising through a deleted macvlan: %v, want %v", err, ErrLinkGone)
		}
	}
}

func TestDeletedInterfaceIsToldFromOneThatIsDown(t *testing.T) {
	a, b := pair(t)
	port, own, ear := a.open(a.config(false)), a.open(a.ownMAC(false)), a.listen(false)
	link, err := netlink.LinkByName("a0")
	check(t, err)
	check(t, netlink.LinkDel(link))
	if _, _, err := ear.Receive(make([]byte, MaxPacket)); !errors.Is(err, ErrLinkGone) {
		t.Errorf("receiving on a deleted interface: %v, want %v", err, ErrLinkGone)
	}
	gone := func(when string) {
		t.Helper()
		for name, err := range map[string]error{
			"port":      port.Up(),
			"receiver":  ear.Up(),
			"advert":    port.Advertise(a.message(port, 150)),
			"own MAC":   own.Advertise(a.message(own, 150)),
			"announces": own.Announce(virtualAddress(false)),
		} {
			if !errors.Is(err, ErrLinkGone) {
				t.Errorf("%s: %s: %v, want %v", when, name, err, ErrLinkGone)
			}
		}
	}
	gone("deleted")
	// Another interface of that name is another one.
	check(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "b0", PeerNamespace: netlink.NsFd(b.namespace),
	}))
	a.set("a0", true)
	gone("replaced")
	check(t, errors.Join(port.Close(), own.Close(), ear.Close()))
	a.configure()
	b.configure()
	here, peer := a.open(a.config(false)), b.listen(false)
	reaches(t, a, here, peer)
}

func TestOpenWhileTheLinkIsDown(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		a.set("a0", false)
		here, there := a.open(a.config(ipv6)), b.open(b.config(ipv6))
		ear, peer := a.listen(ipv6), b.listen(ipv6)
		a.set("a0", true)
		if _, _, err := ear.Receive(make([]byte, MaxPacket)); err != nil && !errors.Is(err, ErrLinkDown) {
			t.Error(err) // that the link was down may be remembered
		}
		reaches(t, a, here, peer)
		reaches(t, b, there, ear)
	}
}

func TestOpenRefuses(t *testing.T) {
	a, _ := pair(t)
	a.enter()
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"unknown interface", func(c *Config) { c.Interface = "eth9" }, `"eth9"`},
		{"unknown virtual link", func(c *Config) { c.VirtualLink = "vmac9" }, `"vmac9"`},
		{"not Ethernet", func(c *Config) { c.Interface = "lo" }, `"lo"`},
		{"peer of another family", func(c *Config) { c.Unicast = netip.MustParseAddr("fe80::1") }, "fe80::1"},
		{"peer is a group", func(c *Config) { c.Unicast = netip.MustParseAddr("224.0.0.18") }, "224.0.0.18"},
		{"peer is the node", func(c *Config) { c.Unicast = c.Source }, "itself"},
		{"no source", func(c *Config) { c.Source = netip.Addr{} }, "source"},
		{"source with a zone", func(c *Config) { c.Source = netip.MustParseAddr("fe80::1%a0") }, "fe80::1%a0"},
		{"mapped source", func(c *Config) { c.Source = netip.MustParseAddr("::ffff:192.0.2.1") }, "source"},
	} {
		config := a.config(false)
		c.change(&config)
		p, err := Open(a.sender, config) // not in a subtest, which would be on another thread
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "lan") {
			t.Errorf("%s: error %v, want one about the carrier and %s", c.name, err, c.want)
		}
		if p != nil {
			t.Errorf("%s: a port in spite of the error", c.name)
		}
	}
	if r, err := OpenReceiver(ReceiverConfig{Interface: "eth9"}); err == nil || r != nil || !strings.Contains(err.Error(), `"eth9"`) {
		t.Errorf("receiver on an unknown interface: %v, %v", r, err)
	}
	if len(a.sender.sockets) != 0 {
		t.Errorf("%d sockets left behind", len(a.sender.sockets))
	}
}

// Ports share sockets, but none takes one from another.
func TestClosedPortLeavesTheOthersTheirSocket(t *testing.T) {
	a, b := pair(t)
	for _, ipv6 := range families() {
		for _, config := range []Config{a.config(ipv6), a.unicast(b, ipv6)} {
			first, second, ear := a.open(config), a.open(config), b.listen(ipv6)
			check(t, first.Close())
			check(t, first.Close()) // which must not count twice
			check(t, second.Advertise(a.message(second, 150)))
			receive(t, ear)
			check(t, second.Close())
			if len(a.sender.sockets) != 0 {
				t.Errorf("%d sockets left behind", len(a.sender.sockets))
			}
		}
	}
}

func TestClosedPortSendsNothing(t *testing.T) {
	a, _ := pair(t)
	for _, ipv6 := range families() {
		unicast := a.config(ipv6)
		unicast.Unicast = map[bool]netip.Addr{false: netip.MustParseAddr("192.0.2.252"), true: netip.MustParseAddr("fe80::252")}[ipv6]
		for _, config := range []Config{a.config(ipv6), unicast} {
			port := a.open(config)
			check(t, port.Close())
			for name, err := range map[string]error{
				"advertise": port.Advertise(a.message(port, 1)),
				"revoke":    port.Revoke(a.message(port, 1)),
				"announce":  port.Announce(virtualAddress(ipv6)),
			} {
				if !errors.Is(err, unix.EBADF) {
					t.Errorf("%s through a closed port: %v", name, err)
				}
			}
			check(t, port.Close())
		}
	}
	port := a.open(a.config(false))
	check(t, a.sender.Close())
	if err := port.Advertise(a.message(port, 1)); !errors.Is(err, unix.EBADF) {
		t.Errorf("advertising through a closed sender: %v", err)
	}
	check(t, port.Close())
}
