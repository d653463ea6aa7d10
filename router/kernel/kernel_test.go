package kernel

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router"
	"tandem/vrrp/fence"
)

const golden = `link lo device  down
link lan0 veth 02:00:00:00:00:01 up
addr 10.1.0.2/24 dev lan0
link wan0 veth 02:00:00:00:00:03 up
addr 203.0.113.2/24 dev wan0
link vmac10 macvlan 00:00:5e:00:01:0a up on wan0 mode 3 alias tandem:lab:wan
addr 203.0.113.10/32 dev vmac10
link vmac20 macvlan 00:00:5e:00:01:14 up on lan0 mode 3 alias tandem:lab:lan
addr 10.1.0.1/32 dev vmac20
route table 254 type 1 10.1.0.0/24 via <nil> dev lan0 metric 0 proto 2 scope 253 -
route table 254 type 1 203.0.113.0/24 via <nil> dev wan0 metric 0 proto 2 scope 253 -
route table 1010 type 1 0.0.0.0/0 via 203.0.113.254 dev vmac10 metric 0 proto 112 scope 0 onlink
route table 1010 type 7 0.0.0.0/0 via <nil> dev  metric 1073741824 proto 112 scope 0 -
route table 1010 type 1 10.1.0.0/24 via <nil> dev vmac20 metric 0 proto 112 scope 253 -
route table 1010 type 1 203.0.113.0/24 via <nil> dev vmac10 metric 0 proto 112 scope 253 -
route table 1020 type 1 0.0.0.0/0 via 203.0.113.254 dev vmac10 metric 0 proto 112 scope 0 onlink
route table 1020 type 7 0.0.0.0/0 via <nil> dev  metric 1073741824 proto 112 scope 0 -
route table 1020 type 1 10.1.0.0/24 via <nil> dev vmac20 metric 0 proto 112 scope 253 -
route table 1020 type 1 203.0.113.0/24 via <nil> dev vmac10 metric 0 proto 112 scope 253 -
rule 0 from <nil> iif "" table 255 proto 2
rule 11000 from 203.0.113.2/32 iif "" table 254 proto 112
rule 11000 from 10.1.0.2/32 iif "" table 254 proto 112
rule 11100 from <nil> iif "vmac10" table 1010 proto 112
rule 11100 from <nil> iif "vmac20" table 1020 proto 112
rule 11200 from 10.1.0.0/24 iif "" table 1020 proto 112
rule 11300 from 203.0.113.10/32 iif "" table 1010 proto 112
rule 32766 from <nil> iif "" table 254 proto 2
rule 32767 from <nil> iif "" table 253 proto 2`

func (l *lab) apply(t testing.TB, intent router.Intent) Report {
	t.Helper()
	report, err := l.kernel.Apply(t.Context(), intent)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func sortedLines(s string) []string {
	return slices.Sorted(slices.Values(strings.Split(s, "\n")))
}

func TestApplyGolden(t *testing.T) {
	l := newLab(t, time.Second)
	before := l.dump(t)
	report := l.apply(t, office())
	if len(report.Missing)+len(report.Conflicts) > 0 {
		t.Errorf("%+v", report)
	}
	if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
		t.Error(diff)
	}
	if again := l.apply(t, office()); len(again.Changed) > 0 {
		t.Errorf("second Apply changed %q", again.Changed)
	}
	// A successor finds everything in place.
	successor := l.newReconciler(t)
	if again, err := successor.Apply(t.Context(), office()); err != nil || len(again.Changed) > 0 {
		t.Errorf("the successor changed %q, error %v", again.Changed, err)
	}
	for range 2 {
		if err := successor.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Ports stay up: they may have been up before for all that is known.
	want := strings.NewReplacer("00:01 down", "00:01 up", "00:03 down", "00:03 up").Replace(before)
	if diff := cmp.Diff(want, l.dump(t)); diff != "" {
		t.Errorf("after Remove: %s", diff)
	}
	if diff := cmp.Diff(foreignSysctls(), l.sysctls(t), cmp.AllowUnexported(setting{})); diff != "" {
		t.Errorf("after Remove: %s", diff)
	}
	if out := l.run(t, "nft list ruleset"); out != "" {
		t.Errorf("after Remove: %s", out)
	}
}

func TestApplyRepairs(t *testing.T) {
	l := newLab(t, time.Second)
	l.apply(t, office())
	for _, command := range []string{
		"ip link del vmac20",
		"ip link set vmac10 down",
		"ip link set vmac10 alias nobody", // and so it is a foreign one: see below
		"ip addr del 10.1.0.1/32 dev vmac20",
		"ip addr add 10.1.0.77/32 dev vmac20",
		"ip addr del 10.1.0.2/24 dev lan0",
		"ip route flush table 1020",
		"ip route replace 10.1.0.0/24 dev vmac10 table 1020 proto 112",
		"ip rule del pref 11200",
		"ip rule add pref 11250 from 10.66.0.0/16 lookup 1020 protocol 112",
		"nft flush ruleset",
		"nft flush chain ip tandem-lab postrouting",
		"nft delete table netdev tandem-lab",
		"nft add rule ip tandem-lab forward accept",
		"sysctl -w net.ipv4.conf.vmac10.arp_ignore=0",
		"sysctl -w net.ipv4.ip_forward=0",
		"sysctl -w net.ipv4.conf.lan0.arp_ignore=0",
	} {
		t.Run(command, func(t *testing.T) {
			if out, err := output(t, l.router, command); err != nil {
				if strings.Contains(command, "netdev") && strings.Contains(out, "not permitted") {
					return // where the kernel can, it keeps the fence from everybody else
				}
				t.Fatalf("%v: %s", err, out)
			}
			report := l.apply(t, office())
			if strings.Contains(command, "alias") {
				if len(report.Conflicts) != 1 {
					t.Errorf("conflicts %q, want the link that lost its mark", report.Conflicts)
				}
				l.run(t, "ip link set vmac10 alias tandem:lab:wan")
				l.apply(t, office())
				return
			}
			if len(report.Changed) == 0 {
				t.Error("nothing repaired")
			}
			if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
				t.Error(diff)
			}
			if again := l.apply(t, office()); len(again.Changed) > 0 {
				t.Errorf("changed again %q", again.Changed)
			}
		})
	}
	in(t, l.router, func() error {
		value, err := readSysctl("net/ipv4/conf/vmac10/arp_ignore")
		if value != "1" {
			t.Errorf("arp_ignore of vmac10 is %s", value)
		}
		return err
	})
}

