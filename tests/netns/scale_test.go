package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/lab"
	"tandem/vrrp"
)

const (
	// steadyWindow is for how long a MASTER's adverts are looked at.
	steadyWindow = 40 * interval
	// announceLimit is when the last virtual address must have been announced, counted
	// from the first advert of the new MASTER.
	announceLimit = time.Second
	// maxGap is the longest time between two adverts of one virtual router.
	maxGap = 2 * interval
	// crowdBuild is how long a pair of that size may take until it is ready.
	crowdBuild = 2 * time.Minute
)

// crowd is a pair with every VRID there is: one on the HA link, one on the wan, all
// others on the lan, and all but the first in both families.
type crowd struct {
	*stand
	// routers are all that advertise on the lan and the wan.
	routers map[virtualRouter]bool
	// addresses are what they hold.
	addresses map[netip.Addr]virtualRouter
}

// virtualRouter is one VRID in one family.
type virtualRouter struct {
	vrid uint8
	ipv6 bool
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{routers: make(map[virtualRouter]bool), addresses: make(map[netip.Addr]virtualRouter)}
	c.hold(10, lab.ClientGateway, lab.ClientGatewayIPv6, "fe80::5e:a")
	c.hold(20, lab.NATAddress, "fe80::5e:14")
	lines := []string{"virtual_routers:"}
	for vrid := 1; vrid <= 255; vrid++ {
		if vrid == 10 || vrid == 20 || vrid == 30 { // the lan's, the wan's and the HA link's own
			continue
		}
		own := []string{fmt.Sprintf("10.0.1.%d", vrid), fmt.Sprintf("10.0.2.%d", vrid), fmt.Sprintf("2001:db8:a::1:%x", vrid)}
		c.hold(uint8(vrid), append(own, fmt.Sprintf("fe80::5e:%x", vrid))...)
		lines = append(lines, fmt.Sprintf(`  - {vrid: %d, addresses: ["%s"]}`, vrid, strings.Join(own, `", "`)))
	}
	if len(c.routers) != 2*254 || len(c.addresses) < 1000 {
		t.Fatalf("%d virtual routers and %d addresses, want 508 and at least 1000", len(c.routers), len(c.addresses))
	}
	c.stand = newStandOf(t, lab.Options{IPv6: true, LAN: lines})
	c.widen()
	return c
}

func (c *crowd) hold(vrid uint8, addresses ...string) {
	for _, text := range addresses {
		a := netip.MustParseAddr(text)
		c.addresses[a] = virtualRouter{vrid, a.Is6()}
		c.routers[virtualRouter{vrid, a.Is6()}] = true
	}
}

// widen makes room on the lan for so many addresses. The client keeps its prefix: it
// only talks to the gateway.
func (c *crowd) widen() {
	c.t.Helper()
	const narrow, wide = "prefix: 10.0.0.0/24", "prefix: 10.0.0.0/22"
	document, err := os.ReadFile(c.ConfigPath())
	c.must(err)
	if strings.Count(string(document), narrow) != 1 {
		c.t.Fatalf("the document has no single %q", narrow)
	}
	c.must(os.WriteFile(c.ConfigPath(), []byte(strings.Replace(string(document), narrow, wide, 1)), 0o600))
}

// record is an advert or, with an address, an announcement.
type record struct {
	at       time.Time
	node     string
	router   virtualRouter
	priority uint8
	address  netip.Addr
}

// recording is what the nodes say for the virtual routers on the lan and the wan.
type recording struct {
	c        *crowd
	captures []*lab.Capture
	// since is when all captures stood. To open and to close one may take a second on
	// a busy machine, since the kernel waits for all processors.
	since time.Time

	mu sync.Mutex
	// said is what the frames of each capture say.
	said [][]record
}

// listen begins a recording at the trunks.
func (c *crowd) listen() *recording {
	c.t.Helper()
	r := &recording{c: c}
	for i, p := range ports(nodes()...) {
		r.said = append(r.said, nil)
		capture, err := c.Capture(c.t.Context(), lab.TrunkName(p.network, p.node), func(frame []byte) bool {
			what, ok := decode(frame)
			if ok {
				what.node = p.node
				r.mu.Lock()
				r.said[i] = append(r.said[i], what)
				r.mu.Unlock()
			}
			return ok
		})
		c.must(err)
		r.captures = append(r.captures, capture)
	}
	r.since = time.Now()
	return r
}

