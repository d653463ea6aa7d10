// Package examine is an adapter: it measures this machine, its interfaces and its
// segments for tandem/appliance/doctor, which judges.
//
// It changes nothing that a running node keeps. Features of the kernel are tried in a
// network namespace of their own, which ends with the process; test frames are none
// that a VRRP router could take for an advertisement.
package examine