func TestForeignObjectsSurvive(t *testing.T) {
	l := newLab(t, time.Second)
	foreign := []string{
		"ip link add foreign0 type veth peer name foreign1",
		"ip link set foreign0 up", "ip link set foreign1 up",
		"ip link add mv0 link lan0 type macvlan mode bridge",
		"ip addr add 192.0.2.1/24 dev foreign0",
		"ip link set lan0 up",
		"ip addr add 10.1.0.9/24 dev lan0",
		"ip route add 198.51.100.0/24 dev foreign0",
		"ip route add 198.51.100.0/24 dev foreign0 table 1020",
		"ip rule add pref 500 from 192.0.2.0/24 lookup 77",
		"nft add table ip mine",
		"nft add table netdev tandem-other",
	}
	for _, c := range foreign {
		l.run(t, c)
	}
	before, tables := sortedLines(l.dump(t)), l.run(t, "nft list ruleset")
	l.apply(t, office())
	after := sortedLines(l.dump(t))
	for _, line := range before {
		// The port that was down is up now.
		if !slices.Contains(after, line) && !strings.HasPrefix(line, "link wan0") {
			t.Errorf("Apply touched %q", line)
		}
	}
	l.run(t, "sysctl -w net.ipv4.conf.wan0.arp_announce=0") // by somebody else
	if err := l.kernel.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	before = slices.DeleteFunc(before, func(s string) bool { return strings.HasPrefix(s, "link wan0") })
	after = slices.DeleteFunc(sortedLines(l.dump(t)), func(s string) bool { return strings.HasPrefix(s, "link wan0") })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after Remove: %s", diff)
	}
	if got := l.run(t, "nft list ruleset"); got != tables {
		t.Errorf("tables after Remove: %s", got)
	}
	for _, s := range l.sysctls(t) {
		if s.path == "net/ipv4/conf/wan0/arp_announce" && s.value != "0" {
			t.Errorf("%s is %s: somebody else's value was overwritten", s.path, s.value)
		}
	}
}

func TestDegraded(t *testing.T) {
	l := newLab(t, time.Second)
	intent := office()
	intent.Ports[0].Interface, intent.VirtualLinks[0].Parent = "nic9", "nic9"
	report := l.apply(t, intent)
	if !slices.Equal(report.Missing, []string{"nic9"}) {
		t.Errorf("missing %q", report.Missing)
	}
	if d := l.dump(t); !strings.Contains(d, "link vmac20") || strings.Contains(d, "vmac10 macvlan") {
		t.Errorf("not degraded:\n%s", d)
	}
	l.run(t, "ip addr add 10.1.0.1/24 dev lan0")
	report = l.apply(t, intent)
	if len(report.Conflicts) != 1 || !strings.Contains(report.Conflicts[0], "10.1.0.1") {
		t.Errorf("conflicts %q", report.Conflicts)
	}
	if d := l.dump(t); strings.Contains(d, "link vmac20") || !strings.Contains(d, "addr 10.1.0.1/24 dev lan0") {
		t.Errorf("not left out:\n%s", d)
	}
	// All is well again, whatever the way here.
	l.run(t, "ip addr del 10.1.0.1/24 dev lan0")
	if report := l.apply(t, office()); len(report.Missing)+len(report.Conflicts) > 0 {
		t.Errorf("%+v", report)
	}
	if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
		t.Error(diff)
	}
}

