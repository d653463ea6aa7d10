package config

import (
	"net/netip"
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "vrid", 4},
		{"vrid", "", 4},
		{"vrid", "vrid", 0},
		{"vird", "vrid", 2},
		{"gatway", "gateway", 1},
		{"portss", "ports", 1},
		{"prefix", "ports", 5},
	}
	for _, test := range tests {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := distance(test.b, test.a); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.b, test.a, got, test.want)
		}
	}
}

func TestSuggest(t *testing.T) {
	fields := []field{{key: "vrid"}, {key: "port"}, {key: "ports"}, {key: "nat_address"}}
	tests := []struct{ key, want string }{
		{"vird", `did you mean "vrid"?`},
		{"VRID", `did you mean "vrid"?`},
		{"prt", `did you mean "port"?`},
		{"portz", `did you mean "port"?`},
		{"portss", `did you mean "ports"?`},
		{"nat-address", `did you mean "nat_address"?`},
		{"mtu", "here may stand vrid, port, ports, nat_address"},
		{"", "here may stand vrid, port, ports, nat_address"},
		{strings.Repeat("v", 65), "here may stand vrid, port, ports, nat_address"},
	}
	for _, test := range tests {
		if got := suggest(test.key, fields); got != test.want {
			t.Errorf("suggest(%q) = %s, want %s", test.key, got, test.want)
		}
	}
}

func TestJoin(t *testing.T) {
	long := strings.Repeat("k", 65)
	tests := []struct{ path, key, want string }{
		{"", "version", "version"},
		{"networks[0]", "ports", "networks[0].ports"},
		{"ports", "node-1", "ports.node-1"},
		{"ports", "a.b", `ports["a.b"]`},
		{"ports", "", `ports[""]`},
		{"", "é", `["é"]`},
		{"", "a\nb", `["a\nb"]`},
		{"", long, `["` + long[:64] + `..."]`},
	}
	for _, test := range tests {
		if got := join(test.path, test.key); got != test.want {
			t.Errorf("join(%q, %q) = %s, want %s", test.path, test.key, got, test.want)
		}
	}
}

func TestShorten(t *testing.T) {
	exact := strings.Repeat("é", 64)
	for text, want := range map[string]string{"": "", "short": "short", exact: exact, exact + "x": exact + "..."} {
		if got := shorten(text); got != want {
			t.Errorf("shorten(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.0.0.0/8":         "10.255.255.255",
		"10.30.0.0/22":       "10.30.3.255",
		"192.0.2.0/24":       "192.0.2.255",
		"192.0.2.128/25":     "192.0.2.255",
		"192.0.2.4/30":       "192.0.2.7",
		"192.0.2.4/31":       "192.0.2.5",
		"192.0.2.4/32":       "192.0.2.4",
		"172.16.0.0/12":      "172.31.255.255",
		"255.255.255.254/31": "255.255.255.255",
	} {
		if got := broadcast(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("broadcast(%s) = %v, want %s", prefix, got, want)
		}
	}
}

func TestMisplaced(t *testing.T) {
	tests := []struct{ address, prefix, want string }{
		{"192.0.2.1", "192.0.2.0/30", ""},
		{"192.0.2.2", "192.0.2.0/30", ""},
		{"192.0.2.0", "192.0.2.0/30", "192.0.2.0 is the network address of 192.0.2.0/30; choose one from 192.0.2.1 to 192.0.2.2"},
		{"192.0.2.3", "192.0.2.0/30", "192.0.2.3 is the broadcast address of 192.0.2.0/30; choose one from 192.0.2.1 to 192.0.2.2"},
		{"192.0.2.4", "192.0.2.0/30", "192.0.2.4 is not in 192.0.2.0/30; choose one from 192.0.2.1 to 192.0.2.2"},
		{"192.0.1.255", "192.0.2.0/30", "192.0.1.255 is not in 192.0.2.0/30; choose one from 192.0.2.1 to 192.0.2.2"},
		{"192.0.2.4", "192.0.2.4/31", ""},
		{"192.0.2.5", "192.0.2.4/31", ""},
		{"192.0.2.3", "192.0.2.4/31", "192.0.2.3 is not in 192.0.2.4/31; choose one from 192.0.2.4 to 192.0.2.5"},
		{"192.0.2.6", "192.0.2.4/31", "192.0.2.6 is not in 192.0.2.4/31; choose one from 192.0.2.4 to 192.0.2.5"},
	}
	for _, test := range tests {
		if got := misplaced(netip.MustParseAddr(test.address), netip.MustParsePrefix(test.prefix)); got != test.want {
			t.Errorf("%s in %s: %q, want %q", test.address, test.prefix, got, test.want)
		}
	}
}

func TestReport(t *testing.T) {
	r := newReport()
	if err := r.failure("f"); err != nil {
		t.Fatalf("a failure without a fault: %v", err)
	}
	r.stand("networks", 5)
	r.stand("networks[1]", 9)
	r.add("networks[1].ports.a.address", "nine")
	r.add("networks[2]", "five")
	r.add(`["odd.["]`, "one")
	r.add("networks[1]", "nine too")
	r.addAt("", 3, "three")
	want := "f:1: [\"odd.[\"]: one\nf:3: three\nf:5: networks[2]: five\n" +
		"f:9: networks[1].ports.a.address: nine\nf:9: networks[1]: nine too"
	if got := r.failure("f").Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !r.faulty("networks[2]") || r.faulty("networks") {
		t.Errorf("faulty does not mean exactly this path")
	}
}

func TestInvalidByte(t *testing.T) {
	for text, want := range map[string]int{
		"": -1, "a\tb\n": -1, "a\rb": 1, "é€😀": -1, "\ufeff": -1, "\ufffd": -1,
		"a\x00": 1, "\x1b[1m": 0, "é\xff": 2, "\xc3": 0,
	} {
		if got := invalidByte([]byte(text)); got != want {
			t.Errorf("invalidByte(%q) = %d, want %d", text, got, want)
		}
	}
}
