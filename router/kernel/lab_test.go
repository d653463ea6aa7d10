package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/vrrp/fence"
)

// lab is a router between a client and a server, each in a namespace:
//
//	client{ c0 10.1.0.50/24 } --- lan0{ router }wan0 --- server{ s0 203.0.113.254/24 }
type lab struct {
	client, router, server netns.NsHandle
	links                  *netlink.Handle // of the router
	fence                  *fence.Fence
	lease                  time.Duration
	kernel                 *Reconciler
	stateDir               string
}

func namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	made := make(chan error, 1)
	ns := netns.None()
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		ns, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		if errors.Is(err, os.ErrPermission) {
			t.Skip("making a network namespace needs CAP_SYS_ADMIN")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// in runs f in the namespace and fails the test if f does.
func in(t testing.TB, ns netns.NsHandle, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// run is the ip or nft command in the router.
func (l *lab) run(t *testing.T, command string) string {
	t.Helper()
	return runIn(t, l.router, command)
}

func runIn(t testing.TB, ns netns.NsHandle, command string) string {
	t.Helper()
	out, err := output(t, ns, command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

func output(t testing.TB, ns netns.NsHandle, command string) (out string, result error) {
	t.Helper()
	in(t, ns, func() error {
		words := strings.Fields(command)
		b, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		out, result = string(b), err
		return nil
	})
	return out, result
}

func newLab(t testing.TB, lease time.Duration) *lab {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the test needs %s", tool)
		}
	}
	l := &lab{client: namespace(t), router: namespace(t), server: namespace(t), lease: lease, stateDir: t.TempDir()}
	in(t, l.router, func() (err error) {
		if l.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if l.fence, err = fence.New(); err != nil {
			return err
		}
		return errors.Join(
			cable(l.links, "lan0", [6]byte{2, 0, 0, 0, 0, 1}, "c0", [6]byte{2, 0, 0, 0, 0, 2}, l.client),
			cable(l.links, "wan0", [6]byte{2, 0, 0, 0, 0, 3}, "s0", [6]byte{2, 0, 0, 0, 0, 4}, l.server),
		)
	})
	t.Cleanup(func() { l.links.Close(); _ = l.fence.Close() })
	for _, c := range []string{"ip link set c0 up", "ip addr add 10.1.0.50/24 dev c0", "ip route add default via 10.1.0.1"} {
		runIn(t, l.client, c)
	}
	for _, c := range []string{"ip link set s0 up", "ip addr add 203.0.113.254/24 dev s0"} {
		runIn(t, l.server, c)
	}
	// What a namespace starts with depends on the host.
	in(t, l.router, func() error {
		for _, s := range foreignSysctls() {
			if err := writeSysctl(s.path, s.value); err != nil {
				return err
			}
		}
		return nil
	})
	l.kernel = l.newReconciler(t)
	return l
}

// foreignSysctls are values that Apply changes and Remove gives back.
func foreignSysctls() []setting {
	return []setting{
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv4/conf/all/send_redirects", "1"},
		{"net/ipv4/conf/all/arp_ignore", "0"},
		{"net/netfilter/nf_conntrack_events", "2"},
		{"net/netfilter/nf_conntrack_tcp_be_liberal", "0"},
		{"net/netfilter/nf_conntrack_tcp_loose", "0"},
		{"net/ipv4/conf/lan0/arp_ignore", "0"},
		{"net/ipv4/conf/lan0/rp_filter", "1"},
		{"net/ipv4/conf/wan0/arp_announce", "1"},
		{"net/ipv4/conf/wan0/promote_secondaries", "0"},
	}
}

func (l *lab) sysctls(t *testing.T) (list []setting) {
	t.Helper()
	in(t, l.router, func() error {
		for _, s := range foreignSysctls() {
			value, err := readSysctl(s.path)
			if err != nil {
				return err
			}
			list = append(list, setting{s.path, value})
		}
		return nil
	})
	return list
}

func (l *lab) newReconciler(t testing.TB) *Reconciler {
	t.Helper()
	var r *Reconciler
	in(t, l.router, func() (err error) {
		r, err = New(Options{
			Group: "lab", StateDir: l.stateDir, Fence: l.fence.Guard("lab", l.lease),
			Logger: slog.New(slog.DiscardHandler),
		})
		return err
	})
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func cable(h *netlink.Handle, near string, nearMAC [6]byte, far string, farMAC [6]byte, farNS netns.NsHandle) error {
	return h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: near, HardwareAddr: nearMAC[:]},
		PeerName:  far, PeerHardwareAddr: farMAC[:], PeerNamespace: netlink.NsFd(farNS),
	})
}