// A cable that is pulled or a port that an operator sets down is no error, and
// the operator's will is respected.
func TestDeadPort(t *testing.T) {
	l := newLab(t, time.Second)
	l.apply(t, office())
	l.run(t, "ip link set wan0 down")
	l.apply(t, office())
	if s, err := l.kernel.LinkState("wan0"); err != nil || !s.Present || s.Up {
		t.Errorf("port set down: %+v %v", s, err)
	}
	if s, err := l.kernel.LinkState("vmac10"); err != nil || s.Up {
		t.Errorf("link on it: %+v %v", s, err)
	}
	if again := l.apply(t, office()); len(again.Changed) > 0 {
		t.Errorf("changed %q", again.Changed)
	}
	// The node restarts meanwhile and raises its ports.
	l.kernel = l.newReconciler(t)
	l.apply(t, office())
	if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
		t.Error(diff)
	}
	runIn(t, l.server, "ip link set s0 down")
	if again := l.apply(t, office()); len(again.Changed) > 0 {
		t.Errorf("changed %q", again.Changed)
	}
	if s, err := l.kernel.LinkState("wan0"); err != nil || !s.Present || s.Up {
		t.Errorf("without carrier: %+v %v", s, err)
	}
	if s, err := l.kernel.LinkState("nothing"); err != nil || s.Present {
		t.Errorf("absent: %+v %v", s, err)
	}
}

func TestConfigurationChange(t *testing.T) {
	l := newLab(t, time.Second)
	l.apply(t, office())
	intent := office()
	intent.VirtualLinks, intent.Ports = intent.VirtualLinks[:1], intent.Ports[:1]
	intent.VirtualLinks[0].Addresses = []netip.Addr{addr("203.0.113.11")}
	intent.NAT, intent.Guarded = nil, intent.VirtualLinks[0].Addresses
	intent.Rules = intent.Rules[:1]
	intent.Routes = []router.Route{intent.Routes[0]}
	l.apply(t, intent)
	d := l.dump(t)
	for _, gone := range []string{"vmac20", "10.1.0.", "113.10", "table 1020"} {
		if strings.Contains(d, gone) {
			t.Errorf("%s is still there:\n%s", gone, d)
		}
	}
	for _, s := range l.sysctls(t) {
		if s.path == "net/ipv4/conf/lan0/rp_filter" && s.value != "1" {
			t.Errorf("%s is %s: lan0 is no port any more", s.path, s.value)
		}
	}
	l.apply(t, office())
	if diff := cmp.Diff(sortedLines(golden), sortedLines(l.dump(t))); diff != "" {
		t.Error(diff)
	}
}

func TestWatch(t *testing.T) {
	l := newLab(t, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := l.kernel.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	drain := func() {
		for {
			select {
			case <-events:
			case <-time.After(50 * time.Millisecond):
				return
			}
		}
	}
	for _, c := range []string{
		"ip link add d0 type veth peer name d1", "ip link set d1 up", "ip link set d0 up", "ip addr add 192.0.2.1/24 dev d0",
		"ip route add 198.51.100.0/24 dev d0", "ip rule add pref 7 lookup 7", "nft add table ip x",
	} {
		drain()
		l.run(t, c)
		select {
		case <-events:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: no notification", c)
		}
	}
	cancel()
	for deadline := time.After(5 * time.Second); ; {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open after the end of the context")
		}
	}
}

// brokenFence refuses to stand.
type brokenFence struct{}

var errNoFence = errors.New("no fence today")

func (brokenFence) Ensure([]fence.Link) ([]string, error) { return nil, errNoFence }
func (brokenFence) Check([]fence.Link) error              { return errNoFence }
func (brokenFence) Remove() error                         { return errNoFence }

func TestNothingComesUpWithoutFence(t *testing.T) {
	l := newLab(t, time.Second)
	l.kernel.fence = brokenFence{}
	if _, err := l.kernel.Apply(t.Context(), office()); err == nil {
		t.Error("no error without a fence")
	}
	if d := l.dump(t); strings.Contains(d, "addr 10.1.0.1/32") || strings.Contains(d, "14 up on lan0") {
		t.Errorf("unfenced:\n%s", d)
	}
	// A fence that falls and cannot be put up again silences links that are up.
	l = newLab(t, time.Second)
	l.apply(t, office())
	l.kernel.fence = brokenFence{}
	if _, err := l.kernel.Apply(t.Context(), office()); err == nil {
		t.Error("no error without a fence")
	}
	if d := l.dump(t); strings.Contains(d, "14 up on lan0") || strings.Contains(d, "0a up on wan0") {
		t.Errorf("unfenced:\n%s", d)
	}
}

func TestDamagedMemory(t *testing.T) {
	l := newLab(t, time.Second)
	l.apply(t, office())
	if err := os.WriteFile(l.kernel.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	in(t, l.router, func() error {
		_, err := New(Options{Group: "lab", StateDir: l.stateDir, Fence: brokenFence{}, Logger: l.kernel.logger})
		if err == nil || !strings.Contains(err.Error(), l.kernel.path) {
			t.Errorf("New with a damaged file: %v", err)
		}
		return nil
	})
}
