// Package doctor is pure: it judges what was measured of a machine, its network and
// its peer, and says in one sentence each what is well, what is not and what to do.
//
// Measuring is for others: tandem/appliance/doctor/examine looks at this machine and
// its segments, tandem/appliance/doctor/consult meets the doctor on the peer.
package doctor
