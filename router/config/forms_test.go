package config_test

import (
	"reflect"
	"strings"
	"testing"

	"tandem/router/config"
)

// Every field of the types that are written in another form counts in the hash.
func TestFormsForgetNothing(t *testing.T) {
	s := lan("forwards: [{protocol: tcp, port: 1-9, to: 10.0.0.9:1, address: 192.0.2.10}]\nprobe: {targets: [{http: http://203.0.113.1/}, {tcp: 203.0.113.1:1}]}")
	text := strings.Replace(twoWays, s.old, s.new, 1)
	before := mustParse(t, text).Hash()
	forward := func(d *config.Document) reflect.Value { return reflect.ValueOf(&d.Networks[0].Forwards[0]).Elem() }
	target := func(index int) func(*config.Document) reflect.Value {
		return func(d *config.Document) reflect.Value {
			return reflect.ValueOf(&d.Networks[0].Probe.Targets[index]).Elem()
		}
	}
	for i := range reflect.TypeFor[config.Forward]().NumField() {
		checkFieldCounts(t, mustParse(t, text), before, forward, i)
	}
	for i := range reflect.TypeFor[config.Target]().NumField() {
		of := target(0)
		if reflect.TypeFor[config.Target]().Field(i).Name == "Port" {
			of = target(1)
		}
		checkFieldCounts(t, mustParse(t, text), before, of, i)
	}
}

func checkFieldCounts(t *testing.T, doc *config.Document, before string, of func(*config.Document) reflect.Value, index int) {
	t.Helper()
	field := of(doc).Field(index)
	switch field.Kind() { //nolint:exhaustive // the other kinds do not occur
	case reflect.String:
		field.SetString("udp")
	case reflect.Uint16:
		field.SetUint(field.Uint() + 1)
	case reflect.Int:
		field.SetInt(204)
	case reflect.Slice:
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
	case reflect.Struct:
		field.SetZero()
	default:
		t.Fatalf("no other value of kind %v", field.Kind())
	}
	if doc.Hash() == before {
		t.Errorf("the field %s of %v does not count", of(doc).Type().Field(index).Name, of(doc).Type())
	}
}
