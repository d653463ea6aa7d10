package config_test

import (
	"slices"
	"strings"
	"testing"

	"tandem/router/config"
)

// withNetwork is a good document whose network has further keys.
func withNetwork(lines ...string) string {
	return single + "    " + strings.Join(lines, "\n    ") + "\n"
}

func TestReplicateAndHelpers(t *testing.T) {
	network := func(text string) config.Network { return mustParse(t, text).Networks[0] }
	if w := network(single); !w.Replicate || w.Helpers != nil {
		t.Errorf("by default %+v", w)
	}
	w := network(withNetwork("replicate: false", "helpers: [sip, ftp, h323, irc, pptp, tftp]"))
	if w.Replicate || !slices.Equal(w.Helpers, []string{"sip", "ftp", "h323", "irc", "pptp", "tftp"}) {
		t.Errorf("%+v", w)
	}
	if w := network(withNetwork("helpers: []")); len(w.Helpers) > 0 {
		t.Errorf("%+v", w)
	}
	hashes := map[string]string{}
	for _, text := range []string{
		single, withNetwork("replicate: false"), withNetwork("helpers: [ftp]"), withNetwork("helpers: [ftp, sip]"),
	} {
		hash := mustParse(t, text).Hash()
		if other, ok := hashes[hash]; ok {
			t.Errorf("the same hash:\n%s\n%s", text, other)
		}
		hashes[hash] = text
	}
	if mustParse(t, withNetwork("replicate: true", "helpers: []")).Hash() != mustParse(t, single).Hash() {
		t.Error("what is said of the defaults changes the hash")
	}
}

func TestReplicateAndHelpersAreRefused(t *testing.T) {
	const words = "ftp or h323 or irc or pptp or sip or tftp"
	var tests []spoil
	for _, c := range []struct{ line, want string }{
		{"replicate: off", `18 networks[0].replicate: must be true or false, but is`},
		{"replicate: 0", `18 networks[0].replicate: must be true or false, but is`},
		{"helpers: ftp", `18 networks[0].helpers: must be a list, but is`},
		{"helpers: [ftp, 21]", `18 networks[0].helpers[1]: must be ` + words + `, but is a number`},
		{"helpers: [FTP]", `18 networks[0].helpers[0]: must be ` + words + `, but is "FTP"`},
		{`helpers: [""]`, `18 networks[0].helpers[0]: must be ` + words},
		{"helpers: [sip, ftp, sip]", `18 networks[0].helpers[2]: "sip" stands already at networks[0].helpers[0]; remove one of them`},
		{"replicates: true", `18 networks[0].replicates: is not a known key; did you mean "replicate"`},
	} {
		const before = "    uplink: wan\n"
		tests = append(tests, spoil{c.line, before, "    " + c.line + "\n" + before, []string{c.want}})
	}
	check(t, single, tests)
}

func TestFirstPacket(t *testing.T) {
	network := func(text string) config.Network { return mustParse(t, text).Networks[0] }
	if w := network(single); w.FirstPacket != config.FirstPacketPass {
		t.Errorf("by default %q", w.FirstPacket)
	}
	if w := network(withNetwork("first_packet: hold")); w.FirstPacket != config.FirstPacketHold {
		t.Errorf("%q", w.FirstPacket)
	}
	if mustParse(t, withNetwork("first_packet: pass")).Hash() != mustParse(t, single).Hash() {
		t.Error("what is said of the default changes the hash")
	}
	if mustParse(t, withNetwork("first_packet: hold")).Hash() == mustParse(t, single).Hash() {
		t.Error("the hash does not tell")
	}
	const before = "    uplink: wan\n"
	check(t, single, []spoil{
		{"word", before, "    first_packet: keep\n" + before, []string{`18 networks[0].first_packet: must be pass or hold, but is "keep"`}},
		{"contradiction", before, "    first_packet: hold\n    replicate: false\n" + before, []string{
			`18 networks[0].first_packet: hold waits until the BACKUP knows a flow, but replicate is false; remove one of the two keys`,
		}},
	})
}
