package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// ask sends a question of the client and returns who answers.
func (l *lab) ask(t *testing.T, target netip.Addr) []answer {
	t.Helper()
	stop := capture(t, l.client, "c0")
	if target.Is4() {
		inject(t, l.client, "c0", arpRequest(clientMAC, addr("10.1.0.50"), target))
	} else {
		inject(t, l.client, "c0", solicitation(clientMAC, addr("fe80::50"), target))
	}
	return answers(stop(), target)
}

// The gateway's addresses on the LAN, by family.
func gateways() []netip.Addr {
	return []netip.Addr{addr("10.1.0.1"), addr("fe80::5e:14"), addr("fd00:20::1")}
}

func virtualAnswer(a netip.Addr) []answer {
	if a.Is4() {
		return []answer{{sender: formatMAC(lanMAC), claimed: formatMAC(lanMAC)}}
	}
	return []answer{{sender: formatMAC(lanMAC6), claimed: formatMAC(lanMAC6), router: true}}
}

// The address of a host on the virtual link never comes from its MAC address: there
// is none but the configured ones, whatever a router advertisement says.
func TestRFC9568_7_4_NoInterfaceIdentifierFromVirtualMAC(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	l.advertise(t, 100)
	// A router advertisement with a prefix from which hosts make addresses (RFC 4861 §4.6.2).
	message := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0}
	message = append(message, addr("fd00:77::").AsSlice()...)
	stop := capture(t, l.router, "vmac20v6")
	inject(t, l.client, "c0", icmp6(clientMAC, [6]byte{0x33, 0x33, 0, 0, 0, 1}, addr("fe80::50"), addr("ff02::1"), message))
	heard := false
	for _, f := range stop() {
		heard = heard || icmpType(f) == 134
	}
	if !heard {
		t.Fatal("the virtual link did not hear the advertisement")
	}
	l.run(t, "ip link set vmac20v6 down")
	l.apply(t, dual())
	var have []string
	for line := range strings.Lines(l.dump6(t)) {
		if strings.HasPrefix(line, "addr") && strings.Contains(line, "vmac20v6") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	slices.Sort(have)
	want := []string{"addr fd00:20::1/128 dev vmac20v6 nodad deprecated noprefixroute", "addr fe80::5e:14/64 dev vmac20v6 nodad"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
}

// An address that the kernel did make of a virtual MAC address is taken away.
func TestRFC9568_7_4_InterfaceIdentifierFromVirtualMACIsRemoved(t *testing.T) {
	l := newDualLab(t, time.Second)
	l.apply(t, dual())
	l.run(t, "sysctl -w net.ipv6.conf.vmac20v6.addr_gen_mode=0")
	l.run(t, "ip link set vmac20v6 down")
	l.run(t, "ip link set vmac20v6 up")
	if d := l.dump6(t); !strings.Contains(d, "addr fe80::200:5eff:fe00:214/64 dev vmac20v6") {
		t.Fatalf("the kernel made no address:\n%s", d)
	}
	l.apply(t, dual())
	l.checkDual(t, goldenDual)
}

// While the fence is closed, the virtual MAC addresses say nothing while the node
// programs its kernel, loses and regains its links and its addresses of IPv6.
func TestRFC9568_8_1_2_NothingBeforeAddressAndVirtualMAC(t *testing.T) {
	l := newDualLab(t, time.Minute)
	stop := capture(t, l.client, "c0")
	l.apply(t, dual())
	for _, c := range []string{
		"ip -6 addr flush dev vmac20v6", "ip link set vmac20v6 down", "ip link set lan0 down", "ip link set lan0 up",
		"sysctl -w net.ipv6.conf.vmac20v6.disable_ipv6=1", "ip link del vmac20", "ip link del vmac20v6",
		"sysctl -w net.ipv6.conf.all.forwarding=0",
	} {
		l.run(t, c)
		l.apply(t, dual())
	}
	runIn(t, l.client, "ip link set c0 down")
	runIn(t, l.client, "ip link set c0 up")
	l.apply(t, dual())
	for _, a := range gateways() {
		inject(t, l.client, "c0", solicitationOrRequest(a))
	}
	// The parent finishes what it says for itself; that takes a second or two.
	waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
	frames := stop()
	if len(frames) == 0 {
		t.Fatal("nothing captured")
	}
	for _, f := range virtualFrames(frames) {
		t.Errorf("a virtual MAC address says %x", f)
	}
	for _, a := range gateways() {
		if got := answers(frames, a); len(got) > 0 {
			t.Errorf("%s is answered for by %+v", a, got)
		}
	}
	// The same test, with the fence open, would have caught something.
	stop = capture(t, l.client, "c0")
	l.advertise(t, 100)
	l.run(t, "ip link set vmac20v6 down")
	l.apply(t, dual())
	if len(virtualFrames(stop())) < 2 {
		t.Error("the open fence lets nothing pass but the advertisement")
	}
}

func solicitationOrRequest(a netip.Addr) []byte {
	if a.Is4() {
		return arpRequest(clientMAC, addr("10.1.0.50"), a)
	}
	return solicitation(clientMAC, addr("fe80::50"), a)
}

// Nobody learns a physical MAC address for a virtual address of IPv4.
func TestRFC9568_8_1_2_AnswersCarryVirtualMAC(t *testing.T) { testAnswers(t, true) }

// The same for neighbour discovery, with the Router flag.
func TestRFC9568_8_2_2_AnswersCarryVirtualMAC(t *testing.T) { testAnswers(t, false) }

func testAnswers(t *testing.T, version4 bool) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	for _, open := range []bool{false, true} {
		if open {
			l.advertise(t, 100)
		}
		for _, a := range gateways() {
			if a.Is4() != version4 {
				continue
			}
			want := virtualAnswer(a)
			if !open {
				want = nil
			}
			if diff := cmp.Diff(want, l.ask(t, a), cmp.AllowUnexported(answer{})); diff != "" {
				t.Errorf("%s, MASTER %v: %s", a, open, diff)
			}
		}
	}
}

