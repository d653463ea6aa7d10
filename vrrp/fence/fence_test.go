package fence_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"tandem/vrrp/fence"
)

const quiet = 200 * time.Millisecond

// provoke does all that makes a Linux host speak for its addresses.
func (l *lab) provoke(t *testing.T) {
	t.Helper()
	for range 3 {
		send(t, l.b0, arpRequest(allMAC, b0MAC, farIP, vip))
		send(t, l.b0, arpRequest(a0MAC, b0MAC, farIP, vip))
		send(t, l.b0, arpRequest(vmac, b0MAC, farIP, vip))
		send(t, l.b0, echo(vmac, b0MAC, farIP, vip))
		send(t, l.b0, echo(a0MAC, b0MAC, farIP, vip))
		send(t, l.b0, echo(allMAC, b0MAC, farIP, vip))
	}
	v0, err := l.nodeLinks.LinkByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	// Down and up: IGMP, MLD, duplicate address detection, router solicitation.
	if err := errors.Join(l.nodeLinks.LinkSetDown(v0), l.nodeLinks.LinkSetUp(v0)); err != nil {
		t.Fatal(err)
	}
	in(t, l.node, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/v0/arp_notify", []byte("1"), 0o644)
	})
	// A gratuitous ARP by hand.
	send(t, l.v0, arpRequest(allMAC, vmac, vip, vip))
}

func TestClosedFenceEmitsNothing(t *testing.T) {
	l := newLab(t)
	l.provoke(t)
	frames := collect(t, l.b0, quiet)
	for _, f := range frames {
		if speaks(f) {
			t.Errorf("frame through the closed fence: %x", f)
		}
	}
	// The parent itself is alive, else the silence would prove nothing.
	send(t, l.b0, echo(a0MAC, b0MAC, farIP, own))
	alive := func(f []byte) bool { return [6]byte(f[6:12]) == a0MAC && bytes.Contains(f, own.AsSlice()) }
	if count(collect(t, l.b0, quiet), alive) == 0 {
		t.Error("the node does not answer for its own address")
	}

	// And the same provocation speaks once the fence is open.
	l.cfg.Lease = 10 * time.Second
	l.ensure(t)
	send(t, l.v0, advert(vmac, 255, 100))
	l.provoke(t)
	frames = collect(t, l.b0, quiet)
	if count(frames, speaks) < 4 {
		t.Errorf("%d frames of the virtual router through the open fence, want some", count(frames, speaks))
	}
}

func TestAdvertOpensAndTimeCloses(t *testing.T) {
	l := newLab(t)
	if l.open(t) {
		t.Fatal("open before any advert")
	}
	start := time.Now()
	send(t, l.v0, advert(vmac, 255, 100))
	if !l.open(t) && time.Since(start) < l.cfg.Lease/2 {
		t.Fatal("closed after an advert")
	}
	if !waitClosed(t, l) {
		t.Fatal("still open long after the lease")
	}
	isAdvert := func(f []byte) bool { return [6]byte(f[6:12]) == vmac && f[23] == 112 }
	if n := count(collect(t, l.b0, quiet), isAdvert); n != 1 {
		t.Errorf("%d adverts on the wire, want 1", n)
	}
}

func waitClosed(t *testing.T, l *lab) bool {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(l.cfg.Lease + 5*time.Second); time.Now().Before(deadline); <-tick.C {
		if !l.open(t) {
			return true
		}
	}
	return false
}

func TestClosingFrames(t *testing.T) {
	for _, tt := range []struct {
		name    string
		frame   []byte
		reaches bool
	}{
		{"priority 0 leaves and closes", advert(vmac, 255, 0), true},
		{"ttl 1 closes and does not leave", advert(vmac, 1, 100), false},
		{"ttl 1 with priority 0 does not leave", advert(vmac, 1, 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.cfg.Lease = time.Minute
			l.ensure(t)
			send(t, l.v0, advert(vmac, 255, 100))
			if !l.open(t) {
				t.Fatal("closed after an advert")
			}
			send(t, l.v0, tt.frame)
			if l.open(t) {
				t.Error("open after the closing frame")
			}
			reached := count(collect(t, l.b0, quiet), func(f []byte) bool { return bytes.HasPrefix(f, tt.frame) }) > 0
			if reached != tt.reaches {
				t.Errorf("closing frame on the wire: %v, want %v", reached, tt.reaches)
			}
		})
	}
}

func TestRenewalOpensAndDoesNotLeave(t *testing.T) {
	l := newLab(t)
	l.cfg.Lease = time.Minute
	l.ensure(t)
	frame := advert(vmac, 2, 100)
	send(t, l.v0, frame)
	if !l.open(t) {
		t.Error("closed after a renewal")
	}
	if n := count(collect(t, l.b0, quiet), func(f []byte) bool { return bytes.HasPrefix(f, frame) }); n > 0 {
		t.Errorf("%d renewals on the wire", n)
	}
}

