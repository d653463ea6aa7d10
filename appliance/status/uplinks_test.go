package status

import (
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
	"tandem/router/uplink"
)

// reference is the pair of docs/reference.yaml, in which office has two uplinks.
func reference(t *testing.T) *config.Document {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := config.Parse("reference.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func noon() time.Time { return time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC) }

// evidence is what a selector knows some time after lte lost every fifth probe and IPv6 died on wan.
func evidence() uplink.Status {
	now := noon()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	answered := func(kind, target string, rtt time.Duration) uplink.ProbeStatus {
		return uplink.ProbeStatus{
			Kind: kind, Target: target, State: uplink.Working, LastOK: ago(300 * time.Millisecond), RTT: rtt, Jitter: rtt / 10, Window: 60,
			Sent: 600, Failed: 2, Interval: time.Second,
		}
	}
	lossy := answered("tcp", "www.example.com:443", 48*time.Millisecond)
	lossy.State, lossy.Loss, lossy.Reason, lossy.LastFailed = uplink.Degraded, 0.2, "no answer from www.example.com within 1s", ago(2*time.Second)
	silent := uplink.ProbeStatus{
		Kind: "gateway", State: uplink.Dead, LastOK: ago(93 * time.Second), LastFailed: ago(200 * time.Millisecond), Loss: 1, Window: 60, Sent: 500, Failed: 94,
		Reason: "fe80::1 does not answer neighbour solicitations",
	}
	return uplink.Status{
		Uplinks: []uplink.Evidence{
			{Name: "wan", Link: true, Labels: []string{"fixed"}, Families: []uplink.FamilyStatus{
				{State: uplink.Working, Address: true, Reason: "it answers", Probes: []uplink.ProbeStatus{answered("gateway", "", 400*time.Microsecond), answered("tcp", "www.example.com:443", 8*time.Millisecond)}},
				{IPv6: true, State: uplink.Dead, Address: true, Reason: silent.Reason, Probes: []uplink.ProbeStatus{silent}},
			}},
			{Name: "lte", Link: true, Cost: 90, Metered: true, Families: []uplink.FamilyStatus{
				{State: uplink.Degraded, Address: true, Reason: "it loses 20 % of the probes", Probes: []uplink.ProbeStatus{answered("gateway", "", 31*time.Millisecond), lossy}},
			}},
		},
		Paths: []uplink.PathStatus{
			{
				Network: "office", Destination: "0.0.0.0/0", Uplink: "wan", State: uplink.Working, Since: ago(192 * time.Second), Why: "it is the cheapest that works", Switches: 3,
				Candidates: []uplink.CandidateStatus{
					{Uplink: "wan", Allowed: true, Wanted: true, Chosen: true, State: uplink.Working, Reason: "2 of 4 targets answer", Since: ago(200 * time.Second), Answering: 2, Targets: 4, Need: 2},
					{Uplink: "lte", Cost: 90, Allowed: true, State: uplink.Degraded, Reason: "it loses 20 % of the probes", Since: ago(time.Hour), HeldUntil: now.Add(20 * time.Second), Answering: 2, Targets: 4, Need: 2},
				},
				Draining: []uplink.DrainStatus{{Uplink: "lte", Until: now.Add(7 * time.Minute), Reason: "wan works again"}},
			},
			{
				Network: "office", Destination: "::/0", Uplink: "wan", State: uplink.Dead, Since: ago(time.Hour), Why: "it is the only one", Note: "no other uplink works",
				Candidates: []uplink.CandidateStatus{{Uplink: "wan", Allowed: true, Wanted: true, Chosen: true, State: uplink.Dead, Reason: silent.Reason, Since: ago(90 * time.Second)}},
			},
			{
				Network: "office", Destination: "192.0.2.128/25", Uplink: "lte", State: uplink.Working, Since: ago(time.Hour), Why: "it is the only one",
				Candidates: []uplink.CandidateStatus{{Uplink: "lte", Cost: 90, Allowed: true, Wanted: true, Chosen: true, State: uplink.Working, Since: ago(time.Hour), Answering: 1, Targets: 1, Need: 1}},
			},
			{
				Network: "guests", Destination: "0.0.0.0/0", Uplink: "wan", State: uplink.Working, Since: ago(time.Hour), Why: "it is the only one",
				Candidates: []uplink.CandidateStatus{{Uplink: "wan", Allowed: true, Wanted: true, Chosen: true, State: uplink.Working, Since: ago(time.Hour)}},
			},
		},
	}
}

func history() *Switches {
	var h Switches
	h.Add(Switch{Time: noon().Add(-10 * time.Minute), Network: "office", Destination: "0.0.0.0/0", From: "wan", To: "lte", Reason: "eth1 has no carrier", Took: 31 * time.Millisecond})
	h.Add(Switch{Time: noon().Add(-192 * time.Second), Network: "office", Destination: "0.0.0.0/0", From: "lte", To: "wan", Planned: true, Reason: "wan works again"})
	return &h
}

// outside is a status with all of it.
func outside(t *testing.T) Status {
	t.Helper()
	s := sample()
	s.Time = noon()
	doc := reference(t)
	s.Uplinks, s.Networks = UplinksOf(doc, "alpha", evidence()), NetworksOf(doc, "alpha", evidence(), history())
	return s
}

func TestUplinksAndNetworksOfADocument(t *testing.T) {
	s := outside(t)
	wan, lte := s.Uplinks[0], s.Uplinks[1]
	if !wan.Up || wan.Interface != "eth1" || wan.GatewayIPv6 != "fe80::1" || wan.State() != uplink.Working ||
		!slices.Equal(wan.Networks, []string{"office", "guests", "cloud"}) || !slices.Equal(wan.UsedBy, []string{"office", "guests"}) {
		t.Errorf("%+v", wan)
	}
	// The cost in force is not the document's.
	if lte.Cost != 90 || !lte.Metered || !slices.Equal(lte.Networks, []string{"office", "cloud"}) || !slices.Equal(lte.UsedBy, []string{"office"}) {
		t.Errorf("%+v", lte)
	}
	office, cloud := s.Networks[0], s.Networks[2]
	want := Network{
		Name: "office", Interface: "eth2.20", Prefix: "10.20.0.0/24", Gateway: "10.20.0.1", PrefixIPv6: "2001:db8:0:20::/64", GatewayIPv6: "2001:db8:0:20::1",
		Uplinks: []string{"wan", "lte"}, MaxCost: 100, NATAddresses: map[string]string{"wan": "198.51.100.10", "lte": "203.0.113.10"},
		Failback: "drain", DrainTime: 10 * time.Minute, Paths: evidence().Paths[:3], PrivateGateways: []PrivateGateway{{"172.16.0.0/12", "10.40.0.7"}},
		Switches: history().Of("office"), Forwards: 1, StaticNAT: 1, Ingress: AccessList{"deny", 1}, Egress: AccessList{"allow", 1}, RateLimit: "100Mbit",
	}
	if diff := cmp.Diff(want, office); diff != "" {
		t.Error(diff)
	}
	if cloud.RoutedNATAddress != "192.0.2.200" || cloud.NATAddresses != nil || len(cloud.Paths) != 0 {
		t.Errorf("%+v", cloud)
	}
	// A node that has not begun to look says what the document does.
	if fresh := UplinksOf(reference(t), "bravo", uplink.Status{}); len(fresh) != 2 || fresh[1].Cost != 100 || fresh[0].Families != nil || fresh[0].Up {
		t.Errorf("%+v", fresh)
	}
}

func TestSwitches(t *testing.T) {
	var h Switches
	if h.Of("office") != nil {
		t.Error("remembers what never was")
	}
	for i := range 25 {
		h.Add(Switch{Network: "office", Reason: strings.Repeat("x", i)})
	}
	h.Add(Switch{Network: "guests"})
	if got := h.Of("office"); len(got) != rememberedSwitches || len(got[0].Reason) != 24 || len(h.Of("guests")) != 1 {
		t.Errorf("%d: %+v", len(got), got)
	}
	path := uplink.Path{Network: "office", Destination: netip.MustParsePrefix("0.0.0.0/0")}
	failed := SwitchOf(uplink.Switch{Path: path, From: "wan", To: "lte", Reason: "r", FailedAt: noon(), At: noon().Add(time.Millisecond)}, noon().Add(9*time.Millisecond))
	if failed.Took != 9*time.Millisecond || failed.Network != "office" || failed.Destination != "0.0.0.0/0" {
		t.Errorf("%+v", failed)
	}
	if planned := SwitchOf(uplink.Switch{Path: path, From: "wan", To: "lte", Planned: true, At: noon()}, noon().Add(time.Second)); planned.Took != 0 || !planned.Planned {
		t.Errorf("%+v", planned)
	}
}

func TestUplinkEvents(t *testing.T) {
	if e, ok := (Switch{To: "wan"}).Event(); ok {
		t.Errorf("a first choice: %+v", e)
	}
	newest := history().Of("office")[1]
	e, ok := newest.Event()
	if want := "uplink-switched office wan → lte: eth1 has no carrier (planned 0, took_seconds 0.031)"; !ok || e.Text() != want || !e.Time.Equal(newest.Time) {
		t.Errorf("%v %s, want %s", ok, e.Text(), want)
	}
	newest.To, newest.Destination = "", "::/0"
	if e, _ := newest.Event(); e.Kind != EventUplinkNone || e.Name != "office/ipv6" {
		t.Errorf("%+v", e)
	}
	ended := EndedFlows{TCP: 200, UDP: 50, Told: 250, Took: 12 * time.Millisecond}
	if got, want := ended.Event("office", "eth1 has no carrier").Text(), "flows-ended office: eth1 has no carrier (left 0, other 0, tcp 200, told 250, took_seconds 0.012, udp 50)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestUplinkChanges(t *testing.T) {
	whole := func(change func(*uplink.Status)) Status {
		known := evidence()
		change(&known)
		doc := reference(t)
		return Status{Time: noon(), Uplinks: UplinksOf(doc, "alpha", known), Networks: NetworksOf(doc, "alpha", known, &Switches{})}
	}
	as := whole(func(*uplink.Status) {})
	wanDies := whole(func(k *uplink.Status) {
		k.Uplinks[0].Families[0].State, k.Uplinks[0].Families[0].Reason = uplink.Dead, "silence"
		k.Paths[0].State, k.Paths[0].Candidates[0].Reason = uplink.Dead, "silence"
	})
	drained := whole(func(k *uplink.Status) { k.Paths[0].Draining = nil })
	late := drained
	late.Time = noon().Add(8 * time.Minute)
	back := whole(func(k *uplink.Status) { k.Paths[0].Draining, k.Paths[0].Uplink = nil, "lte" })
	for name, c := range map[string]struct {
		before, after Status
		want          []string
	}{
		"nothing": {as, as, nil},
		"dead": {as, wanDies, []string{
			"uplink-state wan working → dead: silence", "uplink-none office: wan: silence; lte: it loses 20 % of the probes",
		}},
		"well": {wanDies, as, []string{"uplink-state wan dead → working: it answers", "uplink-found office: by wan"}},
		"the first look tells of trouble": {Status{}, as, []string{
			"uplink-state wan/ipv6 unknown → dead: fe80::1 does not answer neighbour solicitations",
			"uplink-state lte unknown → degraded: it loses 20 % of the probes",
			"uplink-none office/ipv6: wan: fe80::1 does not answer neighbour solicitations",
		}},
		"the time is over": {as, late, []string{"uplink-drained office: flows are ended that still take lte"}},
		"before the time":  {as, drained, []string{"uplink-drained office: flows are ended before their time, as lte does not work any more"}},
		"back":             {as, back, []string{"uplink-drained office: lte is no longer left: flows stay there"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, e := range uplinkChanges(c.before, c.after) {
				got = append(got, e.Text())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func checkText(t *testing.T, got, coloured, golden string) {
	t.Helper()
	path := "testdata/" + golden
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run with UPDATE=1 if this is meant (-want +got):\n%s", diff)
	}
	if !strings.Contains(coloured, "\x1b[") || stripColour(coloured) != got {
		t.Errorf("colours change more than colours:\n%s", coloured)
	}
}

func TestRenderUplinks(t *testing.T) {
	s := outside(t)
	checkText(t, RenderUplinks(s, false), RenderUplinks(s, true), "uplinks.txt")
	s.Uplinks[0].Up, s.Uplinks[0].LinkReason = false, "eth1 has no carrier"
	s.Uplinks[0].Families[0].Probes = []uplink.ProbeStatus{{Kind: "gateway"}, {Kind: "dns", Target: "www.example.com", Unhealthy: "no route to the name server"}}
	if got := RenderUplinks(s, false); !strings.Contains(got, "✗ wan: eth1 has no carrier") || !strings.Contains(got, "not asked yet") || !strings.Contains(got, "cannot be asked") {
		t.Error(got)
	}
	if got := RenderUplinks(Status{}, false); !strings.Contains(got, "has no uplinks") {
		t.Error(got)
	}
}

func TestRenderNetwork(t *testing.T) {
	s := outside(t)
	for _, w := range s.Networks {
		checkText(t, RenderNetwork(w, s.Time, false), RenderNetwork(w, s.Time, true), "network-"+w.Name+".txt")
	}
}

func TestRenderStatusWithUplinks(t *testing.T) {
	s := outside(t)
	checkText(t, Render(s, false), Render(s, true), "status-uplinks.txt")
	checkText(t, RenderNetworks(s, false), RenderNetworks(s, true), "networks.txt")
	// Of many networks only those are shown that need a look.
	usual := s.Networks[1]
	for range 200 {
		s.Networks = append(s.Networks, usual)
	}
	got := Render(s, false)
	if strings.Count(got, "\n  guests ") != 0 || !strings.Contains(got, "office/ipv6") || !strings.Contains(got, "and 202 more; `tandem network` shows all") {
		t.Error(got)
	}
	s.Networks = s.Networks[1:]
	if got := Render(s, false); strings.Count(got, "\n  guests ") != 1 || !strings.Contains(got, "and 200 more") {
		t.Error(got)
	}
	if got := RenderNetworks(Status{}, false); !strings.Contains(got, "no networks") {
		t.Error(got)
	}
}

func TestRenderOperation(t *testing.T) {
	o := OperationUplinks{Operation: "updates", Uplinks: []uplink.Use{
		{Uplink: "wan", Usable: true, Reason: "2 of 4 targets answer"},
		{Uplink: "lte", Cost: 90, Reason: "it is metered, and the operation may use no metered uplink"},
	}}
	checkText(t, RenderOperation(o, false), RenderOperation(o, true), "operation.txt")
	if !o.Usable() {
		t.Error("wan is usable")
	}
	if o.Uplinks[0].Usable = false; o.Usable() {
		t.Error("none is usable")
	}
}

// The document names every key of the objects that it explains.
func TestUplinksDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/uplinks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Network](), reflect.TypeFor[Switch](), reflect.TypeFor[PrivateGateway](), reflect.TypeFor[AccessList](),
		reflect.TypeFor[uplink.PathStatus](), reflect.TypeFor[uplink.CandidateStatus](), reflect.TypeFor[uplink.DrainStatus](),
		reflect.TypeFor[Uplink](), reflect.TypeFor[uplink.FamilyStatus](), reflect.TypeFor[uplink.ProbeStatus](),
		reflect.TypeFor[OperationUplinks](), reflect.TypeFor[uplink.Use](),
	} {
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(string(text), "`"+key+"`") {
				t.Errorf("docs/uplinks.md does not name %s of %v", key, typ)
			}
		}
	}
	for _, state := range states() {
		if !strings.Contains(string(text), "| `"+state.String()+"` |") {
			t.Errorf("docs/uplinks.md does not explain %s", state)
		}
	}
}
