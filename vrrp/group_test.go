package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// epoch is where the virtual time of every test begins.
func epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// The times of a group with an interval of one second, RFC 9568 §6.1.
const (
	second     = time.Second
	skew100    = 156 * second / 256
	down100    = 3*second + skew100
	millis     = time.Millisecond
	peerLow    = 90 // in the band below the healthy ones, see Fitness
	forever    = time.Duration(-1)
	unchecked  = time.Duration(0)
	testSource = "192.0.2.100"
	testPeer   = "192.0.2.200"
)

// alone is a group as RFC 9568 knows it: one carrier, no second member.
func alone() GroupConfig {
	return GroupConfig{
		Interval: second, Lease: LeaseFor(second), Priority: 100, Preempt: true,
		Carriers: []Carrier{{
			Name: "lan", VRID: 10, Source: netip.MustParseAddr(testSource),
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		}},
	}
}

// member is a group of a pair: three carriers and a peer.
func member() GroupConfig {
	c := alone()
	c.HasPeer = true
	c.Carriers[0].Peer = netip.MustParseAddr("192.0.2.200")
	c.Carriers[0].Peer = netip.MustParseAddr(testPeer)
	c.Carriers = append(
		c.Carriers,
		Carrier{
			Name: "wan", VRID: 11, Source: netip.MustParseAddr("198.51.100.100"), Peer: netip.MustParseAddr("198.51.100.200"),
			Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
		},
		Carrier{
			Name: "ha", VRID: 12, Source: netip.MustParseAddr("169.254.0.100"), Peer: netip.MustParseAddr("169.254.0.200"), Private: true,
			Addresses: []netip.Addr{netip.MustParseAddr("169.254.0.1")},
		},
	)
	return c
}

func with(c GroupConfig, change func(*GroupConfig)) GroupConfig {
	change(&c)
	return c
}

// event is one call of a method of the group.
type event func(*testing.T, *Group, time.Time) Output

func start(_ *testing.T, g *Group, now time.Time) Output { return g.Start(now) }
func tick(_ *testing.T, g *Group, now time.Time) Output  { return g.Tick(now) }

func stop(_ *testing.T, g *Group, now time.Time) Output { return g.Stop(now, ReasonShutdown) }

// adverts is an advert from a router with a greater address, heard on the first
// carrier.
func adverts(priority uint8) event { return advertsEvery(priority, second) }

func advertsEvery(priority uint8, interval time.Duration) event {
	return advertsFrom(0, testPeer, priority, interval)
}

func advertsFrom(carrier int, source string, priority uint8, interval time.Duration) event {
	return func(_ *testing.T, g *Group, now time.Time) Output {
		return g.Receive(now, carrier, netip.MustParseAddr(source), Advertisement{
			VRID: 10, Priority: priority, Interval: interval,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		})
	}
}

func fit(failed int, ready bool) event {
	return func(_ *testing.T, g *Group, now time.Time) Output {
		return g.SetFitness(now, Fitness{Failed: failed, Ready: ready})
	}
}

func usable(up bool) event {
	return func(_ *testing.T, g *Group, now time.Time) Output {
		return g.SetLinks(now, slices.Repeat([]bool{up}, len(g.cfg.Carriers)))
	}
}

func beats(h Heartbeat) event {
	return func(_ *testing.T, g *Group, now time.Time) Output { return g.ReceiveHeartbeat(now, h) }
}

