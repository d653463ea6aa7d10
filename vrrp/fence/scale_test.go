package fence_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

func BenchmarkScale(b *testing.B) {
	ns := namespace(b)
	var f *fence.Fence
	cfg := fence.Config{Group: group, Lease: time.Minute}
	in(b, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if f, err = fence.New(); err != nil {
			return err
		}
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "b0"}); err != nil {
			return err
		}
		a0, err := h.LinkByName("a0")
		if err != nil {
			return err
		}
		for v6 := range 2 {
			for i := range 255 {
				l := fence.Link{Name: fmt.Sprintf("v%dx%d", v6, i), Parent: "a0", MAC: [6]byte{0, 0, 0x5e, 0, byte(1 + v6), byte(i + 1)}}
				if v6 == 1 {
					l.IPv6 = true
					l.Addresses = []netip.Addr{netip.MustParseAddr("fe80::5e:1"), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})}
				} else {
					l.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i), 1})}
				}
				cfg.Links = append(cfg.Links, l)
				if err := h.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: l.Name, ParentIndex: a0.Attrs().Index, HardwareAddr: l.MAC[:]}, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	start := time.Now()
	if _, err := f.Ensure(cfg); err != nil {
		b.Fatal(err)
	}
	first := time.Since(start)
	for b.Loop() {
		if c, err := f.Ensure(cfg); err != nil || len(c) > 0 {
			b.Fatal(c, err)
		}
	}
	b.ReportAllocs()
	b.ReportMetric(float64(first.Microseconds())/1000, "ms/first")
}
