package kernel

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A flow stays where it began, a new one takes the uplink of the day, and a switch is one
// replaced route for each path and nothing else.
func TestFlowsStayOnTheirUplink(t *testing.T) {
	k := newFork(t, "", "")
	listen(t, k.server, "203.0.113.1:7")
	old := seen(t, k.north, "", "203.0.113.1:7", "192.0.2.9")
	before := k.derive(t, "fibre")
	after, report := k.choose(t, "radio")
	if len(report.Changed) != 3 || slices.ContainsFunc(report.Changed, func(s string) bool { return !strings.HasPrefix(s, "put route ") }) {
		t.Errorf("a switch of three paths changed %q", report.Changed)
	}
	atRadio := capture(t, k.server, "s1")
	alive(t, old)
	for _, f := range atRadio() {
		if len(f) > 34 && f[12] == 8 && f[13] == 0 && f[23] == 6 {
			t.Errorf("the old flow left by the other uplink: % x", f)
		}
	}
	young := seen(t, k.north, "", "203.0.113.1:7", "198.51.100.9")
	alive(t, young)
	if changed, err := k.kernel.Reroute(after, before); err != nil || len(changed) != 3 {
		t.Errorf("changed %q: %v", changed, err)
	}
	alive(t, old)
	alive(t, young)
	seen(t, k.south, "", "203.0.113.1:7", "192.0.2.9")

	// Without an uplink new flows hear so at once, and the old ones stay.
	k.choose(t, "")
	if _, _, err := connect(t, k.north, "", "203.0.113.1:7", 5*time.Second); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("without an uplink: %v", err)
	}
	alive(t, old)
	alive(t, young)
}

const inboundNorth = `,
     forwards: [{protocol: tcp, port: 8080, to: "10.1.0.50:80"}, {protocol: tcp, port: 9000-9700, to: "10.1.0.50:1000"}, {protocol: tcp, port: 81, to: "10.1.0.50:80", from: [198.18.0.0/15]}],
     static_nat: [{address: 192.0.2.8, host: 10.1.0.51}]`

// What comes in by an uplink is answered by it, whichever the network takes now, and the host
// sees who it is.
func TestInbound(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("rp_filter "+filter, func(t *testing.T) { testInbound(t, filter) })
	}
}

func testInbound(t *testing.T, filter string) {
	k := newFork(t, inboundNorth, "")
	// A hardened host looks for a way back to every source.
	in(t, k.router, func() error { return writeSysctl("net/ipv4/conf/all/rp_filter", filter) })
	k.choose(t, "fibre")
	for _, address := range []string{"10.1.0.50:80", "10.1.0.50:1690", "10.1.0.51:22", "10.1.0.50:22"} {
		listen(t, k.north, address)
	}
	listen(t, k.server, "203.0.113.1:7")
	check := func(t *testing.T) {
		t.Helper()
		alive(t, seen(t, k.server, "203.0.113.1", "198.51.100.9:8080", "203.0.113.1"))
		alive(t, seen(t, k.server, "203.0.113.1", "192.0.2.9:8080", "203.0.113.1"))
		seen(t, k.server, "203.0.113.1", "192.0.2.9:9690", "203.0.113.1")
		// Static NAT, both ways.
		seen(t, k.server, "203.0.113.1", "192.0.2.8:22", "203.0.113.1")
		// Hairpin: of another network, and of the same.
		seen(t, k.south, "", "192.0.2.9:8080", "10.2.0.50")
		seen(t, k.south, "", "192.0.2.8:22", "10.2.0.50")
		seen(t, k.north, "10.1.0.51", "192.0.2.9:8080", "10.1.0.1")
		// Nothing else is open.
		refused(t, k.server, "203.0.113.1", "192.0.2.9:81")
		refused(t, k.server, "203.0.113.1", "192.0.2.9:22")
		refused(t, k.server, "203.0.113.1", "10.1.0.50:80")
	}
	runIn(t, k.server, "ip route add 10.1.0.0/24 via 192.0.2.9")
	check(t)
	seen(t, k.north, "10.1.0.51", "203.0.113.1:7", "192.0.2.8")
	k.choose(t, "radio")
	check(t)
	seen(t, k.north, "10.1.0.51", "203.0.113.1:7", "198.51.100.9")
	k.choose(t, "")
	check(t)
}