// What the MASTER asks its hosts has the virtual MAC address as source, in the
// frame and in the message.
func TestRFC9568_8_2_2_SolicitationsCarryVirtualMAC(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	l.advertise(t, 100)
	// The client asks for nothing, by which it would be learned.
	runIn(t, l.client, "ip -6 neigh replace fd00:20::1 lladdr "+formatMAC(lanMAC6)+" dev c0")
	stop := capture(t, l.client, "c0")
	if err := ping6(t, l.client, "fd00:20::1"); err != nil {
		t.Errorf("the gateway does not answer: %v", err)
	}
	asked := 0
	for _, f := range stop() {
		if icmpType(f) != neighborSolicitation || [6]byte(f[6:12]) == clientMAC || discovered(f) != addr("fd00:20::50") {
			continue
		}
		asked++
		if [6]byte(f[6:12]) != lanMAC6 || len(f) < 86 || f[78] != 1 || [6]byte(f[80:86]) != lanMAC6 {
			t.Errorf("the MASTER asks with %x", f)
		}
	}
	if asked == 0 {
		t.Error("the MASTER asks nobody")
	}
}

// Each node has addresses of its own by which it is managed, as MASTER and as
// BACKUP, with its own MAC address.
func TestRFC9568_8_1_2_ManagementByOwnAddress(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
	for _, open := range []bool{false, true} {
		if open {
			l.advertise(t, 100)
		}
		for _, a := range []string{"10.1.0.2", "fd00:20::2", "fe80::5e:14:1"} {
			own := addr(a)
			got := l.ask(t, own)
			if len(got) != 1 || got[0].sender != portMACs[0] || got[0].claimed != portMACs[0] {
				t.Errorf("MASTER %v: %s is answered for by %+v", open, a, got)
			}
		}
		if err := ping(t, l.client, "0.0.0.0", "10.1.0.2"); err != nil {
			t.Errorf("MASTER %v: %v", open, err)
		}
		if err := ping6(t, l.client, "fd00:20::2"); err != nil {
			t.Errorf("MASTER %v: %v", open, err)
		}
	}
}

