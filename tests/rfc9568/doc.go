// Package rfc9568 is a test: it holds a table of the points of RFC 9568, each with the
// tests that show that Tandem keeps it and those that show what must not happen, and
// of Tandem's deviations. A point without both kinds of test, a test that is gone and
// one that the table forgets break the build. docs/rfc9568.md is made of the table.
package rfc9568
