package fence_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

// crowd makes a parent with the most links that it can carry: 255 virtual routers
// of either family.
func crowd(t testing.TB) (*fence.Fence, fence.Config, *netlink.Handle, func(command string) error) {
	t.Helper()
	l := &lab{node: namespace(t)}
	cfg := fence.Config{Group: group, Lease: time.Minute}
	in(t, l.node, func() error {
		var err error
		if l.nodeLinks, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if l.fence, err = fence.New(); err != nil {
			return err
		}
		return l.nodeLinks.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "b0"})
	})
	t.Cleanup(func() { l.nodeLinks.Close(); _ = l.fence.Close() })
	a0, err := l.nodeLinks.LinkByName("a0")
	if err != nil {
		t.Fatal(err)
	}
	for family := range byte(2) {
		for i := range byte(255) {
			link := fence.Link{
				Name: fmt.Sprintf("v%dx%d", family, i), Parent: "a0", IPv6: family == 1,
				MAC: [6]byte{0, 0, 0x5e, 0, 1 + family, i + 1}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, i, 1})},
			}
			if link.IPv6 {
				link.Addresses = []netip.Addr{
					netip.AddrFrom16([16]byte{0xfe, 0x80, 13: 0x5e, 15: i}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i}),
				}
			}
			cfg.Links = append(cfg.Links, link)
			err := l.nodeLinks.LinkAdd(&netlink.Macvlan{
				LinkAttrs: netlink.LinkAttrs{Name: link.Name, ParentIndex: a0.Attrs().Index, HardwareAddr: link.MAC[:]},
				Mode:      netlink.MACVLAN_MODE_BRIDGE,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return l.fence, cfg, l.nodeLinks, func(command string) error {
		tt, ok := t.(*testing.T)
		if !ok {
			return errors.ErrUnsupported
		}
		return l.nft(tt, command)
	}
}

// The first Ensure makes a thousand chains, the others find them.
func BenchmarkEnsure510Links(b *testing.B) {
	f, cfg, _, _ := crowd(b)
	start := time.Now()
	if _, err := f.Ensure(cfg); err != nil {
		b.Fatal(err)
	}
	first := time.Since(start)
	b.ReportAllocs()
	for b.Loop() {
		if changed, err := f.Ensure(cfg); err != nil || len(changed) > 0 {
			b.Fatal(changed, err)
		}
	}
	b.ReportMetric(float64(first.Microseconds())/1000, "ms/first")
}

// Among a thousand chains the drift of one is found, and only that one is touched.
func TestDriftOfOneLinkAmongMany(t *testing.T) {
	f, cfg, links, nft := crowd(t)
	f.Plain()
	if _, err := f.Ensure(cfg); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if changed, err := f.Ensure(cfg); err != nil || len(changed) > 0 {
		t.Fatalf("second Ensure: %q, %v", changed, err)
	}
	// The node does it every second. It takes 16 ms on an idle machine.
	if took := time.Since(start); took > time.Second/2 {
		t.Errorf("Ensure without changes took %s", took)
	}
	for command, want := range map[string]string{
		"flush chain netdev tandem-lab ingress-v1x254":                       "rebuild chain ingress-v1x254",
		"insert rule netdev tandem-lab egress-v0x7 accept":                   "replace the rules of chain egress-v0x7",
		"add chain netdev tandem-lab egress-v0x9 { policy accept; }":         "rebuild chain egress-v0x9",
		"flush chain netdev tandem-lab guard-egress":                         "replace the rules of chain guard-egress",
		"flush chain netdev tandem-lab parent-ingress-a0":                    "rebuild chain parent-ingress-a0",
		"add chain netdev tandem-lab x; add rule netdev tandem-lab x accept": "delete chain x",
	} {
		if err := nft(command); err != nil {
			t.Fatal(err)
		}
		if err := f.Check(cfg); err == nil {
			t.Errorf("after %q Check sees nothing wrong", command)
		}
		if changed, err := f.Ensure(cfg); err != nil || len(changed) != 1 || changed[0] != want {
			t.Errorf("after %q: %q, %v", command, changed, err)
		}
	}
	lost, err := links.LinkByName("v1x100")
	if err != nil {
		t.Fatal(err)
	}
	if err := links.LinkDel(lost); err != nil {
		t.Fatal(err)
	}
	var missing *fence.MissingDevicesError
	if err := f.Check(cfg); err == nil {
		t.Error("a lost link is not seen")
	}
	if _, err := f.Ensure(cfg); !errors.As(err, &missing) || len(missing.Devices) != 1 || missing.Devices[0] != "v1x100" {
		t.Errorf("without a link: %v", err)
	}
	if err := nft("flush ruleset"); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if _, err := f.Ensure(cfg); !errors.As(err, &missing) {
		t.Errorf("restored: %v", err)
	}
	t.Logf("a fence of %d links stands %s after its flush was noticed", len(cfg.Links), time.Since(start))
	if err := f.Check(cfg); !errors.As(err, &missing) {
		t.Errorf("check: %v", err)
	}
}
