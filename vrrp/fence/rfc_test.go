package fence_test

import (
	"bytes"
	"net/netip"
	"testing"
)

// The tests of this file are named by sections of RFC 9568. The fence is what keeps
// a BACKUP to its MUST NOTs: it has all that a MASTER has, and no lease.

// answers are the frames of the virtual router to a neighbour that asks for its
// addresses, in all ways.
func (s *segment) answers(t *testing.T, ask func(to [6]byte, a netip.Addr) []byte) [][]byte {
	t.Helper()
	for _, a := range s.vips {
		for _, to := range [][6]byte{allMAC, a0MAC, s.mac()} {
			send(t, s.b0, ask(to, a))
		}
	}
	var list [][]byte
	for _, f := range s.wireFrames(t) {
		if speaks(f) && [6]byte(f[:6]) == b0MAC {
			list = append(list, f)
		}
	}
	return list
}

func TestRFC9568_6_4_2_BackupDoesNotAnswerARP(t *testing.T) {
	for _, m := range []mode{modes()[0], modes()[2]} {
		s := newSegment(t, m)
		if got := s.answers(t, s.resolve); len(got) > 0 {
			t.Errorf("%s: %d answers, the first is %x", m.name, len(got), got[0])
		}
	}
}

func TestRFC9568_6_4_3_MasterAnswersARPWithTheVirtualMAC(t *testing.T) {
	s := newSegment(t, modes()[0])
	s.hold(t)
	got := s.answers(t, s.resolve)
	if len(got) == 0 {
		t.Error("no answer")
	}
	for _, f := range got {
		if [6]byte(f[6:12]) != vmac || f[13] == 6 && [6]byte(f[22:28]) != vmac {
			t.Errorf("an answer with another MAC address: %x", f)
		}
	}
}

func TestRFC9568_6_4_2_BackupDoesNotAnswerNeighborSolicitations(t *testing.T) {
	for _, m := range []mode{modes()[1], modes()[3]} {
		s := newSegment(t, m)
		if got := s.answers(t, s.resolve); len(got) > 0 {
			t.Errorf("%s: %d answers, the first is %x", m.name, len(got), got[0])
		}
	}
}

func TestRFC9568_6_4_3_MasterAnswersNeighborSolicitationsWithTheVirtualMAC(t *testing.T) {
	s := newSegment(t, modes()[1])
	s.hold(t)
	found := 0
	for _, f := range s.answers(t, s.resolve) {
		if [6]byte(f[6:12]) != vmac6 {
			t.Errorf("an answer with another MAC address: %x", f)
		}
		if f[54] != 136 {
			continue
		}
		const router, solicited = 0x80, 0x40
		if f[58]&(router|solicited) != router|solicited {
			t.Errorf("flags %x: not both those of a router and of an answer", f[58])
		}
		// An answer to a unicast solicitation may do without (RFC 4861 §4.4).
		if option := f[78:]; len(option) > 0 {
			found++
			if !bytes.HasPrefix(option, append([]byte{2, 1}, vmac6[:]...)) {
				t.Errorf("target link-layer address option %x", option)
			}
		}
	}
	if found == 0 {
		t.Error("no neighbour advertisement with a link-layer address")
	}
}

func TestRFC9568_6_4_2_BackupSendsNoRouterAdvertisement(t *testing.T) {
	for _, m := range []mode{modes()[1], modes()[3]} {
		s := newSegment(t, m)
		frame := routerAdvertisement(s.mac(), vipLL)
		send(t, s.port, frame)
		if s.onWire(t, frame) {
			t.Errorf("%s: it leaves", m.name)
		}
	}
}

func TestRFC9568_6_4_3_MasterSendsRouterAdvertisements(t *testing.T) {
	for _, m := range []mode{modes()[1], modes()[3]} {
		s := newSegment(t, m)
		s.hold(t)
		frame := routerAdvertisement(s.mac(), vipLL)
		send(t, s.port, frame)
		if !s.onWire(t, frame) {
			t.Errorf("%s: it does not leave", m.name)
		}
	}
}

