package config_test

import (
	"strings"
	"testing"

	"tandem/router/config"
)

// The tests in this file hold the document to one clause of RFC 9568 each.

func document(t *testing.T, text string) *config.Document {
	t.Helper()
	doc, err := config.Parse("edge.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// Nobody is the owner unless it is said, and what is not said differs by enough for
// Skew_Time to tell the members apart.
func TestRFC9568_8_3_2_PrioritiesAreSpread(t *testing.T) {
	m := document(t, pair).Members
	if a, b := int(m[0].Priority), int(m[1].Priority); a < b+10 || a >= int(config.OwnerPriority) || b < 100 {
		t.Errorf("priorities %d and %d", a, b)
	}
}

func TestRFC9568_8_3_2_TwoOwnersAreRefused(t *testing.T) {
	owners := strings.NewReplacer("- name: alpha\n", "- name: alpha\n    priority: 255\n", "- name: bravo\n", "- name: bravo\n    priority: 255\n")
	_, err := config.Parse("edge.yaml", []byte(owners.Replace(pair)))
	if err == nil || !strings.Contains(err.Error(), "members[1].priority") {
		t.Errorf("two owners: %v", err)
	}
	if one := document(t, strings.Replace(pair, "- name: alpha\n", "- name: alpha\n    priority: 255\n", 1)); one.Members[0].Priority != config.OwnerPriority {
		t.Errorf("one owner has priority %d", one.Members[0].Priority)
	}
}

// The defaults in which Tandem differs from the RFC: see docs/rfc9568.md.
func TestRFC9568_6_1_Defaults(t *testing.T) {
	doc := document(t, pair)
	if got := doc.Election.AdvertisementInterval; got != config.DefaultAdvertisementInterval || got.Milliseconds() != 100 {
		t.Errorf("Advertisement_Interval %v, want 100ms", got)
	}
	if doc.Election.Preempt {
		t.Error("Preempt_Mode is true")
	}
	if !doc.Networks[0].VRRP.Accept || !doc.Uplinks[0].VRRP.Accept {
		t.Error("Accept_Mode is false")
	}
}

// §8.2.3: both members say the same to hosts because they have one document, and each
// sees by its digest whether the other has it.
func TestRFC9568_8_2_3_DifferentDocumentsDiffer(t *testing.T) {
	doc := document(t, dual)
	if again := document(t, dual); again.Hash() != doc.Hash() {
		t.Errorf("the same document has the hashes %s and %s", doc.Hash(), again.Hash())
	}
	changed := strings.Replace(dual, "vrid: ", "vrid: 1", 1)
	if other := document(t, changed); other.Hash() == doc.Hash() {
		t.Error("another document has the same hash")
	}
}
