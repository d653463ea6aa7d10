package config_test

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"tandem/router/config"
)

const referencePath = "../../docs/reference.yaml"

func reference(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustParse(t testing.TB, text string) *config.Document {
	t.Helper()
	doc, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatalf("refused:\n%v\ntext:\n%s", err, text)
	}
	return doc
}

func TestReferenceIsAccepted(t *testing.T) {
	doc := mustParse(t, string(reference(t)))
	if doc.Group != "edge" || len(doc.Members) != 2 || len(doc.Uplinks) != 2 || len(doc.Networks) != 3 {
		t.Errorf("unexpected document: %+v", doc)
	}
	if got := doc.Uplinks[0].Ports["bravo"].Address.String(); got != "198.51.100.3" {
		t.Errorf("bravo's address on the uplink is %s", got)
	}
}

// Every key of the Go types stands in the reference, and nothing else.
func TestReferenceHasEveryKey(t *testing.T) {
	var text map[string]any
	if err := yaml.Unmarshal(reference(t), &text); err != nil {
		t.Fatal(err)
	}
	got, want := map[string]bool{}, map[string]bool{}
	keysOfText("", text, got)
	keysOfType("", reflect.TypeFor[config.Document](), want)
	// Types are shared by places that do not take all of their keys.
	for _, key := range []string{".ha_link.ports.*.ipv6", ".ha_link.ports.*.link_local", ".second_ha_link.ports.*.ipv6", ".second_ha_link.ports.*.link_local", ".networks.ipv6.addresses", ".networks.ipv6.translate", ".networks.ipv6.npt_prefix"} {
		delete(want, key)
	}
	// A route's probe is like a network's.
	again := func(key string, _ bool) bool { return strings.HasPrefix(key, ".networks.routes.probe.") }
	maps.DeleteFunc(want, again)
	maps.DeleteFunc(got, again)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys of the types (-) and of the reference (+):\n%s", diff)
	}
}

func keysOfText(path string, value any, keys map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if key == "alpha" || key == "bravo" || strings.HasSuffix(path, ".nat_addresses") {
				key = "*"
			}
			keys[path+"."+key] = true
			keysOfText(path+"."+key, inner, keys)
		}
	case []any:
		for _, inner := range value {
			keysOfText(path, inner, keys)
		}
	}
}

func keysOfType(path string, typ reflect.Type, keys map[string]bool) {
	switch typ.Kind() { //nolint:exhaustive // the other kinds have no keys
	case reflect.Pointer, reflect.Slice:
		keysOfType(path, typ.Elem(), keys)
	case reflect.Map:
		keys[path+".*"] = true
		keysOfType(path+".*", typ.Elem(), keys)
	case reflect.Struct:
		typ = config.FormOf(typ)
		for i := range typ.NumField() {
			// The addresses of netip are structs without tags.
			if key := typ.Field(i).Tag.Get("yaml"); key != "" {
				keys[path+"."+key] = true
				keysOfType(path+"."+key, typ.Field(i).Type, keys)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	doc := mustParse(t, `
version: 1
group: g
members:
  - {name: a, public_key: "`+keyA+`"}
  - {name: b, public_key: "`+keyB+`"}
ha_link: {vrid: 1, prefix: 10.9.0.0/31, ports: {a: {interface: e0, address: 10.9.0.0}, b: {interface: e0, address: 10.9.0.1}}}
uplinks:
  - {name: w, vrid: 2, prefix: 10.8.0.0/29, gateway: 10.8.0.1, addresses: [10.8.0.2, 10.8.0.3],
     ports: {a: {interface: e1, address: 10.8.0.4}, b: {interface: e1, address: 10.8.0.5}}}
networks:
  - {name: n, vrid: 3, prefix: 10.7.0.0/29, gateway: 10.7.0.1, uplink: w,
     ports: {a: {interface: e2, address: 10.7.0.4}, b: {interface: e2, address: 10.7.0.5}}}
`)
	if doc.Election.AdvertisementInterval != 100*time.Millisecond || doc.Election.Preempt {
		t.Errorf("election: %+v", doc.Election)
	}
	if doc.Members[0].Priority != 200 || doc.Members[1].Priority != 180 {
		t.Errorf("priorities: %d, %d", doc.Members[0].Priority, doc.Members[1].Priority)
	}
	if doc.HALink.Port != config.DefaultPort {
		t.Errorf("port: %d", doc.HALink.Port)
	}
	w := doc.Networks[0]
	if got := w.NATAddresses["w"].String(); got != "10.8.0.2" || !slices.Equal(w.Uplinks, []string{"w"}) || w.Uplink != "" || w.NATAddress.IsValid() {
		t.Errorf("uplinks: %+v", w)
	}
	if w.Failback != config.FailbackDrain || w.DrainTime != config.DefaultDrainTime || w.MaxCost != config.DefaultMaxCost {
		t.Errorf("choice of uplinks: %+v", w)
	}
	if diff := cmp.Diff(config.DefaultProbe(), w.Probe); diff != "" {
		t.Errorf("probe:\n%s", diff)
	}
	open := config.AccessList{Default: config.Allow}
	if diff := cmp.Diff(config.Access{Ingress: open, Egress: open}, w.Access); diff != "" {
		t.Errorf("access:\n%s", diff)
	}
}
