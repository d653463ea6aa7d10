package uplink

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	w := settle(t, document(target, otherTarget))
	w.lines["fibre"].dead[otherTarget] = true
	w.run(10 * time.Second)
	w.carrier("dsl", false)
	s := w.s.Status(w.now)
	if len(s.Uplinks) != 3 || len(s.Paths) != 1 {
		t.Fatalf("%+v", s)
	}
	fibre, dsl, lte := s.Uplinks[0], s.Uplinks[1], s.Uplinks[2]
	if !fibre.Link || dsl.Link || dsl.LinkReason != "no carrier" || !lte.Metered || lte.Cost != 50 {
		t.Errorf("%+v", s.Uplinks)
	}
	f := fibre.Families[0]
	if f.State != Working || !f.Address || len(f.Probes) != 3 {
		t.Fatalf("%+v", f)
	}
	gateway, good, bad := f.Probes[0], f.Probes[1], f.Probes[2]
	if gateway.Kind != "gateway" || gateway.Target != "" || gateway.Interval != gatewayInterval || gateway.RTT != 5*time.Millisecond || gateway.Window != window {
		t.Errorf("%+v", gateway)
	}
	if good.Kind != "icmp" || good.Target != target || good.State != Working || good.Reason != "" || good.Failed != 0 || good.LastOK.IsZero() || !good.LastFailed.IsZero() {
		t.Errorf("%+v", good)
	}
	if bad.State != Dead || bad.Reason != "no answer" || bad.Loss < 0.3 || bad.LastFailed.Before(bad.LastOK) || bad.Failed == 0 || bad.Sent < bad.Failed {
		t.Errorf("%+v", bad)
	}
	p := s.Paths[0]
	if p.Uplink != "fibre" || p.State != Working || p.Why == "" || p.Destination != "0.0.0.0/0" || len(p.Candidates) != 3 {
		t.Errorf("%+v", p)
	}
	if c := p.Candidates[0]; !c.Chosen || !c.Wanted || c.Answering != 1 || c.Targets != 2 || c.Need != 1 || c.Reason != "1 of 2 targets answer, 1 must" {
		t.Errorf("%+v", c)
	}
	if c := p.Candidates[1]; c.Chosen || c.State != Dead || c.Reason != "the link is down: no carrier" || c.Since != w.now {
		t.Errorf("%+v", c)
	}
}

func TestStatusAsJSON(t *testing.T) {
	w := settle(t, document(target))
	w.s.SetCost(w.now, "fibre", 20)
	text, err := json.Marshal(w.s.Status(w.now))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"state":"working"`, `"rtt_ns":5000000`, `"draining":[{"uplink":"fibre"`, `"kind":"gateway"`, `"cost":20`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(string(text), "0001-01-01") {
		t.Errorf("a time that never was, in %s", text)
	}
	var back Status
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back.Paths[0].Uplink != "dsl" || back.Paths[0].State != Working {
		t.Errorf("%+v", back.Paths)
	}
	var s State
	if s.UnmarshalText([]byte("well")) == nil {
		t.Error("a strange state is read")
	}
}
