package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tandem/appliance/status"
	"tandem/conntracksync/peer"
	"tandem/router"
	"tandem/router/config"
	"tandem/router/uplink"
	"tandem/vrrp"
	"tandem/vrrp/elector"
)

// pairOf returns both nodes of the reference document with keys of their own. They
// touch nothing.
func pairOf(t *testing.T) map[string]*node {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := config.Parse("reference.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	identities := map[string]*peer.Identity{}
	for _, m := range plain.Members {
		if identities[m.Name], err = peer.GenerateKey(); err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte(m.PublicKey), []byte(identities[m.Name].PublicKey()))
	}
	nodes := map[string]*node{}
	for name, identity := range identities {
		nodes[name] = nodeOf(t, text, name)
		nodes[name].identity = identity
	}
	return nodes
}

func nodeOf(t *testing.T, text []byte, name string) *node {
	t.Helper()
	doc, err := config.Parse("pair.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	first, err := newSetup(doc, name)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{opts: Options{Name: name, StateDir: t.TempDir()}, log: slog.New(slog.DiscardHandler), events: newEventLog(name)}
	n.current.Store(first)
	n.uplinks = selecting(n)
	n.elector = newElectorLink(n, elector.Configuration{})
	return n
}

// single is a router without a peer.
const single = `version: 1
group: alone
members:
  - name: solo
networks:
  - name: lan
    vrid: 10
    prefix: 10.0.0.0/24
    gateway: 10.0.0.1
    ports:
      solo: {interface: lan0, address: 10.0.0.2}
`

func TestElectorConfiguration(t *testing.T) {
	nodes := pairOf(t)
	alpha, err := nodes["alpha"].electorConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	bravo, err := nodes["bravo"].electorConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr
	wan := []netip.Addr{address("198.51.100.10"), address("198.51.100.11"), address("198.51.100.12")}
	lte := []netip.Addr{address("203.0.113.10"), address("203.0.113.11")}
	wan6 := []netip.Addr{address("fe80::5e:a"), address("2001:db8:0:10::10")}
	want := elector.Configuration{
		Interval: 100 * time.Millisecond, Priority: 200, Rank: 1, AnnounceRefresh: time.Minute,
		Digest: bravo.Digest,
		Carriers: []elector.Carrier{
			{Name: "wan", Interface: "eth1", VRID: 10, Source: address("198.51.100.2"), Peer: address("198.51.100.3"), Addresses: wan},
			{Name: "wan/ipv6", Interface: "eth1", VRID: 10, Source: address("fe80::5e:a:1"), Peer: address("fe80::5e:a:2"), Addresses: wan6},
			{Name: "wan/11", Interface: "eth1", VRID: 11, Source: address("198.51.100.2"), Peer: address("198.51.100.3"), Addresses: []netip.Addr{address("198.51.100.20")}},
			{Name: "wan/11/ipv6", Interface: "eth1", VRID: 11, Source: address("fe80::5e:a:1"), Peer: address("fe80::5e:a:2"), Addresses: []netip.Addr{address("fe80::5e:b"), address("2001:db8:0:10::20")}},
			{Name: "lte", Interface: "eth5", VRID: 12, Source: address("203.0.113.2"), Peer: address("203.0.113.3"), Addresses: lte},
			{Name: "office", Interface: "eth2.20", VRID: 20, Source: address("10.20.0.2"), Peer: address("10.20.0.3"), Addresses: []netip.Addr{address("10.20.0.1")}},
			{Name: "office/ipv6", Interface: "eth2.20", VRID: 20, Source: address("fe80::5e:14:1"), Peer: address("fe80::5e:14:2"), Addresses: []netip.Addr{address("fe80::5e:14"), address("2001:db8:0:20::1")}},
			{Name: "office/21", Interface: "eth2.20", VRID: 21, Source: address("10.20.0.2"), Peer: address("10.20.0.3"), Addresses: []netip.Addr{address("10.20.0.9")}},
			{Name: "guests", Interface: "eth2.30", VRID: 30, Source: address("10.30.0.2"), Peer: address("10.30.0.3"), Addresses: []netip.Addr{address("10.30.0.1")}},
			{Name: "cloud", Interface: "eth3", VRID: 40, Source: address("10.40.0.2"), Peer: address("10.40.0.3"), Addresses: []netip.Addr{address("10.40.0.1")}, Unicast: true, Authenticate: true},
			{Name: "ha", Interface: "eth0", VRID: 1, Source: address("169.254.77.1"), Peer: address("169.254.77.2")},
			{Name: "ha2", Interface: "eth4", VRID: 2, Source: address("169.254.77.5"), Peer: address("169.254.77.6")},
		},
		Heartbeat: &elector.Heartbeat{
			HeartbeatLink: elector.HeartbeatLink{
				Interface: "eth0",
				Local:     netip.MustParseAddrPort("169.254.77.1:3112"), Remote: netip.MustParseAddrPort("169.254.77.2:3112"),
			},
			Second: &elector.HeartbeatLink{
				Interface: "eth4",
				Local:     netip.MustParseAddrPort("169.254.77.5:3112"), Remote: netip.MustParseAddrPort("169.254.77.6:3112"),
			},
		},
	}
	less := func(a, b elector.Carrier) bool { return a.Name < b.Name }
	ignore := cmp.Options{
		cmpopts.SortSlices(less), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}),
		cmpopts.IgnoreFields(elector.Configuration{}, "Beat", "Lease", "AdvertKey"), cmpopts.IgnoreFields(elector.Heartbeat{}, "Key"),
		cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Version" }, cmp.Comparer(func(a, b uint8) bool {
			return max(a, b) == vrrp.Version3 // which zero stands for
		})),
		// The names of virtual links and the HA link's stand-in are looked at below.
		cmp.FilterPath(func(p cmp.Path) bool {
			return p.Last().String() == ".VirtualLink" || p.Last().String() == ".Addresses" && len(p) > 3 && isHA(p)
		}, cmp.Ignore()),
	}
	if diff := cmp.Diff(want, alpha, ignore); diff != "" {
		t.Error(diff)
	}
	for _, c := range alpha.Carriers {
		if (c.VirtualLink == "") != router.IsHA(c.Name) || len(c.Addresses) == 0 {
			t.Errorf("carrier %+v", c)
		}
	}
	if alpha.Lease <= 0 || alpha.Lease >= 3*alpha.Interval {
		t.Errorf("lease %v", alpha.Lease)
	}
	if bravo.Rank != 0 || bravo.Priority != 180 || bravo.Heartbeat.Local != alpha.Heartbeat.Remote || bravo.Heartbeat.Remote != alpha.Heartbeat.Local {
		t.Errorf("bravo: %+v", bravo)
	}
	if len(alpha.Heartbeat.Key) < 32 || !bytes.Equal(alpha.Heartbeat.Key, bravo.Heartbeat.Key) {
		t.Error("the members derive different keys")
	}
	if len(alpha.AdvertKey) < 32 || !bytes.Equal(alpha.AdvertKey, bravo.AdvertKey) || bytes.Equal(alpha.AdvertKey, alpha.Heartbeat.Key) {
		t.Error("the keys of the adverts must be equal and not those of the heartbeats")
	}
	if alpha.Digest == [vrrp.DigestSize]byte{} {
		t.Error("the document has no digest")
	}
	for i, c := range alpha.Carriers {
		if !slices.Equal(c.Addresses, bravo.Carriers[i].Addresses) || c.VRID != bravo.Carriers[i].VRID {
			t.Errorf("the members advertise different things on %s", c.Name)
		}
	}
}

