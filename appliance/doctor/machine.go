package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine is what was measured of this machine.
type Machine struct {
	// Kernel is its release, e.g. "6.1.0-49-amd64".
	Kernel string
	// Missing are capabilities that a node needs and this process has not.
	Missing []string
	// Features are the trials in a scratch network namespace.
	Features []Feature
	// RealTime and MemoryLock are what the elector asks for.
	RealTime, MemoryLock Trial
	// OpenFiles is the limit of file descriptors.
	OpenFiles uint64
	// Sysctls are those that exist, by their path below /proc/sys; ReadOnly tells
	// that they cannot be written.
	Sysctls  map[string]string
	ReadOnly bool
	// EventBuffer is the trial of the big receive buffer for conntrack events.
	EventBuffer Trial
	// State is where the node keeps its state.
	State State
	// Key is the trial of the private key; nil for a single router.
	Key   *Trial
	Clock Clock
	// Rivals are other programs here that do what Tandem does, e.g. "keepalived (pid 7)".
	Rivals []string
}

// Feature is something that Tandem needs of the kernel.
type Feature struct {
	Name string
	Trial
}

// The features that a kernel is tried for.
const (
	FeatureVirtualLink = "virtual-links"
	FeatureFence       = "fence"
	FeatureProgramming = "routing-nat"
	FeatureEvents      = "conntrack"
)

// State is the file system of the state directory.
type State struct {
	Directory string
	Writable  Trial
	// Free is the space in bytes.
	Free uint64
}

// Clock is what was measured of time.
type Clock struct {
	// Source is the kernel's clock source, e.g. "tsc"; empty if unknown.
	Source string
	// Synchronised is what adjtimex(2) says, Offset its last correction.
	Synchronised bool
	Offset       time.Duration
	// Lateness is by how much the latest of some hundred short sleeps ended late.
	Lateness time.Duration
	// RealTime tells that they were scheduled as the elector's are.
	RealTime bool
	// Jump is the greatest difference of the two monotonic clocks.
	Jump time.Duration
}

// Needs is what the document asks of the machine and the network.
type Needs struct {
	// Interval is the advertisement interval.
	Interval time.Duration
	// Pair tells that there are two members.
	Pair bool
}

// Bounds of the judgements on a machine.
const (
	minConntrack   = 65536
	minOpenFiles   = 256
	littleSpace    = 8 << 20
	enoughSpace    = 64 << 20
	maxChain       = 4
	beatsPerAdvert = 5
	// leastBeaten is the interval below which there are no beats.
	leastBeaten = 50 * time.Millisecond
	clockJump   = 20 * time.Millisecond
	// leastOrdinary is the interval below which an elector that is scheduled like any
	// other process is not safe on a busy machine: gaps of 50 ms were measured.
	leastOrdinary = 100 * time.Millisecond
)

// patience is the time that may pass unnoticed before somebody else acts: half a beat
// in a pair, half an interval elsewhere.
func (n Needs) patience() time.Duration {
	if n.Pair && n.Interval >= leastBeaten {
		return n.Interval / beatsPerAdvert / 2
	}
	return n.Interval / 2
}

// silence is after what time without adverts something is wrong: three intervals, and
// three seconds for what VRRPv2 and a busy machine need.
func (n Needs) silence() time.Duration { return 3*n.Interval + 3*time.Second }

// JudgeMachine says what is to say about this machine.
func JudgeMachine(m Machine, n Needs) []Finding {
	f := &findings{section: SectionMachine}
	if m.Kernel != "" {
		f.ok("kernel", "", "this is Linux %s; what Tandem needs of it was tried and is below", m.Kernel)
	}
	judgeRights(f, m, n)
	for _, feature := range m.Features {
		judgeFeature(f, feature)
	}
	judgeSysctls(f, m)
	judgeClock(f, m.Clock, n)
	judgeFiles(f, m)
	if len(m.Rivals) > 0 {
		f.warn("rivals", "", "%s runs on this machine and may take part in the election or change addresses beside Tandem: stop it before Tandem runs",
			strings.Join(m.Rivals, " and "))
	}
	return f.list
}

