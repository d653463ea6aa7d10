package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tandem/router/config"
)

// treeOf is a document as plain JSON values, to be mutated.
func treeOf(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	return root
}

// spot is a value in a tree, with the means to change it.
type spot struct {
	path   string
	set    func(any)
	remove func()
}

func spots(path string, value any) []spot {
	var all []spot
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			at := strings.TrimPrefix(path+"."+key, ".")
			all = append(all, spot{at, func(v any) { value[key] = v }, func() { delete(value, key) }})
			all = append(all, spots(at, inner)...)
		}
	case []any:
		for i, inner := range value {
			at := fmt.Sprintf("%s[%d]", path, i)
			all = append(all, spot{at, func(v any) { value[i] = v }, func() { value[i] = nil }})
			all = append(all, spots(at, inner)...)
		}
	}
	slices.SortFunc(all, func(a, b spot) int { return strings.Compare(a.path, b.path) })
	return all
}

func parseTree(t *testing.T, root any) (*config.Document, []config.Fault) {
	t.Helper()
	text, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := config.Parse("tree.json", text)
	if err == nil {
		return doc, nil
	}
	var faults *config.Faults
	if !errors.As(err, &faults) || len(faults.List) == 0 || doc != nil {
		t.Fatalf("%v, %v", doc, err)
	}
	return nil, faults.List
}

func hasFault(faults []config.Fault, path string) bool {
	return slices.ContainsFunc(faults, func(f config.Fault) bool { return f.Path == path })
}

// Every key is either documented as optional, or its absence is a fault at its
// own path.
func TestEveryKeyIsRequiredOrOptional(t *testing.T) {
	optional := regexp.MustCompile(`^(networks|operations|election.*|ha_link\.port|second_ha_link|second_ha_link\.port|.*\.(priority|vrrp|vrrp\..*|link_local|virtual_routers|replicate|helpers|first_packet)|` +
		`.*\.ports\.\w+\.ipv6|.*\.ipv6\.(vrid|addresses)|` +
		`.*\.(cost|labels|metered|nat_addresses|nat_addresses\.\w+|routed_nat_address|max_cost|probe|need|interval|timeout|rise|fall|loss_limit)|` +
		`.*\.(failback|drain_time|routes|status|body|forwards|static_nat|access|access\..*gress|default|rules|ports|source|rate_limit)|` +
		`.*\.rules\[0\]\.destination|operations\[0\]\.uplinks|.*\.routes\[1\]\.probe\.targets|.*\.forwards\[0\]\.(address|from))$`)
	members := regexp.MustCompile(`^\w+(\[\d\])?\.ports$`)
	// The place of the fault, where that is another.
	elsewhere := map[string]string{
		"uplinks":                                      "networks[0].uplinks[0]",
		"uplinks[0].dns":                               "networks[0].probe.targets[1].tcp",
		"uplinks[1].dns":                               "networks[0].probe.targets[1].tcp",
		"uplinks[0].ipv6.translate":                    "uplinks[0].ipv6.npt_prefix",
		"networks[0].probe.targets":                    "networks[0].probe.need",
		"networks[0].probe.targets[0].icmp":            "networks[0].probe.targets[0]",
		"networks[0].probe.targets[1].tcp":             "networks[0].probe.targets[1]",
		"networks[0].probe.targets[2].dns":             "networks[0].probe.targets[2]",
		"networks[0].probe.targets[3].http":            "networks[0].probe.targets[3]",
		"networks[0].routes[0].via":                    "networks[0].routes[0]",
		"networks[0].routes[1].uplinks":                "networks[0].routes[1]",
		"networks[0].routes[1].probe.targets[0].icmp":  "networks[0].routes[1].probe.targets[0]",
		"networks[0].access.ingress.rules[0].protocol": "networks[0].access.ingress.rules[0].ports",
		"networks[0].access.egress.rules[0].protocol":  "networks[0].access.egress.rules[0].ports",
		// Everything of IPv6 that still stands needs it.
		"uplinks[0].ipv6":  "uplinks[0].virtual_routers[0].addresses[1]",
		"networks[0].ipv6": "networks[0].ports.alpha.ipv6",
	}
	text := mustParse(t, string(reference(t))).JSON()
	for i, s := range spots("", treeOf(t, text)) {
		if strings.HasSuffix(s.path, "]") {
			continue
		}
		root := treeOf(t, text)
		spots("", root)[i].remove()
		doc, faults := parseTree(t, root)
		path := s.path
		if other, ok := elsewhere[path]; ok {
			path = other
		}
		switch isOptional := optional.MatchString(s.path) && !members.MatchString(s.path); {
		case isOptional && doc == nil:
			t.Errorf("%s is optional, but without it: %v", s.path, faults)
		case !isOptional && !hasFault(faults, path):
			t.Errorf("%s is required, but without it: %v", s.path, faults)
		}
	}
}

