// Package uplink is pure: it selects, for each network and each of its routes, the uplink
// that new flows take. Results of probes and the state of links go in; a [Selection], what is to
// be done with the flows of an uplink that was left, and the evidence come out.
package uplink
