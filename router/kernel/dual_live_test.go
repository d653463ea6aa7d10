package kernel

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
)

// The whole path of IPv6, without translation: what a host of the network starts
// passes, what the outside starts does not.
func TestDualStackForwarding(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	if err := ping6(t, l.client, "2001:db8:1::254"); err == nil {
		t.Error("forwarded without a lease")
	}
	l.advertise(t, 100)
	if err := l.kernel.ForgetUnresolved([]string{"vmac10v6", "vmac20v6"}); err != nil {
		t.Fatal(err)
	}
	toClient, toServer := capture(t, l.client, "c0"), capture(t, l.server, "s0")
	if err := ping6(t, l.client, "2001:db8:1::254"); err != nil {
		t.Errorf("client to server: %v", err)
	}
	if err := ping6(t, l.client, "2001:db8:1::10"); err != nil {
		t.Errorf("client to the virtual address outside: %v", err)
	}
	if err := ping6(t, l.server, "2001:db8:1::10"); err != nil {
		t.Errorf("server to the virtual address: %v", err)
	}
	if err := ping6(t, l.server, "fd00:20::50"); err == nil {
		t.Error("the outside reaches the network")
	}
	// A source that is none of the network's is not let out.
	runIn(t, l.client, "ip -6 addr add fd00:99::1/128 dev c0 nodad")
	runIn(t, l.server, "ip -6 route add fd00:99::/64 via fe80::5e:a dev s0")
	runIn(t, l.client, "ip -6 route replace default via fe80::5e:14 dev c0 src fd00:99::1")
	if err := ping6(t, l.client, "2001:db8:1::254"); err == nil {
		t.Error("a forged source passes")
	}
	for _, side := range []struct {
		frames  [][]byte
		virtual [6]byte
		host    [6]byte
	}{{toClient(), lanMAC6, clientMAC}, {toServer(), wanMAC6, [6]byte{2, 0, 0, 0, 0, 4}}} {
		var echoes [][]byte
		for _, f := range side.frames {
			if k := icmpType(f); k == 128 || k == 129 {
				echoes = append(echoes, f)
			}
		}
		if diff := cmp.Diff([]string{formatMAC(side.virtual)}, sources(echoes, side.host)); diff != "" {
			t.Errorf("sources of what arrives: %s", diff)
		}
	}
}

// The lease that ends stops IPv6, the next one revives it.
func TestDualStackLease(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	for _, priority := range []byte{100, 0, 100} {
		l.advertise(t, priority)
		err := ping6(t, l.client, "fd00:20::1")
		if open := priority > 0; open != (err == nil) {
			t.Errorf("after an advertisement of priority %d: %v", priority, err)
		}
	}
}

// What the node sends of its own has its own address as source.
func TestOwnTrafficHasOwnSource(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	l.advertise(t, 100)
	waitFor(t, 10*time.Second, func() bool { return l.source(t, "udp6", "[fd00:20::50]:9") == "fd00:20::2" })
	if got := l.source(t, "udp4", "10.1.0.50:9"); got != "10.1.0.2" {
		t.Errorf("source is %s", got)
	}
}

// What is too big for the uplink is answered, or hosts would never send less. A
// node need not have a global address of its own for that.
func TestDualStackPacketTooBig(t *testing.T) {
	for name, keep := range map[string]bool{"own global address": true, "link-local address only": false} {
		t.Run(name, func(t *testing.T) {
			l := newDualLab(t, time.Minute)
			intent := dual()
			if !keep {
				intent = withoutOwnGlobal(intent)
			}
			l.apply(t, intent)
			if keep {
				waitFor(t, 10*time.Second, func() bool { return !strings.Contains(l.run(t, "ip -6 addr show dev lan0"), "tentative") })
			}
			l.run(t, "ip link set vmac10v6 mtu 1300")
			l.advertise(t, 100)
			stop := capture(t, l.client, "c0")
			in(t, l.client, func() error {
				c, err := net.Dial("udp6", "[2001:db8:1::254]:9")
				if err != nil {
					return err
				}
				_, err = c.Write(make([]byte, 1400))
				return errors.Join(err, c.Close())
			})
			tooBig := 0
			for _, f := range stop() {
				if icmpType(f) == 2 {
					tooBig++
				}
			}
			if tooBig == 0 {
				t.Error("nobody tells the host")
			}
		})
	}
}

func withoutOwnGlobal(in router.Intent) router.Intent {
	global := func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }
	in.Ports = slices.DeleteFunc(in.Ports, func(p router.PortAddress) bool { return global(p.Prefix.Addr()) })
	in.Rules = slices.DeleteFunc(in.Rules, func(r router.Rule) bool {
		return r.Preference == router.PreferenceOwn && global(r.From.Addr())
	})
	for i := range in.VirtualLinks {
		in.VirtualLinks[i].Own = slices.DeleteFunc(in.VirtualLinks[i].Own, global)
	}
	return in
}

// source returns the address that the router takes for a destination.
func (l *lab) source(t *testing.T, network, to string) (source string) {
	t.Helper()
	in(t, l.router, func() error {
		c, err := net.Dial(network, to)
		if err != nil {
			return err
		}
		source, _, err = net.SplitHostPort(c.LocalAddr().String())
		_ = c.Close()
		return err
	})
	return source
}
