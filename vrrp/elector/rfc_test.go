package elector

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/vrrp"
	"tandem/vrrp/wire"
)

// The tests in this file hold the elector to one clause of RFC 9568 each: what it
// does with adverts before the state machine sees them. Its time is virtual, and its
// interfaces do not exist, so that nothing comes in but what a test gives to it.

// trial is an elector that has started as BACKUP, what it logs and its time.
type trial struct {
	*elector
	log *bytes.Buffer
	now time.Time
}

// The carriers of a trial, in the order of its configuration.
const (
	lan4 = iota
	lan6
	wan4
)

// three is a router alone with IPv4 and IPv6 on one interface, with the same VRID, and
// IPv4 on another one.
func three() Configuration {
	c := single()
	c.Interval, c.Lease, c.Priority = time.Second, vrrp.LeaseFor(time.Second), 100
	c.Carriers = []Carrier{
		{
			Name: "lan", Interface: "missing0", VirtualLink: "vmac10", VRID: 10,
			Source: netip.MustParseAddr("192.0.2.2"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		},
		{
			Name: "lan/ipv6", Interface: "missing0", VirtualLink: "vmac10v6", VRID: 10,
			Source:    netip.MustParseAddr("fe80::2"),
			Addresses: []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")},
		},
		{
			Name: "wan", Interface: "missing1", VirtualLink: "vmac11", VRID: 11,
			Source: netip.MustParseAddr("198.51.100.2"), Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
		},
	}
	return c
}

func try(t *testing.T, cfg Configuration) *trial {
	t.Helper()
	var log bytes.Buffer
	e := &elector{opts: Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	tr := &trial{elector: e, log: &log, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if e.waiter, err = newWaiter(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	e.configure(tr.now, cfg)
	if e.configError != "" {
		t.Fatal(e.configError)
	}
	e.step(tr.now, vrrp.Input{Start: true})
	tr.now = tr.now.Add(time.Second)
	return tr
}

// like is an advert that differs from a carrier's own in its source and, by change, in
// something else.
func (tr *trial) like(at int, change func(*vrrp.Advertisement, *vrrp.Header)) (vrrp.Advertisement, vrrp.Header) {
	c := tr.cfg.Carriers[at]
	a := vrrp.Advertisement{
		Version: c.version(), VRID: c.VRID, Priority: 200, Interval: tr.cfg.Interval, Addresses: slices.Clone(c.Addresses),
	}
	h := vrrp.Header{Source: c.Source.Next(), Destination: vrrp.MulticastIPv4(), TTL: vrrp.TTL}
	if c.Source.Is6() {
		h.Destination = vrrp.MulticastIPv6()
	}
	change(&a, &h)
	return a, h
}

func unchanged(*vrrp.Advertisement, *vrrp.Header) {}

// hear lets an advert come in by an interface. It reports whether the state machine
// heard of it.
func (tr *trial) hear(t *testing.T, on string, a vrrp.Advertisement, h vrrp.Header) bool {
	t.Helper()
	payload, err := a.Append(nil, h, vrrp.ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(tr.receivers, func(r *receiver) bool {
		return r.cfg.Interface == on && r.cfg.IPv6 == h.Source.Is6()
	})
	if at < 0 {
		t.Fatalf("nobody listens on %s to the family of %v", on, h.Source)
	}
	tr.now = tr.now.Add(time.Millisecond)
	before := tr.group.Deadline()
	tr.receive(tr.now, tr.receivers[at], wire.Packet{Header: h, Payload: payload})
	return !tr.group.Deadline().Equal(before)
}

func (tr *trial) received() []uint64 {
	var counts []uint64
	for _, c := range tr.carriers {
		counts = append(counts, c.received)
	}
	return counts
}

func TestRFC9568_5_1_2_1_GlobalSourceIsRefused(t *testing.T) {
	cfg := three()
	cfg.Carriers[lan6].Source = netip.MustParseAddr("2001:db8::2")
	if err := cfg.validate(); err == nil || !strings.Contains(err.Error(), "link-local") {
		t.Errorf("an IPv6 carrier with a global source: %v", err)
	}
}

// One VRID in both families: each advert belongs to the router of its family.
func TestRFC9568_5_2_3_FamiliesAreIndependent(t *testing.T) {
	for at, want := range map[int][]uint64{lan4: {1, 0, 0}, lan6: {0, 1, 0}} {
		tr := try(t, three())
		a, h := tr.like(at, unchanged)
		if !tr.hear(t, "missing0", a, h) {
			t.Errorf("an advert to %s is not heard", tr.cfg.Carriers[at].Name)
		}
		if got := tr.received(); !slices.Equal(got, want) {
			t.Errorf("an advert to %s counts as %v, want %v", tr.cfg.Carriers[at].Name, got, want)
		}
	}
}

func TestRFC9568_5_2_3_AdvertsOfTheOtherFamilyDoNotCount(t *testing.T) {
	for _, only := range []int{lan4, lan6} {
		cfg := three()
		cfg.Carriers[lan4+lan6-only].VRID = 77
		tr := try(t, cfg)
		a, h := tr.like(lan4+lan6-only, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.VRID = 10 })
		if tr.hear(t, "missing0", a, h) {
			t.Errorf("an advert of the other family counts for %s", tr.cfg.Carriers[only].Name)
		}
		if got := tr.carriers[lan4+lan6-only].dropped["vrid"]; got != 1 || tr.carriers[only].received > 0 {
			t.Errorf("dropped %d for the VRID, %s received %d", got, tr.cfg.Carriers[only].Name, tr.carriers[only].received)
		}
	}
}

func TestRFC9568_7_1_ConfiguredVRIDCounts(t *testing.T) {
	for at, on := range map[int]string{lan4: "missing0", lan6: "missing0", wan4: "missing1"} {
		tr := try(t, three())
		a, h := tr.like(at, unchanged)
		if !tr.hear(t, on, a, h) || tr.carriers[at].received != 1 || tr.log.Len() > 0 {
			t.Errorf("%s: received %d, log %q", tr.cfg.Carriers[at].Name, tr.carriers[at].received, tr.log)
		}
	}
}

// A VRID must be one of the interface's, and of the family's.
func TestRFC9568_7_1_OtherVRIDsAreDropped(t *testing.T) {
	for name, c := range map[string]struct {
		at   int
		vrid uint8
		on   string
	}{
		"configured nowhere":            {lan4, 12, "missing0"},
		"of another interface":          {lan4, 11, "missing0"},
		"of another interface, crossed": {wan4, 10, "missing1"},
		"of the other family":           {lan6, 11, "missing0"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := try(t, three())
			a, h := tr.like(c.at, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.VRID = c.vrid })
			if tr.hear(t, c.on, a, h) {
				t.Error("the state machine heard of it")
			}
			if got := tr.carriers[c.at].dropped; got["vrid"] != 1 || len(got) != 1 {
				t.Errorf("dropped %v, want one for the VRID", got)
			}
		})
	}
}

// §7.1: whatever is discarded is counted by its reason and logged.
func TestRFC9568_7_1_DiscardsAreCountedAndLogged(t *testing.T) {
	for reason, change := range map[string]func(*vrrp.Advertisement, *vrrp.Header){
		"ttl":     func(_ *vrrp.Advertisement, h *vrrp.Header) { h.TTL = 254 },
		"version": func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Version = vrrp.Version2 },
		"vrid":    func(a *vrrp.Advertisement, _ *vrrp.Header) { a.VRID = 99 },
		"foreign": func(_ *vrrp.Advertisement, h *vrrp.Header) { h.Destination = netip.MustParseAddr("192.0.2.2") },
	} {
		t.Run(reason, func(t *testing.T) {
			tr := try(t, three())
			a, h := tr.like(lan4, change)
			if tr.hear(t, "missing0", a, h) || tr.carriers[lan4].received > 0 {
				t.Error("it counts")
			}
			if got := tr.carriers[lan4].dropped; got[reason] != 1 || len(got) != 1 {
				t.Errorf("dropped %v", got)
			}
			if got := tr.log.String(); !strings.Contains(got, "carrier=lan") || !strings.Contains(got, reason) {
				t.Errorf("log %q", got)
			}
		})
	}
}

// A flood of bad adverts is no flood of the log.
func TestRFC9568_7_1_LogIsRateLimited(t *testing.T) {
	tr := try(t, three())
	began := tr.now
	for i := range 10_000 {
		tr.now = tr.now.Add(29 * time.Millisecond)
		at, on := []int{lan4, lan6, wan4}[i%3], []string{"missing0", "missing0", "missing1"}[i%3]
		a, h := tr.like(at, func(a *vrrp.Advertisement, h *vrrp.Header) {
			if i%2 == 0 {
				a.VRID = 99
			} else {
				h.TTL = 1
			}
		})
		tr.hear(t, on, a, h)
	}
	lines, minutes := strings.Count(tr.log.String(), "\n"), int(tr.now.Sub(began)/time.Minute)+1
	if lines < 3 || lines > 3*minutes {
		t.Errorf("%d lines in %d minutes, want one per carrier and minute at most", lines, minutes)
	}
	if got := tr.carriers[lan4].dropped; got["vrid"]+got["ttl"] != 3334 {
		t.Errorf("dropped %v, want all of them", got)
	}
}

func TestRFC9568_7_1_MismatchIsLoggedAndNotDropped(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vrrp.Advertisement, *vrrp.Header)
		says   string
	}{
		"interval":  {func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Interval = 3 * time.Second }, "every 3s"},
		"addresses": {func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Addresses[0] = a.Addresses[0].Next().Next() }, "192.0.2.3"},
		"more addresses": {func(a *vrrp.Advertisement, _ *vrrp.Header) {
			a.Addresses = append(a.Addresses, netip.MustParseAddr("192.0.2.9"))
		}, "192.0.2.9"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := try(t, three())
			a, h := tr.like(lan4, c.change)
			if !tr.hear(t, "missing0", a, h) || tr.carriers[lan4].received != 1 || len(tr.carriers[lan4].dropped) > 0 {
				t.Errorf("received %d, dropped %v: it must count", tr.carriers[lan4].received, tr.carriers[lan4].dropped)
			}
			if r := tr.snapshot(tr.now); !strings.Contains(r.Carriers[lan4].Mismatch, c.says) {
				t.Errorf("the report says %q, want %q", r.Carriers[lan4].Mismatch, c.says)
			}
			if !strings.Contains(tr.log.String(), c.says) {
				t.Errorf("the log says %q, want %q", tr.log, c.says)
			}
		})
	}
	t.Run("a learned interval", func(t *testing.T) {
		tr := try(t, three())
		a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Interval = 3 * time.Second })
		tr.hear(t, "missing0", a, h)
		if got, want := tr.group.DownInterval(), 9*time.Second+156*3*time.Second/256; got != want {
			t.Errorf("down interval %v, want %v", got, want)
		}
	})
}

