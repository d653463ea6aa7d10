// Package conntracksync is pure: it keeps the connection-tracking tables of two
// kernels equal.
//
// A [Sender] turns kernel events and dumps of the MASTER into sequenced frames,
// a [Receiver] turns frames into operations on the BACKUP's kernel table. The
// BACKUP's kernel table is the replica; nothing is committed at a takeover.
package conntracksync