// decode reads an advert or an announcement that comes from a virtual MAC address.
func decode(frame []byte) (record, bool) {
	if len(frame) < 14+28 || [4]byte(frame[6:10]) != [4]byte{0, 0, 0x5e, 0} || frame[10] < 1 || frame[10] > 2 {
		return record{}, false
	}
	r := record{router: virtualRouter{vrid: frame[11], ipv6: frame[10] == 2}}
	payload := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case unix.ETH_P_ARP:
		sender, target := netip.AddrFrom4([4]byte(payload[14:18])), netip.AddrFrom4([4]byte(payload[24:28]))
		r.address = sender
		return r, sender == target
	case unix.ETH_P_IP:
		r.priority = payload[22]
		return r, payload[9] == vrrp.Protocol && payload[8] == vrrp.TTL && payload[21] == r.router.vrid
	case unix.ETH_P_IPV6:
		if len(payload) < 64 {
			return r, false
		}
		const advertisement = 136 // RFC 4861 §4.4
		r.priority = payload[42]
		toAll := netip.AddrFrom16([16]byte(payload[24:40])) == netip.IPv6LinkLocalAllNodes()
		if payload[6] == unix.IPPROTO_ICMPV6 && payload[40] == advertisement && toAll {
			r.address = netip.AddrFrom16([16]byte(payload[48:64]))
			return r, true
		}
		return r, payload[6] == vrrp.Protocol && payload[7] == vrrp.TTL && payload[41] == r.router.vrid
	}
	return r, false
}

// saw tells whether a node has said something.
func (r *recording) saw(node string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, said := range r.said {
		if slices.ContainsFunc(said, func(what record) bool { return what.node == node }) {
			return nil
		}
	}
	return errors.New("it has said nothing")
}

// end stops the recording and returns it in order of the kernel's time stamps, for the
// time in which all captures stood.
func (r *recording) end() []record {
	r.c.t.Helper()
	until := time.Now()
	var all []record
	for i, capture := range r.captures {
		frames, err := capture.Stop()
		r.c.must(err)
		if lost := capture.Lost(); lost > 0 || len(frames) != len(r.said[i]) {
			r.c.t.Fatalf("the capture has %d of %d frames and lost %d, so that it proves nothing", len(frames), len(r.said[i]), lost)
		}
		for j, what := range r.said[i] {
			what.at = frames[j].At
			if !what.at.Before(r.since) && !what.at.After(until) {
				all = append(all, what)
			}
		}
	}
	slices.SortFunc(all, func(a, b record) int { return a.at.Compare(b.at) })
	return all
}

// of returns what one node said.
func of(node string, all []record) []record {
	return slices.DeleteFunc(slices.Clone(all), func(r record) bool { return r.node != node })
}

// noGap fails the test if a virtual router was silent for longer than maxGap between
// the first and the last record, but for the adverts that the laboratory has lost.
func (c *crowd) noGap(all []record, lost int) {
	c.t.Helper()
	if len(all) == 0 {
		c.t.Fatal("nobody said anything")
	}
	var worst time.Duration
	bad, adverts := 0, 0
	last := make(map[virtualRouter]time.Time)
	for router := range c.routers {
		last[router] = all[0].at
	}
	measure := func(router virtualRouter, at time.Time) {
		gap := at.Sub(last[router])
		worst = max(worst, gap)
		if gap > maxGap {
			if bad++; bad <= 5 {
				c.t.Logf("the virtual router %+v was silent for %v before %v, want at most %v", router, gap, at, maxGap)
			}
		}
		last[router] = at
	}
	for _, r := range all {
		if r.address.IsValid() {
			continue
		}
		if !c.routers[r.router] {
			c.t.Fatalf("%s advertises a virtual router that there is not: %+v", r.node, r)
		}
		adverts++
		measure(r.router, r.at)
	}
	for router := range c.routers {
		measure(router, all[len(all)-1].at)
	}
	if bad > lost {
		c.t.Errorf("%d gaps are too long, and the cables have lost %d frames", bad, lost)
	}
	c.t.Logf("%d adverts of %d virtual routers in %v: longest gap %v",
		adverts, len(last), all[len(all)-1].at.Sub(all[0].at).Round(time.Millisecond), worst.Round(time.Millisecond))
}

