package config

import "reflect"

// FormOf returns the type that a type of the document is written by: its own, if that is all.
func FormOf(typ reflect.Type) reflect.Type {
	if value, ok := reflect.Zero(typ).Interface().(former); ok {
		return reflect.TypeOf(value.form())
	}
	return typ
}