// A value of the wrong kind is a fault at its own path, and the only one there.
func TestEveryValueHasItsKind(t *testing.T) {
	wrong := []any{nil, 1.5, "-", -1, []any{[]any{}}, map[string]any{"?": 0}}
	text := mustParse(t, string(reference(t))).JSON()
	for i, s := range spots("", treeOf(t, text)) {
		for _, junk := range wrong {
			root := treeOf(t, text)
			spots("", root)[i].set(junk)
			doc, faults := parseTree(t, root)
			at := 0
			for _, fault := range faults {
				if strings.HasPrefix(fault.Path, s.path) {
					at++
				}
			}
			if junk == "-" && strings.HasSuffix(s.path, ".body") {
				continue // any text is good
			}
			if doc != nil || at == 0 {
				t.Errorf("%s = %v: %v", s.path, junk, faults)
			}
			if _, scalar := junk.(string); scalar && at != 1 {
				t.Errorf("%s = %v: %d faults at this place: %v", s.path, junk, at, faults)
			}
		}
	}
}

// Several random changes at once: what is accepted reads back as itself, what is
// refused says where.
func TestRandomMutations(t *testing.T) {
	values := []any{
		nil, true, 0, 1, 255, 256, -1, 1e300, "", "alpha", "wan", "ha", "lo", "eth0", "10.20.0.1", "10.20.0.0/24", "10.0.0.0/8",
		"::1", "100ms", "tandem-p256:", false, 2, 3, 10, 20, "0s", "1s", "fe80::1", "fe80::5e:a", "fe80::5e:14:1", "2001:db8:0:10::10",
		"2001:db8:0:20::1", "2001:db8:0:20::/64", "pseudo-header", "ftp", "pptp", "hold",
		"lte", "mobile", "203.0.113.11", "2001:db8:2::/56", "none", "nat66", "50ms", "30s", "keep", "192.0.2.0/24", "2001:db8:9::/48",
		"udp", "sctp", "icmp", "8000-9000", "10.20.0.20:80", "deny", "1500kbit", "www.example.net", "www.example.net:80", "https://192.0.2.7/x?y=z&a=<b>",
		[]any{},
		[]any{"ftp", "sip"},
		[]any{"lte"},
		[]any{"wan", "fixed"},
		[]any{"10.0.0.0/8", "192.0.2.0/25"},
		map[string]any{"lte": "203.0.113.11"},
		map[string]any{"dns": "example.net"},
		map[string]any{},
		[]any{"198.51.100.10"},
		strings.Repeat("x", 5000),
	}
	accepted := 0
	text := mustParse(t, string(reference(t))).JSON()
	for seed := range uint64(1500) {
		random := rand.New(rand.NewPCG(seed, 7))
		root := treeOf(t, text)
		for range 1 + random.IntN(3) {
			all := spots("", root)
			s := all[random.IntN(len(all))]
			if random.IntN(4) == 0 {
				s.remove()
				continue
			}
			s.set(values[random.IntN(len(values))])
		}
		doc, faults := parseTree(t, root)
		for _, fault := range faults {
			if fault.Line != 1 || fault.Message == "" || strings.Contains(fault.Message, "\n") || len(fault.Message) > 300 {
				t.Fatalf("seed %d: %+v", seed, fault)
			}
		}
		if doc != nil {
			accepted++
			if mustParse(t, string(doc.JSON())).Hash() != doc.Hash() {
				t.Fatalf("seed %d: reads back differently: %s", seed, doc.JSON())
			}
		}
	}
	if accepted < 20 || accepted > 1000 {
		t.Errorf("%d of 1500 accepted; the mutations test little", accepted)
	}
}

