package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The whole path: client, fence, translation, server.
func TestForwardingThroughTheFence(t *testing.T) {
	l := newLab(t, time.Minute)
	l.apply(t, office())
	accepted := l.echoServer(t)
	atClient, atServer := capture(t, l.client, "c0"), capture(t, l.server, "s0")

	l.advertise(t, 100)
	c := l.dial(t)
	if err := exchange(c, "one", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if remote := netip.MustParseAddrPort((<-accepted).RemoteAddr().String()); remote.Addr() != addr("203.0.113.10") {
		t.Errorf("the server sees %s, want the virtual address", remote)
	}
	// What arrives at both ends comes from the virtual MAC addresses alone.
	toClient, toServer := atClient(), atServer()
	if diff := cmp.Diff([]string{formatMAC(lanMAC)}, withoutIPv6(toClient, [6]byte{2, 0, 0, 0, 0, 2})); diff != "" {
		t.Errorf("sources of frames at the client: %s", diff)
	}
	if diff := cmp.Diff([]string{formatMAC(wanMAC)}, withoutIPv6(toServer, [6]byte{2, 0, 0, 0, 0, 4})); diff != "" {
		t.Errorf("sources of frames at the server: %s", diff)
	}
	// The router asks for neighbours in the name of the virtual addresses, also
	// for packets whose source is none of its own.
	if got := askers(toServer, wanMAC); !slices.Equal(got, []netip.Addr{addr("203.0.113.10")}) {
		t.Errorf("ARP at the server in the name of %s", got)
	}
	for _, a := range askers(toClient, lanMAC) {
		if a != addr("10.1.0.1") {
			t.Errorf("ARP at the client in the name of %s", a)
		}
	}

	// Nobody renews the lease: forwarding stops.
	l.kernel.fence = l.fence.Guard("lab", 300*time.Millisecond)
	l.apply(t, office())
	l.advertise(t, 100)
	waitFor(t, 10*time.Second, func() bool { open, _, err := l.fence.Lease("lab"); return err == nil && !open })
	if err := exchange(c, "two", 500*time.Millisecond); err == nil {
		t.Error("forwarded without a lease")
	}
	// The flow stands in the kernel; a new lease revives it.
	l.kernel.fence = l.fence.Guard("lab", time.Minute)
	l.apply(t, office())
	l.advertise(t, 100)
	if err := exchange(c, "three", 5*time.Second); err != nil {
		t.Errorf("the flow did not survive: %v", err)
	}
	l.advertise(t, 0)
	if err := exchange(c, "four", 500*time.Millisecond); err == nil {
		t.Error("forwarded after priority 0")
	}
}

// askers returns in whose name a MAC address asked for neighbours.
func askers(frames [][]byte, mac [6]byte) []netip.Addr {
	var list []netip.Addr
	for _, f := range frames {
		if len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && [6]byte(f[6:12]) == mac {
			list = append(list, netip.AddrFrom4([4]byte(f[28:32])))
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// Another interface on the segment of a network must not speak for the gateway.
func TestOtherInterfacesAreMute(t *testing.T) {
	l := newLab(t, time.Minute)
	if err := cable(l.links, "mgmt0", [6]byte{2, 0, 0, 0, 0, 9}, "c1", [6]byte{2, 0, 0, 0, 0, 10}, l.client); err != nil {
		t.Fatal(err)
	}
	l.run(t, "ip link set mgmt0 up")
	runIn(t, l.client, "ip link set c1 up")
	l.apply(t, office())
	l.advertise(t, 100)
	stop := capture(t, l.client, "c1")
	in(t, l.client, func() error {
		ifi, err := net.InterfaceByName("c1")
		if err != nil {
			return err
		}
		c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
		if err != nil {
			return err
		}
		request := []byte{
			255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 10, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
			2, 0, 0, 0, 0, 10, 10, 1, 0, 50, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1,
		}
		_, err = c.WriteTo(request, &packet.Addr{HardwareAddr: request[:6]})
		return errors.Join(err, c.Close())
	})
	if got := withoutIPv6(stop(), [6]byte{2, 0, 0, 0, 0, 10}); len(got) > 0 {
		t.Errorf("%s answers for the virtual address", got)
	}
}

func withoutIPv6(frames [][]byte, except [6]byte) []string {
	var list [][]byte
	for _, f := range frames {
		if len(f) > 14 && !bytes.Equal(f[12:14], []byte{0x86, 0xdd}) {
			list = append(list, f)
		}
	}
	return sources(list, except)
}

func waitFor(t *testing.T, limit time.Duration, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-tick.C {
		if done() {
			return
		}
	}
	t.Fatal("waited in vain")
}

// A flow that was not replicated in time must stall and come back, not die.
func TestUnknownFlowIsNotReset(t *testing.T) {
	if _, err := exec.LookPath("conntrack"); err != nil {
		t.Skip("the test needs conntrack")
	}
	l := newLab(t, time.Minute)
	l.apply(t, office())
	accepted := l.echoServer(t)
	l.advertise(t, 100)
	c := l.dial(t)
	if err := exchange(c, "before", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	l.run(t, "conntrack -F")
	stop := capture(t, l.server, "s0")
	// The first to speak is the server: its packet reaches nobody.
	if _, err := server.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	frames := stop()
	for _, f := range frames {
		if len(f) > 47 && f[12] == 8 && f[23] == 6 && f[47]&4 != 0 {
			t.Errorf("the router reset the connection: %x", f)
		}
	}
	// The client's next packet brings the flow back with the same translation.
	if err := exchange(c, "after", 5*time.Second); err != nil {
		t.Errorf("the flow is dead: %v", err)
	}
}

// A replicated flow has no window state; packets of a live one must pass.
func TestReplicatedFlowPasses(t *testing.T) {
	if _, err := exec.LookPath("conntrack"); err != nil {
		t.Skip("the test needs conntrack")
	}
	l := newLab(t, time.Minute)
	l.apply(t, office())
	accepted := l.echoServer(t)
	l.advertise(t, 100)
	c := l.dial(t)
	for i := range 20 {
		if err := exchange(c, fmt.Sprintf("before%d.", i), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	server := <-accepted
	local := netip.MustParseAddrPort(c.LocalAddr().String())
	remote := netip.MustParseAddrPort(server.RemoteAddr().String())
	l.run(t, "conntrack -F")
	l.run(t, fmt.Sprintf("conntrack -I -p tcp -s 10.1.0.50 -d 203.0.113.254 --sport %d --dport 7 -n %s --state ESTABLISHED -t 600 -u ASSURED", local.Port(), remote))
	if !strings.Contains(l.run(t, "conntrack -L"), "dst="+remote.Addr().String()) {
		t.Skip("this conntrack cannot make a translated flow")
	}
	// This time the server is first: only the entry can translate its packet.
	if _, err := server.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := exchange(c, "after", 5*time.Second); err != nil {
		t.Errorf("the replicated flow does not pass: %v", err)
	}
}

// What nobody asked for from outside stays outside, and networks reach uplinks
// with their own addresses only.
func TestForwardingPolicy(t *testing.T) {
	l := newLab(t, time.Minute)
	l.apply(t, office())
	l.advertise(t, 100)
	runIn(t, l.server, "ip route add 10.1.0.0/24 via 203.0.113.10")
	runIn(t, l.client, "ip addr add 10.99.0.1/32 dev c0")
	for _, tt := range []struct {
		name     string
		ns       netns.NsHandle
		from, to string
		passes   bool
	}{
		{"client to server", l.client, "0.0.0.0", "203.0.113.254", true},
		{"client to gateway", l.client, "0.0.0.0", "10.1.0.1", true},
		{"client to NAT address", l.client, "0.0.0.0", "203.0.113.10", true},
		{"server to NAT address", l.server, "0.0.0.0", "203.0.113.10", true},
		{"server to client", l.server, "0.0.0.0", "10.1.0.50", false},
		{"forged source", l.client, "10.99.0.1", "203.0.113.254", false},
	} {
		if err := ping(t, tt.ns, tt.from, tt.to); (err == nil) != tt.passes {
			t.Errorf("%s: passes=%v, want %v: %v", tt.name, err == nil, tt.passes, err)
		}
	}
}

// ping sends an echo request and waits for its reply.
func ping(t *testing.T, ns netns.NsHandle, from, to string) (result error) {
	t.Helper()
	in(t, ns, func() error {
		c, err := net.ListenPacket("ip4:icmp", from)
		if err != nil {
			return err
		}
		request := []byte{8, 0, 0, 0, 0, 7, 0, 1}
		binary.BigEndian.PutUint16(request[2:], checksum(request))
		if _, err := c.WriteTo(request, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
			return err
		}
		buf := make([]byte, 128)
		for {
			n, peer, err := c.ReadFrom(buf)
			if err != nil || n >= 8 && buf[0] == 0 && peer.String() == to {
				result = err
				return c.Close()
			}
		}
	})
	return result
}

// BenchmarkApply measures the usual case: nothing to do.
func BenchmarkApply(b *testing.B) {
	l := newLab(b, time.Minute)
	l.apply(b, office())
	for b.Loop() {
		if _, err := l.kernel.Apply(b.Context(), office()); err != nil {
			b.Fatal(err)
		}
	}
}

// What a BACKUP asks its neighbours does not pass the fence. The answer must not be
// late when it has become MASTER.
func TestForgetUnresolved(t *testing.T) {
	l := newDualLab(t, time.Minute)
	l.apply(t, dual())
	for _, tt := range []struct{ link, from, host, known string }{
		{"vmac20", "10.1.0.1", "10.1.0.50", "10.1.0.60"},
		{"vmac20v6", "[fd00:20::1]", "fd00:20::50", "fd00:20::60"},
	} {
		l.run(t, "ip neigh add "+tt.known+" lladdr 02:00:00:00:00:60 nud permanent dev "+tt.link)
		// A datagram in the name of the virtual address makes the kernel ask.
		l.sendFrom(t, tt.from+":0", net.JoinHostPort(tt.host, "9"))
		if before := l.run(t, "ip neigh show dev "+tt.link); !strings.Contains(before, tt.host+" ") {
			t.Fatalf("the BACKUP asks for nobody: %s", before)
		}
		if err := l.kernel.ForgetUnresolved([]string{tt.link, "nosuch0"}); err != nil {
			t.Fatal(err)
		}
		after := l.run(t, "ip neigh show dev "+tt.link)
		if strings.Contains(after, tt.host+" ") || !strings.Contains(after, tt.known+" ") {
			t.Errorf("neighbours are %q, want only %s", after, tt.known)
		}
	}
}
