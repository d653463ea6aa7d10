// Package peer is an adapter: it is the authenticated and encrypted channel over
// which the two nodes of a pair exchange replication frames.
//
// Each node has an ECDSA P-256 key whose public half stands in the document. Both
// ends of a TLS 1.3 connection prove theirs and accept exactly the one that the
// document names. Names, authorities and validity periods play no part, so that
// no clock does either.
package peer