// Documents without a fault are accepted, whatever their size.
func TestRandomDocumentsAreAccepted(t *testing.T) {
	hashes := map[string]uint64{}
	for seed := range uint64(200) {
		doc := randomDocument(rand.New(rand.NewPCG(seed, 3)))
		again := mustParse(t, string(doc.JSON()))
		if again.Hash() != doc.Hash() || !cmp.Equal(doc, again, compareNetip(), cmpopts.EquateEmpty()) {
			t.Fatalf("seed %d: reads back differently:\n%s\n%s", seed, doc.JSON(), again.JSON())
		}
		if other, ok := hashes[doc.Hash()]; ok {
			t.Fatalf("seeds %d and %d have the same hash", seed, other)
		}
		hashes[doc.Hash()] = seed
	}
}

// randomSegments makes the parts of a random document; nothing that it makes exists
// twice.
type randomSegments struct {
	*rand.Rand

	doc    *config.Document
	vrids  []int
	number int
}

func (r *randomSegments) flip() bool { return r.IntN(2) == 0 }

func (r *randomSegments) vrid() uint8 {
	next := r.vrids[0]
	r.vrids = r.vrids[1:]
	return uint8(next + 1)
}

func (r *randomSegments) segment(first int) (uint8, netip.Prefix, map[string]config.Port) {
	r.number++
	ports := map[string]config.Port{}
	for i, m := range r.doc.Members {
		ports[m.Name] = config.Port{Interface: fmt.Sprintf("e%d.%d", i, r.number), Address: host(r.number, first+i)}
	}
	return r.vrid(), netip.PrefixFrom(host(r.number, 0), 28), ports
}

func (r *randomSegments) vrrp() config.VRRP {
	v := config.DefaultVRRP()
	pair := len(r.doc.Members) == 2
	v.VirtualMAC, v.Accept, v.Unicast, v.Authentication = r.flip(), r.flip(), r.flip() && pair, r.flip() && pair
	if r.flip() {
		v.Checksum = config.ChecksumPseudoHeader
	}
	return v
}

// ipv6 gives a segment its IPv6 side or, if that would need IPv6, VRRP version 2.
func (r *randomSegments) ipv6(vrid uint8, v *config.VRRP, ports map[string]config.Port) *config.IPv6 {
	if r.flip() {
		if r.doc.Election.AdvertisementInterval%time.Second == 0 {
			*v = config.VRRP{Version: 2, Checksum: config.ChecksumRFC9568, VirtualMAC: v.VirtualMAC, Accept: v.Accept}
		}
		return nil
	}
	for i, m := range r.doc.Members {
		port := ports[m.Name]
		port.LinkLocal = netip.MustParseAddr(fmt.Sprintf("fe80::1:%x", i))
		if r.flip() {
			port.IPv6 = host6(r.number, 0x100+i)
		}
		ports[m.Name] = port
	}
	if r.flip() {
		vrid = r.vrid()
	}
	return &config.IPv6{
		VRID: vrid, Prefix: netip.PrefixFrom(host6(r.number, 0), 64), Gateway: host6(r.number, 1), LinkLocal: netip.MustParseAddr("fe80::2"),
	}
}

func (r *randomSegments) routers(ipv6 *config.IPv6) []config.VirtualRouter {
	var list []config.VirtualRouter
	for i := range r.IntN(3) {
		v := config.VirtualRouter{VRID: r.vrid(), Addresses: []netip.Addr{host(r.number, 11+i)}}
		if ipv6 != nil && r.flip() {
			v.Addresses = append(v.Addresses[r.IntN(2):], host6(r.number, 0x200+i))
		}
		list = append(list, v)
	}
	return list
}

