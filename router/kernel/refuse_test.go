package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tandem/router"
)

// With Accept_Mode false nothing is accepted that is addressed to a virtual address.
func TestRFC9568_6_1_AcceptModeFalseRefusesPackets(t *testing.T) {
	forEachMode(t, func(t *testing.T, l *lab, intent router.Intent, open func(priority byte)) {
		reachable := func(want bool) {
			t.Helper()
			for _, a := range []string{"10.1.0.1", "203.0.113.10"} {
				if err := ping(t, l.client, "0.0.0.0", a); (err == nil) != want {
					t.Errorf("%s answers: %v, want %v", a, err == nil, want)
				}
			}
			for _, a := range []string{"fd00:20::1", "2001:db8:1::10", "fe80::5e:14%c0"} {
				if err := ping6(t, l.client, a); (err == nil) != want {
					t.Errorf("%s answers: %v, want %v", a, err == nil, want)
				}
			}
		}
		l.apply(t, intent)
		open(100)
		reachable(true)
		l.apply(t, refusing(intent))
		reachable(false)
	})
}

// Accept_Mode does not touch ARP, solicitations and advertisements, to groups or to
// the address itself, nor what passes through the router.
func TestRFC9568_6_1_AcceptModeFalseKeepsNeighbourDiscovery(t *testing.T) {
	forEachMode(t, func(t *testing.T, l *lab, intent router.Intent, open func(priority byte)) {
		l.apply(t, refusing(intent))
		open(100)
		for _, a := range gateways() {
			got := l.ask(t, a)
			if len(got) != 1 || got[0].router != a.Is6() {
				t.Fatalf("%s is answered for by %+v", a, got)
			}
			if a.Is4() {
				continue
			}
			// A host that has the address probes it directly (RFC 4861 §7.3.3), and is
			// not told again what it knows.
			mac := parseMAC(t, got[0].claimed)
			stop := capture(t, l.client, "c0")
			inject(t, l.client, "c0", solicitationTo(clientMAC, mac, addr("fe80::50"), a, a))
			got[0].claimed = ""
			if diff := cmp.Diff(got, answers(stop(), a), cmp.AllowUnexported(answer{})); diff != "" {
				t.Errorf("probe of %s: %s", a, diff)
			}
		}
		// A translated flow: its replies are addressed to the virtual address.
		accepted := l.echoServer(t)
		if err := exchange(l.dial(t), "through", 5*time.Second); err != nil {
			t.Error(err)
		}
		if remote := netip.MustParseAddrPort((<-accepted).RemoteAddr().String()); remote.Addr() != addr("203.0.113.10") {
			t.Errorf("the server sees %s", remote)
		}
		if err := ping6(t, l.client, "2001:db8:1::254"); err != nil {
			t.Errorf("through the router: %v", err)
		}
		// The neighbours are learned from their advertisements, which come to the
		// virtual link-local address.
		if err := ping(t, l.client, "0.0.0.0", "203.0.113.254"); err != nil {
			t.Errorf("through the router: %v", err)
		}
	})
}

func parseMAC(t *testing.T, text string) (mac [6]byte) {
	t.Helper()
	for i, word := range strings.Split(text, ":") {
		mac[i] = unhex(t, word[0])<<4 | unhex(t, word[1])
	}
	return mac
}

func unhex(t *testing.T, c byte) byte {
	t.Helper()
	i := strings.IndexByte("0123456789abcdef", c)
	if i < 0 {
		t.Fatalf("%q is no digit", c)
	}
	return byte(i)
}

func forEachMode(t *testing.T, test func(*testing.T, *lab, router.Intent, func(priority byte))) {
	t.Run("virtual MAC", func(t *testing.T) {
		l := newDualLab(t, time.Minute)
		test(t, l, dual(), func(priority byte) { l.advertise(t, priority) })
	})
	t.Run("own MAC", func(t *testing.T) {
		l := newDualLab(t, time.Minute)
		test(t, l, withoutMAC(dual()), func(priority byte) { l.advertiseOwn(t, priority) })
	})
}

// No redirects: they could name an address that hosts do not use as their router.
func TestRFC9568_8_1_1_NoRedirects(t *testing.T) { testRedirects(t, ipv4) }

// The same for IPv6.
func TestRFC9568_8_2_1_NoRedirects(t *testing.T) { testRedirects(t, ipv6) }

