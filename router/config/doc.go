// Package config is pure: it holds the one document that describes a pair of
// routers, its strict decoding and its validation.
//
// The document is YAML or JSON and the same on both nodes. Decoding refuses
// unknown keys, values of the wrong kind and contradictions, all at once, each
// with its path and line.
package config
