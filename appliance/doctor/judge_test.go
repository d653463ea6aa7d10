package doctor

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// verdict is what a test expects of one check.
type verdict struct {
	check, where string
	grade        Grade
	// words are in the sentence, in this order.
	words []string
}

func expect(t *testing.T, list []Finding, want verdict) {
	t.Helper()
	for _, f := range list {
		if f.Check != want.check || f.Where != want.where || f.Grade != want.grade {
			continue
		}
		rest := f.Text
		for _, w := range want.words {
			_, after, ok := strings.Cut(rest, w)
			if !ok {
				t.Errorf("%q lacks %q", f.Text, w)
			}
			rest = after
		}
		return
	}
	t.Errorf("no %v of %s at %q in %+v", want.grade, want.check, want.where, list)
}

// worst fails the test if anything but the named checks is not well.
func worst(t *testing.T, list []Finding, but ...string) {
	t.Helper()
	for _, f := range list {
		if f.Grade != OK && !slices.Contains(but, f.Check) {
			t.Errorf("%v: %s %s: %s", f.Grade, f.Check, f.Where, f.Text)
		}
	}
}

// sentences fails the test where a finding is none, or says what is wrong and not what
// to do.
func sentences(t *testing.T, list []Finding) {
	t.Helper()
	for _, f := range list {
		switch {
		case f.Section == "" || f.Check == "" || f.Text == "":
			t.Errorf("%+v is not complete", f)
		case strings.HasSuffix(f.Text, ".") || strings.Contains(f.Text, "\n") || strings.Contains(f.Text, "%!"):
			t.Errorf("%q is not one sentence without its stop", f.Text)
		case (f.Grade == Warning || f.Grade == Trouble) && !strings.Contains(f.Text, ": "):
			t.Errorf("%q does not say what to do", f.Text)
		case f.Grade == NotTested && !strings.Contains(f.Text, ";"):
			t.Errorf("%q does not say what to do", f.Text)
		}
	}
}

func pairNeeds() Needs { return Needs{Interval: 100 * time.Millisecond, Pair: true} }

func goodMachine() Machine {
	key := Passed()
	m := Machine{
		Kernel: "6.1.0", RealTime: Passed(), MemoryLock: Passed(), OpenFiles: 1024, EventBuffer: Passed(), Key: &key,
		State: State{Directory: "/run/tandem/alpha", Writable: Passed(), Free: 1 << 30},
		Clock: Clock{Source: "tsc", Synchronised: true, RealTime: true, Lateness: time.Millisecond},
		Sysctls: map[string]string{
			"net/netfilter/nf_conntrack_max": "262144", "net/netfilter/nf_conntrack_buckets": "262144", "net/netfilter/nf_conntrack_count": "7",
		},
	}
	for path, value := range ownSysctls() {
		m.Sysctls[path] = value
	}
	for _, name := range []string{FeatureVirtualLink, FeatureFence, FeatureProgramming, FeatureEvents} {
		m.Features = append(m.Features, Feature{name, Passed()})
	}
	return m
}