func randomDocument(random *rand.Rand) *config.Document {
	keys := []string{keyA, keyB}
	doc := &config.Document{
		Version: config.Version,
		Group:   fmt.Sprintf("g%d", random.Uint64()),
		Election: config.Election{
			AdvertisementInterval: []time.Duration{200 * time.Millisecond, 40 * time.Second}[random.IntN(2)],
			AnnounceRefresh:       time.Duration(random.IntN(3600)) * time.Second,
		},
	}
	if doc.Election.Preempt = random.IntN(2) == 0; doc.Election.Preempt {
		doc.Election.PreemptDelay = time.Duration(random.IntN(1000)) * time.Second
	}
	for i := range 1 + random.IntN(2) {
		doc.Members = append(doc.Members, config.Member{
			Name: fmt.Sprintf("m%d", i), Priority: uint8(100 + 2*random.IntN(78) + i), PublicKey: keys[i],
		})
	}
	r := &randomSegments{Rand: random, doc: doc, vrids: random.Perm(255)}
	if len(doc.Members) == 2 {
		l := &config.HALink{Port: uint16(1 + random.IntN(65535))}
		l.VRID, l.Prefix, l.Ports = r.segment(1)
		doc.HALink = l
		if random.IntN(2) == 0 {
			l := &config.HALink{Port: uint16(1 + random.IntN(65535))}
			l.VRID, l.Prefix, l.Ports = r.segment(1)
			doc.SecondHALink = l
		}
	}
	for i := range random.IntN(4) {
		u := config.Uplink{
			Name: fmt.Sprintf("u%d", i), VRRP: r.vrrp(), Cost: uint8(r.IntN(256)), Metered: r.flip(),
			DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
		}
		for j := range r.IntN(3) {
			u.Labels = append(u.Labels, fmt.Sprintf("label%d", j))
		}
		u.VRID, u.Prefix, u.Ports = r.segment(1)
		u.Gateway = host(r.number, 14)
		for j := range 1 + random.IntN(5) {
			u.Addresses = append(u.Addresses, host(r.number, 5+j))
		}
		if u.IPv6 = r.ipv6(u.VRID, &u.VRRP, u.Ports); u.IPv6 != nil {
			for j := range random.IntN(5) {
				u.IPv6.Addresses = append(u.IPv6.Addresses, host6(r.number, 5+j))
			}
			r.translate(i, u.IPv6)
		}
		u.VirtualRouters = r.routers(u.IPv6)
		doc.Uplinks = append(doc.Uplinks, u)
	}
	for i := range 1 + random.IntN(8) {
		w := config.Network{
			Name: fmt.Sprintf("n%d", i), VRRP: r.vrrp(), Replicate: r.flip(), FirstPacket: config.FirstPacketPass,
			MaxCost: uint8(r.IntN(256)), Probe: *r.probe(true), Failback: []string{config.FailbackDrain, config.FailbackKeep}[r.IntN(2)],
			DrainTime: time.Duration(r.IntN(86400)) * time.Second, Access: config.Access{Ingress: r.accessList(), Egress: r.accessList()},
			RateLimit: config.BitRate(r.IntN(2) * (16 + r.IntN(1e6)) * 1000),
		}
		if w.Replicate && r.flip() {
			w.FirstPacket = config.FirstPacketHold
		}
		for _, helper := range []string{config.HelperSIP, config.HelperFTP} {
			if r.flip() {
				w.Helpers = append(w.Helpers, helper)
			}
		}
		w.VRID, w.Prefix, w.Ports = r.segment(2)
		w.Gateway = host(r.number, 1)
		w.IPv6 = r.ipv6(w.VRID, &w.VRRP, w.Ports)
		w.VirtualRouters = r.routers(w.IPv6)
		r.outside(&w, i)
		doc.Networks = append(doc.Networks, w)
	}
	return doc
}

func host6(segment, number int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::%x", segment, number))
}

func host(segment, number int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(segment), byte(16 + number)})
}