// forwards tells whether a frame to the virtual MAC address reaches what the node
// forwards to.
func (s *segment) forwards(t *testing.T, expected bool) bool {
	t.Helper()
	source, beyond := s.sourceAndForeign(t)
	return s.heard(t, s.listener(t, s.ipv6), s.mac(), source, beyond, expected)
}

func TestRFC9568_6_4_2_BackupDiscardsFramesToTheVirtualMAC(t *testing.T) {
	for _, m := range modes()[:2] {
		if s := newSegment(t, m); s.forwards(t, false) {
			t.Errorf("%s: a frame to the virtual MAC address is heard", m.name)
		}
	}
}

func TestRFC9568_6_4_3_MasterHearsFramesToTheVirtualMAC(t *testing.T) {
	for _, m := range modes()[:2] {
		s := newSegment(t, m)
		s.hold(t)
		if !s.forwards(t, true) {
			t.Errorf("%s: a frame to the virtual MAC address is not heard", m.name)
		}
	}
}

func TestRFC9568_6_4_2_BackupAcceptsNoPacketsToVirtualAddresses(t *testing.T) {
	for _, m := range modes() {
		s := newSegment(t, m)
		listener := s.listener(t, m.ipv6)
		source, _ := s.sourceAndForeign(t)
		for _, to := range [][6]byte{s.mac(), a0MAC} {
			if s.heard(t, listener, to, source, s.vips[len(s.vips)-1], false) {
				t.Errorf("%s: a packet to a virtual address at %x is heard", m.name, to)
			}
		}
	}
}

// A BACKUP is silent for the virtual router alone: it is found and reached by its own
// address, and it hears adverts, by which it stays BACKUP.
func TestRFC9568_6_4_2_BackupIsReachableByItsOwnAddress(t *testing.T) {
	for _, m := range modes()[:2] {
		s := newSegment(t, m)
		if !s.heard(t, s.listener(t, m.ipv6), a0MAC, s.far, s.own, true) {
			t.Errorf("%s: a packet to the own address is not heard", m.name)
		}
		advert, answers, adverts := s.advert(255, 200), 0, 0
		for range 20 { // a busy machine may lose one
			send(t, s.b0, s.resolve(a0MAC, s.own))
			answers += count(s.wireFrames(t), func(f []byte) bool { return [6]byte(f[6:12]) == a0MAC && [6]byte(f[:6]) == b0MAC })
			send(t, s.b0, advert)
			adverts += count(collect(t, s.parent, quiet), func(f []byte) bool { return bytes.HasPrefix(f, advert) })
			if answers > 0 && adverts > 0 {
				break
			}
		}
		if answers == 0 || adverts == 0 {
			t.Errorf("%s: %d answers for the own address, %d adverts of a MASTER heard", m.name, answers, adverts)
		}
	}
}

func TestRFC9568_6_4_3_MasterAcceptsPacketsToVirtualAddresses(t *testing.T) {
	for _, m := range modes() {
		s := newSegment(t, m)
		s.hold(t)
		source, _ := s.sourceAndForeign(t)
		if !s.heard(t, s.listener(t, m.ipv6), s.mac(), source, s.vips[len(s.vips)-1], true) {
			t.Errorf("%s: a packet to a virtual address is not heard", m.name)
		}
	}
}

func TestRFC9568_8_1_2_ThePhysicalMACNeverAnswersARP(t *testing.T) {
	s := newSegment(t, modes()[0])
	s.hold(t)
	// As careless as Linux is by default: without the fence the parent would answer.
	in(t, s.node, func() error { return sysctl("ipv4/conf/a0/arp_ignore", "0") })
	for _, f := range s.answers(t, s.resolve) {
		if !virtualMAC(f) {
			t.Errorf("the physical MAC address answers: %x", f)
		}
	}
	// That the parent does answer without a fence is what makes the test one.
	if err := s.fence.Remove(group); err != nil {
		t.Fatal(err)
	}
	physical := func(f []byte) bool { return !virtualMAC(f) }
	if count(s.answers(t, s.resolve), physical) == 0 {
		t.Error("without a fence the physical MAC address does not answer either, so this proves nothing")
	}
}

