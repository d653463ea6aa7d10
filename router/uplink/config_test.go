package uplink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/router/config"
)

func TestPaths(t *testing.T) {
	doc := document(target)
	doc.Uplinks[1].IPv6 = &config.IPv6{Gateway: netip.MustParseAddr("fe80::1")}
	doc.Uplinks[2].IPv6 = &config.IPv6{}
	dmz := network("dmz")
	dmz.IPv6 = &config.IPv6{}
	own := config.Probe{Targets: []config.Target{{Kind: config.ProbeICMP, Host: otherTarget}}, Need: 1}
	dmz.Routes = []config.Route{
		{Destination: netip.MustParsePrefix("203.0.113.0/24"), Uplinks: []string{"lte"}, Probe: &own},
		{Destination: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("10.0.0.9")},
		{Destination: netip.MustParsePrefix("2001:db8::/32"), Uplinks: []string{"fibre", "lte"}},
	}
	none := network("none")
	none.Uplinks = nil
	old := network("old")
	old.Uplinks, old.Uplink = nil, "dsl"
	doc.Networks = append(doc.Networks, dmz, none, old)

	var got []string
	for _, p := range NewConfig(doc).paths {
		got = append(got, fmt.Sprint(p.path.Network, " ", p.path.Destination, " ", p.uplinks, " ", len(p.probe.Targets)))
	}
	want := []string{
		"lan 0.0.0.0/0 [fibre dsl lte] 1",
		"dmz 0.0.0.0/0 [fibre dsl lte] 0",
		"dmz ::/0 [dsl lte] 0",
		"dmz 203.0.113.0/24 [lte] 1",
		"dmz 2001:db8::/32 [lte] 0",
		"old 0.0.0.0/0 [dsl] 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// An address is asked in its own family, a name in both, a name to resolve where there are
// servers.
func TestTargetsOfFamilies(t *testing.T) {
	targets := []config.Target{
		{Kind: config.ProbeICMP, Host: "198.51.100.1"},
		{Kind: config.ProbeICMP, Host: "2001:db8::1"},
		{Kind: config.ProbeTCP, Host: "example.org", Port: 443},
		{Kind: config.ProbeDNS, Host: "example.net"},
		{Kind: config.ProbeHTTP, Host: "http://198.51.100.2/up"},
		{Kind: config.ProbeHTTP, Host: "https://[2001:db8::2]:8443/up"},
		{Kind: config.ProbeHTTP, Host: "https://user@example.com:8443/up?a=[::1]"},
		{Kind: config.ProbeHTTP, Host: "http://198.51.100.3:80"},
	}
	u := uplinkConfig{name: "fibre", families: [2]bool{true, true}, servers: [2]bool{false, true}}
	for ipv6, want := range map[bool][]string{
		false: {"198.51.100.1", "example.org", "http://198.51.100.2/up", "https://user@example.com:8443/up?a=[::1]", "http://198.51.100.3:80"},
		true:  {"2001:db8::1", "example.org", "example.net", "https://[2001:db8::2]:8443/up", "https://user@example.com:8443/up?a=[::1]"},
	} {
		p := pathConfig{path: v4("lan"), probe: config.Probe{Targets: targets}}
		if ipv6 {
			p.path = v6("lan")
		}
		var got []string
		for _, target := range p.targets(&u) {
			got = append(got, target.Host)
		}
		if !slices.Equal(got, want) {
			t.Errorf("IPv6 %v: %q, want %q", ipv6, got, want)
		}
	}
}

// Paths that ask the same in the same way ask it once, others do not share.
func TestSharedProbes(t *testing.T) {
	doc := document(target)
	slow := network("slow", target)
	slow.Probe.Interval = 5 * time.Second
	patient := network("patient", target)
	patient.Probe.Fall = 9
	doc.Networks = append(doc.Networks, network("dmz", target), network("lab", target, otherTarget), slow, patient)
	s := New(time.Unix(0, 0), NewConfig(doc))
	// A gateway, and the target in three timings and the other one, for each of three uplinks.
	if got := len(s.monitors); got != 3*(1+3+1) {
		t.Errorf("%d monitors", got)
	}
	if s.paths[0].candidates[0].targets[0] != s.paths[1].candidates[0].targets[0] {
		t.Error("lan and dmz do not share")
	}
}

// What a path needs is no more than can be asked.
func TestNeedOfAFamily(t *testing.T) {
	doc := document("198.51.100.1", "198.51.100.2", "2001:db8::1")
	doc.Networks[0].Probe.Need = 2
	doc.Networks[0].IPv6 = &config.IPv6{}
	doc.Uplinks[0].IPv6 = &config.IPv6{Gateway: netip.MustParseAddr("fe80::1")}
	s := New(time.Unix(0, 0), NewConfig(doc))
	if got := s.paths[0].candidates[0]; got.need != 2 || len(got.targets) != 2 {
		t.Errorf("IPv4: %d of %d", got.need, len(got.targets))
	}
	if got := s.paths[1].candidates[0]; got.need != 1 || len(got.targets) != 1 {
		t.Errorf("IPv6: %d of %d", got.need, len(got.targets))
	}
}

func TestFamiliesAreIndependent(t *testing.T) {
	doc := document()
	doc.Networks[0].IPv6 = &config.IPv6{}
	for i := range doc.Uplinks {
		doc.Uplinks[i].IPv6 = &config.IPv6{Gateway: netip.MustParseAddr("fe80::1")}
	}
	w := settle(t, doc)
	w.s.SetAddress(w.now, "fibre", true, false)
	w.run(time.Second)
	if got := w.s.Selection(); got[v4("lan")] != "fibre" || got[v6("lan")] != "dsl" {
		t.Errorf("%v", got)
	}
	w.expectFailures("fibre")
	f := w.s.Status(w.now).Uplinks[0].Families
	if len(f) != 2 || f[0].State != Working || f[1].State != Dead || f[1].Address || !strings.Contains(f[1].Reason, "no IPv6 address") {
		t.Errorf("%+v", f)
	}
}

// A changed document keeps the evidence about what stays.
func TestReconfigure(t *testing.T) {
	doc := document(target)
	w := settle(t, doc)
	w.carrier("fibre", false)
	w.run(time.Minute)
	before := w.s.Status(w.now)

	w.s.Reconfigure(w.now, NewConfig(doc))
	after := w.s.Status(w.now)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the same document changes\n%+v\nto\n%+v", before, after)
	}

	doc.Networks = append(doc.Networks, network("dmz", target))
	doc.Networks[0].Probe.Targets = append(doc.Networks[0].Probe.Targets, config.Target{Kind: config.ProbeICMP, Host: otherTarget})
	doc.Uplinks = append(doc.Uplinks, config.Uplink{Name: "cable", VRID: 9, Labels: []string{"all"}, Cost: 5, Gateway: netip.MustParseAddr("192.0.2.99")})
	w.lines["cable"] = &line{gateway: true, beyond: true, rtt: time.Millisecond}
	w.s.Reconfigure(w.now, NewConfig(doc))
	w.expect("lan", "dsl")
	w.expect("dmz", "dsl") // the evidence is there already
	if got := w.candidate("lan", "fibre").State; got != Dead {
		t.Errorf("fibre is %v", got)
	}
	w.up()
	w.s.SetLink(w.now, "fibre", false, "no carrier")
	w.switches = nil
	w.run(5 * time.Second)
	w.expect("lan", "cable")
	w.expect("dmz", "cable")
	for _, event := range w.switches {
		if event.From != "" && !event.Planned {
			t.Errorf("%+v", event)
		}
	}

	// A network goes, and what nobody asks for is not asked any more.
	doc.Networks = doc.Networks[1:]
	w.s.Reconfigure(w.now, NewConfig(doc))
	w.run(2 * time.Second)
	w.sent = nil
	w.run(5 * time.Second)
	for _, p := range w.sent {
		if p.Target.Host == otherTarget {
			t.Fatalf("still asked: %+v", p)
		}
	}
	if _, is := w.s.Selection()[v4("lan")]; is {
		t.Error("lan is still there")
	}
}

// A new target is not a reason to leave an uplink until it has been asked.
func TestChangedTargets(t *testing.T) {
	doc := document(target)
	w := settle(t, doc)
	doc.Networks[0].Probe.Targets[0].Host = otherTarget
	w.s.Reconfigure(w.now, NewConfig(doc))
	if got := w.candidate("lan", "fibre").State; got != Working {
		t.Errorf("fibre is %v", got)
	}
	w.run(10 * time.Second)
	w.expect("lan", "fibre")
	if len(w.switches) > 0 {
		t.Errorf("%+v", w.switches)
	}
}

func TestUsable(t *testing.T) {
	doc := document(target)
	doc.Uplinks[1].Labels = append(doc.Uplinks[1].Labels, "wired")
	w := settle(t, doc)
	show := func(o config.Operation) []string {
		var got []string
		for _, u := range w.s.Usable(o) {
			got = append(got, fmt.Sprint(u.Uplink, " ", u.Usable, ": ", u.Reason))
		}
		return got
	}
	tests := []struct {
		what   string
		o      config.Operation
		change func()
		want   []string
	}{
		{"anything", config.Operation{MaxCost: 255, Metered: true}, func() {}, []string{
			"fibre true: icmp 198.51.100.1 answers", "dsl true: icmp 198.51.100.1 answers", "lte true: icmp 198.51.100.1 answers",
		}},
		{"nothing metered", config.Operation{MaxCost: 255}, func() {}, []string{
			"fibre true: icmp 198.51.100.1 answers", "dsl true: icmp 198.51.100.1 answers",
			"lte false: it is metered, and the operation may use no metered uplink",
		}},
		{"cheap", config.Operation{MaxCost: 9, Metered: true}, func() {}, []string{
			"fibre true: icmp 198.51.100.1 answers",
			"dsl false: its cost is 10, the operation takes up to 9", "lte false: its cost is 50, the operation takes up to 9",
		}},
		{"by label and name", config.Operation{MaxCost: 255, Metered: true, Uplinks: []string{"wired", "lte"}}, func() {}, []string{
			"dsl true: icmp 198.51.100.1 answers", "lte true: icmp 198.51.100.1 answers", "fibre false: the operation may not use it",
		}},
		{"dead ones", config.Operation{MaxCost: 255, Metered: true}, func() {
			w.carrier("fibre", false)
			w.s.SetCost(w.now, "dsl", 60)
		}, []string{
			"lte true: icmp 198.51.100.1 answers", "dsl true: icmp 198.51.100.1 answers", "fibre false: the link is down: no carrier",
		}},
		{"dead beyond the gateway", config.Operation{MaxCost: 255, Metered: true}, func() {
			w.lines["lte"].beyond = false
			w.run(10 * time.Second)
		}, []string{
			"dsl true: icmp 198.51.100.1 answers", "fibre false: the link is down: no carrier",
			"lte false: icmp 198.51.100.1 does not answer: no answer",
		}},
	}
	for _, test := range tests {
		test.change()
		if got := show(test.o); !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%s\nwant\n%s", test.what, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}
