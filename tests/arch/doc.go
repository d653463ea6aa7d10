// Package arch holds the rules of the project's architecture, as tests. Each
// rule says why it exists when it is broken, and has a test of its own on a
// fixture that breaks it.
package arch
