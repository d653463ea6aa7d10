package config

import (
	"fmt"
	"time"
)

func validateElection(doc *Document, r *report) {
	if e := doc.Election; e.PreemptDelay > 0 && !e.Preempt && !r.faulty("election.preempt") {
		r.add("election.preempt_delay", "delays a preemption that never happens; set preempt to true or remove this key")
	}
}

// validateVRRP checks what of VRRP goes together on a segment.
func validateVRRP(doc *Document, s segment, r *report) {
	v, at := s.vrrp, s.path+".vrrp"
	if v.Version == 2 {
		validateVersion2(doc, s, r)
	}
	if len(doc.Members) != 1 {
		return
	}
	const alone = "needs two members, and the document has a single one; remove this key"
	if v.Unicast {
		r.add(at+".unicast", alone)
	}
	if v.Authentication {
		r.add(at+".authentication", alone)
	}
}

// validateVersion2 refuses what RFC 3768 does not know.
func validateVersion2(doc *Document, s segment, r *report) {
	at := s.path + ".vrrp"
	if interval := doc.Election.AdvertisementInterval; interval%time.Second != 0 {
		r.add(at+".version", fmt.Sprintf("2 counts whole seconds, but the advertisement_interval is %s; set that to 1s or more, or use version 3", interval))
	}
	if s.ipv6 != nil {
		r.add(at+".version", "2 carries IPv4 only; remove the segment's key ipv6 or use version 3")
	}
	if s.vrrp.Checksum == ChecksumPseudoHeader {
		r.add(at+".checksum", "pseudo-header is a matter of version 3; remove this key or use version 3")
	}
	if s.vrrp.Authentication {
		r.add(at+".authentication", "needs version 3; remove this key or use version 3")
	}
}
