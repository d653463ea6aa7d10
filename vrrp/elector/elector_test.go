package elector

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/vrrp"
)

// start runs an elector and returns the path of its socket and what Run returns.
func start(t *testing.T) (path string, ended <-chan error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), SocketName)
	f, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Listener: int(f.Fd()), Log: slog.New(slog.DiscardHandler)})
		_ = f.Close() // kept open until Run needs it no more
	}()
	t.Cleanup(cancel)
	return path, done
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// await returns the first report that satisfies the condition.
func await(t *testing.T, c *Client, what string, match func(Report) bool) Report {
	t.Helper()
	for {
		r, err := c.Receive(10 * time.Second)
		if err != nil {
			t.Fatalf("no report of %s: %v", what, err)
		}
		if match(r) {
			return r
		}
	}
}

// single is a router alone, on an interface that does not exist.
func single() Configuration {
	return Configuration{
		Interval: 20 * time.Millisecond, Lease: vrrp.LeaseFor(20 * time.Millisecond), Priority: 200,
		Carriers: []Carrier{{
			Name: "lan", Interface: "missing0", VirtualLink: "vmac10", VRID: 10,
			Source: netip.MustParseAddr("192.0.2.2"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		}},
	}
}

func TestConversation(t *testing.T) {
	path, ended := start(t)
	c := dial(t, path)
	await(t, c, "the start", func(r Report) bool { return r.State == vrrp.Initialize && r.PID > 0 })

	send := func(cmd Command) {
		t.Helper()
		if err := c.Send(cmd); err != nil {
			t.Fatal(err)
		}
	}
	send(Command{Handover: true})
	await(t, c, "a handover without a configuration", func(r Report) bool { return strings.Contains(r.HandoverError, "no configuration") })

	wrong := single()
	wrong.Priority = 0
	send(Command{Configure: &wrong})
	await(t, c, "a refused configuration", func(r Report) bool { return strings.Contains(r.Error, "priority 0") && r.State == vrrp.Initialize })

	good := single()
	send(Command{Configure: &good, Fitness: &Fitness{Fitness: vrrp.Fitness{Ready: true}}})
	r := await(t, c, "a MASTER", func(r Report) bool { return r.State == vrrp.Master })
	if r.Error != "" || len(r.Carriers) != 1 || r.Carriers[0].Open || !strings.Contains(r.Carriers[0].Error, "missing0") {
		t.Errorf("report %+v, want one carrier that is not open and says why", r)
	}

	// A refused configuration changes nothing.
	send(Command{Configure: &wrong})
	await(t, c, "the refusal", func(r Report) bool { return r.Error != "" && r.State == vrrp.Master && r.Term == 1 })
	send(Command{Handover: true})
	await(t, c, "a handover to nobody", func(r Report) bool { return r.HandoverError != "" })

	send(Command{Stop: true})
	await(t, c, "the end", func(r Report) bool { return r.State == vrrp.Initialize })
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := c.Receive(time.Second); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v, want EOF", err)
	}
}

func TestNodeMayComeBack(t *testing.T) {
	path, _ := start(t)
	first := dial(t, path)
	good := single()
	if err := first.Send(Command{Configure: &good}); err != nil {
		t.Fatal(err)
	}
	r := await(t, first, "a MASTER", func(r Report) bool { return r.State == vrrp.Master })
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := dial(t, path)
	again := await(t, second, "the same MASTER", func(Report) bool { return true })
	if again.State != vrrp.Master || again.Term != r.Term || again.Transitions != r.Transitions || again.PID != r.PID {
		t.Errorf("a new node met %+v, the last one left %+v", again, r)
	}
}

func TestGarbageOnTheSocket(t *testing.T) {
	path, _ := start(t)
	for _, garbage := range []string{"", "{", "null", `{"configure":7}`, `{"fitness":{"Failed":-3}}`, strings.Repeat("x", 70_000)} {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(garbage)) // the elector may hang up first
		_ = conn.Close()                   // whatever it was
	}
	await(t, dial(t, path), "life", func(r Report) bool { return r.State == vrrp.Initialize })
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Configuration){
		"no interface":     func(c *Configuration) { c.Carriers[0].Interface = "" },
		"no source":        func(c *Configuration) { c.Carriers[0].Source = netip.Addr{} },
		"a global source":  func(c *Configuration) { c.Carriers[0].Source = netip.MustParseAddr("2001:db8::1") },
		"unicast to none":  func(c *Configuration) { c.Carriers[0].Unicast = true },
		"no advert key":    func(c *Configuration) { c.Carriers[0].Authenticate = true },
		"heartbeat key":    func(c *Configuration) { c.Heartbeat.Key = c.Heartbeat.Key[:31] },
		"heartbeat remote": func(c *Configuration) { c.Heartbeat.Remote = netip.AddrPort{} },
		"second link":      func(c *Configuration) { c.Heartbeat.Second.Local = netip.AddrPort{} },
		"heartbeats by 6":  func(c *Configuration) { c.Heartbeat.Local = netip.MustParseAddrPort("[fe80::1]:3112") },
	} {
		t.Run(name, func(t *testing.T) {
			c := single()
			c.Heartbeat = &Heartbeat{
				HeartbeatLink: HeartbeatLink{
					Interface: "ha0",
					Local:     netip.MustParseAddrPort("10.255.0.1:3112"), Remote: netip.MustParseAddrPort("10.255.0.2:3112"),
				},
				Second: &HeartbeatLink{
					Interface: "ha1",
					Local:     netip.MustParseAddrPort("10.255.1.1:3112"), Remote: netip.MustParseAddrPort("10.255.1.2:3112"),
				},
				Key: make([]byte, 32),
			}
			if err := c.validate(); err != nil {
				t.Fatal(err)
			}
			change(&c)
			if c.validate() == nil {
				t.Error("accepted")
			}
		})
	}
}