// isHA tells whether a path leads into the HA link's carrier.
func isHA(p cmp.Path) bool {
	for _, step := range p {
		if index, ok := step.(cmp.SliceIndex); ok {
			x, _ := index.Values()
			if c, ok := x.Interface().(elector.Carrier); ok {
				return router.IsHA(c.Name)
			}
		}
	}
	return false
}

func TestElectorConfigurationAlone(t *testing.T) {
	cfg, err := nodeOf(t, []byte(single), "solo").electorConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Heartbeat != nil || cfg.Beat != 0 || len(cfg.Carriers) != 1 || cfg.Carriers[0].Peer.IsValid() {
		t.Errorf("%+v", cfg)
	}
}

func TestElectorConfigurationBadKey(t *testing.T) {
	n := pairOf(t)["alpha"]
	n.doc().Members[1].PublicKey = "tandem-p256:AAAA"
	if _, err := n.electorConfiguration(); err == nil || !strings.Contains(err.Error(), "heartbeat key") {
		t.Errorf("error: %v", err)
	}
}

func TestOwnAddresses(t *testing.T) {
	var got []string
	for _, a := range pairOf(t)["bravo"].ownAddresses() {
		got = append(got, a.String())
	}
	slices.Sort(got)
	want := []string{
		"10.20.0.2", "10.20.0.3", "10.30.0.2", "10.30.0.3", "10.40.0.2", "10.40.0.3", "169.254.77.1", "169.254.77.2", "169.254.77.5", "169.254.77.6",
		"198.51.100.2", "198.51.100.3", "2001:db8:0:10::2", "2001:db8:0:10::3", "2001:db8:0:20::2", "2001:db8:0:20::3", "203.0.113.2", "203.0.113.3",
		"fe80::5e:14:1", "fe80::5e:14:2", "fe80::5e:a:1", "fe80::5e:a:2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// problemCase is a node's knowledge and the problem that follows from it.
type problemCase struct {
	name   string
	change func(n *node, s *status.Status, r *elector.Report, alive *bool)
	// want are the words of the only problem; nil if there is none.
	want []string
}

func problemCases() []problemCase {
	return []problemCase{
		{"healthy", func(*node, *status.Status, *elector.Report, *bool) {}, nil},
		{"kernel", func(n *node, _ *status.Status, _ *elector.Report, _ *bool) {
			n.state.kernelErr = "create link vmac10: out of memory"
		}, []string{"the kernel is not in the intended state", "gives up mastership", "create link vmac10: out of memory"}},
		{"conflict", func(n *node, _ *status.Status, _ *elector.Report, _ *bool) {
			n.state.conflicts = []string{"carrier lan is left out: remove it there"}
		}, []string{"carrier lan is left out"}},
		{"missing interface", func(n *node, s *status.Status, _ *elector.Report, _ *bool) {
			n.state.missing, s.Carriers[0].Up = []string{"eth1"}, false
		}, []string{"the interface eth1 of wan is missing; waiting for it"}},
		{"link down", func(_ *node, s *status.Status, _ *elector.Report, _ *bool) { s.Carriers[0].Up = false }, []string{"the link of wan (eth1) is down", "check the cable"}},
		{"just started", func(n *node, s *status.Status, _ *elector.Report, _ *bool) {
			n.state.links, s.Carriers[0].Up = nil, false
		}, []string{"has just started"}},
		{"elector starting", func(_ *node, _ *status.Status, r *elector.Report, alive *bool) { r.PID, *alive = 0, false }, []string{"the elector process is starting"}},
		{"elector dead", func(_ *node, _ *status.Status, _ *elector.Report, alive *bool) { *alive = false }, []string{"not running", "being restarted"}},
		{"elector refuses", func(_ *node, _ *status.Status, r *elector.Report, _ *bool) {
			r.Error = "a group needs at least one carrier"
		}, []string{"the elector refused the configuration: a group needs"}},
		{"mismatch", func(_ *node, _ *status.Status, r *elector.Report, _ *bool) {
			r.Carriers[0].Mismatch = "the MASTER on wan advertises every 1s"
		}, []string{"every 1s", "apply the same document on both nodes"}},
		{"port broken", func(_ *node, _ *status.Status, r *elector.Report, _ *bool) { r.Carriers[0].Error = "no buffers" }, []string{"adverts on wan: no buffers"}},
		{"port broken because the link is", func(n *node, s *status.Status, r *elector.Report, _ *bool) {
			r.Carriers[0].Error, s.Carriers[0].Up = "the link is down", false
		}, []string{"the link of wan (eth1) is down"}},
		{"peer silent", func(_ *node, s *status.Status, r *elector.Report, _ *bool) {
			s.Peer.Alive, r.Peer.Alive, s.Sync.Connected = false, false, false
		}, []string{"the peer bravo is not heard"}},
		{"other document", func(_ *node, s *status.Status, _ *elector.Report, _ *bool) { s.Config.PeerHash = "fedcba9876543210" }, []string{"fedcba987654", "0123456789ab", "apply the same one"}},
		{"a condition", func(_ *node, s *status.Status, _ *elector.Report, _ *bool) {
			s.Conditions = []status.Condition{{Name: status.BothMaster, Text: "both are MASTER"}}
		}, []string{"both are MASTER"}},
		{"a dead peer is told of once", func(_ *node, s *status.Status, _ *elector.Report, _ *bool) {
			s.Peer.Alive, s.Sync.Connected = false, false
			s.Conditions = []status.Condition{{Name: status.PeerSilent, Text: "nothing of bravo"}}
		}, []string{"nothing of bravo"}},
		{"forged lately", func(n *node, _ *status.Status, r *elector.Report, _ *bool) {
			n.elector.forgedAt, n.elector.report.Heartbeats.Dropped = time.Now(), map[string]uint64{"heartbeat-forged": 3}
		}, []string{"not signed by the key of bravo (3 so far)", "tandem keygen --show"}},
		{"forged long ago", func(n *node, _ *status.Status, r *elector.Report, _ *bool) {
			n.elector.forgedAt, n.elector.report.Heartbeats.Dropped = time.Now().Add(-time.Minute), map[string]uint64{"heartbeat-forged": 3}
		}, nil},
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range problemCases() {
		t.Run(tt.name, func(t *testing.T) {
			n := pairOf(t)["alpha"]
			n.state.links = map[string]bool{}
			s := status.Status{
				Peer: &status.Peer{Name: "bravo", Alive: true}, Sync: status.Sync{Connected: true, Complete: true},
				Config:   status.Config{Hash: "0123456789abcdef", PeerHash: "0123456789abcdef"},
				Carriers: []status.Carrier{{Name: "wan", Interface: "eth1", Up: true}, {Name: "ha", Interface: "eth0", Up: true}},
			}
			r := elector.Report{
				PID: 42, State: vrrp.Backup, Peer: elector.PeerReport{Alive: true, State: vrrp.Master},
				Carriers: []elector.CarrierReport{{Name: "wan"}, {Name: "ha"}},
			}
			alive := true
			tt.change(n, &s, &r, &alive)
			got := n.problems(s, r, alive)
			switch {
			case len(tt.want) == 0 && len(got) > 0:
				t.Errorf("problems %q, want none", got)
			case len(tt.want) > 0 && len(got) != 1:
				t.Errorf("problems %q, want one", got)
			case len(tt.want) == 0 && got == nil:
				t.Error("no problems must be an empty list in JSON, not null")
			}
			for _, w := range tt.want {
				if len(got) > 0 && !strings.Contains(got[0], w) {
					t.Errorf("%q lacks %q", got[0], w)
				}
			}
		})
	}
}

// A cut cable is one failure and one problem, however many virtual routers and families
// use it.
func TestLinkOfManyCarriers(t *testing.T) {
	n := pairOf(t)["alpha"]
	n.state.risen, n.state.reconciled = make(map[string]bool), true
	down := func(names ...string) func(string) bool {
		return func(port string) bool { return !slices.Contains(names, port) }
	}
	now := time.Now()
	tests := []struct {
		name   string
		cut    []string
		failed int
		down   []string
	}{
		{"none", nil, 0, nil},
		// No network has a way to the outside then, which counts on top.
		{"uplink", []string{"eth1"}, 2, []string{"wan", "wan/ipv6", "wan/11", "wan/11/ipv6"}},
		{"network", []string{"eth2.20"}, 1, []string{"office", "office/ipv6", "office/21"}},
		{"two networks", []string{"eth2.20", "eth2.30"}, 2, []string{"office", "office/ipv6", "office/21", "guests"}},
		{"HA link", []string{"eth0"}, 0, []string{"ha"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now = now.Add(time.Minute)
			n.uplinks = selecting(n)
			got := n.fitness(now, down(tt.cut...))
			if got.Failed != tt.failed || !slices.Equal(got.Down, tt.down) {
				t.Errorf("failed %d, down %q; want %d, %q", got.Failed, got.Down, tt.failed, tt.down)
			}
			carriers := n.carrierStatus(now, elector.Report{})
			for _, c := range carriers {
				if c.Up == slices.Contains(tt.down, c.Name) {
					t.Errorf("carrier %+v", c)
				}
			}
			if problems := n.ownProblems(status.Status{Carriers: carriers}); len(problems) != len(tt.cut) {
				t.Errorf("problems %q", problems)
			}
		})
	}
}

func TestStatusTellsFamilies(t *testing.T) {
	n := pairOf(t)["alpha"]
	for _, c := range n.carrierStatus(time.Now(), elector.Report{}) {
		if c.IPv6 != strings.HasSuffix(c.Name, "/ipv6") || (c.Kind == "ha") != (len(c.Addresses) == 0) {
			t.Errorf("%+v", c)
		}
	}
	wan := status.UplinksOf(n.doc(), "alpha", uplink.Status{})[0]
	want := []string{"198.51.100.10", "198.51.100.11", "198.51.100.12", "2001:db8:0:10::10", "198.51.100.20", "2001:db8:0:10::20"}
	if wan.GatewayIPv6 != "fe80::1" || !slices.Equal(wan.Addresses, want) {
		t.Errorf("%+v", wan)
	}
}

func TestProblemsOfKeys(t *testing.T) {
	n := pairOf(t)["alpha"]
	n.state.links = map[string]bool{}
	n.sync = &replication{node: n}
	n.sync.noteTrouble(&peer.WrongKeyError{Remote: "10.0.0.2:3112", Got: "A", Want: "B"})
	got := n.diagnoseSync(time.Now(), elector.Report{PID: 42}, status.Sync{Error: n.sync.linkErr})
	if len(got) != 1 || got[0].Name != status.ReplicationBroken || !strings.Contains(got[0].Text, "the node at 10.0.0.2 has the key A and not B") {
		t.Errorf("a peer whose key is wrong is heard by nobody, and the reason must be shown: %q", got)
	}
}

func TestNoteTroubleLogsOnce(t *testing.T) {
	n := pairOf(t)["bravo"]
	var log bytes.Buffer
	n.log = slog.New(slog.NewTextHandler(&log, nil))
	r := &replication{node: n}
	for port := range 500 {
		r.noteTrouble(&peer.RefusedError{Remote: fmt.Sprintf("10.0.0.1:%d", 40000+port), Own: "A"})
		r.noteTrouble(errors.New("call the peer: connection refused"))
	}
	if got := strings.Count(log.String(), "\n"); got != 2 {
		t.Errorf("%d lines for two reasons:\n%s", got, log.String())
	}
	for i := range 500 {
		r.noteTrouble(fmt.Errorf("reason %d", i))
	}
	if got := strings.Count(log.String(), "\n"); got != maxLogged {
		t.Errorf("%d lines for five hundred reasons, want %d", got, maxLogged)
	}
}

func TestWithoutPorts(t *testing.T) {
	for text, want := range map[string]string{
		"read tcp 10.0.0.1:40123->10.0.0.2:3112: reset": "read tcp 10.0.0.1->10.0.0.2: reset",
		"at 10.0.0.1:7":                  "at 10.0.0.1",
		"tandem-p256:MFkw: 3 of 4: done": "tandem-p256:MFkw: 3 of 4: done",
		"1:":                             "1:",
		"":                               "",
	} {
		if got := withoutPorts(text); got != want {
			t.Errorf("withoutPorts(%q) = %q, want %q", text, got, want)
		}
	}
}

// What a clock that was set back makes of the past is now, not never.
func TestAge(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		at   time.Time
		want time.Duration
	}{{time.Time{}, -1}, {now.Add(-time.Second), time.Second}, {now, 0}, {now.Add(time.Hour), 0}} {
		if got := age(now, tt.at); got != tt.want {
			t.Errorf("age(%v) = %v, want %v", tt.at.Sub(now), got, tt.want)
		}
	}
}

func TestWithDropped(t *testing.T) {
	adverts := map[string]uint64{"ttl": 1}
	if got := withDropped(adverts, nil); len(got) != 1 {
		t.Errorf("%v", got)
	}
	got := withDropped(adverts, map[string]uint64{"heartbeat-forged": 2})
	if diff := cmp.Diff(map[string]uint64{"ttl": 1, "heartbeat-forged": 2}, got); diff != "" {
		t.Error(diff)
	}
	if len(adverts) != 1 {
		t.Errorf("the argument was changed: %v", adverts)
	}
}

func TestAPIRefuses(t *testing.T) {
	n := pairOf(t)["alpha"]
	server := httptest.NewServer(n.routes())
	t.Cleanup(server.Close)
	long := strings.Repeat("ä", 2000)
	tests := []struct {
		name, method, path string
		body               io.Reader
		code               int
		want               []string
	}{
		{"failover on a BACKUP", http.MethodPost, "/v1/failover", nil, http.StatusConflict, []string{"not MASTER", "run the command on the MASTER"}},
		{"with a body that nobody asked for", http.MethodPost, "/v1/failover", strings.NewReader(strings.Repeat("x", 2<<20)), http.StatusConflict, []string{"not MASTER"}},
		{"wrong method", http.MethodPut, "/v1/status", nil, http.StatusNotFound, []string{"there is no PUT /v1/status"}},
		{"wrong path", http.MethodGet, "/v2/status", nil, http.StatusNotFound, []string{"there is no GET /v2/status", "GET /v1/status, GET /v1/events, GET /metrics, POST /v1/failover and POST /v1/reload"}},
		{"odd method", "BREW", "/v1/status", nil, http.StatusNotFound, []string{"BREW"}},
		{"long path", http.MethodGet, "/" + long, nil, http.StatusNotFound, []string{"…"}},
		{"path that climbs", http.MethodGet, "/v1/%2e%2e/%2e%2e/etc/passwd", nil, http.StatusNotFound, []string{"there is no GET"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }() // it was read
			var failure status.Failure
			if err := json.NewDecoder(response.Body).Decode(&failure); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tt.code || len(failure.Error) > 400 {
				t.Errorf("%s, %q", response.Status, failure.Error)
			}
			for _, w := range tt.want {
				if !strings.Contains(failure.Error, w) {
					t.Errorf("%q lacks %q", failure.Error, w)
				}
			}
		})
	}
}

// group is a name that no other process of this machine has.
func group(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("test-%d-%s", os.Getpid(), t.Name())
}

func TestClaim(t *testing.T) {
	name, dir := group(t), t.TempDir()
	release, err := claim(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir, name+"-other"); err == nil || !strings.Contains(err.Error(), "runs already") || !strings.Contains(err.Error(), dir) {
		t.Errorf("same directory: %v", err)
	}
	_, err = claim(t.TempDir(), name)
	if want := fmt.Sprintf("process %d of user %d", os.Getpid(), os.Getuid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("same group: %v, want %q", err, want)
	}
	other, err := claim(t.TempDir(), name+"-other")
	if err != nil {
		t.Errorf("another group in another directory: %v", err)
	} else {
		other()
	}
	release()
	release, err = claim(dir, name)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	release()
}

func TestClaimBesideElector(t *testing.T) {
	name := group(t)
	held, err := holdElector(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := claim(dir, name); err == nil || !strings.Contains(err.Error(), "the elector of an earlier node of group "+name) {
		t.Errorf("claim: %v", err)
	}
	// What has an elector's socket is the place of before.
	if err := os.WriteFile(filepath.Join(dir, elector.SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := claim(dir, name)
	if err != nil {
		t.Fatalf("in the place of before: %v", err)
	}
	release()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if electorRuns(name) {
		t.Error("the elector's name was not freed")
	}
}

func TestClaimDeepDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", maxSocketPath))
	if _, err := claim(dir, group(t)); err == nil || !strings.Contains(err.Error(), "choose a shorter --state-dir") {
		t.Errorf("claim: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory was made all the same")
	}
}

func TestLoadIdentity(t *testing.T) {
	id, err := peer.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "node.key")
	if err := id.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(path, config.Member{Name: "alpha", PublicKey: id.PublicKey()}); err != nil {
		t.Error(err)
	}
	_, err = loadIdentity(path, config.Member{Name: "alpha", PublicKey: "tandem-p256:other"})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "make the document's public_key "+id.PublicKey()) {
		t.Errorf("another key: %v", err)
	}
}