// Who answers for others does it with the virtual MAC address.
func TestRFC9568_8_1_3_ProxyARPCarriesVirtualMAC(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.run(t, "sysctl -w net.ipv4.conf.lan0.proxy_arp=1")
	l.apply(t, dual())
	l.run(t, "sysctl -w net.ipv4.conf.vmac20.proxy_arp=1")
	l.advertise(t, 100)
	want := answer{sender: formatMAC(lanMAC), claimed: formatMAC(lanMAC)}
	// The kernel takes its time with such answers, and one may come between two captures.
	var got []answer
	var stop func() [][]byte
	looks := 0
	waitFor(t, 5*time.Second, func() bool {
		if looks%5 == 0 {
			stop = capture(t, l.client, "c0")
			inject(t, l.client, "c0", arpRequest(clientMAC, addr("10.1.0.50"), addr("203.0.113.254")))
		}
		if looks++; looks%5 > 0 {
			return false
		}
		got = append(got, answers(stop(), addr("203.0.113.254"))...)
		return len(got) > 0
	})
	for _, one := range got {
		if one != want {
			t.Errorf("answered by %+v, want %+v", one, want)
		}
	}
}

// A BACKUP is nobody's proxy, neither by the virtual MAC address nor by its own.
func TestRFC9568_8_1_3_BackupIsNoProxy(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	beyond := addr("203.0.113.254")
	for _, link := range []string{"lan0", "vmac20"} {
		l.run(t, "sysctl -w net.ipv4.neigh."+link+".proxy_delay=0")
	}
	l.run(t, "sysctl -w net.ipv4.conf.vmac20.proxy_arp=1")
	if got := l.ask(t, beyond); len(got) > 0 {
		t.Errorf("a BACKUP answers for %s: %+v", beyond, got)
	}
	l.advertise(t, 100)
	if diff := cmp.Diff(virtualAnswer(addr("10.1.0.1")), l.ask(t, beyond), cmp.AllowUnexported(answer{})); diff != "" {
		t.Errorf("a MASTER does not answer as a proxy, so this proves nothing: %s", diff)
	}
}

// A BACKUP does not look for duplicates of the virtual addresses: it would find the
// MASTER's.
func TestRFC9568_8_2_2_NoDuplicateAddressDetection(t *testing.T) {
	l := newDualLab(t, time.Minute)
	// The lease is open, so that nothing is held back.
	l.apply(t, dual())
	l.advertise(t, 100)
	stop := capture(t, l.client, "c0")
	l.run(t, "ip -6 addr flush dev vmac20v6")
	l.apply(t, dual())
	if out := l.run(t, "ip -6 addr show dev vmac20v6"); strings.Contains(out, "tentative") {
		t.Errorf("the kernel waits: %s", out)
	}
	for _, f := range stop() {
		if icmpType(f) == neighborSolicitation && netip.AddrFrom16([16]byte(f[22:38])).IsUnspecified() && [6]byte(f[6:12]) == lanMAC6 {
			t.Errorf("duplicate address detection: %x", f)
		}
	}
	if diff := cmp.Diff(virtualAnswer(addr("fd00:20::1")), l.ask(t, addr("fd00:20::1")), cmp.AllowUnexported(answer{})); diff != "" {
		t.Error(diff)
	}
}

// The node's own address, in contrast, is given up if another host has it.
func TestRFC9568_8_2_2_OwnAddressIsNotDuplicate(t *testing.T) {
	l := newDualLab(t, time.Minute)
	runIn(t, l.client, "ip -6 addr add fd00:20::2/64 dev c0 nodad")
	waitFor(t, 10*time.Second, func() bool { return len(l.apply(t, dual()).Conflicts) == 1 })
	if got := l.ask(t, addr("fd00:20::2")); len(got) > 0 {
		t.Errorf("the node answers for another host's address: %+v", got)
	}
}

// Hosts that tell unasked where they are are learned, as MASTER on the virtual link
// and as BACKUP on the port.
func TestRFC9568_8_2_4_UnsolicitedAdvertisementsAreLearned(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
	for link, open := range map[string]bool{"lan0": false, "vmac20v6": true} {
		if open {
			l.advertise(t, 100)
		}
		host := addr(fmt.Sprintf("fd00:20::5%d", len(link)))
		inject(t, l.client, "c0", advertisement(clientMAC, host, host))
		waitFor(t, 5*time.Second, func() bool {
			return strings.Contains(l.run(t, "ip -6 neigh show dev "+link), host.String()+" lladdr "+formatMAC(clientMAC))
		})
	}
}