func TestPriorityZeroLeavesThroughClosedFence(t *testing.T) {
	l := newLab(t)
	send(t, l.v0, advert(vmac, 255, 0))
	if l.open(t) {
		t.Error("priority 0 opened the fence")
	}
	if n := count(collect(t, l.b0, quiet), speaks); n != 1 {
		t.Errorf("%d frames on the wire, want the one of priority 0", n)
	}
}

func TestLinksShareTheLease(t *testing.T) {
	l := newLab(t)
	l.cfg.Lease = time.Minute
	l.ensure(t)
	garp := arpRequest(allMAC, vmac1, vip1, vip1)
	send(t, l.v1, garp)
	if n := count(collect(t, l.b1, quiet), speaks); n != 0 {
		t.Fatalf("%d frames of v1 before any advert", n)
	}
	send(t, l.v0, advert(vmac, 255, 100))
	send(t, l.v1, garp)
	if n := count(collect(t, l.b1, quiet), speaks); n == 0 {
		t.Error("an advert on v0 does not open v1")
	}
	send(t, l.v1, advert(vmac1, 255, 0))
	if l.open(t) {
		t.Error("priority 0 on v1 does not close v0")
	}
}

func TestParentIsMuteForVirtualAddresses(t *testing.T) {
	l := newLab(t)
	l.cfg.Lease = time.Minute
	l.ensure(t)
	send(t, l.v0, advert(vmac, 255, 100))
	replies := func() (fromParent, fromVirtual int) {
		frames := collect(t, l.b0, quiet)
		mac := func(m [6]byte) func([]byte) bool {
			return func(f []byte) bool {
				return [6]byte(f[6:12]) == m && [6]byte(f[:6]) == b0MAC && speaks(f)
			}
		}
		return count(frames, mac(a0MAC)), count(frames, mac(vmac))
	}
	send(t, l.b0, echo(a0MAC, b0MAC, farIP, vip))
	send(t, l.b0, arpRequest(a0MAC, b0MAC, farIP, vip))
	// An address of another link of the group.
	send(t, l.b0, echo(a0MAC, b0MAC, farIP, vip1))
	if p, v := replies(); p+v != 0 {
		t.Errorf("%d replies by the parent and %d by the virtual link to frames for the parent's MAC", p, v)
	}
	send(t, l.b0, arpRequest(allMAC, b0MAC, farIP, vip))
	if p, v := replies(); p != 0 || v == 0 {
		t.Errorf("ARP answered %d times by the parent and %d times by the virtual link", p, v)
	}
}

func TestEnsureIsIdempotentAndKeepsTheLease(t *testing.T) {
	l := newLab(t)
	l.cfg.Lease = time.Minute
	if diff := cmp.Diff([]string{"replace the rules of chain link-egress"}, l.ensure(t)); diff != "" {
		t.Error(diff)
	}
	send(t, l.v0, advert(vmac, 255, 100))
	if changed := l.ensure(t); len(changed) != 0 {
		t.Errorf("second Ensure changed %q", changed)
	}
	if err := l.fence.Check(l.cfg); err != nil {
		t.Error(err)
	}
	// A new daemon finds the fence of the old one.
	in(t, l.node, func() error {
		next, err := fence.New()
		if err != nil {
			return err
		}
		changed, err := next.Ensure(l.cfg)
		if len(changed) != 0 {
			t.Errorf("the successor changed %q", changed)
		}
		return errors.Join(err, next.Close())
	})
	// A link leaves and comes back.
	full := l.cfg
	l.cfg.Links = full.Links[:1]
	want := []string{
		"replace the rules of chain guard-egress", "replace the rules of chain guard-ingress", "replace the rules of chain link-ingress",
		"replace the rules of chain parent-egress-a0", "replace the rules of chain parent-ingress-a0",
		"delete chain egress-v1", "delete chain ingress-v1", "delete chain parent-egress-a1", "delete chain parent-ingress-a1",
	}
	if diff := cmp.Diff(want, l.ensure(t)); diff != "" {
		t.Error(diff)
	}
	l.cfg = full
	if got := l.ensure(t); len(got) != 9 {
		t.Errorf("link came back: %q", got)
	}
	if !l.open(t) {
		t.Error("the lease was lost on the way")
	}
}