func reconfigured(cfg GroupConfig) event {
	return func(t *testing.T, g *Group, now time.Time) Output {
		out, err := g.Reconfigure(now, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func handover(want error) event {
	return func(t *testing.T, g *Group, now time.Time) Output {
		out, err := g.Handover(now)
		if err != want { //nolint:errorlint // the documented errors are returned as they are
			t.Errorf("Handover: %v, want %v", err, want)
		}
		return out
	}
}

// step is an event at a time since the epoch and what must come of it. A deadline
// of forever is none; unchecked is not looked at.
type step struct {
	at       time.Duration
	do       event
	want     Output
	state    State
	deadline time.Duration
}

// began is the outcome of Start of a node that is not the owner.
func began(peer bool) Output {
	return Output{Revoke: true, Heartbeat: peer, Transition: &Transition{From: Initialize, To: Backup, Reason: ReasonStartup}}
}

// promoted is the outcome of becoming MASTER.
func promoted(peer bool, priority uint8, why Reason, term uint64) Output {
	return Output{
		Advertise: true, Priority: priority, Announce: true, Heartbeat: peer,
		Transition: &Transition{From: Backup, To: Master, Reason: why, Term: term},
	}
}

// demoted is the outcome of becoming BACKUP.
func demoted(peer bool, why Reason, term uint64) Output {
	return Output{Revoke: true, Heartbeat: peer, Transition: &Transition{From: Master, To: Backup, Reason: why, Term: term}}
}

func advertised(priority uint8) Output { return Output{Advertise: true, Priority: priority} }

func answered(priority uint8) Output {
	return Output{Advertise: true, Priority: priority, Announce: true}
}

func beaten(o Output) Output {
	o.Heartbeat = true
	return o
}

// story is a group and what happens to it.
type story struct {
	name  string
	cfg   GroupConfig
	steps []step
}

func tell(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			g, err := NewGroup(s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for i, st := range s.steps {
				now := epoch().Add(st.at)
				if diff := cmp.Diff(st.want, st.do(t, g, now)); diff != "" {
					t.Fatalf("step %d at %v: output (-want +got):\n%s", i, st.at, diff)
				}
				if g.State() != st.state {
					t.Fatalf("step %d at %v: state %v, want %v", i, st.at, g.State(), st.state)
				}
				checkDeadline(t, i, st, g)
			}
		})
	}
}

func checkDeadline(t *testing.T, i int, st step, g *Group) {
	t.Helper()
	if st.deadline == unchecked {
		return
	}
	got := forever
	if at := g.Deadline(); !at.IsZero() {
		got = at.Sub(epoch())
	}
	if got != st.deadline {
		t.Fatalf("step %d at %v: deadline %v, want %v", i, st.at, got, st.deadline)
	}
}

// backup begins a story with a node that is BACKUP and ready to be MASTER.
func backup(peer bool, rest ...step) []step {
	return append([]step{
		{do: fit(0, true)},
		{do: start, want: began(peer), state: Backup},
	}, rest...)
}

// master begins a story with a node of priority 100 that has become MASTER after
// down100.
func master(peer bool, rest ...step) []step {
	return backup(peer, append([]step{
		{at: down100, do: tick, want: promoted(peer, 100, ReasonPeerSilent, 1), state: Master},
	}, rest...)...)
}

func TestGroupConfigValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*GroupConfig)
		want   string // empty if valid
	}{
		{"as it is", func(*GroupConfig) {}, ""},
		{"shortest interval", func(c *GroupConfig) { c.Interval = 10 * millis; c.Lease = LeaseFor(c.Interval) }, ""},
		{"longest interval", func(c *GroupConfig) { c.Interval = 40950 * millis }, ""},
		{"interval too short", func(c *GroupConfig) { c.Interval = 9 * millis; c.Lease = LeaseFor(c.Interval) }, "§5.2.7"},
		{"interval too long", func(c *GroupConfig) { c.Interval = 40960 * millis }, "§5.2.7"},
		{"no lease", func(c *GroupConfig) { c.Lease = 0 }, "lease 0s"},
		{"lease as long as a down interval", func(c *GroupConfig) { c.Lease = 3 * second }, "lease 3s"},
		{"lease just shorter", func(c *GroupConfig) { c.Lease = 3*second - 1 }, ""},
		{"priority of a MASTER that leaves", func(c *GroupConfig) { c.Priority = 0 }, "priority 0"},
		{"priority of an impaired node", func(c *GroupConfig) { c.Priority = 99 }, "priority 99"},
		{"owner", func(c *GroupConfig) { c.Priority = 255 }, ""},
		{"no carrier", func(c *GroupConfig) { c.Carriers = nil }, "at least one carrier"},
		{"no VRID", func(c *GroupConfig) { c.Carriers[0].VRID = 0 }, `carrier "lan"`},
		{"no address", func(c *GroupConfig) { c.Carriers[0].Addresses = nil }, `carrier "lan"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := with(alone(), tt.change)
			err := cfg.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Validate() = %v, want %q", err, tt.want)
			}
			if _, newErr := NewGroup(cfg); (newErr == nil) != (err == nil) {
				t.Fatalf("NewGroup: %v, Validate: %v", newErr, err)
			}
		})
	}
	t.Run("every fault is reported", func(t *testing.T) {
		t.Parallel()
		err := GroupConfig{Carriers: []Carrier{{Name: "lan"}}}.Validate()
		for _, want := range []string{"interval", "lease", "priority", "carrier"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Validate() = %v, does not mention %q", err, want)
			}
		}
	})
}

func TestLeaseEndsBeforeAnyDownInterval(t *testing.T) {
	t.Parallel()
	for interval := MinInterval; interval <= MaxInterval; interval += 10 * millis {
		lease := LeaseFor(interval)
		if slack := 3*interval - lease; slack < interval/2 {
			t.Fatalf("interval %v: the lease of %v leaves %v before the shortest down interval", interval, lease, slack)
		}
		if lease < 2*interval {
			t.Fatalf("interval %v: the lease of %v does not forgive a lost wake-up", interval, lease)
		}
	}
}

func TestFitnessPriority(t *testing.T) {
	t.Parallel()
	tests := []struct {
		failed     int
		base, rank uint8
		want       uint8
	}{
		{0, 200, 1, 200},
		{0, 100, 0, 100},
		{-1, 200, 1, 200},
		{1, 200, 1, 81},
		{1, 254, 0, 80},
		{2, 200, 0, 70},
		{7, 200, 9, 29},
		{8, 200, 1, 11},
		{9, 200, 1, 11},
		{1 << 40, 200, 0, 10},
		{1, 200, 200, 89}, // the rank never leaves the band
		{9, 255, 0, 255},  // the owner has no other priority, RFC 9568 §5.2.4
	}
	for _, tt := range tests {
		got := Fitness{Failed: tt.failed}.priority(tt.base, tt.rank)
		if got != tt.want {
			t.Errorf("%d failures, base %d, rank %d: priority %d, want %d", tt.failed, tt.base, tt.rank, got, tt.want)
		}
		if told := FailuresOf(got); tt.base != PriorityOwner && told != min(max(tt.failed, 0), HealthyPriority/bandWidth-2) {
			t.Errorf("priority %d tells of %d failures, there are %d", got, told, tt.failed)
		}
	}
}

func TestMayYieldTo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		failed int
		peer   uint8
		want   bool
	}{
		{0, 200, true},
		{0, 100, true},
		{0, 91, false},
		{0, 80, false},
		{1, 100, true},
		{1, 91, false},
		{1, 80, false},
		{2, 81, true},
		{2, 70, false},
	} {
		if got := (Fitness{Failed: tt.failed}).MayYieldTo(tt.peer); got != tt.want {
			t.Errorf("%d failures, a peer of priority %d: %v, want %v", tt.failed, tt.peer, got, tt.want)
		}
	}
}

// TestFitnessRecovering: better than broken, worse than healthy.
func TestFitnessRecovering(t *testing.T) {
	t.Parallel()
	recovering := Fitness{Recovering: true}
	if got := recovering.priority(200, 1); got != 91 {
		t.Errorf("a recovering node has priority %d, want 91", got)
	} else if told := FailuresOf(got); told != 1 {
		t.Errorf("priority %d tells of %d failures, want 1", got, told)
	}
	if got := recovering.priority(PriorityOwner, 1); got != PriorityOwner {
		t.Errorf("a recovering owner has priority %d, want 255", got)
	}
	broken, healthy := Fitness{Failed: 1}.priority(254, 9), Fitness{}.priority(100, 0)
	if r := band(recovering.priority(100, 0)); r <= band(broken) || r >= band(healthy) {
		t.Errorf("band %d of a recovering node is not between %d and %d", r, band(broken), band(healthy))
	}
	if got := (Fitness{Failed: 1, Recovering: true}).priority(200, 0); got != 80 {
		t.Errorf("a broken node that also recovers has priority %d, want 80", got)
	}
}

// TestFitnessOutweighsPriority: whoever has fewer failures has the higher
// priority, whatever is configured.
func TestFitnessOutweighsPriority(t *testing.T) {
	t.Parallel()
	bases := []uint8{100, 101, 200, 254}
	for failed := range 8 {
		for _, fitter := range bases {
			for _, worse := range bases {
				a := Fitness{Failed: failed}.priority(fitter, 0)
				b := Fitness{Failed: failed + 1}.priority(worse, 9)
				if a <= b || band(a) <= band(b) {
					t.Fatalf("%d failures of %d make %d, one more of %d makes %d", failed, fitter, a, worse, b)
				}
			}
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for s, want := range map[State]string{Initialize: "INITIALIZE", Backup: "BACKUP", Master: "MASTER", 9: "State(9)"} {
		if got := s.String(); got != want {
			t.Errorf("State %d is called %q, want %q", s, got, want)
		}
	}
	seen := map[string]Reason{}
	for r := ReasonStartup; r <= ReasonUnheard; r++ {
		text := r.String()
		if other, ok := seen[text]; ok || text == "" || strings.HasPrefix(text, "Reason(") {
			t.Errorf("Reason %d is called %q (like %d)", r, text, other)
		}
		seen[text] = r
	}
	if got := (ReasonUnheard + 1).String(); got != "Reason(13)" {
		t.Errorf("an unknown reason is called %q", got)
	}
}
