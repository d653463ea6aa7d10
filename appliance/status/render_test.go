package status

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is a healthy MASTER.
func sample() Status {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	yes, no := true, false
	return Status{
		Time: now, Group: "edge", Node: "alpha", Role: "MASTER", Since: now.Add(-192 * time.Second),
		Reason: "planned handover", Priority: 200, Term: 4,
		Peer:  &Peer{Name: "bravo", Alive: true, Role: "BACKUP", Priority: 180, Ready: true, LastHeard: 42 * time.Millisecond},
		Lease: Lease{Open: true, Remaining: 212 * time.Millisecond, Duration: 250 * time.Millisecond},
		Sync: Sync{
			Connected: true, Since: now.Add(-3 * time.Second), Link: "ha", Complete: true, Sessions: 612, Limit: 262144,
			LagP50: 300 * time.Microsecond, LagP99: 2 * time.Millisecond, LagMax: 8 * time.Millisecond,
			EventRate: 12.4, RecordRate: 9, Backlog: 1, BytesSent: 1_230_000, BytesReceived: 456,
		},
		Carriers: []Carrier{
			{Name: "lan", Kind: "network", Interface: "lan0", VRID: 10, Up: true, Addresses: []string{"10.0.0.1"}, Sent: 12, PeerHeard: -1, HeardByPeer: &yes},
			{Name: "ha", Kind: "ha", Interface: "ha0", VRID: 30, Up: true, Received: 3, Dropped: map[string]uint64{"checksum": 2}, PeerHeard: time.Second, HeardByPeer: &no},
		},
		Uplinks: []Uplink{{Name: "wan", Interface: "wan0", Gateway: "203.0.113.1", Up: true, Addresses: []string{"203.0.113.10"}, Networks: []string{"lan"}}},
		Config:  Config{Hash: "0123456789abcdef", PeerHash: "0123456789abcdef"},
		Elector: Elector{PID: 42, Alive: true, RealTime: true, MemoryLocked: true},
	}
}

const sampleText = `● alpha is MASTER for 3 min 12 s
  group edge · priority 200 · term 4 · planned handover

  Peer       bravo  BACKUP  priority 180  ready  heard 42 ms ago
  Lease      open  212 ms left of 250 ms
  Sessions   612 of 262144  complete  lag p50 0.3 ms  p99 2.0 ms  max 8.0 ms
  Stream     up for 3.0 s by ha  12 events/s  9 records/s  backlog 1  1.2 MB sent  456 B received
  Document   0123456789ab  the same on both nodes
  Elector    pid 42  real-time  memory locked

  CARRIER  KIND     INTERFACE  VRID  LINK  ADDRESSES  SENT  RECEIVED  DROPPED  PEER
  lan      network  lan0       10    up    10.0.0.1   12    0         0        hears us
  ha       ha       ha0        30    up    -          0     3         2        does not hear us

  UPLINK  INTERFACE  LINK  GATEWAY      ADDRESSES     NETWORKS
  wan     wan0       up    203.0.113.1  203.0.113.10  lan

  ✓ If the MASTER died now, no session would be lost: sessions complete, lag p99 2.0 ms.
`

func TestRender(t *testing.T) {
	if got := Render(sample(), false); got != sampleText {
		t.Errorf("Render:\n%s\nwant:\n%s", got, sampleText)
	}
	if got := Render(sample(), true); !strings.Contains(got, "\x1b[") || stripColour(got) != sampleText {
		t.Errorf("colours change more than colours:\n%s", got)
	}
}

