package uplink

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tandem/router/config"
)

// world asks what the selector wants to be asked, on a virtual clock.
type world struct {
	t     *testing.T
	s     *Selector
	now   time.Time
	start time.Time
	// lines are the outside, by the names of the uplinks.
	lines    map[string]*line
	random   *rand.Rand
	outcomes outcomes
	sent     []sent
	switches []Switch
	// mostAtOnce is the largest number of probes that started together.
	mostAtOnce int
}

// line is what lies beyond an uplink.
type line struct {
	gateway, beyond bool
	// dead are targets that do not answer though others do.
	dead map[string]bool
	// loss is the probability that a probe gets no answer.
	loss float64
	rtt  time.Duration
	// local makes the prober fail.
	local bool
}

type sent struct {
	Probe
	at time.Time
}

type outcome struct {
	Outcome
	at time.Time
}

type outcomes []outcome

func (o outcomes) Len() int           { return len(o) }
func (o outcomes) Less(i, j int) bool { return o[i].at.Before(o[j].at) }
func (o outcomes) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }
func (o *outcomes) Push(x any)        { *o = append(*o, x.(outcome)) }
func (o *outcomes) Pop() any {
	last := (*o)[len(*o)-1]
	*o = (*o)[:len(*o)-1]
	return last
}

func newWorld(t *testing.T, doc *config.Document) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(1_000_000, 0), lines: map[string]*line{}, random: rand.New(rand.NewPCG(1, 2))}
	w.start = w.now
	w.s = New(w.now, NewConfig(doc))
	for _, u := range doc.Uplinks {
		w.lines[u.Name] = &line{gateway: true, beyond: true, rtt: 5 * time.Millisecond, dead: map[string]bool{}}
	}
	return w
}

// up gives all uplinks links and addresses.
func (w *world) up() *world {
	for _, u := range w.s.uplinks {
		w.s.SetLink(w.now, u.name, true, "")
		w.s.SetAddress(w.now, u.name, false, true)
		w.s.SetAddress(w.now, u.name, true, true)
	}
	return w
}

func (w *world) run(d time.Duration) {
	w.t.Helper()
	end, still := w.now.Add(d), 0
	for {
		next := w.s.Deadline()
		if len(w.outcomes) > 0 {
			next = earlier(next, w.outcomes[0].at)
		}
		if next.IsZero() || next.After(end) {
			w.now = end
			return
		}
		if still++; next.After(w.now) {
			still = 0
		}
		if still > 2000 {
			w.t.Fatalf("at %v: the deadline %v does not move", w.since(), next.Sub(w.start))
		}
		w.now = later(w.now, next)
		for len(w.outcomes) > 0 && !w.outcomes[0].at.After(w.now) {
			w.s.Finish(w.now, heap.Pop(&w.outcomes).(outcome).Outcome)
		}
		w.s.Tick(w.now)
		w.ask()
		w.switches = append(w.switches, w.s.Switches()...)
	}
}

func (w *world) ask() {
	due := w.s.Due(w.now)
	w.mostAtOnce = max(w.mostAtOnce, len(due))
	for _, p := range due {
		w.sent = append(w.sent, sent{p, w.now})
		l := w.lines[p.Uplink]
		o := outcome{Outcome{Probe: p, OK: true, RTT: l.rtt}, w.now.Add(l.rtt)}
		switch {
		case l.local:
			o = outcome{Outcome{Probe: p, Local: true, Reason: "the socket cannot be opened"}, w.now}
		case p.Kind == Gateway && !l.gateway, p.Kind == EndToEnd && (!l.beyond || l.dead[p.Target.Host]), w.random.Float64() < l.loss, l.rtt > p.Timeout:
			o = outcome{Outcome{Probe: p, Reason: "no answer"}, w.now.Add(p.Timeout)}
		}
		heap.Push(&w.outcomes, o)
	}
}

func (w *world) since() time.Duration { return w.now.Sub(w.start) }

// until runs until something holds, and returns how long that took.
func (w *world) until(what string, limit time.Duration, holds func() bool) time.Duration {
	w.t.Helper()
	begin := w.now
	for !holds() {
		if w.now.Sub(begin) > limit {
			w.t.Fatalf("%s: not after %v\n%+v", what, limit, w.s.Status(w.now))
		}
		w.run(time.Millisecond)
	}
	return w.now.Sub(begin)
}

func (w *world) chosen(network string) string { return w.s.Selection()[v4(network)] }

func (w *world) expect(network, uplink string) {
	w.t.Helper()
	if got := w.chosen(network); got != uplink {
		w.t.Fatalf("after %v %s takes %q, want %q\n%+v", w.since(), network, got, uplink, w.path(network))
	}
}

func (w *world) path(network string) PathStatus {
	for _, p := range w.s.Status(w.now).Paths {
		if p.Network == network {
			return p
		}
	}
	return PathStatus{}
}

func (w *world) candidate(network, uplink string) CandidateStatus {
	w.t.Helper()
	for _, c := range w.path(network).Candidates {
		if c.Uplink == uplink {
			return c
		}
	}
	w.t.Fatalf("%s is no candidate of %s", uplink, network)
	return CandidateStatus{}
}

// duties names the uplinks of which flows must end, "out:" before those of which only those that began inside must.
func (w *world) duties() []string {
	names := []string{}
	for _, d := range w.s.Duties(w.now) {
		name := d.Path.Network + "/" + d.Uplink
		if d.Outbound {
			name = "out:" + name
		}
		names = append(names, name)
	}
	return names
}

func (w *world) expectDuties(want ...string) {
	w.t.Helper()
	if got := w.duties(); !slices.Equal(got, want) {
		w.t.Fatalf("after %v the duties are %q, want %q", w.since(), got, want)
	}
}

func (w *world) expectFailures(want ...string) {
	w.t.Helper()
	if got := w.s.Failures(); !slices.Equal(got, want) {
		w.t.Fatalf("after %v the failures are %q, want %q", w.since(), got, want)
	}
}

func v4(network string) Path {
	return Path{Network: network, Destination: netip.MustParsePrefix("0.0.0.0/0")}
}

func v6(network string) Path {
	return Path{Network: network, Destination: netip.MustParsePrefix("::/0")}
}

// document has the uplinks fibre (free), dsl (10) and lte (50, metered), and the network lan, which may take all.
func document(targets ...string) *config.Document {
	doc := &config.Document{}
	for i, u := range []config.Uplink{{Name: "fibre"}, {Name: "dsl", Cost: 10}, {Name: "lte", Cost: 50, Metered: true}} {
		u.VRID = uint8(i + 1)
		u.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(16 * i)}), 28)
		u.Gateway = netip.AddrFrom4([4]byte{192, 0, 2, byte(16*i + 1)})
		u.Labels = []string{"all"}
		doc.Uplinks = append(doc.Uplinks, u)
	}
	doc.Networks = []config.Network{network("lan", targets...)}
	return doc
}

func network(name string, targets ...string) config.Network {
	n := config.Network{Name: name, Uplinks: []string{"all"}, MaxCost: 255, DrainTime: 10 * time.Minute}
	for _, t := range targets {
		n.Probe.Targets = append(n.Probe.Targets, config.Target{Kind: config.ProbeICMP, Host: t})
	}
	return n
}