func TestRFC9568_8_2_2_ThePhysicalMACNeverAnswersNeighborSolicitations(t *testing.T) {
	s := newSegment(t, modes()[1])
	s.hold(t)
	// The parent answers for an address of its own and for one that it is a proxy of.
	proxy := func() error {
		if err := sysctl("ipv6/conf/a0/proxy_ndp", "1"); err != nil {
			return err
		}
		return s.address("a0", netip.PrefixFrom(vip6, 128))
	}
	in(t, s.node, proxy)
	physical := func(f []byte) bool { return !virtualMAC(f) }
	if n := count(s.answers(t, s.resolve), physical); n > 0 {
		t.Errorf("the physical MAC address answers %d times", n)
	}
	if err := s.fence.Remove(group); err != nil {
		t.Fatal(err)
	}
	if count(s.answers(t, s.resolve), physical) == 0 {
		t.Error("without a fence the physical MAC address does not answer either, so this proves nothing")
	}
}

// A solicitation by the MASTER, for a host, carries the virtual MAC address.
func TestRFC9568_8_2_2_SolicitationsCarryTheVirtualMAC(t *testing.T) {
	s := newSegment(t, modes()[1])
	s.hold(t)
	s.lookUp(t)
	found := 0
	for _, f := range s.wireFrames(t) {
		if f[20] != 58 || f[54] != 135 || !isVirtual(netip.AddrFrom16([16]byte(f[22:38]))) {
			continue
		}
		found++
		if [6]byte(f[6:12]) != vmac6 || !bytes.HasPrefix(f[78:], append([]byte{1, 1}, vmac6[:]...)) {
			t.Errorf("a solicitation with another MAC address: %x", f)
		}
	}
	if found == 0 {
		t.Error("no solicitation in the name of a virtual address")
	}
	// One with the physical MAC address does not leave.
	group, mac := solicitedNode(far6)
	for _, source := range s.vips {
		frame := solicitation(mac, a0MAC, source, group, far6)
		send(t, s.parent, frame)
		if s.onWire(t, frame) {
			t.Errorf("a solicitation from %s with the physical MAC address leaves", source)
		}
	}
}

// Until all of a virtual router is there, and it is MASTER, nothing is said for it.
func TestRFC9568_8_1_2_NoARPBeforeTheVirtualRouterStands(t *testing.T) { bornSilent(t, modes()[0]) }

func TestRFC9568_8_2_2_NoNeighborDiscoveryBeforeTheVirtualRouterStands(t *testing.T) {
	bornSilent(t, modes()[1])
}

func bornSilent(t *testing.T, m mode) {
	t.Helper()
	s := newSegment(t, m)
	if found := kinds(s.provoked(t)); len(found) > 0 {
		t.Errorf("before the first advert: %v", found)
	}
	send(t, s.port, s.advert(255, 100))
	first := s.wireFrames(t)
	for _, f := range first {
		if speaks(f) {
			if !bytes.HasPrefix(f, s.advert(255, 100)) {
				t.Errorf("the first frame of the virtual router is no advert: %x", f)
			}
			return
		}
	}
	t.Error("the advert does not leave")
}

// No BACKUP takes part in duplicate address detection, neither to defend nor to ask.
func TestRFC9568_8_2_2_BackupIgnoresDuplicateAddressDetection(t *testing.T) {
	for _, m := range []mode{modes()[1], modes()[3]} {
		s := newSegment(t, m)
		detect := func() int {
			for _, a := range s.vips {
				group, mac := solicitedNode(a)
				send(t, s.b0, solicitation(mac, b0MAC, nowhere6, group, a))
			}
			return count(s.wireFrames(t), speaks)
		}
		if n := detect(); n > 0 {
			t.Errorf("%s: a BACKUP answers %d times", m.name, n)
		}
		s.hold(t)
		if detect() == 0 {
			t.Errorf("%s: a MASTER does not defend its addresses, so this proves nothing", m.name)
		}
	}
}