func judgeRights(f *findings, m Machine, n Needs) {
	if len(m.Missing) > 0 {
		f.trouble("capabilities", "", "this process lacks %s: run Tandem and this command as root, or grant the capabilities", strings.Join(m.Missing, " and "))
	} else {
		f.ok("capabilities", "", "this process has CAP_NET_ADMIN and CAP_NET_RAW")
	}
	late := Warning
	if n.Interval < leastOrdinary {
		late = Trouble
	}
	f.trial(late, m.RealTime, "real-time",
		"SCHED_FIFO is granted, so the elector is on time beside any load",
		"the system refuses real-time scheduling, so the elector can be late under load and cause a needless failover",
		"grant CAP_SYS_NICE or LimitRTPRIO, and in a container or control group a real-time budget (cpu.rt_runtime_us)")
	if m.Sysctls["kernel/sched_rt_runtime_us"] == "0" {
		f.trouble("real-time-budget", "", "kernel.sched_rt_runtime_us is 0, so real-time processes get no time at all: set it to 950000")
	}
	f.trial(Warning, m.MemoryLock, "memory-lock",
		"memory can be locked, so the elector never waits for the disk",
		"the system refuses to lock memory, so the elector may wait for the disk when memory is short",
		"grant CAP_IPC_LOCK or LimitMEMLOCK=infinity")
	if m.OpenFiles < minOpenFiles {
		f.trouble("open-files", "", "a process may open %d files and a node needs some hundred: raise RLIMIT_NOFILE to %d", m.OpenFiles, minOpenFiles)
	} else {
		f.ok("open-files", "", "a process may open %d files", m.OpenFiles)
	}
}

// featureText says what a feature is for, and which parts of the kernel it needs.
func featureText(name string) (works, needs string) {
	switch name {
	case FeatureVirtualLink:
		return "macvlan links with a virtual MAC can be made", "load the module macvlan (CONFIG_MACVLAN), and veth and dummy for this test"
	case FeatureFence:
		return "the fence was tried: closed it drops, an advert opens it, without one it closes by itself",
			"it takes Linux 5.16 or newer with nf_tables, the netdev family, its egress hook (CONFIG_NETFILTER_EGRESS) and sets with timeouts"
	case FeatureProgramming:
		return "links, addresses, policy routing, NAT and sysctls were programmed as a node does",
			"it takes policy routing (CONFIG_IP_MULTIPLE_TABLES), nf_tables with NAT (CONFIG_NFT_NAT) and writable sysctls"
	case FeatureEvents:
		return "a session was injected into connection tracking and its event came back",
			"load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK, CONFIG_NF_CONNTRACK_EVENTS)"
	}
	return name, "use a kernel that has it"
}

func judgeFeature(f *findings, feature Feature) {
	works, needs := featureText(feature.Name)
	f.trial(Trouble, feature.Trial, feature.Name, works, "the kernel does not do what Tandem needs of it", needs)
}

// ownSysctls are what Tandem sets itself and restores.
func ownSysctls() map[string]string {
	return map[string]string{
		"net/ipv4/ip_forward":                       "1",
		"net/ipv4/conf/all/send_redirects":          "0",
		"net/ipv4/conf/all/arp_ignore":              "1",
		"net/netfilter/nf_conntrack_events":         "1",
		"net/netfilter/nf_conntrack_tcp_be_liberal": "1",
		"net/netfilter/nf_conntrack_tcp_loose":      "1",
	}
}

