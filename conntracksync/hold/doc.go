// Package hold is pure: it decides how long the first packets of new flows wait for
// the BACKUP to know their flow.
//
// The packets themselves wait in the kernel, in the order of their numbers
// (package nfqueue). A packet leaves once the BACKUP has acknowledged all that the
// kernel had reported before it, or when its time is up.
package hold