// The order of addresses does not matter, and what is right again is not told of.
func TestRFC9568_7_1_MatchIsNotReported(t *testing.T) {
	for name, change := range map[string]func(*vrrp.Advertisement, *vrrp.Header){
		"the same":      unchanged,
		"another order": func(a *vrrp.Advertisement, _ *vrrp.Header) { slices.Reverse(a.Addresses) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := three()
			cfg.Carriers[lan4].Addresses = append(cfg.Carriers[lan4].Addresses, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.3"))
			tr := try(t, cfg)
			a, h := tr.like(lan4, change)
			if tr.hear(t, "missing0", a, h); tr.carriers[lan4].received != 1 || tr.carriers[lan4].mismatch != "" || tr.log.Len() > 0 {
				t.Errorf("received %d, mismatch %q, log %q", tr.carriers[lan4].received, tr.carriers[lan4].mismatch, tr.log)
			}
		})
	}
	t.Run("right again", func(t *testing.T) {
		tr := try(t, three())
		a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Interval = 3 * time.Second })
		tr.hear(t, "missing0", a, h)
		a, h = tr.like(lan4, unchanged)
		tr.hear(t, "missing0", a, h)
		if r := tr.snapshot(tr.now); r.Carriers[lan4].Mismatch != "" {
			t.Errorf("still reported: %s", r.Carriers[lan4].Mismatch)
		}
	})
}