func TestEnsureRepairs(t *testing.T) {
	for _, tt := range []struct {
		name, nft string
	}{
		{"flushed chain", "flush chain netdev tandem-lab ingress-v0"},
		{"deleted chain", "delete chain netdev tandem-lab parent-ingress-a0"},
		{"deleted table", "delete table netdev tandem-lab"},
		{"flushed ruleset", "flush ruleset"},
		{"added rule", "insert rule netdev tandem-lab egress-v0 accept"},
		{"other policy", "add chain netdev tandem-lab ingress-v0 { policy accept; }"},
		{"sleeping table", "add table netdev tandem-lab { flags dormant; }"},
		{"shared chain without rules", "flush chain netdev tandem-lab link-egress"},
		{"foreign chain", "add chain netdev tandem-lab foreign; add rule netdev tandem-lab foreign accept; insert rule netdev tandem-lab egress-v0 jump foreign"},
		{"foreign set", "delete table netdev tandem-lab; add table netdev tandem-lab; add set netdev tandem-lab lease { type ipv4_addr; }"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.plain(t)
			if err := l.nft(t, tt.nft); err != nil {
				t.Fatal(err)
			}
			if err := l.fence.Check(l.cfg); err == nil {
				t.Error("Check sees nothing wrong")
			}
			if len(l.ensure(t)) == 0 {
				t.Error("nothing repaired")
			}
			collect(t, l.b0, quiet) // what left while the fence was down
			if err := l.fence.Check(l.cfg); err != nil {
				t.Error(err)
			}
			l.provoke(t)
			if n := count(collect(t, l.b0, quiet), speaks); n != 0 {
				t.Errorf("%d frames through the closed fence", n)
			}
		})
	}
}

// A device that comes back under the same name must be guarded again.
func TestRecreatedLink(t *testing.T) {
	l := newLab(t)
	v0, err := l.nodeLinks.LinkByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.nodeLinks.LinkDel(v0); err != nil {
		t.Fatal(err)
	}
	var missing *fence.MissingDevicesError
	if _, err := l.fence.Ensure(l.cfg); !errors.As(err, &missing) || !slices.Equal(missing.Devices, []string{"v0"}) {
		t.Errorf("Ensure without v0: %v", err)
	}
	if err := l.fence.Check(l.cfg); !errors.As(err, &missing) {
		t.Errorf("Check without v0: %v", err)
	}
	l.macvlan(t, "v0", "a0", vmac)
	l.ensure(t)
	l.raise(t)
	l.provoke(t)
	if n := count(collect(t, l.b0, quiet), speaks); n != 0 {
		t.Errorf("%d frames through the closed fence", n)
	}
	send(t, l.v0, advert(vmac, 255, 100))
	if n := count(collect(t, l.b0, quiet), speaks); n == 0 {
		t.Error("the advert does not leave")
	}
}

func TestRemoveLeavesForeignTables(t *testing.T) {
	l := newLab(t)
	tables := func() (names []string) {
		in(t, l.node, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			list, err := c.ListTables()
			for _, tab := range list {
				names = append(names, tab.Name)
			}
			return err
		})
		return names
	}
	in(t, l.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		foreign := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: "tandem-other"})
		chain := c.AddChain(&nftables.Chain{Table: foreign, Name: "c"})
		c.AddRule(&nftables.Rule{Table: foreign, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		return c.Flush()
	})
	for range 2 {
		if err := l.fence.Remove(group); err != nil {
			t.Fatal(err)
		}
		if got := tables(); !slices.Equal(got, []string{"tandem-other"}) {
			t.Errorf("tables after Remove: %q", got)
		}
	}
	if _, _, err := l.fence.Lease(group); !errors.Is(err, fence.ErrDown) {
		t.Errorf("Lease without a fence: %v", err)
	}
	if err := l.fence.Check(l.cfg); !errors.Is(err, fence.ErrDown) {
		t.Errorf("Check without a fence: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := fence.Config{Group: "g", Lease: time.Second}
	for name, breakIt := range map[string]func(*fence.Config){
		"no group":                    func(c *fence.Config) { c.Group = "" },
		"short lease":                 func(c *fence.Config) { c.Lease = time.Millisecond },
		"fraction":                    func(c *fence.Config) { c.Lease = 20*time.Millisecond + time.Microsecond },
		"nameless link":               func(c *fence.Config) { c.Links = []fence.Link{{Parent: "a0"}} },
		"own MAC without own address": func(c *fence.Config) { c.Links = []fence.Link{{Name: "a0", Parent: "a0"}} },
		"own MAC with own address of another family": func(c *fence.Config) {
			c.Links = []fence.Link{{Name: "a0", Parent: "a0", IPv6: true, Own: []netip.Addr{own}}}
		},
		"twice": func(c *fence.Config) { c.Links = []fence.Link{{Name: "v", Parent: "a"}, {Name: "v", Parent: "b"}} },
	} {
		cfg := good
		breakIt(&cfg)
		var f fence.Fence
		if _, err := f.Ensure(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