// An ACL judges what begins, and leaves alone what there is.
func TestAccess(t *testing.T) {
	k := newFork(t, inboundNorth, "")
	listen(t, k.north, "10.1.0.50:80")
	listen(t, k.south, "10.2.0.50:80")
	listen(t, k.south, "10.2.0.50:81")
	listen(t, k.server, "203.0.113.1:7")
	old := []string{"10.2.0.50:80", "203.0.113.1:7"}
	live := seen(t, k.north, "", old[0], "10.1.0.50")
	outward := seen(t, k.north, "", old[1], "192.0.2.9")
	inward := seen(t, k.server, "203.0.113.1", "192.0.2.9:8080", "203.0.113.1")

	k.parse(t, inboundNorth+`, access: {ingress: {default: deny, rules: [{action: deny, source: [203.0.113.0/30]}, {action: allow, protocol: tcp, ports: ["80", "90-99"], source: [192.0.2.0/24, 10.2.0.0/25]}]},
		egress: {rules: [{action: allow, protocol: tcp, ports: ["81"]}, {action: deny, destination: [10.2.0.0/24, 203.0.113.0/24]}]}}`, "")
	if _, report := k.choose(t, "fibre"); len(report.Changed) != 2 {
		t.Errorf("changed %q, want the two tables", report.Changed)
	}
	alive(t, live)
	alive(t, outward)
	alive(t, inward)
	seen(t, k.north, "10.1.0.50", "10.2.0.50:81", "10.1.0.50")
	refused(t, k.north, "10.1.0.50", old[0])
	refused(t, k.north, "10.1.0.50", old[1])
	refused(t, k.server, "203.0.113.1", "192.0.2.9:8080")
	seen(t, k.server, "192.0.2.1", "192.0.2.9:8080", "192.0.2.1")
	seen(t, k.south, "", "10.1.0.50:80", "10.2.0.50")
	// What stays in the network is its own business.
	seen(t, k.north, "10.1.0.51", "192.0.2.9:8080", "10.1.0.1")
	if report := k.apply(t, k.derive(t, "fibre")); len(report.Changed) > 0 {
		t.Errorf("changed again: %q", report.Changed)
	}
}

// With an address that every uplink leads to, a flow moves and lives.
func TestRoutedAddress(t *testing.T) {
	k := newFork(t, `, routed_nat_address: 198.18.0.9, forwards: [{protocol: tcp, port: 8080, to: "10.1.0.50:80"}]`, "")
	runIn(t, k.server, "ip route add 198.18.0.9 via 192.0.2.9")
	listen(t, k.server, "203.0.113.1:7")
	listen(t, k.north, "10.1.0.50:80")
	c := seen(t, k.north, "", "203.0.113.1:7", "198.18.0.9")
	inward := seen(t, k.server, "203.0.113.1", "198.18.0.9:8080", "203.0.113.1")
	k.choose(t, "radio")
	runIn(t, k.server, "ip route replace 198.18.0.9 via 198.51.100.9")
	atFibre := capture(t, k.server, "s0")
	alive(t, c)
	alive(t, inward)
	for _, f := range atFibre() {
		if len(f) > 34 && f[12] == 8 && f[13] == 0 && f[23] == 6 {
			t.Errorf("a flow stayed: % x", f)
		}
	}
}

// IPv6 is translated as the uplink wants it, and stays where it began.
func TestIPv6Translations(t *testing.T) {
	k := newFork(t, "", "")
	listen(t, k.server, "[2001:db8:f::1]:7")
	old := seen(t, k.north, "", "[2001:db8:f::1]:7", "2001:db8:a::9")
	k.choose(t, "radio")
	young := seen(t, k.north, "", "[2001:db8:f::1]:7", "2001:db8:b100::50")
	alive(t, old)
	k.choose(t, "fibre")
	alive(t, old)
	alive(t, young)
}
