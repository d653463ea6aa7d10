// Package router is pure: it turns the document and the identity of a node into
// the state that the node's kernel must be in.
//
// The same [Intent] holds for MASTER and BACKUP. What differs is only whether
// the lease in the fence is open, and that is decided by the adverts (see
// packages vrrp and fence), so a takeover changes nothing here.
package router
