package router_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// §8.2.3: what a host is told by one member it is told by the other. The members have
// the same link-local address to speak from, the same addresses, prefixes and MAC
// addresses, as MASTER and before.
func TestRFC9568_8_2_3_MembersServeTheSame(t *testing.T) {
	doc := load(t, "../docs/reference.yaml")
	a, b := derive(t, doc, "alpha"), derive(t, doc, "bravo")
	if diff := cmp.Diff(a, b, compareNetip(), ignoreOwn()); diff != "" {
		t.Errorf("alpha - bravo +:\n%s", diff)
	}
	six := 0
	for _, l := range a.VirtualLinks {
		if !l.IPv6 {
			continue
		}
		six++
		if len(l.Addresses) == 0 || !l.Addresses[0].IsLinkLocalUnicast() {
			t.Errorf("%s has no link-local address first: %v", l.Name, l.Addresses)
		}
	}
	if six == 0 {
		t.Error("the document has no IPv6, so this proves nothing")
	}
}