// With IPv6 the table says whose VRID it is.
func TestRenderDualStack(t *testing.T) {
	s := sample()
	s.Carriers = slices.Insert(s.Carriers, 1, Carrier{
		Name: "lan/ipv6", Kind: "network", Interface: "lan0", VRID: 10, IPv6: true, Up: true, Addresses: []string{"fe80::5e:a", "2001:db8::1"}, Sent: 7, PeerHeard: -1,
	})
	s.Uplinks[0].GatewayIPv6 = "fe80::1"
	const want = `
  CARRIER   KIND     INTERFACE  VRID  FAMILY  LINK  ADDRESSES               SENT  RECEIVED  DROPPED  PEER
  lan       network  lan0       10    IPv4    up    10.0.0.1                12    0         0        hears us
  lan/ipv6  network  lan0       10    IPv6    up    fe80::5e:a 2001:db8::1  7     0         0        -
  ha        ha       ha0        30    IPv4    up    -                       0     3         2        does not hear us

  UPLINK  INTERFACE  LINK  GATEWAY              ADDRESSES     NETWORKS
  wan     wan0       up    203.0.113.1 fe80::1  203.0.113.10  lan
`
	if got := Render(s, false); !strings.Contains(got, want) {
		t.Errorf("Render:\n%s\nlacks:\n%s", got, want)
	}
	if got := Render(s, true); !strings.Contains(stripColour(got), want) {
		t.Errorf("colours change more than colours:\n%s", got)
	}
}

func stripColour(s string) string {
	for _, code := range []string{bold, dim, red, green, yellow, "0"} {
		s = strings.ReplaceAll(s, "\x1b["+code+"m", "")
	}
	return s
}

func TestFelt(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Status)
		want   string
	}{
		{"healthy", func(*Status) {}, ""},
		{"single", func(s *Status) { s.Peer = nil }, "single router"},
		{"peer gone", func(s *Status) { s.Peer.Alive = false }, "not heard"},
		{"no channel", func(s *Status) { s.Sync.Connected, s.Sync.Error = false, "connection reset" }, "sessions INCOMPLETE: they are not replicated, connection reset"},
		{"incomplete", func(s *Status) { s.Sync.Complete = false }, "sessions INCOMPLETE: the session tables are being compared"},
		{"under repair", func(s *Status) {
			s.Sync.Complete, s.Sync.Repair = false, &Repair{Buckets: 12, Of: Buckets, Sent: 3, Flows: 40}
		}, "12 of 4096 parts of the session tables are not equal yet, 3 of 40 flows sent again"},
		{"peer not ready", func(s *Status) { s.Peer.Ready = false }, "not ready"},
		{"the MASTER is never ready", func(s *Status) { s.Role, s.Peer.Role, s.Peer.Ready = "BACKUP", "MASTER", false }, ""},
		{"peer impaired", func(s *Status) { s.Peer.Priority = 81 }, "bravo is impaired"},
		{"impaired", func(s *Status) { s.Role, s.Priority = "BACKUP", 81 }, "this node is impaired"},
		{"own link", func(s *Status) { s.Role, s.Carriers[0].Up = "BACKUP", false }, "link of lan"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sample()
			tt.change(&s)
			got := Felt(s)
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("Felt = %q, want it to contain %q", got, tt.want)
			}
			if text := Render(s, false); got != "" && !strings.Contains(text, got) {
				t.Errorf("Render does not say %q:\n%s", got, text)
			}
		})
	}
}

func TestRenderTrouble(t *testing.T) {
	s := sample()
	s.Peer.Alive, s.Lease.Open, s.Elector.Alive, s.Config.PeerHash = false, false, false, "ffff"
	s.Recovering = []string{"lan", "wan"}
	s.Problems = []string{"the link of lan (lan0) is down: check the cable"}
	got := Render(s, false)
	for _, want := range []string{"bravo  not heard", "closed  nothing leaves", "not running", "the peer has ffff", "✗ the link of lan", "The link of lan and wan has just come back"} {
		if !strings.Contains(got, want) {
			t.Errorf("Render lacks %q:\n%s", want, got)
		}
	}
}

func TestSpan(t *testing.T) {
	tests := map[time.Duration]string{
		-1: "0 s", 0: "0.0 ms", 1500 * time.Microsecond: "1.5 ms", 10 * time.Millisecond: "10 ms",
		1500 * time.Millisecond: "1.5 s", 61 * time.Second: "1 min 1 s",
		3*time.Hour + 2*time.Minute: "3 h 2 min", 72 * time.Hour: "3 days",
	}
	for d, want := range tests {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}