// promote lets the down interval pass.
func (tr *trial) promote(t *testing.T) {
	t.Helper()
	for range 10 {
		if tr.group.State() == vrrp.Master {
			return
		}
		tr.now = tr.group.Deadline()
		tr.step(tr.now, vrrp.Input{Tick: true})
	}
	t.Fatalf("state %v, want MASTER", tr.group.State())
}

// RFC 9568 is silent about an equal priority from an equal address. It is this node's
// own advert that a loop brings back, or another host with the same address: nobody
// can win, so nothing moves, and it is an alarm.
func TestRFC9568_6_4_3_OwnAddressIsAnAlarm(t *testing.T) {
	tr := try(t, three())
	tr.promote(t)
	for _, priority := range []uint8{1, 100, 254} {
		a, h := tr.like(lan4, func(a *vrrp.Advertisement, h *vrrp.Header) {
			a.Priority, h.Source = priority, tr.cfg.Carriers[lan4].Source
		})
		if tr.hear(t, "missing0", a, h) || tr.group.State() != vrrp.Master || tr.group.Transitions() != 2 {
			t.Errorf("priority %d: %v after %d transitions", priority, tr.group.State(), tr.group.Transitions())
		}
	}
	r := tr.snapshot(tr.now)
	if c := r.Carriers[lan4]; !c.EchoAt.Equal(tr.now) || c.Dropped["own-address"] != 3 || c.Received != 0 {
		t.Errorf("report %+v", c)
	}
	if !strings.Contains(tr.log.String(), "own-address") {
		t.Errorf("log %q", tr.log)
	}
}

