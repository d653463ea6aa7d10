// Package status is pure: it holds what a node says about itself, in the form in
// which the API, the command line and the tests exchange it, and turns it into
// text for people.
package status