// WatchedSysctls are the paths below /proc/sys that [Machine].Sysctls should hold.
func WatchedSysctls() []string {
	paths := []string{
		"kernel/sched_rt_runtime_us", "net/ipv4/conf/all/rp_filter", "net/netfilter/nf_conntrack_max",
		"net/netfilter/nf_conntrack_buckets", "net/netfilter/nf_conntrack_count",
	}
	for path := range ownSysctls() {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func judgeSysctls(f *findings, m Machine) {
	var wrong []string
	for path, want := range ownSysctls() {
		if value, ok := m.Sysctls[path]; ok && value != want {
			wrong = append(wrong, strings.ReplaceAll(path, "/", ".")+" "+value+"→"+want)
		}
	}
	slices.Sort(wrong)
	switch {
	case len(wrong) > 0 && m.ReadOnly:
		f.trouble("sysctls", "", "sysctls cannot be written here and %s must change: make /proc/sys writable or set them from outside", strings.Join(wrong, ", "))
	case len(wrong) > 0:
		f.ok("sysctls", "", "Tandem sets itself, and restores at its end: %s", strings.Join(wrong, ", "))
	default:
		f.ok("sysctls", "", "all that Tandem needs are set")
	}
	if m.Sysctls["net/ipv4/conf/all/rp_filter"] == "1" {
		f.ok("rp-filter", "", "reverse path filtering is strict here and Tandem makes it loose (2) on its own interfaces")
	}
	f.trial(Warning, m.EventBuffer, "event-buffer", "the event socket gets its buffer of 16 MB whatever net.core.rmem_max is",
		"the event socket does not get its buffer, so bursts of new sessions are replicated late",
		"grant CAP_NET_ADMIN in the machine's own user namespace, or raise net.core.rmem_max to 16777216")
	judgeTable(f, m.Sysctls)
}

func judgeTable(f *findings, sysctls map[string]string) {
	limit, err := strconv.Atoi(sysctls["net/netfilter/nf_conntrack_max"])
	if err != nil {
		f.untested("conntrack-table", "", "the limits of connection tracking cannot be read; load the module nf_conntrack")
		return
	}
	buckets, _ := strconv.Atoi(sysctls["net/netfilter/nf_conntrack_buckets"]) // 0 is unknown
	count, _ := strconv.Atoi(sysctls["net/netfilter/nf_conntrack_count"])
	switch {
	case count > limit*3/4:
		f.trouble("conntrack-table", "", "%d of at most %d sessions are in use and new ones will be refused soon: raise net.netfilter.nf_conntrack_max on both members", count, limit)
	case limit < minConntrack:
		f.warn("conntrack-table", "", "connection tracking holds at most %d sessions: raise net.netfilter.nf_conntrack_max to %d or more on both members", limit, minConntrack)
	case buckets > 0 && limit > buckets*maxChain:
		f.warn("conntrack-table", "", "%d sessions share %d hash buckets, which makes takeovers slow: set net.netfilter.nf_conntrack_buckets to %d", limit, buckets, limit/2)
	default:
		f.ok("conntrack-table", "", "connection tracking holds up to %d sessions in %d buckets, %d are in use", limit, buckets, count)
	}
}

func judgeClock(f *findings, c Clock, n Needs) {
	switch {
	case slices.Contains([]string{"jiffies", "refined-jiffies", "acpi_pm", "hpet", "pit"}, c.Source):
		f.warn("clock-source", "", "the kernel takes its time from %s, which is slow or coarse: enable tsc, or kvm-clock in a virtual machine", c.Source)
	case c.Source != "":
		f.ok("clock-source", "", "the kernel takes its time from %s", c.Source)
	}
	if c.Jump > clockJump {
		f.trouble("monotonic-clock", "", "the monotonic clock jumped by %v within a second, which upsets every timer: look at the hypervisor's clock and at what adjusts it", c.Jump.Round(time.Millisecond))
	} else {
		f.ok("monotonic-clock", "", "the monotonic clock runs evenly")
	}
	how := "an ordinary thread"
	if c.RealTime {
		how = "a real-time thread"
	}
	if c.Lateness > n.patience() {
		f.warn("punctuality", "", "%s woke up to %s late, and at an advertisement_interval of %v more than %v can cause a needless failover: give this machine more or less contended CPUs, or make the interval longer",
			how, span(c.Lateness), n.Interval, n.patience())
	} else {
		f.ok("punctuality", "", "%s wakes at most %s late; an advertisement_interval of %v allows %v", how, span(c.Lateness), n.Interval, n.patience())
	}
	if c.Synchronised {
		f.ok("wall-clock", "", "the wall clock is synchronised, last correction %s", span(c.Offset))
	} else {
		f.warn("wall-clock", "", "the wall clock is not synchronised; the election does not depend on it, but logs of both members are hard to compare: run an NTP client")
	}
}

func judgeFiles(f *findings, m Machine) {
	s := m.State
	switch {
	case s.Writable.Tried && !s.Writable.OK():
		f.trouble("state-directory", "", "the state directory %s cannot be used (%s): choose another with --state-dir", s.Directory, s.Writable.Problem)
	case !s.Writable.Tried:
		f.untested("state-directory", "", "the state directory %s could not be looked at (%s)", s.Directory, s.Writable.Problem)
	case s.Free < littleSpace:
		f.trouble("state-directory", "", "only %s are free where %s is: make room", size(s.Free), s.Directory)
	case s.Free < enoughSpace:
		f.warn("state-directory", "", "only %s are free where %s is: make room", size(s.Free), s.Directory)
	default:
		f.ok("state-directory", "", "%s are free where %s is", size(s.Free), s.Directory)
	}
	if m.Key == nil {
		return
	}
	switch {
	case m.Key.OK():
		f.ok("key", "", "the private key is the document's and nobody else can read it")
	case m.Key.Tried:
		f.trouble("key", "", "%s", m.Key.Problem)
	default:
		f.untested("key", "", "%s", m.Key.Problem)
	}
}

// size writes a number of bytes as people say it.
func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// span writes a short duration with two significant figures.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
