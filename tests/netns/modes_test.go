package netns

import (
	"fmt"
	"testing"
	"time"

	"tandem/appliance/lab"
)

// mode is a way in which adverts travel and addresses are held.
type mode struct {
	name string
	opts lab.Options
	// faults are what it goes through.
	faults []lab.Fault
}

func modes() []mode {
	both := func(line string) lab.Options { return lab.Options{LAN: []string{line}, WAN: []string{line}} }
	dual := func(line string) lab.Options {
		o := both(line)
		o.IPv6 = true
		return o
	}
	all := []lab.Fault{lab.Poweroff, lab.Crash, lab.Hang, lab.LAN, lab.Handover}
	some := []lab.Fault{lab.Poweroff, lab.Handover}
	slow := both("vrrp: {version: 2}")
	slow.Interval = time.Second
	return []mode{
		{"dual-stack", lab.Options{IPv6: true}, all},
		{"dual-stack, own MAC", dual("vrrp: {virtual_mac: false}"), all},
		{"dual-stack, unicast", dual("vrrp: {unicast: true}"), all},
		{"dual-stack, own MAC, unicast, signed", dual("vrrp: {virtual_mac: false, unicast: true, authentication: true}"), all},
		{"dual-stack, signed", dual("vrrp: {authentication: true}"), some},
		{"pseudo-header checksums", both("vrrp: {checksum: pseudo-header}"), some},
		{"version 2", slow, some},
	}
}

// TestModes breaks a pair in every mode: what holds for virtual MAC addresses and
// multicast over IPv4 holds for the others.
func TestModes(t *testing.T) {
	for _, m := range modes() {
		t.Run(m.name, func(t *testing.T) {
			s := newPairOf(t, m.opts)
			loads := []*load{s.traffic(lightLoad())}
			if m.opts.IPv6 {
				loads = append(loads, s.traffic6(lightLoad()))
			}
			for _, fault := range m.faults {
				passed := t.Run(fmt.Sprint(fault), func(t *testing.T) {
					on := s.on(t)
					on.survive(fault, m, loads)
				})
				if !passed {
					return // what follows would fail for the same reason
				}
			}
		})
	}
}

// survive breaks the MASTER and heals it, and looks at all the traffic.
func (s *stand) survive(fault lab.Fault, m mode, loads []*load) {
	s.t.Helper()
	master, backup := s.roles()
	if fault == lab.Handover {
		s.healthy(backup)
	}
	before := s.status(backup)
	for _, flows := range loads {
		flows.on(s).mark()
	}
	at := s.inject(fault, master)
	s.becomes(backup, roleMaster)
	for _, flows := range loads {
		flows.on(s).resumes(at)
	}
	bound := faultSilence(fault, before.Priority)
	if m.opts.Interval > interval {
		bound += 4 * m.opts.Interval
	}
	for _, flows := range loads {
		flows.on(s).within(bound)
	}
	s.heal(fault, master)
	s.ready()
	for _, flows := range loads {
		flows.on(s).report()
	}
}