// A host outside the subnet is not believed.
func TestRFC9568_8_2_4_StrangersAreNotLearned(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	host := addr("fd00:99::5")
	inject(t, l.client, "c0", advertisement(clientMAC, host, host))
	inject(t, l.client, "c0", advertisement(clientMAC, addr("fd00:20::57"), addr("fd00:20::57")))
	waitFor(t, 10*time.Second, func() bool {
		inject(t, l.client, "c0", advertisement(clientMAC, addr("fd00:20::57"), addr("fd00:20::57")))
		return strings.Contains(l.run(t, "ip -6 neigh show dev lan0"), "fd00:20::57")
	})
	if out := l.run(t, "ip -6 neigh show dev lan0"); strings.Contains(out, host.String()) {
		t.Errorf("learned: %s", out)
	}
}

// What is for a virtual address is not forwarded: it is local on every node, whether
// MASTER or BACKUP.
func TestRFC9568_8_3_1_VirtualAddressesAreLocal(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	for _, c := range []string{
		"ip route get 203.0.113.10 from 10.1.0.50 iif vmac20", "ip route get 10.1.0.1 from 10.1.0.50 iif vmac20",
		"ip -6 route get 2001:db8:1::10 from fd00:20::50 iif vmac20v6", "ip -6 route get fd00:20::1 from fd00:20::50 iif vmac20v6",
	} {
		if out := l.run(t, c); !strings.HasPrefix(out, "local ") {
			t.Errorf("%s: %s", c, out)
		}
	}
}

// A virtual address that this node cannot have is not looked for elsewhere, above
// all not outside.
func TestRFC9568_8_3_1_AbsentVirtualAddressesAreUnreachable(t *testing.T) {
	l := newDualLab(t, time.Minute)
	intent := dual()
	intent.VirtualLinks = append(
		intent.VirtualLinks,
		router.VirtualLink{Name: "vmac30", Carrier: "guests", Parent: "nic9", MAC: [6]byte{0, 0, 0x5e, 0, 1, 30}, Addresses: []netip.Addr{addr("10.9.0.1")}},
		router.VirtualLink{Name: "vmac30v6", Carrier: "guests/ipv6", Parent: "nic9", MAC: [6]byte{0, 0, 0x5e, 0, 2, 30}, IPv6: true, Addresses: []netip.Addr{addr("fe80::5e:1e"), addr("fd00:30::1")}},
	)
	l.apply(t, intent) // the routes of the guests come later
	l.advertise(t, 100)
	outside := func() int {
		stop := capture(t, l.server, "s0")
		_ = ping(t, l.client, "0.0.0.0", "10.9.0.1")
		_ = ping6(t, l.client, "fd00:30::1")
		count := 0
		for _, f := range stop() {
			if len(f) > 34 && f[12] == 8 && f[13] == 0 && f[23] == unix.IPPROTO_ICMP && [4]byte(f[30:34]) == [4]byte{10, 9, 0, 1} ||
				icmpType(f) == 128 && netip.AddrFrom16([16]byte(f[38:54])) == addr("fd00:30::1") {
				count++
			}
		}
		return count
	}
	if n := outside(); n != 2 {
		t.Fatalf("without a route for the guests, both packets should leave by the uplink, %d did", n)
	}
	for _, r := range []router.Route{
		{Destination: prefix("10.9.0.0/24"), Link: "vmac30"}, {Destination: prefix("fd00:30::/64"), Link: "vmac30v6"},
	} {
		for _, r.Table = range []int{1010, 1020} {
			intent.Routes = append(intent.Routes, r)
		}
	}
	l.apply(t, intent)
	if n := outside(); n != 0 {
		t.Errorf("%d packets for an absent virtual address went outside", n)
	}
	if again := l.apply(t, intent); len(again.Changed) > 0 {
		t.Errorf("changed again %q", again.Changed)
	}
}
