package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Member returns the member of that name.
func (d *Document) Member(name string) (Member, bool) {
	for _, m := range d.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Peer returns the other member of the pair that the named member belongs to.
// There is none if the group has a single member or the name is unknown.
func (d *Document) Peer(name string) (Member, bool) {
	if _, ok := d.Member(name); !ok {
		return Member{}, false
	}
	for _, m := range d.Members {
		if m.Name != name {
			return m, true
		}
	}
	return Member{}, false
}

// JSON returns the canonical form of the document: one line of JSON that [Parse]
// reads back as the same document. Keys stand in the order of the fields, and the
// defaults are written out: false and 0 are values like others. Left out is only what
// is not there, an empty text or list and an address that is none.
func (d *Document) JSON() []byte {
	return appendCanonical(nil, reflect.ValueOf(*d))
}

// Hash returns the SHA-256 of [Document.JSON] in hexadecimal digits. Two texts
// that mean the same have the same hash, whatever their comments, the order of
// their keys and whether they are YAML or JSON. The order of lists counts.
func (d *Document) Hash() string {
	sum := sha256.Sum256(d.JSON())
	return hex.EncodeToString(sum[:])
}

// appendCanonical follows the yaml tags by reflection: a field that is added to
// the document cannot be forgotten in its hash.
func appendCanonical(b []byte, v reflect.Value) []byte {
	switch value := v.Interface().(type) {
	case former:
		return appendCanonical(b, reflect.ValueOf(value.form()))
	case fmt.Stringer: // a duration, an address and what else is one text
		return appendString(b, value.String())
	}
	switch v.Kind() { //nolint:exhaustive // the other kinds do not occur in a Document
	case reflect.Pointer:
		return appendCanonical(b, v.Elem())
	case reflect.Struct:
		return appendStruct(b, v)
	case reflect.Slice:
		b = append(b, '[')
		for i := range v.Len() {
			b = appendCanonical(separate(b, i), v.Index(i))
		}
		return append(b, ']')
	case reflect.Map:
		b = append(b, '{')
		keys := slices.SortedFunc(slices.Values(v.MapKeys()), func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
		for i, key := range keys {
			b = append(appendString(separate(b, i), key.String()), ':')
			b = appendCanonical(b, v.MapIndex(key))
		}
		return append(b, '}')
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Int:
		return strconv.AppendInt(b, v.Int(), 10)
	case reflect.Uint8, reflect.Uint16:
		return strconv.AppendUint(b, v.Uint(), 10)
	default:
		panic(fmt.Sprintf("config: no canonical form for %v", v.Type()))
	}
}

func appendStruct(b []byte, v reflect.Value) []byte {
	b = append(b, '{')
	written := 0
	for i := range v.NumField() {
		field := v.Field(i)
		if absent(field) {
			continue
		}
		b = append(appendString(separate(b, written), v.Type().Field(i).Tag.Get("yaml")), ':')
		b = appendCanonical(b, field)
		written++
	}
	return append(b, '}')
}

// absent tells whether a field has no value. A number or a truth value always has one.
func absent(field reflect.Value) bool {
	switch field.Kind() { //nolint:exhaustive // the other kinds always have a value
	case reflect.Pointer, reflect.String, reflect.Uint64: // the last is a rate, of which zero is none
		return field.IsZero()
	case reflect.Struct: // of the structs, only netip's have no exported fields
		return field.IsZero() && !field.Type().Field(0).IsExported()
	case reflect.Slice, reflect.Map:
		return field.Len() == 0
	default:
		return false
	}
}

func separate(b []byte, index int) []byte {
	if index > 0 {
		b = append(b, ',')
	}
	return b
}

func appendString(b []byte, text string) []byte {
	// Marshalling a string cannot fail.
	quoted, _ := json.Marshal(text)
	return append(b, quoted...)
}
