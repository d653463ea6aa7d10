package status

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router/uplink"
)

func TestDiagnoseUplinks(t *testing.T) {
	s := outside(t)
	want := []Condition{
		{Name: NetworkWithoutUplink, Text: "the network office/ipv6 has no uplink that works: wan: fe80::1 does not answer neighbour solicitations"},
		{Name: UplinkDead, Carriers: []string{"wan"}, Text: "the uplink wan (IPv6) does not work: fe80::1 does not answer neighbour solicitations"},
		{Name: UplinkDegraded, Carriers: []string{"lte"}, Text: "the uplink lte is degraded: it loses 20 % of the probes"},
	}
	if diff := cmp.Diff(want, DiagnoseUplinks(s.Uplinks, s.Networks)); diff != "" {
		t.Error(diff)
	}
	// Before anything was tried there is nothing to say.
	if got := DiagnoseUplinks(UplinksOf(reference(t), "alpha", uplink.Status{}), NetworksOf(reference(t), "alpha", uplink.Status{}, &Switches{})); got != nil {
		t.Errorf("%+v", got)
	}
	// A link that is down is the reason of both families.
	s.Uplinks = s.Uplinks[:1]
	for i := range s.Uplinks[0].Families {
		s.Uplinks[0].Families[i].State, s.Uplinks[0].Families[i].Reason = uplink.Dead, "eth1 has no carrier"
	}
	got := DiagnoseUplinks(s.Uplinks, nil)
	if len(got) != 1 || got[0].Text != "the uplink wan does not work: eth1 has no carrier" {
		t.Errorf("%+v", got)
	}
}

func TestManyNetworksWithoutUplink(t *testing.T) {
	dead := func(name string) Network {
		return Network{Name: name, Paths: []uplink.PathStatus{{
			Network: name, Destination: "0.0.0.0/0", Uplink: "wan", State: uplink.Dead,
			Candidates: []uplink.CandidateStatus{{Uplink: "wan", Allowed: true, Reason: "silence"}, {Uplink: "sat", Reason: "too dear"}},
		}}}
	}
	networks := []Network{dead("a"), dead("b"), dead("c")}
	got := DiagnoseUplinks(nil, networks)
	if want := "the networks a, b and c have no uplink that works; of a: wan: silence"; len(got) != 1 || got[0].Text != want {
		t.Errorf("%+v, want %s", got, want)
	}
	for range 20 {
		networks = append(networks, dead("d"))
	}
	if got := DiagnoseUplinks(nil, networks)[0].Text; !strings.Contains(got, "a, b, c, d, d, d and 17 more have") {
		t.Error(got)
	}
	// One that may take none at all.
	none := Network{Name: "n", Paths: []uplink.PathStatus{{Network: "n", Destination: "0.0.0.0/0", Note: "the network may use none of its uplinks"}}}
	if got := DiagnoseUplinks(nil, []Network{none}); len(got) != 1 || !strings.HasSuffix(got[0].Text, "the network may use none of its uplinks") {
		t.Errorf("%+v", got)
	}
	if !slices.Contains(conditions(), NetworkWithoutUplink) {
		t.Error("no metric")
	}
}