// neighbourMAC is of a host that the client could reach without the router.
const neighbourMAC = "02:00:00:00:00:60"

// detour lets a host send by the router what it could send to its neighbour. It
// returns what the neighbour got of three packets, the redirects, and by which link
// they go.
func (l *lab) detour(t *testing.T, f family, ownMAC bool) (link string, send func() (forwarded, redirected [][]byte)) {
	t.Helper()
	link, mac := "lan0", [6]byte{2, 0, 0, 0, 0, 1}
	if !ownMAC {
		link, mac = "vmac20", lanMAC
		if f == ipv6 {
			link, mac = "vmac20v6", lanMAC6
		}
	}
	for _, a := range []string{"10.1.0.60", "fd00:20::60"} {
		if familyOf(addr(a)) == f {
			l.run(t, "ip neigh replace "+a+" lladdr "+neighbourMAC+" dev "+link)
		}
	}
	return link, func() (forwarded, redirected [][]byte) {
		stop := capture(t, l.client, "c0")
		for range 3 {
			if f == ipv4 {
				inject(t, l.client, "c0", echoRequest(clientMAC, mac, addr("10.1.0.50"), addr("10.1.0.60")))
			} else {
				inject(t, l.client, "c0", icmp6(clientMAC, mac, addr("fd00:20::50"), addr("fd00:20::60"), []byte{128, 0, 0, 0, 0, 1, 0, 1}))
			}
		}
		for _, frame := range stop() {
			if formatMAC([6]byte(frame[:6])) == neighbourMAC {
				forwarded = append(forwarded, frame)
			}
			if icmpType(frame) == redirect || frame[12] == 8 && frame[13] == 0 && frame[23] == unix.IPPROTO_ICMP && frame[34] == 5 {
				redirected = append(redirected, frame)
			}
		}
		return forwarded, redirected
	}
}

func testRedirects(t *testing.T, f family) {
	forEachMode(t, func(t *testing.T, l *lab, intent router.Intent, open func(priority byte)) {
		l.apply(t, intent)
		open(100)
		link, send := l.detour(t, f, intent.VirtualLinks[0].OwnMAC)
		forwarded, redirected := send()
		if len(forwarded) == 0 || len(redirected) > 0 {
			t.Errorf("%d packets forwarded, %d redirects", len(forwarded), len(redirected))
		}
		// What would happen otherwise.
		if f == ipv6 {
			l.run(t, "nft flush chain ip6 tandem-lab output")
			// The redirect itself is routed by the main table.
			l.run(t, "ip -6 route add fd00:20::/64 dev "+link+" metric 100")
		} else {
			l.run(t, "sysctl -w net.ipv4.conf."+link+".send_redirects=1")
		}
		// The kernel limits their rate.
		waitFor(t, 10*time.Second, func() bool { _, redirected := send(); return len(redirected) > 0 })
	})
}

// A host without redirects is served all the same: each packet goes the long way, and
// the neighbour sees it come from the virtual MAC address.
func TestRFC9568_8_1_1_DetoursAreForwarded(t *testing.T) { testDetours(t, ipv4) }

// The same for IPv6.
func TestRFC9568_8_2_1_DetoursAreForwarded(t *testing.T) { testDetours(t, ipv6) }

func testDetours(t *testing.T, f family) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	_, send := l.detour(t, f, false)
	if forwarded, _ := send(); len(forwarded) > 0 {
		t.Errorf("a BACKUP forwards %d packets", len(forwarded))
	}
	l.advertise(t, 100)
	forwarded, _ := send()
	if len(forwarded) != 3 {
		t.Errorf("%d of 3 packets forwarded", len(forwarded))
	}
	want := map[family][6]byte{ipv4: lanMAC, ipv6: lanMAC6}[f]
	for _, frame := range forwarded {
		if [6]byte(frame[6:12]) != want {
			t.Errorf("forwarded from %s: %x", formatMAC([6]byte(frame[6:12])), frame)
		}
	}
}

// echoRequest is a ping by a chosen router.
func echoRequest(from, to [6]byte, source, destination netip.Addr) []byte {
	message := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(message[2:], checksum(message))
	header := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0}
	header = slices.Concat(header, source.AsSlice(), destination.AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return slices.Concat(to[:], from[:], []byte{8, 0}, header, message)
}
