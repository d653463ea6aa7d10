package consult

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/appliance/doctor"
	"tandem/conntracksync/peer"
	"tandem/router/config"
)

func reference(t *testing.T) *config.Document {
	t.Helper()
	const path = "../../../docs/reference.yaml"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := config.Parse(path, text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestCarriersOfTheReference(t *testing.T) {
	doc := reference(t)
	carriers, err := carriersOf(doc, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	if carriers[0].name != "ha" || carriers[0].other != netip.MustParseAddr("169.254.77.2") || len(carriers[0].links) > 0 {
		t.Errorf("the first carrier is %+v, want the HA link", carriers[0])
	}
	if len(carriers) != 2+len(doc.Uplinks)+len(doc.Networks) {
		t.Errorf("%d carriers for %d uplinks and %d networks", len(carriers), len(doc.Uplinks), len(doc.Networks))
	}
	if last := carriers[len(carriers)-1]; last.name != "ha2" || last.own.String() != "169.254.77.5/30" || len(last.links) > 0 {
		t.Errorf("the last carrier is %+v, want the second HA link", last)
	}
	for _, c := range carriers[1 : len(carriers)-1] {
		var vrrp config.VRRP
		var ipv6 *config.IPv6
		uplink := false
		for _, u := range doc.Uplinks {
			if u.Name == c.name {
				vrrp, ipv6, uplink = u.VRRP, u.IPv6, true
			}
		}
		for _, n := range doc.Networks {
			if n.Name == c.name {
				vrrp, ipv6 = n.VRRP, n.IPv6
			}
		}
		if c.multicast == vrrp.Unicast || c.ipv6 != (ipv6 != nil) || (len(c.links) > 0) != vrrp.VirtualMAC || (len(c.gateways) > 0) != uplink {
			t.Errorf("%s is %+v, the document has %+v and IPv6 %v", c.name, c, vrrp, ipv6 != nil)
		}
		if !c.own.Contains(c.other) || c.own.Addr() == c.other {
			t.Errorf("%s has the addresses %v and %v", c.name, c.own, c.other)
		}
		for _, l := range c.links {
			if !c.isVirtual(l.mac) || len(l.addresses) == 0 {
				t.Errorf("%s has the virtual link %+v", c.name, l)
			}
		}
		if len(c.tested()) > maxVirtual {
			t.Errorf("%s has %d virtual MAC addresses to test", c.name, len(c.tested()))
		}
	}
	if _, err := carriersOf(doc, "charlie"); err == nil {
		t.Error("a stranger has carriers")
	}
}

func TestForeignLeavesOutTheMembers(t *testing.T) {
	c := carrier{sources: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fe80::3")}}
	heard := []doctor.Router{{VRID: 1, Source: "10.0.0.3"}, {VRID: 1, Source: "10.0.0.4"}, {VRID: 1, Source: "fe80::3"}, {VRID: 1, Source: "fe80::4"}}
	want := []doctor.Router{{VRID: 1, Source: "10.0.0.4"}, {VRID: 1, Source: "fe80::4"}}
	if diff := cmp.Diff(want, foreign(c, heard)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct{ mtu, other int }{{1500, 1500}, {1500, 1400}, {1400, 1500}, {9000, 1500}, {68, 1500}, {1501, 1501}} {
		list := sizes(tt.mtu, tt.other)
		if !slices.IsSorted(list) || list[len(list)-1] != tt.mtu {
			t.Errorf("sizes(%d, %d) is %v", tt.mtu, tt.other, list)
		}
		if tt.other < tt.mtu && !slices.Contains(list, tt.other) {
			t.Errorf("sizes(%d, %d) lacks the other side's MTU: %v", tt.mtu, tt.other, list)
		}
	}
}

func TestDoctorPort(t *testing.T) {
	for port, want := range map[uint16]uint16{3112: 3113, 65534: 65535, 65535: 65534} {
		if got := doctorPort(port); got != want {
			t.Errorf("beside %d the doctor takes %d, want %d", port, got, want)
		}
	}
}

// encounterOf lets two doctors meet on loopback.
func encounterOf(t *testing.T, callerKey, answererKey string) (caller, answerer encounter) {
	t.Helper()
	a, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if callerKey == "" {
		callerKey = a.PublicKey()
	}
	if answererKey == "" {
		answererKey = b.PublicKey()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	at := netip.MustParseAddrPort("127.0.0.1:0")
	reserved, err := peer.Listen(ctx, peer.Config{Identity: b, PeerKey: a.PublicKey(), Local: at})
	if err != nil {
		t.Fatal(err)
	}
	at = reserved.Addr()
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan encounter, 1)
	go func() {
		c, err := call(ctx, peer.Config{Identity: b, PeerKey: callerKey, Local: at, Remote: netip.MustParseAddrPort("127.0.0.1:0")}, false)
		done <- encounter{c, err}
	}()
	channel, err := call(ctx, peer.Config{Identity: a, PeerKey: answererKey, Local: netip.MustParseAddrPort("127.0.0.1:0"), Remote: at}, true)
	return encounter{channel, err}, <-done
}

func TestDoctorsMeetAndTalkInStep(t *testing.T) {
	a, b := encounterOf(t, "", "")
	if a.err != nil || b.err != nil {
		t.Fatal(a.err, b.err)
	}
	defer func() { _, _ = a.channel.Close(), b.channel.Close() }() // the test is over
	one, two := conversation{channel: a.channel}, conversation{channel: b.channel}
	done := make(chan error, 1)
	var heard string
	go func() { done <- two.exchange("hello", stepPatience, "from two", &heard) }()
	var answer string
	if err := one.exchange("hello", stepPatience, "from one", &answer); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || heard != "from one" || answer != "from two" {
		t.Errorf("heard %q and %q: %v", heard, answer, err)
	}
	go func() { done <- two.step("another") }()
	if err := one.step("one"); !errors.Is(err, errSpeech) {
		t.Errorf("out of step: %v", err)
	}
	if err := <-done; !errors.Is(err, errSpeech) {
		t.Errorf("out of step: %v", err)
	}
}

func TestStrangersAreFinal(t *testing.T) {
	stranger, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	a, b := encounterOf(t, stranger.PublicKey(), "")
	if !final(a.err) || !final(b.err) {
		t.Errorf("a key that the document does not name: %v and %v", a.err, b.err)
	}
}