// A losing advert from any other address is heard.
func TestRFC9568_6_4_3_OtherAddressesAreNoAlarm(t *testing.T) {
	tr := try(t, three())
	tr.promote(t)
	tr.now = tr.now.Add(100 * time.Millisecond)
	a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Priority = 99 })
	if !tr.hear(t, "missing0", a, h) || !tr.carriers[lan4].echoAt.IsZero() || tr.log.Len() > 0 {
		t.Errorf("echo at %v, log %q: want an answer and no alarm", tr.carriers[lan4].echoAt, tr.log)
	}
}

func TestRFC9568_8_3_2_SecondOwnerIsLogged(t *testing.T) {
	cfg := three()
	cfg.Priority = vrrp.PriorityOwner
	tr := try(t, cfg)
	a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Priority = vrrp.PriorityOwner })
	tr.hear(t, "missing0", a, h)
	if got := tr.log.String(); !strings.Contains(got, "another router owns the addresses") {
		t.Errorf("log %q", got)
	}
	if s := tr.snapshot(tr.now).Carriers[lan4].Stranger; s == nil || s.Priority != vrrp.PriorityOwner {
		t.Errorf("the report says %+v", s)
	}
}

func TestRFC9568_8_3_2_OneOwnerIsNotLogged(t *testing.T) {
	for mine, theirs := range map[uint8]uint8{vrrp.PriorityOwner: 254, 100: vrrp.PriorityOwner} {
		cfg := three()
		cfg.Priority = mine
		tr := try(t, cfg)
		a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Priority = theirs })
		if tr.hear(t, "missing0", a, h); tr.carriers[lan4].received != 1 || tr.log.Len() > 0 {
			t.Errorf("%d hears %d: received %d, log %q", mine, theirs, tr.carriers[lan4].received, tr.log)
		}
	}
}

// The mode of §8.4 that speaks both versions is not there: a carrier speaks one and
// hears that one.
func TestRFC9568_8_4_OneVersionPerCarrier(t *testing.T) {
	for _, speaks := range []uint8{vrrp.Version2, vrrp.Version3} {
		cfg := three()
		cfg.Carriers[lan4].Version = speaks
		tr := try(t, cfg)
		a, h := tr.like(lan4, unchanged)
		if !tr.hear(t, "missing0", a, h) || tr.carriers[lan4].received != 1 {
			t.Errorf("version %d: its own version is not heard", speaks)
		}
	}
}

func TestRFC9568_8_4_OtherVersionIsDroppedAndCounted(t *testing.T) {
	for speaks, other := range map[uint8]uint8{vrrp.Version2: vrrp.Version3, vrrp.Version3: vrrp.Version2} {
		cfg := three()
		cfg.Carriers[lan4].Version = speaks
		tr := try(t, cfg)
		a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Version = other })
		if tr.hear(t, "missing0", a, h) {
			t.Errorf("version %d: version %d is heard", speaks, other)
		}
		if got := tr.carriers[lan4].dropped; got["version"] != 1 || len(got) != 1 {
			t.Errorf("version %d: dropped %v", speaks, got)
		}
	}
}

// Where Tandem deviates from RFC 3768, see docs/rfc9568.md.

func version2(interval time.Duration) Configuration {
	cfg := three()
	cfg.Interval, cfg.Lease = interval, vrrp.LeaseFor(interval)
	cfg.Carriers = cfg.Carriers[:1]
	cfg.Carriers[lan4].Version = vrrp.Version2
	return cfg
}

func TestVersion2HasTheSkewOfVersion3(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 4 * time.Second} {
		tr := try(t, version2(interval))
		a, h := tr.like(lan4, unchanged)
		tr.hear(t, "missing0", a, h)
		if got, want := tr.group.SkewTime(), 156*interval/256; got != want {
			t.Errorf("interval %v: Skew_Time %v, want %v", interval, got, want)
		}
	}
}

func TestVersion2MismatchIsNotDropped(t *testing.T) {
	tr := try(t, version2(time.Second))
	a, h := tr.like(lan4, func(a *vrrp.Advertisement, _ *vrrp.Header) { a.Interval = 3 * time.Second })
	if !tr.hear(t, "missing0", a, h) || tr.carriers[lan4].received != 1 || tr.carriers[lan4].mismatch == "" {
		t.Errorf("received %d, mismatch %q", tr.carriers[lan4].received, tr.carriers[lan4].mismatch)
	}
}