func TestJudgeMachine(t *testing.T) {
	list := JudgeMachine(goodMachine(), pairNeeds())
	worst(t, list)
	sentences(t, list)
	tests := []struct {
		name   string
		damage func(m *Machine, n *Needs)
		want   verdict
	}{
		{
			"capabilities", func(m *Machine, _ *Needs) { m.Missing = []string{"CAP_NET_ADMIN", "CAP_NET_RAW"} },
			verdict{"capabilities", "", Trouble, []string{"CAP_NET_ADMIN and CAP_NET_RAW", "root"}},
		},
		{
			"real time is dear at the default interval", func(m *Machine, _ *Needs) { m.RealTime = Failed("operation not permitted") },
			verdict{"real-time", "", Warning, []string{"operation not permitted", "CAP_SYS_NICE"}},
		},
		{
			"real time is needed at short intervals", func(m *Machine, n *Needs) { m.RealTime, n.Interval = Failed("no"), 10*time.Millisecond },
			verdict{"real-time", "", Trouble, []string{"CAP_SYS_NICE"}},
		},
		{
			"no budget", func(m *Machine, _ *Needs) { m.Sysctls["kernel/sched_rt_runtime_us"] = "0" },
			verdict{"real-time-budget", "", Trouble, []string{"950000"}},
		},
		{
			"memory", func(m *Machine, _ *Needs) { m.MemoryLock = Failed("cannot allocate memory") },
			verdict{"memory-lock", "", Warning, []string{"CAP_IPC_LOCK"}},
		},
		{
			"files", func(m *Machine, _ *Needs) { m.OpenFiles = 64 },
			verdict{"open-files", "", Trouble, []string{"64", "RLIMIT_NOFILE"}},
		},
		{
			"fence", func(m *Machine, _ *Needs) { m.Features[1].Trial = Failed("operation not supported") },
			verdict{FeatureFence, "", Trouble, []string{"operation not supported", "CONFIG_NETFILTER_EGRESS"}},
		},
		{
			"macvlan", func(m *Machine, _ *Needs) { m.Features[0].Trial = Failed("operation not supported") },
			verdict{FeatureVirtualLink, "", Trouble, []string{"CONFIG_MACVLAN"}},
		},
		{
			"no namespace", func(m *Machine, _ *Needs) { m.Features[2].Trial = Untried("operation not permitted") },
			verdict{FeatureProgramming, "", NotTested, []string{"operation not permitted"}},
		},
		{
			"sysctl to be set", func(m *Machine, _ *Needs) { m.Sysctls["net/ipv4/ip_forward"] = "0" },
			verdict{"sysctls", "", OK, []string{"net.ipv4.ip_forward 0→1"}},
		},
		{
			"sysctl that cannot be set", func(m *Machine, _ *Needs) { m.Sysctls["net/ipv4/ip_forward"], m.ReadOnly = "0", true },
			verdict{"sysctls", "", Trouble, []string{"net.ipv4.ip_forward 0→1", "writable"}},
		},
		{
			"strict filter", func(m *Machine, _ *Needs) { m.Sysctls["net/ipv4/conf/all/rp_filter"] = "1" },
			verdict{"rp-filter", "", OK, []string{"loose"}},
		},
		{
			"buffer", func(m *Machine, _ *Needs) { m.EventBuffer = Failed("212992 bytes") },
			verdict{"event-buffer", "", Warning, []string{"212992", "rmem_max"}},
		},
		{
			"small table", func(m *Machine, _ *Needs) { m.Sysctls["net/netfilter/nf_conntrack_max"] = "8192" },
			verdict{"conntrack-table", "", Warning, []string{"8192", "nf_conntrack_max"}},
		},
		{
			"full table", func(m *Machine, _ *Needs) { m.Sysctls["net/netfilter/nf_conntrack_count"] = "250000" },
			verdict{"conntrack-table", "", Trouble, []string{"250000", "nf_conntrack_max"}},
		},
		{
			"few buckets", func(m *Machine, _ *Needs) { m.Sysctls["net/netfilter/nf_conntrack_buckets"] = "1024" },
			verdict{"conntrack-table", "", Warning, []string{"1024", "nf_conntrack_buckets to 131072"}},
		},
		{
			"no table", func(m *Machine, _ *Needs) { delete(m.Sysctls, "net/netfilter/nf_conntrack_max") },
			verdict{"conntrack-table", "", NotTested, []string{"nf_conntrack"}},
		},
		{
			"slow clock", func(m *Machine, _ *Needs) { m.Clock.Source = "acpi_pm" },
			verdict{"clock-source", "", Warning, []string{"acpi_pm", "kvm-clock"}},
		},
		{
			"jumping clock", func(m *Machine, _ *Needs) { m.Clock.Jump = time.Second },
			verdict{"monotonic-clock", "", Trouble, []string{"1s", "hypervisor"}},
		},
		{
			"late", func(m *Machine, _ *Needs) { m.Clock.Lateness = 11 * time.Millisecond },
			verdict{"punctuality", "", Warning, []string{"real-time thread", "11 ms", "100ms", "10ms"}},
		},
		{
			"late for nobody", func(m *Machine, n *Needs) { m.Clock.Lateness, n.Interval = 11*time.Millisecond, time.Second },
			verdict{"punctuality", "", OK, []string{"1s", "100ms"}},
		},
		{
			"late without beats", func(m *Machine, n *Needs) { m.Clock.Lateness, n.Interval = 6*time.Millisecond, 10*time.Millisecond },
			verdict{"punctuality", "", Warning, []string{"10ms", "5ms"}},
		},
		{
			"free-running clock", func(m *Machine, _ *Needs) { m.Clock.Synchronised = false },
			verdict{"wall-clock", "", Warning, []string{"NTP"}},
		},
		{
			"full disk", func(m *Machine, _ *Needs) { m.State.Free = 1 << 20 },
			verdict{"state-directory", "", Trouble, []string{"1024 kB", "/run/tandem/alpha"}},
		},
		{
			"nearly full disk", func(m *Machine, _ *Needs) { m.State.Free = 20 << 20 },
			verdict{"state-directory", "", Warning, []string{"20 MB"}},
		},
		{
			"no directory", func(m *Machine, _ *Needs) { m.State.Writable = Failed("read-only file system") },
			verdict{"state-directory", "", Trouble, []string{"read-only", "--state-dir"}},
		},
		{"open key", func(m *Machine, _ *Needs) {
			open := Failed("the private key k is accessible to others (mode 0644): run `chmod 600 k`")
			m.Key = &open
		}, verdict{"key", "", Trouble, []string{"chmod"}}},
		{
			"rivals", func(m *Machine, _ *Needs) { m.Rivals = []string{"keepalived (pid 7)"} },
			verdict{"rivals", "", Warning, []string{"keepalived (pid 7)", "stop it"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, n := goodMachine(), pairNeeds()
			tt.damage(&m, &n)
			list := JudgeMachine(m, n)
			expect(t, list, tt.want)
			worst(t, list, tt.want.check)
			sentences(t, list)
		})
	}
}

func goodPort() Port {
	return Port{
		Carrier: "lan", Interface: "eth1", Found: true, Ethernet: true, Up: true, HasCarrier: true, LinkKind: "device",
		MTU: 1500, MAC: "02:00:00:00:00:01", Address: "10.0.0.2", Present: true,
	}
}

func TestJudgePorts(t *testing.T) {
	worst(t, JudgePorts([]Port{goodPort()}, true))
	tests := []struct {
		name    string
		running bool
		damage  func(p *Port)
		want    verdict
		also    []string
	}{
		{"missing", false, func(p *Port) { p.Found = false }, verdict{"interface", "lan", Trouble, []string{"no interface eth1"}}, nil},
		{"loopback", false, func(p *Port) { p.Ethernet = false }, verdict{"interface", "lan", Trouble, []string{"not Ethernet"}}, nil},
		{"ipvlan", false, func(p *Port) { p.LinkKind = "ipvlan" }, verdict{"interface", "lan", Trouble, []string{"macvlan"}}, nil},
		{"bridge port", false, func(p *Port) { p.Master = "br0" }, verdict{"interface", "lan", Trouble, []string{"br0"}}, nil},
		{"down", false, func(p *Port) { p.Up = false }, verdict{"interface", "lan", Trouble, []string{"ip link set eth1 up", "Tandem"}}, nil},
		{"down while running", true, func(p *Port) { p.Up = false }, verdict{"interface", "lan", Trouble, []string{"while the node runs"}}, nil},
		{"no carrier", true, func(p *Port) { p.HasCarrier = false }, verdict{"interface", "lan", Trouble, []string{"carrier", "cable"}}, nil},
		{"promiscuous", true, func(p *Port) { p.Promiscuous = true }, verdict{"interface", "lan", OK, []string{"promiscuous"}}, nil},
		{
			"filters", true, func(p *Port) { p.Programs = []string{"an XDP program", "tc filters"} },
			verdict{"filters", "lan", Warning, []string{"an XDP program and tc filters", "112"}},
			nil,
		},
		{
			"misplaced", true, func(p *Port) { p.Misplaced = []Placed{{"10.0.0.1", "eth7"}} },
			verdict{"address", "lan", Trouble, []string{"10.0.0.1 stands on eth7", "ip address del 10.0.0.1 dev eth7"}},
			nil,
		},
		{
			"claimed", true, func(p *Port) { p.Claims = []Claim{{"10.0.0.2", "02:00:00:00:00:99", false}} },
			verdict{"conflict", "lan", Trouble, []string{"10.0.0.2", "02:00:00:00:00:99"}},
			nil,
		},
		{
			"a MASTER's", true, func(p *Port) { p.Claims = []Claim{{"10.0.0.1", "00:00:5e:00:01:0a", true}} },
			verdict{"conflict", "lan", OK, []string{"MASTER"}},
			nil,
		},
		{"not yet set", false, func(p *Port) { p.Present = false }, verdict{"address", "lan", OK, []string{"Tandem will set it"}}, nil},
		{"removed", true, func(p *Port) { p.Present = false }, verdict{"address", "lan", Trouble, []string{"though the node runs"}}, nil},
		{"name", true, func(p *Port) { p.Taken = []string{"vmac10"} }, verdict{"name", "lan", Trouble, []string{"vmac10"}}, nil},
		{
			"networkd", true, func(p *Port) { p.Managers = []string{"systemd-networkd"} },
			verdict{"managed", "lan", Warning, []string{"systemd-networkd manages eth1", "Unmanaged=yes"}},
			nil,
		},
		{
			"NetworkManager", true, func(p *Port) { p.Managers = []string{"NetworkManager"} },
			verdict{"managed", "lan", Warning, []string{"nmcli device set eth1 managed no"}},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := goodPort()
			tt.damage(&p)
			list := JudgePorts([]Port{p}, tt.running)
			expect(t, list, tt.want)
			worst(t, list, tt.want.check)
			sentences(t, list)
		})
	}
}