// announced fails the test unless every address was announced, by the virtual MAC
// address that it belongs to, in time after the first advert.
func (c *crowd) announced(all []record, lost int) {
	c.t.Helper()
	first := slices.IndexFunc(all, func(r record) bool { return !r.address.IsValid() })
	if first < 0 {
		c.t.Fatal("the new MASTER has sent no advert")
	}
	took := make(map[netip.Addr]time.Duration)
	for _, r := range all {
		if !r.address.IsValid() {
			continue
		}
		if holder, ours := c.addresses[r.address]; !ours || holder != r.router {
			c.t.Errorf("%v was announced by the virtual router %+v, which does not hold it", r.address, r.router)
		}
		if _, again := took[r.address]; !again {
			took[r.address] = r.at.Sub(all[first].at)
		}
	}
	var worst time.Duration
	missing := 0
	for address := range c.addresses {
		after, ok := took[address]
		if !ok || after > announceLimit {
			missing++
		}
		worst = max(worst, after)
	}
	if missing > lost {
		c.t.Errorf("%d of %d addresses were not announced within %v, and the cables have lost %d frames",
			missing, len(c.addresses), announceLimit, lost)
	}
	c.t.Logf("%d addresses announced within %v of the first advert; the cables have lost %d frames",
		len(took), worst.Round(time.Millisecond), lost)
}

// lost counts the frames from a node that the laboratory's cables have dropped: on a
// machine that has no time for them the kernel's queue between two ends is full. A
// cable of copper has no such queue.
func (c *crowd) lost(node string) int {
	c.t.Helper()
	count := 0
	for _, network := range []string{"lan", "wan"} {
		for namespace, link := range map[string]string{node: network + "0", lab.Fabric: "up-" + network + "-" + node} {
			h, err := c.Namespace(namespace).Netlink()
			c.must(err)
			l, err := h.LinkByName(link)
			h.Close()
			c.must(err)
			count += int(l.Attrs().Statistics.TxDropped)
		}
	}
	return count
}

// expense is what the processes of a node have used.
type expense struct {
	at            time.Time
	elector, node time.Duration
}

func (c *crowd) spent(node string, electorPID, nodePID int) expense {
	return expense{at: time.Now(), elector: c.processorTime(electorPID), node: c.processorTime(nodePID)}
}

// processorTime adds up the times of the threads in /proc/pid/task/tid/schedstat. The
// clock ticks of proc_pid_stat(5) miss a process that works between two of them.
func (c *crowd) processorTime(pid int) time.Duration {
	c.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	c.must(err)
	var total time.Duration
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		c.must(err)
		running, _, _ := strings.Cut(string(content), " ")
		nanoseconds, err := strconv.ParseInt(running, 10, 64)
		c.must(err)
		total += time.Duration(nanoseconds)
	}
	return total
}

// residentSize reads VmRSS of proc_pid_status(5).
func (c *crowd) residentSize(pid int) string {
	c.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	c.must(err)
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// TestScale holds a pair with 255 VRIDs, 509 virtual routers and more than 1000
// virtual addresses to its adverts and announcements.
func TestScale(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes the program too slow for this")
	}
	c := newCrowd(t)
	began := time.Now()
	c.start(nodes()...)
	ctx, cancel := context.WithTimeout(t.Context(), crowdBuild)
	defer cancel()
	c.must(c.WaitReady(ctx))
	t.Logf("ready %v after the start", time.Since(began).Round(time.Millisecond))
	loads := []*load{c.traffic(lightLoad()), c.traffic6(lightLoad())}
	steps := []struct {
		name string
		run  func(c *crowd, loads []*load)
	}{
		{"steady", (*crowd).steady}, {"handover", (*crowd).handOver}, {"poweroff", (*crowd).losePower},
	}
	for _, step := range steps {
		passed := t.Run(step.name, func(t *testing.T) {
			on := *c
			on.stand = c.on(t)
			for _, flows := range loads {
				flows.on(on.stand).mark()
			}
			step.run(&on, loads)
		})
		if !passed {
			return // what follows would fail for the same reason
		}
	}
}

