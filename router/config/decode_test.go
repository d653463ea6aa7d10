package config_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
)

func TestKeys(t *testing.T) {
	check(t, pair, []spoil{
		{"slip", "    gateway: 10.0.0.1\n", "    gatway: 10.0.0.1\n", []string{
			"24 networks[0].gateway: is missing; give the virtual address that the hosts use",
			`27 networks[0].gatway: is not a known key; did you mean "gateway"?`,
		}},
		{"hyphen", "    nat_address:", "    nat-address:", []string{`32 networks[0].nat-address: did you mean "nat_address"?`}},
		{"upper case", "group: edge", "group: edge\nElection: {preempt: true}", []string{`3 Election: did you mean "election"?`}},
		{"nothing like it", "group: edge", "group: edge\nfirewall: {}", []string{
			"3 firewall: here may stand version, group, election, members, ha_link, second_ha_link, uplinks, networks, operations",
		}},
		{"odd key", "group: edge", "group: edge\n\"a b\": 1", []string{`3 ["a b"]: is not a known key`}},
		{"empty key", "group: edge", "group: edge\n\"\": 1", []string{`3 [""]: is not a known key`}},
		{"number as key", "group: edge", "group: edge\n1: 1", []string{"3 : the key 1 is not text; put it in quotes"}},
		{"long key", "group: edge", "group: edge\n" + strings.Repeat("k", 900) + ": 1", []string{`3 ["` + strings.Repeat("k", 64) + `..."]: is not a known key`}},
		{"twice", "    vrid: 3\n", "    vrid: 3\n    vrid: 4\n", []string{"26 networks[0].vrid: stands a second time, first on line 25"}},
		{"thrice", "group: edge", "group: edge\ngroup: edge\ngroup: edge", []string{
			"3 group: stands a second time, first on line 2",
			"4 group: stands a second time, first on line 2",
		}},
		{"port twice", "bravo: {interface: eth2", "alpha: {interface: eth2", []string{
			"28 networks[0].ports.bravo: is missing",
			"30 networks[0].ports.alpha: stands a second time, first on line 29",
		}},
		{"no value", "group: edge", "group:", []string{"2 group: has no value; give one or remove the key"}},
		{"null", "group: edge", "group: null", []string{"2 group: has no value"}},
	})
}

func TestKinds(t *testing.T) {
	check(t, single, []spoil{
		{"version text", "version: 1", `version: "1"`, []string{`1 version: must be the number 1, but is the text "1"`}},
		{"version 2", "version: 1", "version: 2", []string{"1 version: is 2, but this program reads version 1 only"}},
		{"name is a list", "group: solo", "group: [solo]", []string{"2 group: must be a name, but is a list"}},
		{"name is a mapping", "group: solo", "group: {solo: 1}", []string{"2 group: must be a name, but is a mapping"}},
		{"name is a block", "group: solo", "group: |\n  solo", []string{"2 group: but is a block of text; write it on one line"}},
		{"number is a truth value", "vrid: 2", "vrid: true", []string{"15 networks[0].vrid: but is a truth value"}},
		{"number is infinite", "vrid: 2", "vrid: .inf", []string{"15 networks[0].vrid: but is a fraction"}},
		{"members is a mapping", "  - name: solo", "  name: solo", []string{"3 members: must be a list, but is a mapping"}},
		{"member is text", "- name: solo", "- solo", []string{`4 members[0]: must be a mapping of keys to values, but is the text "solo"`}},
		{"member is nothing", "- name: solo", "-", []string{"4 members[0]: must be a mapping of keys to values, but is nothing"}},
		{"ports is a list", "      solo: {interface: eth1, address: 10.0.0.2}", "      - {interface: eth1}", []string{
			"19 networks[0].ports: must be a mapping of keys to values, but is a list",
		}},
	})
	for text, want := range map[string]string{
		"- 1":     "1 : must be a mapping of keys to values, but is a list",
		"hello":   `1 : must be a mapping of keys to values, but is the text "hello"`,
		"null":    "1 : must be a mapping of keys to values, but is nothing",
		`["a"]`:   "1 : must be a mapping of keys to values, but is a list",
		"{}":      "1 group: is missing",
		"# empty": "1 : the document is empty; begin with `version: 1`",
		"":        "1 : the document is empty",
		"---\n":   "1 : the document is empty",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := config.Parse("edge.yaml", []byte(text))
			var faults *config.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("accepted or no *Faults: %v", err)
			}
			found := false
			for _, fault := range faults.List {
				got := fmt.Sprintf("%d %s: %s", fault.Line, fault.Path, fault.Message)
				found = found || strings.Contains(got, want)
			}
			if !found {
				t.Errorf("got\n%v\nwant %s", err, want)
			}
		})
	}
}

