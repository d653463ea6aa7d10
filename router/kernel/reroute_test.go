package kernel

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tandem/router"
)

// A route that moves is replaced in place, one that goes is taken away, nothing else is
// touched, and the next round of the reconciler finds nothing to do.
func TestReroute(t *testing.T) {
	l := newLab(t, time.Second)
	before := office()
	before.Routes = append(before.Routes, router.Route{Table: 1020, Destination: prefix("192.0.2.0/24"), Gateway: addr("203.0.113.254"), Link: "vmac10"})
	l.apply(t, before)

	after := office()
	for i, r := range after.Routes {
		if r.Table == 1020 && r.Gateway.IsValid() {
			after.Routes[i].Gateway = addr("203.0.113.253")
		}
	}
	changed, err := l.kernel.Reroute(before, after)
	if err != nil {
		t.Fatal(err)
	}
	if len(changed) != 2 || !strings.Contains(changed[0], "203.0.113.253") || !strings.Contains(changed[1], "192.0.2.0/24") {
		t.Errorf("changed %q", changed)
	}
	if got := l.run(t, "ip route show table 1020 default"); !strings.Contains(got, "via 203.0.113.253") || strings.Contains(got, "via 203.0.113.254") {
		t.Errorf("table 1020 has %s", got)
	}
	if report := l.apply(t, after); len(report.Changed) > 0 {
		t.Errorf("the reconciler still had to %q", report.Changed)
	}
	if again, err := l.kernel.Reroute(after, after); err != nil || len(again) > 0 {
		t.Errorf("nothing differs, but %q changed (%v)", again, err)
	}
	broken := office()
	broken.Routes = append(slices.Clone(after.Routes), router.Route{Table: 1020, Destination: prefix("192.0.2.0/24"), Link: "nowhere"})
	if _, err := l.kernel.Reroute(after, broken); err == nil || !strings.Contains(err.Error(), "192.0.2.0/24") {
		t.Errorf("a route by a link that is not there: %v", err)
	}
}