func TestSameMACOnTwoInterfaces(t *testing.T) {
	a, b, c := goodPort(), goodPort(), goodPort()
	b.Carrier, b.Interface = "wan", "eth2"
	c.Carrier, c.Interface, c.LinkKind = "office", "eth1.20", "vlan"
	list := JudgePorts([]Port{a, b, c}, true)
	expect(t, list, verdict{"same-mac", "lan", Warning, []string{"eth1 and eth2", "02:00:00:00:00:01"}})
	b.MAC = "02:00:00:00:00:02"
	worst(t, JudgePorts([]Port{a, b, c}, true))
}

func TestJudgeSegments(t *testing.T) {
	good := Segment{
		Carrier: "wan", Interface: "eth1", Own: []VirtualRouter{{10, false}, {12, true}}, Listened: 3 * time.Second,
		Gateways: []Gateway{{Address: "198.51.100.1", Asked: true, Answered: true, MAC: "02:00:00:00:00:01"}},
	}
	worst(t, JudgeSegments([]Segment{good}))
	tests := []struct {
		name   string
		damage func(s *Segment)
		want   verdict
	}{
		{
			"same VRID", func(s *Segment) {
				s.Routers = []Router{{VRID: 10, Source: "198.51.100.9", MAC: "m", Priority: 100, Version: 2}}
			},
			verdict{"vrrp-routers", "wan", Trouble, []string{"198.51.100.9", "VRID 10", "eth1", "priority 100", "version 2"}},
		},
		{
			"same VRID of IPv6", func(s *Segment) { s.Routers = []Router{{VRID: 12, IPv6: true, Source: "fe80::9"}} },
			verdict{"vrrp-routers", "wan", Trouble, []string{"fe80::9", "VRID 12"}},
		},
		{
			"same VRID of the other family", func(s *Segment) { s.Routers = []Router{{VRID: 10, IPv6: true, Source: "fe80::9"}} },
			verdict{"vrrp-routers", "wan", OK, []string{"VRID 10 at fe80::9"}},
		},
		{
			"other VRID", func(s *Segment) { s.Routers = []Router{{VRID: 11, Source: "198.51.100.9"}} },
			verdict{"vrrp-routers", "wan", OK, []string{"VRID 11 at 198.51.100.9"}},
		},
		{
			"deaf", func(s *Segment) { s.Listened, s.Problem = 0, "eth1 is down" },
			verdict{"vrrp-routers", "wan", NotTested, []string{"eth1 is down"}},
		},
		{
			"mute gateway", func(s *Segment) { s.Gateways[0].Answered = false },
			verdict{"gateway", "wan", Warning, []string{"198.51.100.1", "eth1", "VLAN"}},
		},
		{
			"gateway not asked", func(s *Segment) { s.Gateways[0] = Gateway{Address: "198.51.100.1"} },
			verdict{"gateway", "wan", NotTested, []string{"somebody else"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			s.Gateways = slices.Clone(good.Gateways)
			tt.damage(&s)
			list := JudgeSegments([]Segment{s})
			expect(t, list, tt.want)
			worst(t, list, tt.want.check)
			sentences(t, list)
		})
	}
}

func TestGradesTravelAsText(t *testing.T) {
	for _, g := range []Grade{OK, Warning, Trouble, NotTested} {
		b, err := json.Marshal(Finding{Grade: g})
		if err != nil {
			t.Fatal(err)
		}
		var back Finding
		if err := json.Unmarshal(b, &back); err != nil || back.Grade != g || !strings.Contains(string(b), g.String()) {
			t.Errorf("%v became %s and %v: %v", g, b, back.Grade, err)
		}
	}
	var g Grade
	if err := g.UnmarshalText([]byte("fine")); err == nil {
		t.Error("an unknown grade was accepted")
	}
}