// dump writes down the router's links, addresses, routes and rules.
func (l *lab) dump(t *testing.T) string {
	t.Helper()
	var lines []string
	list, err := l.links.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, n := range list {
		a := n.Attrs()
		names[a.Index] = a.Name
		state := "down"
		if a.RawFlags&unix.IFF_UP != 0 {
			state = "up"
		}
		line := fmt.Sprintf("link %s %s %s %s", a.Name, n.Type(), a.HardwareAddr, state)
		if m, ok := n.(*netlink.Macvlan); ok {
			line += fmt.Sprintf(" on %s mode %d alias %s", names[a.ParentIndex], m.Mode, a.Alias)
		}
		lines = append(lines, line)
		addresses, err := l.links.AddrList(n, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range addresses {
			lines = append(lines, "addr "+x.IPNet.String()+" dev "+a.Name)
		}
	}
	routes, err := l.links.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		lines = append(lines, fmt.Sprintf("route table %d type %d %s via %s dev %s metric %d proto %d scope %d %v",
			r.Table, r.Type, r.Dst, r.Gw, names[r.LinkIndex], r.Priority, int(r.Protocol), int(r.Scope), onlink(r)))
	}
	rules, err := l.links.RuleList(netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		lines = append(lines, fmt.Sprintf("rule %d from %v iif %q table %d proto %d", r.Priority, r.Src, r.IifName, r.Table, r.Protocol))
	}
	return strings.Join(lines, "\n")
}

func onlink(r netlink.Route) string {
	if r.Flags&unix.RTNH_F_ONLINK != 0 {
		return "onlink"
	}
	return "-"
}

// advertise opens the fence, as the elector does.
func (l *lab) advertise(t *testing.T, priority byte) {
	t.Helper()
	inject(t, l.router, "vmac20", advert(lanMAC, priority))
}

// advertiseOwn is advertise where there is no virtual MAC address.
func (l *lab) advertiseOwn(t *testing.T, priority byte) {
	t.Helper()
	inject(t, l.router, "lan0", advert([6]byte{2, 0, 0, 0, 0, 1}, priority))
}

// advert is an advertisement of VRRP version 3 for 10.1.0.1 (RFC 9568 §5.1).
func advert(from [6]byte, priority byte) []byte {
	msg := []byte{0x31, 20, priority, 1, 0, 100, 0, 0, 10, 1, 0, 1}
	binary.BigEndian.PutUint16(msg[6:], checksum(msg))
	ip := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 255, 112, 0, 0, 10, 1, 0, 2, 224, 0, 0, 18}
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	frame := append([]byte{1, 0, 0x5e, 0, 0, 0x12}, from[:]...)
	return append(append(append(frame, 8, 0), ip...), msg...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// capture records what arrives at an interface until stop is called.
func capture(t *testing.T, ns netns.NsHandle, name string) (stop func() [][]byte) {
	t.Helper()
	var c *packet.Conn
	in(t, ns, func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		c, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	frames := make(chan [][]byte, 1)
	go func() {
		var list [][]byte
		buf := make([]byte, 65536)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				frames <- list
				return
			}
			list = append(list, slices.Clone(buf[:n]))
		}
	}()
	return func() [][]byte {
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		list := <-frames
		_ = c.Close()
		return list
	}
}

// sources returns the source MAC addresses of the frames that did not leave the
// captured host itself.
func sources(frames [][]byte, except [6]byte) []string {
	var list []string
	for _, f := range frames {
		if src := [6]byte(f[6:12]); src != except {
			list = append(list, formatMAC(src))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// echoServer sends back what it gets; accepted gets its connections.
func (l *lab) echoServer(t *testing.T) (accepted <-chan net.Conn) {
	t.Helper()
	var listener net.Listener
	in(t, l.server, func() (err error) {
		listener, err = net.Listen("tcp4", "203.0.113.254:7")
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	list := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			list <- c
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return list
}

func (l *lab) dial(t *testing.T) net.Conn {
	t.Helper()
	var c net.Conn
	in(t, l.client, func() (err error) {
		c, err = net.DialTimeout("tcp4", "203.0.113.254:7", 5*time.Second)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends the word and waits for its echo, past what was left before.
func exchange(c net.Conn, word string, wait time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(word)); err != nil {
		return err
	}
	var seen []byte
	buf := make([]byte, 64)
	for !strings.HasSuffix(string(seen), word) {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		seen = append(seen, buf[:n]...)
	}
	return nil
}
