// Package consult is a shell: it runs a whole examination, from this machine to the
// conversation with the doctor on the peer.
//
// The two doctors meet over the HA link, on the port after the document's, in the
// channel that replication uses: TLS 1.3 with the members' pinned keys. There they
// agree on what to test and walk through it in step.
package consult