// Lines are counted right behind everything that spans lines.
func TestLines(t *testing.T) {
	for name, before := range map[string]string{
		"comments":      "# one\n\n  # two\n",
		"trailing":      "group: g # one\n# two\n\n",
		"quoted text":   "group: \"g\n  h\n\n  i\"\n",
		"single quotes": "group: 'g\n  h'\n",
		"plain text":    "group: g\n  h\n",
		"block":         "group: |\n  g\n\n  h\n",
		"folded":        "group: >\n  g\n  h\n\n",
		"flow":          "group: [\n1,\n\n2\n]\n",
		"header":        "---\n",
	} {
		for _, end := range []string{"\n", "\r\n"} {
			text := strings.ReplaceAll(before+"version: 1\nnonsense: 1\n", "\n", end)
			_, err := config.Parse("edge.yaml", []byte(text))
			want := fmt.Sprintf("edge.yaml:%d: nonsense: ", strings.Count(before, "\n")+2)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, line end %q: no %q in\n%v", name, end, want, err)
			}
		}
	}
}

// All that is wrong is reported at once, in the order of lines.
func TestAllFaultsAtOnce(t *testing.T) {
	text := `{
  "version": 3,
  "grup": "g",
  "members": [{"name": "a", "priority": 99}, {"name": "a"}],
  "networks": [
    {"name": "n", "vrid": 0, "prefix": "10.0.0.5/24", "gateway": "10.0.1.1",
     "ports": {"a": {"interface": "lo"}}}
  ]
}`
	want := `edge.json:1: group: is missing; give a name of small letters, digits and hyphens, at most 32 characters
edge.json:1: ha_link: is missing; two members need a link between them
edge.json:2: version: is 3, but this program reads version 1 only; convert the document or use another release
edge.json:3: grup: is not a known key; did you mean "group"?
edge.json:4: members[0].priority: must be a whole number from 100 to 255 in decimal digits, but is 99
edge.json:4: members[0].public_key: is missing; with two members give the line that ` + "`tandem keygen`" + ` prints on the node
edge.json:4: members[1].name: "a" is already the name of members[0]; choose another
edge.json:4: members[1].public_key: is missing; with two members give the line that ` + "`tandem keygen`" + ` prints on the node
edge.json:6: networks[0].vrid: must be a whole number from 1 to 255 in decimal digits, but is 0
edge.json:6: networks[0].prefix: 10.0.0.5/24 has bits set beyond its prefix length; write 10.0.0.0/24
edge.json:6: networks[0].gateway: 10.0.1.1 is not in 10.0.0.0/24; choose one from 10.0.0.1 to 10.0.0.254
edge.json:7: networks[0].ports.a.interface: "lo" cannot be a port; name the interface that leads to this segment
edge.json:7: networks[0].ports.a.address: is missing; give the node's own address`
	doc, err := config.Parse("edge.json", []byte(text))
	if doc != nil || err == nil {
		t.Fatal("accepted")
	}
	if got := err.Error(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSyntax(t *testing.T) {
	check(t, single, []spoil{
		{"anchor", "group: solo", "group: &g solo", []string{"2 : an anchor (&) is not allowed"}},
		{"alias", "group: solo", "group: *g", []string{"2 : an alias (*) is not allowed"}},
		{"anchor and alias", "group: solo", "group: &g solo\nelection: *g", []string{
			"2 : an anchor (&) is not allowed",
			"3 : an alias (*) is not allowed",
		}},
		{"merge key", "group: solo", "group: solo\n<<: {a: 1}", []string{"3 : a merge key (<<) is not allowed"}},
		{"tag", "group: solo", "group: !!str solo", []string{"2 : a tag (!) is not allowed"}},
		{"directive", "version: 1", "%YAML 1.2\n---\nversion: 1", []string{"1 : a directive (%) is not allowed"}},
		{"explicit key", "group: solo", "? group\n: solo", []string{"2 : an explicit key (?) is not allowed"}},
		{"second document", "group: solo", "group: solo\n---\ngroup: solo", []string{"3 : a second document begins here"}},
		{"tab", "  - name: solo", "\t- name: solo", []string{"4 : the text is not valid YAML or JSON"}},
		{"bracket left open", "group: solo", "group: [solo", []string{"4 : close the bracket that was opened on line 2"}},
		{"bracket left open at the end", "solo: {interface: eth1, address: 10.0.0.2}", "solo: {interface: eth1", []string{"20 : the text is not valid YAML or JSON"}},
		{"quote left open", "group: solo", `group: "solo`, []string{"2 : the text is not valid YAML or JSON"}},
		{"two values", "group: solo", "group: solo: solo", []string{"2 : the text is not valid YAML or JSON"}},
		{"zero byte", "group: solo", "group: so\x00lo", []string{"2 : byte 0x00 is not text"}},
		{"not UTF-8", "group: solo", "group: so\xfflo", []string{"2 : byte 0xff is not text"}},
		{"header", "version: 1", "---\nversion: 1", nil},
		{"comments", "version: 1", "# first\nversion: 1 # last", nil},
	})
}

// steps is a mapping in a mapping, each of them one column further to the right.
func steps(count int) string {
	var b strings.Builder
	for i := range count {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// What would make a recursive or quadratic parser fall over is refused early.
func TestLimits(t *testing.T) {
	fill := func(unit string) string { return strings.Repeat(unit, (1<<18)/len(unit)) }
	tests := map[string]string{
		"brackets":       fill("["),
		"braces":         fill("{a: "),
		"closing first":  fill("]["),
		"lists":          fill("- "),
		"lists in lists": "[" + fill("- "),
		"keys":           fill("a:\n"),
		"flow keys":      "{" + fill("a: b,"),
		"null keys":      "{" + fill("a,"),
		"colons":         fill(": "),
		"items":          fill("- a\n"),
		"questions":      fill("? "),
		"tags":           fill("!a "),
		"anchors":        fill("&a "),
		"aliases":        fill("*a "),
		"documents":      fill("---\n"),
		"quotes":         fill(`"`),
		"blocks":         fill("- |\n  a\n"),
		"comments":       fill("# c\n"),
		"spaces":         fill(" "),
		"letters":        fill("a"),
		"percent":        fill("%a\n"),
		"block text":     "a: |\n" + fill("  b\n"),
		"quoted text":    "a: '" + fill("b\n  ") + "'",
		"plain text":     "a: b\n" + fill("  b\n"),
		"few brackets":   strings.Repeat("[", 60000),
		"few braces":     strings.Repeat("{a: ", 8000),
		"few lists":      strings.Repeat("- ", 60000),
		"few keys":       strings.Repeat("a:\n", 8000),
		"few pairs":      strings.Repeat("a: b\n", 8000),
		"few flow keys":  "{" + strings.Repeat("a: b, ", 8000) + "}",
		"few quotes":     strings.Repeat(`"`, 60000),
		"few colons":     strings.Repeat(": ", 60000),
		"many nulls":     "{" + strings.Repeat("a,", 60000),
		"many pairs":     strings.Repeat("a: b\n", 60000),
		"many steps":     steps(900),
		"many in lists":  "[" + strings.Repeat("{a: b},", 60000),
		"many mappings":  "a:\n" + strings.Repeat("- b: c\n  d: e\n", 30000),
		"many in one":    "{" + strings.Repeat("a: b, ", 60000),
		"many at once":   strings.Repeat("a: {b: c}\n", 30000),
		"too large":      strings.Repeat(" ", 1<<20+1),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse("edge.yaml", []byte(text))
			var faults *config.Faults
			if !errors.As(err, &faults) || len(faults.List) == 0 {
				t.Fatalf("accepted or no *Faults: %v", err)
			}
		})
	}
}

// The greatest document that the VRIDs allow is accepted.
func TestGreatestDocument(t *testing.T) {
	var text strings.Builder
	text.WriteString(pair)
	for i := range 252 {
		fmt.Fprintf(&text, `  - name: net%d
    vrid: %d
    prefix: 11.0.%d.0/24
    gateway: 11.0.%d.1
    ports:
      alpha:
        interface: eth2.%d
        address: 11.0.%d.2
      bravo:
        interface: eth2.%d
        address: 11.0.%d.3
    uplink: wan
    nat_address: 192.0.2.10
`, i, i+4, i, i, i, i, i, i)
	}
	doc := mustParse(t, text.String())
	if len(doc.Networks) != 253 {
		t.Errorf("%d networks", len(doc.Networks))
	}
	mustParse(t, string(doc.JSON()))
}

// A document with as many networks and rules as a large site has is read, also in its canonical form.
func TestManyRules(t *testing.T) {
	var text strings.Builder
	text.WriteString(twoWays)
	for i := range 200 {
		fmt.Fprintf(&text, `  - name: net%d
    vrid: %d
    prefix: 11.0.%d.0/24
    gateway: 11.0.%d.1
    uplinks: [all]
    ports:
      solo: {interface: eth9.%d, address: 11.0.%d.2}
    access:
      egress:
        rules:
`, i, i+5, i, i, i, i)
		for j := range 10 {
			fmt.Fprintf(&text, "          - {action: deny, protocol: tcp, ports: [%d], destination: [192.0.%d.0/24]}\n", 1000+j, j)
		}
	}
	doc := mustParse(t, text.String())
	if again := mustParse(t, string(doc.JSON())); again.Hash() != doc.Hash() || len(again.Networks) != 202 || len(again.Networks[201].Access.Egress.Rules) != 10 {
		t.Errorf("read back as another document")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		single, pair, pairJSON, dual, twoWays, singleReordered, string(reference(f)), string(randomDocument(rand.New(rand.NewPCG(1, 2))).JSON()), "", "{}", "a: &a [*a]", "[[[[", "? a", "- - a", "a: |\n b",
		"---\n---\n", "%YAML 1.2", "!!map {}", "<<: {}", "{a: b, a: c}", "'", `"\u12`, "\ufeff", "a:\n\tb", "#", "]: {", "a: 'b\n c'",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := config.Parse("fuzz", text)
		if err != nil {
			var faults *config.Faults
			if doc != nil || !errors.As(err, &faults) || len(faults.List) == 0 {
				t.Fatalf("%v with error %T %v", doc, err, err)
			}
			for _, fault := range faults.List {
				if fault.Line < 1 || fault.Message == "" {
					t.Fatalf("fault without line or message: %+v", fault)
				}
			}
			return
		}
		again, err := config.Parse("fuzz", doc.JSON())
		if err != nil {
			t.Fatalf("accepted %q, but refused its JSON %s:\n%v", text, doc.JSON(), err)
		}
		if doc.Hash() != again.Hash() || !cmp.Equal(doc, again, compareNetip()) {
			t.Fatalf("%s\nbecame\n%s", doc.JSON(), again.JSON())
		}
	})
}