// steady looks at a MASTER that has nothing else to do.
func (c *crowd) steady(loads []*load) {
	pids := make(map[string][2]int)
	before := make(map[string]expense)
	for _, node := range nodes() {
		pids[node] = [2]int{c.electorPID(node), c.nodePID(node)}
		before[node] = c.spent(node, pids[node][0], pids[node][1])
	}
	master, backup := c.roles()
	lost := c.lost(master)
	r := c.listen()
	c.pass(steadyWindow)
	all := r.end()
	c.noGap(all, c.lost(master)-lost)
	if said := of(backup, all); len(said) > 0 {
		c.t.Errorf("the BACKUP said %d things, first %+v", len(said), said[0])
	}
	for _, node := range []string{master, backup} {
		after := c.spent(node, pids[node][0], pids[node][1])
		d := after.at.Sub(before[node].at).Seconds()
		c.t.Logf("%s: elector %.1f %% of a processor and %s, node %.1f %% and %s", node,
			100*(after.elector-before[node].elector).Seconds()/d, c.residentSize(pids[node][0]),
			100*(after.node-before[node].node).Seconds()/d, c.residentSize(pids[node][1]))
	}
	c.flowing(loads, c.status(backup).Priority)
}

// handOver moves the role between two that live: no virtual router misses an advert.
func (c *crowd) handOver(loads []*load) {
	master, backup := c.roles()
	c.healthy(backup)
	priority, lostOld, lostNew := c.status(backup).Priority, c.lost(master), c.lost(backup)
	r := c.listen()
	at := c.inject(lab.Handover, master)
	c.follow(r, backup, at, loads)
	all := r.end()
	lostOld, lostNew = c.lost(master)-lostOld, c.lost(backup)-lostNew
	c.noGap(all, lostOld+lostNew)
	c.announced(of(backup, all), lostNew)
	c.flowing(loads, priority)
}

// losePower takes the MASTER away: what counts is the new one.
func (c *crowd) losePower(loads []*load) {
	master, backup := c.roles()
	priority, lost := c.status(backup).Priority, c.lost(backup)
	r := c.listen()
	c.eventually("the captures see "+master, func(context.Context) error { return r.saw(master) })
	at := c.inject(lab.Poweroff, master)
	c.follow(r, backup, at, loads)
	all := r.end()
	young := of(backup, all)
	lost = c.lost(backup) - lost
	c.noGap(young, lost)
	c.announced(young, lost)
	if old := of(master, all); len(young) > 0 {
		silence := young[0].at.Sub(old[len(old)-1].at)
		c.t.Logf("nobody spoke for %v", silence.Round(time.Millisecond))
		if limit := downInterval(priority) + takeoverTime; silence > limit {
			c.t.Errorf("nobody spoke for %v, want at most %v", silence, limit)
		}
	}
	c.flowing(loads, priority)
}

// flowing fails the test if a flow was lost or silent for longer than a failure of the
// MASTER may last. A tighter bound is for tests that leave the machine some time.
func (c *crowd) flowing(loads []*load, priority uint8) {
	c.t.Helper()
	for _, flows := range loads {
		flows.on(c.stand).within(faultSilence(lab.Poweroff, priority))
	}
}

// follow waits until the new MASTER speaks, its traffic flows and its first
// announcements are due. It asks no node: an answer of that size would cost it time.
func (c *crowd) follow(r *recording, node string, at time.Time, loads []*load) {
	c.t.Helper()
	c.eventually(node+" speaks", func(context.Context) error { return r.saw(node) })
	c.pass(announceLimit + aWhile)
	for _, flows := range loads {
		flows.on(c.stand).resumes(at)
	}
}
